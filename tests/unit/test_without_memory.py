"""What happens when an allocation fails, whichever: the right answer later, and until then nothing lost.

Each workload is played again and again: with its first allocation refused, with its second one, until none is.
"""

from __future__ import annotations

import fcntl
import os
import selectors
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from functools import partial

import pytest

from allocations import FOR_EVER, Allocations, attempt
from benchmark_peer import Peer
from fastbean._core import PriorityHeap
from fastbean.benchmark.load import Jobs, Load, LoadError
from fastbean.benchmark.wake import Wake
from fastbean.net.poller import Poller
from memory_client import MemoryServer
from oom_world import OomWorld, Step

LARGE = b"L" * 20000  # is sent from the job itself
WATCHED = [b"t%d" % number for number in range(8)]

# All commands, by a producer and a worker. "~" is a pause between two pieces of what is sent, "..." any text.
SCRIPT: list[Step] = [
    ("producer", b"put 10 0 60 5\r\nhello\r\n", b"INSERTED {a=}\r\n"),
    ("producer", b"use other\r\n", b"USING other\r\n"),
    ("producer", b"put 5 0 60 20000\r\n%b\r\n" % LARGE, b"INSERTED {large=}\r\n"),
    ("producer", b"put 5 100 60 3\r\nxyz\r\n", b"INSERTED {late=}\r\n"),
    ("producer", b"lis~t-tube-used\r\n", b"USING other\r\n"),
    ("producer", b"put 5 0 60 4\r\nbody!!", b"EXPECTED_CRLF\r\n"),
    ("producer", b"x" * 300 + b"~\r\n", b"BAD_FORMAT\r\n"),
    ("producer", b"put 1 0 60 99999\r\n" + b"x" * 99999 + b"\r\n", b"JOB_TOO_BIG\r\n"),
    ("worker", b"watch other\r\n", b"WATCHING 2\r\n"),
    *(("worker", b"watch %b\r\n" % name, b"WATCHING %d\r\n" % place) for place, name in enumerate(WATCHED, 3)),
    ("worker", b"list-tubes-watched\r\n", b"OK ..."),
    ("worker", b"ignore t0\r\n", b"WATCHING 9\r\n"),
    ("worker", b"ignore t1\r\n", b"WATCHING 8\r\n"),
    ("worker", b"reserve\r\n", b"RESERVED {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"reserve-with-timeout 1\r\n", b"RESERVED {a} 5\r\nhello\r\n"),
    ("worker", b"reserve-job {late}\r\n", b"RESERVED {late} 3\r\nxyz\r\n"),
    ("worker", b"reserve-with-timeout 0\r\n", b"TIMED_OUT\r\n"),
    ("worker", b"stats-job {a}\r\n", b"OK ...state: reserved..."),
    ("worker", b"touch {a}\r\n", b"TOUCHED\r\n"),
    ("worker", b"release {a} 7 0\r\n", b"RELEASED\r\n"),
    ("worker", b"release {late} 7 100\r\n", b"RELEASED\r\n"),
    ("worker", b"bury {large} 3\r\n", b"BURIED\r\n"),
    ("worker", b"use other\r\n", b"USING other\r\n"),
    ("worker", b"peek {a}\r\n", b"FOUND {a} 5\r\nhello\r\n"),
    ("worker", b"peek-delayed\r\n", b"FOUND {late} 3\r\nxyz\r\n"),
    ("worker", b"peek-buried\r\n", b"FOUND {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"kick 5\r\n", b"KICKED 1\r\n"),
    ("worker", b"peek-ready\r\n", b"FOUND {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"kick-job {late}\r\n", b"KICKED\r\n"),
    ("worker", b"pause-tube other 0\r\n", b"PAUSED\r\n"),
    ("worker", b"list-tubes\r\n", b"OK ...- other\n..."),
    ("worker", b"stats-tube other\r\n", b"OK ...oldest-ready-age: ...\n\r\n"),
    ("worker", b"stats\r\n", b"OK ...current-jobs-ready: 3\n..."),
    ("worker", b"reserve\r\n", b"RESERVED {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"delete {large}\r\n", b"DELETED\r\n"),
    ("worker", b"delete {late}\r\n", b"DELETED\r\n"),
    ("worker", b"reserve\r\n", b"RESERVED {a} 5\r\nhello\r\n"),
    # Their tubes have no room for a ready job yet.
    ("producer", b"use cold\r\n", b"USING cold\r\n"),
    ("producer", b"put 5 100 60 4\r\ncold\r\n", b"INSERTED {cold=}\r\n"),
    ("producer", b"kick-job {cold}\r\n", b"KICKED\r\n"),
    ("producer", b"use frozen\r\n", b"USING frozen\r\n"),
    ("producer", b"put 5 100 60 6\r\nfrozen\r\n", b"INSERTED {frozen=}\r\n"),
    ("producer", b"kick 3\r\n", b"KICKED 1\r\n"),
    ("producer", b"use other\r\n", b"USING other\r\n"),
    ("worker", b"reserve-job {frozen}\r\n", b"RESERVED {frozen} 6\r\nfrozen\r\n"),
    ("worker", b"release {frozen} 1 50\r\n", b"RELEASED\r\n"),
    ("worker", b"release {a} 1 50\r\n", b"RELEASED\r\n"),
    # It waits, with something behind it, until somebody else puts a job.
    ("waiter", b"watch other\r\n", b"WATCHING 2\r\n"),
    ("waiter", b"reserve\r\n", b""),
    ("waiter", b"list-tube-used\r\n", b""),
    ("producer", b"put 1 0 60 4\r\nlast\r\n", b"INSERTED {last=}\r\n"),
    ("waiter", b"", b"RESERVED {last} 4\r\nlast\r\nUSING default\r\n"),
    ("waiter", b"quit\r\n", b""),
]
BODIES = {"a": b"hello", "large": LARGE, "late": b"xyz", "last": b"last", "cold": b"cold", "frozen": b"frozen"}


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["one", "until-noticed"])
def test_every_command_without_memory(allocations: Allocations, count: int) -> None:
    for outage in allocations.in_turn(count):
        with OomWorld() as world:
            world.play(SCRIPT, outage)
            world.check_jobs(BODIES)
            world.check_end()
    assert allocations.calls > 40
    assert world.is_played


def test_clients_that_cannot_be_served_are_closed_and_others_are_not(allocations: Allocations) -> None:
    for outage in allocations.in_turn():
        with OomWorld() as world:
            with outage:
                clients = [world.client(str(number)) for number in range(20)]
            replies = [client.ask(b"use %d\r\n" % number) for number, client in enumerate(clients)]
            closed = replies.count(b"")
            assert closed == allocations.failed
            assert replies.count(b"OUT_OF_MEMORY\r\n") == 0
            assert world.hub.connections == 20 - closed
            world.check_end()
    assert allocations.calls > 60


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["one", "until-the-end"])
def test_what_time_brings_comes_when_there_is_memory_again(allocations: Allocations, count: int) -> None:
    for outage in allocations.in_turn(count):
        server = MemoryServer()
        producer, worker, leaver, waiter = (server.client() for _ in range(4))
        producer.put(b"delayed", delay=5)
        for _ in range(20):
            producer.put(b"job", ttr=5)
        for client in (worker, leaver):
            for _ in range(6):
                assert client(b"reserve-with-timeout 0\r\n").startswith(b"RESERVED")
        producer(b"use other\r\n")
        producer.put(b"paused")
        producer(b"pause-tube other 5\r\n")
        waiter(b"watch other\r\n", b"ignore default\r\n")
        waiter(b"reserve\r\n")
        with outage:
            leaver.close()
            server.advance(6)
        server.advance(1)
        counters = server.engine.counters()
        assert (counters["ready"], counters["reserved"], counters["delayed"], counters["clients"]) == (21, 1, 0, 3)
        assert waiter.connection.take_output() == b"RESERVED 22 6\r\npaused\r\n"
    assert allocations.calls > 3


def test_a_client_in_memory_that_cannot_be_served_is_closed(allocations: Allocations) -> None:
    for outage in allocations.in_turn():
        server = MemoryServer()
        client = server.client()
        with outage:
            reply = client(b"reserve\r\n", b"use a\r\n" * 100)
        if allocations.failed and reply != b"OUT_OF_MEMORY\r\n" + b"USING a\r\n" * 100:
            assert reply == b""
            assert server.hub.connections == 0
    assert allocations.calls > 2


def test_a_server_that_cannot_be_made_says_so(allocations: Allocations) -> None:
    for outage in allocations.in_turn():
        with outage:
            world, said = attempt(OomWorld, MemoryError)
        assert (world is None) == (allocations.failed > 0)
        if world is None:
            assert "no memory" in said
        else:
            with world:
                assert world.client("one").ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert allocations.calls > 5


CHILD = """
import sys
from allocations import Allocations
from pathlib import Path
from fastbean import __main__
from fastbean.engine import command_table
from fastbean.net import hub, poller
with Allocations(Path(sys.argv[1])).failing():
    sys.exit(__main__.main(["-l", "127.0.0.1", "-p", "0", *sys.argv[2:]]))
"""


@pytest.mark.parametrize("flags", [[], ["--log-format=json"]], ids=["text", "json"])
def test_the_program_ends_with_one_line(allocations: Allocations, flags: list[str]) -> None:
    command = [sys.executable, "-c", CHILD, str(allocations.path), *flags]
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])  # noqa: PTH120
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 71
    assert "not enough memory" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_heap_is_as_it_was_when_a_push_fails(allocations: Allocations) -> None:
    for outage in allocations.in_turn():
        heap: PriorityHeap[int] = PriorityHeap()
        refused = []
        with outage:
            for number in range(40):
                try:
                    heap.push(number, 100 - number)
                except MemoryError:
                    refused.append(number)
            try:
                seen = list(heap)
            except MemoryError:
                seen = []
        kept = [number for number in range(40) if number not in refused]
        assert seen == ([] if allocations.failed and not refused else kept[::-1])
        assert len(refused) <= 1
        assert [heap.pop() for _ in kept] == kept[::-1]
    assert allocations.calls > 4


def test_a_heap_that_cannot_shrink_stays_as_large_as_it_is(allocations: Allocations) -> None:
    heap: PriorityHeap[int] = PriorityHeap()
    for number in range(40):
        heap.push(number, number)
    large = sys.getsizeof(heap)
    with allocations.failing():
        assert [heap.pop() for _ in range(39)] == list(range(39))
    assert allocations.failed > 2
    assert sys.getsizeof(heap) == large
    assert heap.pop() == 39
    assert sys.getsizeof(heap) < large


def test_a_poller_is_as_it_was_when_it_cannot_watch_another_file(allocations: Allocations) -> None:
    ours, theirs = socket.socketpair()
    poller = Poller()
    with ours, theirs, closing(poller):
        far = fcntl.fcntl(ours.fileno(), fcntl.F_DUPFD_CLOEXEC, 500)
        try:
            with allocations.failing(), pytest.raises(MemoryError, match="another descriptor"):
                poller.add(far, selectors.EVENT_WRITE, "data")
            assert poller.data_of(far) is None
            poller.add(far, selectors.EVENT_WRITE, "data")
            assert poller.wait(0) == [(far, selectors.EVENT_WRITE)]
        finally:
            os.close(far)


def test_the_load_tool_says_that_it_has_no_memory(allocations: Allocations) -> None:
    with Peer(socket.create_server(("127.0.0.1", 0))) as peer:
        for outage in allocations.in_turn():
            with outage, ExitStack() as opened:
                load, said = attempt(partial(Load, peer.address, "put", clients=3, jobs=Jobs()), MemoryError)
                if load is not None:
                    opened.enter_context(load)
                    _, said = attempt(partial(load.run, operations=5), LoadError)
            assert (said != "") == (allocations.failed > 0)
            assert said in ("", "no room for 3 clients") or "Cannot allocate memory" in said
        assert allocations.calls > 5
        for outage in allocations.in_turn():
            with outage:
                load, said = attempt(partial(Wake, peer.address, workers=3), MemoryError)
            if load is not None:
                load.close()
            assert said == ("no room for 4 clients" if allocations.failed else "")
        assert allocations.calls > 2
