"""Commands that may take more than one iteration: kick, lists of tubes, the oldest job; and clients that leave.

Each is done in slices of STEPS_AT_ONCE. The first slice runs at once, so that a short command is answered at once; what
is left is queued, and one slice of the queue runs in each iteration. Meanwhile the client waits, and all others are
served. The state may change between two slices; each kind of work says what that means for it.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport buffer_append, buffer_append_number, buffer_append_text, buffer_free
from fastbean.engine.client cimport (
    WORK_KICK, WORK_LEAVE, WORK_LIST_TUBES, WORK_LIST_WATCHED, WORK_NONE, WORK_OLDEST, Client, Work, WorkKind,
    client_remove_watch,
)
from fastbean._core cimport Heap, heap_pop, heap_push, heap_reserve, heap_top
from fastbean.engine.job cimport JOB_RETURNING, Job, first_job, job_table_get
from fastbean.engine.oldest_ready cimport find_oldest
from fastbean.protocol.replies cimport REPLY_KICKED_COUNT, REPLY_NONE, REPLY_OK, REPLY_OUT_OF_MEMORY, Reply
from fastbean.engine.restore cimport Recovery
from fastbean.engine.state cimport STEPS_AT_ONCE, append_entry
from fastbean.engine.tube cimport Tube


cdef class LongCommands(Recovery):
    """The state, and its unfinished long commands."""

    cdef void add_work(self, Work *work) noexcept:
        """Append work to the queue."""
        work.next = NULL
        if self.last_work is NULL:
            self.first_work = work
        else:
            self.last_work.next = work
        self.last_work = work

    cdef void remove_work(self, Work *work) noexcept:
        """Remove work from the queue."""
        cdef Work **link = &self.first_work
        cdef Work *previous = NULL
        while link[0] != work:
            previous = link[0]
            link = &previous.next
        link[0] = work.next
        if self.last_work == work:
            self.last_work = previous

    cdef Reply begin_work(self, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept:
        """Do the first step at once, if this iteration has effort left, and queue the rest. Returns REPLY_NONE if
        anything is left, otherwise the reply."""
        cdef Work *work = &client.work
        work.kind = kind
        work.left = left
        work.done = 0
        work.buried = client.use.buried.len > 0
        if kind == WORK_LIST_TUBES or kind == WORK_LIST_WATCHED:
            buffer_append(&client.answer.text, b"---\n", 4)
        if self.effort < self.effort_limit and self.step_work(work, now_ns):
            return self.end_work(work)
        self.add_work(work)
        return REPLY_NONE

    cdef Reply begin_oldest(self, Client *client, Tube *tube, int64_t now_ns) noexcept:
        """Add the age of the tube's oldest ready job to ``client.answer.text``, the statistics of the tube."""
        client.work.tube = tube
        client.work.reached = 0
        return self.begin_work(client, WORK_OLDEST, 0, now_ns)

    cdef bint work_on(self, int64_t now_ns) noexcept:
        """Take one step of the work at the front of the queue; true when there is more to do."""
        cdef Work *work = self.first_work
        if work is NULL:
            return False
        self.remove_work(work)
        if not self.step_work(work, now_ns):
            self.add_work(work)
        elif work.kind == WORK_LEAVE:
            self.end_work(work)
        else:
            self.answer_later(work.client, self.end_work(work))
        return self.first_work is not NULL

    cdef bint step_work(self, Work *work, int64_t now_ns) noexcept:
        """Take up to STEPS_AT_ONCE steps; true when the work is done."""
        if work.kind == WORK_KICK:
            return self.step_kick(work, now_ns)
        if work.kind == WORK_LEAVE:
            return self.step_leave(work, now_ns)
        if work.kind == WORK_OLDEST:
            return self.step_oldest(work, now_ns)
        return self.step_list(work)

    cdef Reply end_work(self, Work *work) noexcept:
        """The work is done: return its reply."""
        cdef Client *client = work.client
        cdef Reply reply = REPLY_NONE
        if work.kind == WORK_LEAVE:
            self.end_client(client)
            return reply
        if work.kind == WORK_KICK:
            client.answer.number = work.done
            reply = REPLY_KICKED_COUNT
        elif not client.answer.text.failed:
            reply = REPLY_OK
        else:
            buffer_free(&client.answer.text)
            reply = REPLY_OUT_OF_MEMORY
        work.kind = WORK_NONE
        return reply

    cdef int kick_one(self, Job *job, int64_t now_ns) noexcept:
        """Make a buried or delayed job ready. Returns 0, or -1 without memory (nothing changed)."""
        if self.make_ready(job, now_ns) < 0:
            return -1
        job.kicks += 1
        self.journal_change(job, True)
        return 0

    cdef bint step_kick(self, Work *work, int64_t now_ns) noexcept:
        """Kick from the heap chosen at the start, whatever changed between two slices: at most as many jobs as it had
        then, and fewer if they run out."""
        cdef Tube *tube = work.client.use
        cdef Heap *heap = &tube.buried if work.buried else &tube.delayed
        cdef uint32_t steps = min(work.left, <uint32_t>STEPS_AT_ONCE)
        work.left -= steps
        while steps and heap.len:
            if self.journal.tight:
                work.left += steps
                return False
            steps -= 1
            if self.kick_one(<Job *>heap_top(heap).node, now_ns) < 0:
                return True
            work.done += 1
        return work.left == 0 or heap.len == 0

    cdef bint step_list(self, Work *work) noexcept:
        """Continue where the last slice ended. When a tube is freed in between, `State.relist` makes sure that none is
        missed; the client's own watches cannot change while it waits."""
        cdef Client *client = work.client
        cdef bint every = work.kind == WORK_LIST_TUBES
        cdef uint32_t count = self.tubes.count if every else client.watched_count
        cdef uint32_t end = min(count, work.done + STEPS_AT_ONCE)
        self.effort += end - work.done
        while work.done < end:
            append_entry(client, self.tubes.listed[work.done] if every else client.watched[work.done].tube)
            work.done += 1
        return work.done == count

    cdef bint step_oldest(self, Work *work, int64_t now_ns) noexcept:
        """If a job became ready between two slices with an id below those already searched, it was the oldest one then.
        It is the answer even if it is not ready any more, so that taking and releasing it cannot prolong the search."""
        cdef uint32_t steps = STEPS_AT_ONCE
        cdef Job *job = NULL
        if work.tube is not NULL and work.tube.oldest_id < work.reached:
            job = job_table_get(&self.jobs, work.tube.oldest_id)
        if work.tube is not NULL and job is NULL and not find_oldest(&self.jobs, work.tube, &steps, &job):
            work.reached = work.tube.oldest_id
            self.effort += STEPS_AT_ONCE
            return False
        self.effort += STEPS_AT_ONCE - steps
        buffer_append_text(&work.client.answer.text, b"oldest-ready-age: ")
        buffer_append_number(
            &work.client.answer.text, 0 if job is NULL else max(now_ns - job.created_ns, 0) // 1000000000
        )
        buffer_append(&work.client.answer.text, b"\n", 1)
        return True

    cdef int give_back(self, Client *client, int64_t now_ns) noexcept:
        """One step: sort one more reservation by its reservation_seq, or, when all are sorted, make the first one
        ready.

        Returns 0, or -1 without memory (nothing changed).
        """
        cdef Job *job
        cdef uint64_t id
        if client.reserved.len == 0:
            return self.make_ready(first_job(&client.returning), now_ns)
        if heap_reserve(&client.returning, 1) < 0:
            return -1
        job = first_job(&client.reserved)
        id = heap_top(&client.reserved).tie
        heap_pop(&client.reserved)
        job.state = JOB_RETURNING
        # The oldest of them began less than 2**32 reservations ago: relative to now the order does not wrap.
        heap_push(&client.returning, &job.node, <uint32_t>(job.reservation_seq - client.reservation_seq), id)
        return 0

    cdef bint step_leave(self, Work *work, int64_t now_ns) noexcept:
        """Release its reservations in the order in which it made them, then its watches, then the tube it uses.

        Between two slices the jobs are still reserved, and time may end some reservations sooner."""
        cdef Client *client = work.client
        cdef Tube *tube
        cdef int _step
        for _step in range(STEPS_AT_ONCE):
            if self.journal.tight:
                return False
            if client.reserved.len or client.returning.len:
                if self.give_back(client, now_ns) < 0:
                    self.short_of_memory = True
                    return False
            elif client.watched_count:
                self.effort += 1
                tube = client.watched[0].tube
                client_remove_watch(client, client.watched[0])
                self.release_tube(tube)
            else:
                client.use.using -= 1
                self.release_tube(client.use)
                return True
        return False
