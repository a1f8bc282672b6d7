"""The log: one line an event, whatever a client sends, and no error from where it goes."""

import os
import re

import pytest

from fastbean.logs import Log, format_line, silent, write_text


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
