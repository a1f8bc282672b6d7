"""The one way from an id to a job: what a client may do to a job is decided here."""

from libc.stdint cimport uint64_t

from fastbean.engine.client cimport Client
from fastbean.engine.job cimport (
    JOB_BURIED, JOB_DELAYED, JOB_RESERVED, JOB_RETURNING, Job, job_table_get,
)
from fastbean.engine.state cimport State

cdef enum Purpose:
    TO_LOOK                         # peek, stats-job
    TO_RESERVE                      # a job that no client has reserved
    TO_DELETE                       # a job that no other client has reserved
    TO_KICK                         # a buried or delayed job
    TO_END_OR_KEEP                  # the client's own reservation: release, bury, touch


cdef inline Job *job_for(State state, Client *client, uint64_t id, Purpose purpose) noexcept nogil:
    """The job with this id if the client may use it for this purpose now; otherwise NULL, and the reply is NOT_FOUND:
    nothing reveals whether a job that the client may not use exists."""
    cdef Job *job = job_table_get(&state.jobs, id)
    if job is NULL or purpose == TO_LOOK:
        return job
    if job.state == JOB_RESERVED:
        if (purpose == TO_END_OR_KEEP or purpose == TO_DELETE) and job.client == client.number:
            return job
        return NULL
    if job.state == JOB_RETURNING or purpose == TO_END_OR_KEEP:
        return NULL
    if purpose == TO_KICK and job.state != JOB_BURIED and job.state != JOB_DELAYED:
        return NULL
    return job
