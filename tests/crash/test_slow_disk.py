"""A disk that does not answer: a client that does not depend on the binlog gets its replies all the same.

The shim has each sync, or each large write, wait until the test lets it continue. What is asserted is an order, no
time: the client's replies come before that. If the event loop itself waits, the test knows at once.
"""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from patience import PATIENCE_S
from thread_watch import LOOK_S, ThreadWatch

from .faults import Faults, Kind
from .process import Client, Server

POLICIES = ["-F", "-f 50", "-f 0"]
PUT = b"put 0 0 60 1\r\nx\r\n"
PIECE = 500
SLOW_SYNC_S = 0.02  # well above LONE_SYNC_US
IDS = 72_000  # more than the server makes safe at once
SEGMENT_BYTES = 1 << 18
LARGE_BODY = b"L" * 60_000
LARGE_WRITE_BYTES = 1 << 18
LARGE_SEGMENT_BYTES = 1 << 24


class HeldDisk:
    """A server on a disk that can be stopped: a producer, and an asker, which depends on nothing."""

    def __init__(self, shim: Path, folder: Path, policy: str, segment_bytes: int = LARGE_SEGMENT_BYTES) -> None:
        directory = folder / "log"
        directory.mkdir()
        self.faults = Faults(shim, folder, directory, traced=False)
        self.server = Server(directory, policy.split(), segment_bytes=segment_bytes, env=self.faults.env)
        self._loop = ThreadWatch(self.server.process.pid, self.server.process.pid)
        self.clients: list[Client] = []
        self.producer, self.asker = self.connect(), self.connect()
        assert self.producer.ask(b"put 0 0 60 1", b"x").line == b"INSERTED 1"
        if policy == "-f 0":
            self._show_slowness()

    def _show_slowness(self) -> None:
        """Has one sync take long. While syncs are short, the loop does those itself that a client waits for."""
        self.faults.hold(Kind.SYNC)
        self.producer.send(b"delete 1\r\n")
        give_up_s = time.monotonic() + PATIENCE_S
        while self.faults.waited == (0, 0):
            assert time.monotonic() < give_up_s
        time.sleep(SLOW_SYNC_S)
        self.faults.release()
        assert self.producer.reply().line == b"DELETED"
        assert self.producer.ask(b"put 0 0 60 1", b"x").line == b"INSERTED 2"

    def connect(self) -> Client:
        """Connects a client that is served already."""
        client = self.server.connect()
        self.clients.append(client)
        assert client.ask(b"list-tube-used").word == "USING"
        return client

    def asked(self, when: str) -> None:
        """The asker asks, and is answered, although the disk does not answer."""
        self.asker.send(b"list-tube-used\r\n")
        self._loop.begin()
        while not select.select([self.asker.sock], [], [], LOOK_S)[0]:
            assert self.faults.waited[0] == 0, f"the event loop waits for the disk: {when}"
            assert not self._loop.sleeps_on(), f"the event loop waits for the thread that syncs: {when}"
        assert self.asker.reply().line == b"USING default"

    def replies(self, count: int, when: str) -> int:
        """Takes the producer's next replies: up to ``count``, fewer if they wait for the disk. Returns the number."""
        give_up_s = time.monotonic() + PATIENCE_S
        for taken in range(count):
            while (reply := self.producer.replies.take()) is None:
                assert time.monotonic() < give_up_s, f"no reply: {when}"
                if not select.select([self.producer.sock], [], [], 0.05)[0]:
                    assert self.faults.waited[0] == 0, f"the event loop waits for the disk: {when}"
                    if self.faults.waited[1]:
                        return taken
                    continue
                self.producer.replies.feed(self.producer.sock.recv(1 << 18))
            assert reply.word in ("INSERTED", "DELETED")
        return count

    def close(self) -> None:
        self.faults.release()
        self._loop.close()
        for client in self.clients:
            client.close()
        self.server.close()


@pytest.fixture
def held_disk(shim: Path, memory_path: Path, request: pytest.FixtureRequest) -> Iterator[HeldDisk]:
    policy, segment_bytes = request.param
    disk = HeldDisk(shim, memory_path, policy, segment_bytes)
    yield disk
    disk.close()


def policies(*names: str, segment_bytes: int = LARGE_SEGMENT_BYTES) -> pytest.MarkDecorator:
    """Runs a test with these policies."""
    return pytest.mark.parametrize("held_disk", [(name, segment_bytes) for name in names], ids=names, indirect=True)


@policies(*POLICIES)
def test_during_a_sync(held_disk: HeldDisk) -> None:
    held_disk.faults.hold(Kind.SYNC)
    for number in range(20):
        held_disk.producer.send(PUT)
        held_disk.asked(f"put {number + 1}")
    taken = held_disk.replies(20, "replies to 20 puts")
    held_disk.asked("after 20 puts")
    held_disk.faults.release()
    assert taken + held_disk.replies(20 - taken, "afterwards") == 20


@policies("-F", "-f 50")
def test_while_ids_run_out(held_disk: HeldDisk) -> None:
    """No id is used before it is sure that it is never assigned again; only puts may wait for that."""
    held_disk.faults.hold(Kind.SYNC)
    taken = sent = 0
    while sent < IDS and taken == sent:
        held_disk.producer.send(PUT * PIECE)
        sent += PIECE
        taken += held_disk.replies(PIECE, f"{sent} ids")
        held_disk.asked(f"{sent} ids")
    held_disk.faults.release()
    while taken < sent:
        taken += held_disk.replies(sent - taken, "afterwards")
    for _ in range(sent, IDS, PIECE):
        held_disk.producer.send(PUT * PIECE)
        assert held_disk.replies(PIECE, "afterwards") == PIECE
    assert held_disk.producer.stats()["current-jobs-ready"] == str(IDS + 1)


@policies("-f 50", "-f 0", segment_bytes=SEGMENT_BYTES)
def test_while_the_binlog_is_too_large(held_disk: HeldDisk) -> None:
    """Hardly anything in it is live, so segments are to be dropped, once what ended their jobs is synced."""
    body = b"put 0 0 60 10000\r\n%b\r\n" % LARGE_BODY[:10_000]
    jobs = 5 * SEGMENT_BYTES // 10_000
    held_disk.producer.send(body * jobs)
    assert held_disk.replies(jobs, "before") == jobs
    held_disk.faults.hold(Kind.SYNC)
    for number in range(2, jobs + 2):
        held_disk.producer.send(b"delete %d\r\n" % number)
        held_disk.asked(f"{number - 1} deletes")
    taken = held_disk.replies(jobs, "replies to deletes")
    held_disk.asked("after all deletes")
    held_disk.faults.release()
    while taken < jobs:
        taken += held_disk.replies(jobs - taken, "afterwards")


@policies(*POLICIES)
def test_during_a_large_write(held_disk: HeldDisk) -> None:
    """Many large bodies arrive in one iteration, so one write has them all."""
    clients = [held_disk.connect() for _ in range(20)]
    held_disk.faults.hold(Kind.WRITE, LARGE_WRITE_BYTES)
    held_disk.server.process.send_signal(signal.SIGSTOP)
    for client in clients:
        client.send(b"put 0 0 60 %d\r\n%b\r\n" % (len(LARGE_BODY), LARGE_BODY))
    held_disk.server.process.send_signal(signal.SIGCONT)
    for number in range(20):
        held_disk.asked(f"request {number + 1} during the write")
    held_disk.faults.release()
    for client in clients:
        assert client.reply().word == "INSERTED"


def test_the_harness_sees_a_loop_that_waits(shim: Path, memory_path: Path) -> None:
    """A stop writes and syncs in the event loop, and may."""
    disk = HeldDisk(shim, memory_path, "-f 50")
    disk.producer.send(PUT)
    assert disk.replies(1, "before") == 1
    disk.faults.hold(Kind.SYNC)
    disk.server.process.send_signal(signal.SIGTERM)
    give_up_s = time.monotonic() + PATIENCE_S
    while disk.faults.waited == (0, 0):
        assert time.monotonic() < give_up_s
    disk.faults.release()
    assert disk.server.wait() == 0
    disk.close()
