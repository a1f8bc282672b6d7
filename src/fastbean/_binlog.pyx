"""The log on disk: records into segments, syncs, the gate of the replies, compaction.

The log is one endless run of records; a record's place in it is its LSN. It lies in segments, files of one size that
are allocated before they are needed. During a tick records gather in one buffer; `commit` writes them with one call and
asks for a sync when the policy says so. Syncs run in a thread that never takes the GIL; meanwhile the loop goes on, and
what comes in forms the next group.

What always holds:

- ``committed_lsn`` never passes what is written, nor, when every reply waits for its sync, what is synced.
- A put is taken only if, with it, the allocated segments still have room for the delete and an update of every live
  job, and one segment more, for compaction.
- A segment goes, oldest first, when no live job's put record stands in it and whatever ended or moved the last of them
  is as safe as the policy makes anything.
- A failed write or sync is never tried again: ``failure`` says what happened, nothing is committed any more, and the
  server has to end.

Creating, allocating and removing files is the business of whoever sets the two hooks; see ``fastbean.binlog``.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memmove, memset, strerror

from fastbean._buffer cimport Buffer, buffer_append, buffer_free
from fastbean._journal cimport (
    SPACE_COMING, SPACE_NONE, SPACE_READY, Journal, LogFigures, Space, Store, logged_bytes,
)
from fastbean._record cimport (
    FAULT_END, FAULT_NONE, MAX_RECORD_OVERHEAD, RECORD_DELETE, RECORD_DURABLE, RECORD_NEXT_ID,
    RECORD_PUT, RECORD_UPDATE, STATE_BURIED, STATE_DELAYED, Fault, JobImage, Record, RecordType, append_delete,
    append_number, append_put, append_update, crc32c, read_record,
)

cdef extern from "<time.h>" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *time)
    int CLOCK_REALTIME
    int CLOCK_MONOTONIC

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *data, size_t size, long long offset)
    ssize_t read(int fd, void *data, size_t size)
    ssize_t write(int fd, const void *data, size_t size)
    int fdatasync(int fd)
    int close(int fd)

cdef enum:
    FORMAT_VERSION = 1
    HEADER_BYTES = 64
    HEADER_CRC_AT = 60
    ROOM_OF_JOB = 40                # allocated ahead for each live job: its delete, and an update
    IDS_AT_ONCE = 65536             # how far the ids of a log are ahead of those given out
    COPY_RECORDS = 256              # of one compaction step
    COPY_BYTES = 65536
    MARK_LENGTH_AT = 4              # where the length stands in a record of one number
    SMALLEST_MARK = 7
    LONGEST_MARK = 11
    UPDATE_BYTES = 80               # at most, as is a record of one number

    RETRY_NS = 1000000000           # after so long there may be room on a full disk again
    QUIET_SYNC_NS = 50000000        # -f 0: what no reply waits for is synced after so long, too

MAGIC = b"fastbean"


cdef int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec time
    clock_gettime(clock, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec


cdef void sync_rounds(SyncRound *round) noexcept nogil:
    """The sync thread: wait for a round, sync its files, say so; until told to stop or a sync fails."""
    cdef char byte = 0
    cdef int64_t start_ns
    cdef int place
    while True:
        while read(round.wake_out, &byte, 1) < 0 and errno == EINTR:
            pass
        if round.stopping:
            return
        start_ns = clock_ns(CLOCK_MONOTONIC)
        for place in range(round.count):
            if fdatasync(round.fds[place]) != 0:
                round.error = errno
                break
        round.last_us = <uint64_t>((clock_ns(CLOCK_MONOTONIC) - start_ns) // 1000)
        round.longest_us = max(round.longest_us, round.last_us)
        round.rounds += 1
        while write(round.done_in, &byte, 1) < 0 and errno == EINTR:
            pass


cdef inline void append_id(Buffer *ids, uint64_t *last, uint64_t id) noexcept nogil:
    """Remember one more id: the difference to the one before, as a zigzag varint."""
    cdef int64_t difference = <int64_t>(id - last[0])
    cdef uint64_t coded = (<uint64_t>difference << 1) ^ <uint64_t>(difference >> 63)
    cdef uint8_t byte
    while coded >= 0x80:
        byte = <uint8_t>(coded & 0x7F | 0x80)
        buffer_append(ids, <char *>&byte, 1)
        coded >>= 7
    byte = <uint8_t>coded
    buffer_append(ids, <char *>&byte, 1)
    last[0] = id


cdef inline uint64_t next_id_of(Segment *segment) noexcept nogil:
    """Step to the next of the segment's ids."""
    cdef uint64_t coded = 0
    cdef uint32_t shift = 0
    cdef uint8_t byte
    while True:
        byte = <uint8_t>segment.ids.data[segment.copied]
        segment.copied += 1
        coded |= <uint64_t>(byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    segment.copied_id += (coded >> 1) ^ (0 - (coded & 1))
    return segment.copied_id


cdef class Binlog(Journal):
    """A log in segments; see the module's text. `fastbean.binlog.open_log` makes one.

    Args:
        store: the engine, for compaction and for the start.
        segment_bytes: the size of a segment, 4096 bytes or more.
        max_bytes: the log's allocated size beyond which puts are refused; 0 for no limit.
        sync_every_ns: 0 syncs before each reply, -1 never; else a sync comes so many nanoseconds after a write.
        ask_for_segment: called with a size in bytes when another segment should be prepared; it answers by
            `add_spare` or `refuse_spare`.
        ask_to_remove: called with the number of a segment that is not needed any more.
    """

    def __cinit__(
        self, Store store not None, *, uint64_t segment_bytes, uint64_t max_bytes, int64_t sync_every_ns,
        ask_for_segment, ask_to_remove, sync_pipes,
    ):
        self.store = store
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        self.sync_every_ns = sync_every_ns
        self.ask_for_segment = ask_for_segment
        self.ask_to_remove = ask_to_remove
        self.spare = []
        self.closed_fds = []
        self.unsynced_since_ns = -1
        self.id_limit = 1
        self.set_wall_offset()
        self.round.wake_out, self.round.wake_in, self.round.done_out, self.round.done_in = sync_pipes

    def __dealloc__(self):
        cdef uint32_t place
        for place in range(self.segment_count):
            buffer_free(&self.segments[place].ids)
            free(self.segments[place])
        free(self.segments)
        free(self.round.fds)
        buffer_free(&self.pending)

    # Segments

    cdef Segment *current(self) noexcept:
        return self.segments[self.segment_count - 1]

    cdef Segment *segment_of(self, uint32_t number) noexcept:
        """The segment of this number, or NULL when it has been shed."""
        cdef uint32_t place
        if self.segment_count == 0 or number < self.segments[0].number:
            return NULL
        place = number - self.segments[0].number
        # Numbers follow one another, but for segments that were set aside by a repair.
        if place < self.segment_count and self.segments[place].number == number:
            return self.segments[place]
        for place in range(self.segment_count):
            if self.segments[place].number == number:
                return self.segments[place]
        return NULL

    cdef Segment *add_segment(self, uint32_t number, int fd, uint64_t size, uint64_t first_lsn) noexcept:
        """A new last segment, or NULL without memory."""
        cdef uint32_t cap = self.segment_cap * 2 if self.segment_cap else 4
        cdef Segment **segments
        cdef Segment *segment
        if self.segment_count == self.segment_cap:
            segments = <Segment **>realloc(self.segments, cap * sizeof(Segment *))
            if segments is NULL:
                return NULL
            self.segments = segments
            self.segment_cap = cap
        segment = <Segment *>calloc(1, sizeof(Segment))
        if segment is NULL:
            return NULL
        segment.number = number
        segment.fd = fd
        segment.size = size
        segment.first_lsn = first_lsn
        segment.used = HEADER_BYTES
        self.segments[self.segment_count] = segment
        self.segment_count += 1
        self.used_bytes += HEADER_BYTES
        return segment

    cdef uint64_t free_bytes(self) noexcept:
        """Allocated and not used."""
        cdef Segment *segment = self.current()
        return self.spare_bytes + (segment.size - segment.used if segment.size > segment.used else 0)

    cdef uint64_t wanted_bytes(self) noexcept:
        """What must stay allocated and not used: room for every live job, and a segment for compaction."""
        return self.live_jobs * ROOM_OF_JOB + self.segment_bytes

    cdef void ask(self, uint64_t bytes) noexcept:
        """Have another segment prepared, in which `bytes` fit."""
        cdef uint64_t size = max(self.segment_bytes, bytes + HEADER_BYTES)
        if self.asked:
            return
        if self.max_bytes and self.used_bytes + self.free_bytes() + size > self.max_bytes:
            self.refuse()
            return
        self.asked = True
        self.ask_for_segment(size)

    def add_spare(self, uint32_t number, int fd, uint64_t size):
        """A segment has been prepared: a file of `size` zero bytes that will not need to be allocated any more."""
        self.asked = False
        self.refused = False
        self.spare.append((number, fd, size))
        self.spare_bytes += size - HEADER_BYTES

    def refuse_spare(self):
        """The segment that was asked for cannot be had."""
        self.asked = False
        self.refuse()

    cdef void refuse(self) noexcept:
        self.refused = True
        self.refused_at_ns = clock_ns(CLOCK_MONOTONIC)

    cdef void rotate(self) noexcept:
        """Go on in the first spare segment."""
        cdef Segment *segment = self.current()
        cdef char[HEADER_BYTES] header
        self.write_pending()
        number, fd, size = self.spare.pop(0)
        self.spare_bytes -= <uint64_t>size - HEADER_BYTES
        self.retire(segment.fd)
        segment.fd = -1
        segment = self.add_segment(number, fd, size, self.end_lsn)
        if segment is NULL:
            self.fail("no memory for another segment", 0)
            return
        self.fill_header(segment, header)
        buffer_append(&self.pending, header, HEADER_BYTES)
        if self.sync_every_ns < 0:
            # Whatever else may be lost under this policy: ids never come again, and their limit is in the header.
            self.write_pending()
            if fdatasync(fd) != 0:
                self.fail("cannot sync the log", errno)

    cdef void fill_header(self, Segment *segment, char *header) noexcept:
        cdef uint32_t version = FORMAT_VERSION
        cdef uint32_t crc
        cdef uint64_t floor = self.highest_id + 1
        memset(header, 0, HEADER_BYTES)
        memcpy(header, <const char *>MAGIC, 8)
        memcpy(header + 8, &version, 4)
        memcpy(header + 12, &segment.number, 4)
        memcpy(header + 16, &segment.first_lsn, 8)
        memcpy(header + 24, &self.id_limit, 8)
        memcpy(header + 32, &floor, 8)
        crc = crc32c(0, header, HEADER_CRC_AT)
        memcpy(header + HEADER_CRC_AT, &crc, 4)

    # Records

    cdef size_t begin_record(self, uint64_t bytes) noexcept:
        """A record of at most `bytes` comes next. Returns where it begins in `pending`."""
        cdef Segment *segment = self.current()
        if self.pending.len == 0:
            self.set_wall_offset()
        # A spare that is too small for a large record becomes a segment without records.
        while segment.used + bytes > segment.size and self.spare and self.failure is None:
            self.rotate()
            segment = self.current()
        return self.pending.len

    cdef void end_record(self, size_t start, bint gates) noexcept:
        """The record that began at `start` is complete."""
        cdef size_t size = self.pending.len - start
        if self.pending.failed:
            self.fail("no memory for the log", 0)
            return
        self.current().used += size
        self.used_bytes += size
        self.appended_bytes += size
        self.end_lsn += size
        self.records_written += 1
        if gates:
            self.gate_lsn = self.end_lsn

    cdef void set_wall_offset(self) noexcept:
        """Look how far the wall clock is from the monotonic one: it may be set at any time."""
        self.wall_offset_ns = clock_ns(CLOCK_REALTIME) - clock_ns(CLOCK_MONOTONIC)

    cdef void to_wall(self, JobImage *job) noexcept:
        job.created_ns += self.wall_offset_ns
        if job.state == STATE_DELAYED:
            job.deadline_ns += self.wall_offset_ns

    cdef Space reserve(self, uint64_t body_bytes, uint32_t name_bytes) noexcept:
        cdef uint64_t bytes = body_bytes + MAX_RECORD_OVERHEAD
        cdef uint64_t left = self.free_bytes()
        cdef uint64_t wanted = self.wanted_bytes() + ROOM_OF_JOB
        # A record lies in one segment: what is left of the last one may be too little for it.
        if left >= wanted + bytes and (bytes <= self.segment_bytes // 2 or self.fits_somewhere(bytes)):
            if left < wanted + bytes + self.segment_bytes // 2:
                self.ask(bytes)
            return SPACE_READY
        if self.refused:
            return SPACE_NONE
        self.ask(bytes)
        return SPACE_NONE if self.refused else SPACE_COMING

    cdef bint fits_somewhere(self, uint64_t bytes) noexcept:
        """Whether a record of this size fits into the last segment or into a spare one."""
        cdef Segment *segment = self.current()
        if segment.used + bytes <= segment.size:
            return True
        return any(<uint64_t>size >= bytes + HEADER_BYTES for _, _, size in self.spare)

    cdef uint32_t put(self, JobImage *job) noexcept:
        cdef size_t start = self.begin_record(job.body_bytes + MAX_RECORD_OVERHEAD)
        cdef Segment *segment = self.current()
        self.to_wall(job)
        append_put(&self.pending, job, segment.number, self.end_lsn)
        self.end_record(start, True)
        self.highest_id = max(self.highest_id, job.id)
        self.count_in(segment, job)
        return segment.number

    cdef void update(self, JobImage *job, bint gates) noexcept:
        cdef size_t start = self.begin_record(UPDATE_BYTES)
        self.to_wall(job)
        append_update(&self.pending, job, self.current().number, self.end_lsn)
        self.end_record(start, gates)

    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept:
        cdef size_t start = self.begin_record(UPDATE_BYTES)
        append_delete(&self.pending, id, self.current().number, self.end_lsn)
        self.end_record(start, True)
        self.count_out(segment, bytes)

    cdef void more_ids(self) noexcept:
        self.number_record(RECORD_NEXT_ID, self.id_limit + IDS_AT_ONCE, True)
        # An id is told only when a sync has made it certain that it will not be told again, whatever the policy.
        self.sync_now()
        self.id_limit += IDS_AT_ONCE

    cdef void number_record(self, RecordType type, uint64_t number, bint gates) noexcept:
        cdef size_t start = self.begin_record(UPDATE_BYTES)
        append_number(&self.pending, type, number, self.current().number, self.end_lsn)
        self.end_record(start, gates)

    cdef void count_in(self, Segment *segment, JobImage *job) noexcept:
        """A put record of a live job now stands in `segment`."""
        cdef uint64_t bytes = logged_bytes(job.body_bytes, job.name_bytes)
        append_id(&segment.ids, &segment.last_id, job.id)
        if segment.ids.failed:
            self.fail("no memory for the log", 0)
        segment.live_jobs += 1
        segment.live_bytes += bytes
        self.live_jobs += 1
        self.live_bytes += bytes

    cdef void count_out(self, uint32_t number, uint64_t bytes) noexcept:
        """A job whose put record stands in this segment has gone, or moved on."""
        cdef Segment *segment = self.segment_of(number)
        self.live_jobs -= 1
        self.live_bytes -= bytes
        segment.live_jobs -= 1
        segment.live_bytes -= bytes
        segment.dead_lsn = self.end_lsn

    # Writing and syncing

    cdef void fail(self, str what, int error) noexcept:
        if self.failure is None:
            self.failure = f"{what}: {strerror(error).decode()}" if error else what

    cdef void write_pending(self) noexcept:
        """Write what has gathered, behind what was written before."""
        cdef Segment *segment
        cdef size_t done = 0
        cdef ssize_t size
        cdef int64_t start_ns
        if self.pending.len == 0 or self.failure is not None:
            return
        segment = self.current()
        start_ns = clock_ns(CLOCK_MONOTONIC)
        while done < self.pending.len:
            size = pwrite(
                segment.fd, self.pending.data + done, self.pending.len - done, segment.used - self.pending.len + done
            )
            if size >= 0:
                done += size
            elif errno != EINTR:
                self.fail(f"cannot write segment {segment.number} of the log", errno)
                return
        self.write_last_us = <uint64_t>((clock_ns(CLOCK_MONOTONIC) - start_ns) // 1000)
        self.write_longest_us = max(self.write_longest_us, self.write_last_us)
        self.pending.len = 0
        if self.pending.cap > COPY_BYTES * 16:
            buffer_free(&self.pending)
        self.written_lsn = self.end_lsn

    cdef void retire(self, int fd) noexcept:
        """This segment is full: close its file, after the next sync if there will be one."""
        if self.sync_every_ns < 0:
            close(fd)
        else:
            self.closed_fds.append(fd)

    cdef void commit(self, int64_t now_ns, bint alone) noexcept:
        """The end of a tick: write its records, and sync as the policy says.

        `alone`: one client only waits for this, and nothing else is to be done: a sync here and now is quicker than
        a round of the thread.
        """
        if self.failure is not None:
            return
        if self.refused and now_ns - self.refused_at_ns > RETRY_NS:
            self.refused = False
            self.refused_at_ns = now_ns
        if self.pending.len and self.marked_lsn < self.durable_lsn:
            self.marked_lsn = self.durable_lsn
            self.number_record(RECORD_DURABLE, self.durable_lsn, False)
        self.write_pending()
        if self.free_bytes() < self.wanted_bytes() and (not self.refused or self.ask_again):
            self.ask_again = False
            self.ask(0)
        if self.unsynced_since_ns < 0 and self.written_lsn > max(self.durable_lsn, self.round.lsn):
            self.unsynced_since_ns = now_ns
        if self.failure is None and self.sync_every_ns >= 0 and not self.syncing:
            if self.sync_every_ns == 0 and self.gate_lsn > self.durable_lsn and alone:
                self.sync_now()
            elif self.due_ns() >= 0 and self.due_ns() <= now_ns:
                self.begin_sync()
        self.let_through()

    cdef void let_through(self) noexcept:
        """Open the gate as far as the policy allows."""
        if self.failure is None:
            self.committed_lsn = self.durable_lsn if self.sync_every_ns == 0 else self.written_lsn

    cdef int64_t due_ns(self) noexcept:
        """When the next sync should begin; -1 when none is wanted, or one is on its way."""
        if self.unsynced_since_ns < 0 or self.sync_every_ns < 0 or self.syncing:
            return -1
        if self.sync_every_ns:
            return self.unsynced_since_ns + self.sync_every_ns
        return self.unsynced_since_ns + (0 if self.gate_lsn > self.durable_lsn else QUIET_SYNC_NS)

    cdef void begin_sync(self) noexcept:
        """Have the thread sync all that is written."""
        cdef int count = len(self.closed_fds) + 1
        cdef int *fds
        cdef int place
        cdef char byte = 0
        if count > self.round.cap:
            fds = <int *>realloc(self.round.fds, count * sizeof(int))
            if fds is NULL:
                return
            self.round.fds = fds
            self.round.cap = count
        for place in range(count - 1):
            self.round.fds[place] = self.closed_fds[place]
        self.round.fds[count - 1] = self.current().fd
        self.round.count = count
        self.round.lsn = self.written_lsn
        self.syncing = True
        self.unsynced_since_ns = -1
        while write(self.round.wake_in, &byte, 1) < 0 and errno == EINTR:
            pass

    def sync_done(self):
        """The thread has written to the pipe ``done``: open the gate, or fail."""
        cdef char byte
        if read(self.round.done_out, &byte, 1) != 1:
            return
        self.syncing = False
        if self.round.error:
            self.fail("cannot sync the log", self.round.error)
            return
        self.synced(self.round.lsn, self.round.count - 1)
        self.let_through()

    cdef void synced(self, uint64_t lsn, int closed) noexcept:
        """All up to `lsn` is safe, and so are the first `closed` of the full segments."""
        cdef int place
        self.durable_lsn = max(self.durable_lsn, lsn)
        for place in range(closed):
            close(self.closed_fds[place])
        del self.closed_fds[:closed]

    cdef void sync_now(self) noexcept:
        """Write and sync here and now."""
        cdef int64_t start_ns
        self.write_pending()
        if self.failure is not None or self.syncing and not self.wait_for_round():
            return
        start_ns = clock_ns(CLOCK_MONOTONIC)
        for fd in self.closed_fds:
            if fdatasync(fd) != 0:
                self.fail("cannot sync the log", errno)
                return
        if fdatasync(self.current().fd) != 0:
            self.fail("cannot sync the log", errno)
            return
        self.round.last_us = <uint64_t>((clock_ns(CLOCK_MONOTONIC) - start_ns) // 1000)
        self.round.longest_us = max(self.round.longest_us, self.round.last_us)
        self.round.rounds += 1
        self.unsynced_since_ns = -1
        self.synced(self.written_lsn, len(self.closed_fds))

    cdef bint wait_for_round(self) noexcept:
        """Wait until the thread is done; false when its sync failed."""
        self.sync_done()
        return self.failure is None

    def run_syncs(self):
        """The body of the sync thread; ends when `stop_syncs` is called, or a sync fails."""
        with nogil:
            sync_rounds(&self.round)

    def stop_syncs(self):
        """Let the sync thread end."""
        cdef char byte = 0
        self.round.stopping = True
        write(self.round.wake_in, &byte, 1)

    # Compaction

    cdef bint too_large(self, uint64_t used_bytes) noexcept:
        """Whether compaction has to go on, with so many bytes that are not about to go."""
        if self.refused:
            return used_bytes > self.live_bytes + self.live_bytes // 4 + self.segment_bytes // 2
        return used_bytes > self.live_bytes + self.live_bytes // 2 + self.segment_bytes

    cdef bint compact(self) noexcept:
        """One step; true when another can be taken at once."""
        cdef uint64_t going_bytes = 0
        cdef uint32_t place = 0
        self.shed()
        while place < self.segment_count - 1 and self.segments[place].live_jobs == 0:
            going_bytes += self.segments[place].used
            place += 1
        if going_bytes:
            self.hurry()
            if self.segments[0].live_jobs:
                return True         # they are gone
        if self.failure is None and place < self.segment_count - 1 and self.too_large(self.used_bytes - going_bytes):
            self.copy_some(self.segments[place])
            self.appended_bytes = 0
            return True
        self.appended_bytes = 0
        return False

    cdef void hurry(self) noexcept:
        """Segments wait for a sync to go. A log that is larger than it should be gets one early; at the limit of twice
        the live data and two segments the loop itself waits for it."""
        if self.sync_every_ns < 0 or not self.too_large(self.used_bytes):
            return
        if self.used_bytes > 2 * self.live_bytes + 2 * self.segment_bytes:
            self.sync_now()
            self.shed()
        elif not self.syncing:
            self.write_pending()
            self.begin_sync()

    cdef void copy_some(self, Segment *segment) noexcept:
        """Copy jobs whose put record stands in this segment to the end of the log, as they are now."""
        cdef uint64_t end = self.end_lsn + max(<uint64_t>COPY_BYTES, 4 * self.appended_bytes)
        cdef JobImage job
        cdef uint64_t id
        cdef size_t start
        while segment.copied < segment.ids.len and self.end_lsn < end and self.failure is None:
            id = next_id_of(segment)
            if not self.store.image_of(id, segment.number, &job):
                continue
            start = self.begin_record(job.body_bytes + MAX_RECORD_OVERHEAD)
            self.to_wall(&job)
            append_put(&self.pending, &job, self.current().number, self.end_lsn)
            self.end_record(start, False)
            self.count_out(segment.number, logged_bytes(job.body_bytes, job.name_bytes))
            self.count_in(self.current(), &job)
            self.store.moved(id, self.current().number)
            self.records_migrated += 1

    cdef void shed(self) noexcept:
        """Give up the oldest segments, as long as they hold nothing that could still be needed."""
        cdef uint64_t safe_lsn = self.written_lsn if self.sync_every_ns < 0 else self.durable_lsn
        cdef Segment *oldest
        while self.segment_count > 1:
            oldest = self.segments[0]
            # The next segment's header tells the limit of the ids: it must be as safe as what goes.
            if oldest.live_jobs or oldest.dead_lsn > safe_lsn or self.segments[1].first_lsn >= safe_lsn:
                return
            self.used_bytes -= oldest.used
            self.segment_count -= 1
            memmove(self.segments, self.segments + 1, self.segment_count * sizeof(Segment *))
            self.ask_to_remove(oldest.number)
            self.ask_again = True
            buffer_free(&oldest.ids)
            free(oldest)

    # The start and the stop

    def load(
        self, uint32_t number, const uint8_t[::1] data not None, uint64_t first_lsn, uint64_t id_limit, uint64_t floor,
    ):
        """Restore the jobs from one segment; call it for each, the oldest first.

        Args:
            number: the segment's number.
            data: the whole file.
            first_lsn: from its header, and likewise the next two.
            id_limit: no id at or above it had been given out.
            floor: no id at or above it had been put.

        Returns:
            What ended the reading ("end": zeros or the end of the file; "broken": bytes that are no record; "unknown":
            a change of a job of which the log cannot but know; "memory"), and the offset in the file where.
        """
        cdef const char *start = <const char *>&data[0]
        cdef size_t at = HEADER_BYTES
        cdef Fault fault
        cdef Record record
        cdef Segment *segment = self.add_segment(number, -1, data.shape[0], first_lsn)
        cdef int outcome = 0
        if segment is NULL:
            return "memory", 0
        if self.segment_count == 1:
            self.known_from_id = floor
        self.id_limit = id_limit
        self.highest_id = max(self.highest_id, floor - 1)
        self.end_lsn = first_lsn
        while True:
            fault = read_record(start + at, data.shape[0] - at, number, self.end_lsn, &record)
            if fault != FAULT_NONE:
                break
            outcome = self.restore(segment, &record)
            if outcome:
                break
            at += record.size
            self.end_lsn += record.size
        segment.used = at
        self.used_bytes += at - HEADER_BYTES
        if outcome:
            return "unknown" if outcome > 0 else "memory", at
        return "end" if fault == FAULT_END else "broken", at

    cdef int restore(self, Segment *segment, Record *record) noexcept:
        """Apply one record. 1 when it changes a job that is not known and should be, -1 without memory."""
        cdef uint64_t bytes = 0
        cdef uint64_t id = record.number
        cdef uint32_t number = 0
        cdef int outcome = 0
        if record.type == RECORD_DURABLE:
            self.durable_lsn = max(self.durable_lsn, record.number)
        elif record.type == RECORD_NEXT_ID:
            self.id_limit = record.number
        elif record.type == RECORD_DELETE:
            number = self.store.restore_delete(id, &bytes)
            if number:
                self.count_out(number, bytes)
            outcome = number == 0
        else:
            id = record.job.id
            record.job.created_ns -= self.wall_offset_ns
            if record.job.state == STATE_DELAYED:
                record.job.deadline_ns -= self.wall_offset_ns
            if record.type == RECORD_UPDATE:
                outcome = self.store.restore_update(&record.job, self.end_lsn)
            else:
                outcome = self.store.restore_put(&record.job, segment.number, self.end_lsn, &number)
                if outcome == 0:
                    self.put_restored(segment, &record.job, number)
        # A segment that has been shed may hold the put of a job below the floor, and then its delete too.
        return 0 if outcome > 0 and id < self.known_from_id else outcome

    cdef void put_restored(self, Segment *segment, JobImage *job, uint32_t before) noexcept:
        if before:
            self.count_out(before, logged_bytes(job.body_bytes, job.name_bytes))
        self.highest_id = max(self.highest_id, job.id)
        self.count_in(segment, job)

    def start(self, uint32_t number, int fd, uint64_t size):
        """The log goes on: in the last loaded segment, or in a new one of this number if there is none.

        Args:
            number: the segment's number.
            fd: its file, open for writing; it is closed when the segment is full.
            size: its size in bytes, all of it allocated.

        Raises:
            MemoryError: there is no memory for it.
        """
        cdef char[HEADER_BYTES] header
        cdef Segment *segment
        if self.segment_count == 0:
            segment = self.add_segment(number, fd, size, 0)
            if segment is NULL:
                raise MemoryError("no memory for the log")
            self.fill_header(segment, header)
            buffer_append(&self.pending, header, HEADER_BYTES)
        segment = self.current()
        segment.fd = fd
        segment.size = size
        # What was read is on the disk: it was synced before the start went on.
        self.written_lsn = self.end_lsn
        self.durable_lsn = self.end_lsn
        self.gate_lsn = self.end_lsn
        self.committed_lsn = self.end_lsn

    def finish(self, uint64_t next_id):
        """The server stops: note the next id, write everything, and sync it unless the policy is never to.

        Returns:
            The numbers of the spare segments' files, which hold nothing.
        """
        if self.failure is None and self.free_bytes() >= UPDATE_BYTES:
            self.number_record(RECORD_NEXT_ID, next_id, True)
        if self.sync_every_ns < 0:
            self.write_pending()
        else:
            self.sync_now()
        if self.segment_count and self.current().fd >= 0:
            close(self.current().fd)
            self.current().fd = -1
        for _, fd, _ in self.spare:
            close(fd)
        return [number for number, _, _ in self.spare]

    # What others want to know

    @property
    def segment_size(self):
        """The size of a segment in bytes."""
        return self.segment_bytes

    def spare_ids(self, uint64_t limit):
        """What is cut off the log says that ids up to `limit` may have been given out: they never come again."""
        self.id_limit = max(self.id_limit, limit)

    @property
    def end(self):
        """The LSN at which the log ends."""
        return self.end_lsn

    @property
    def durable(self):
        """The LSN up to which the log is known to be synced."""
        return self.durable_lsn

    @property
    def next_segment(self):
        """The number of the next segment that will be prepared."""
        return self.current().number + len(self.spare) + 1

    cdef bint figures_of(self, LogFigures *figures) noexcept:
        figures.oldest = self.segments[0].number
        figures.current = self.current().number
        figures.migrated = self.records_migrated
        figures.written = self.records_written
        figures.live_bytes = self.live_bytes
        figures.used_bytes = self.used_bytes + self.free_bytes()
        figures.syncs = self.round.rounds
        figures.sync_last_us = self.round.last_us
        figures.sync_longest_us = self.round.longest_us
        figures.write_last_us = self.write_last_us
        figures.write_longest_us = self.write_longest_us
        return True

    def figures(self):
        """The state of the log, by name; sizes in bytes, times in microseconds."""
        return {
            "oldest": self.segments[0].number, "current": self.current().number, "live_bytes": self.live_bytes,
            "live_jobs": self.live_jobs, "used_bytes": self.used_bytes, "end_lsn": self.end_lsn,
            "durable_lsn": self.durable_lsn, "highest_id": self.highest_id, "id_limit": self.id_limit,
            "segments": self.segment_count,
        }


def records(const uint8_t[::1] data not None, uint32_t number, uint64_t first_lsn):
    """Read the records of one segment, without restoring anything.

    Args:
        data: the whole file.
        number: the segment's number.
        first_lsn: the LSN of its first record.

    Yields:
        For each record its offset in the file and a dict of its members; at last the offset where reading ended, and
        "end" or "broken".
    """
    cdef size_t at = HEADER_BYTES
    cdef Record record
    cdef Fault fault = FAULT_NONE
    while True:
        fault = read_record(
            <const char *>&data[0] + at, data.shape[0] - at, number, first_lsn + at - HEADER_BYTES, &record
        )
        if fault != FAULT_NONE:
            yield at, "end" if fault == FAULT_END else "broken"
            return
        yield at, members(&record)
        at += record.size


cdef dict members(Record *record):
    cdef JobImage *job = &record.job
    if record.type == RECORD_DELETE:
        return {"type": "delete", "id": record.number}
    if record.type == RECORD_DURABLE:
        return {"type": "durable", "lsn": record.number}
    if record.type == RECORD_NEXT_ID:
        return {"type": "next-id", "id": record.number}
    found = {
        "type": "update" if record.type == RECORD_UPDATE else "put", "id": job.id,
        "state": ("ready", "delayed", "buried")[<int>job.state], "pri": job.pri, "delay": job.delay_s,
        "reserves": job.reserves, "timeouts": job.timeouts, "releases": job.releases, "buries": job.buries,
        "kicks": job.kicks,
    }
    if job.state == STATE_DELAYED:
        found["deadline_ns"] = job.deadline_ns
    elif job.state == STATE_BURIED:
        found["burial"] = job.burial
    if record.type == RECORD_PUT:
        found["ttr"] = job.ttr_s
        found["created_ns"] = job.created_ns
        found["tube"] = job.name[:job.name_bytes]
        found["body"] = job.body[:job.body_bytes]
    return found


def highest_mark(const uint8_t[::1] data not None, uint32_t number, uint64_t first_lsn, bint of_ids=False) -> int:
    """Look through a damaged segment for what it says of the last sync, or of the ids.

    Every offset is tried, since one unreadable record hides where the next one begins.

    Args:
        data: the whole file.
        number: the segment's number.
        first_lsn: the LSN of its first record.
        of_ids: look for the limit of the ids instead.

    Returns:
        The highest LSN up to which the log was synced (the highest limit of the ids), 0 if no readable record tells.
    """
    cdef size_t at = HEADER_BYTES
    cdef size_t size = data.shape[0]
    cdef const char *start = <const char *>&data[0] if size else NULL
    cdef uint64_t highest = 0
    cdef int wanted = RECORD_NEXT_ID if of_ids else RECORD_DURABLE
    cdef Record record
    while at + SMALLEST_MARK <= size:
        # Only what looks like such a record is checked: the checksum of a long run at each offset would take for ever.
        if (
            data[at + MARK_LENGTH_AT] <= LONGEST_MARK and data[at + MARK_LENGTH_AT + 1] == wanted
            and read_record(start + at, size - at, number, first_lsn + at - HEADER_BYTES, &record) == FAULT_NONE
        ):
            highest = max(highest, record.number)
        at += 1
    return highest


# What the tools write and look for; a running log needs none of it.

cdef enum:
    LONGEST_NAME = 200


def encode_put(job, uint32_t number, uint64_t lsn) -> bytes:
    """The record of a job, as a put of it or its copy by compaction would be.

    Args:
        job: a `fastbean.binlog.job.SavedJob`; its values are not checked but for their ranges.
        number: of the segment.
        lsn: where in the log the record begins.

    Raises:
        MemoryError: there is no memory for it.
        OverflowError: a number is out of its range.
        ValueError: the name of the tube is too long.
    """
    cdef JobImage image
    cdef Buffer buffer
    cdef bytes tube = job.tube
    cdef bytes body = job.body
    if len(tube) > LONGEST_NAME:
        raise ValueError(f"job {job.id}: the name of its tube is longer than {LONGEST_NAME} bytes")
    memset(&image, 0, sizeof(JobImage))      # ready
    image.id = job.id
    image.created_ns = job.created_ns
    image.deadline_ns = job.deadline_ns
    image.burial = job.burial
    image.pri = job.pri
    image.delay_s = job.delay_s
    image.ttr_s = job.ttr_s
    image.reserves = job.reserves
    image.timeouts = job.timeouts
    image.releases = job.releases
    image.buries = job.buries
    image.kicks = job.kicks
    if job.state == "delayed":
        image.state = STATE_DELAYED
    elif job.state == "buried":
        image.state = STATE_BURIED
    image.name = tube
    image.name_bytes = len(tube)
    image.body = body
    image.body_bytes = len(body)
    memset(&buffer, 0, sizeof(Buffer))
    append_put(&buffer, &image, number, lsn)
    return take_bytes(&buffer)


def encode_mark(uint64_t durable_lsn, uint32_t number, uint64_t lsn) -> bytes:
    """The record that says up to which LSN the log is synced. It begins at `lsn`, in the segment of this number.

    Raises:
        MemoryError: there is no memory for it.
    """
    cdef Buffer buffer
    memset(&buffer, 0, sizeof(Buffer))
    append_number(&buffer, RECORD_DURABLE, durable_lsn, number, lsn)
    return take_bytes(&buffer)


cdef bytes take_bytes(Buffer *buffer):
    """What is in the buffer, which is given back."""
    if buffer.failed:
        buffer_free(buffer)
        raise MemoryError("no memory for a record")
    found = buffer.data[:buffer.len]
    buffer_free(buffer)
    return found


def find_record(const uint8_t[::1] data not None, uint32_t number, uint64_t first_lsn, size_t at) -> int:
    """Look behind damage for the next record.

    Args:
        data: the whole file.
        number: the segment's number.
        first_lsn: the LSN of its first record.
        at: the offset at which to begin.

    Returns:
        The offset of the first record at or behind `at`; the size of the file if there is none.
    """
    cdef size_t size = data.shape[0]
    cdef const char *start = <const char *>&data[0] if size else NULL
    cdef Record record
    while at + SMALLEST_MARK <= size:
        if is_plausible(start + at + MARK_LENGTH_AT, size - at - MARK_LENGTH_AT) and read_record(
            start + at, size - at, number, first_lsn + at - HEADER_BYTES, &record
        ) == FAULT_NONE:
            return at
        at += 1
    return size


cdef bint is_plausible(const char *head, size_t size) noexcept nogil:
    """Whether a record can begin like this: its checksum would take long to try at each offset of a file."""
    cdef const uint8_t *at = <const uint8_t *>head
    cdef const uint8_t *end = at + min(size, 24)
    cdef uint64_t length = 0
    cdef uint32_t shift = 0
    cdef uint8_t type
    while at < end and at[0] >= 0x80 and shift < 35:
        length |= <uint64_t>(at[0] & 0x7F) << shift
        shift += 7
        at += 1
    if end - at < 3:
        return False
    length |= <uint64_t>at[0] << shift
    type = at[1]
    at += 2
    if type == RECORD_DELETE or type == RECORD_DURABLE or type == RECORD_NEXT_ID:
        return length <= LONGEST_MARK
    if type != RECORD_PUT and (type != RECORD_UPDATE or length > UPDATE_BYTES):
        return False
    while at < end and at[0] >= 0x80:       # the id
        at += 1
    return end - at >= 2 and at[1] <= STATE_BURIED
