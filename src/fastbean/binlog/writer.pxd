"""The log on disk: records into segments, syncs, the gate of the replies, compaction."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.journal cimport Store
from fastbean.binlog.record cimport RecordType
from fastbean.binlog.segments cimport Segment, Segments
from fastbean.binlog.sync cimport SyncRound


cdef class BinlogWriter(Segments):
    cdef Store store
    cdef int64_t sync_every_ns      # 0: before each reply; -1: never
    cdef int64_t wall_offset_ns
    cdef int64_t begun_ns           # monotonic: no job was made later, as far as a log tells
    cdef uint64_t written_lsn
    cdef uint64_t durable_lsn
    cdef uint64_t marked_lsn        # the durable LSN that the log tells of itself
    cdef int64_t unsynced_since_ns  # -1: all is synced, or asked to be
    cdef bint syncing
    cdef bint warned                # of the sync that is under way
    cdef public int64_t slow_sync_ns
    cdef public object on_slow_sync
    cdef SyncRound round
    cdef list closed_fds            # of full segments that are not synced yet
    cdef int closing                # how many of them the round syncs
    cdef bint left_unsynced         # a full segment was not synced, as -F wants it
    cdef uint64_t highest_id        # that was put
    cdef uint64_t needed_from       # number of the oldest segment that is needed, as the log says
    cdef uint64_t shed_lsn          # end of the record that says so
    cdef uint64_t floor_bytes       # with less room than that, commands wait
    cdef uint64_t appended_bytes    # since the last compaction step
    cdef uint64_t records_written
    cdef uint64_t records_migrated
    cdef uint64_t write_last_us
    cdef uint64_t write_longest_us

    cdef void rotate(self) noexcept
    cdef size_t begin_record(self, uint64_t bytes) noexcept
    cdef void end_record(self, size_t start, bint gates) noexcept
    cdef void number_record(self, RecordType type, uint64_t number, bint gates) noexcept
    cdef void set_wall_offset(self) noexcept
    cdef void retire(self, int fd) noexcept
    cdef void write_pending(self) noexcept
    cdef void fail(self, str what, int error) noexcept
    cdef void open_gate(self) noexcept
    cdef void begin_sync(self) noexcept
    cdef void synced(self, uint64_t lsn, int closed) noexcept
    cdef void warn_of_sync(self, int64_t took_ns, uint64_t lsn, int files, bint running) noexcept
    cdef void sync_now(self) noexcept
    cdef void look_at_room(self, uint32_t place, uint64_t going_bytes) noexcept
    cdef bint is_tight(self) noexcept
    cdef void sync_early(self) noexcept
    cdef bint copy_some(self, Segment *segment) noexcept
    cdef void shed(self) noexcept
