"""`JobSource` on the state: restoring jobs at the start, and reading them for compaction.

The binlog reads its records, the oldest first, and calls these functions for each (`engine.journal` says what they
promise). A restored job is put into its heap at once; no client is waiting yet, so nothing else has to move.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastbean._core cimport Heap, heap_reserve
from fastbean.engine.job cimport (
    LEAF_JOBS, Job, job_body, job_cost, job_discard, job_new, job_table_get, job_table_put,
)
from fastbean.engine.journal cimport (
    STATE_BURIED, STATE_DELAYED, STATE_READY, JobImage, JobSource, Journal, logged_bytes,
)
from fastbean.engine.memory cimport memory_keep
from fastbean.base.slab cimport slab_expect_many, slab_expect_no_more
from fastbean.engine.state cimport State
from fastbean.base.hash_table cimport table_expect
from fastbean.engine.tube cimport Tube

cdef enum:
    USUAL_RECORD_BYTES = 128
    KEPT_SHARE = 64                 # of the limit on memory, what the journal may keep of an empty buffer
    MOST_EXPECTED = 4000000         # jobs may be large: an upper bound for the room allocated in advance


@cython.final
cdef class EngineJobs(JobSource):
    """The jobs of a state, as the binlog sees them.

    Args:
        state: the state into which the binlog is restored, and whose jobs compaction reads.
    """

    def __cinit__(self, State state not None):
        self.state = state

    @property
    def next_job_id(self):
        """The lowest id that was never assigned."""
        return self.state.next_id

    def expect_large_binlog(self, uint64_t size):
        """A binlog of very many jobs is about to be read; call `keep_binlog` afterwards.

        Args:
            size: of the binlog, in bytes.
        """
        slab_expect_many(&self.state.slab)
        table_expect(&self.state.jobs.leaves, min(size // USUAL_RECORD_BYTES, <uint64_t>MOST_EXPECTED) // LEAF_JOBS)

    def keep_binlog(self, Journal journal not None):
        """Record every later change in a journal.

        Args:
            journal: the journal; its content has been restored.
        """
        cdef State state = self.state
        if state.slab.many:
            slab_expect_no_more(&state.slab)
        # With a small limit, an empty buffer must not keep the room that the next put needs.
        journal.kept_bytes = min(journal.kept_bytes, state.memory.limit_bytes // KEPT_SHARE)
        state.journal = journal
        state.has_binlog = True
        state.next_id = max(state.next_id, journal.id_limit)

    cdef int restore_put(self, JobImage *image, uint32_t segment, uint64_t lsn, uint32_t *before) noexcept:
        cdef Job *job = job_table_get(&self.state.jobs, image.id)
        before[0] = 0
        if job is not NULL:
            before[0] = job.segment
            self.state.take(job)
        else:
            job = restore_job(self.state, image)
            if job is NULL:
                return -1
        job.segment = segment
        job.lsn = <uint32_t>lsn
        return restore_place(self.state, job, image)

    cdef int restore_update(self, JobImage *image, uint64_t lsn) noexcept:
        cdef Job *job = job_table_get(&self.state.jobs, image.id)
        if job is NULL:
            return 1
        self.state.take(job)
        job.lsn = <uint32_t>lsn
        return restore_place(self.state, job, image)

    cdef uint32_t restore_delete(self, uint64_t id, uint64_t *bytes) noexcept:
        cdef Job *job = job_table_get(&self.state.jobs, id)
        cdef Tube *tube
        cdef uint32_t segment
        if job is NULL:
            return 0
        tube = self.state.tube_of(job)
        segment = job.segment
        bytes[0] = logged_bytes(job.body_bytes, tube.name_bytes)
        self.state.remove_job(job, id)
        return segment

    # For compaction

    cdef bint image_of(self, uint64_t id, uint32_t segment, JobImage *image) noexcept:
        cdef Job *job = job_table_get(&self.state.jobs, id)
        if job is NULL or job.segment != segment:
            return False
        self.state.fill_image(job, id, image)
        return True

    cdef void moved(self, uint64_t id, uint32_t segment) noexcept:
        job_table_get(&self.state.jobs, id).segment = segment


cdef Job *restore_job(State state, JobImage *image) noexcept:
    """Make a job from the binlog, in no heap yet; returns NULL without memory."""
    cdef Tube *tube = state.find_or_make_tube(image.name, image.name_bytes)
    cdef Job *job
    if tube is NULL:
        return NULL
    job = job_new(&state.slab, image.body_bytes)
    if job is NULL:
        return NULL
    if job_table_put(&state.jobs, &state.slab, image.id, job) < 0:
        job_discard(job)
        return NULL
    memcpy(job_body(job), image.body, image.body_bytes)
    job.tube = tube.number
    job.created_ns = image.created_ns
    job.ttr_s = image.ttr_s
    tube.jobs += 1
    tube.body_bytes += job.body_bytes
    memory_keep(&state.memory, job_cost(job.body_bytes))
    return job


cdef int restore_place(State state, Job *job, JobImage *image) noexcept:
    """Set everything about the job that can change, and push it into its heap. Returns 0, or -1 without memory."""
    cdef Tube *tube = state.tube_of(job)
    cdef Heap *heap = &tube.ready
    if image.state != STATE_READY:
        heap = &tube.delayed if image.state == STATE_DELAYED else &tube.buried
    # There nearly always is room, and then this needs no call.
    if heap.len == heap.cap and heap_reserve(heap, 1) < 0:
        return -1
    job.pri = image.pri
    job.delay_s = image.delay_s
    if image.state == STATE_DELAYED:
        state.push_delayed(tube, job, image.id, max(image.deadline_ns, 0))
    elif image.state == STATE_BURIED:
        state.push_buried(tube, job, image.id, image.burial)
    else:
        state.to_ready(tube, job, image.id)
    job.reserves = image.reserves
    job.timeouts = image.timeouts
    job.releases = image.releases
    job.buries = image.buries
    job.kicks = image.kicks
    return 0
