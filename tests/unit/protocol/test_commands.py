"""The tokenizer: what each line means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbean.engine.command_table import parse

U32 = 2**32 - 1
U64 = 2**64 - 1

NO_ARGUMENTS = [
    "peek-ready", "peek-delayed", "peek-buried", "reserve", "stats", "list-tubes", "list-tube-used",
    "list-tubes-watched", "quit",
]  # fmt: skip
ONE_ID = ["peek", "reserve-job", "delete", "kick-job", "touch", "stats-job"]
ONE_TUBE = ["use", "watch", "ignore", "stats-tube"]


@pytest.mark.parametrize("word", NO_ARGUMENTS)
def test_a_command_without_arguments(word: str) -> None:
    assert parse(word.encode()) == (word, "", {})


@pytest.mark.parametrize("word", ONE_ID)
def test_a_command_with_an_id(word: str) -> None:
    assert parse(f"{word} 17".encode()) == (word, "", {"id": 17})
    assert parse(f"{word}    0017".encode()) == (word, "", {"id": 17})
    assert parse(f"{word} {U64}".encode()) == (word, "", {"id": U64})


@pytest.mark.parametrize("word", ONE_ID)
@pytest.mark.parametrize("tail", ["", "x", "+1", "-1", "1 ", "1 2", "1x", str(U64 + 1)])
def test_a_bad_id(word: str, tail: str) -> None:
    assert parse(f"{word} {tail}".encode()) == ("", "BAD_FORMAT", {})


@pytest.mark.parametrize("word", ONE_TUBE)
def test_a_command_with_a_tube(word: str) -> None:
    every_character = b"azAZ09-+/;.$_()"
    assert parse(word.encode() + b" " + every_character) == (word, "", {"name": every_character})
    assert parse(word.encode() + b" " + b"n" * 200) == (word, "", {"name": b"n" * 200})


@pytest.mark.parametrize("word", ONE_TUBE)
@pytest.mark.parametrize("name", [b"", b" a", b"a ", b"a b", b"-a", b"a:b", b"a\tb", b"\xe4", b"n" * 201])
def test_a_bad_tube(word: str, name: bytes) -> None:
    assert parse(word.encode() + b" " + name) == ("", "BAD_FORMAT", {})


def test_put() -> None:
    line = f"put {U32}  {U32} 00 {U32}".encode()
    assert parse(line) == ("put", "", {"pri": U32, "delay_s": U32, "ttr_s": 0, "body_bytes": U32})


@pytest.mark.parametrize(
    "line", [b"put ", b"put 1", b"put 1 2 3", b"put a 2 3 4", b"put 1 2 3 -4", b"put 4294967296 2 3 4"]
)
def test_a_bad_put_is_not_counted(line: bytes) -> None:
    assert parse(line) == ("", "BAD_FORMAT", {})


@pytest.mark.parametrize("tail", [b" ", b"x", b" 5"])
def test_a_put_with_a_tail_is_counted(tail: bytes) -> None:
    assert parse(b"put 1 2 3 4" + tail) == ("put", "BAD_FORMAT", {})


def test_release_and_bury() -> None:
    assert parse(b"release 1 2 3") == ("release", "", {"id": 1, "pri": 2, "delay_s": 3})
    assert parse(b"bury 1 2") == ("bury", "", {"id": 1, "pri": 2})
    for line in (b"release 1 2", b"release 1 2 3 ", b"bury 1", b"bury 1 2 3", b"bury 1 4294967296"):
        assert parse(line) == ("", "BAD_FORMAT", {}), line


@pytest.mark.parametrize(
    ("number", "count"),
    [
        (b"10", 10),
        (b"10abc", 10),
        (b" \t+3", 3),
        (b"-1", U32),
        (b"4294967297", 1),
        (b"-4294967297", U32),
        (b"0", 0),
    ],
)
def test_kick_reads_its_count_as_strtoul_does(number: bytes, count: int) -> None:
    assert parse(b"kick " + number) == ("kick", "", {"count": count})


@pytest.mark.parametrize("number", [b"", b"abc", b"-", b"+-1", b"18446744073709551616"])
def test_a_bad_kick(number: bytes) -> None:
    assert parse(b"kick " + number) == ("", "BAD_FORMAT", {})


def test_reserve_with_timeout_ignores_a_tail_and_ends_at_2_31() -> None:
    assert parse(b"reserve-with-timeout 0 junk") == ("reserve-with-timeout", "", {"timeout_s": 0})
    assert parse(b"reserve-with-timeout 0x") == ("reserve-with-timeout", "", {"timeout_s": 0})
    assert parse(b"reserve-with-timeout 2147483647")[1] == ""
    for number in (b"2147483648", b"-1", b"x", b""):
        assert parse(b"reserve-with-timeout " + number) == ("", "BAD_FORMAT", {}), number


def test_pause_tube_needs_no_blank_and_is_counted_before_its_name_is_looked_at() -> None:
    assert parse(b"pause-tubedefault 0") == ("pause-tube", "", {"name": b"default", "delay_s": 0})
    assert parse(b"pause-tube   a  7") == ("pause-tube", "", {"name": b"a", "delay_s": 7})
    assert parse(b"pause-tube -a 7") == ("pause-tube", "BAD_FORMAT", {})
    assert parse(b"pause-tube " + b"n" * 201 + b" 7") == ("pause-tube", "BAD_FORMAT", {})
    assert parse(b"pause-tube a") == ("", "BAD_FORMAT", {})


@pytest.mark.parametrize(
    "line", [b"statsfoo", b"list-tubesx", b"peek-ready x", b"reserve ", b"reserve-x", b"stats-job"]
)
def test_a_known_beginning_with_a_tail_is_malformed(line: bytes) -> None:
    assert parse(line) == ("", "BAD_FORMAT", {})


@pytest.mark.parametrize(
    "line", [b"", b" ", b"PUT 1 2 3 4", b"put", b"peek", b"delete", b"use", b"kick-job", b"\xff", b"sta"]
)
def test_an_unknown_command(line: bytes) -> None:
    assert parse(line) == ("", "UNKNOWN_COMMAND", {})


def test_quit_takes_any_tail() -> None:
    assert parse(b"quitx") == ("quit", "", {})


def test_a_nul_makes_any_line_malformed() -> None:
    assert parse(b"stats\0") == ("", "BAD_FORMAT", {})
    assert parse(b"\0") == ("", "BAD_FORMAT", {})


def test_a_line_that_no_server_would_get_is_refused() -> None:
    assert parse(b"x" * 222)[1] == "UNKNOWN_COMMAND"
    with pytest.raises(ValueError, match="at most 222"):
        parse(b"x" * 223)


@given(st.binary(max_size=222))
def test_any_line_is_a_command_or_has_a_fault(line: bytes) -> None:
    word, fault, arguments = parse(line)
    assert fault in ("", "BAD_FORMAT", "UNKNOWN_COMMAND")
    assert (fault == "UNKNOWN_COMMAND") <= (word == "")
    assert not (fault and arguments)
    if not fault:
        assert line.startswith(word.encode())


@given(st.integers(0, U64), st.integers(0, U32), st.integers(0, U32))
def test_numbers_come_out_as_they_went_in(id: int, pri: int, delay_s: int) -> None:
    assert parse(b"release %d %d %d" % (id, pri, delay_s)) == (
        "release",
        "",
        {"id": id, "pri": pri, "delay_s": delay_s},
    )
