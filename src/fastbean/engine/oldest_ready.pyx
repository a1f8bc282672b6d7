"""Which of a tube's ready jobs was put first.

Ids are handed out in order, so it is the one with the lowest id; but the ready heap is in the order of priorities, and
a second order would cost memory for each job. What a tube keeps is a bound, ``oldest_id``.

Always true: no ready job of the tube has a lower id than ``oldest_id``. A job that becomes ready lowers the bound if
need be, which is one comparison; a job that leaves lets it be. Only who asks raises it: from id to id through the table
of all jobs, as far as some steps go. However often the world changes between two calls, the bound stays a bound. An
id is passed once, until a job with a lower one comes back.

A call costs O(1) while the oldest job stays ready, a look at each entry of a short heap, and otherwise `steps`.
"""

from libc.stdint cimport uint32_t

from fastbean._core cimport heap_at
from fastbean.engine.job cimport JOB_READY, Job, JobTable, job_table_get, job_table_next
from fastbean.engine.tube cimport Tube

cdef enum:
    LOOKED_THROUGH = 4096           # entries of a heap that are looked through at once: some microseconds


cdef inline bint is_ready_in(Job *job, Tube *tube) noexcept nogil:
    return job is not NULL and job.state == JOB_READY and job.tube == tube.number


cdef bint find_oldest(JobTable *jobs, Tube *tube, uint32_t *steps, Job **oldest) noexcept nogil:
    """Look for the ready job with the lowest id.

    Args:
        jobs: all jobs of the server.
        tube: the tube.
        steps: how many may be taken; becomes how many are left.
        oldest: becomes the job, or NULL when none is ready.

    Returns:
        Whether it is known; if not, a further call goes on from where this one has ended.
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
