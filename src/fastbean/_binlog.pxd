"""The log on disk: records into segments, syncs, the gate of the replies, compaction."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean._buffer cimport Buffer
from fastbean._journal cimport Journal, Space, Store
from fastbean._record cimport JobImage, Record, RecordType

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

cdef struct SyncRound:              # shared with the sync thread; one round at a time
    int wake_in
    int wake_out
    int done_in
    int done_out
    int *fds
    int count
    int cap
    bint stopping
    int error                       # errno of the round, or 0
    uint64_t lsn
    uint64_t last_us
    uint64_t longest_us
    uint64_t rounds


cdef class Binlog(Journal):
    cdef Store store
    cdef object ask_for_segment     # called with a size in bytes
    cdef object ask_to_remove       # called with a segment's number
    cdef Segment **segments         # oldest first; the last one is written to
    cdef uint32_t segment_count
    cdef uint32_t segment_cap
    cdef list spare                 # (number, fd, bytes) of segments prepared ahead
    cdef uint64_t spare_bytes
    cdef bint asked                 # a segment is being prepared
    cdef bint refused               # the last one could not be: the disk is full
    cdef int64_t refused_at_ns
    cdef bint ask_again             # a segment has gone: there may be room for another
    cdef Buffer pending             # records that are not written yet
    cdef uint64_t segment_bytes
    cdef uint64_t max_bytes
    cdef int64_t sync_every_ns      # 0: before each reply; -1: never
    cdef int64_t wall_offset_ns
    cdef uint64_t written_lsn
    cdef uint64_t durable_lsn
    cdef uint64_t marked_lsn        # the durable LSN that the log tells of itself
    cdef int64_t unsynced_since_ns  # -1: all is synced, or asked to be
    cdef bint syncing
    cdef SyncRound round
    cdef list closed_fds             # of full segments that are not synced yet
    cdef uint64_t live_jobs
    cdef uint64_t live_bytes
    cdef uint64_t used_bytes        # of all segments
    cdef uint64_t highest_id        # that was put
    cdef uint64_t known_from_id     # of a job at or above it the log holds everything
    cdef uint64_t appended_bytes     # since the last compaction step
    cdef uint64_t records_written
    cdef uint64_t records_migrated
    cdef uint64_t write_last_us
    cdef uint64_t write_longest_us

    cdef Segment *segment_of(self, uint32_t number) noexcept
    cdef Segment *current(self) noexcept
    cdef Segment *add_segment(self, uint32_t number, int fd, uint64_t size, uint64_t first_lsn) noexcept
    cdef uint64_t free_bytes(self) noexcept
    cdef uint64_t wanted_bytes(self) noexcept
    cdef void refuse(self) noexcept
    cdef void ask(self, uint64_t bytes) noexcept
    cdef void rotate(self) noexcept
    cdef size_t begin_record(self, uint64_t bytes) noexcept
    cdef void end_record(self, size_t start, bint gates) noexcept
    cdef void number_record(self, RecordType type, uint64_t number, bint gates) noexcept
    cdef void count_in(self, Segment *segment, JobImage *job) noexcept
    cdef void count_out(self, uint32_t number, uint64_t bytes) noexcept
    cdef void set_wall_offset(self) noexcept
    cdef void fill_header(self, Segment *segment, char *header) noexcept
    cdef bint fits_somewhere(self, uint64_t bytes) noexcept
    cdef void to_wall(self, JobImage *job) noexcept
    cdef void retire(self, int fd) noexcept
    cdef void write_pending(self) noexcept
    cdef void fail(self, str what, int error) noexcept
    cdef void commit(self, int64_t now_ns, bint alone) noexcept
    cdef void let_through(self) noexcept
    cdef bint wait_for_round(self) noexcept
    cdef void begin_sync(self) noexcept
    cdef void synced(self, uint64_t lsn, int closed) noexcept
    cdef void sync_now(self) noexcept
    cdef int64_t due_ns(self) noexcept
    cdef bint too_large(self, uint64_t used_bytes) noexcept
    cdef void hurry(self) noexcept
    cdef bint compact(self) noexcept
    cdef void copy_some(self, Segment *segment) noexcept
    cdef void shed(self) noexcept
    cdef int restore(self, Segment *segment, Record *record) noexcept
    cdef void put_restored(self, Segment *segment, JobImage *job, uint32_t before) noexcept
