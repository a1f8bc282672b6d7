"""A server in which any allocation may fail: its hub with real sockets, its clients, and the replies they received.

`OomWorld.play` runs a script of commands. Each step has one right reply. Once an allocation has failed, two others are
allowed: OUT_OF_MEMORY (or KICKED 0), which must have changed nothing, so the same command gets the right reply when it
is repeated; and the end of the connection before the first byte of a reply.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Self

from fastbean.binlog.binlog import Binlog
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.errors import BinlogFailedError
from fastbean.net.hub import Hub
from fastbean.net.poller import Poller
from patience import PATIENCE_S

REFUSALS = (b"OUT_OF_MEMORY\r\n", b"KICKED 0\r\n")
BODY_FOLLOWS = re.compile(rb"(?:RESERVED \d+|FOUND \d+|OK) (\d+)\r\n")

Step = tuple[str, bytes, bytes]  # client; request, where "{name}" is a job's id; reply, where "{name=}" is a new id


def replies_in(data: bytes) -> list[bytes]:
    """The complete replies at the beginning of the received data."""
    found = []
    while (end := data.find(b"\r\n") + 2) >= 2:
        if match := BODY_FOLLOWS.match(data):
            end += int(match[1]) + 2
        if len(data) < end:
            break
        found.append(data[:end])
        data = data[end:]
    return found


class Client:
    """One connection; ``got`` is received data that was not read yet."""

    def __init__(self, world: OomWorld) -> None:
        self.closed = False
        self.got = b""
        self._world = world
        self.socket, served = socket.socketpair()
        self.socket.setblocking(False)
        try:
            world.hub.adopt(served, "somebody", time.monotonic_ns())
        except MemoryError:
            assert served.fileno() < 0, "a socket that cannot be served is closed"

    def send(self, data: bytes) -> None:
        with suppress(BrokenPipeError):  # the next read shows that it is closed
            assert self.closed or self.socket.send(data) == len(data)

    def receive(self) -> None:
        try:
            while not self.closed:
                data = self.socket.recv(1 << 20)
                self.got += data
                self.closed = not data
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.closed = True

    def replies(self, count: int = 1) -> list[bytes]:
        """The next ``count`` replies; fewer if the connection ends first."""
        give_up_s = time.monotonic() + PATIENCE_S
        self.receive()
        while len(found := replies_in(self.got)) < count and not self.closed:
            self._world.iterate()
            self.receive()
            assert time.monotonic() < give_up_s, f"waited in vain for {count} replies, got {self.got!r}"
        found = found[:count]
        self.got = self.got[len(b"".join(found)) :]
        return found

    def ask(self, request: bytes) -> bytes:
        """Sends one command and returns its reply; empty if the connection ends instead."""
        self.send(request)
        return b"".join(self.replies())


class OomWorld:
    """Hub, engine, and a binlog if ``directory`` is given.

    ``ids`` are the ids of acknowledged jobs by their names in the script, ``gone`` the deleted ones, ``unsure`` those
    whose delete got no reply. ``is_played`` is whether the script reached its end.
    """

    def __init__(self, directory: Path | None = None, segment_bytes: int = 65536, max_bytes: int = 0) -> None:
        self.poller = Poller()
        self.engine = State()
        self.hub = Hub(self.engine, self.poller)
        self.log: Binlog | None = None
        self.log_failed = False
        if directory is not None:
            self.log = Binlog(
                directory,
                EngineJobs(self.engine),
                segment_bytes=segment_bytes,
                fsync_ms=0,
                max_bytes=max_bytes,
                log=stderr_log.silent,
            )
            self.log.open(lambda _text: None)
            try:
                self.log.attach(self.poller)
            except MemoryError:
                self.log.close()
                raise
        self.clients: dict[str, Client] = {}
        self.ids: dict[str, int] = {}
        self.gone: set[str] = set()
        self.unsure: set[str] = set()
        self.is_played = False

    def iterate(self) -> None:
        """One iteration of the event loop."""
        try:
            if not self.log_failed:
                self.hub.serve(time.monotonic_ns() + 10_000_000, True)
        except BinlogFailedError:
            self.log_failed = True
        if self.log_failed:
            self.hub.close_all(time.monotonic_ns())

    def client(self, name: str) -> Client:
        """The client of this name; it connects when it is first used."""
        if name not in self.clients:
            self.clients[name] = Client(self)
        return self.clients[name]

    def play(self, script: Sequence[Step], outage: AbstractContextManager[None]) -> None:
        """Runs the script until its end, or until a connection ends. ``outage`` ends when a client notices it."""
        with ExitStack() as outages:
            outages.enter_context(outage)
            for step in script:
                replies = self._take(step)
                if replies and replies[0] in REFUSALS and step[2] not in REFUSALS:
                    outages.close()
                    replies = self._take(step)
                if not self._is_right(replies, step):
                    client = self.clients[step[0]]
                    assert client.closed, f"{step[:2]}: {replies}"
                    assert client.got == b"", "no part of a reply is sent"
                    self.unsure |= set(re.findall(r"^delete \{(\w+)\}", step[1].decode()))
                    return
        self.is_played = True

    def _take(self, step: Step) -> list[bytes]:
        name, request, expected = step
        client = self.client(name)
        for part in filter(None, request.split(b"~")):
            client.send(self._with_ids(part))
            self.iterate()
        if expected.startswith(b"OK "):  # stands for a text of any length
            return client.replies()
        if not expected:
            client.receive()
            return client.replies(len(replies_in(client.got)))
        return client.replies(len(replies_in(self._with_ids(expected))))

    def _with_ids(self, text: bytes) -> bytes:
        text = re.sub(rb"\{\w+=\}", b"0", text)
        return re.sub(rb"\{(\w+)\}", lambda match: b"%d" % self.ids[match[1].decode()], text)

    def _is_right(self, replies: list[bytes], step: Step) -> bool:
        """Whether this is the right reply; if so, records the ids in it."""
        pattern = re.escape(self._with_ids(re.sub(rb"\{\w+=\}", b"NEW", step[2]))).replace(b"NEW", rb"(\d+)")
        pattern = pattern.replace(re.escape(b"..."), b".*")
        match = re.fullmatch(pattern, b"".join(replies), re.DOTALL)
        if match is None:
            return False
        if made := re.search(rb"\{(\w+)=\}", step[2]):
            assert int(match[1]) > max(self.ids.values(), default=0)
            self.ids[made[1].decode()] = int(match[1])
        if ended := re.match(rb"delete \{(\w+)\}", step[1]):
            self.gone.add(ended[1].decode())
        return True

    def check_jobs(self, bodies: Mapping[str, bytes]) -> None:
        """Checks that every acknowledged job is there with its body, or gone if its delete was acknowledged."""
        looker = self.client("looker")
        for name in self.ids.keys() - self.unsure:
            body = bodies[name]
            found = b"FOUND %d %d\r\n%b\r\n" % (self.ids[name], len(body), body)
            assert looker.ask(b"peek %d\r\n" % self.ids[name]) == (b"NOT_FOUND\r\n" if name in self.gone else found)

    def check_end(self) -> None:
        """Disconnects all clients and deletes all jobs: nothing may be left, and all counters are zero."""
        looker = self.client("looker")
        for name, client in self.clients.items():
            if name != "looker":
                client.socket.close()
        while b"current-connections: 1\n" not in looker.ask(b"stats\r\n"):
            pass
        for id in range(1, max(self.ids.values(), default=0) + 3):
            assert looker.ask(b"delete %d\r\n" % id) in (b"DELETED\r\n", b"NOT_FOUND\r\n")
        stats = looker.ask(b"stats\r\n")
        assert b"memory-jobs: 0\n" in stats
        assert b"current-tubes: 1\n" in stats
        kept = {"tubes", "clients", "connections", "total_jobs"}
        assert {name: count for name, count in self.engine.counters().items() if count and name not in kept} == {}

    def after_a_restart(self, again: OomWorld) -> OomWorld:
        """Copies what the clients know to ``again``, a server that continues with the same binlog."""
        again.ids, again.gone, again.unsure = self.ids, self.gone, self.unsure
        return again

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes everything; the binlog keeps its records."""
        for client in self.clients.values():
            client.socket.close()
        self.hub.close_all(time.monotonic_ns())
        if self.log is not None:
            self.log.close()
        self.poller.close()
