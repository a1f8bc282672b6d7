"""What `stats` says about the server reads as text in YAML, whatever its name and whichever id was drawn."""

from __future__ import annotations

import os
import random
import re

import pytest
import yaml

from fastbean.engine.identity import is_text, new_instance_id, quoted
from memory_client import MemoryServer

# The numbers of YAML 1.2's core schema, and of 1.1, which PyYAML reads only in part.
NUMBERS = re.compile(
    r"""[-+]?(?:
        0b[01_]+ | 0o?[0-7_]+ | 0x[0-9a-f_]+ | [0-9][0-9_]*(?::[0-5]?[0-9])* (?:\.[0-9_]*)?
      | (?:\.[0-9]+ | [0-9]+(?:\.[0-9]*)?)(?:e[-+]?[0-9]+)?
      | \.inf
    ) | \.nan | nan""",
    re.VERBOSE | re.IGNORECASE,
)


@pytest.mark.parametrize("seed", range(20))
def test_an_id_is_never_read_as_a_number(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", random.Random(seed).randbytes)
    for _ in range(2000):
        digits = new_instance_id()
        assert re.fullmatch("[0-9a-f]{16}", digits)
        assert not NUMBERS.fullmatch(digits)
        assert yaml.safe_load(f"id: {digits}") == {"id": digits}


@pytest.mark.parametrize(
    "digits", ["1234567890123456", "0123456701234567", "1234e56789012345", "12345678901234e5", "0b10101010101010"]
)
def test_an_id_that_reads_as_a_number_is_drawn_again(digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = [bytes.fromhex("0123456789abcdef"), bytes.fromhex(digits)]
    monkeypatch.setattr(os, "urandom", lambda _size: drawn.pop())
    assert NUMBERS.fullmatch(digits)
    assert new_instance_id() == "0123456789abcdef"


@pytest.mark.parametrize("digits", ["123456789012345d", "123456789012345f", "bbbbbbbbeeeeeeee"])
def test_what_only_looks_like_a_number_is_drawn_again_too(digits: str) -> None:
    assert not is_text(digits)


NAMES = ["box", "1.5", "true", 'say "hi"', "back\\slash", "two\nlines", "\x00", "Zürich", "\u2028", "\U000e0001"]


@pytest.mark.parametrize("name", NAMES)
def test_names_from_outside_come_out_of_yaml_as_they_are(name: str) -> None:
    client = MemoryServer(
        version=name, fastbean_version=name, instance_id="a" * 16, hostname=name, os=name, platform=name
    ).client()
    text = client(b"stats\r\n").split(b"\r\n", 1)[1]
    found = yaml.safe_load(text)
    assert {key: found[key] for key in ("version", "fastbean-version", "hostname", "os", "platform")} == dict.fromkeys(
        ("version", "fastbean-version", "hostname", "os", "platform"), name
    )


def test_undecodable_bytes_are_escaped() -> None:
    assert quoted(b"caf\xe9".decode("utf-8", "surrogateescape")) == b"caf\\xe9"


def test_usual_names_are_written_as_beanstalkd_writes_them() -> None:
    usual = "#1 SMP PREEMPT_DYNAMIC Debian 6.1.0-9 (2023-05-08)"
    assert quoted(usual) == usual.encode()
