"""The binlog on disk: records into segments, syncs, the gate of the replies, compaction.

The binlog is one endless sequence of records; a record's position in it is its LSN. It is stored in segments, files of
one size that are allocated before they are needed. During an iteration records gather in one buffer; `commit` writes
them with one call and starts a sync when the policy says so. Syncs run in a thread that never takes the GIL; meanwhile
the loop continues, and new records form the next group.

Invariants:

- ``committed_lsn`` never passes what is written, nor, if every reply waits for its sync, what is synced.
- A segment is dropped, oldest first, when no live job's put record and no setting of a tube that has to be kept is in
  it, the records that ended or moved those are as safe as the policy makes anything, and a shed record says so.
- A failed write or sync is never retried: ``failure`` has the reason, nothing is committed any more, and the server
  must end.
"""

cimport cython
from libc.errno cimport EINTR, errno
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, strerror

from fastbean.base.buffer cimport Buffer, buffer_append
from fastbean.base.clock cimport NEVER, monotonic_ns, wall_ns
from fastbean.engine.journal cimport (
    BinlogFigures, JobImage, JobSource, Journal, Space, TubeImage, logged_bytes, settings_bytes,
)
from fastbean.binlog.record cimport (
    MAX_RECORD_OVERHEAD, MAX_TUBE_BYTES, MAX_UPDATE_BYTES, RECORD_DURABLE, RECORD_NEXT_ID, RECORD_SHED, RUN_BYTES,
    SEGMENT_HEADER_BYTES, RecordType, append_delete, append_number, append_put, append_tube, append_update,
    fill_segment_header, job_to_wall, tube_to_wall,
)
from fastbean.binlog.room cimport STEP_BYTES, Room, Segment, is_needed, next_id_of
from fastbean.binlog.sync cimport sync_begin, sync_finished, sync_inline, sync_rounds, sync_stop

from fastbean.binlog.record import run_seed

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *data, size_t size, long long offset)
    int close(int fd)


@cython.final
cdef class BinlogWriter(Journal):
    """A binlog in segments; see the module's text. `fastbean.binlog.binlog.Binlog` makes one.

    Args:
        jobs: of the engine, for compaction and for the start.
        sync_every_ns: 0 syncs before each reply, -1 never; any other value is the time from a write to its sync.
        sync_pipes: the two pipes of the sync thread: the reading and the writing end of the one that wakes it, then of
            the one by which it answers.
        others: see `Room`.
    """

    def __cinit__(self, JobSource jobs not None, *, int64_t sync_every_ns, sync_pipes, **others):
        self.jobs = jobs
        self.room = Room(self, **others)
        self.sync_every_ns = sync_every_ns
        self.closed_fds = []
        self.unsynced_since_ns = -1
        self.id_limit = 1
        self.floor_bytes = STEP_BYTES
        self.begun_ns = monotonic_ns()
        self.set_wall_offset()
        self.round.wake_out, self.round.wake_in, self.round.done_out, self.round.done_in = sync_pipes

    def __dealloc__(self):
        free(self.round.fds)

    # Records

    cdef Space reserve(self, uint64_t body_bytes) noexcept:
        return self.room.reserve(body_bytes)

    cdef void rotate(self) noexcept:
        """Continue in the first spare segment."""
        cdef Segment *segment = self.room.current()
        cdef char[SEGMENT_HEADER_BYTES] header
        self.write_pending()
        number, fd, size = self.room.spare.pop(0)
        self.room.spare_bytes -= <uint64_t>size - SEGMENT_HEADER_BYTES
        self.retire(segment.fd)
        segment.fd = -1
        segment = self.room.add_segment(number, fd, size, self.end_lsn)
        if segment is NULL:
            self.fail("no memory for another segment", 0)
            return
        self.fill_header(header, segment)
        buffer_append(&self.room.pending, header, SEGMENT_HEADER_BYTES)

    cdef void fill_header(self, char *header, Segment *segment) noexcept:
        fill_segment_header(
            header, segment.number, segment.first_lsn, self.id_limit, self.highest_id + 1, self.run_id,
        )

    cdef size_t begin_record(self, uint64_t bytes) noexcept:
        """Prepare for a record of at most `bytes`. Returns where it begins in `pending`."""
        cdef Segment *segment = self.room.current()
        if self.room.pending.len == 0:
            self.set_wall_offset()
        # A spare that is too small for a large record becomes a segment without records.
        while segment.used + bytes > segment.size and self.room.spare and self.failure is None:
            self.rotate()
            segment = self.room.current()
        return self.room.pending.len

    cdef void end_record(self, size_t start, bint gates) noexcept:
        """The record that began at `start` is complete."""
        cdef size_t size = self.room.pending.len - start
        if self.room.pending.failed:
            self.fail("no memory for the binlog", 0)
            return
        self.room.current().used += size
        self.room.used_bytes += size
        self.appended_bytes += size
        self.end_lsn += size
        self.records_written += 1
        if gates:
            self.gate_lsn = self.end_lsn
        self.tight = self.is_tight()

    cdef void set_wall_offset(self) noexcept:
        """Note the difference between the wall clock, which may be set at any time, and the monotonic one."""
        self.wall_offset_ns = wall_ns() - monotonic_ns()

    cdef uint32_t put(self, JobImage *job) noexcept:
        cdef size_t start = self.begin_record(job.body_bytes + MAX_RECORD_OVERHEAD)
        cdef Segment *segment = self.room.current()
        job_to_wall(job, self.wall_offset_ns)
        append_put(&self.room.pending, job, self.seed, self.end_lsn)
        self.end_record(start, True)
        self.highest_id = max(self.highest_id, job.id)
        self.room.count_in(segment, job)
        return segment.number

    cdef void update(self, JobImage *job, bint gates) noexcept:
        cdef size_t start = self.begin_record(MAX_UPDATE_BYTES)
        job_to_wall(job, self.wall_offset_ns)
        append_update(&self.room.pending, job, self.seed, self.end_lsn)
        self.end_record(start, gates)
        self.room.fresh_bytes += MAX_UPDATE_BYTES // 4  # of 80: an update takes 16 to 26 bytes

    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept:
        cdef size_t start = self.begin_record(MAX_UPDATE_BYTES)
        append_delete(&self.room.pending, id, self.seed, self.end_lsn)
        self.end_record(start, True)
        self.room.count_out(segment, bytes)
        self.room.fresh_bytes += bytes

    cdef uint32_t settings(self, TubeImage *tube, uint32_t segment) noexcept:
        cdef size_t start = self.begin_record(MAX_TUBE_BYTES)
        tube_to_wall(tube, self.wall_offset_ns)
        append_tube(&self.room.pending, tube, self.seed, self.end_lsn)
        self.end_record(start, True)
        self.settings_over(segment, tube.name_bytes)
        # Settings without a pause are those of every new tube. An older record that says otherwise is in this segment
        # or an earlier one, which is dropped before this one.
        if tube.pause_s == 0:
            self.room.fresh_bytes += settings_bytes(tube.name_bytes)
            return 0
        self.room.count_tube_in(self.room.current(), tube.name_bytes)
        return self.room.current().number

    cdef void settings_over(self, uint32_t segment, uint32_t name_bytes) noexcept:
        if segment:
            self.room.count_tube_out(segment, name_bytes)
            self.room.fresh_bytes += settings_bytes(name_bytes)

    cdef void more_ids(self) noexcept:
        self.number_record(RECORD_NEXT_ID, self.id_limit + IDS_AT_ONCE, True)
        # An id is used only once a sync makes sure that it is never assigned again, whatever the policy.
        self.sync_now()
        self.id_limit += IDS_AT_ONCE

    cdef void number_record(self, RecordType type, uint64_t number, bint gates) noexcept:
        cdef size_t start = self.begin_record(MAX_UPDATE_BYTES)
        append_number(&self.room.pending, type, number, self.seed, self.end_lsn)
        self.end_record(start, gates)

    # Writing and syncing

    cdef void fail(self, str what, int error) noexcept:
        if self.failure is None:
            self.failure = f"{what}: {strerror(error).decode()}" if error else what
        self.gate_lsn = UINT64_MAX  # no reply that depends on the binlog is sent any more

    cdef void write_pending(self) noexcept:
        """Write the gathered records after those written before."""
        cdef Buffer *pending = &self.room.pending
        cdef Segment *segment
        cdef size_t done = 0
        cdef ssize_t size
        cdef int64_t start_ns
        if pending.len == 0 or self.failure is not None:
            return
        segment = self.room.current()
        start_ns = monotonic_ns()
        while done < pending.len:
            size = pwrite(segment.fd, pending.data + done, pending.len - done, segment.used - pending.len + done)
            if size >= 0:
                done += size
            elif errno != EINTR:
                self.fail(f"cannot write segment {segment.number} of the binlog", errno)
                return
        self.write_last_us = <uint64_t>((monotonic_ns() - start_ns) // 1000)
        self.write_longest_us = max(self.write_longest_us, self.write_last_us)
        pending.len = 0
        self.written_lsn = self.end_lsn

    cdef void retire(self, int fd) noexcept:
        """The segment is full: close its file, after the next sync if the policy has syncs."""
        if self.sync_every_ns < 0:
            close(fd)
            self.left_unsynced = True
            return
        try:
            self.closed_fds.append(fd)
        except MemoryError:
            # What no sync knows of would count as synced.
            close(fd)
            self.fail("no memory for the files to be synced", 0)

    cdef void commit(self, int64_t now_ns, bint alone) noexcept:
        """The end of an iteration: write its records, and sync as the policy says.

        `alone`: apart from clients that wait for this sync, no client is ready to be served; so a sync in the loop is
        quicker than a round of the thread.
        """
        if self.failure is not None:
            return
        # Records whose replies must wait for the next sync anyway can stay in memory until the running one ends.
        if self.sync_every_ns or not self.syncing or self.room.pending.len >= GATHERED_BYTES:
            if self.room.pending.len and self.marked_lsn < self.durable_lsn:
                self.marked_lsn = self.durable_lsn
                self.number_record(RECORD_DURABLE, self.durable_lsn, False)
            self.write_pending()
        self.room.keep_room(now_ns)
        if self.syncing and not self.warned:
            self.warn_of_sync(now_ns - self.round.begun_ns, self.round.lsn, self.round.count, True)
        if self.unsynced_since_ns < 0 and self.written_lsn > max(self.durable_lsn, self.round.lsn):
            self.unsynced_since_ns = now_ns
        if self.failure is None and self.sync_every_ns >= 0 and not self.syncing:
            if self.sync_every_ns == 0 and self.gate_lsn > self.durable_lsn and alone:
                self.sync_now()
            elif self.due_ns() >= 0 and self.due_ns() <= now_ns:
                self.begin_sync()
        self.open_gate()

    cdef bint syncs_shortly(self) noexcept:
        cdef bint waited_for = self.gate_lsn > self.durable_lsn and not self.syncing
        return self.sync_every_ns == 0 and waited_for and self.round.last_us <= SHORT_SYNC_US

    cdef void open_gate(self) noexcept:
        """Open the gate as far as the policy allows."""
        if self.failure is None:
            self.committed_lsn = self.durable_lsn if self.sync_every_ns == 0 else self.written_lsn

    cdef int64_t due_ns(self) noexcept:
        """When to begin the next sync, or to report the running one as slow; NEVER when neither is due."""
        if self.syncing and self.slow_sync_ns and not self.warned:
            return self.round.begun_ns + self.slow_sync_ns
        if self.unsynced_since_ns < 0 or self.sync_every_ns < 0 or self.syncing:
            return NEVER
        if len(self.closed_fds) >= UNSYNCED_FILES // 2:
            return self.unsynced_since_ns
        if self.sync_every_ns:
            return self.unsynced_since_ns + self.sync_every_ns
        return self.unsynced_since_ns + (0 if self.gate_lsn > self.durable_lsn else QUIET_SYNC_NS)

    cdef void begin_sync(self) noexcept:
        """Have the thread sync all that is written; without memory for its list of files, sync here."""
        if sync_begin(&self.round, self.closed_fds, self.room.current().fd, self.written_lsn) < 0:
            self.sync_now()
            return
        self.closing = len(self.closed_fds)
        self.syncing = True
        self.warned = False
        self.unsynced_since_ns = -1

    def sync_done(self):
        """The thread has reported the end of a round through its pipe: open the gate, or fail."""
        # A command that had to wait for the round may have taken the report already, in the same iteration.
        if not self.syncing or not sync_finished(&self.round):
            return
        self.syncing = False
        if self.round.error:
            self.fail("cannot sync the binlog", self.round.error)
            return
        self.synced(self.round.lsn, self.closing)
        self.open_gate()

    cdef void synced(self, uint64_t lsn, int closed) noexcept:
        """Everything up to `lsn` is synced, and so are the first `closed` of the full segments."""
        cdef int place
        self.warn_of_sync(<int64_t>self.round.last_us * 1000, lsn, closed + 1, False)
        for place in range(closed):
            close(self.closed_fds[place])
        del self.closed_fds[:closed]
        # Under -F a full segment is not synced, and a later sync says nothing about it.
        if not self.left_unsynced:
            self.durable_lsn = max(self.durable_lsn, lsn)

    cdef void warn_of_sync(self, int64_t took_ns, uint64_t lsn, int files, bint running) noexcept:
        """Report a slow sync of everything up to `lsn`; a running one once."""
        cdef uint64_t bytes = lsn - min(lsn, self.durable_lsn)
        if self.slow_sync_ns and took_ns >= self.slow_sync_ns:
            self.warned = running
            self.on_slow_sync(running, took_ns // 1000000, files, bytes)

    cdef void sync_now(self) noexcept:
        """Write and sync in the loop."""
        cdef int error
        self.write_pending()
        if self.syncing:
            self.sync_done()
        if self.failure is not None:
            return
        error = sync_inline(&self.round, self.closed_fds, self.room.current().fd)
        if error:
            self.fail("cannot sync the binlog", error)
            return
        self.unsynced_since_ns = -1
        self.synced(self.written_lsn, len(self.closed_fds))

    def run_syncs(self):
        """The body of the sync thread; ends when `stop_syncs` is called."""
        with nogil:
            sync_rounds(&self.round)

    def stop_syncs(self):
        """Make the sync thread end."""
        sync_stop(&self.round)

    # Compaction

    cdef bint compact(self) noexcept:
        """Take one step of compaction; true when another one can follow at once."""
        cdef uint64_t going_bytes = 0
        cdef uint32_t place = 0
        cdef bint copies = False
        self.shed()
        while place < self.room.segment_count - 1 and not is_needed(self.room.segments[place]):
            going_bytes += self.room.segments[place].used
            place += 1
        if self.failure is None and place < self.room.segment_count - 1:
            copies = self.room.too_large(self.room.used_bytes - going_bytes)
            copies = copies or self.room.short_of_room(place, going_bytes)
            copies = copies and not self.room.waits_for_room(place) and self.copy_some(self.room.segments[place])
        self.appended_bytes = 0
        self.look_at_room(place, going_bytes)
        if going_bytes:
            self.sync_early()
        return copies

    cdef void look_at_room(self, uint32_t place, uint64_t going_bytes) noexcept:
        """Compute how little room may be left before commands have to wait.

        While the segment at `place` can be copied, or room is on its way, enough for that copy must stay. Otherwise
        only the end of the last segment stops commands.
        """
        cdef uint64_t copied = 0
        self.floor_bytes = STEP_BYTES
        self.room.next_copy_bytes = 0
        if place < self.room.segment_count - 1:
            self.room.next_copy_bytes = self.room.segments[place].live_bytes
            copied = self.room.next_copy_bytes + self.room.largest_bytes
            if self.room.asked or going_bytes or self.room.free_bytes() >= copied:
                self.floor_bytes += copied
        self.tight = self.is_tight()

    cdef bint is_tight(self) noexcept:
        return self.room.free_bytes() < self.floor_bytes or (
            self.sync_every_ns >= 0
            and (self.end_lsn - self.durable_lsn > UNSYNCED_BYTES or len(self.closed_fds) >= UNSYNCED_FILES)
        ) or (
            (self.room.pending.cap - self.room.pending.len < STEP_BYTES or self.room.ahead is NULL)
            and self.room.make_memory(0) < 0
        )

    cdef void sync_early(self) noexcept:
        """Start a sync early if the binlog is too large, because segments wait for it; at the limit of twice the live
        data and two segments, sync in the loop."""
        cdef Room room = self.room
        if self.sync_every_ns < 0 or not (self.tight or room.pass_lsn or room.too_large(room.used_bytes)):
            return
        if self.room.used_bytes > 2 * self.room.live_bytes + 2 * self.room.segment_bytes:
            self.sync_now()
            self.shed()
        elif not self.syncing:
            self.write_pending()
            self.begin_sync()

    cdef bint copy_some(self, Segment *segment) noexcept:
        """Copy jobs whose put record is in this segment, in their present state, to the end of the binlog.

        Returns whether another step can follow at once; there may be no room for the next job.
        """
        cdef uint64_t end = self.end_lsn + max(<uint64_t>COPY_BYTES, 4 * self.appended_bytes)
        cdef JobImage job
        cdef uint64_t id, bytes, before_id
        cdef size_t before, start
        while segment.copied < segment.ids.len and self.end_lsn < end and self.failure is None:
            before = segment.copied
            before_id = segment.copied_id
            id = next_id_of(segment)
            if not self.jobs.image_of(id, segment.number, &job):
                continue
            bytes = <uint64_t>job.body_bytes + MAX_RECORD_OVERHEAD
            if not self.has_room_to_copy(bytes):
                segment.copied = before
                segment.copied_id = before_id
                return False
            start = self.begin_record(bytes)
            job_to_wall(&job, self.wall_offset_ns)
            append_put(&self.room.pending, &job, self.seed, self.end_lsn)
            self.end_record(start, False)
            self.room.count_out(segment.number, logged_bytes(job.body_bytes, job.name_bytes))
            self.room.count_in(self.room.current(), &job)
            self.jobs.moved(id, self.room.current().number)
            self.records_migrated += 1
        return segment.copied < segment.ids.len or self.copy_settings(segment, end)

    cdef bint copy_settings(self, Segment *segment, uint64_t end_lsn) noexcept:
        """The same for settings of tubes that have to be kept, until the binlog reaches `end_lsn`."""
        cdef TubeImage tube
        cdef size_t start
        while self.end_lsn < end_lsn and self.failure is None and self.jobs.oldest_settings(segment.number, &tube):
            if not self.has_room_to_copy(MAX_TUBE_BYTES):
                return False
            start = self.begin_record(MAX_TUBE_BYTES)
            tube_to_wall(&tube, self.wall_offset_ns)
            append_tube(&self.room.pending, &tube, self.seed, self.end_lsn)
            self.end_record(start, False)
            self.room.count_tube_out(segment.number, tube.name_bytes)
            self.room.count_tube_in(self.room.current(), tube.name_bytes)
            self.jobs.settings_moved(self.room.current().number)
            self.records_migrated += 1
        return True

    cdef bint has_room_to_copy(self, uint64_t bytes) noexcept:
        """Whether a copy of at most `bytes` can be written now; if not, ask for room."""
        if self.room.fits(bytes) and self.room.make_memory(bytes) == 0:
            return True
        # On a full disk this is repeated with every step; ask only once in RETRY_NS.
        if not self.room.refused and not self.room.fits(bytes):
            self.room.ask(bytes)
        return False

    cdef void shed(self) noexcept:
        """Drop the oldest segments that are no longer needed.

        A shed record comes first: without it, a dropped segment could not be distinguished from a lost one.
        """
        cdef uint64_t safe_lsn = self.written_lsn if self.sync_every_ns < 0 else self.durable_lsn
        cdef uint32_t place = 0
        while place < self.room.segment_count - 1 and not is_needed(self.room.segments[place]):
            place += 1
        if self.room.segments[place].first_lsn > self.needed_lsn:
            self.needed_lsn = self.room.segments[place].first_lsn
            self.number_record(RECORD_SHED, self.needed_lsn, False)
            self.shed_lsn = self.end_lsn
            if self.sync_every_ns < 0:
                self.room.sync_before_removal = self.room.current().number
        while (
            self.room.segment_count > 1 and self.room.segments[1].first_lsn <= self.needed_lsn
            and self.shed_lsn <= safe_lsn and self.room.segments[0].dead_lsn <= safe_lsn
            # The next segment's header has the limit of the ids: it must be as safe as what is dropped.
            and self.room.segments[1].first_lsn < safe_lsn
            and self.room.drop_oldest()
        ):
            pass

    # The start and the stop

    def start(self, uint32_t number, int fd, uint64_t size):
        """Continue in the last loaded segment, or in a new one of this number if none was loaded.

        Args:
            number: the segment's number.
            fd: its file, open for writing; it is closed when the segment is full.
            size: its size in bytes, all of it allocated.

        Raises:
            MemoryError: there is no memory; the file stays the caller's.
        """
        cdef char[SEGMENT_HEADER_BYTES] header
        cdef Segment *segment
        cdef bint is_new = self.room.segment_count == 0
        if (is_new and self.room.add_segment(number, -1, size, 0) is NULL) or self.room.make_memory(0) < 0:
            raise MemoryError("no memory for the binlog")
        segment = self.room.current()
        if is_new:
            self.room.allocated_bytes = size
            self.fill_header(header, segment)
            buffer_append(&self.room.pending, header, SEGMENT_HEADER_BYTES)
        segment.fd = fd
        segment.size = size
        self.needed_lsn = max(self.needed_lsn, self.room.segments[0].first_lsn)
        # It is not known how much of what was read a compaction could win back.
        self.room.fresh_bytes = self.room.used_bytes
        # What was read is on the disk: the start has synced it.
        self.written_lsn = self.end_lsn
        self.durable_lsn = self.end_lsn
        self.gate_lsn = self.end_lsn
        self.committed_lsn = self.end_lsn

    def finish(self, uint64_t next_id):
        """The server stops: note the next id, write everything, and sync it unless the policy is never to.

        The spare segments stay: on a full disk the next start could not allocate new ones.
        """
        if self.failure is None and self.room.free_bytes() >= MAX_UPDATE_BYTES:
            self.number_record(RECORD_NEXT_ID, next_id, True)
        if self.sync_every_ns < 0:
            self.write_pending()
        else:
            self.sync_now()

    def close_files(self):
        """Close all files and write nothing: at the end, or after a failed start. May be called again."""
        if self.room.segment_count and self.room.current().fd >= 0:
            close(self.room.current().fd)
            self.room.current().fd = -1
        for fd in self.closed_fds + [fd for _, fd, _ in self.room.spare]:
            close(fd)
        self.closed_fds = []
        self.room.spare = []

    def fail_with(self, str what not None):
        """A failure outside of the writer, without which the binlog cannot continue; `what` describes it."""
        self.fail(what, 0)

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
        memcpy(self.run_id, <const char *>run, RUN_BYTES)
        self.seed = run_seed(run)

    @property
    def first_needed(self):
        """The LSN below which no record is needed, as far as the binlog has been read; 0 if it does not say."""
        return self.needed_lsn

    @property
    def durable(self):
        """The LSN up to which the binlog is known to be synced."""
        return self.durable_lsn

    cdef bint figures_of(self, BinlogFigures *figures) noexcept:
        figures.oldest = self.room.segments[0].number
        figures.current = self.room.current().number
        figures.migrated = self.records_migrated
        figures.written = self.records_written
        figures.live_bytes = self.room.live_bytes
        figures.disk_bytes = self.room.allocated_bytes
        figures.syncs = self.round.rounds
        figures.sync_last_us = self.round.last_us
        figures.sync_longest_us = self.round.longest_us
        figures.write_last_us = self.write_last_us
        figures.write_longest_us = self.write_longest_us
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
