"""Two fastbean processes on a real stream: what was acknowledged survives kills, freezes, stops and lost servers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nats_servers import HOST, NatsCluster
from patience import PATIENCE_S
from ports import ReservedPort

LEASE = "1"
REPLY_S = 2.0  # then a client takes its server for frozen


class Process:
    """One node as a process."""

    def __init__(self, urls: list[str], stream: str, name: str, folder: Path) -> None:
        self.name = name
        self.port = ReservedPort(HOST)
        hosts = ",".join(url.removeprefix("nats://") for url in urls)
        self._words = [
            sys.executable, "-m", "fastbean", "-l", HOST, "-p", str(self.port.number), "--node-name", name,
            "--replicate", f"nats://{hosts}/{stream}", "--lease", LEASE,
        ]  # fmt: skip
        self._log = folder / f"{name}.log"
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._words, stderr=log)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ask(self, line: bytes) -> bytes:
        """The reply to one command over a new connection; empty if there is none."""
        try:
            with socket.create_connection((HOST, self.port.number), REPLY_S) as client:
                client.settimeout(REPLY_S)
                client.sendall(line)
                return client.recv(4096)
        except OSError:
            return b""

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGCONT)
        self.process.kill()
        self.process.wait()
        self.port.release()


class Pair:
    """Two nodes, and what clients were told."""

    def __init__(self, nodes: list[Process]) -> None:
        self.nodes = nodes
        self.bodies: dict[int, bytes] = {}
        self.deleted: set[int] = set()
        self._count = 0

    def put(self) -> Process:
        """Put a job on whichever node takes it; returns that node."""
        deadline = time.monotonic() + PATIENCE_S
        self._count += 1
        body = b"%010d" % self._count
        while True:
            for node in self.nodes:
                words = node.ask(b"put 0 0 60 10\r\n" + body + b"\r\n").split()
                if words[:1] == [b"INSERTED"]:
                    id = int(words[1])
                    assert id not in self.bodies, "an id was given out twice"
                    self.bodies[id] = body
                    return node
            assert time.monotonic() < deadline, [node.log for node in self.nodes]
            time.sleep(0.01)

    def ask(self, line: bytes) -> bytes:
        """The reply of whichever node gives one; one of them serves, but not at any moment."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            for node in self.nodes:
                reply = node.ask(line)
                if reply:
                    return reply
            assert time.monotonic() < deadline, [node.log for node in self.nodes]
            time.sleep(0.01)

    def delete_one(self) -> None:
        id = next(id for id in self.bodies if id not in self.deleted)
        # If the reply to a first try was lost, the job is gone already.
        assert self.ask(b"delete %d\r\n" % id) in (b"DELETED\r\n", b"NOT_FOUND\r\n")
        self.deleted.add(id)

    def check(self) -> None:
        for id, body in self.bodies.items():
            reply = self.ask(b"peek %d\r\n" % id)
            expected = b"NOT_FOUND\r\n" if id in self.deleted else b"FOUND %d 10\r\n%s\r\n" % (id, body)
            assert reply == expected, (id, [node.log for node in self.nodes])

    def other(self, node: Process) -> Process:
        return next(each for each in self.nodes if each is not node)

    def wait_for(self, node: Process, text: str, count: int = 1) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while node.log.count(text) < count:
            assert time.monotonic() < deadline, node.log
            time.sleep(0.01)


@pytest.fixture
def pair(cluster: NatsCluster, stream: str, tmp_path: Path) -> Iterator[Pair]:
    with contextlib.ExitStack() as ending:
        nodes = []
        for name in "AB":
            nodes.append(Process(cluster.urls, stream, name, tmp_path))
            ending.callback(nodes[-1].close)
        for node in nodes:
            Pair(nodes).wait_for(node, " standby ")
        yield Pair(nodes)


def fill(pair: Pair) -> Process:
    """Put and delete some jobs; returns the leader."""
    for _ in range(6):
        leader = pair.put()
    for _ in range(2):
        pair.delete_one()
    return leader


def test_a_leader_that_is_killed(pair: Pair) -> None:
    for count in (2, 2, 3):
        leader = fill(pair)
        leader.process.kill()
        leader.process.wait()
        successor = pair.put()
        assert successor is not leader
        pair.check()
        leader.start()
        pair.wait_for(leader, " standby ", count)


def test_a_leader_that_is_stopped_hands_over(pair: Pair) -> None:
    leader = fill(pair)
    leader.process.terminate()
    assert leader.process.wait(PATIENCE_S) == 0
    assert " released " in leader.log
    successor = pair.put()
    pair.check()
    # The last one stops like a single server.
    successor.process.terminate()
    assert successor.process.wait(PATIENCE_S) == 0
    for node in pair.nodes:
        node.start()
    pair.put()
    pair.check()


def test_a_leader_that_is_frozen_tells_nothing_old_afterwards(pair: Pair) -> None:
    leader = fill(pair)
    with socket.create_connection((HOST, leader.port.number), REPLY_S) as client:
        leader.process.send_signal(signal.SIGSTOP)
        client.sendall(b"put 0 0 60 1\r\nx\r\npeek 1\r\n")
        pair.nodes.remove(leader)
        successor = pair.put()
        pair.delete_one()
        leader.process.send_signal(signal.SIGCONT)
        client.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""
    pair.nodes.append(leader)
    pair.wait_for(leader, " deposed ")
    pair.wait_for(leader, " standby ", 2)
    pair.check()
    successor.process.kill()
    pair.put()
    pair.check()


def test_a_standby_turns_clients_away(pair: Pair) -> None:
    leader = fill(pair)
    with socket.create_connection((HOST, pair.other(leader).port.number), PATIENCE_S) as client:
        client.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(100) == b""


def test_drain_mode_ends_with_the_process(pair: Pair) -> None:
    for node in pair.nodes:
        node.process.send_signal(signal.SIGUSR1)
        pair.wait_for(node, " draining")
    assert pair.ask(b"put 0 0 60 1\r\nx\r\n") == b"DRAINING\r\n"
    for node in pair.nodes:
        node.process.kill()
        node.process.wait()
        node.start()
    pair.put()
    pair.check()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(3))
def test_a_nats_server_that_is_killed(cluster: NatsCluster, pair: Pair, number: int) -> None:
    fill(pair)
    cluster.kill(number)
    try:
        pair.put()
        pair.check()
    finally:
        cluster.start(number)
    pair.put()
    pair.check()
