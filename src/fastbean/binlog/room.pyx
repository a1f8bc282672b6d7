"""The room in the segments of the binlog, and what is live in each: jobs, and settings of tubes.

Room is always allocated before it is needed, in segments that are prepared ahead. The free room must be enough for

- the delete of every live job, the end of every pause, and some updates (`slack_bytes`), so that only puts are ever
  refused;
- a copy of the largest segment, without which compaction could not free one (`wanted_bytes`);
- the bytes that are lost at the ends of segments, where the next record did not fit, when all live jobs are copied
  (`packing_bytes`).

A put is accepted only if all that remains free beside it, and if there is memory for its record: records gather in
``pending``, which always has room for one more step; if it cannot, commands wait (`make_memory`). Files are created,
allocated and removed by the hooks; see ``fastbean.binlog.binlog``.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memmove

from fastbean.base.buffer cimport Buffer, buffer_free
from fastbean.base.clock cimport monotonic_ns
from fastbean.base.debug_counters cimport LIVE_SEGMENTS, live_born, live_gone
from fastbean.binlog.batch cimport batch_free, batch_reserve_cut
from fastbean.binlog.record cimport MAX_RECORD_OVERHEAD, MAX_TUBE_BYTES, SEGMENT_HEADER_BYTES, get_varint
from fastbean.engine.journal cimport (
    SPACE_COMING, SPACE_NO_MEMORY, SPACE_NONE, SPACE_READY, Journal, Space, settings_bytes,
)

# ROOM_OF_JOB: a delete takes 7 to 16 bytes and an update 16 to 26 (docs/binlog.md): 40 bytes hold the job's delete,
# which must never fail, and one update before it. With more, a full disk refuses puts earlier; with less, compaction
# has to run after fewer changes.
#
# KEPT_BYTES: what an idle server keeps for pending records, a judgement. Less would allocate again in busy iterations,
# which cost page faults.
#
# RETRY_NS: nothing reports that another program freed room on a full disk, so it is tried once a second.
cdef enum:
    ROOM_OF_JOB = 40
    KEPT_BYTES = 1048576
    RETRY_NS = 1000000000


cdef uint64_t next_id_of(Segment *segment) noexcept nogil:
    """Step to the next of the segment's ids; returns it."""
    cdef uint64_t coded
    cdef const char *ids = segment.ids.data
    segment.copied = get_varint(ids + segment.copied, ids + segment.ids.len, &coded) - ids
    segment.copied_id += (coded >> 1) ^ (0 - (coded & 1))
    return segment.copied_id


cdef void free_segment(Segment *segment) noexcept nogil:
    buffer_free(&segment.ids)
    live_gone(LIVE_SEGMENTS)
    free(segment)


cdef int spare_reserve(SpareList *list) noexcept nogil:
    """Make room for another segment. Returns 0, or -1 without memory."""
    cdef uint32_t cap = list.cap * 2 if list.cap else 4
    cdef Spare *segments
    if list.count < list.cap:
        return 0
    segments = <Spare *>realloc(list.segments, cap * sizeof(Spare))
    if segments is NULL:
        return -1
    list.segments = segments
    list.cap = cap
    return 0


cdef int spare_add(SpareList *list, uint32_t number, int fd, uint64_t bytes) noexcept nogil:
    """Append a segment. Returns 0, or -1 without memory."""
    if spare_reserve(list) < 0:
        return -1
    list.segments[list.count].number = number
    list.segments[list.count].fd = fd
    list.segments[list.count].bytes = bytes
    list.count += 1
    return 0


cdef Spare spare_take(SpareList *list) noexcept nogil:
    """Remove the oldest one, of which there has to be one."""
    cdef Spare spare = list.segments[0]
    list.count -= 1
    memmove(list.segments, list.segments + 1, list.count * sizeof(Spare))
    return spare


@cython.final
cdef class Room:
    """The segments of a binlog, and the room in them; `fastbean.binlog.writer.BinlogWriter` writes into them.

    Args:
        journal: the writer.
        has_files: whether segments have files; otherwise they are stretches of the run, and dropped ones are forgotten.
        segment_bytes: the size of a segment, 4096 bytes or more.
        max_bytes: the allocated size of the binlog above which puts are refused; 0 for no limit.
        ask_for_segment: called with a size in bytes when another segment should be prepared; the caller answers with
            `add_spare` or `refuse_spare`.
        ask_to_recycle: called with the number and the size of a segment that is no longer needed and should become the
            next spare; answered likewise.
        ask_to_remove: called with the number and the size of a segment that is no longer needed; answered with
            `removed`.
    """

    def __cinit__(
        self, Journal journal not None, *, bint has_files, uint64_t segment_bytes, uint64_t max_bytes=0,
        ask_for_segment, ask_to_recycle=None, ask_to_remove=None,
    ):
        self.journal = journal
        self.has_files = has_files
        self.segment_bytes = segment_bytes
        self.max_bytes = max_bytes
        self.ask_for_segment = ask_for_segment
        self.ask_to_recycle = ask_to_recycle
        self.ask_to_remove = ask_to_remove
        journal.kept_bytes = KEPT_BYTES

    def __dealloc__(self):
        cdef uint32_t place
        for place in range(self.segment_count):
            free_segment(self.segments[place])
        if self.ahead is not NULL:
            free_segment(self.ahead)
        free(self.segments)
        free(self.spare.segments)
        free(self.dropped.segments)
        batch_free(&self.pending)

    cdef Segment *current(self) noexcept nogil:
        return self.segments[self.segment_count - 1]

    cdef Segment *segment_of(self, uint32_t number) noexcept nogil:
        """The segment of this number, or NULL when it was dropped."""
        cdef uint32_t place
        if self.segment_count == 0 or number < self.segments[0].number:
            return NULL
        place = number - self.segments[0].number
        # Numbers are consecutive, except around segments that a repair moved away.
        if place < self.segment_count and self.segments[place].number == number:
            return self.segments[place]
        for place in range(self.segment_count):
            if self.segments[place].number == number:
                return self.segments[place]
        return NULL

    cdef int prepare_segment(self) noexcept nogil:
        """Allocate the struct of the next segment, and room for its first ids. Returns 0, or -1 without memory."""
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
        if self.reserve_counted(&self.ahead.ids, ID_BYTES) < 0:
            free(self.ahead)
            self.ahead = NULL
            return -1
        self.journal.memory_bytes += sizeof(Segment)
        live_born(LIVE_SEGMENTS)
        return 0

    cdef Segment *add_segment(self, uint32_t number, uint64_t size, uint64_t first_lsn) noexcept nogil:
        """Append a new last segment; returns it, or NULL without memory."""
        cdef Segment *segment
        if self.ahead is NULL and self.prepare_segment() < 0:
            return NULL
        segment = self.ahead
        self.ahead = NULL
        if self.segment_count:
            self.wasted_bytes += self.current().size - min(self.current().used, self.current().size)
        segment.number = number
        segment.size = size
        segment.first_lsn = first_lsn
        segment.used = SEGMENT_HEADER_BYTES
        self.segments[self.segment_count] = segment
        self.segment_count += 1
        self.used_bytes += SEGMENT_HEADER_BYTES
        return segment

    cdef bint drop_oldest(self) noexcept nogil:
        """Drop the oldest segment, which is no longer needed. Returns false if there is no memory for that."""
        cdef Segment *oldest = self.segments[0]
        # First, because it may fail.
        if self.has_files and spare_add(&self.dropped, oldest.number, -1, oldest.size) < 0:
            return False
        if not self.has_files:
            self.allocated_bytes -= oldest.size
        self.used_bytes -= oldest.used
        self.wasted_bytes -= oldest.size - min(oldest.used, oldest.size)
        self.segment_count -= 1
        memmove(self.segments, self.segments + 1, self.segment_count * sizeof(Segment *))
        self.ask_again = True
        self.journal.memory_bytes -= sizeof(Segment) + oldest.ids.cap
        free_segment(oldest)
        self.journal.has_requests = self.journal.has_requests or self.has_files
        return True

    # A shed record of an earlier server may say that nothing below an LSN is needed, though something there still is: a
    # pause that was over by that server's clock, and is not by this one's.
    cdef bint may_drop(self, uint64_t needed_lsn) noexcept nogil:
        """Whether the oldest segment ends at `needed_lsn` or before, is not the last one, and holds nothing live."""
        return (
            self.segment_count > 1 and self.segments[1].first_lsn <= needed_lsn and not is_needed(self.segments[0])
        )

    def make_requests(self):
        """Have the owner create the segment that is asked for, and recycle or remove the files of dropped segments."""
        cdef uint64_t size = self.asked_bytes
        if size:
            self.asked_bytes = 0
            try:
                self.ask_for_segment(size)
                self.ask_failed = False
            except MemoryError:
                # Puts would wait for ever for a request that was never made. It is repeated once, then refused.
                if self.ask_failed:
                    self.asked = self.ask_failed = False
                    self.refuse()
                else:
                    self.asked_bytes = size
                    self.journal.has_requests = self.ask_failed = True
                raise
        self.retire_segments()

    cdef int retire_segments(self) except -1:
        """Recycle or remove the files of dropped segments: if room is wanted, the oldest one becomes a spare.

        On a full disk the blocks of a file must not be freed, because another program could take them. While a request
        is open it is not known whether the disk is full, so the files wait. Without memory for a request the segment
        keeps its place, and `keep_room` tries again.
        """
        cdef Spare *oldest
        while self.dropped.count and not self.asked:
            oldest = self.dropped.segments
            try:
                if self.full and oldest.bytes == self.segment_bytes and self.wants_room() and (
                    spare_reserve(&self.spare) == 0
                ):
                    self.asked = True
                    self.recycling_bytes = oldest.bytes
                    self.ask_to_recycle(oldest.number, oldest.bytes)
                else:
                    self.ask_to_remove(oldest.number, oldest.bytes)
            except MemoryError:
                self.asked = False
                self.recycling_bytes = 0
                return 0
            spare_take(&self.dropped)
        return 0

    cdef Spare take_spare(self) noexcept nogil:
        """Take the first spare segment, of which there has to be one."""
        cdef Spare spare = spare_take(&self.spare)
        self.spare_bytes -= spare.bytes - SEGMENT_HEADER_BYTES
        return spare

    cdef uint64_t coming_bytes(self) noexcept nogil:
        """The bytes of dropped segments that are becoming spares, or will."""
        return self.recycling_bytes + self.dropped.count * self.segment_bytes

    cdef void count_out(self, uint32_t number, uint64_t bytes) noexcept nogil:
        """Uncount a job whose put record is in segment `number`: it ended, or was copied."""
        cdef Segment *segment = self.segment_of(number)
        self.live_jobs -= 1
        self.live_bytes -= bytes
        segment.live_jobs -= 1
        segment.live_bytes -= bytes
        segment.dead_lsn = self.journal.end_lsn
        if self.live_jobs == 0:
            self.largest_bytes = MAX_TUBE_BYTES if self.live_tubes else 0

    cdef void count_tube_out(self, uint32_t number, uint32_t name_bytes) noexcept nogil:
        """Uncount settings that were recorded in segment `number`: they ended, or were copied."""
        cdef Segment *segment = self.segment_of(number)
        self.live_tubes -= 1
        self.live_bytes -= settings_bytes(name_bytes)
        segment.live_tubes -= 1
        segment.live_bytes -= settings_bytes(name_bytes)
        segment.dead_lsn = self.journal.end_lsn

    # Room

    cdef uint64_t free_bytes(self) noexcept nogil:
        """Allocated and unused bytes."""
        cdef Segment *segment = self.current()
        return self.spare_bytes + (segment.size - segment.used if segment.size > segment.used else 0)

    # A quarter of a segment is the lower bound, for a binlog of few or large jobs: with less slack the limits in
    # `short_of_room`, which are fractions of it, would come within a few records of each other. That it is a quarter is
    # a judgement: it is refused to puts on a full disk, and costs nothing otherwise.
    cdef uint64_t slack_bytes(self) noexcept nogil:
        """Room for changes of the live jobs and tubes, before compaction has to make new room for them."""
        return max(self.live_jobs * ROOM_OF_JOB + self.live_tubes * MAX_TUBE_BYTES, self.segment_bytes // 4)

    # A record is in one segment, so each segment may lose up to one record of the largest size at its end. A segment
    # then holds at least `segment_bytes - largest_bytes` of live data, which gives the number of segments. If the
    # largest record is half a segment or more, a segment may hold a single job, and a copy may lose as much as it
    # contains. What is lost at present (`wasted_bytes`) is won back by the copy.
    cdef uint64_t packing_bytes(self) noexcept nogil:
        """What a copy of all live jobs may lose at the ends of segments, beyond what is lost already."""
        cdef uint64_t lost = self.live_bytes
        if self.largest_bytes * 2 < self.segment_bytes:
            lost = self.live_bytes // (self.segment_bytes - self.largest_bytes) * self.largest_bytes
        return lost - min(lost, self.wasted_bytes)

    # Compaction frees room a segment at a time, and must first copy that segment's live jobs: a whole segment at worst,
    # and one that holds a single large job is as large as that job. While it copies, the next record may not fit at the
    # end of a segment, which loses another `largest_bytes`. A step of a command may come in between (STEP_BYTES).
    cdef uint64_t wanted_bytes(self) noexcept nogil:
        """What must stay free beside a put that is accepted."""
        cdef uint64_t copied = max(self.segment_bytes, self.largest_bytes + SEGMENT_HEADER_BYTES)
        # Segments of an earlier run may be larger than those of this one.
        copied = max(copied, self.next_copy_bytes) + self.largest_bytes
        return self.slack_bytes() + self.packing_bytes() + copied + STEP_BYTES

    # Half a segment, because preparing one takes a while (it is allocated and synced): the half that is left can be
    # written meanwhile. With less, fast producers would be held; with more, an unused segment would often be on disk.
    cdef bint wants_room(self) noexcept nogil:
        """Whether another segment should be prepared: half a segment before the free room is less than wanted."""
        return self.free_bytes() < self.wanted_bytes() + self.segment_bytes // 2

    # The promise is that the binlog stays below twice the live data plus two segments (`sync_early` enforces it).
    # Compaction begins half-way to that, at one and a half times plus one segment, so that what is copied, and what
    # commands append meanwhile, fits below the limit. A third of the binlog is dead then: winning a byte back costs
    # copying two live ones. Beginning later would leave too little room, beginning earlier would copy more.
    #
    # On a full disk room is worth more than writing: compaction begins when a fifth is dead, and a byte costs four.
    # `copy_some` copies four bytes for each appended one, which keeps pace even then. The constant part is there
    # because the last segment is never compacted, and segments are only freed whole.
    cdef bint too_large(self, uint64_t used_bytes) noexcept nogil:
        """Whether compaction has to continue; `used_bytes` excludes segments that are about to be dropped."""
        if self.full:
            return used_bytes > self.live_bytes + self.live_bytes // 4 + self.segment_bytes // 2
        return used_bytes > self.live_bytes + self.live_bytes // 2 + self.segment_bytes

    # On a full disk with hardly any dead bytes, deletes and updates still use up the slack, and only compaction makes
    # new room for them. A pass begins when half of the slack is used, and ends early when three quarters are free
    # again: the gap between the two keeps it from starting and stopping with every few commands. Otherwise it ends
    # where the binlog ended when it began.
    #
    # A pass copies every live job, so one that can win nothing would repeat for ever. It begins only if at least an
    # eighth of the slack can be won back, half of what lies between the two limits; or if commands already wait and no
    # other room is coming, since then nothing else can make progress. The fractions are judgements: a larger eighth
    # lets commands wait more often, a smaller one copies the binlog more often.
    cdef bint short_of_room(self, uint32_t place, uint64_t going_bytes) noexcept nogil:
        """Whether compaction has to make room on a full disk, though little can be won.

        `place`: the segment that it would copy. `going_bytes`: of the segments that are about to be dropped.
        """
        cdef uint64_t coming = going_bytes + self.coming_bytes()
        cdef uint64_t left = self.free_bytes() + coming
        cdef uint64_t slack = self.slack_bytes()
        cdef uint64_t wanted = self.wanted_bytes()
        if not self.full or left + slack // 4 >= wanted or self.segments[place].first_lsn >= self.pass_lsn:
            self.pass_lsn = 0
        if self.pass_lsn == 0 and self.full and left + slack // 2 < wanted and (
            self.fresh_bytes >= slack // 8 or (self.journal.tight and coming == 0)
        ):
            self.pass_lsn = self.journal.end_lsn
            self.fresh_bytes = 0
        return self.pass_lsn > 0

    # Recycled segments come back one at a time. If compaction took each at once for its next copy, commands would never
    # get one. It copies only if as much as it copies, and half of the slack, stays free for them.
    cdef bint waits_for_room(self, uint32_t place) noexcept nogil:
        """Whether room is on its way, and the free room should be left to the commands until then."""
        cdef uint64_t copied = self.segments[place].live_bytes + self.largest_bytes
        return self.coming_bytes() > 0 and self.free_bytes() < 2 * copied + self.slack_bytes() // 2

    cdef bint fits(self, uint64_t bytes) noexcept nogil:
        """Whether a record of this size fits into the last segment or into a spare one."""
        cdef uint32_t place
        cdef Segment *segment = self.current()
        if segment.used + bytes <= segment.size:
            return True
        for place in range(self.spare.count):
            if self.spare.segments[place].bytes >= bytes + SEGMENT_HEADER_BYTES:
                return True
        return False

    cdef int make_memory(self, uint64_t bytes) noexcept nogil:
        """Make sure that a put record of `bytes`, and the rest of its step, can be gathered and counted without another
        allocation, in the next segment too. Returns 0, or -1 without memory."""
        cdef Segment *segment = self.current()
        if self.reserve_counted(&self.pending.bytes, bytes + STEP_BYTES) < 0 or batch_reserve_cut(&self.pending) < 0:
            return -1
        if self.reserve_counted(&segment.ids, ID_BYTES) < 0:
            return -1
        return 0 if self.ahead is not NULL else self.prepare_segment()

    cdef Space reserve(self, uint64_t body_bytes) noexcept nogil:
        cdef uint64_t bytes = body_bytes + MAX_RECORD_OVERHEAD
        cdef uint64_t left = self.free_bytes()
        cdef uint64_t wanted = self.wanted_bytes() + ROOM_OF_JOB + bytes
        # A record is in one segment: the rest of the last one may be too short for it. `wanted_bytes` is more than one
        # segment, so that there is a spare; only a record larger than usual may not fit into it.
        if left >= wanted and (bytes <= self.segment_bytes // 2 or self.fits(bytes)):
            if left < wanted + self.segment_bytes // 2:
                self.ask(bytes)
            return SPACE_READY if self.make_memory(bytes) == 0 else SPACE_NO_MEMORY
        if self.refused:
            return SPACE_NONE
        self.ask(bytes)
        if self.refused:
            return SPACE_NONE
        return SPACE_COMING if self.asked else SPACE_NO_MEMORY

    cdef void keep_room(self, int64_t now_ns) noexcept nogil:
        """Once per iteration: keep as much room as there should be, and no more memory than is useful."""
        if self.pending.bytes.len == 0 and self.pending.bytes.cap > self.journal.kept_bytes:
            self.free_buffer(&self.pending.bytes)
            self.journal.tight = self.make_memory(0) < 0 or self.journal.tight
        if self.refused and now_ns - self.refused_at_ns > RETRY_NS:
            self.refused = False
            self.refused_at_ns = now_ns
        if self.wants_room() and (not self.refused or self.ask_again):
            self.ask_again = False
            self.ask(0)
        if self.dropped.count and not self.asked:
            self.journal.has_requests = True

    cdef void free_buffer(self, Buffer *buffer) noexcept nogil:
        """Free a buffer that `reserve_counted` has counted."""
        self.journal.memory_bytes -= buffer.cap
        buffer_free(buffer)

    cdef void ask(self, uint64_t bytes) noexcept nogil:
        """Request another segment, in which `bytes` fit. Without memory nothing is asked for."""
        cdef uint64_t size = max(self.segment_bytes, bytes + SEGMENT_HEADER_BYTES)
        if self.asked:
            return
        if self.max_bytes and self.allocated_bytes + size > self.max_bytes:
            self.refuse()
            return
        # First, so that nothing can fail when the segment is there.
        if spare_reserve(&self.spare) < 0:
            return
        self.asked = True
        self.asked_bytes = size
        self.journal.has_requests = True

    cdef void refuse(self) noexcept nogil:
        self.refused = True
        self.full = True
        self.refused_at_ns = monotonic_ns()

    def add_spare(self, uint32_t number, int fd, uint64_t size, bint recycled=False):
        """A segment has been prepared: a file of `size` zero bytes that needs no further allocation.

        Args:
            number: the segment's number.
            fd: its file, open for writing.
            size: its size in bytes.
            recycled: it was made from an old one, which does not show whether more can be allocated.

        Raises:
            MemoryError: nothing has changed; the caller still owns the file.
        """
        if spare_add(&self.spare, number, fd, size) < 0:
            raise MemoryError("no memory for another segment")
        self.asked = False
        self.recycling_bytes = 0
        if not recycled:
            self.refused = False
            self.full = False
            self.allocated_bytes += size
        self.spare_bytes += size - SEGMENT_HEADER_BYTES
        self.retire_segments()

    def refuse_spare(self):
        """The requested segment could not be prepared."""
        self.asked = False
        self.recycling_bytes = 0
        self.refuse()
        self.retire_segments()

    def removed(self, uint64_t size):
        """The file of a segment of this size was removed."""

        self.allocated_bytes -= size

    @property
    def segment_size(self):
        """The size of a segment in bytes."""
        return self.segment_bytes

    @property
    def next_segment(self):
        """The number of the next segment that will be prepared."""
        return self.current().number + self.spare.count + 1
