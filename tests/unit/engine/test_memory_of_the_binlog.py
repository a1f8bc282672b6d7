"""What the binlog takes in memory counts too: records that are not written yet, and the ids of each segment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fastbean.binlog import segment_files
from fastbean.binlog.binlog import Binlog
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from memory_client import MemoryClient, MemoryServer

BODY_BYTES = 50_000
SPARE_SEGMENT_BYTES = 1 << 26
JOB_BYTES = 120  # beside the body
LEAST_LIMIT_BYTES = 131_071  # that the program takes, with the largest job of 65535 bytes


@contextmanager
def logged(directory: Path, segment_bytes: int = 1 << 22, **settings: object) -> Iterator[MemoryServer]:
    """A server in memory whose jobs are kept in `directory`."""
    server = MemoryServer(**settings)
    log = Binlog(
        str(directory),
        EngineJobs(server.engine),
        segment_bytes=segment_bytes,
        fsync_ms=None,
        max_bytes=0,
        log=stderr_log.silent,
    )
    log.open(lambda _text: None)
    # No loop hears of segments that are made: this one is enough for the whole test.
    segment_files.create(str(directory), 2, SPARE_SEGMENT_BYTES).hand_over(
        log.journal.room.add_spare, 2, SPARE_SEGMENT_BYTES
    )
    server.sink_done = log.journal.sink_done
    try:
        yield server
    finally:
        log.close()


def buffers(client: MemoryClient) -> int:
    """What buffers take now, in the middle of an iteration; the reply itself comes with the commit at its end."""
    client.connection.feed(b"stats\r\n", 0)
    output = b""
    while not output:
        client.server.settle()
        output = client.connection.take_output()
        client.server.sink_done()  # what it depends on may be written by a thread
    return int(output.split(b"memory-buffers: ")[1].split()[0])


def test_records_count_until_they_are_written(tmp_path: Path) -> None:
    with logged(tmp_path) as server:
        client, other = server.client(), server.client()
        before = buffers(other)
        for _ in range(40):
            client.connection.feed(b"put 0 0 1 %d\r\n%b\r\n" % (BODY_BYTES, bytes(BODY_BYTES)), 0)
        assert buffers(other) - before >= 40 * BODY_BYTES
        client.connection.take_output()
        assert buffers(other) - before <= 1 << 20


def test_records_that_are_not_written_leave_less_room_for_puts(tmp_path: Path) -> None:
    put = b"put 0 0 1 %d\r\n%b\r\n" % (BODY_BYTES, bytes(BODY_BYTES))
    with logged(tmp_path, max_memory_bytes=4 * (BODY_BYTES + JOB_BYTES) + 10_000) as server:
        client = server.client()
        client.connection.feed(put * 4, 0)
        server.settle()
        first = client.connection.take_output().count(b"INSERTED")
        assert 1 <= first < 4
        for _ in range(4 - first):
            assert client(put).startswith(b"INSERTED")
        assert client(put) == b"OUT_OF_MEMORY\r\n"


def test_the_ids_of_segments_count(tmp_path: Path) -> None:
    with logged(tmp_path) as server:
        client = server.client()
        before = buffers(client)
        for _ in range(200):
            client(b"put 0 0 1 0\r\n\r\n" * 500)
        assert server.engine.counters()["jobs"] == 100_000
        assert buffers(client) - before >= 100_000


def test_with_the_least_limit_every_job_can_still_be_put(tmp_path: Path) -> None:
    with logged(tmp_path, max_memory_bytes=LEAST_LIMIT_BYTES) as server:
        client = server.client()
        for number in range(1, 6):
            assert client(b"put 0 0 1 65535\r\n", bytes(65535), b"\r\n") == b"INSERTED %d\r\n" % number
            assert client(b"delete %d\r\n" % number) == b"DELETED\r\n"
