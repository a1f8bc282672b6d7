"""The job, and the table that finds a job by its id."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from fastbean._core cimport Heap, HeapNode, HeapSlot, heap_top
from fastbean.base.debug_counters cimport LIVE_JOBS, live_born
from fastbean.base.slab cimport Slab, slab_new
from fastbean.base.hash_table cimport Entry, Table

cdef enum JobState:
    JOB_ARRIVING                # its body is being received: in no heap, not in the table
    JOB_READY
    JOB_RESERVED
    JOB_DELAYED
    JOB_BURIED
    JOB_RETURNING               # its client has left: reserved for all others, and ready in a moment
    JOB_GONE                    # deleted, kept only while its body is being sent

cdef struct Job:                # the body follows, without its CRLF
    HeapNode node               # its place in the one heap that it is in; the slot there has the id and the deadline
    uint8_t state               # a JobState
    uint16_t pins               # replies that are sending this body
    uint32_t tube               # number of its tube
    uint32_t client             # number of the client that reserved it
    int64_t created_ns
    uint32_t pri
    uint32_t delay_s
    uint32_t ttr_s
    uint32_t body_bytes
    uint32_t reserves
    uint32_t timeouts
    uint32_t releases
    uint32_t buries
    uint32_t kicks
    uint32_t reservation_seq     # sequence number among the reservations of its client, modulo 2**32
    uint32_t segment            # the binlog segment with its put record
    uint32_t lsn                # end of its last record that a reply may depend on, modulo 2**32

cdef enum:
    LEAF_JOBS = 16
    JOB_PLACES_BYTES = 48           # 24 in a heap, about 11 in the table, and the allocator's share

cdef struct Leaf:               # the jobs of LEAF_JOBS consecutive ids
    Entry entry
    Job *jobs[LEAF_JOBS]

cdef struct JobTable:           # all zero bytes = an empty table
    Table leaves
    Leaf *last                  # the last one looked up, or NULL if there is none
    uint64_t last_number        # its number
    uint64_t end_number         # no leaf has this number or a higher one
    uint64_t count

cdef inline char *job_body(Job *job) noexcept nogil:
    return <char *>job + sizeof(Job)

cdef inline Job *first_job(Heap *heap) noexcept nogil:
    """The job at the top of a heap of jobs, or NULL."""
    cdef HeapSlot *top = heap_top(heap)
    return NULL if top is NULL else <Job *>top.node

cdef Leaf *look_up_leaf(JobTable *table, uint64_t number) noexcept nogil

cdef inline Leaf *leaf_of(JobTable *table, uint64_t id) noexcept nogil:
    """The leaf for this id, or NULL."""
    # Ids are consecutive, in puts as well as in a binlog.
    return table.last if id // LEAF_JOBS == table.last_number else look_up_leaf(table, id // LEAF_JOBS)

cdef inline Job *job_table_get(JobTable *table, uint64_t id) noexcept nogil:
    """The job with this id, or NULL."""
    cdef Leaf *leaf = leaf_of(table, id)
    return NULL if leaf is NULL else leaf.jobs[id % LEAF_JOBS]

cdef inline uint64_t job_cost(uint32_t body_bytes) noexcept nogil:
    """The memory that a job counts for, in bytes: its header and body, and its places in a heap and in the table."""
    return sizeof(Job) + JOB_PLACES_BYTES + body_bytes

cdef inline Job *job_new(Slab *slab, uint32_t body_bytes) noexcept nogil:
    """Make a job of zeros (state arriving) with room for its body; returns NULL without memory."""
    cdef Job *job = <Job *>slab_new(slab, sizeof(Job) + body_bytes)
    if job is NULL:
        return NULL
    live_born(LIVE_JOBS)
    memset(job, 0, sizeof(Job))
    job.body_bytes = body_bytes
    return job

cdef uint64_t job_unpin(Job *job) noexcept nogil
cdef void job_free(Job *job) noexcept nogil
cdef uint64_t job_discard(Job *job) noexcept nogil

cdef int job_table_put(JobTable *table, Slab *slab, uint64_t id, Job *job) noexcept nogil
cdef Job *job_table_next(JobTable *table, uint64_t *id) noexcept nogil
cdef void job_table_remove(JobTable *table, uint64_t id) noexcept nogil
cdef void job_table_free(JobTable *table) noexcept nogil
