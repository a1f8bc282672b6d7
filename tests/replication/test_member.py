"""A node in its thread, with the real engine on one side and real servers on the other."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator

import pytest

from fastbean.engine.restore import EngineJobs
from fastbean.replication import stream_url
from fastbean.replication.engine_host import EngineHost
from fastbean.replication.member import Member
from fastbean.replication.requests import Apply, CaughtUp, DropEngine, Lead, Request, Room, Serve, Stopped
from memory_client import MemoryServer
from nats_servers import NatsCluster
from patience import PATIENCE_S

LEASE_NS = 3_000_000_000  # so long that a pause of the machine changes no leader
SEGMENT_BYTES = 65536


class Place(MemoryServer):
    """An engine with its node: what a server's loop does, by hand."""

    def __init__(self, urls: list[str], stream: str, name: str) -> None:
        super().__init__()
        self.lines: list[tuple[str, dict[str, object]]] = []
        self.requests: list[Request] = []
        self.stopped: Stopped | None = None
        self._use_engine()
        url = ",".join(url.removeprefix("nats://") for url in urls)
        self.member = Member(
            stream_url.parse(f"nats://{url}/{stream}"),
            {},
            name=name,
            address=f"{name}:1",
            version="1",
            lease_ns=LEASE_NS,
            stall_ns=60_000_000_000,
            never_lead=False,
            log=lambda _level, event, **fields: self.lines.append((event, fields)),
        )
        self.member.start(self.host)

    def _use_engine(self) -> None:
        MemoryServer.__init__(self)
        self.host = EngineHost(EngineJobs(self.engine), SEGMENT_BYTES)
        self.is_asked_to_serve = self.leads = False

    @property
    def serves(self) -> bool:
        return self.is_asked_to_serve and self.host.may_serve

    def step(self) -> None:
        """One turn: wait a moment, then do what is there."""
        self.member.post(lambda node, now_ns: node.loop_ran(now_ns))
        pipes = self.member.request_pipe.reading, self.host.done_pipe.reading, self.host.room_pipe.reading
        ready = select.select(pipes, (), (), 0.01)[0]
        self.now_ns = time.monotonic_ns()
        if pipes[1] in ready:
            self.host.journal.sink_done()
        if pipes[2] in ready:
            self.host.give_room()
        if pipes[0] in ready:
            for request in self.member.take():
                self._do(request)
        if self.leads:
            self.settle()

    def _do(self, request: Request) -> None:
        self.requests.append(request)
        if isinstance(request, Apply):
            self.host.apply(request, self.now_ns)
            self.member.applied(len(request.records))
        elif isinstance(request, Lead):
            self.host.lead(request)
            self.leads = True
        elif isinstance(request, Serve):
            self.is_asked_to_serve = True
        elif isinstance(request, Room):
            self.host.room(request)
        elif isinstance(request, DropEngine):
            self.host.fail(request.why)
            before = self.host
            self.member.leave_engine()
            self._use_engine()
            self.member.use_engine(self.host)
            self.old_hosts = [*getattr(self, "old_hosts", []), before]
        elif isinstance(request, Stopped):
            self.stopped = request

    def command(self, line: bytes) -> bytes:
        """Send a command, and wait for the reply."""
        client = self.client()
        client.connection.feed(line, self.now_ns)
        output = b""
        deadline = time.monotonic() + PATIENCE_S
        while not output:
            assert time.monotonic() < deadline
            self.step()
            output = client.connection.take_output()
        return output

    def close(self) -> None:
        if not self.member.is_running:
            return
        self.member.stop(0)
        for host in [self.host, *getattr(self, "old_hosts", [])]:
            host.close()


def step_until(places: list[Place], is_so: object) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < deadline, [place.lines for place in places]
        for place in places:
            place.step()


@pytest.fixture
def places(cluster: NatsCluster, stream: str) -> Iterator[list[Place]]:
    made: list[Place] = []
    with contextlib.ExitStack() as ending:
        for name in "AB":
            made.append(Place(cluster.urls, stream, name))
            ending.callback(made[-1].close)
        step_until(made, lambda: any(place.serves for place in made))
        yield made


def leader_and_standby(places: list[Place]) -> tuple[Place, Place]:
    leader = next(place for place in places if place.serves)
    return leader, next(place for place in places if place is not leader)


def test_jobs_survive_their_leader(places: list[Place]) -> None:
    leader, standby = leader_and_standby(places)
    assert leader.command(b"put 0 0 60 5\r\nhello\r\n") == b"INSERTED 1\r\n"
    assert leader.command(b"put 0 0 60 3\r\nbye\r\n") == b"INSERTED 2\r\n"
    assert leader.command(b"delete 1\r\n") == b"DELETED\r\n"
    leader.close()
    step_until([standby], lambda: standby.serves)
    assert standby.command(b"peek 1\r\n") == b"NOT_FOUND\r\n"
    assert standby.command(b"peek 2\r\n") == b"FOUND 2 3\r\nbye\r\n"


def test_a_leader_that_slept_tells_nothing(places: list[Place]) -> None:
    """Its engine has changed and answered while another node led: no such reply is sent."""
    leader, standby = leader_and_standby(places)
    assert leader.command(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
    awake = threading.Event()
    leader.member.post(lambda _node, _now_ns: awake.wait(PATIENCE_S))  # the whole thread of the node stands still
    client = leader.client()
    client.connection.feed(b"put 0 0 60 1\r\nb\r\n", leader.now_ns)
    client.connection.feed(b"peek 1\r\n", leader.now_ns)
    step_until([standby], lambda: standby.serves)
    assert standby.command(b"delete 1\r\n") == b"DELETED\r\n"
    awake.set()
    step_until(places, lambda: any(isinstance(request, DropEngine) for request in leader.requests))
    assert client.connection.take_output() == b""
    client.close()
    step_until(places, lambda: sum(isinstance(request, CaughtUp) for request in leader.requests) == 2)
    assert any(event == "deposed" for event, _ in leader.lines)


def test_a_stop_hands_over(places: list[Place]) -> None:
    leader, standby = leader_and_standby(places)
    assert leader.command(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
    assert leader.member.stop(PATIENCE_S)
    step_until([standby], lambda: standby.serves)
    assert standby.command(b"peek 1\r\n") == b"FOUND 1 1\r\na\r\n"
    assert not any(event == "lease-over" for event, fields in standby.lines if fields["epoch"])


def test_an_error_in_the_thread_ends_the_node(places: list[Place]) -> None:
    leader, _ = leader_and_standby(places)
    leader.member.post(lambda _node, _now_ns: 1 // 0)
    step_until([leader], lambda: leader.stopped)
    assert leader.stopped is not None
    assert "ZeroDivisionError" in leader.stopped.text
