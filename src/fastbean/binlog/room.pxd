"""The room in the segments of the binlog, and what is live in each."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer, buffer_reserve
from fastbean.engine.journal cimport JobImage, Journal, Space, logged_bytes, settings_bytes
from fastbean.binlog.batch cimport Batch
from fastbean.binlog.record cimport MAX_RECORD_OVERHEAD, MAX_TUBE_BYTES, put_varint

cdef enum:
    ID_BYTES = 10                   # at most, in a segment's list of ids
    # What one step of a command may append, beside a put record: a dozen records of at most MAX_UPDATE_BYTES. A step
    # appends three or four (a release that serves a waiting client, a shed record, a mark); the rest is margin.
    STEP_BYTES = 1024

cdef struct Segment:
    uint32_t number
    uint64_t first_lsn
    uint64_t size                   # bytes allocated
    uint64_t used                   # bytes written or pending, its header included
    uint64_t live_jobs              # jobs whose put record is here
    uint64_t live_tubes             # tubes whose settings have to be kept and are here
    uint64_t live_bytes             # the sum of their `logged_bytes` and `settings_bytes`
    uint64_t dead_lsn               # end of the binlog when the last of them ended or moved
    Buffer ids                      # of its put records, as differences
    uint64_t last_id
    size_t copied                   # offset in `ids` up to which compaction is done
    uint64_t copied_id

cdef struct Spare:                  # the file of a segment that is not in use
    uint32_t number
    int fd                          # -1: closed
    uint64_t bytes

cdef struct SpareList:              # oldest first
    Spare *segments
    uint32_t count
    uint32_t cap

cdef inline void append_id(Segment *segment, uint64_t id) noexcept nogil:
    """Append an id, for which there is room: the difference to the one before, as a zigzag varint."""
    cdef int64_t difference = <int64_t>(id - segment.last_id)
    cdef uint64_t coded = (<uint64_t>difference << 1) ^ <uint64_t>(difference >> 63)
    segment.ids.len = put_varint(segment.ids.data + segment.ids.len, coded) - segment.ids.data
    segment.last_id = id

cdef inline bint is_needed(Segment *segment) noexcept nogil:
    """Whether something in this segment is live, so that it cannot be dropped."""
    return segment.live_jobs > 0 or segment.live_tubes > 0

cdef uint64_t next_id_of(Segment *segment) noexcept nogil


cdef class Room:
    cdef Journal journal            # the writer: where the binlog ends, whether commands wait, what memory it takes
    cdef object ask_for_segment     # called with a size in bytes
    cdef object ask_to_recycle      # called with a segment's number and size
    cdef object ask_to_remove       # likewise
    cdef Batch pending              # the open batch: records that are not handed to the sink yet
    cdef Segment **segments         # oldest first; the last one is written to
    cdef Segment *ahead             # the struct for the next one, usually allocated ahead
    cdef uint32_t segment_count
    cdef uint32_t segment_cap
    cdef bint has_files             # of its segments
    cdef uint64_t segment_bytes
    cdef uint64_t max_bytes
    cdef SpareList spare            # segments prepared ahead
    cdef uint64_t spare_bytes
    cdef uint64_t recycling_bytes   # of the segment that is being made a spare; 0: none is
    cdef SpareList dropped          # segments that are not needed, and not yet recycled or removed
    cdef uint64_t asked_bytes       # of the segment that has to be asked for; 0: none
    cdef bint ask_failed            # for lack of memory, the last time
    cdef bint asked                 # a segment is being prepared
    cdef bint refused               # the last one could not be prepared, less than RETRY_NS ago
    cdef bint full                  # no segment could be added since: the disk or the limit is full
    cdef int64_t refused_at_ns
    cdef bint ask_again             # a segment was dropped: there may be room for another
    cdef uint64_t live_jobs
    cdef uint64_t live_tubes        # whose settings have to be kept
    cdef uint64_t live_bytes
    cdef uint64_t used_bytes        # of all segments
    cdef uint64_t allocated_bytes   # of all segments; dropped ones count until their files are removed
    cdef uint64_t wasted_bytes      # at the ends of full segments: too short for the record that came next
    cdef uint64_t largest_bytes     # of a live record, at most
    cdef uint64_t next_copy_bytes   # of the live jobs in the segment that compaction copies next
    cdef uint64_t pass_lsn          # the present pass of compaction goes up to here; 0: there is none
    cdef uint64_t fresh_bytes       # estimate of what became dead since that pass began
    cdef readonly uint32_t sync_before_removal   # number of a segment to sync before a segment is removed; 0 for none

    cdef Segment *current(self) noexcept nogil
    cdef Segment *segment_of(self, uint32_t number) noexcept nogil
    cdef int prepare_segment(self) noexcept nogil
    cdef Segment *add_segment(self, uint32_t number, uint64_t size, uint64_t first_lsn) noexcept nogil
    cdef bint drop_oldest(self) noexcept nogil
    cdef bint may_drop(self, uint64_t needed_lsn) noexcept nogil
    cdef void count_out(self, uint32_t number, uint64_t bytes) noexcept nogil
    cdef void count_tube_out(self, uint32_t number, uint32_t name_bytes) noexcept nogil
    cdef uint64_t free_bytes(self) noexcept nogil
    cdef uint64_t slack_bytes(self) noexcept nogil
    cdef uint64_t wanted_bytes(self) noexcept nogil
    cdef uint64_t packing_bytes(self) noexcept nogil
    cdef bint wants_room(self) noexcept nogil
    cdef int retire_segments(self) except -1
    cdef Spare take_spare(self) noexcept nogil
    cdef uint64_t coming_bytes(self) noexcept nogil
    cdef bint too_large(self, uint64_t used_bytes) noexcept nogil
    cdef bint short_of_room(self, uint32_t place, uint64_t going_bytes) noexcept nogil
    cdef bint waits_for_room(self, uint32_t place) noexcept nogil
    cdef bint fits(self, uint64_t bytes) noexcept nogil
    cdef int make_memory(self, uint64_t bytes) noexcept nogil
    cdef Space reserve(self, uint64_t body_bytes) noexcept nogil
    cdef void free_buffer(self, Buffer *buffer) noexcept nogil
    cdef void ask(self, uint64_t bytes) noexcept nogil
    cdef void refuse(self) noexcept nogil
    cdef void keep_room(self, int64_t now_ns) noexcept nogil

    cdef inline int reserve_counted(self, Buffer *buffer, size_t extra) noexcept nogil:
        """Room for `extra` more bytes, counted in `memory_bytes`. Returns 0, or -1 without memory (nothing changed)."""
        cdef size_t before = buffer.cap
        if buffer_reserve(buffer, extra) < 0:
            buffer.failed = False
            return -1
        self.journal.memory_bytes += buffer.cap - before
        return 0

    cdef inline void count_in(self, Segment *segment, JobImage *job) noexcept nogil:
        """Count a put record of a live job in `segment`, which has room for its id."""
        cdef uint64_t bytes = logged_bytes(job.body_bytes, job.name_bytes)
        append_id(segment, job.id)
        segment.live_jobs += 1
        segment.live_bytes += bytes
        self.live_jobs += 1
        self.live_bytes += bytes
        self.largest_bytes = max(self.largest_bytes, <uint64_t>job.body_bytes + MAX_RECORD_OVERHEAD)

    cdef inline void count_tube_in(self, Segment *segment, uint32_t name_bytes) noexcept nogil:
        """Count a record in `segment` of settings that have to be kept."""
        segment.live_tubes += 1
        segment.live_bytes += settings_bytes(name_bytes)
        self.live_tubes += 1
        self.live_bytes += settings_bytes(name_bytes)
        self.largest_bytes = max(self.largest_bytes, <uint64_t>MAX_TUBE_BYTES)
