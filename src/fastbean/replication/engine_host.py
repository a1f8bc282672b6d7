"""The engine of a node: applies what other nodes have written, and writes to the stream once this node leads."""

from __future__ import annotations

import os

from fastbean.binlog.compaction import Compaction
from fastbean.binlog.descriptors import Pipe
from fastbean.binlog.loader import Loader
from fastbean.binlog.writer import BinlogWriter
from fastbean.replication.stream_sink import StreamSink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from fastbean.engine.restore import EngineJobs
    from fastbean.replication.requests import Apply, Lead, Room

# Of a stream's limit. The rest is for deletes, updates and copies, which must never be refused.
SHARE_FOR_SEGMENTS = 0.8


class HostError(Exception):
    """The engine cannot apply what the stream has; the text says why."""


class EngineHost:
    """The binlog of an engine without jobs, and the pipes that wake its loop and the driver of the stream.

    Args:
        jobs: the jobs of the engine.
        segment_bytes: the size of the stretches of records that compaction frees as a whole.

    Attributes:
        journal: what the engine writes to once it leads.
        has_records: it has applied something.
        sink: where the driver takes batches from.
        wake_pipe: the driver watches its reading end: there is a batch, or something to trim.
        done_pipe: the loop watches its reading end, and calls ``journal.sink_done`` then.
        room_pipe: the loop watches its reading end, and calls `give_room` then.
    """

    def __init__(self, jobs: EngineJobs, segment_bytes: int) -> None:
        self._jobs = jobs
        self._loader: Loader | None = None
        self.has_records = False
        self._leads_from_lsn = 0
        self._granted_bytes = 0  # since the stream has last reported its size
        self._left_bytes: float | None = None  # None: there is no limit
        self.wake_pipe = Pipe()
        self.done_pipe = Pipe()
        self.room_pipe = Pipe()
        self._wanted_bytes = 0  # of the segment that was asked for
        self.sink = StreamSink(self.wake_pipe.writing, self.done_pipe.reading, self.done_pipe.writing)
        self.journal = BinlogWriter(
            jobs, self.sink, segment_bytes=segment_bytes, ask_for_segment=self._ask_for_segment
        )  # fmt: skip

    def apply(self, request: Apply, now_ns: int) -> None:
        """Apply records of the leader; raises HostError if that is not possible."""
        self._begin_run(request.run)
        assert self._loader is not None
        self.has_records = True
        end = self._loader.apply(request.records, request.first_lsn, request.wall_offset_ns + now_ns, now_ns)
        if end != "end":
            raise HostError(f"the records of the stream cannot be applied at LSN {self.journal.end}: {end}")

    def _begin_run(self, run: bytes) -> None:
        if self._loader is None:
            self.journal.begin_run(run)
            self._loader = Loader(self.journal)

    def lead(self, request: Lead) -> None:
        """Make the journal write to the stream; its first batch is begun, and clients have to wait for its end."""
        self._begin_run(request.run)
        journal = self.journal
        if journal.end != request.first_lsn:
            raise HostError(f"the records end at LSN {journal.end}, and the claim is at {request.first_lsn}")
        self._leads_from_lsn = request.first_lsn
        number = journal.figures()["current"] if self.has_records else 1
        journal.start(number, -1, journal.room.segment_size)
        journal.room.add_spare(journal.room.next_segment, -1, journal.room.segment_size)
        journal.compactor = Compaction(journal)
        self._jobs.keep_binlog(journal)
        journal.begin_ids()

    @property
    def may_serve(self) -> bool:
        """Whether the loop has noted that the first batch is safe; before, there is no id for a put."""
        return self.journal.durable > self._leads_from_lsn

    def room(self, request: Room) -> None:
        """Note how full the stream is."""
        self._granted_bytes = 0
        self._left_bytes = None
        if request.max_bytes > 0:
            self._left_bytes = request.max_bytes * SHARE_FOR_SEGMENTS - request.bytes

    def _ask_for_segment(self, size: int) -> None:
        # The loop has to continue with the puts that wait for it.
        self._wanted_bytes = size
        os.write(self.room_pipe.writing, b"\0")

    def give_room(self) -> None:
        """Segments have no files here; the limit of the stream decides whether there is another one."""
        os.read(self.room_pipe.reading, 4096)
        size = self._wanted_bytes
        if self._left_bytes is not None and self._granted_bytes + size > self._left_bytes:
            self.journal.room.refuse_spare()
            return
        self._granted_bytes += size
        self.journal.room.add_spare(self.journal.room.next_segment, -1, size)

    def fail(self, why: str) -> None:
        """Another node leads: no reply that waits is ever sent."""
        self.journal.fail_with(why)

    def close(self) -> None:
        """Free everything; the driver and the loop do not watch the pipes any more."""
        self.journal.close_files()
        self.wake_pipe.close()
        self.done_pipe.close()
        self.room_pipe.close()
