"""A remote sink in memory, and what its tests see inside of an engine; the tests compile it."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean._core cimport Heap, HeapSlot, heap_at
from fastbean.binlog.batch cimport Batch, batch_clear, batch_end, batch_free, batch_swap
from fastbean.binlog.sink cimport SINK_FAILED, SINK_NOTHING, SINK_WROTE, Sink, SinkEvent
from fastbean.binlog.writer cimport BinlogWriter
from fastbean.engine.client cimport Client
from fastbean.engine.job cimport JOB_BURIED, JOB_DELAYED, Job, job_body
from fastbean.engine.state cimport State
from fastbean.engine.tube cimport Tube, tube_name
from fastbean.net.memory_connection cimport MemoryConnection
from fastbean.net.outbox cimport outbox_unsent


cdef class MemorySink(Sink):
    """Takes a batch, and is busy until the test acknowledges it.

    Args:
        on_call: called with "begin", "finished" or "trim", before the call has any other effect. What it returns is
            "": the call does its work; "failed": the sink fails; "crashed": the call does nothing.
        on_trim: called with the LSN of a trim.
    """

    cdef object on_call
    cdef object on_trim
    cdef bint acknowledged
    cdef readonly object taken      # the batch in flight: its first LSN and its bytes; or None
    cdef readonly int begun         # batches so far

    def __cinit__(self, on_call, on_trim):
        self.remote = True
        self.on_call = on_call
        self.on_trim = on_trim

    def __dealloc__(self):
        batch_free(&self.batch)

    cdef void begin(self, Batch *batch) noexcept nogil:
        with gil:
            self.take(batch)

    cdef int take(self, Batch *batch) except -1:
        assert not self.busy, "a batch is handed over while another one is in flight"
        self.taken = batch.first_lsn, batch.bytes.data[:batch.bytes.len]
        self.begun += 1
        batch_clear(&self.batch, batch_end(batch))
        batch_swap(batch, &self.batch)
        self.busy = True
        if self.on_call("begin") == "failed":
            self.fail()
        return 0

    def acknowledge(self):
        """The batch in flight is safe: `finished` reports it."""
        self.acknowledged = True

    cdef SinkEvent finished(self) noexcept nogil:
        with gil:
            return self.report()

    cdef SinkEvent report(self) except *:
        if not self.acknowledged:
            return SINK_NOTHING
        self.acknowledged = False
        outcome = self.on_call("finished")
        if outcome == "failed":
            self.fail()
            return SINK_FAILED
        if outcome == "crashed":
            return SINK_NOTHING
        self.busy = False
        self.taken = None
        self.written_lsn = batch_end(&self.batch)
        self.safe_lsn = self.written_lsn
        batch_clear(&self.batch, self.written_lsn)
        return SINK_WROTE

    cdef void trim(self, uint64_t lsn) noexcept nogil:
        with gil:
            if self.on_call("trim") == "":
                self.on_trim(lsn)

    cdef void fail(self):
        self.error_text = b"another server leads"


# What is inside of an engine, a binlog and a connection

cdef dict job_of(State state, HeapSlot *slot):
    """The members of a job that a restart keeps."""
    cdef Job *job = <Job *>slot.node
    cdef Tube *tube = state.tubes.by_number[job.tube]
    delayed = job.state == JOB_DELAYED
    return {
        "tube": tube_name(tube)[:tube.name_bytes], "body": job_body(job)[:job.body_bytes],
        "state": "delayed" if delayed else "buried" if job.state == JOB_BURIED else "ready",
        "due_ns": <int64_t>slot.key if delayed else 0, "created_ns": job.created_ns,
        "pri": job.pri, "delay": job.delay_s, "ttr": job.ttr_s, "reserves": job.reserves,
        "timeouts": job.timeouts, "releases": job.releases, "buries": job.buries, "kicks": job.kicks,
    }


cdef list add_jobs(State state, Heap *heap, dict jobs):
    """Add the jobs of a heap by their ids. Returns the ids in the order of the heap's keys."""
    cdef uint32_t place
    cdef HeapSlot *slot
    order = []
    for place in range(heap.len):
        slot = heap_at(heap, place)
        jobs[slot.tie] = job_of(state, slot)
        order.append((slot.key, slot.tie))
    return [number for _, number in sorted(order)]


def contents(State state not None):
    """What a restart keeps: jobs by id, the ids of each tube's buried jobs in order, (seconds, end) of each pause.

    A reserved job counts as ready.
    """
    cdef uint32_t place
    cdef Tube *tube
    cdef Client *client
    jobs, buried, pauses = {}, {}, {}
    for place in range(state.tubes.count):
        tube = state.tubes.listed[place]
        name = tube_name(tube)[:tube.name_bytes]
        add_jobs(state, &tube.ready, jobs)
        add_jobs(state, &tube.delayed, jobs)
        order = add_jobs(state, &tube.buried, jobs)
        if order:
            buried[name] = order
        if tube.pause_ns:
            pauses[name] = tube.pause_ns // 1000000000, tube.unpause_at_ns
    for place in range(state.clients.numbers):
        client = state.clients.by_number[place]
        if client is not NULL:
            add_jobs(state, &client.reserved, jobs)
            add_jobs(state, &client.returning, jobs)
    assert len(jobs) == state.jobs.count
    return jobs, buried, pauses


def wall_offset_ns(BinlogWriter writer not None):
    """The wall time minus the monotonic time of the records in its last batch."""
    return writer.wall_offset_ns


def last_segment(BinlogWriter writer not None):
    """The number and the size of its last segment; (1, 0) if there is none."""
    if writer.room.segment_count == 0:
        return 1, 0
    return writer.room.current().number, writer.room.current().size


def segment_count(BinlogWriter writer not None):
    return writer.room.segment_count


def skip_to_the_last_ids(State state not None, BinlogWriter writer not None, int left):
    """Use up ids, except for the last `left` before the journal has to be asked for more."""
    if writer.more_ids_at > state.next_id + left and writer.more_ids_at <= writer.id_limit:
        state.next_id = writer.more_ids_at - left


def waits_for_ids(BinlogWriter writer not None):
    return writer.out_of_ids


def leave_reads_unbound(BinlogWriter writer not None):
    """Replies that only read do not wait any more: a fault that tests must find."""
    writer.binds_reads = False


def unsent(MemoryConnection client not None):
    """The bytes of its replies that were not sent yet, whether they wait or not."""
    return outbox_unsent(&client.connection.out)
