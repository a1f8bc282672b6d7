"""Where the log lies: its segments, the room in them, and what stands in each.

Room is always allocated before it is needed, in segments that are prepared ahead. What is free must do for

- every live job's delete and some updates (`slack_bytes`), so that only puts are ever refused;
- a copy of the largest segment, without which compaction could not free one (`wanted_bytes`);
- what is lost at the ends of segments, where the next record did not fit, when all is copied (`packing_bytes`).

A put is taken only if all that is left beside it, and if there is memory for its record: records gather in ``pending``,
which has room for one step more than what stands in it; without that, commands wait (`make_memory`). Creating,
allocating and removing files is the business of whoever sets the hooks; see ``fastbean.binlog``.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove, memset, strerror

from fastbean.base.buffer cimport buffer_free, buffer_reserve
from fastbean.base.clock cimport monotonic_ns
from fastbean.engine.journal cimport SPACE_COMING, SPACE_NO_MEMORY, SPACE_NONE, SPACE_READY, Journal, Space
from fastbean.base.debug_counters cimport LIVE_SEGMENTS, live_born, live_gone
from fastbean.binlog.record cimport MAX_RECORD_OVERHEAD, SEGMENT_HEADER_BYTES, get_varint, is_zero

cdef extern from *:
    """
    #include <errno.h>
    #include <unistd.h>
    /* At or behind `at`, where bytes stand that are no hole; -1 if nowhere. Without word of holes there are none. */
    static long long fastbean_next_data(int fd, long long at) {
    #ifdef SEEK_DATA
        long long found = lseek(fd, at, SEEK_DATA);
        return found >= 0 ? found : errno == ENXIO ? -1 : at;
    #else
        (void)fd;
        return at;
    #endif
    }
    """
    long long fastbean_next_data(int fd, long long at) nogil
    ssize_t pread(int fd, void *data, size_t size, long long offset) nogil
    ssize_t pwrite(int fd, const void *data, size_t size, long long offset) nogil

cdef enum:
    PAGE_BYTES = 4096
    READ_BYTES = 32768
    ROOM_OF_JOB = 40                # allocated ahead for each live job: its delete, and an update
    KEPT_BYTES = 1048576            # for records, of an iteration without many
    RETRY_NS = 1000000000           # after so long there may be room on a full disk again


cdef uint64_t next_id_of(Segment *segment) noexcept nogil:
    """Step to the next of the segment's ids."""
    cdef uint64_t coded
    cdef const char *ids = segment.ids.data
    segment.copied = get_varint(ids + segment.copied, ids + segment.ids.len, &coded) - ids
    segment.copied_id += (coded >> 1) ^ (0 - (coded & 1))
    return segment.copied_id


cdef void free_segment(Segment *segment) noexcept nogil:
    buffer_free(&segment.ids)
    live_gone(LIVE_SEGMENTS)
    free(segment)


def write_zeros(int fd, uint64_t size, uint64_t at=0):
    """Write zero bytes into a file, without the GIL.

    Args:
        fd: the file, open for writing.
        size: the offset in bytes up to which.
        at: the offset from which on.

    Raises:
        OSError: a write has failed; what was written before it stays.
    """
    cdef int error
    with nogil:
        error = write_zero_pages(fd, size, at)
    if error:
        raise OSError(error, strerror(error).decode())


cdef int write_zero_pages(int fd, uint64_t size, uint64_t at) noexcept nogil:
    """Returns 0, or the errno of the write that has failed.

    Page by page: what one call writes, Linux keeps in memory in pieces as large as can be, and a sync of a few records
    goes over the whole piece that they lie in. With small ones a sync on ext4 took a sixth less.
    """
    cdef char[PAGE_BYTES] zeros
    cdef ssize_t written
    memset(zeros, 0, PAGE_BYTES)
    while at < size:
        written = pwrite(fd, zeros, min(size - at, <uint64_t>PAGE_BYTES - at % PAGE_BYTES), at)
        if written >= 0:
            at += written
        elif errno != EINTR:
            return errno
    return 0


def fill_holes(int fd, uint64_t size):
    """Write zeros wherever a file reads as zeros, so that all of it is allocated; without the GIL.

    What is no zero is neither written nor moved, so that a power cut in between harms nothing.

    Args:
        fd: the file, open for reading and writing.
        size: the offset in bytes up to which; the file has at least as many afterwards.

    Raises:
        OSError: a read or a write has failed; what was written before it stays.
    """
    cdef int error
    with nogil:
        error = fill_zero_pages(fd, size)
    if error:
        raise OSError(error, strerror(error).decode())


cdef int fill_zero_pages(int fd, uint64_t size) noexcept nogil:
    """Returns 0, or the errno of the read or write that has failed."""
    cdef char[PAGE_BYTES] found
    cdef uint64_t at = 0
    cdef ssize_t length
    cdef int error
    while at < size:
        length = pread(fd, found, min(size - at, <uint64_t>PAGE_BYTES - at % PAGE_BYTES), at)
        if length < 0:
            if errno != EINTR:
                return errno
            continue
        if length == 0:
            return write_zero_pages(fd, size, at)
        if is_zero(found, length):
            error = write_zero_pages(fd, at + length, at)
            if error:
                return error
        at += length
    return 0


def reads_as_zeros(int fd, uint64_t at=0) -> bool:
    """Whether nothing but zeros stands in a file; without the GIL.

    Where the file system tells what was allocated and never written, that is not read: most of a spare segment, and of
    the last one.

    Args:
        fd: the file, open for reading, and synced: some file systems take for a hole what is not on the disk yet. Its
            offset moves.
        at: the offset in bytes from which on.

    Raises:
        OSError: it cannot be read.
    """
    cdef int error
    with nogil:
        error = look_for_bytes(fd, at)
    if error > 0:
        raise OSError(error, strerror(error).decode())
    return error == 0


cdef int look_for_bytes(int fd, long long at) noexcept nogil:
    """Returns 0 if there are none but zeros, -1 if there are others, or the errno of the read that has failed."""
    cdef char[READ_BYTES] found
    cdef ssize_t size
    while True:
        at = fastbean_next_data(fd, at)
        size = pread(fd, found, READ_BYTES, at) if at >= 0 else 0
        if size == 0:
            return 0
        if size > 0 and not is_zero(found, size):
            return -1
        if size < 0 and errno != EINTR:
            return errno
        at += max(size, 0)


cdef class Segments(Journal):
    """The segments of a log, and the room in them; `fastbean.binlog.writer.BinlogWriter` writes into them.

    Args:
        segment_bytes: the size of a segment, 4096 bytes or more.
        max_bytes: the log's allocated size beyond which puts are refused; 0 for no limit.
        ask_for_segment: called with a size in bytes when another segment should be prepared; it answers by
            `add_spare` or `refuse_spare`.
        ask_to_recycle: called with the number and the size of a segment that is not needed any more and should become
            the next spare; answered likewise.
        ask_to_remove: called with the number and the size of a segment that is not needed any more; answered by
            `removed`.
    """

    def __cinit__(
        self, *args, uint64_t segment_bytes, uint64_t max_bytes, ask_for_segment, ask_to_recycle, ask_to_remove,
        **kwargs,
    ):
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        self.ask_for_segment = ask_for_segment
        self.ask_to_recycle = ask_to_recycle
        self.ask_to_remove = ask_to_remove
        self.spare = []
        self.going = []

    def __dealloc__(self):
        cdef uint32_t place
        for place in range(self.segment_count):
            free_segment(self.segments[place])
        if self.ahead is not NULL:
            free_segment(self.ahead)
        free(self.segments)
        buffer_free(&self.pending)

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

    cdef int prepare_segment(self) noexcept:
        """Memory for another segment, and for its first ids. Returns 0, or -1 without memory."""
        cdef uint32_t cap = self.segment_cap * 2 if self.segment_cap else 4
        cdef Segment **segments
        if self.segment_count == self.segment_cap:
            segments = <Segment **>realloc(self.segments, cap * sizeof(Segment *))
            if segments is NULL:
                return -1
            self.segments = segments
            self.segment_cap = cap
        self.ahead = <Segment *>calloc(1, sizeof(Segment))
        if self.ahead is NULL:
            return -1
        if buffer_reserve(&self.ahead.ids, ID_BYTES) < 0:
            free(self.ahead)
            self.ahead = NULL
            return -1
        live_born(LIVE_SEGMENTS)
        return 0

    cdef Segment *add_segment(self, uint32_t number, int fd, uint64_t size, uint64_t first_lsn) noexcept:
        """A new last segment, or NULL without memory."""
        cdef Segment *segment
        if self.ahead is NULL and self.prepare_segment() < 0:
            return NULL
        segment = self.ahead
        self.ahead = NULL
        if self.segment_count:
            self.wasted_bytes += self.current().size - min(self.current().used, self.current().size)
        segment.number = number
        segment.fd = fd
        segment.size = size
        segment.first_lsn = first_lsn
        segment.used = SEGMENT_HEADER_BYTES
        self.segments[self.segment_count] = segment
        self.segment_count += 1
        self.used_bytes += SEGMENT_HEADER_BYTES
        return segment

    cdef bint drop_oldest(self) noexcept:
        """The oldest segment is not needed any more: forget it, and let it go. False without memory for that."""
        cdef Segment *oldest = self.segments[0]
        # First, because it may fail.
        try:
            self.going.append((oldest.number, oldest.size))
        except MemoryError:
            return False
        self.used_bytes -= oldest.used
        self.wasted_bytes -= oldest.size - min(oldest.used, oldest.size)
        self.segment_count -= 1
        memmove(self.segments, self.segments + 1, self.segment_count * sizeof(Segment *))
        self.ask_again = True
        free_segment(oldest)
        self.retire_segments()
        return True

    cdef void retire_segments(self) noexcept:
        """See to the segments that are not needed any more: where there is want of room, the oldest becomes a spare.

        On a full disk its blocks must not be freed: another program could take them. While a question is open, it is
        unknown whether the disk is full. A segment for which there is no memory to ask keeps its place; `keep_room`
        comes back to it.
        """
        while self.going and not self.asked:
            number, size = self.going[0]
            try:
                if self.full and size == self.segment_bytes and self.wants_room():
                    self.asked = True
                    self.recycling_bytes = size
                    self.ask_to_recycle(number, size)
                else:
                    self.ask_to_remove(number, size)
            except BaseException as error:
                self.asked = False
                self.recycling_bytes = 0
                if isinstance(error, MemoryError):
                    return
                raise
            self.going.pop(0)

    cdef uint64_t coming_bytes(self) noexcept:
        """What segments that are not needed any more will give when they are spares."""
        return self.recycling_bytes + len(self.going) * self.segment_bytes

    cdef void count_out(self, uint32_t number, uint64_t bytes) noexcept:
        """A job whose put record stands in this segment has gone, or moved on."""
        cdef Segment *segment = self.segment_of(number)
        self.live_jobs -= 1
        self.live_bytes -= bytes
        segment.live_jobs -= 1
        segment.live_bytes -= bytes
        segment.dead_lsn = self.end_lsn
        if self.live_jobs == 0:
            self.largest_bytes = 0

    # Room

    cdef uint64_t free_bytes(self) noexcept:
        """Allocated and not used."""
        cdef Segment *segment = self.current()
        return self.spare_bytes + (segment.size - segment.used if segment.size > segment.used else 0)

    cdef uint64_t slack_bytes(self) noexcept:
        """Room for changes of the jobs that are there, before compaction has to make new room for them."""
        return max(self.live_jobs * ROOM_OF_JOB, self.segment_bytes // 4)

    cdef uint64_t packing_bytes(self) noexcept:
        """What a copy of all may lose at the ends of segments, beyond what is lost already."""
        cdef uint64_t lost = self.live_bytes
        if self.largest_bytes * 2 < self.segment_bytes:
            lost = self.live_bytes // (self.segment_bytes - self.largest_bytes) * self.largest_bytes
        return lost - min(lost, self.wasted_bytes)

    cdef uint64_t wanted_bytes(self) noexcept:
        """What must stay free beside a put that is taken."""
        cdef uint64_t copied = max(self.segment_bytes, self.largest_bytes + SEGMENT_HEADER_BYTES)
        # Segments of an earlier run may be larger than those of this one.
        copied = max(copied, self.next_copy_bytes) + self.largest_bytes
        return self.slack_bytes() + self.packing_bytes() + copied + STEP_BYTES

    cdef bint wants_room(self) noexcept:
        """Whether there is less room than there should be, and half a segment more."""
        return self.free_bytes() < self.wanted_bytes() + self.segment_bytes // 2

    cdef bint too_large(self, uint64_t used_bytes) noexcept:
        """Whether compaction has to go on, with so many bytes that are not about to go."""
        if self.full:
            return used_bytes > self.live_bytes + self.live_bytes // 4 + self.segment_bytes // 2
        return used_bytes > self.live_bytes + self.live_bytes // 2 + self.segment_bytes

    cdef bint short_of_room(self, uint32_t place, uint64_t going_bytes) noexcept:
        """Whether compaction has to make room on a full disk, though little can be won.

        It then goes once over the whole log, to where it ended at the beginning of that pass, and begins another pass
        only when enough has been appended since that could be won back.
        """
        cdef uint64_t coming = going_bytes + self.coming_bytes()
        cdef uint64_t left = self.free_bytes() + coming
        cdef uint64_t slack = self.slack_bytes()
        cdef uint64_t wanted = self.wanted_bytes()
        if not self.full or left + slack // 4 >= wanted or self.segments[place].first_lsn >= self.pass_lsn:
            self.pass_lsn = 0
        if self.pass_lsn == 0 and self.full and left + slack // 2 < wanted and (
            self.fresh_bytes >= slack // 8 or (self.tight and coming == 0)
        ):
            self.pass_lsn = self.end_lsn
            self.fresh_bytes = 0
        return self.pass_lsn > 0

    cdef bint waits_for_room(self, uint32_t place) noexcept:
        """Whether room is on its way, and what is there is better left to the commands than to a copy of a segment."""
        cdef uint64_t copied = self.segments[place].live_bytes + self.largest_bytes
        return self.coming_bytes() > 0 and self.free_bytes() < 2 * copied + self.slack_bytes() // 2

    cdef bint fits(self, uint64_t bytes) noexcept:
        """Whether a record of this size fits into the last segment or into a spare one."""
        cdef Segment *segment = self.current()
        if segment.used + bytes <= segment.size:
            return True
        return any(<uint64_t>size >= bytes + SEGMENT_HEADER_BYTES for _, _, size in self.spare)

    cdef int make_memory(self, uint64_t bytes) noexcept:
        """See that a put record of so many bytes, and the rest of its step, can be gathered and counted without another
        allocation, in the next segment too. Returns 0, or -1 without memory."""
        cdef Segment *segment = self.current()
        if buffer_reserve(&self.pending, bytes + STEP_BYTES) < 0:
            self.pending.failed = False
            return -1
        if buffer_reserve(&segment.ids, ID_BYTES) < 0:
            segment.ids.failed = False
            return -1
        return 0 if self.ahead is not NULL else self.prepare_segment()

    cdef Space reserve(self, uint64_t body_bytes) noexcept:
        cdef uint64_t bytes = body_bytes + MAX_RECORD_OVERHEAD
        cdef uint64_t left = self.free_bytes()
        cdef uint64_t wanted = self.wanted_bytes() + ROOM_OF_JOB + bytes
        # A record lies in one segment: what is left of the last one may be too little for it.
        if left >= wanted and (bytes <= self.segment_bytes // 2 or self.fits(bytes)):
            if left < wanted + self.segment_bytes // 2:
                self.ask(bytes)
            return SPACE_READY if self.make_memory(bytes) == 0 else SPACE_NO_MEMORY
        if self.refused:
            return SPACE_NONE
        self.ask(bytes)
        return SPACE_NONE if self.refused else SPACE_COMING

    cdef void keep_room(self, int64_t now_ns) noexcept:
        """Once an iteration: see that there is as much room as there should be, and no more memory than is of use."""
        if self.pending.len == 0 and self.pending.cap > KEPT_BYTES:
            buffer_free(&self.pending)
            self.tight = self.make_memory(0) < 0 or self.tight
        if self.refused and now_ns - self.refused_at_ns > RETRY_NS:
            self.refused = False
            self.refused_at_ns = now_ns
        if self.wants_room() and (not self.refused or self.ask_again):
            self.ask_again = False
            self.ask(0)
        if self.going:
            self.retire_segments()

    cdef void ask(self, uint64_t bytes) noexcept:
        """Have another segment prepared, in which `bytes` fit."""
        cdef uint64_t size = max(self.segment_bytes, bytes + SEGMENT_HEADER_BYTES)
        if self.asked:
            return
        if self.max_bytes and self.allocated_bytes + size > self.max_bytes:
            self.refuse()
            return
        self.asked = True
        try:
            self.ask_for_segment(size)
        except BaseException as error:
            # With a question that was never asked, puts would be held for ever. It is asked again in a while.
            self.asked = False
            self.refuse()
            if not isinstance(error, MemoryError):
                raise

    cdef void refuse(self) noexcept:
        self.refused = True
        self.full = True
        self.refused_at_ns = monotonic_ns()

    def add_spare(self, uint32_t number, int fd, uint64_t size, bint recycled=False):
        """A segment has been prepared: a file of `size` zero bytes that will not need to be allocated any more.

        Args:
            number: the segment's number.
            fd: its file, open for writing.
            size: its size in bytes.
            recycled: it was made of an old one, which does not show whether there is room for more.

        Raises:
            MemoryError: nothing has changed; the file stays the caller's.
        """
        self.spare.append((number, fd, size))
        self.asked = False
        self.recycling_bytes = 0
        if not recycled:
            self.refused = False
            self.full = False
            self.allocated_bytes += size
        self.spare_bytes += size - SEGMENT_HEADER_BYTES
        self.retire_segments()

    def refuse_spare(self):
        """The segment that was asked for cannot be had."""
        self.asked = False
        self.recycling_bytes = 0
        self.refuse()
        self.retire_segments()

    def removed(self, uint64_t size):
        """A segment of this size has gone from the disk."""
        self.allocated_bytes -= size

    @property
    def segment_size(self):
        """The size of a segment in bytes."""
        return self.segment_bytes

    @property
    def next_segment(self):
        """The number of the next segment that will be prepared."""
        return self.current().number + len(self.spare) + 1
