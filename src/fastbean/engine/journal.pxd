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

cdef struct TubeImage:              # what a journal stores of a tube; in a file its time is wall time
    int64_t pause_end_ns            # of a paused tube
    uint32_t pause_s                # as pause-tube set it; 0: not paused
    uint32_t name_bytes
    const char *name

cdef struct Clearing:               # a tube is being cleared: its jobs up to a place in the binlog end
    const char *name
    uint32_t name_bytes
    uint32_t segment                # all jobs whose put record is in an earlier segment
    uint32_t first_lsn              # where that segment begins; this and the next one modulo 2**32
    uint32_t lsn                    # of the jobs with a put record in it, those before this LSN
    uint32_t kept                   # jobs at the end of the heap being searched that stay
    uint32_t heap                   # 0: ready, 1: delayed, 2: buried

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

    cdef int restore_put(self, JobImage *job, uint32_t segment, uint64_t lsn, uint32_t *before) noexcept nogil
    cdef int restore_update(self, JobImage *job) noexcept nogil
    cdef uint32_t restore_delete(self, uint64_t id, uint64_t *bytes) noexcept nogil
    cdef int restore_tube(self, TubeImage *tube, uint32_t segment, uint32_t *before) noexcept nogil
    cdef uint32_t restore_clear(self, Clearing *clearing, uint64_t *bytes) noexcept nogil
    cdef bint image_of(self, uint64_t id, uint32_t segment, JobImage *job) noexcept nogil
    cdef void moved(self, uint64_t id, uint32_t segment) noexcept nogil
    cdef bint oldest_settings(self, uint32_t segment, TubeImage *tube) noexcept nogil
    cdef void settings_moved(self, uint32_t segment) noexcept nogil


cdef class Compactor:
    cdef bint step(self) noexcept nogil


cdef class Journal:
    cdef public Compactor compactor
    cdef uint64_t end_lsn       # where the next record goes
    cdef uint64_t gate_lsn      # end of the last record that a reply may depend on
    cdef uint64_t committed_lsn  # replies that depend on no more than this may be sent
    cdef uint64_t id_limit      # every id that may be assigned now is below it
    cdef uint64_t more_ids_at   # an id from which `more_ids` has to be called
    cdef bint binds_reads       # every reply that reports a state waits for the batch that is open now
    cdef bint tight             # commands must wait until the journal has room, or a sync is done
    cdef uint64_t memory_bytes  # capacity of its buffers
    cdef uint64_t kept_bytes    # an empty buffer that is larger is freed
    cdef bint failed            # it cannot continue; `failure` says why
    cdef bint has_requests      # `make_requests` has something to do
    cdef public int done_fd     # readable when `take_event` has something to do; -1: never

    cdef Space reserve(self, uint64_t body_bytes) noexcept nogil
    cdef uint32_t put(self, JobImage *job) noexcept nogil
    cdef void update(self, JobImage *job, bint gates) noexcept nogil
    cdef void delete(self, uint64_t id, uint32_t segment, uint64_t bytes) noexcept nogil
    cdef uint32_t settings(self, TubeImage *tube, uint32_t segment) noexcept nogil
    cdef void settings_over(self, uint32_t segment, uint32_t name_bytes) noexcept nogil
    cdef void more_ids(self) noexcept nogil
    cdef void take_event(self) noexcept nogil
    cdef uint64_t open_batch(self) noexcept nogil
    cdef void commit(self, int64_t now_ns, bint alone) noexcept nogil
    cdef bint syncs_shortly(self) noexcept nogil
    cdef int64_t due_ns(self) noexcept nogil
    cdef bint figures_of(self, BinlogFigures *figures) noexcept nogil


cdef inline uint64_t logged_bytes(uint64_t body_bytes, uint32_t name_bytes) noexcept nogil:
    """The size that a put record counts with: about its real one, and always the same for the same job."""
    return body_bytes + name_bytes + 40


cdef inline uint64_t settings_bytes(uint32_t name_bytes) noexcept nogil:
    """The size that a record of a tube's settings counts with."""
    return name_bytes + 24
