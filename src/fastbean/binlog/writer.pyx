"""The binlog: encodes records, hands them to a sink, opens the gate of the replies.

The binlog is one endless sequence of records; a record's position in it is its LSN. During an iteration records gather
in the open batch, in `Room.pending`; `commit` hands it to the sink. In a local binlog that is `FileSink`: the records
are stored in segments, files of one size that are allocated before they are needed, and a thread syncs them when the
policy says so; meanwhile the loop continues, and new records form the next group. A remote sink takes one batch at a
time, which is safe once it says so.

Invariants:

- ``committed_lsn`` never passes what is written, nor, if every reply waits for its sync, what is safe.
- An id is used only if a safe record reserves its block, so that no later start can assign it again.
- A failed write or sync is never retried: ``failure`` has the reason, nothing is committed any more, and the server
  must end.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, strerror

from fastbean.base.clock cimport NEVER, monotonic_ns, wall_ns
from fastbean.base.notices cimport NOTICE_SLOW_SYNC, NOTICE_SLOW_WRITE, Notices
from fastbean.binlog.batch cimport Cut, batch_clear, batch_cut, batch_free, batch_is_empty
from fastbean.binlog.file_sink cimport FileSink
from fastbean.engine.journal cimport (
    BinlogFigures, JobImage, JobSource, Journal, Space, TubeImage, settings_bytes,
)
from fastbean.binlog.record cimport (
    MAX_RECORD_OVERHEAD, MAX_TUBE_BYTES, MAX_UPDATE_BYTES, RECORD_DURABLE, RECORD_NEXT_ID, RUN_BYTES, RecordType,
    append_delete, append_number, append_put, append_tube, append_update, job_to_wall, tube_to_wall,
)
from fastbean.binlog.room cimport STEP_BYTES, Room, Segment, Spare
from fastbean.binlog.sink cimport SINK_MADE_SAFE, SINK_NOTHING, SINK_WROTE, Sink, SinkEvent

from fastbean.binlog.record import run_seed


cdef extern from "<unistd.h>" nogil:
    int close(int fd)


@cython.final
cdef class BinlogWriter(Journal):
    """A binlog in segments; see the module's text. `fastbean.binlog.binlog.Binlog` makes one.

    Args:
        jobs: of the engine, for compaction and for the start.
        sink: where the records become safe.
        sync_every_ns: of a local binlog: 0 syncs before each reply, -1 never; any other value is the time from a write
            to its sync.
        others: see `Room`.
    """

    def __cinit__(self, JobSource jobs not None, Sink sink not None, *, int64_t sync_every_ns=0, **others):
        self.jobs = jobs
        self.notices = Notices()
        self.room = Room(self, has_files=isinstance(sink, FileSink), **others)
        self.sink = sink
        self.files = sink if isinstance(sink, FileSink) else None
        self.binds_reads = sink.remote
        self.sync_every_ns = sync_every_ns
        self.unsynced_since_ns = -1
        self.id_limit = 1
        self.ids_limit = 1
        self.floor_bytes = STEP_BYTES
        self.begun_ns = monotonic_ns()
        self.set_wall_offset()

    # Records

    cdef Space reserve(self, uint64_t body_bytes) noexcept nogil:
        return self.room.reserve(body_bytes)

    cdef void rotate(self) noexcept nogil:
        """Continue in the first spare segment."""
        cdef Spare spare = self.room.take_spare()
        if self.room.add_segment(spare.number, spare.bytes, self.end_lsn) is NULL or self.cut(spare.fd) < 0:
            self.fail(b"no memory for another segment", 0)

    cdef int cut(self, int fd) noexcept nogil:
        """The last segment, in this file, begins at the end of the open batch. Returns 0, or -1 without memory."""
        cdef Cut cut
        cut.segment = self.room.current().number
        cut.fd = fd
        cut.id_limit = max(self.id_limit, self.ids_limit)
        cut.floor = self.highest_id + 1
        return batch_cut(&self.room.pending, &cut)

    cdef size_t begin_record(self, uint64_t bytes) noexcept nogil:
        """Prepare for a record of at most `bytes`. Returns where it begins in `pending`."""
        cdef Segment *segment = self.room.current()
        if self.room.pending.bytes.len == 0:
            self.set_wall_offset()
        # A spare that is too small for a large record becomes a segment without records.
        while segment.used + bytes > segment.size and self.room.spare.count and not self.failed:
            self.rotate()
            segment = self.room.current()
        return self.room.pending.bytes.len

    cdef void end_record(self, size_t start, bint gates) noexcept nogil:
        """The record that began at `start` is complete."""
        cdef size_t size = self.room.pending.bytes.len - start
        if self.room.pending.bytes.failed:
            self.fail(b"no memory for the binlog", 0)
            return
        self.room.current().used += size
        self.room.used_bytes += size
        self.appended_bytes += size
        self.end_lsn += size
        self.records_written += 1
        if gates:
            self.gate_lsn = self.end_lsn
        self.tight = self.is_tight()

    cdef void set_wall_offset(self) noexcept nogil:
        """Note the difference between the wall clock, which may be set at any time, and the monotonic one."""
        self.wall_offset_ns = wall_ns() - monotonic_ns()

    cdef uint32_t put(self, JobImage *job) noexcept nogil:
        cdef size_t start = self.begin_record(job.body_bytes + MAX_RECORD_OVERHEAD)
        cdef Segment *segment = self.room.current()
        job_to_wall(job, self.wall_offset_ns)
        append_put(&self.room.pending.bytes, job, self.seed, self.end_lsn)
        self.end_record(start, True)
        self.highest_id = max(self.highest_id, job.id)
        self.room.count_in(segment, job)
        return segment.number

    cdef void update(self, JobImage *job, bint gates) noexcept nogil:
        cdef size_t start = self.begin_record(MAX_UPDATE_BYTES)
        job_to_wall(job, self.wall_offset_ns)
        append_update(&self.room.pending.bytes, job, self.seed, self.end_lsn)
        self.end_record(start, gates)
        self.room.fresh_bytes += MAX_UPDATE_BYTES // 4  # of 80: an update takes 16 to 26 bytes

    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept nogil:
        cdef size_t start = self.begin_record(MAX_UPDATE_BYTES)
        append_delete(&self.room.pending.bytes, id, self.seed, self.end_lsn)
        self.end_record(start, True)
        self.room.count_out(segment, bytes)
        self.room.fresh_bytes += bytes

    cdef uint32_t settings(self, TubeImage *tube, uint32_t segment) noexcept nogil:
        cdef size_t start = self.begin_record(MAX_TUBE_BYTES)
        tube_to_wall(tube, self.wall_offset_ns)
        append_tube(&self.room.pending.bytes, tube, self.seed, self.end_lsn)
        self.end_record(start, True)
        self.settings_over(segment, tube.name_bytes)
        # Settings without a pause are those of every new tube. An older record that says otherwise is in this segment
        # or an earlier one, which is dropped before this one.
        if tube.pause_s == 0:
            self.room.fresh_bytes += settings_bytes(tube.name_bytes)
            return 0
        self.room.count_tube_in(self.room.current(), tube.name_bytes)
        return self.room.current().number

    cdef void settings_over(self, uint32_t segment, uint32_t name_bytes) noexcept nogil:
        if segment:
            self.room.count_tube_out(segment, name_bytes)
            self.room.fresh_bytes += settings_bytes(name_bytes)

    # A block of ids may be used once the record that reserves it is safe. It is recorded when half of the last block is
    # used, and becomes safe with the next round. If the ids run out before that, commands wait.
    cdef void more_ids(self) noexcept nogil:
        if self.ids_limit > self.id_limit:
            self.out_of_ids = True
            self.tight = True
            return
        self.ids_limit = self.id_limit + IDS_AT_ONCE
        self.more_ids_at = self.id_limit - 1
        self.number_record(RECORD_NEXT_ID, self.ids_limit, False)
        self.ids_lsn = self.end_lsn

    cdef void take_ids(self, uint64_t safe_lsn) noexcept nogil:
        """Everything up to this LSN is safe: so may be the next block of ids."""
        if self.ids_limit == self.id_limit or safe_lsn < self.ids_lsn:
            return
        self.id_limit = self.ids_limit
        self.more_ids_at = self.id_limit - IDS_AT_ONCE // 2
        self.out_of_ids = False
        self.tight = self.is_tight()

    cdef bint wants_ids(self) noexcept nogil:
        """Whether a sync has to begin for the next block of ids: under -F no other one would, or commands wait."""
        return self.ids_limit > self.id_limit and (self.out_of_ids or self.sync_every_ns < 0)

    def begin_ids(self):
        """At the start: make a first block of ids safe, so that no put has to wait for it.

        Without room for its record, `commit` records it later, and commands wait.
        """
        if self.failed:
            return
        if self.room.free_bytes() < MAX_UPDATE_BYTES:
            self.out_of_ids = True
            self.tight = True
            return
        self.more_ids()
        self.write()
        if self.files is not None and not self.failed:
            self.files.sync_here()
            self.note_sink()
            self.take_ids(self.files.synced_lsn)
            self.open_gate()

    cdef void number_record(self, RecordType type, uint64_t number, bint gates) noexcept nogil:
        cdef size_t start = self.begin_record(MAX_UPDATE_BYTES)
        append_number(&self.room.pending.bytes, type, number, self.seed, self.end_lsn)
        self.end_record(start, gates)

    # Writing and syncing

    cdef void fail(self, const char *what, int error) noexcept nogil:
        """`what`: a text that stays in memory."""
        if not self.failed:
            self.failed = True
            self.failed_what = what
            self.failed_errno = error
            self.failed_segment = self.room.current().number if self.room.segment_count else 0
        self.gate_lsn = UINT64_MAX  # no reply that depends on the binlog is sent any more

    cdef void write(self) noexcept nogil:
        """Hand the open batch to the sink, unless that is busy with an earlier one."""
        cdef uint64_t bytes = self.room.pending.bytes.len
        if self.failed or self.sink.busy or batch_is_empty(&self.room.pending):
            return
        self.sink.begin(&self.room.pending)
        # The next batch may be gathered in a smaller buffer.
        self.tight = self.is_tight()
        self.note_sink()
        if self.files is not None and not self.sink.busy:
            self.warn_of_write(bytes)

    cdef void note_sink(self) noexcept nogil:
        """Note how far the sink is, or that it failed."""
        if self.sink.error_text is not NULL:
            self.fail(self.sink.error_text, self.sink.error)
            self.failed_segment = self.sink.error_segment
            return
        self.durable_lsn = max(self.durable_lsn, self.sink.safe_lsn)

    cdef void warn_of_write(self, uint64_t bytes) noexcept nogil:
        """Report a write that was slow; the sink has just ended it."""
        if self.slow_sync_ns and <int64_t>self.files.writing.last_us * 1000 >= self.slow_sync_ns:
            self.notices.note(NOTICE_SLOW_WRITE, <int64_t>self.files.writing.last_us // 1000, <int64_t>bytes)
            self.has_requests = True

    cdef void commit(self, int64_t now_ns, bint alone) noexcept nogil:
        """The end of an iteration: write its records, and sync as the policy says.

        `alone`: apart from clients that wait for this sync, no client is ready to be served; so a sync in the loop is
        quicker than a round of the thread.
        """
        if self.failed:
            return
        if self.out_of_ids and self.ids_limit == self.id_limit and self.room.free_bytes() >= MAX_UPDATE_BYTES:
            self.more_ids()
        # Records whose replies must wait for the next sync anyway can stay in memory until the running one ends.
        if self.sync_every_ns or not self.is_syncing() or self.room.pending.bytes.len >= GATHERED_BYTES:
            self.mark_and_write()
        self.room.keep_room(now_ns)
        if self.files is not None:
            self.sync_as_due(now_ns, alone)
        self.open_gate()

    cdef void mark_and_write(self) noexcept nogil:
        """Write, beginning with how far the binlog is known to be safe, if that has changed."""
        if self.sink.busy:
            return
        if self.room.pending.bytes.len and self.marked_lsn < self.durable_lsn:
            self.marked_lsn = self.durable_lsn
            self.number_record(RECORD_DURABLE, self.durable_lsn, False)
        self.write()

    cdef bint is_syncing(self) noexcept nogil:
        return self.files is not None and self.files.syncing.running

    cdef void sync_as_due(self, int64_t now_ns, bint alone) noexcept nogil:
        """Begin a sync if the policy says so, and report a running one that is slow."""
        if self.is_syncing() and not self.warned:
            self.warn_of_sync(
                now_ns - self.files.syncing.begun_ns, self.durable_lsn, self.files.syncing_lsn,
                self.files.syncing_files.count, True,
            )
        if self.unsynced_since_ns < 0 and self.sink.written_lsn > max(self.durable_lsn, self.files.syncing_lsn):
            self.unsynced_since_ns = now_ns
        if self.failed or self.is_syncing() or (self.sync_every_ns < 0 and not self.wants_ids()):
            return
        if alone and self.sync_every_ns == 0 and not self.sink.busy and self.gate_lsn > self.durable_lsn and (
            self.files.syncing.expected_us <= LONE_SYNC_US
        ):
            self.sync_here()
        elif self.due_ns() >= 0 and self.due_ns() <= now_ns:
            self.begin_sync()

    cdef bint syncs_shortly(self) noexcept nogil:
        return (
            self.files is not None and self.sync_every_ns == 0 and self.gate_lsn > self.durable_lsn
            and not self.is_syncing() and not self.sink.busy and self.files.syncing.last_us <= SHORT_SYNC_US
        )

    cdef void open_gate(self) noexcept nogil:
        """Open the gate as far as the policy allows."""
        if not self.failed:
            self.committed_lsn = self.durable_lsn if self.sync_every_ns == 0 else self.sink.written_lsn

    cdef int64_t due_ns(self) noexcept nogil:
        """When to begin the next sync, or to report the running one as slow; NEVER when neither is due."""
        if self.files is None:
            return NEVER
        if self.is_syncing():
            return self.files.syncing.begun_ns + self.slow_sync_ns if self.slow_sync_ns and not self.warned else NEVER
        if self.unsynced_since_ns < 0:
            return NEVER
        if self.wants_ids():
            return self.unsynced_since_ns
        if self.sync_every_ns < 0:
            return NEVER
        if self.sink.unsynced_files >= UNSYNCED_FILES // 2:
            return self.unsynced_since_ns
        if self.sync_every_ns:
            return self.unsynced_since_ns + self.sync_every_ns
        return self.unsynced_since_ns + (0 if self.gate_lsn > self.durable_lsn else QUIET_SYNC_NS)

    cdef void begin_sync(self) noexcept nogil:
        """Have the thread sync all that is written."""
        self.files.begin_sync()
        self.warned = False
        self.unsynced_since_ns = -1
        self.note_sink()

    cdef void sync_here(self) noexcept nogil:
        """Sync in the loop all that is written: the last sync was short."""
        cdef uint64_t before_lsn = self.durable_lsn
        cdef int files = <int>self.sink.unsynced_files + 1
        self.files.sync_here()
        self.unsynced_since_ns = -1
        self.note_sink()
        if not self.failed:
            self.synced(files, before_lsn)

    def sink_done(self):
        """The sink has reported the end of some work: open the gate, or fail."""
        self.take_event()
        self.make_requests()

    cdef void take_event(self) noexcept nogil:
        cdef uint64_t before_lsn = self.sink.written_lsn
        cdef uint64_t before_safe_lsn = self.durable_lsn
        cdef SinkEvent event = self.sink.finished()
        if event == SINK_NOTHING:
            return
        self.note_sink()
        if self.failed:
            return
        if event == SINK_WROTE and self.files is not None:
            self.warn_of_write(self.sink.written_lsn - before_lsn)
        elif event == SINK_MADE_SAFE:
            self.synced(self.files.syncing_files.count, before_safe_lsn)
        if self.sink.remote:
            self.take_ids(self.sink.safe_lsn)
        if not self.sink.busy and self.sink.batch.bytes.cap > self.kept_bytes:
            self.room.free_buffer(&self.sink.batch.bytes)
        self.tight = self.is_tight()
        self.open_gate()

    cdef void synced(self, int files, uint64_t before_lsn) noexcept nogil:
        """A sync has ended; before it, the binlog was safe up to `before_lsn`."""
        self.warn_of_sync(
            <int64_t>self.files.syncing.last_us * 1000, before_lsn, self.files.syncing_lsn, files, False,
        )
        self.take_ids(self.files.synced_lsn)

    cdef void warn_of_sync(
        self, int64_t took_ns, uint64_t from_lsn, uint64_t to_lsn, int files, bint running,
    ) noexcept nogil:
        """Report a slow sync of everything between two LSNs; a running one once."""
        if self.slow_sync_ns and took_ns >= self.slow_sync_ns:
            self.warned = running
            self.notices.note(
                NOTICE_SLOW_SYNC, running, took_ns // 1000000, files, <int64_t>(to_lsn - min(to_lsn, from_lsn)),
            )
            self.has_requests = True

    cdef uint64_t open_batch(self) noexcept nogil:
        if self.room.pending.bytes.len == 0:
            self.number_record(RECORD_DURABLE, self.durable_lsn, False)
        return self.end_lsn

    cdef bint is_tight(self) noexcept nogil:
        cdef uint64_t safe_lsn = self.sink.written_lsn if self.sync_every_ns < 0 else self.durable_lsn
        return self.out_of_ids or self.room.free_bytes() < self.floor_bytes or (
            self.end_lsn - safe_lsn > UNSYNCED_BYTES
            or self.sink.unsynced_files + self.room.pending.cuts_count >= UNSYNCED_FILES
        ) or (
            (self.room.pending.bytes.cap - self.room.pending.bytes.len < STEP_BYTES or self.room.ahead is NULL)
            and self.room.make_memory(0) < 0
        )

    # The start and the stop

    def start(self, uint32_t number, int fd, uint64_t size):
        """Continue in the last loaded segment, or in a new one of this number if none was loaded.

        Args:
            number: the segment's number.
            fd: its file, open for writing, which the sink closes when the segment is full; -1 if it has none.
            size: its size in bytes, all of it allocated.

        Raises:
            MemoryError: there is no memory; the file stays the caller's.
        """
        cdef Segment *segment
        cdef bint is_new = self.room.segment_count == 0
        if (is_new and self.room.add_segment(number, size, 0) is NULL) or self.room.make_memory(0) < 0:
            raise MemoryError("no memory for the binlog")
        batch_clear(&self.room.pending, self.end_lsn)
        segment = self.room.current()
        segment.size = size
        if is_new:
            self.room.allocated_bytes = size
            self.cut(fd)
        elif self.files is not None:
            self.files.fd = fd
            self.files.segment = number
            self.files.offset = segment.used
        self.needed_lsn = max(self.needed_lsn, self.room.segments[0].first_lsn)
        # It is not known how much of what was read a compaction could win back.
        self.room.fresh_bytes = self.room.used_bytes
        # What was read is on the disk: the start has synced it.
        self.sink.written_lsn = self.end_lsn
        self.sink.safe_lsn = self.end_lsn
        self.durable_lsn = self.end_lsn
        self.gate_lsn = self.end_lsn
        self.committed_lsn = self.end_lsn
        self.ids_limit = self.id_limit
        self.more_ids_at = self.id_limit

    def finish(self, uint64_t next_id):
        """The server stops: note the next id, write everything, and sync it unless the policy is never to.

        The threads have ended. The spare segments stay: on a full disk the next start could not allocate new ones.
        """
        while not self.failed and (self.sink.busy or self.is_syncing()):
            self.take_event()
        if not self.failed and self.room.free_bytes() >= MAX_UPDATE_BYTES:
            self.number_record(RECORD_NEXT_ID, next_id, True)
        self.write()
        if self.files is not None and self.sync_every_ns >= 0 and not self.failed:
            self.sync_here()
        self.open_gate()

    def close_files(self):
        """Close all files and write nothing: at the end, or after a failed start. May be called again."""
        if self.files is not None:
            self.files.close_files()
        batch_free(&self.room.pending)
        while self.room.spare.count:
            close(self.room.take_spare().fd)

    def fail_with(self, str what not None):
        """The binlog cannot continue, for a reason outside of the writer; `what` describes it."""
        if not self.failed:
            self.failed_text = what
        self.fail(NULL, 0)

    @property
    def failure(self):
        """Why the binlog cannot continue, or None."""
        if not self.failed:
            return None
        if self.failed_what is NULL:
            return self.failed_text
        what = self.failed_what.decode()
        if "%d" in what:
            what %= self.failed_segment
        return f"{what}: {strerror(self.failed_errno).decode()}" if self.failed_errno else what

    def make_requests(self):
        """Have the files created and removed that are asked for, and report slow syncs."""
        self.has_requests = False
        if not self.notices.is_empty():
            for kind, numbers, _ in self.notices.take()[0]:
                if kind == NOTICE_SLOW_SYNC:
                    running, ms, files, size, _ = numbers
                    self.on_slow_sync(bool(running), ms, files, size)
                else:
                    self.on_slow_write(*numbers[:2])
        self.room.make_requests()

    # For other modules

    def skip_ids(self, uint64_t limit):
        """The part that was cut off says that ids below `limit` may have been assigned: never assign them again."""
        self.id_limit = max(self.id_limit, limit)

    @property
    def end(self):
        """The LSN at which the binlog ends."""
        return self.end_lsn

    def begin_run(self, bytes run not None):
        """Set the identity of the run, RUN_BYTES, before anything is read or written."""
        assert len(run) == RUN_BYTES
        if self.files is not None:
            memcpy(self.files.run_id, <const char *>run, RUN_BYTES)
        self.seed = run_seed(run)

    @property
    def first_needed(self):
        """The LSN below which no record is needed, as far as the binlog has been read; 0 if it does not say."""
        return self.needed_lsn

    @property
    def durable(self):
        """The LSN up to which the binlog is known to be synced."""
        return self.durable_lsn

    cdef bint figures_of(self, BinlogFigures *figures) noexcept nogil:
        figures.oldest = self.room.segments[0].number
        figures.current = self.room.current().number
        figures.migrated = self.records_migrated
        figures.written = self.records_written
        figures.live_bytes = self.room.live_bytes
        figures.disk_bytes = self.room.allocated_bytes
        if self.files is not None:
            figures.syncs = self.files.syncing.count
            figures.sync_last_us = self.files.syncing.last_us
            figures.sync_longest_us = self.files.syncing.longest_us
            figures.write_last_us = self.files.writing.last_us
            figures.write_longest_us = self.files.writing.longest_us
        return True

    def figures(self):
        """The state of the binlog, by name; sizes in bytes, times in microseconds."""

        return {
            "oldest": self.room.segments[0].number, "current": self.room.current().number,
            "live_bytes": self.room.live_bytes,
            "live_jobs": self.room.live_jobs, "used_bytes": self.room.used_bytes, "end_lsn": self.end_lsn,
            "durable_lsn": self.durable_lsn, "highest_id": self.highest_id, "id_limit": self.id_limit,
            "segments": self.room.segment_count,
        }
