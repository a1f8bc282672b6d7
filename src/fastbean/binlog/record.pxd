"""The records of the binlog: encodes the state of a job or a tube into bytes, and decodes it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer
from fastbean.engine.journal cimport STATE_DELAYED, JobImage, TubeImage

cdef enum RecordType:
    RECORD_END                      # zeros: nothing was written here
    RECORD_PUT                      # everything about a job; also its copy by compaction
    RECORD_UPDATE                   # everything about a job that can change
    RECORD_DELETE
    RECORD_DURABLE                  # the LSN up to which the binlog was synced when this was written
    RECORD_NEXT_ID                  # every id assigned so far is below this one
    RECORD_SHED                     # records below this LSN are no longer needed
    RECORD_TUBE                     # all settings of a tube
    # The jobs of a tube that were put below this LSN have ended. The server does not write such records yet; a later
    # command, which deletes all jobs of a tube, will.
    RECORD_CLEARED

cdef enum Fault:
    FAULT_NONE
    FAULT_END                       # no more records: zeros, or the end of the file
    FAULT_BROKEN                    # bytes that are no record
    FAULT_IMPOSSIBLE                # a right checksum over what no writer writes: no power cut leaves that
    FAULT_NEWER                     # a record with something that only a newer fastbean knows, and that it requires

cdef enum:
    SEGMENT_HEADER_BYTES = 64       # before the first record of a file

    # Of a put record, all but the body: checksum 4, length 10, type 1, flags 1, id 10, state 1, pri, delay, ttr and
    # five counters 5 each, burial 10, created 8, length of the name 2, name 200, length of the body 5.
    MAX_RECORD_OVERHEAD = 292
    MAX_NAME_BYTES = 200
    RUN_BYTES = 16                  # of the identity of a run
    FLAG_MEMBERS = 1                # of a record: optional members follow
    SKIPPABLE_TYPES = 128           # a reader skips a record of an unknown type at or above this one
    MAX_VARINT_BYTES = 10
    MAX_RECORD_HEAD_BYTES = 14      # checksum and length
    MAX_UPDATE_BYTES = 80           # of an update, a delete or another record of one number
    # Of a record of a tube: checksum 4, length 2, type 1, flags 1, length of the name 2, name 200, seconds 5, end 8.
    MAX_TUBE_BYTES = 223

cdef struct Record:
    RecordType type
    uint64_t number                 # an id or an LSN; of all types except put, update and tube
    size_t size                     # in the file
    JobImage job                    # of put and update; the name and body of a put point into the file
    TubeImage tube                  # of tube and cleared; the name points into the file

cdef inline char *put_varint(char *at, uint64_t number) noexcept nogil:
    """Write `number`, at most MAX_VARINT_BYTES; returns the end of what it wrote."""
    while number >= 0x80:
        at[0] = <char>(number & 0x7F | 0x80)
        number >>= 7
        at += 1
    at[0] = <char>number
    return at + 1

cdef const char *get_varint(const char *at, const char *end, uint64_t *number) noexcept nogil

cdef uint32_t crc32c(uint32_t crc, const char *data, size_t size) noexcept nogil

cdef void fill_segment_header(
    char *header, uint32_t number, uint64_t first_lsn, uint64_t id_limit, uint64_t floor, const char *run
) noexcept nogil

cdef void append_put(Buffer *buffer, JobImage *job, uint32_t seed, uint64_t lsn) noexcept nogil
cdef void append_update(Buffer *buffer, JobImage *job, uint32_t seed, uint64_t lsn) noexcept nogil
cdef void append_delete(Buffer *buffer, uint64_t id, uint32_t seed, uint64_t lsn) noexcept nogil
cdef void append_number(Buffer *buffer, RecordType type, uint64_t number, uint32_t seed, uint64_t lsn) noexcept nogil
cdef void append_tube(Buffer *buffer, TubeImage *tube, uint32_t seed, uint64_t lsn) noexcept nogil
cdef void append_cleared(
    Buffer *buffer, const char *name, uint32_t name_bytes, uint64_t below, uint32_t seed, uint64_t lsn,
) noexcept nogil
cdef uint64_t record_bytes(const char *head, size_t size) noexcept nogil
cdef Fault read_record(const char *data, size_t size, uint32_t seed, uint64_t lsn, Record *record) noexcept nogil
cdef uint32_t seed_of_record(const char *data, size_t size, uint64_t lsn) noexcept nogil
cdef bint is_zero(const char *data, size_t size) noexcept nogil


cdef inline void job_to_wall(JobImage *job, int64_t wall_offset_ns) noexcept nogil:
    """Convert the times of a job to wall time, which is `wall_offset_ns` ahead of the monotonic clock."""
    job.created_ns += wall_offset_ns
    if job.state == STATE_DELAYED:
        job.deadline_ns += wall_offset_ns


cdef inline void job_from_wall(JobImage *job, int64_t wall_offset_ns, int64_t now_ns) noexcept nogil:
    """Convert the times of a job that was read to monotonic time, which is `wall_offset_ns` behind wall time.

    The wall clock may have been set back since. So no job gets a creation time after `now_ns`, and no delay gets longer
    than it was.
    """
    job.created_ns = min(job.created_ns - wall_offset_ns, now_ns)
    if job.state == STATE_DELAYED:
        job.deadline_ns = min(job.deadline_ns - wall_offset_ns, now_ns + <int64_t>job.delay_s * 1000000000)


cdef inline void tube_to_wall(TubeImage *tube, int64_t wall_offset_ns) noexcept nogil:
    """Convert the end of a pause to wall time, as `job_to_wall` does."""
    if tube.pause_s:
        tube.pause_end_ns += wall_offset_ns


cdef inline void tube_from_wall(TubeImage *tube, int64_t wall_offset_ns, int64_t now_ns) noexcept nogil:
    """Convert the end of a pause to monotonic time. A pause that has ended is none, and none gets longer than it was
    set, even if the wall clock was set back."""
    tube.pause_end_ns = min(tube.pause_end_ns - wall_offset_ns, now_ns + <int64_t>tube.pause_s * 1000000000)
    if tube.pause_end_ns <= now_ns:
        tube.pause_s = 0
