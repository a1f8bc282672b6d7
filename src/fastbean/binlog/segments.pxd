"""Where the log lies: its segments, the room in them, and what stands in each."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.journal cimport JobImage, Journal, logged_bytes
from fastbean.binlog.record cimport MAX_RECORD_OVERHEAD, put_varint

cdef enum:
    ID_BYTES = 10                   # at most, in a segment's list of ids
    STEP_BYTES = 1024               # what one step of a command may append

cdef struct Segment:
    uint32_t number
    int fd
    uint64_t first_lsn
    uint64_t size                   # bytes allocated
    uint64_t used                   # bytes written or pending, its header included
    uint64_t live_jobs              # whose put record stands here
    uint64_t live_bytes             # what they count for
    uint64_t dead_lsn               # end of the log when the last of them went
    Buffer ids                      # of its put records, as differences
    uint64_t last_id
    size_t copied                   # offset in `ids` up to which compaction is done
    uint64_t copied_id

cdef inline void append_id(Segment *segment, uint64_t id) noexcept nogil:
    """Remember one more id, for which there is room: the difference to the one before, as a zigzag varint."""
    cdef int64_t difference = <int64_t>(id - segment.last_id)
    cdef uint64_t coded = (<uint64_t>difference << 1) ^ <uint64_t>(difference >> 63)
    segment.ids.len = put_varint(segment.ids.data + segment.ids.len, coded) - segment.ids.data
    segment.last_id = id

cdef uint64_t next_id_of(Segment *segment) noexcept nogil


cdef class Segments(Journal):
    cdef object ask_for_segment     # called with a size in bytes
    cdef object ask_to_recycle      # called with a segment's number and size
    cdef object ask_to_remove       # likewise
    cdef Buffer pending             # records that are not written yet
    cdef Segment **segments         # oldest first; the last one is written to
    cdef Segment *ahead             # memory for the next one, as a rule
    cdef uint32_t segment_count
    cdef uint32_t segment_cap
    cdef uint64_t segment_bytes
    cdef uint64_t max_bytes
    cdef list spare                 # (number, fd, bytes) of segments prepared ahead
    cdef uint64_t spare_bytes
    cdef uint64_t recycling_bytes   # of the segment that is about to become a spare; 0: none is
    cdef list going                 # (number, bytes) of segments that are not needed any more, and not seen to yet
    cdef bint asked                 # a segment is being prepared
    cdef bint refused               # the last one could not be, a moment ago
    cdef bint full                  # no new one could be since
    cdef int64_t refused_at_ns
    cdef bint ask_again             # a segment has gone: there may be room for another
    cdef uint64_t live_jobs
    cdef uint64_t live_bytes
    cdef uint64_t used_bytes        # of all segments
    cdef uint64_t allocated_bytes   # of all files, those too that are about to be removed
    cdef uint64_t wasted_bytes      # of segments that are full: too short for the record that came next
    cdef uint64_t largest_bytes     # of a put record
    cdef uint64_t next_copy_bytes   # of the live jobs in the segment that compaction copies next
    cdef uint64_t pass_lsn          # compaction goes over all that stands before it; 0: as usual
    cdef uint64_t fresh_bytes       # about what could be won back of all that was appended since that pass began
    cdef readonly uint32_t sync_before_removal   # a segment that whoever removes one has to sync first; 0 for none

    cdef Segment *current(self) noexcept
    cdef Segment *segment_of(self, uint32_t number) noexcept
    cdef int prepare_segment(self) noexcept
    cdef Segment *add_segment(self, uint32_t number, int fd, uint64_t size, uint64_t first_lsn) noexcept
    cdef bint drop_oldest(self) noexcept
    cdef void count_out(self, uint32_t number, uint64_t bytes) noexcept
    cdef uint64_t free_bytes(self) noexcept
    cdef uint64_t slack_bytes(self) noexcept
    cdef uint64_t wanted_bytes(self) noexcept
    cdef uint64_t packing_bytes(self) noexcept
    cdef bint wants_room(self) noexcept
    cdef void retire_segments(self) noexcept
    cdef uint64_t coming_bytes(self) noexcept
    cdef bint too_large(self, uint64_t used_bytes) noexcept
    cdef bint short_of_room(self, uint32_t place, uint64_t going_bytes) noexcept
    cdef bint waits_for_room(self, uint32_t place) noexcept
    cdef bint fits(self, uint64_t bytes) noexcept
    cdef int make_memory(self, uint64_t bytes) noexcept
    cdef void ask(self, uint64_t bytes) noexcept
    cdef void refuse(self) noexcept
    cdef void keep_room(self, int64_t now_ns) noexcept

    @cython.final
    cdef inline void count_in(self, Segment *segment, JobImage *job) noexcept:
        """A put record of a live job now stands in `segment`, where there is room for its id."""
        cdef uint64_t bytes = logged_bytes(job.body_bytes, job.name_bytes)
        append_id(segment, job.id)
        segment.live_jobs += 1
        segment.live_bytes += bytes
        self.live_jobs += 1
        self.live_bytes += bytes
        self.largest_bytes = max(self.largest_bytes, <uint64_t>job.body_bytes + MAX_RECORD_OVERHEAD)
