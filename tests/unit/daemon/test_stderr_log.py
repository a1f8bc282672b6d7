"""The log: one line an event, whatever a client sends, and no error from where it goes."""

import json
import os
import re
import resource
import signal
from pathlib import Path

import pytest

from fastbean.daemon.stderr_log import (
    LINE_BYTES,
    Log,
    complain,
    format_json,
    format_line,
    silent,
    write_at_once,
    write_text,
)


class Sink:
    """A pipe: a log writes ``into`` it, and ``take`` takes out what is there."""

    def __init__(self):
        self.out, self.into = os.pipe()
        os.set_blocking(self.out, False)

    def take(self):
        try:
            return os.read(self.out, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def sink():
    made = Sink()
    yield made
    os.close(made.out)
    os.close(made.into)


def test_a_line_has_time_level_event_and_fields(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    line = format_line(1_795_295_400_123_456_789, "INFO", "listening", {"address": "127.0.0.1:11300", "n": 3})
    assert re.sub(r"[+-]\d{4} ", "+0000 ", line[10:]).endswith(".123+0000 INFO listening address=127.0.0.1:11300 n=3\n")
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} INFO ", line)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"),
        ("put 0 0 1 1", "'put 0 0 1 1'"),
        ("", "''"),
        ("a\r\nFAKE", "'a\\r\\nFAKE'"),
        ('a"b', "'a\"b'"),
        ("a=b", "'a=b'"),
        ("\x1b[31m", "'\\x1b[31m'"),
        ("\xff", "'\\xff'"),
        ("\udcff", "'\\udcff'"),
    ],
)
def test_odd_values_are_quoted(value, shown):
    assert format_line(0, "DEBUG", "command", {"text": value}).endswith(f" DEBUG command text={shown}\n")


def test_a_log_writes_each_event_at_once():
    out, into = os.pipe()
    try:
        log = Log(into, wall_ns=lambda: 0)
        log("INFO", "one", fd=7)
        log("WARNING", "two")
        lines = os.read(out, 4096).decode().splitlines()
    finally:
        os.close(into)
        os.close(out)
    assert [line.split(" ", 1)[1] for line in lines] == ["INFO one fd=7", "WARNING two"]


def test_a_reader_that_is_gone_is_no_error():
    out, into = os.pipe()
    os.close(out)
    try:
        assert write_text(into, "nobody reads this\n") is None
    finally:
        os.close(into)
    assert Log(into)("INFO", "the descriptor is closed") is None


def test_the_silent_log_takes_everything():
    assert silent("INFO", "anything", field=1) is None


def test_a_line_of_json_is_one_object_with_time_level_event_and_fields():
    line = format_json(1_700_000_000_123_456_789, "INFO", "binlog-open", {"jobs": 3, "directory": Path("/a b")})
    assert line.endswith("}\n")
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.123Z",
        "level": "INFO",
        "event": "binlog-open",
        "jobs": 3,
        "directory": "/a b",
    }


ODD = [
    bytes(range(256)).decode("latin-1"),
    "\u2028\u2029\x85\x0b",
    "\udcff\ud800",
    "\U0001f600",
    "\r\nINFO fake",
    "\x1b[2J\0",
]


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_whatever_a_client_sends_stays_one_line_of_printable_ascii(form, odd, sink):
    Log(sink.into, form=form)("DEBUG", "command", fd=7, text=odd)
    (line,) = sink.take().decode("ascii").splitlines()
    assert line.isprintable()
    if form == "json":
        assert json.loads(line)["text"] == odd


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_long_line_is_cut_in_its_longest_field(form, sink):
    Log(sink.into, form=form)("INFO", "long", short="stays", long="\U0001f600" * 10_000)
    data = sink.take()
    assert data.endswith(b"\n")
    assert len(data) <= LINE_BYTES
    assert b"..." in data
    assert b"stays" in data


@pytest.mark.parametrize(
    ("level", "written"),
    [("debug", "DIWE"), ("info", "IWE"), ("warning", "WE"), ("error", "E")],
)
def test_what_is_below_the_level_is_not_written(level, written, sink):
    log = Log(sink.into, level=level)
    for each in ("DEBUG", "INFO", "WARNING", "ERROR"):
        log(each, "something")
    assert "".join(line.split()[1][0] for line in sink.take().decode().splitlines()) == written


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_pipe_that_nobody_reads_loses_lines_and_tells_how_many(form, sink):
    log = Log(sink.into, form=form)
    for number in range(5_000):
        log("INFO", "line", number=number, filling="x" * 50)
    lines = sink.take().decode().splitlines()
    assert 100 < len(lines) < 5_000
    log("INFO", "again")
    lost, again = sink.take().decode().splitlines()
    assert f"{5_000 - len(lines)}" in lost.partition("lines-lost")[2]
    assert "again" in again
    log("INFO", "more")
    assert "lines-lost" not in sink.take().decode()


def test_a_full_disk_is_no_error():
    with Path("/dev/full").open("wb", buffering=0) as full:
        assert write_at_once(full.fileno(), b"a line\n") == 0
        assert Log(full.fileno())("INFO", "nobody keeps this") is None


def test_half_a_line_is_ended_before_the_next_one(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    path = tmp_path / "log"
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with path.open("wb", buffering=0) as file:
            log = Log(file.fileno(), wall_ns=lambda: 0)
            resource.setrlimit(resource.RLIMIT_FSIZE, (60, hard))
            log("INFO", "first", filling="x" * 100)
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            log("INFO", "second")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    first, lost, second = path.read_text().splitlines()
    assert len(first) == 60
    assert lost.endswith("WARNING lines-lost count=1")
    assert second.endswith("INFO second")


def test_why_the_program_ends_is_one_line_for_a_person(sink):
    complain(sink.into, "unknown flag: --a\nb\x1b[1m\udcff; Grüße")
    assert sink.take() == "fastbean: unknown flag: --a\\nb\\x1b[1m\\udcff; Grüße\n".encode()
