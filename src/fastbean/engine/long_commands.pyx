"""Commands that may take more than one iteration: kick, lists of tubes, the oldest job; and clients that leave.

Each runs in slices of STEPS_AT_ONCE. The first slice runs at once, so that a short command is answered at once. If
there is more to do, the client joins a queue, and one slice for the first in the queue (several, if they are short)
runs in each iteration; then that client goes to the end. Meanwhile the client waits, and all others are served.
Jobs, tubes and clients may change between two slices, and each kind of work says what that means for it.

Lists of all tubes have a queue of their own, in which the first stays first until it is finished. The lists are equally
long, so taking turns would finish none of them sooner; this way the end of a tube concerns one list at most, and one
text at most is being written.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport (
    Buffer, buffer_append, buffer_append_number, buffer_free, buffer_reserve_exactly,
)
from fastbean.engine.client cimport (
    OUTPUT_LIMIT, TEXT_HEAD_BYTES, WORK_KICK, WORK_LEAVE, WORK_LIST_TUBES, WORK_LIST_WATCHED, WORK_OLDEST, Client,
    ClientQueue, WorkKind, begin_text, client_remove_watch, queue_join, queue_leave,
)
from fastbean._core cimport Heap, heap_pop, heap_push, heap_reserve, heap_top
from fastbean.engine.job cimport JOB_RETURNING, Job, first_job, job_table_get
from fastbean.engine.oldest_ready cimport age_of_oldest_s, find_oldest
from fastbean.protocol.replies cimport REPLY_KICKED_COUNT, REPLY_NONE, REPLY_OK, REPLY_OUT_OF_MEMORY, Reply
from fastbean.engine.restore cimport Recovery
from fastbean.engine.state cimport EFFORT_PER_ITERATION, STEPS_AT_ONCE, append_entry
from fastbean.engine.tube cimport Tube

cdef enum:
    ENTRY_BYTES = 3                 # of a list's entry, beside the name
    FIRST_LINE_BYTES = 4            # of a list
    CRLF_BYTES = 2                  # after a list
    UNKNOWN_AGE_BYTES = 2           # of the 0 that `stats_tube_text` writes in place of the age, and its newline


cdef class LongCommands(Recovery):
    """The state, and its unfinished long commands."""

    cdef Reply begin_work(self, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept:
        """Run the first slice at once, if this iteration has not done too much. If there is more to do, queue it and
        return REPLY_NONE."""
        client.work.kind = kind
        client.work.left = left
        client.work.done = 0
        client.work.buried = client.use.buried.len > 0
        if kind == WORK_LIST_WATCHED:
            begin_text(&client.answer.text)
        if self.effort < self.effort_limit and self.step_work(client, now_ns):
            return self.end_work(client)
        queue_join(&self.work, client)
        self.count_text(client)
        return REPLY_NONE

    cdef Reply begin_list_tubes(self, Client *client, int64_t now_ns) noexcept:
        """The same for a list of all tubes: one that takes more than one slice begins when it is first in its queue."""
        cdef bint is_first = self.lists.first is NULL or self.tubes.count <= STEPS_AT_ONCE
        client.work.kind = WORK_LIST_TUBES
        client.work.done = 0
        if is_first and self.effort < self.effort_limit and self.step_list(client):
            return self.end_work(client)
        queue_join(&self.lists, client)
        self.count_text(client)
        return REPLY_NONE

    cdef Reply begin_oldest(self, Client *client, Tube *tube, int64_t now_ns) noexcept:
        """Put the age of the tube's oldest ready job at the end of its statistics, ``client.answer.text``."""
        client.work.tube = tube.number
        client.work.birth = tube.birth
        client.work.reached = 0
        return self.begin_work(client, WORK_OLDEST, 0, now_ns)

    cdef bint work_on(self, int64_t now_ns) noexcept:
        """Run one slice for the first client in each queue, and for more clients while the slices are short; true when
        there is more to do."""
        if self.work.first is NULL and self.lists.first is NULL:
            return False
        self.work_on_queue(&self.work, now_ns)
        self.work_on_queue(&self.lists, now_ns)
        return self.work.first is not NULL or self.lists.first is not NULL

    cdef void work_on_queue(self, ClientQueue *queue, int64_t now_ns) noexcept:
        cdef uint64_t limit = self.effort + STEPS_AT_ONCE
        while queue.first is not NULL and self.effort < limit:
            self.work_on_one(queue.first, now_ns)

    cdef void work_on_one(self, Client *client, int64_t now_ns) noexcept:
        """Run one slice for a client in a queue. It counts as effort even if there was nothing to do."""
        cdef bint leaves = client.work.kind == WORK_LEAVE
        cdef Reply reply
        self.effort += 1
        if self.step_work(client, now_ns):
            queue_leave(client)
            reply = self.end_work(client)
            if leaves:
                return
            self.answer_later(client, reply)
        elif client.queue == &self.work:
            queue_leave(client)
            queue_join(&self.work, client)
        self.count_text(client)

    cdef bint step_work(self, Client *client, int64_t now_ns) noexcept:
        """Take up to STEPS_AT_ONCE steps; true when the work is done."""
        cdef WorkKind kind = client.work.kind
        if kind == WORK_KICK:
            return self.step_kick(client, now_ns)
        if kind == WORK_LEAVE:
            return self.step_leave(client, now_ns)
        if kind == WORK_OLDEST:
            return self.step_oldest(client, now_ns)
        return self.step_list(client)

    cdef Reply end_work(self, Client *client) noexcept:
        """The work is done, and its client is in no queue: return the reply, or free a client that leaves."""
        if client.work.kind == WORK_LEAVE:
            self.end_client(client)
            return REPLY_NONE
        if client.work.kind == WORK_KICK:
            client.answer.number = client.work.done
            return REPLY_KICKED_COUNT
        if client.answer.text.failed:
            buffer_free(&client.answer.text)
            return REPLY_OUT_OF_MEMORY
        return REPLY_OK

    cdef int kick_one(self, Job *job, int64_t now_ns) noexcept:
        """Make a buried or delayed job ready. Returns 0, or -1 without memory (nothing changed)."""
        if self.make_ready(job, now_ns) < 0:
            return -1
        job.kicks += 1
        self.journal_change(job, True)
        return 0

    cdef bint step_kick(self, Client *client, int64_t now_ns) noexcept:
        """Kick from the heap chosen at the start, whatever changed between two slices: at most as many jobs as it had
        then, and fewer if they run out."""
        cdef Tube *tube = client.use
        cdef Heap *heap = &tube.buried if client.work.buried else &tube.delayed
        cdef uint32_t steps = min(client.work.left, <uint32_t>STEPS_AT_ONCE)
        cdef uint64_t limit = self.effort + EFFORT_PER_ITERATION
        client.work.left -= steps
        while steps and heap.len:
            # A kick may wake a client that waits for very many tubes.
            if self.journal.tight or self.effort >= limit:
                client.work.left += steps
                return False
            steps -= 1
            if self.kick_one(<Job *>heap_top(heap).node, now_ns) < 0:
                return True
            client.work.done += 1
        return client.work.left == 0 or heap.len == 0

    cdef bint step_list(self, Client *client) noexcept:
        """Continue where the last slice ended. When a tube is freed in between, `State.relist` makes sure that none is
        missed; the client's own watches cannot change while it waits."""
        cdef bint every = client.work.kind == WORK_LIST_TUBES
        cdef uint32_t count = self.tubes.count if every else client.watched_count
        cdef uint32_t first = client.work.done
        cdef uint32_t end = min(count, first + STEPS_AT_ONCE)
        cdef size_t bytes = (end - first) * ENTRY_BYTES + CRLF_BYTES
        cdef uint32_t place
        self.effort += end - first
        if every and first == 0:
            # Reserve the room for all of it at once: without room, the list fails before it costs anything.
            bytes = TEXT_HEAD_BYTES + FIRST_LINE_BYTES + count * ENTRY_BYTES + CRLF_BYTES + self.tubes.names_bytes
        else:
            for place in range(first, end):
                bytes += self.tubes.listed[place].name_bytes if every else client.watched[place].tube.name_bytes
        if self.make_text_room(client, bytes) < 0:
            return True
        if every and first == 0:
            begin_text(&client.answer.text)
        for place in range(first, end):
            append_entry(client, self.tubes.listed[place] if every else client.watched[place].tube)
        client.work.done = end
        return end == count

    cdef int make_text_room(self, Client *client, size_t bytes) noexcept:
        """Make room for `bytes` more in the client's text. Returns 0, or -1 if the text has failed: without memory, or
        because it is larger than OUTPUT_LIMIT and would exceed the limit on memory."""
        cdef Buffer *text = &client.answer.text
        cdef size_t more
        if text.cap - text.len >= bytes:
            return 0
        more = max(bytes, text.cap // 2)
        if text.len + more > OUTPUT_LIMIT and self.is_full(text.len + more - text.cap):
            text.failed = True
            self.hits.memory += 1
            return -1
        return buffer_reserve_exactly(text, more)

    cdef bint step_oldest(self, Client *client, int64_t now_ns) noexcept:
        """If a job became ready between two slices with an id below those already searched, it was the oldest one then.
        It is the answer even if it is not ready any more, so that taking and releasing it cannot prolong the search."""
        cdef Buffer *text = &client.answer.text
        cdef uint32_t steps = STEPS_AT_ONCE
        cdef Tube *tube = self.tubes.by_number[client.work.tube]
        cdef Job *job = NULL
        if tube is not NULL and tube.birth != client.work.birth:
            tube = NULL
        if tube is not NULL and tube.oldest_id < client.work.reached:
            job = job_table_get(&self.jobs, tube.oldest_id)
        if tube is not NULL and job is NULL and not find_oldest(&self.jobs, tube, &steps, &job):
            client.work.reached = tube.oldest_id
            self.effort += STEPS_AT_ONCE
            return False
        self.effort += STEPS_AT_ONCE - steps
        if not text.failed:
            text.len -= UNKNOWN_AGE_BYTES
            buffer_append_number(text, age_of_oldest_s(job, now_ns))
            buffer_append(text, b"\n", 1)
        return True

    cdef int requeue_one(self, Client *client, int64_t now_ns) noexcept:
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
        # The oldest of them began less than 2**32 reservations ago: relative to the newest the order does not wrap.
        heap_push(&client.returning, &job.node, <uint32_t>(job.reservation_seq - client.reservation_seq), id)
        return 0

    cdef bint step_leave(self, Client *client, int64_t now_ns) noexcept:
        """Release its reservations in the order in which it made them, then its watches, then the tube it uses.
        Between two slices the jobs are still reserved, and time may end some reservations sooner."""
        cdef uint64_t limit = self.effort + EFFORT_PER_ITERATION
        cdef Tube *tube
        cdef int _step
        for _step in range(STEPS_AT_ONCE):
            if self.journal.tight or self.effort >= limit:
                return False
            if client.reserved.len or client.returning.len:
                if self.requeue_one(client, now_ns) < 0:
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
