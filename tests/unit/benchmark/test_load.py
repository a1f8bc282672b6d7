"""The load tool's core, against a small server of the tests' own that notes what it was sent."""

import functools
import os
import socket
import subprocess
import sys
import time

import pytest

from benchmark_peer import Peer, peer_on
from fastbean.benchmark.load import SCENARIOS, Jobs, Load, LoadError, cpu_ns, run
from patience import PATIENCE_S, attempts

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load tool needs Linux's epoll")


@pytest.fixture
def serve(tmp_path):
    """A function that makes a Peer; it is used as a context manager."""
    return functools.partial(peer_on, tmp_path)


def counted(commands):
    return {word: commands.count(word) for word in set(commands)}


@pytest.mark.parametrize("scenario", ["put", "take", "cycle"])
def test_every_operation_is_played_once(serve, scenario):
    with serve() as peer:
        if scenario == "take":
            run(peer.address, "put", operations=25)
            peer.commands.clear()
        result = run(peer.address, scenario, clients=3, depth=4, operations=25)
    steps = SCENARIOS[scenario]
    assert counted(peer.commands) == dict.fromkeys(steps, 25)
    assert len(peer.ready) == (25 if scenario == "put" else 0)
    assert peer.reserved == {}
    assert result.operations == 25
    assert result.latencies.count == 25 * len(steps)
    assert 0 < result.latencies.max_ns <= result.seconds * 1e9
    assert result.rate == pytest.approx(25 / result.seconds)


def test_a_load_runs_again_on_the_same_connections(serve):
    with serve() as peer:
        with Load(peer.address, "cycle", clients=2, depth=3) as load:
            counts = [load.run(operations).latencies.count for operations in (10, 1, 7)]
        assert counts == [30, 3, 21]
        assert peer.clients == 2


def test_more_clients_than_operations(serve):
    with serve() as peer:
        result = run(peer.address, "put", clients=5, depth=2, operations=3)
    assert result.latencies.count == 3
    assert counted(peer.commands) == {"put": 3}


def test_a_server_over_tcp():
    with Peer(socket.create_server(("127.0.0.1", 0))) as peer:
        assert run(peer.address, "cycle", operations=2).operations == 2


def test_depth_requests_are_in_flight(serve):
    with serve(hold=7) as peer:
        assert run(peer.address, "put", clients=2, depth=7, operations=28).operations == 28


def test_no_more_than_depth_requests_are_in_flight(serve):
    with serve(hold=8) as peer, pytest.raises(LoadError, match="sent no reply"):
        run(peer.address, "put", depth=7, operations=28, limit_s=0.3)


def test_replies_may_come_in_single_bytes(serve):
    with serve(slowly=True) as peer:
        result = run(peer.address, "cycle", clients=2, depth=3, operations=12, body_bytes=11)
    assert result.latencies.count == 36
    assert counted(peer.commands) == {"put": 12, "reserve": 12, "delete": 12}


@pytest.mark.parametrize("body_bytes", [0, 1, 300_000])
def test_bodies_of_any_size_come_whole(serve, body_bytes):
    with serve() as peer:
        run(peer.address, "put", depth=3, operations=4, body_bytes=body_bytes)
        assert [len(body) for _, body in peer.ready] == [body_bytes] * 4
        assert run(peer.address, "take", depth=3, operations=4).operations == 4


@pytest.mark.parametrize(
    ("scenario", "replies", "message"),
    [
        ("put", {b"put": b"OUT_OF_MEMORY\r\n"}, r"b'OUT_OF_MEMORY\\r\\n' to a put, where b'INSERTED ' was expected"),
        ("cycle", {b"reserve": b"TIMED_OUT\r\n"}, "TIMED_OUT.* to a reserve"),
        ("cycle", {b"reserve": b"RESERVED 1 x\r\n"}, "RESERVED 1 x.* to a reserve"),
        ("cycle", {b"reserve": b"RESERVED 1\r\n"}, "RESERVED 1.* to a reserve"),
        ("cycle", {b"reserve": b"RESERVED 123456789012345678901 2\r\n"}, "to a reserve"),
        ("cycle", {b"delete": b"NOT_FOUND\r\n"}, "NOT_FOUND.* to a delete"),
        ("put", {b"put": b"INSERTED 1\r\nINSERTED 2\r\nINSERTED 3\r\n"}, "INSERTED 3.* to a put"),
        ("put", {b"put": b"x" * 1000}, "xxx.* to a put"),
        ("put", {b"put": None}, "closed a connection after 0 of 2 operations of 'put'"),
    ],
)
def test_a_wrong_answer_ends_the_run(serve, scenario, replies, message):
    with serve(replies=replies) as peer, Load(peer.address, scenario, depth=2) as load:
        with pytest.raises(LoadError, match=message) as raised:
            load.run(2)
        assert str(raised.value).startswith(peer.address)
        with pytest.raises(ValueError, match="this Load is closed"):
            load.run(2)


def test_too_few_jobs_to_take():
    for attempt in attempts():  # a pause of the peer is a silence, too
        with attempt, Peer(socket.create_server(("127.0.0.1", 0))) as peer:
            run(peer.address, "put", operations=2, limit_s=PATIENCE_S)
            with pytest.raises(LoadError, match=r"sent no reply for 0\.3 s after 2 of 3 .*enough ready jobs"):
                run(peer.address, "take", operations=3, limit_s=0.3)


def test_nobody_listens(tmp_path):
    with pytest.raises(LoadError, match="is the server running"):
        run(str(tmp_path / "nobody"), "put")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    with pytest.raises(LoadError, match=f"no connection to {host}:{port}"):
        run((host, port), "put")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scenario": "brew"}, "there is no scenario 'brew'; there are: put, take, cycle, tubes"),
        ({"clients": 0}, "clients is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"body_bytes": -1}, "body_bytes is -1"),
        ({"body_bytes": 1 << 29, "depth": 4}, "depth . body_bytes"),
        ({"limit_s": -1}, "limit_s is -1"),
        ({"tubes": 0}, "tubes is 0"),
        ({"pri": 1 << 32}, "pri is 4294967296"),
        ({"scenario": "peek"}, "'peek' needs jobs"),
        ({"operations": 0}, "operations is 0"),
    ],
)
def test_wrong_arguments(serve, wrong, message):
    operations = wrong.pop("operations", 1)
    with serve() as peer, pytest.raises(ValueError, match=message):
        with Load(peer.address, **({"scenario": "put"} | wrong)) as load:
            load.run(operations)


@pytest.mark.parametrize(
    ("how", "message"),
    [({}, "a run needs an end"), ({"seconds": -1}, "seconds is -1"), ({"operations": 1, "rate": -1}, "rate is -1")],
)
def test_wrong_ends(serve, how, message):
    with serve() as peer, Load(peer.address, "put") as load, pytest.raises(ValueError, match=message):
        load.run(**how)


def test_a_run_by_time_ends(serve):
    with serve() as peer, Load(peer.address, "cycle", clients=3) as load:
        result = load.run(seconds=0.05)
        assert result.seconds >= 0.05
        assert counted(peer.commands) == dict.fromkeys(SCENARIOS["cycle"], result.operations)


def test_progress_is_told(serve):
    told = []
    with serve() as peer, Load(peer.address, "put") as load:
        load.run(seconds=0.3, progress=told.append)
    assert told
    assert told == sorted(told)


def test_an_interrupted_run_gets_what_it_is_owed(serve):
    def interrupt(_done):
        raise KeyboardInterrupt

    jobs = Jobs()
    with serve() as peer, Load(peer.address, "put", clients=4, depth=5, jobs=jobs) as load:
        with pytest.raises(KeyboardInterrupt):
            load.run(seconds=60, progress=interrupt)
        assert sorted(jobs) == sorted(job_id for job_id, _ in peer.ready)
        with pytest.raises(ValueError, match="this Load is closed"):
            load.run(1)


def test_a_tube_of_its_own(serve):
    with serve() as peer:
        with Load(peer.address, "put", clients=2, tube="mine") as load:
            load.run(2)
    assert peer.used == ["mine", "mine"]
    assert counted(peer.commands) == {"use": 2, "watch": 2, "ignore": 2, "put": 2}


def test_a_server_that_refuses_the_tube(serve):
    with serve(replies={b"watch": b"OUT_OF_MEMORY\r\n"}) as peer:
        with pytest.raises(LoadError, match=r"OUT_OF_MEMORY.*to b'use mine"):
            Load(peer.address, "put", tube="mine")
        assert peer.all_gone.wait(PATIENCE_S)


def test_tubes_in_turn_and_at_random(serve):
    with serve() as peer:
        with Load(peer.address, "fill", depth=3, tube="t", tubes=10) as load:
            load.run(10)
        assert peer.used[1:] == [f"t-{number}" for number in range(10)]
        peer.used.clear()
        with Load(peer.address, "tubes", clients=2, depth=3, tube="t", tubes=10) as load:
            result = load.run(300)
    assert set(peer.used[2:]) == {f"t-{number}" for number in range(10)}
    assert result.latencies.count == 600
    assert len(peer.ready) == 310


@pytest.mark.parametrize(
    ("how", "priorities", "delays"),
    [
        ({"pri": 7}, {7}, {0}),
        ({"pri": None}, range(2**32), {0}),
        ({"delayed": True, "pri": 9}, {9}, range(10_000, 1_010_000)),
        ({"delayed": True, "pri": None}, range(2**32), range(10_000, 1_010_000)),
    ],
)
def test_priorities_and_delays(serve, how, priorities, delays):
    with serve() as peer, Load(peer.address, "put", depth=4, body_bytes=5, **how) as load:
        load.run(100)
    for column, wanted in enumerate((priorities, delays)):
        found = {head[column] for head in peer.heads}
        assert found <= set(wanted) if isinstance(wanted, set) else all(each in wanted for each in found)
        assert len(found) == 1 if len(wanted) == 1 else len(found) > 90
    assert {body for _, body in peer.ready} == {b"xxxxx"}


def test_jobs_are_peeked_at_and_discarded(serve):
    jobs = Jobs()
    with serve() as peer:
        with Load(peer.address, "put", clients=3, depth=7, jobs=jobs) as load:
            load.run(2500)
        assert sorted(jobs) == [job_id for job_id, _ in peer.ready]
        with Load(peer.address, "peek", clients=2, jobs=jobs) as load:
            assert load.run(50).operations == 50
        run(peer.address, "take", operations=3)
        with Load(peer.address, "discard", depth=100, jobs=jobs) as load:
            load.run(len(jobs))
        assert peer.ready == []
        jobs.clear()
        assert len(jobs) == 0
    assert counted(peer.commands) == {"put": 2500, "peek": 50, "reserve": 3, "delete": 2503}


def test_statistics(serve):
    with serve(slowly=True) as peer:
        assert run(peer.address, "stats", clients=2, depth=3, operations=20).latencies.count == 20
    assert counted(peer.commands) == {"stats": 20}


def test_what_a_full_socket_did_not_take_is_sent_later(serve):
    with serve() as peer, Load(peer.address, "put", depth=3, pri=None, body_bytes=1_000_000) as load:
        load.run(4)
    assert [len(body) for _, body in peer.ready] == [1_000_000] * 4


def test_closing_closes_every_connection(serve):
    with serve() as peer:
        load = Load(peer.address, "put", clients=3)
        load.run(3)
        load.close()
        load.close()
        assert peer.all_gone.wait(PATIENCE_S)
    assert peer.clients == 3


def test_cpu_time_is_that_of_the_process():
    before = time.process_time_ns()
    told = cpu_ns(os.getpid())
    assert before <= told <= time.process_time_ns()


def test_cpu_time_of_nobody():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(OSError, match=f"the CPU time of process {child.pid}"):
        cpu_ns(child.pid)
