"""A server in memory with a binlog in files, whose threads work only when a test lets them."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fastbean.binlog import segment_files
from fastbean.binlog.compaction import Compaction
from fastbean.binlog.descriptors import OpenFile, Pipe
from fastbean.binlog.file_sink import FileSink
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import records
from fastbean.binlog.writer import BinlogWriter
from fastbean.engine.restore import EngineJobs
from memory_client import MemoryServer

RUN = bytes(range(16))
NEVER_NS = -1  # as -F
BEFORE_REPLIES_NS = 0  # as -f 0
LATER_NS = 50_000_000  # as -f 50
POLICIES_NS = (NEVER_NS, BEFORE_REPLIES_NS, LATER_NS)
ROUNDS_AT_MOST = 100


class LocalBinlog:
    """The server, its client and its binlog; ``segments`` are there from the beginning.

    With ``threaded``, rounds are begun, and wait for `run_writes` and `run_syncs`.
    """

    def __init__(
        self,
        directory: Path,
        policy_ns: int,
        *,
        threaded: bool,
        segment_bytes: int = 1 << 20,
        segments: int = 4,
        **settings: object,
    ) -> None:
        directory.mkdir()
        self.directory = str(directory)
        self.segment_bytes = segment_bytes
        self.server = MemoryServer(**settings)
        self._pipes = write, sync, done = Pipe(), Pipe(), Pipe()
        self.sink = FileSink(
            syncs=policy_ns != NEVER_NS,
            pipes=(write.reading, write.writing, sync.reading, sync.writing, done.reading, done.writing),
        )
        jobs = EngineJobs(self.server.engine)
        self.writer = BinlogWriter(
            jobs,
            self.sink,
            segment_bytes=segment_bytes,
            sync_every_ns=policy_ns,
            ask_for_segment=lambda _size: None,
            ask_to_remove=lambda _number, _size: None,
        )
        self.writer.compactor = Compaction(self.writer)
        self.writer.begin_run(RUN)
        self._create(1).hand_over(self.writer.start, 1, segment_bytes)
        for number in range(2, segments + 1):
            self.add_spare(self._create(number))
        jobs.keep_binlog(self.writer)
        self.writer.begin_ids()
        self.client = self.server.client()
        self._threads: list[threading.Thread] = []
        if threaded:
            self.sink.use_threads()

    def _create(self, number: int) -> OpenFile:
        return segment_files.create(self.directory, number, self.segment_bytes, written=False)

    def add_spare(self, file: OpenFile) -> None:
        """The writer gets this file for its next spare segment."""
        room = self.writer.room
        file.hand_over(room.add_spare, room.next_segment, self.segment_bytes)

    def run_writes(self) -> None:
        """Let the thread that writes work, now and later."""
        self._run(self.sink.run_writes)

    def run_syncs(self) -> None:
        """Let the thread that syncs work, now and later."""
        self._run(self.sink.run_syncs)

    def _run(self, target: Any) -> None:
        self._threads.append(threading.Thread(target=target, daemon=True))
        self._threads[-1].start()

    def send(self, data: bytes) -> bytes:
        """Send it in one iteration; return the replies that may be sent at once."""
        self.client.connection.feed(data, self.server.now_ns)
        self.server.hub.end_iteration(self.server.now_ns)
        return self.client.connection.take_output()

    def wait_for(self, count: int) -> bytes:
        """Run until the client has received this number of further lines; both threads work."""
        output = b""
        for _ in range(ROUNDS_AT_MOST):
            self.writer.sink_done()
            self.server.settle()
            output += self.client.connection.take_output()
            if output.count(b"\r\n") >= count:
                return output
        raise AssertionError(f"{count} lines were expected, and these came: {output!r}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._threads:
            self.sink.stop_rounds()
        for thread in self._threads:
            thread.join()
        self.writer.close_files()
        for pipe in self._pipes:
            pipe.close()


def bytes_of(directory: Path | str) -> dict[str, bytes]:
    """Return what is in each file."""
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def layout(directory: Path | str) -> list[tuple[object, list[tuple[int, object]]]]:
    """Return each segment's header and records with their places, without times; LSNs must be those of one run."""
    found = []
    end_lsn = 0
    for _, path in segment_files.list_segments(str(directory)):
        data = Path(path).read_bytes()
        header = segment_files.parse_header(data[: segment_files.HEADER.size])
        if header is None:
            assert not any(data), "neither a segment nor a spare"
            continue
        assert header.first_lsn == end_lsn
        read = list(records(data, run_seed(header.run), header.first_lsn))
        end, how = read.pop()
        assert how == "end"
        assert not any(data[end:])
        end_lsn += end - segment_files.HEADER.size
        head = header.number, header.first_lsn, header.id_limit, header.floor, header.run
        found.append((head, [(at, without_times(members)) for at, members in read]))
    return found


def without_times(members: Any) -> dict[str, object]:
    """Return the members of a record, except for those that the clock makes."""
    return {name: value for name, value in members.items() if name not in ("created_ns", "deadline_ns")}


def put(size: int, body: bytes = b"x") -> bytes:
    """Return a put of a body of this size."""
    return b"put 0 0 60 %d\r\n%b\r\n" % (size, body * size)
