"""Finds the ready job of a tube that was put first.

Ids are assigned in order, so it is the one with the lowest id. But the ready heap is ordered by priority, and a second
order would cost memory for each job. Instead, a tube keeps a bound, ``oldest_id``.

Invariant: no ready job of the tube has a lower id than ``oldest_id``. A job that becomes ready lowers the bound if
needed, which is one comparison; a job that leaves does not change it. Only the search raises it: it goes from id to id
through the table of all jobs, for a limited number of steps. The bound stays valid whatever changes between two calls.
An id is passed only once, until a job with a lower one becomes ready again.

A call costs O(1) while the oldest job stays ready, a look at each entry of a short heap, and otherwise `steps`.
"""

from libc.stdint cimport uint32_t

from fastbean._core cimport heap_at
from fastbean.engine.job cimport JOB_READY, Job, JobTable, job_table_get, job_table_next
from fastbean.engine.tube cimport Tube

cdef enum:
    LOOKED_THROUGH = 4096           # the longest heap that is searched completely, which takes some microseconds


cdef inline bint is_ready_in(Job *job, Tube *tube) noexcept nogil:
    return job is not NULL and job.state == JOB_READY and job.tube == tube.number


cdef bint find_oldest(JobTable *jobs, Tube *tube, uint32_t *steps, Job **oldest) noexcept nogil:
    """Look for the ready job with the lowest id.

    Args:
        jobs: all jobs of the server.
        tube: the tube.
        steps: how many may be taken; set to how many are left.
        oldest: set to the job, or NULL when none is ready.

    Returns:
        Whether it is known; if not, the next call continues where this one ended.
    """
    cdef uint32_t place
    cdef Job *job = job_table_get(jobs, tube.oldest_id)
    oldest[0] = NULL
    if tube.ready.len == 0:
        return True
    if not is_ready_in(job, tube) and tube.ready.len <= LOOKED_THROUGH:
        tube.oldest_id = heap_at(&tube.ready, 0).tie
        for place in range(1, tube.ready.len):
            tube.oldest_id = min(tube.oldest_id, heap_at(&tube.ready, place).tie)
        job = job_table_get(jobs, tube.oldest_id)
    while not is_ready_in(job, tube):
        if steps[0] == 0:
            return False
        steps[0] -= 1
        if job is not NULL:
            tube.oldest_id += 1
        job = job_table_next(jobs, &tube.oldest_id)
    oldest[0] = job
    return True
