"""The address of a stream, and the file with its credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastbean.errors import UsageError
from fastbean.replication.stream_url import StreamURL, connection_options, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nats://n1/jobs", StreamURL(["nats://n1:4222"], "jobs", None, 3, None)),
        (
            "nats://n1:1,n2:2,[::1]:3/a-B_9?replicas=1&max-bytes=20G",
            StreamURL(["nats://n1:1", "nats://n2:2", "nats://[::1]:3"], "a-B_9", None, 1, 20 << 30),
        ),
        ("nats://me@n1/jobs?max-bytes=5000", StreamURL(["nats://n1:4222"], "jobs", "me", 3, 5000)),
    ],
)
def test_addresses(text: str, expected: StreamURL) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not the address of a stream"),
        ("n1/jobs", "not the address of a stream"),
        ("postgresql://n1/jobs", "not the address of a stream"),
        ("nats://n1", "the name of the stream is missing"),
        ("nats://n1/", "the name of the stream is missing"),
        ("nats://n1/a.b", "the name of the stream is missing, or has other characters"),
        (f"nats://n1/{'a' * 65}", "the name of the stream is missing"),
        ("nats:///jobs", "the name of a host is missing"),
        ("nats://n1,,n2/jobs", "the name of a host is missing"),
        ("nats://n1:x/jobs", "n1:x is not a host with a port"),
        ("nats://n1:99999/jobs", "n1:99999 is not a host with a port"),
        ("nats://me:secret@n1/jobs", "a password in the URL can be seen by every user of the machine"),
        ("nats://n1/jobs?replicas=6", "replicas=6 is out of range; it must be in 1..5"),
        ("nats://n1/jobs?replicas=x", "replicas=x is not a number"),
        ("nats://n1/jobs?max-bytes=", "max-bytes= is not a number"),
        ("nats://n1/jobs?max-bytes=5P", "max-bytes=5P is not a number, which may end in K, M, G or T"),
        ("nats://n1/jobs?size=1", "size is unknown"),
    ],
)
def test_addresses_that_are_none(text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse(text)
    assert complaint in str(refusal.value)
    assert "secret" not in str(refusal.value)


PLAIN = parse("nats://n1/jobs")
WITH_USER = parse("nats://me@n1/jobs")


def write(directory: Path, text: str, mode: int = 0o600) -> str:
    path = directory / "credentials"
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize(
    ("text", "url", "expected"),
    [
        ('user = "a"\npassword = "b"\n', PLAIN, {"user": "a", "password": "b"}),
        ('token = "t"\n', PLAIN, {"token": "t"}),
        ('password = "b"\n', WITH_USER, {"user": "me", "password": "b"}),
    ],
)
def test_credentials(tmp_path: Path, text: str, url: StreamURL, expected: dict[str, object]) -> None:
    assert connection_options(url, write(tmp_path, text)) == expected


def test_without_credentials() -> None:
    assert connection_options(PLAIN, None) == {}
    assert connection_options(WITH_USER, None) == {"user": "me"}


def test_a_file_of_nsc(tmp_path: Path) -> None:
    path = write(tmp_path, "-----BEGIN NATS USER JWT-----\nabc\n")
    assert connection_options(PLAIN, path) == {"user_credentials": path}


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        ('token = "t"\n', 0o640, "other users can read it; `chmod 600 "),
        ('token = "t"\n', 0o604, "other users can read it"),
        ("token = t\n", 0o600, "Invalid value"),
        ("token = 5\n", 0o600, 'it must have user = "..." and password = "...", or token = "..."'),
        ('user = "a"\n', 0o600, "it must have user"),
        ('password = "a"\n', 0o600, "there is a password, and no user"),
        ("", 0o600, "it must have user"),
    ],
)
def test_credentials_that_are_refused(tmp_path: Path, text: str, mode: int, complaint: str) -> None:
    path = write(tmp_path, text, mode)
    with pytest.raises(UsageError) as refusal:
        connection_options(PLAIN, path)
    assert str(refusal.value).startswith(f"{path}: ")
    assert complaint in str(refusal.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        connection_options(PLAIN, str(tmp_path / "none"))
    (tmp_path / "bytes").write_bytes(b"\xff\xff")
    with pytest.raises(UsageError, match="not a text file"):
        connection_options(PLAIN, str(tmp_path / "bytes"))
