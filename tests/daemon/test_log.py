"""The log of the process: its form, its level, what a client cannot do to it, and sinks that take nothing more."""

import json
import os
import re
from pathlib import Path

import pytest

from .conftest import fastbean_command

TEXT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} (DEBUG|INFO|WARNING|ERROR) [a-z-]+( [a-z_]+=.*)?")
LINES = 3_000  # more than a pipe holds


def send_odd_bytes(daemon):
    """Everything that could break a line or a terminal, in commands that are answered."""
    client = daemon.connect()
    for odd in (
        bytes(set(range(256)) - {10, 13}),
        b"\xe2\x80\xa8\xc2\x85\x0b\x0c",
        b"\xff\xfe\xc0\x80",
        b"\n\r\n"[:1] + b"x",
    ):
        assert client.ask(odd[:200] + b"\r\n").endswith(b"\r\n")


def test_whatever_clients_send_each_line_of_text_is_whole(start):
    daemon = start("-VV")
    send_odd_bytes(daemon)
    assert daemon.stop() == 0
    lines = daemon.log.split("\n")
    assert lines.pop() == ""
    assert [line for line in lines if not TEXT.fullmatch(line) or not line.isprintable()] == []


def test_whatever_clients_send_each_line_of_json_is_an_object(launch):
    daemon = launch(fastbean_command("-l", "127.0.0.1", "-p", "0", "-VV", "--log-format=json"))
    daemon.wait_for_line("serving.*\n")
    send_odd_bytes(daemon)
    assert daemon.stop() == 0
    events = [json.loads(line) for line in daemon.log.splitlines()]
    assert all(list(event)[:3] == ["time", "level", "event"] for event in events)
    assert {"listening", "serving", "accept", "command", "reply", "close", "stopped"} <= {e["event"] for e in events}
    assert all(type(event["fd"]) is int for event in events if "fd" in event)


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        (["-VV", "--log-level", "info"], {"INFO"}),
        (["-VV", "--log-level=warning", "-c"], {"WARNING"}),
        (["-VV", "--log-level=ERROR", "-c"], set()),
        (["--log-level=debug"], {"INFO"}),
        (["-VV"], {"INFO", "DEBUG"}),
    ],
)
def test_the_level_says_what_is_written(launch, tmp_path, flags, levels):
    path = tmp_path / "socket"
    daemon = launch(fastbean_command("-l", f"unix:{path}", *flags))
    client = daemon.connect_unix_soon(path)
    assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0
    assert {line.split()[1] for line in daemon.log.splitlines()} == levels


def test_a_pipe_that_nobody_reads_delays_nobody(launch, tmp_path):
    path = tmp_path / "socket"
    out, into = os.pipe()
    daemon = launch(fastbean_command("-VV", "-l", f"unix:{path}"), stderr=into)
    os.close(into)
    client = daemon.connect_unix_soon(path)
    for _ in range(LINES):
        assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    os.set_blocking(out, False)
    kept = os.read(out, 1 << 20).count(b"\n")
    assert kept < LINES
    assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0
    said = os.read(out, 1 << 20).decode()
    os.close(out)
    lost = re.search(r"WARNING lines-lost count=(\d+)\n", said)
    assert lost
    assert int(lost[1]) > LINES
    assert said.endswith("INFO stopped\n")


def test_a_full_disk_under_the_log_delays_nobody(launch, tmp_path):
    path = tmp_path / "socket"
    with Path("/dev/full").open("wb") as full:
        daemon = launch(fastbean_command("-VV", "-l", f"unix:{path}"), stderr=full)
    client = daemon.connect_unix_soon(path)
    for _ in range(100):
        assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("flags", "status", "advice"),
    [
        (["--log-format", "xml"], 5, "choose one of text, json"),
        (["--log-level", "loud"], 5, "choose one of debug, info, warning, error"),
        (["--slow-iteration-ms", "soon"], 5, "write it in decimal digits"),
        (["--slow-sync-ms", "-1"], 5, "write it in decimal digits"),
        (["--wrong\nflag\x1b[1m"], 5, r"--wrong\nflag\x1b[1m"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(run, flags, status, advice):
    done = run(*flags)
    assert done.returncode == status
    assert done.stderr.startswith("fastbean: ")
    assert advice in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_ends_it_is_an_event_of_json_where_json_is_asked_for(run, tmp_path):
    done = run("--log-format=json", "-l", "127.0.0.1", "-p", "0", "-b", str(tmp_path / "none" / "none"))
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["event"], last["level"], last["exit_status"]) == ("ended", "ERROR", done.returncode)
    assert last["error"].startswith("-b ")
