"""The job, and the table that finds a job by its id.

A job is one allocation: a header and the body behind it. Ids are handed out in order, so the table keeps the jobs of
sixteen ids that follow one another in one leaf: for a job of a long queue it costs about ten bytes, and jobs that are
used one after the other lie side by side.

Always true: a job whose state is ready, reserved, delayed or buried stands in exactly one heap and in the table;
any other job stands in neither.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastbean._table cimport Entry, hash_number, table_first, table_free, table_insert, table_remove


cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    static void fastbean_trim(void) { malloc_trim(0); }
    #else
    static void fastbean_trim(void) {}
    #endif
    """
    void fastbean_trim() nogil


cdef void give_memory_back() noexcept nogil:
    """Hand the pages of freed jobs back to the system; glibc alone keeps what lies below a job that lives."""
    fastbean_trim()


cdef Job *job_new(uint32_t body_bytes) noexcept nogil:
    """A job of zeros (state arriving) with room for its body, or NULL without memory."""
    cdef Job *job = <Job *>malloc(sizeof(Job) + body_bytes)
    if job is NULL:
        return NULL
    memset(job, 0, sizeof(Job))
    job.body_bytes = body_bytes
    return job


cdef void job_discard(Job *job) noexcept nogil:
    """The job is gone: free it now, or when the last reply that sends its body is done."""
    job.state = JOB_GONE
    if job.pins == 0:
        free(job)


cdef void job_unpin(Job *job) noexcept nogil:
    """One reply is done with this body."""
    job.pins -= 1
    if job.pins == 0 and job.state == JOB_GONE:
        free(job)


cdef inline Leaf *leaf_of(JobTable *table, uint64_t id) noexcept nogil:
    # hash_number maps numbers to hashes one to one, so the first leaf with this hash is the one.
    cdef uint64_t hash = hash_number(id // LEAF_JOBS)
    # Ids come one after the other, in puts as well as in a log.
    if table.last is NULL or table.last.entry.hash != hash:
        table.last = <Leaf *>table_first(&table.leaves, hash)
    return table.last


cdef int job_table_put(JobTable *table, uint64_t id, Job *job) noexcept nogil:
    """File `job` under `id`, which is not in the table. Returns 0, or -1 without memory (nothing changed)."""
    cdef Leaf *leaf = leaf_of(table, id)
    if leaf is NULL:
        leaf = <Leaf *>calloc(1, sizeof(Leaf))
        if leaf is NULL:
            return -1
        if table_insert(&table.leaves, &leaf.entry, hash_number(id // LEAF_JOBS)) < 0:
            free(leaf)
            return -1
        table.last = leaf
    leaf.jobs[id % LEAF_JOBS] = job
    table.count += 1
    return 0


cdef Job *job_table_get(JobTable *table, uint64_t id) noexcept nogil:
    """The job with this id, or NULL."""
    cdef Leaf *leaf = leaf_of(table, id)
    return NULL if leaf is NULL else leaf.jobs[id % LEAF_JOBS]


cdef inline bint is_empty(Leaf *leaf) noexcept nogil:
    cdef uint32_t place
    for place in range(LEAF_JOBS):
        if leaf.jobs[place] is not NULL:
            return False
    return True


cdef void job_table_remove(JobTable *table, uint64_t id) noexcept nogil:
    """Forget `id`, which is in the table."""
    cdef Leaf *leaf = leaf_of(table, id)
    leaf.jobs[id % LEAF_JOBS] = NULL
    table.count -= 1
    if is_empty(leaf):
        table_remove(&table.leaves, &leaf.entry)
        table.last = NULL
        free(leaf)


cdef void free_leaves(Entry **buckets, size_t first, size_t size) noexcept nogil:
    cdef Entry *entry
    cdef Entry *following
    cdef uint32_t place
    for bucket in range(first, size):
        entry = buckets[bucket]
        while entry is not NULL:
            following = entry.next
            for place in range(LEAF_JOBS):
                free((<Leaf *>entry).jobs[place])
            free(entry)
            entry = following


cdef void job_table_free(JobTable *table) noexcept nogil:
    """Free every job in the table, pinned or not, and the table."""
    if table.leaves.old_buckets is not NULL:
        free_leaves(table.leaves.old_buckets, table.leaves.moved, table.leaves.old_size)
    free_leaves(table.leaves.buckets, 0, table.leaves.size)
    table_free(&table.leaves)
    table.last = NULL
    table.count = 0
