"""Commands that may take more than one iteration: kick, lists of tubes, the oldest job; and disconnects of clients.

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
    TEXT_HEAD_BYTES, WORK_KICK, WORK_LEAVE, WORK_LIST_TUBES, WORK_LIST_WATCHED, WORK_OLDEST, Client,
    ClientQueue, WorkKind, begin_text, client_remove_watch, queue_join, queue_leave,
)
from fastbean._core cimport Heap, heap_pop, heap_push, heap_reserve, heap_top
from fastbean.engine.job cimport JOB_RETURNING, Job, first_job, job_table_get
from fastbean.engine.oldest_ready cimport age_of_oldest_s, find_oldest
from fastbean.protocol.replies cimport REPLY_KICKED_COUNT, REPLY_NONE, REPLY_OK, REPLY_OUT_OF_MEMORY, Reply
from fastbean.engine.state cimport EFFORT_PER_ITERATION, STEPS_AT_ONCE, State, append_entry
from fastbean.engine.tube cimport Tube

cdef enum:
    ENTRY_BYTES = 3                 # of a list's entry, beside the name
    FIRST_LINE_BYTES = 4            # of a list
    CRLF_BYTES = 2                  # after a list
    UNKNOWN_AGE_BYTES = 2           # of the 0 that `stats_tube_text` writes in place of the age, and its newline
    # A list that is no longer needs no room below the limit on memory: an operator can look at a full server. A
    # judgement: some 200 short names; a thousand clients take 4 MB with it.
    ALWAYS_LISTED_BYTES = 4096


cdef Reply begin_work(State state, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept nogil:
    """Run the first slice at once, if this iteration has not done too much. If there is more to do, queue it and
    return REPLY_NONE."""
    client.work.kind = kind
    client.work.left = left
    client.work.done = 0
    client.work.buried = client.use.buried.len > 0
    if kind == WORK_LIST_WATCHED:
        begin_text(&client.answer.text)
    if state.effort < state.effort_limit and step_work(state, client, now_ns):
        return end_work(state, client)
    queue_join(&state.work, client)
    state.count_text(client)
    return REPLY_NONE


cdef Reply begin_list_tubes(State state, Client *client, int64_t now_ns) noexcept nogil:
    """The same for a list of all tubes: one that takes more than one slice begins when it is first in its queue."""
    cdef bint is_first = state.lists.first is NULL or state.tubes.count <= STEPS_AT_ONCE
    client.work.kind = WORK_LIST_TUBES
    client.work.done = 0
    if is_first and state.effort < state.effort_limit and step_list(state, client):
        return end_work(state, client)
    queue_join(&state.lists, client)
    state.count_text(client)
    return REPLY_NONE


cdef Reply begin_oldest(State state, Client *client, Tube *tube, int64_t now_ns) noexcept nogil:
    """Put the age of the tube's oldest ready job at the end of its statistics, ``client.answer.text``."""
    client.work.tube = tube.number
    client.work.birth = tube.birth
    client.work.reached = 0
    return begin_work(state, client, WORK_OLDEST, 0, now_ns)


cdef bint work_on(State state, int64_t now_ns) noexcept nogil:
    """Run one slice for the first client in each queue, and for more clients while the slices are short; true when
    there is more to do."""
    work_on_queue(state, &state.work, now_ns)
    work_on_queue(state, &state.lists, now_ns)
    return state.work.first is not NULL or state.lists.first is not NULL


cdef void work_on_queue(State state, ClientQueue *queue, int64_t now_ns) noexcept nogil:
    cdef uint64_t limit = state.effort + STEPS_AT_ONCE
    while queue.first is not NULL and state.effort < limit:
        work_on_one(state, queue.first, now_ns)


cdef void work_on_one(State state, Client *client, int64_t now_ns) noexcept nogil:
    """Run one slice for a client in a queue. It counts against the budget even if there was nothing to do."""
    cdef bint leaves = client.work.kind == WORK_LEAVE
    cdef Reply reply
    state.effort += 1
    if step_work(state, client, now_ns):
        queue_leave(client)
        reply = end_work(state, client)
        if leaves:
            return
        state.answer_later(client, reply)
    elif client.queue == &state.work:
        queue_leave(client)
        queue_join(&state.work, client)
    state.count_text(client)


cdef bint step_work(State state, Client *client, int64_t now_ns) noexcept nogil:
    """Take up to STEPS_AT_ONCE steps; true when the work is done."""
    cdef WorkKind kind = client.work.kind
    if kind == WORK_KICK:
        return step_kick(state, client, now_ns)
    if kind == WORK_LEAVE:
        return step_leave(state, client, now_ns)
    if kind == WORK_OLDEST:
        return step_oldest(state, client, now_ns)
    return step_list(state, client)


cdef Reply end_work(State state, Client *client) noexcept nogil:
    """The work is done, and its client is in no queue: return the reply, or free a disconnected client."""
    if client.work.kind == WORK_LEAVE:
        state.end_client(client)
        return REPLY_NONE
    if client.work.kind == WORK_KICK:
        client.answer.number = client.work.done
        return REPLY_KICKED_COUNT
    if client.answer.text.failed:
        buffer_free(&client.answer.text)
        return REPLY_OUT_OF_MEMORY
    return REPLY_OK


# `make_ready` may hand the job to a waiting client and record that reservation before the kick is recorded. It is safe
# for replay, since both records update a job whose put precedes them, each stores everything about the job that can
# change, and a reserved job is stored as ready: the last one, which is the kick's, needs no other update. It is safe
# for the replies, too. The reservation's record does not gate, but the kick's does: it sets `job.lsn` before
# `Connections.deliver` looks at it, so both clients' replies wait for both records.
cdef int kick_one(State state, Job *job, int64_t now_ns) noexcept nogil:
    """Make a buried or delayed job ready. Returns 0, or -1 without memory (nothing changed)."""
    if state.make_ready(job, now_ns) < 0:
        return -1
    job.kicks += 1
    state.journal_change(job, True)
    return 0


cdef bint step_kick(State state, Client *client, int64_t now_ns) noexcept nogil:
    """Kick from the heap chosen at the start, whatever changed between two slices: at most as many jobs as it had
    then, and fewer if they run out."""
    cdef Tube *tube = client.use
    cdef Heap *heap = &tube.buried if client.work.buried else &tube.delayed
    cdef uint32_t steps = min(client.work.left, <uint32_t>STEPS_AT_ONCE)
    cdef uint64_t limit = state.effort + EFFORT_PER_ITERATION
    client.work.left -= steps
    while steps and heap.len:
        # A kick may wake a client that waits for very many tubes.
        if state.journal.tight or state.effort >= limit:
            client.work.left += steps
            return False
        steps -= 1
        if kick_one(state, <Job *>heap_top(heap).node, now_ns) < 0:
            return True
        client.work.done += 1
    return client.work.left == 0 or heap.len == 0


cdef bint step_list(State state, Client *client) noexcept nogil:
    """Continue where the last slice ended. When a tube is freed in between, `State.relist` makes sure that none is
    missed; the client's own watches cannot change while it waits."""
    cdef bint every = client.work.kind == WORK_LIST_TUBES
    cdef uint32_t count = state.tubes.count if every else client.watched_count
    cdef uint32_t first = client.work.done
    cdef uint32_t end = min(count, first + STEPS_AT_ONCE)
    cdef size_t bytes = (end - first) * ENTRY_BYTES + CRLF_BYTES
    cdef uint32_t place
    state.effort += end - first
    if every and first == 0:
        # Reserve the room for all of it at once: without room, the list fails before it costs anything.
        bytes = TEXT_HEAD_BYTES + FIRST_LINE_BYTES + count * ENTRY_BYTES + CRLF_BYTES + state.tubes.names_bytes
    else:
        for place in range(first, end):
            bytes += state.tubes.listed[place].name_bytes if every else client.watched[place].tube.name_bytes
    if make_text_room(state, client, bytes) < 0:
        return True
    if every and first == 0:
        begin_text(&client.answer.text)
    for place in range(first, end):
        append_entry(client, state.tubes.listed[place] if every else client.watched[place].tube)
    client.work.done = end
    return end == count


cdef int make_text_room(State state, Client *client, size_t bytes) noexcept nogil:
    """Make room for `bytes` more in the client's text. Returns 0, or -1 if the text has failed: without memory, or
    because it is larger than ALWAYS_LISTED_BYTES and would exceed the limit on memory."""
    cdef Buffer *text = &client.answer.text
    cdef size_t more
    if text.cap - text.len >= bytes:
        return 0
    more = max(bytes, text.cap // 2)
    if text.len + more > ALWAYS_LISTED_BYTES and state.is_full(text.len + more - text.cap):
        text.failed = True
        state.hits.memory += 1
        return -1
    return buffer_reserve_exactly(text, more)


cdef bint step_oldest(State state, Client *client, int64_t now_ns) noexcept nogil:
    """If a job became ready between two slices with an id below those already searched, it was the oldest one then.
    It is the answer even if it is not ready any more, so that taking and releasing it cannot prolong the search."""
    cdef Buffer *text = &client.answer.text
    cdef uint32_t steps = STEPS_AT_ONCE
    cdef Tube *tube = state.tubes.by_number[client.work.tube]
    cdef Job *job = NULL
    if tube is not NULL and tube.birth != client.work.birth:
        tube = NULL
    if tube is not NULL and tube.oldest_id < client.work.reached:
        job = job_table_get(&state.jobs, tube.oldest_id)
    if tube is not NULL and job is NULL and not find_oldest(&state.jobs, tube, &steps, &job):
        client.work.reached = tube.oldest_id
        state.effort += STEPS_AT_ONCE
        return False
    state.effort += STEPS_AT_ONCE - steps
    if not text.failed:
        text.len -= UNKNOWN_AGE_BYTES
        buffer_append_number(text, age_of_oldest_s(job, now_ns))
        buffer_append(text, b"\n", 1)
    return True


cdef int requeue_one(State state, Client *client, int64_t now_ns) noexcept nogil:
    """One step: sort one more reservation by its reservation_seq, or, when all are sorted, make the first one
    ready.

    Returns 0, or -1 without memory (nothing changed).
    """
    cdef Job *job
    cdef uint64_t id
    if client.reserved.len == 0:
        return state.make_ready(first_job(&client.returning), now_ns)
    if heap_reserve(&client.returning, 1) < 0:
        return -1
    job = first_job(&client.reserved)
    id = heap_top(&client.reserved).tie
    heap_pop(&client.reserved)
    job.state = JOB_RETURNING
    state.effort += 1
    # The oldest of them began less than 2**32 reservations ago: relative to the newest the order does not wrap.
    heap_push(&client.returning, &job.node, <uint32_t>(job.reservation_seq - client.reservation_seq), id)
    return 0


cdef bint step_leave(State state, Client *client, int64_t now_ns) noexcept nogil:
    """Release its reservations in the order in which it made them, then its watches, then the tube it uses.
    Between two slices the jobs are still reserved, and time may end some reservations sooner."""
    cdef uint64_t limit = state.effort + EFFORT_PER_ITERATION
    cdef Tube *tube
    cdef int _step
    for _step in range(STEPS_AT_ONCE):
        if state.journal.tight or state.effort >= limit:
            return False
        if client.reserved.len or client.returning.len:
            if requeue_one(state, client, now_ns) < 0:
                state.short_of_memory = True
                return False
        elif client.watched_count:
            state.effort += 1
            tube = client.watched[0].tube
            client_remove_watch(client, client.watched[0])
            state.release_tube(tube)
        else:
            client.use.using -= 1
            state.release_tube(client.use)
            return True
    return False
