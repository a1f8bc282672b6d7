"""The load tool's command line: what it refuses, what it prints. tests/wire plays every scenario on real servers."""

import json
import os
import socket
import sys

import pytest

import fastbean
from benchmark_peer import peer_on

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from fastbean.benchmark import tool
from fastbean.benchmark.report import ratio_line, ratios, row
from fastbean.benchmark.scenarios import SCENARIOS
from fastbean.benchmark.session import Figures

LITTLE = ["-c", "3", "-n", "40", "--tubes", "5"]
QUANTILES = ["p50", "p90", "p99", "p99.9", "max", "mean"]


@pytest.fixture
def start():
    """A function that starts a fastbean in this process, and returns its address as the tool takes it."""
    servers = []

    def make(**settings):
        server = fastbean.Server(fastbean.Config(listen=["127.0.0.1"], port=0, **settings))
        servers.append(server.__enter__())
        return f"127.0.0.1:{server.port}"

    yield make
    for server in servers:
        server.__exit__(None, None, None)


@pytest.fixture
def misbehave(tmp_path):
    """A function that makes a Peer which gives these replies, and its address as the tool takes it."""
    peers = []

    def make(**replies):
        words = {word.replace("_", "-").encode(): reply for word, reply in replies.items()}
        peers.append(peer_on(tmp_path, replies=words).__enter__())
        return f"unix:{peers[-1].address}"

    yield make
    for peer in peers:
        peer.__exit__()


def play(capsys, *words):
    """Exit status, what was printed, and the lines of errors."""
    status = tool.main(list(words))
    out, err = capsys.readouterr()
    return status, out, err.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-c", "0"], "argument -c/--clients: '0' is not a whole number from 1 to 99999; see --help"),
        (["-d", "x"], "argument -d/--depth: 'x' is not a whole number"),
        (["-b", "-1"], "argument -b/--body: '-1' is not a whole number from 0"),
        (["-n", "0"], "argument -n/--operations: '0'"),
        (["-s", "0"], "argument -s/--seconds: '0' is not a number above 0"),
        (["-s", "nan"], "argument -s/--seconds: 'nan' is not a number above 0"),
        (["-r", "fast"], "argument -r/--rate: 'fast' is not a number above 0"),
        (["-t", "put,brew"], "there is no scenario 'brew'; there are: put, take"),
        (["--priority", "high"], "argument --priority: 'high'"),
        (["unix:"], "'unix:' is no address of a server"),
        (["127.0.0.1:x"], "'127.0.0.1:x' is no address of a server; write 127.0.0.1:11300"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["--clie", "3"], "unrecognized arguments"),
        (["--rounds", "3"], "--rounds needs --against"),
        (["--against-pid", "1"], "--against-pid needs --against"),
        (["-d", "100000", "-b", "65536"], "--depth times --body is above 1 GiB"),
        (["-t", "all", "-b", "3"], "wake needs a --body of at least 16 bytes"),
        (["-t", "wake", "--backlog", "3"], "wake cannot have a --backlog"),
        (["-t", "peek", "--backlog", "0"], "peek needs a --backlog of at least 1"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(capsys, words, message):
    status, out, errors = play(capsys, *words)
    assert (status, out, len(errors)) == (2, "", 1)
    assert errors[0].startswith("fastbean benchmark: ")
    assert message in errors[0]


def test_nobody_listens(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    status, out, errors = play(capsys, f"127.0.0.1:{port}")
    assert (status, out) == (1, "")
    assert len(errors) == 1
    assert errors[0].startswith(f"fastbean benchmark: no connection to 127.0.0.1:{port}: ")
    assert errors[0].endswith("; is the server running there?")


def test_too_few_descriptors(capsys, monkeypatch):
    monkeypatch.setattr(tool, "raise_descriptor_limit", lambda: 64)
    status, _, errors = play(capsys, "-c", "50", "--idle", "30")
    assert (status, len(errors)) == (1, 1)
    assert "80 connections need 112 open files, and this process may have 64; " in errors[0]
    assert errors[0].endswith("raise the limit (ulimit -n 112), or ask for fewer clients")


def test_no_such_process(capsys, start):
    status, _, errors = play(capsys, start(), "--pid", str(2**31 - 1))
    assert status == 1
    assert len(errors) == 1
    assert "there is no process 2147483647" in errors[0]


def test_it_is_no_beanstalk_server(capsys, misbehave):
    status, _, errors = play(capsys, misbehave(stats=b"HTTP/1.1 400 Bad Request\r\n"))
    assert status == 1
    assert "answered 'HTTP/1.1 400 Bad Request'; is this a beanstalk server?" in errors[0]


def test_a_body_above_the_limit(capsys, start):
    status, _, errors = play(capsys, start(max_job_size=100), "-t", "put", "-b", "101")
    assert (status, len(errors)) == (1, 1)
    assert "JOB_TOO_BIG" in errors[0]
    assert "; choose a smaller body (--body), or start the server with a larger limit (-z)" in errors[0]


def test_a_server_that_drains(capsys, misbehave):
    address = misbehave(put=b"DRAINING\r\n", list_tubes=b"OK 0\r\n\r\n")
    status, _, errors = play(capsys, address, "-t", "put", *LITTLE)
    assert (status, len(errors)) == (1, 1)
    assert "to a put" in errors[0]
    assert "; the server is in drain mode" in errors[0]


def test_what_may_be_left_is_said(capsys, misbehave):
    status, _, errors = play(capsys, misbehave(list_tubes=None), "-t", "put", *LITTLE)
    assert (status, len(errors)) == (1, 1)
    assert "jobs may be left at unix:" in errors[0]
    assert "in tubes named fastbean-benchmark-" in errors[0]


def test_an_error_also_says_which_jobs_may_be_left(capsys, misbehave):
    status, _, errors = play(capsys, misbehave(list_tubes=None, delete=b"INTERNAL_ERROR\r\n"), "-t", "cycle", *LITTLE)
    assert (status, len(errors)) == (1, 2)
    assert "INTERNAL_ERROR" in errors[0]
    assert "to a delete" in errors[0]
    assert "jobs may be left" in errors[1]


def test_a_table(capsys, start):
    address = start()
    status, out, errors = play(capsys, address, "-t", "put,stats", *LITTLE)
    lines = out.splitlines()
    assert (status, errors) == (0, [])
    assert lines[0].startswith(f"{address}, version 1.13")
    assert lines[1] == "3 clients, 1 request at a time, bodies of 64 bytes, closed loop"
    names = ["op/s", "p50 us", "p90 us", "p99 us", "p99.9 us", "max us", "CPU us/op", "memory MiB"]
    assert [name for name in names if name not in lines[3]] == []
    assert [line.split()[0] for line in lines[4:]] == ["put", "stats"]
    assert [len(line.split()) for line in lines[4:]] == [9, 9]


def test_all_of_it_as_json(capsys, start):
    address = start()
    words = ["--json", "-t", "all", "--pid", str(os.getpid()), "-b", "20", *LITTLE]
    status, out, errors = play(capsys, address, *words)
    found = json.loads(out)
    assert (status, errors) == (0, [])
    assert set(found) == {"fastbean", "histogram_relative_error", "settings", "servers", "scenarios"}
    assert found["settings"]["body_bytes"] == 20
    assert set(found["servers"]) == {"A"}
    assert found["servers"]["A"]["address"] == address
    assert found["servers"]["A"]["version"].startswith("1.13")
    assert found["servers"]["A"]["pid"] == os.getpid()
    assert list(found["scenarios"]) == list(SCENARIOS)
    for each in found["scenarios"].values():
        assert each["ratios"] == {}
        (figures,) = each["rounds"]["A"]
        assert figures["operations"] == 40
        assert figures["operations_per_second"] == pytest.approx(40 / figures["seconds"])
        assert list(figures["latency_us"]) == QUANTILES
        assert sorted(figures["latency_us"][name] for name in QUANTILES[:5]) == [
            figures["latency_us"][name] for name in QUANTILES[:5]
        ]
        assert figures["latencies"] >= 40
        assert figures["server_cpu_us_per_operation"] > 0
        assert figures["server_resident_bytes"] > 1 << 20


def test_two_servers_in_turn(capsys, start):
    words = ["-t", "cycle,take", "--rounds", "3", "--against", start(), *LITTLE]
    status, out, errors = play(capsys, start(), *words)
    lines = out.splitlines()
    assert (status, errors) == (0, [])
    assert [line[0] for line in lines[:2]] == ["A", "B"]
    assert lines[2].endswith("; 3 rounds each")
    assert [line.split()[:2] for line in lines[5:7]] == [["cycle", "A"], ["cycle", "B"]]
    for line in (lines[7], lines[10]):
        assert line.split()[:2] == ["A/B", "rate"]
        assert "p99 " in line
    status, out, _ = play(capsys, start(), *words, "--json")
    found = json.loads(out)["scenarios"]["cycle"]
    assert status == 0
    assert {letter: len(rounds) for letter, rounds in found["rounds"].items()} == {"A": 3, "B": 3}
    assert set(found["ratios"]) == {"rate", "p99"}
    assert found["ratios"]["rate"]["min"] <= found["ratios"]["rate"]["median"] <= found["ratios"]["rate"]["max"]


def figures(rate, cpu_us=None):
    found = Figures(operations=rate, seconds=1.0, cpu_us=cpu_us)
    found.latencies.record(1_000_000_000 // rate)
    return found


def test_ratios_are_those_of_neighbouring_rounds():
    first, second = (
        [figures(100, 3), figures(400, 3), figures(90, 3)],
        [figures(50, 1), figures(100, 2), figures(90, 4)],
    )
    found = ratios(first, second)
    assert found["rate"] == {"median": 2, "min": 1, "max": 4}
    assert found["p99"] == {"median": 0.5, "min": 0.25, "max": 1}
    assert found["cpu"] == {"median": 1.5, "min": 0.75, "max": 3}
    assert "memory" not in found
    assert ratio_line(first, second).split("   ")[-1] == "cpu 1.50 (0.75 - 3.00)"


def test_columns_stay_apart_whatever_they_hold():
    slow = Figures(operations=10**9, seconds=1.0, cpu_us=12_345.6, resident_bytes=10**13)
    slow.latencies.record(10**12)
    assert len(row("priorities", [slow]).split()) == 9


def test_an_open_loop_that_is_not_kept_up_with(capsys, start):
    status, out, _ = play(capsys, start(), "-t", "cycle", "-c", "1", "-n", "500", "-r", "1000000")
    assert status == 0
    assert "open loop at 1,000,000 operations a second" in out
    assert "it did not keep up" in out


def test_no_progress_line_without_a_terminal(capsys, start):
    assert play(capsys, start(), "-t", "stats", "-s", "0.3")[2] == []


def test_a_progress_line_on_a_terminal(capsys, start, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert tool.main([start(), "-t", "stats", "-s", "0.3"]) == 0
    written = capsys.readouterr().err
    assert "\r\x1b[Kstats: " in written
    assert " operations, " in written
    assert written.endswith("\r\x1b[K")


@pytest.mark.parametrize("words", [["--help"], ["--version"]])
def test_help_and_version(capsys, words):
    with pytest.raises(SystemExit) as ended:
        tool.main(words)
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "fastbean benchmark" in out
    if words == ["--help"]:
        assert [name for name in SCENARIOS if f"  {name} " not in out] == []
