"""Paused tubes do not vanish, and a reply that promises a pause waits until the pause is safe."""

import time

import pytest

import fastbean
from fastbean.binlog.binlog import Binlog
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from made_binlogs import io_client, take_segment
from memory_client import MemoryServer


def tubes_of(client):
    return client(b"list-tubes\r\n").partition(b"---\n")[2].removesuffix(b"\r\n")


def paused_alone(client, seconds=10):
    client(b"use a\r\n", b"pause-tube a %d\r\n" % seconds, b"use default\r\n")


def test_a_paused_tube_does_not_vanish(server, client):
    paused_alone(client)
    assert tubes_of(client) == b"- default\n- a\n"
    assert client(b"pause-tube a 10\r\n") == b"PAUSED\r\n"
    server.advance(9.999)
    assert client.stats(b"stats-tube a")["cmd-pause-tube"] == "2"
    server.advance(0.001)
    assert tubes_of(client) == b"- default\n"


def test_it_ends_when_its_pause_is_ended(server, client):
    paused_alone(client)
    assert client(b"pause-tube a 0\r\n") == b"PAUSED\r\n"
    assert client(b"pause-tube a 0\r\n") == b"NOT_FOUND\r\n"
    assert tubes_of(client) == b"- default\n"


@pytest.mark.parametrize("command", [b"watch a\r\n", b"use a\r\n", b"use a\r\nput 0 0 60 0\r\n\r\n"])
def test_it_stays_while_something_refers_to_it(server, client, command):
    paused_alone(client)
    client(command)
    server.advance(10)
    assert tubes_of(client) == b"- default\n- a\n"
    assert client.stats(b"stats-tube a")["pause"] == "0"


def test_a_paused_tube_survives_its_clients_and_jobs(server, client):
    other = server.client()
    other(b"watch a\r\n", b"use a\r\n")
    job = other.put(b"x")
    other(b"pause-tube a 10\r\n", b"delete %d\r\n" % job)
    other.close()
    assert tubes_of(client) == b"- default\n- a\n"
    server.advance(10)
    assert tubes_of(client) == b"- default\n"


def test_many_waiting_clients_see_the_end_of_a_pause(server):
    """More of them than one slice serves: the tube is still there for the last one."""
    waiting = [server.client() for _ in range(1500)]
    for each in waiting:
        each(b"watch a\r\n", b"ignore default\r\n", b"reserve\r\n")
    producer = server.client()
    producer(b"use a\r\n", b"pause-tube a 10\r\n")
    for _ in waiting:
        producer.put()
    producer(b"use default\r\n", b"pause-tube a 0\r\n")
    assert all(each().startswith(b"RESERVED") for each in waiting)
    assert producer.stats(b"stats-tube a")["pause"] == "0"


@pytest.mark.parametrize("name", [b"t%d", b"long-" * 30 + b"%d"])
def test_pauses_on_a_full_binlog_are_refused_and_nothing_hangs(directory, name):
    directory.mkdir()
    config = fastbean.Config(
        listen=["127.0.0.1"],
        port=0,
        binlog_dir=str(directory),
        binlog_size=16384,
        binlog_max_bytes=200_000,
        fsync_ms=50,
    )
    for _ in range(2):  # a server that was started again does not hang either
        with fastbean.Server(config) as server:
            client = io_client(server.port)
            while client(b"put 0 0 60 500\r\n" + bytes(500) + b"\r\n") != b"OUT_OF_MEMORY\r\n":
                pass
            replies = set()
            for number in range(3000):
                client(b"use " + name % number + b"\r\n")
                replies.add(client(b"pause-tube " + name % number + b" 1000\r\n"))
            assert b"OUT_OF_MEMORY\r\n" in replies
            assert replies <= {b"PAUSED\r\n", b"OUT_OF_MEMORY\r\n"}
            for id in range(1, 5):
                assert client(b"delete %d\r\n" % id) in (b"DELETED\r\n", b"NOT_FOUND\r\n")
            assert client(b"pause-tube default 0\r\n") == b"PAUSED\r\n"
            assert int(server.stats()["binlog-full-hits"]) > 1000
            client(b"", close=True)


@pytest.mark.parametrize("seconds", [0, 100])
def test_the_reply_waits_for_the_sync(directory, seconds):
    server = MemoryServer()
    binlog = Binlog(directory, EngineJobs(server.engine), segment_bytes=1 << 20, fsync_ms=0, log=stderr_log.silent)
    directory.mkdir()
    binlog.open(lambda _text: None)
    server.now_ns = time.monotonic_ns()
    # A first pause needs room: there is no loop that takes over the spare segment.
    while binlog.journal.room.next_segment == 2:
        server.settle()
        take_segment(binlog)
    client = server.client()
    client(b"pause-tube default 9\r\n")
    durable = binlog.journal.durable
    client.connection.feed(b"pause-tube default %d\r\n" % seconds, server.now_ns)
    assert client.connection.take_output() == b""
    while not (said := client()):
        binlog.journal.sink_done()
    assert said == b"PAUSED\r\n"
    assert binlog.journal.durable > durable
    binlog.close()
