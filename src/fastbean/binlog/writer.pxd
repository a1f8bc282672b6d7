"""The binlog on disk: records into segments, syncs, the gate of the replies, compaction."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.journal cimport JobSource, Journal
from fastbean.binlog.record cimport RUN_BYTES, RecordType
from fastbean.binlog.room cimport Room, Segment
from fastbean.binlog.sync cimport SyncRound

# SHORT_SYNC_US: under -f 0 the loop itself syncs for a group if the last sync took no longer. A round of the sync
# thread costs two thread switches, and up to a third of the rate of 64 clients on one core. A longer sync in the loop
# would block clients that do not need it; with a smaller limit, fast disks would pay for the thread.
#
# IDS_AT_ONCE: each block of ids costs one sync under every policy, and a crash skips the rest of a block. At 100,000
# puts per second this is a sync every 0.65 s, and even a crash every second would not use up the ids.
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
# All seven are judgements; only the effect of the first was measured.
cdef enum:
    SHORT_SYNC_US = 250
    IDS_AT_ONCE = 65536
    COPY_BYTES = 65536
    GATHERED_BYTES = 262144
    UNSYNCED_BYTES = 67108864
    UNSYNCED_FILES = 8
    QUIET_SYNC_NS = 50000000


cdef class BinlogWriter(Journal):
    cdef readonly Room room
    cdef JobSource jobs
    cdef char[RUN_BYTES] run_id     # the identity of the run
    cdef uint32_t seed              # of the checksums of its records
    cdef int64_t sync_every_ns      # 0: before each reply; -1: never
    cdef int64_t wall_offset_ns
    cdef int64_t begun_ns           # monotonic time of the start: every restored job was made before it
    cdef uint64_t written_lsn
    cdef uint64_t durable_lsn
    cdef uint64_t marked_lsn        # the durable LSN in the last mark
    cdef int64_t unsynced_since_ns  # -1: everything is synced, or being synced
    cdef bint syncing
    cdef bint warned                # of the sync that is running
    cdef public int64_t slow_sync_ns
    cdef public object on_slow_sync
    cdef SyncRound round
    cdef list closed_fds            # of full segments that are not synced yet
    cdef int closing                # how many of them the running round syncs
    cdef bint left_unsynced         # a full segment was not synced, because of -F
    cdef uint64_t highest_id        # of all puts
    cdef uint64_t needed_lsn        # no record below it is needed, by the last shed record
    cdef uint64_t shed_lsn          # end of that record
    cdef uint64_t floor_bytes       # with less free room than this, commands wait
    cdef uint64_t appended_bytes    # since the last compaction step
    cdef uint64_t records_written
    cdef uint64_t records_migrated
    cdef uint64_t write_last_us
    cdef uint64_t write_longest_us

    cdef void rotate(self) noexcept
    cdef void fill_header(self, char *header, Segment *segment) noexcept
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
    cdef bint copy_settings(self, Segment *segment, uint64_t end_lsn) noexcept
    cdef bint has_room_to_copy(self, uint64_t bytes) noexcept
    cdef void shed(self) noexcept
