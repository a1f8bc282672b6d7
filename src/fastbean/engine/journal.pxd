"""The interface between engine and binlog: neither imports the other."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum RecordState:
    STATE_READY                     # or reserved: a reservation does not outlive the server
    STATE_DELAYED
    STATE_BURIED

cdef struct JobImage:               # what a journal stores of a job; in a file its times are wall time
    uint64_t id
    int64_t created_ns
    int64_t deadline_ns             # of a delayed job
    uint64_t burial                 # number of the burial of a buried job
    uint32_t pri
    uint32_t delay_s
    uint32_t ttr_s
    uint32_t reserves
    uint32_t timeouts
    uint32_t releases
    uint32_t buries
    uint32_t kicks
    uint32_t body_bytes
    uint32_t name_bytes
    const char *name
    const char *body
    RecordState state

cdef enum Space:
    SPACE_READY
    SPACE_COMING                # not yet: the put is held
    SPACE_NONE                  # the disk is full, or the limit reached: the put is refused
    SPACE_NO_MEMORY             # for the record: the put is refused


cdef struct BinlogFigures:         # for `stats`; sizes in bytes, times in microseconds
    uint64_t oldest
    uint64_t current
    uint64_t migrated
    uint64_t written
    uint64_t live_bytes
    uint64_t disk_bytes         # of all files
    uint64_t syncs
    uint64_t sync_last_us
    uint64_t sync_longest_us
    uint64_t write_last_us
    uint64_t write_longest_us


cdef class JobSource:
    """The owner of the jobs: the engine."""

    cdef int restore_put(self, JobImage *job, uint32_t segment, uint64_t lsn, uint32_t *before) noexcept
    cdef int restore_update(self, JobImage *job, uint64_t lsn) noexcept
    cdef uint32_t restore_delete(self, uint64_t id, uint64_t *bytes) noexcept
    cdef bint image_of(self, uint64_t id, uint32_t segment, JobImage *job) noexcept
    cdef void moved(self, uint64_t id, uint32_t segment) noexcept


cdef class Journal:
    cdef uint64_t end_lsn       # where the next record goes
    cdef uint64_t gate_lsn      # end of the last record that a reply may depend on
    cdef uint64_t committed_lsn  # replies that depend on no more than this may be sent
    cdef uint64_t id_limit      # every id that may be assigned now is below it
    cdef bint tight             # commands must wait until the journal has room, or a sync is done
    cdef uint64_t memory_bytes  # capacity of its buffers
    cdef uint64_t kept_bytes    # an empty buffer that is larger is freed
    cdef readonly str failure   # why the journal cannot continue, or None

    cdef Space reserve(self, uint64_t body_bytes) noexcept
    cdef uint32_t put(self, JobImage *job) noexcept
    cdef void update(self, JobImage *job, bint gates) noexcept
    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept
    cdef void more_ids(self) noexcept
    cdef void commit(self, int64_t now_ns, bint alone) noexcept
    cdef bint syncs_shortly(self) noexcept
    cdef bint compact(self) noexcept
    cdef int64_t due_ns(self) noexcept
    cdef bint figures_of(self, BinlogFigures *figures) noexcept


cdef inline uint64_t logged_bytes(uint64_t body_bytes, uint32_t name_bytes) noexcept nogil:
    """The size that a put record counts with: about its real one, and always the same for the same job."""
    return body_bytes + name_bytes + 40
