"""The binlog: encodes records, hands them to a sink, opens the gate of the replies."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.notices cimport Notices
from fastbean.engine.journal cimport JobSource, Journal
from fastbean.binlog.file_sink cimport FileSink
from fastbean.binlog.record cimport RecordType
from fastbean.binlog.room cimport Room, Segment
from fastbean.binlog.sink cimport Sink

# SHORT_SYNC_US: under -f 0 the loop itself syncs for a group if the last sync took no longer. A round of the sync
# thread costs two thread switches, and up to a third of the rate of 64 clients on one core. A longer sync in the loop
# would block clients that do not need it; with a smaller limit, fast disks would pay for the thread.
#
# LONE_SYNC_US: if the slowest of the last syncs took longer, the thread does all syncs, also those for a single client.
# It is what clients that wait for nothing may have to wait then.
#
# IDS_AT_ONCE: an id is used only once a record that reserves its block is safe; a crash skips the rest of a block. The
# next block is recorded when half of the last one is used: at a million puts per second, half a second before it is
# needed, which slow disks may take for a sync. Even a crash every second would not use up the ids.
#
# COPY_BYTES: one step of compaction. It costs some tens of microseconds, which delays an iteration little; smaller
# steps would pay more often for looking up where to continue.
#
# GATHERED_BYTES: under -f 0, records whose replies wait for a sync need not be written while an earlier sync runs, and
# one write for all of them is cheaper than one per iteration. With more, the write itself would delay the next sync.
#
# UNSYNCED_BYTES: the most that may be written and not synced. It limits what a power cut takes under -f MS when the
# disk does not keep up, and how long the sync takes that a reply waits for. With less, a burst would block commands
# although the disk can absorb it.
#
# QUIET_SYNC_NS: under -f 0, records for which no reply waits are synced after the default of -f MS.
#
# UNSYNCED_FILES: a full segment keeps its descriptor until it is synced, and the clients leave only 32 for the binlog
# (16 or fewer under a low limit, see net/listener.py). With small segments, a burst would use them up within -f MS. A
# sync begins at half of them, and no further command runs while there are that many.
#
# All eight are judgements; only the effect of the first was measured.
cdef enum:
    SHORT_SYNC_US = 250
    LONE_SYNC_US = 2000
    IDS_AT_ONCE = 1048576
    COPY_BYTES = 65536
    GATHERED_BYTES = 262144
    UNSYNCED_BYTES = 67108864
    UNSYNCED_FILES = 8
    QUIET_SYNC_NS = 50000000


cdef class BinlogWriter(Journal):
    cdef readonly Room room
    cdef JobSource jobs
    cdef uint32_t seed              # of the checksums of its records
    cdef int64_t sync_every_ns      # 0: before each reply; -1: never
    cdef int64_t wall_offset_ns
    cdef int64_t begun_ns           # monotonic time of the start: every restored job was made before it
    cdef readonly Sink sink         # where the records become safe
    cdef FileSink files             # the same, or None if it is remote
    cdef uint64_t durable_lsn       # records below it are safe
    cdef uint64_t ids_limit         # as `id_limit`, by the last record; the two differ until that record is safe
    cdef uint64_t ids_lsn           # end of that record
    cdef bint out_of_ids            # commands wait until that record is safe
    cdef uint64_t marked_lsn        # the durable LSN in the last mark
    cdef int64_t unsynced_since_ns  # -1: everything is synced, or being synced
    cdef bint warned                # of the sync that is running
    cdef public int64_t slow_sync_ns
    cdef public object on_slow_sync
    cdef public object on_slow_write
    cdef Notices notices
    cdef const char *failed_what    # NULL: `failed_text`
    cdef int failed_errno
    cdef uint32_t failed_segment
    cdef str failed_text
    cdef uint64_t highest_id        # of all puts
    cdef uint64_t needed_lsn        # no record below it is needed, by the last shed record
    cdef uint64_t shed_lsn          # end of that record
    cdef uint64_t floor_bytes       # with less free room than this, commands wait
    cdef uint64_t appended_bytes    # since the last compaction step
    cdef uint64_t records_written
    cdef uint64_t records_migrated

    cdef void rotate(self) noexcept nogil
    cdef int cut(self, int fd) noexcept nogil
    cdef size_t begin_record(self, uint64_t bytes) noexcept nogil
    cdef void end_record(self, size_t start, bint gates) noexcept nogil
    cdef void number_record(self, RecordType type, uint64_t number, bint gates) noexcept nogil
    cdef void set_wall_offset(self) noexcept nogil
    cdef void write(self) noexcept nogil
    cdef void mark_and_write(self) noexcept nogil
    cdef void note_sink(self) noexcept nogil
    cdef void warn_of_write(self, uint64_t bytes) noexcept nogil
    cdef bint is_syncing(self) noexcept nogil
    cdef void sync_here(self) noexcept nogil
    cdef void take_ids(self, uint64_t safe_lsn) noexcept nogil
    cdef void fail(self, const char *what, int error) noexcept nogil
    cdef void open_gate(self) noexcept nogil
    cdef void take_event(self) noexcept nogil
    cdef void sync_as_due(self, int64_t now_ns, bint alone) noexcept nogil
    cdef void begin_sync(self) noexcept nogil
    cdef void synced(self, int files, uint64_t before_lsn) noexcept nogil
    cdef bint wants_ids(self) noexcept nogil
    cdef void warn_of_sync(
        self, int64_t took_ns, uint64_t from_lsn, uint64_t to_lsn, int files, bint running,
    ) noexcept nogil
    cdef bint is_tight(self) noexcept nogil
