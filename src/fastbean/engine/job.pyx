"""The job, and the table that finds a job by its id.

A job is one allocation: a header followed by the body. Ids are assigned in order, so the table keeps the jobs of
sixteen consecutive ids in one leaf: for a job of a long queue that costs about ten bytes, and jobs that are used one
after the other are neighbours in memory. Jobs and leaves come from the slab of their server, which outlives them.

Invariant: a job that is ready, reserved, delayed, buried or returning is in exactly one heap and in the table; one that
is arriving or gone is in neither.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from fastbean.base.debug_counters cimport LIVE_JOBS, LIVE_LEAVES, live_born, live_gone
from fastbean.base.slab cimport Slab, slab_drop, slab_new
from fastbean.base.hash_table cimport Entry, hash_number, table_first, table_free, table_insert, table_remove


cdef void job_free(Job *job) noexcept nogil:
    """Free a job that nothing refers to; does nothing for NULL."""
    if job is not NULL:
        live_gone(LIVE_JOBS)
        slab_drop(job, sizeof(Job) + job.body_bytes)


cdef uint64_t job_discard(Job *job) noexcept nogil:
    """The job is gone: free it now, or when the last reply that sends its body is done. Returns its cost if it is
    freed now, else 0."""
    cdef uint64_t cost = job_cost(job.body_bytes)
    job.state = JOB_GONE
    if job.pins:
        return 0
    job_free(job)
    return cost


cdef uint64_t job_unpin(Job *job) noexcept nogil:
    """One reply has sent this body. Returns the cost of the job if that frees it, else 0."""
    job.pins -= 1
    return job_discard(job) if job.pins == 0 and job.state == JOB_GONE else 0


cdef Leaf *look_up_leaf(JobTable *table, uint64_t number) noexcept nogil:
    """Look up the leaf of this number and remember it as the last one; returns NULL if there is none."""
    if number >= table.end_number:
        return NULL
    table.last_number = number
    # hash_number is one to one, so the first leaf with this hash is the right one.
    table.last = <Leaf *>table_first(&table.leaves, hash_number(number))
    return table.last


cdef int job_table_put(JobTable *table, Slab *slab, uint64_t id, Job *job) noexcept nogil:
    """Add `job` under `id`, which is not in the table. Returns 0, or -1 without memory (nothing changed)."""
    cdef uint64_t number = id // LEAF_JOBS
    cdef Leaf *leaf = leaf_of(table, id)
    if leaf is NULL:
        leaf = <Leaf *>slab_new(slab, sizeof(Leaf))
        if leaf is NULL:
            return -1
        memset(leaf, 0, sizeof(Leaf))
        if table_insert(&table.leaves, &leaf.entry, hash_number(number)) < 0:
            slab_drop(leaf, sizeof(Leaf))
            return -1
        live_born(LIVE_LEAVES)
        table.last = leaf
        table.last_number = number
        table.end_number = max(table.end_number, number + 1)
    leaf.jobs[id % LEAF_JOBS] = job
    table.count += 1
    return 0


cdef Job *job_table_next(JobTable *table, uint64_t *id) noexcept nogil:
    """One step from `id` upwards: to the next job, which is returned, or past the end of this leaf, and NULL.

    `id` becomes the job's, or the first of the next leaf.
    """
    cdef Leaf *leaf = leaf_of(table, id[0])
    cdef uint64_t end = (id[0] // LEAF_JOBS + 1) * LEAF_JOBS
    while leaf is not NULL and id[0] < end:
        if leaf.jobs[id[0] % LEAF_JOBS] is not NULL:
            return leaf.jobs[id[0] % LEAF_JOBS]
        id[0] += 1
    id[0] = end
    return NULL


cdef inline bint is_empty(Leaf *leaf) noexcept nogil:
    cdef uint32_t place
    for place in range(LEAF_JOBS):
        if leaf.jobs[place] is not NULL:
            return False
    return True


cdef void job_table_remove(JobTable *table, uint64_t id) noexcept nogil:
    """Remove `id`, which is in the table."""
    cdef Leaf *leaf = leaf_of(table, id)
    leaf.jobs[id % LEAF_JOBS] = NULL
    table.count -= 1
    if is_empty(leaf):
        table_remove(&table.leaves, &leaf.entry)
        table.last = NULL
        live_gone(LIVE_LEAVES)
        slab_drop(leaf, sizeof(Leaf))


cdef void free_leaves(Entry **buckets, size_t first, size_t size) noexcept nogil:
    cdef Entry *entry
    cdef Entry *following
    cdef uint32_t place
    for bucket in range(first, size):
        entry = buckets[bucket]
        while entry is not NULL:
            following = entry.next
            for place in range(LEAF_JOBS):
                job_free((<Leaf *>entry).jobs[place])
            live_gone(LIVE_LEAVES)
            slab_drop(entry, sizeof(Leaf))
            entry = following


cdef void job_table_free(JobTable *table) noexcept nogil:
    """Free every job in the table, pinned or not, and the table."""
    if table.leaves.old_buckets is not NULL:
        free_leaves(table.leaves.old_buckets, table.leaves.moved, table.leaves.old_size)
    free_leaves(table.leaves.buckets, 0, table.leaves.size)
    table_free(&table.leaves)
    memset(table, 0, sizeof(JobTable))
