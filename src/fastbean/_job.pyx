"""The job, and the table that finds a job by its id.

A job is one allocation: a header and the body behind it. Ids are handed out in order, so the table keeps the jobs of
sixteen ids that follow one another in one leaf: for a job of a long queue it costs about ten bytes, and jobs that are
used one after the other lie side by side.

Always true: a job that is ready, reserved, delayed, buried or returning stands in exactly one heap and in the table;
one that arrives or is gone stands in neither.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from fastbean._live cimport LIVE_JOBS, LIVE_LEAVES, live_born, live_gone
from fastbean._table cimport Entry, hash_number, table_expect, table_first, table_free, table_insert, table_remove


cdef extern from *:
    """
    #include <stdlib.h>
    #ifdef __GLIBC__
    #include <malloc.h>
    static void fastbean_trim(void) { malloc_trim(0); }
    #else
    static void fastbean_trim(void) {}
    #endif

    #if defined(__GLIBC__) && defined(__linux__)
    #include <limits.h>
    #include <sys/mman.h>
    #include <unistd.h>

    static char *fastbean_heap_end;
    static int fastbean_kept_bytes = 64 << 20;

    /* What mmap has given would go back at once: glibc raises that limit by itself only as long as none is set. */
    static void fastbean_keep_freed(void) {
        fastbean_kept_bytes = INT_MAX;
        mallopt(M_TRIM_THRESHOLD, fastbean_kept_bytes);
        mallopt(M_MMAP_THRESHOLD, 4 << 20);
    }

    /* The heap grows by so much at once. In a process that is not only a server's, its end keeps no more than 64 MB. */
    static void fastbean_grow_by(int bytes) {
        mallopt(M_TRIM_THRESHOLD, fastbean_kept_bytes);
        mallopt(M_TOP_PAD, bytes);
        fastbean_heap_end = sbrk(0);
    }

    static void fastbean_use_large_pages(const void *newest) {
        char *end;
        if ((const char *)newest < fastbean_heap_end)
            return;
        end = sbrk(0);
        if (end > fastbean_heap_end)
            madvise(fastbean_heap_end, end - fastbean_heap_end, MADV_HUGEPAGE);
        fastbean_heap_end = end;
    }
    #else
    static void fastbean_keep_freed(void) {}
    static void fastbean_grow_by(int bytes) { (void)bytes; }
    static void fastbean_use_large_pages(const void *newest) { (void)newest; }
    #endif
    """
    void fastbean_trim() nogil
    void fastbean_keep_freed() nogil
    void fastbean_grow_by(int bytes) nogil
    void fastbean_use_large_pages(const void *newest) nogil

cdef enum:
    RESTORE_STEP_BYTES = 33554432   # by which the heap grows while a large log is read
    USUAL_STEP_BYTES = 131072       # glibc's own


cdef void give_memory_back() noexcept nogil:
    """Hand the pages of freed jobs back to the system; glibc alone keeps what lies below a job that lives."""
    fastbean_trim()


cdef void keep_freed_memory() noexcept nogil:
    """From now on memory goes back to the system by `give_memory_back` only.

    By itself glibc gives back what is freed at the end of its heap, when a queue runs empty, and has every page of the
    next jobs asked for again.
    """
    fastbean_keep_freed()


cdef void expect_many_jobs(JobTable *table, uint64_t count) noexcept nogil:
    """About so many jobs come at once: give the table its size, and have the heap grow in large steps.

    The system is asked for large pages then: one page fault for two megabytes, where small pages take as long to be
    given as the jobs to be read.
    """
    fastbean_grow_by(RESTORE_STEP_BYTES)
    table_expect(&table.leaves, count // LEAF_JOBS)


cdef void expect_no_more_jobs() noexcept nogil:
    """All of them are there: what the last step took too much goes back."""
    fastbean_grow_by(USUAL_STEP_BYTES)
    fastbean_trim()


cdef Job *job_of_many(uint32_t body_bytes) noexcept nogil:
    """`job_new` between `expect_many_jobs` and `expect_no_more_jobs`."""
    cdef Job *job = job_new(body_bytes)
    fastbean_use_large_pages(job)
    return job


cdef Job *job_new(uint32_t body_bytes) noexcept nogil:
    """A job of zeros (state arriving) with room for its body, or NULL without memory."""
    cdef Job *job = <Job *>malloc(sizeof(Job) + body_bytes)
    if job is NULL:
        return NULL
    live_born(LIVE_JOBS)
    memset(job, 0, sizeof(Job))
    job.body_bytes = body_bytes
    return job


cdef void job_free(Job *job) noexcept nogil:
    """Free a job that nothing refers to, or NULL."""
    if job is not NULL:
        live_gone(LIVE_JOBS)
        free(job)


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
    """One reply is done with this body. Returns the cost of the job if that frees it, else 0."""
    job.pins -= 1
    return job_discard(job) if job.pins == 0 and job.state == JOB_GONE else 0


cdef Leaf *look_up_leaf(JobTable *table, uint64_t number) noexcept nogil:
    """The leaf of this number, which is the last one then, or NULL."""
    if number >= table.end_number:
        return NULL
    table.last_number = number
    # hash_number maps numbers to hashes one to one, so the first leaf with this hash is the one.
    table.last = <Leaf *>table_first(&table.leaves, hash_number(number))
    return table.last


cdef int job_table_put(JobTable *table, uint64_t id, Job *job) noexcept nogil:
    """File `job` under `id`, which is not in the table. Returns 0, or -1 without memory (nothing changed)."""
    cdef uint64_t number = id // LEAF_JOBS
    cdef Leaf *leaf = leaf_of(table, id)
    if leaf is NULL:
        leaf = <Leaf *>calloc(1, sizeof(Leaf))
        if leaf is NULL:
            return -1
        if table_insert(&table.leaves, &leaf.entry, hash_number(number)) < 0:
            free(leaf)
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
    """Forget `id`, which is in the table."""
    cdef Leaf *leaf = leaf_of(table, id)
    leaf.jobs[id % LEAF_JOBS] = NULL
    table.count -= 1
    if is_empty(leaf):
        table_remove(&table.leaves, &leaf.entry)
        table.last = NULL
        live_gone(LIVE_LEAVES)
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
                job_free((<Leaf *>entry).jobs[place])
            live_gone(LIVE_LEAVES)
            free(entry)
            entry = following


cdef void job_table_free(JobTable *table) noexcept nogil:
    """Free every job in the table, pinned or not, and the table."""
    if table.leaves.old_buckets is not NULL:
        free_leaves(table.leaves.old_buckets, table.leaves.moved, table.leaves.old_size)
    free_leaves(table.leaves.buckets, 0, table.leaves.size)
    table_free(&table.leaves)
    memset(table, 0, sizeof(JobTable))
