"""The engine behind a stream: what one leads with, another one follows, and leads on with."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from fastbean.base import clock
from fastbean.engine.restore import EngineJobs
from fastbean.replication.engine_host import EngineHost, HostError
from fastbean.replication.requests import Apply, Lead, Room
from memory_client import SECOND_NS, MemoryServer

RUN = bytes(range(1, 17))
SEGMENT_BYTES = 65536


class Engine(MemoryServer):
    """An engine, its clients in memory, and the batches that it has written to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.host = EngineHost(EngineJobs(self.engine), SEGMENT_BYTES)
        self.batches: list[tuple[int, bytes]] = []

    def lead(self) -> None:
        self.host.lead(Lead(RUN, 1, self.host.journal.end))

    def take(self) -> bool:
        """Do what the driver does when it is woken; returns whether there was a batch."""
        batch = self.host.sink.take()
        if batch is None:
            return False
        os.read(self.host.wake_pipe.reading, 4096)
        self.batches.append(batch)
        return True

    def make_safe(self) -> None:
        self.host.sink.appended()
        self.host.journal.sink_done()
        self.settle()

    def commit_all(self) -> None:
        """Run until nothing is left to do, with every pipe that has something."""
        poll = select.poll()
        for pipe in (self.host.room_pipe, self.host.wake_pipe):
            poll.register(pipe.reading, select.POLLIN)
        self.settle()
        while ready := [fd for fd, _ in poll.poll(0)]:
            if self.host.room_pipe.reading in ready:
                self.host.give_room()
            if self.host.wake_pipe.reading in ready and not self.take():
                os.read(self.host.wake_pipe.reading, 4096)  # something to trim
            if self.host.sink.is_busy:
                self.make_safe()
            self.settle()

    def follow(self, batches: list[tuple[int, bytes]], wall_offset_ns: int = 0) -> None:
        for first_lsn, records in batches:
            self.host.apply(Apply(RUN, records, first_lsn, wall_offset_ns), self.now_ns)


@pytest.fixture
def engines() -> Iterator[list[Engine]]:
    made = [Engine(), Engine()]
    yield made
    for engine in made:
        engine.host.close()


@pytest.fixture
def leader(engines: list[Engine]) -> Engine:
    engines[0].lead()
    engines[0].commit_all()
    return engines[0]


@pytest.fixture
def follower(engines: list[Engine]) -> Engine:
    return engines[1]


def test_replies_wait_until_the_batch_is_safe(leader: Engine) -> None:
    client, other = leader.client(), leader.client()
    assert client(b"put 0 0 60 1\r\na\r\n") == b""
    assert leader.take()
    assert other(b"peek 1\r\n", b"stats-tube none\r\n", b"use other\r\n", b"reserve-with-timeout 0\r\n") == b""
    assert not leader.take()  # one batch at a time
    leader.make_safe()
    assert client() == b"INSERTED 1\r\n"
    assert other() == b""  # what it has seen is not known to be current yet
    assert leader.take()
    leader.make_safe()
    assert other() == b"FOUND 1 1\r\na\r\nNOT_FOUND\r\nUSING other\r\nRESERVED 1 1\r\na\r\n"


def test_a_leader_that_was_deposed_sends_nothing_more(leader: Engine) -> None:
    client = leader.client()
    client(b"put 0 0 60 1\r\na\r\n")
    assert leader.take()
    leader.host.fail("another node leads")
    leader.host.sink.appended()
    leader.host.journal.sink_done()
    assert client.connection.take_output() == b""
    assert leader.host.journal.failure == "another node leads"


def test_a_sink_that_ends_lets_nobody_wait(leader: Engine) -> None:
    client = leader.client()
    client(b"put 0 0 60 1\r\na\r\n")
    assert leader.take()
    leader.host.sink.end()
    leader.host.journal.finish(2)
    assert leader.host.journal.failure == "the stream takes no more from this node"
    assert client.connection.take_output() == b""


def job_state(engine: Engine, id: int) -> dict[str, str]:
    client = engine.client()
    client.connection.feed(b"stats-job %d\r\n" % id, engine.now_ns)
    engine.commit_all()
    head, text = client.connection.take_output().split(b"\r\n", 1)
    assert head.startswith(b"OK "), head
    return dict(line.split(": ", 1) for line in text.decode().strip().splitlines()[1:])


def test_a_follower_leads_on_with_the_same_jobs(leader: Engine, follower: Engine) -> None:
    client = leader.client()
    for command in (
        b"use t\r\nwatch t\r\nput 1 0 60 5\r\nready\r\nput 2 100 60 7\r\ndelayed\r\nput 0 0 60 6\r\nburied\r\n",
        b"reserve\r\nbury 3 7\r\nreserve\r\npause-tube t 50\r\n",
    ):
        client.connection.feed(command, leader.now_ns)
        leader.commit_all()
    follower.now_ns = 77 * SECOND_NS
    # The clocks of the two have nothing to do with each other, but the offset is known.
    follower.follow(leader.batches, leader.now_ns + clock.wall_ns() - clock.monotonic_ns() - follower.now_ns)
    assert follower.host.journal.end == leader.host.journal.end
    follower.lead()
    follower.commit_all()
    states = {id: job_state(follower, id) for id in (1, 2, 3)}
    assert [states[id]["state"] for id in (1, 2, 3)] == ["ready", "delayed", "buried"]
    assert states[1]["reserves"] == "1"
    assert states[2]["time-left"] in ("99", "100")
    new = follower.client()
    new.connection.feed(b"put 0 0 60 1\r\nx\r\n", follower.now_ns)
    follower.commit_all()
    id = int(new.connection.take_output().split()[1])
    assert id > 3


def test_no_time_passes_for_jobs_while_another_engine_leads(leader: Engine, follower: Engine) -> None:
    client = leader.client()
    client.connection.feed(b"put 0 5 60 1\r\na\r\npause-tube default 9\r\n", leader.now_ns)
    leader.commit_all()
    follower.engine.follows = True
    follower.follow(leader.batches, leader.now_ns + clock.wall_ns() - clock.monotonic_ns() - follower.now_ns)
    follower.advance(20)
    assert follower.engine.next_deadline_ns() == -1
    assert follower.engine.counters()["delayed"] == 1
    follower.engine.follows = False
    follower.lead()
    follower.commit_all()
    assert follower.engine.counters()["ready"] == 1
    other = follower.client()
    other.connection.feed(b"reserve-with-timeout 0\r\n", follower.now_ns)
    follower.commit_all()
    assert other.connection.take_output() == b"RESERVED 1 1\r\na\r\n"  # the pause is over, too


def test_jobs_that_fill_a_segment_each(leader: Engine, follower: Engine) -> None:
    body = b"x" * (SEGMENT_BYTES - 500)
    client = leader.client()
    for _ in range(4):
        client.connection.feed(b"put 0 0 60 %d\r\n%s\r\n" % (len(body), body), leader.now_ns)
        leader.commit_all()
    assert client.connection.take_output().count(b"INSERTED") == 4
    follower.follow(leader.batches)
    follower.lead()
    follower.commit_all()
    assert job_state(follower, 4)["state"] == "ready"


def test_what_is_dead_is_trimmed(leader: Engine, follower: Engine) -> None:
    client = leader.client()
    body = b"y" * 20_000
    for _ in range(60):
        client.connection.feed(b"put 0 0 60 20000\r\n%s\r\n" % body, leader.now_ns)
        leader.commit_all()
        id = int(client.connection.take_output().split()[1])
        client.connection.feed(b"delete %d\r\n" % id, leader.now_ns)
        leader.commit_all()
        assert client.connection.take_output() == b"DELETED\r\n"
    trimmed = leader.host.sink.trimmed
    assert trimmed > 0
    kept = [batch for batch in leader.batches if batch[0] >= trimmed]
    assert len(kept) < len(leader.batches) // 2
    follower.follow(kept)
    follower.lead()
    follower.commit_all()
    client = follower.client()
    client.connection.feed(b"put 0 0 60 1\r\nz\r\n", follower.now_ns)
    follower.commit_all()
    assert int(client.connection.take_output().split()[1]) > 60


def test_a_full_stream_refuses_puts_alone(leader: Engine) -> None:
    leader.host.room(Room(900_000, 1_000_000))
    client = leader.client()
    replies = []
    for _ in range(40):
        client.connection.feed(b"put 0 0 60 20000\r\n%s\r\n" % (b"y" * 20_000), leader.now_ns)
        leader.commit_all()
        replies.append(client.connection.take_output().split()[0])
    assert replies[0] == b"INSERTED"
    assert replies[-1] == b"OUT_OF_MEMORY"
    client.connection.feed(b"delete 1\r\n", leader.now_ns)
    leader.commit_all()
    assert client.connection.take_output() == b"DELETED\r\n"


def test_records_that_do_not_fit_are_refused(leader: Engine, follower: Engine) -> None:
    first_lsn, records = leader.batches[0]
    with pytest.raises(HostError, match="cannot be applied at LSN 0: broken"):
        follower.follow([(first_lsn, records[:-1])])
    with pytest.raises(HostError, match="the claim is at 7"):
        follower.host.lead(Lead(RUN, 1, 7))
