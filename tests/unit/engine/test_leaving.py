"""Clients that leave, and tubes that end, in the middle of something that others still see the end of."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastbean.binlog import segment_files
from made_binlogs import SEGMENT_BYTES
from memory_client import MemoryServer
from oom_world import OomWorld

STEPS_AT_ONCE = 1000  # of a list, before others are served


def test_the_job_of_an_answer_that_was_not_taken_is_ready_again() -> None:
    """In one iteration one client puts, which is the answer of three who wait, and two of these are gone."""
    with OomWorld() as world:
        producer = world.client("producer")
        assert producer.ask(b"use default\r\n") == b"USING default\r\n"
        for name in ("first", "second", "third"):
            world.client(name).send(b"reserve\r\n")
            world.iterate()
        producer.send(b"".join(b"put 0 0 60 1\r\n%d\r\n" % number for number in range(3)))
        for name in ("second", "third"):
            world.client(name).socket.close()
        assert producer.replies(3) == [b"INSERTED %d\r\n" % id for id in (1, 2, 3)]
        assert world.client("first").replies() == [b"RESERVED 1 1\r\n0\r\n"]
        while world.hub.connections > 2:
            world.iterate()
        counters = world.engine.counters()
        assert (counters["ready"], counters["reserved"], counters["waiting"]) == (2, 1, 0)


def test_a_client_that_leaves_while_its_put_waits_for_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create = segment_files.SegmentWorker.create
    asked: list[tuple[segment_files.SegmentWorker, int, int]] = []
    monkeypatch.setattr(segment_files.SegmentWorker, "create", lambda *words: asked.append(words))
    with OomWorld(tmp_path, SEGMENT_BYTES) as world:
        clients = [world.client(name) for name in ("first", "leaver", "last")]
        for client in clients:
            client.send(b"put 0 0 60 20000\r\n%b\r\n" % bytes(20000))
        while not asked or world.engine.counters()["producers"] < 3:
            world.iterate()
        clients[1].socket.close()
        while world.hub.connections > 2:
            world.iterate()
        monkeypatch.undo()
        for words in asked:
            create(*words)
        assert clients[0].replies() == [b"INSERTED 1\r\n"]
        assert clients[2].replies() == [b"INSERTED 3\r\n"]
        assert clients[2].ask(b"peek 2\r\n") == b"NOT_FOUND\r\n"


def test_a_list_misses_no_tube_that_moves_while_it_is_written() -> None:
    server = MemoryServer()
    keeper, looker, other_looker = (server.client() for _ in range(3))
    names = [b"t%d" % number for number in range(STEPS_AT_ONCE + 50)]
    for name in names:
        keeper(b"watch %b\r\n" % name)
    for client in (looker, other_looker):
        client.connection.feed(b"list-tubes\r\n", server.now_ns)
    for name in names[:20]:  # they stand in the part that is written: the last tubes move into their places
        keeper.connection.feed(b"ignore %b\r\n" % name, server.now_ns)
    for client in (looker, other_looker):
        listed = client().split(b"\n")
        assert [listed.count(b"- %b" % name) for name in names[20:]] == [1] * len(names[20:])


def test_a_client_with_very_many_reservations_leaves_in_small_steps() -> None:
    """Each reservation takes two steps: one that puts it in order, and one that makes its job ready."""
    many = 20 * STEPS_AT_ONCE
    server = MemoryServer()
    producer, worker = server.client(), server.client()
    for _ in range(many // 100):
        producer(b"put 0 0 60 0\r\n\r\n" * 100)
        worker(b"reserve\r\n" * 100)
    worker.connection.close(server.now_ns)
    iterations = 0
    while server.engine.counters()["reserved"]:
        server.hub.end_iteration(server.now_ns)
        iterations += 1
    assert iterations >= 2 * many // STEPS_AT_ONCE // 2  # an iteration may take what its budget allows, and one slice
    assert server.engine.counters()["ready"] == many
