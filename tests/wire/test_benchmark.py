"""The load tool beside real servers: every scenario, in every way, and no job is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from fastbean.benchmark import session
from fastbean.benchmark.scenarios import SCENARIOS
from fastbean.benchmark.server import Client, Target
from fastbean.benchmark.session import Session, Settings
from fastbean.benchmark.wake import Wake
from patience import PATIENCE_S

from .servers import FASTBEAN

STATES = ("ready", "reserved", "delayed", "buried")


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    """So that a run by time has several."""
    monkeypatch.setattr(session, "SLICE_JOBS", 500)


def name_of(server):
    return f"unix:{server.address}" if isinstance(server.address, str) else f"127.0.0.1:{server.port}"


def target_of(server):
    return Target(name_of(server), server.process.pid)


def play(server, *words, status=0):
    """Runs the program; what it printed, or what it complained of."""
    command = [sys.executable, "-m", "fastbean.benchmark", name_of(server), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == status, done.stderr
    assert (done.stdout if status == 0 else done.stderr) != ""
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


def assert_nothing_is_left(server):
    """A tube goes away with its last connection, which the server may notice a little later."""
    with Client(target_of(server), PATIENCE_S) as client:
        give_up_s = time.monotonic() + PATIENCE_S
        while client.tubes("") != ["default"]:
            assert time.monotonic() < give_up_s, client.tubes("")
            time.sleep(0.01)
        found = client.statistics()
    assert {state: int(found[f"current-jobs-{state}"]) for state in STATES} == dict.fromkeys(STATES, 0)


@pytest.mark.parametrize(
    "how",
    [
        {"operations": 300},
        {"operations": 300, "depth": 7},
        {"operations": 300, "rate": 100_000.0},
        {"operations": None, "seconds": 0.02},
        {"operations": None, "seconds": 0.02, "rate": 5000.0, "depth": 3},
        {"operations": 20, "body_bytes": 65_535},
    ],
    ids=lambda how: " ".join(f"{name}={value}" for name, value in how.items()),
)
@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=list(SCENARIOS))
def test_every_scenario_leaves_nothing_behind(shared, scenario, how):
    settings = Settings(clients=4, tubes=20, limit_s=PATIENCE_S, **how)
    with Session(target_of(shared), scenario, settings) as playing:
        for _ in range(2):
            figures = playing.measure(settings.operations, settings.seconds, settings.rate)
            if settings.operations is not None:
                assert figures.operations == settings.operations
            elif settings.rate:
                assert figures.operations == settings.rate * settings.seconds
            assert figures.latencies.count >= figures.operations > 0
            assert figures.cpu_us >= 0
            assert figures.resident_bytes > 0
    assert_nothing_is_left(shared)


@pytest.mark.parametrize("scenario", ["put", "take", "cycle", "priorities", "peek"])
def test_a_backlog_stands_by(shared, scenario):
    settings = Settings(clients=4, backlog=200, operations=50, pri=None, idle=3, limit_s=PATIENCE_S)
    with Session(target_of(shared), SCENARIOS[scenario], settings) as playing:
        for _ in range(3):
            assert playing.measure(50, None).operations == 50
            with Client(target_of(shared), PATIENCE_S) as client:
                assert int(client.statistics()["current-jobs-ready"]) == 200
    assert_nothing_is_left(shared)


def test_what_a_cut_slice_left_is_taken_by_the_next(shared, monkeypatch):
    monkeypatch.setattr(session, "SLICE_JOBS", 20_000)
    settings = Settings(clients=2, operations=None, seconds=0.01, limit_s=PATIENCE_S)
    with Session(target_of(shared), SCENARIOS["take"], settings) as playing:
        assert sum(playing.measure(None, 0.01).operations for _ in range(3)) > 0
        with Client(target_of(shared), PATIENCE_S) as client:
            assert int(client.statistics()["current-jobs-ready"]) <= 20_000
    assert_nothing_is_left(shared)


@pytest.mark.parametrize("workers", [1, 5])
@pytest.mark.parametrize("how", [{}, {"rate": 20_000.0}])
def test_workers_are_woken_once_for_each_job(shared, workers, how):
    with Wake(shared.address, workers=workers, depth=3, tube="wake", limit_s=PATIENCE_S) as wake:
        with Client(target_of(shared), PATIENCE_S) as client:
            before = client.statistics()
            client.await_waiting("wake", workers, PATIENCE_S)
            results = [wake.run(operations, **how) for operations in (200, 1, 50)]
            client.await_waiting("wake", workers, PATIENCE_S)
            after = client.statistics()
    assert [result.latencies.count for result in results] == [200, 1, 50]
    for command, times in (("put", 251), ("delete", 251), ("reserve", 251 + workers)):
        # The first reserves may or may not have come in before the first look.
        counted = int(after[f"cmd-{command}"]) - int(before[f"cmd-{command}"])
        assert times - (workers if command == "reserve" else 0) <= counted <= times
    assert_nothing_is_left(shared)


def test_over_a_unix_socket(launch, tmp_path):
    server = launch(FASTBEAN, unix=tmp_path / "socket")
    out = play(server, "-n", "100", "-t", "all", "-c", "3", "--tubes", "5", "--pid", str(server.process.pid))
    assert [line.split()[0] for line in out.splitlines()[4:]] == list(SCENARIOS)
    assert_nothing_is_left(server)


def test_against_another_server(server, fastbean):
    words = ["--against", name_of(fastbean), "--pid", str(server.process.pid), "-n", "200", "-t", "put,wake", "-c", "3"]
    out = play(server, *words, "--against-pid", str(fastbean.process.pid), "--rounds", "2")
    lines = [line for line in out.splitlines() if line.startswith("  A/B")]
    assert len(lines) == 2
    assert [name for name in ("rate", "p99", "cpu", "memory") if f" {name} " not in lines[0]] == []
    assert_nothing_is_left(server)
    assert_nothing_is_left(fastbean)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("scenario", ["put", "take", "cycle", "tubes", "wake"])
def test_a_signal_leaves_nothing_behind(server, scenario, number):
    words = [name_of(server), "-t", scenario, "-s", "600", "-d", "5", "-c", "4", "--tubes", "50"]
    tool = subprocess.Popen(
        [sys.executable, "-m", "fastbean.benchmark", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with tool, Client(target_of(server), PATIENCE_S) as client:
        give_up_s = time.monotonic() + PATIENCE_S
        while int(client.statistics()["cmd-put"]) < 5_000:
            assert time.monotonic() < give_up_s
            time.sleep(0.01)
        tool.send_signal(number)
        complaint = tool.communicate(timeout=PATIENCE_S)[1]
    assert (tool.returncode, complaint) == (130, "fastbean benchmark: interrupted\n")
    assert_nothing_is_left(server)


def test_drain_mode_is_told(server):
    server.signal(signal.SIGUSR1)
    with Client(target_of(server), PATIENCE_S) as client:
        give_up_s = time.monotonic() + PATIENCE_S
        while client.statistics().get("draining") == "false" and time.monotonic() < give_up_s:
            time.sleep(0.01)
    complaint = play(server, "-t", "put", "-n", "10", status=1)
    assert complaint.count("\n") == 1
    assert "DRAINING" in complaint
    assert "drain mode" in complaint


def test_a_body_above_the_limit(server):
    complaint = play(server, "-t", "put", "-b", "65536", "-n", "10", status=1)
    assert complaint.count("\n") == 1
    assert "JOB_TOO_BIG" in complaint
    assert_nothing_is_left(server)


def test_a_server_that_goes_away(launch):
    server = launch(FASTBEAN)
    words = [name_of(server), "-t", "cycle", "-s", "600", "-c", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "fastbean.benchmark", *words], stderr=subprocess.PIPE, text=True
    ) as tool:
        with Client(target_of(server), PATIENCE_S) as client:
            while int(client.statistics()["cmd-put"]) < 2_000:
                time.sleep(0.01)
        server.stop()
        complaint = tool.communicate(timeout=PATIENCE_S)[1].splitlines()
    assert tool.returncode == 1
    assert len(complaint) == 2
    assert "closed a connection" in complaint[0] or "failed: " in complaint[0]
    assert "jobs may be left" in complaint[1]


def test_nobody_reads_the_results(server):
    read_end, write_end = os.pipe()
    os.close(read_end)
    words = [name_of(server), "-t", "put", "-n", "10"]
    done = subprocess.run(
        [sys.executable, "-m", "fastbean.benchmark", *words],
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (1, "fastbean benchmark: the reader of the results is gone\n")
    assert_nothing_is_left(server)


def test_json_has_the_version_that_the_server_tells(server):
    found = json.loads(play(server, "--json", "-n", "10", "-t", "stats"))
    with Client(target_of(server), PATIENCE_S) as client:
        assert found["servers"]["A"]["version"] == client.statistics()["version"]
