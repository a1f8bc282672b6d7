"""`JobSource` on the state: restoring jobs and tubes at the start, and reading them for compaction.

The binlog reads its records, the oldest first, and calls these functions for each (`engine.journal` says what they
promise). A restored job is put into its heap at once; no client is waiting yet, so nothing else has to move.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from fastbean._core cimport Heap, HeapSlot, heap_at, heap_reserve
from fastbean.engine.job cimport (
    LEAF_JOBS, Job, job_body, job_cost, job_discard, job_new, job_table_get, job_table_put,
)
from fastbean.engine.journal cimport (
    STATE_BURIED, STATE_DELAYED, STATE_READY, Clearing, JobImage, JobSource, Journal, TubeImage, logged_bytes,
)
from fastbean.engine.memory cimport memory_keep
from fastbean.base.slab cimport slab_expect_many, slab_expect_no_more
from fastbean.engine.state cimport State, seconds_ns
from fastbean.base.hash_table cimport table_expect
from fastbean.engine.tube cimport Tube, tube_find, tube_keep_settings

cdef enum:
    USUAL_RECORD_BYTES = 128
    KEPT_SHARE = 64                 # of the limit on memory, what the journal may keep of an empty buffer
    MOST_EXPECTED = 4000000         # jobs may be large: an upper bound for the room allocated in advance


cdef inline bint is_cleared(Job *job, Clearing *clearing) noexcept nogil:
    """Whether the job's put record is before the place up to which its tube is cleared."""
    if job.segment != clearing.segment:
        return job.segment < clearing.segment
    return <uint32_t>(job.lsn - clearing.first_lsn) < <uint32_t>(clearing.lsn - clearing.first_lsn)


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

    cdef int restore_put(self, JobImage *image, uint32_t segment, uint64_t lsn, uint32_t *before) noexcept nogil:
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

    # The LSN stays that of the put record, which `restore_clear` needs. For replies it makes no difference: all that
    # was read is safe.
    cdef int restore_update(self, JobImage *image) noexcept nogil:
        cdef Job *job = job_table_get(&self.state.jobs, image.id)
        if job is NULL:
            return 1
        self.state.take(job)
        return restore_place(self.state, job, image)

    cdef uint32_t restore_delete(self, uint64_t id, uint64_t *bytes) noexcept nogil:
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

    # Tubes

    cdef int restore_tube(self, TubeImage *image, uint32_t segment, uint32_t *before) noexcept nogil:
        cdef Tube *tube
        if image.pause_s:
            tube = self.state.find_or_make_tube(image.name, image.name_bytes)
            if tube is NULL:
                return -1
            before[0] = tube.segment
            tube.pause_ns = seconds_ns(image.pause_s)
            tube.unpause_at_ns = image.pause_end_ns
            tube_keep_settings(&self.state.tubes, tube, segment)
            self.state.schedule(&tube.timer, tube.unpause_at_ns)
            return 1
        tube = tube_find(&self.state.tubes, image.name, image.name_bytes)
        if tube is not NULL and tube.pause_ns:
            before[0] = tube.segment
            tube.pause_ns = 0
            tube_keep_settings(&self.state.tubes, tube, 0)
            self.state.release_tube(tube)
        return 0

    # The heap is searched from its end. A removal moves its last entry, which was already searched, into the gap or
    # above it; so an entry that was not may have moved down into the gap, which is then searched once more.
    cdef uint32_t restore_clear(self, Clearing *clearing, uint64_t *bytes) noexcept nogil:
        cdef Tube *tube = tube_find(&self.state.tubes, clearing.name, clearing.name_bytes)
        cdef HeapSlot *slot
        cdef Heap *heap
        cdef Job *job
        while tube is not NULL and clearing.heap < 3:
            heap = &tube.ready
            if clearing.heap:
                heap = &tube.delayed if clearing.heap == 1 else &tube.buried
            if clearing.kept == heap.len:
                clearing.heap += 1
                clearing.kept = 0
                continue
            slot = heap_at(heap, heap.len - clearing.kept - 1)
            job = <Job *>slot.node
            if is_cleared(job, clearing):
                clearing.kept -= clearing.kept > 0
                return self.restore_delete(slot.tie, bytes)
            clearing.kept += 1
        return 0

    # For compaction

    cdef bint image_of(self, uint64_t id, uint32_t segment, JobImage *image) noexcept nogil:
        cdef Job *job = job_table_get(&self.state.jobs, id)
        if job is NULL or job.segment != segment:
            return False
        self.state.fill_image(job, id, image)
        return True

    cdef void moved(self, uint64_t id, uint32_t segment) noexcept nogil:
        job_table_get(&self.state.jobs, id).segment = segment

    cdef bint oldest_settings(self, uint32_t segment, TubeImage *image) noexcept nogil:
        cdef Tube *tube = self.state.tubes.oldest_settings
        if tube is NULL or tube.segment != segment:
            return False
        self.state.fill_settings(tube, image)
        return True

    cdef void settings_moved(self, uint32_t segment) noexcept nogil:
        tube_keep_settings(&self.state.tubes, self.state.tubes.oldest_settings, segment)


cdef Job *restore_job(State state, JobImage *image) noexcept nogil:
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


cdef int restore_place(State state, Job *job, JobImage *image) noexcept nogil:
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
