"""The engine: what each command does to the jobs, tubes and clients.

One function for each command (a put has two, or three when it fails); `command_table` has the row of each, `state` the
moves of a job. A function returns the reply; its arguments (an id, a count, jobs, a text) are in ``client.answer``.
REPLY_NONE means that the reply comes later: `State.next_answered` returns the client when its wait or its long command
ends.

A client that waits, or whose long command is unfinished, must not be given another command.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from fastbean._core cimport Heap, HeapSlot, heap_reserve, heap_top, heap_update
from fastbean.base.buffer cimport buffer_free
from fastbean.base.clock cimport NEVER
from fastbean.engine.client cimport (
    WORK_KICK, WORK_LEAVE, WORK_LIST_WATCHED, Answer, Client, Watch, answer_add, answer_drop_jobs, carried_job,
    client_add_watch, client_remove_watch, client_stop_waiting, client_watch_of, queue_join, queue_leave,
)
from fastbean.engine.job cimport (
    JOB_RESERVED, Job, first_job, job_cost, job_discard, job_new, job_table_put,
)
from fastbean.engine.job_access cimport TO_DELETE, TO_END_OR_KEEP, TO_KICK, TO_LOOK, TO_RESERVE, job_for
from fastbean.engine.journal cimport SPACE_COMING, SPACE_NONE, SPACE_READY, JobImage, Space, logged_bytes
from fastbean.engine.long_commands cimport begin_list_tubes, begin_oldest, begin_work, kick_one
from fastbean.engine.memory cimport arrives_whole, memory_drop, memory_keep
from fastbean.engine.state cimport EFFORT_PER_ITERATION, SAFETY_MARGIN_NS, STEPS_AT_ONCE, State, seconds_ns
from fastbean.engine.statistics cimport stats_job_text, stats_text, stats_tube_text
from fastbean.engine.tube cimport Tube, tube_find
from fastbean.protocol.commands cimport Command
from fastbean.protocol.replies cimport (
    AWAITS_JOBS, AWAITS_NOTHING, REPLY_BURIED, REPLY_DEADLINE_SOON, REPLY_DELETED, REPLY_DRAINING, REPLY_FOUND,
    REPLY_INSERTED, REPLY_KICKED, REPLY_NONE, REPLY_NOT_FOUND, REPLY_NOT_IGNORED, REPLY_OK, REPLY_OUT_OF_MEMORY,
    REPLY_PAUSED, REPLY_RELEASED, REPLY_RESERVED, REPLY_TIMED_OUT, REPLY_TOUCHED, REPLY_USING, REPLY_WATCHING, Reply,
    reply_rows,
)


cdef enum:
    PAUSE_BYTES = 512               # the records of its begin and of its end take 446 at most (docs/binlog.md)


# Connecting and leaving


cdef Client *connect(State state, void *connection) noexcept nogil:
    """Make a new client; returns NULL without memory. `connection` identifies it to the caller."""
    cdef Client *client = state.new_client(connection)
    if client is not NULL:
        state.counts.connections += 1
        state.counts.total_connections += 1
    return client


cdef void leave(State state, Client *client, int64_t now_ns) noexcept nogil:
    """The client is gone: release the jobs that it has reserved. It must not be used any more."""
    state.counts.connections -= 1
    state.counts.producers -= client.producer
    state.counts.workers -= client.worker
    client.connection = NULL
    if client.queue is not NULL:
        queue_leave(client)
    put_abort(state, client)
    if client.waiting:
        state.effort += client.watched_count
        client_stop_waiting(client)
        state.counts.waiting -= 1
    buffer_free(&client.answer.text)
    answer_drop_jobs(&client.answer)
    state.count_text(client)
    begin_work(state, client, WORK_LEAVE, 0, now_ns)


# Replies

cdef uint64_t awaited_lsn(State state, Client *client, Reply reply) noexcept nogil:
    """How far the binlog has to be safe before this reply to the client may be sent; see the table of replies."""
    cdef uint8_t awaits = reply_rows[<int>reply].awaits
    if awaits == AWAITS_NOTHING:
        return 0
    if state.journal.binds_reads:
        return state.journal.open_batch()
    if awaits == AWAITS_JOBS:
        return newest_lsn(state, &client.answer)
    # The reply depends on a record of this command, or reports a state that earlier records may have caused.
    return state.journal.gate_lsn


cdef uint64_t newest_lsn(State state, Answer *answer) noexcept nogil:
    """Of the jobs that the answer carries, the newest LSN with the last 32 bits of a job's: its own, or for an old job
    one that is no less safe."""
    cdef uint64_t end_lsn = state.journal.end_lsn
    cdef uint64_t newest = 0
    cdef uint32_t place, age
    for place in range(answer.jobs_count):
        age = <uint32_t>end_lsn - carried_job(answer, place).job.lsn
        if age <= end_lsn:
            newest = max(newest, end_lsn - age)
    return newest


# put


cdef Reply put_begin(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    """The line of a put has arrived: take an id, and allocate the job, whose body is received next
    (``client.arriving``).

    Returns REPLY_NONE; or, if the put is refused and no id is taken, the reply: REPLY_OUT_OF_MEMORY, or at the
    limit on memory REPLY_DRAINING in drain mode, since no delete would make the put acceptable.
    """
    cdef Job *job
    if state.is_full(job_cost(command.body_bytes)):
        return no_room(state)
    job = job_new(&state.slab, command.body_bytes)
    if job is NULL:
        return REPLY_OUT_OF_MEMORY
    if state.next_id >= state.journal.more_ids_at:
        state.journal.more_ids()
        if state.next_id >= state.journal.id_limit:
            job_discard(job)
            return REPLY_OUT_OF_MEMORY
    if not client.producer:
        client.producer = True
        state.counts.producers += 1
    job.tube = client.use.number
    job.pri = command.pri
    job.delay_s = command.delay_s
    job.ttr_s = command.ttr_s if command.ttr_s > 0 else 1
    job.created_ns = now_ns
    client.use.jobs += 1
    client.arriving_bytes = job.body_bytes if arrives_whole(job.body_bytes) else 0
    memory_keep(&state.memory, job_cost(client.arriving_bytes))
    client.arriving = job
    client.arriving_id = state.next_id
    state.next_id += 1
    return REPLY_NONE


cdef Reply no_room(State state) noexcept nogil:
    """The reply to a put that would exceed the limit on memory."""
    if state.draining:
        return REPLY_DRAINING
    state.hits.memory += 1
    return REPLY_OUT_OF_MEMORY


cdef Reply put_refuse(State state, Client *client) noexcept nogil:
    """`State.body_arrived` found no room: others have used it since the line of this put. Returns the reply."""
    put_abort(state, client)
    return no_room(state)


# The order is what makes a put all or nothing. First everything that can fail, and that needs no undoing: room in
# the journal (which may still be on its way: the put is then held, and comes back here), room in the heap, and the
# entry in the job table. After that nothing can fail. The push comes before the record, because the record's
# deadline is read from the heap's slot. The record comes before `match`, because `match` may reserve the job at
# once and record that: replay must find the put first.


cdef Reply put_end(State state, Client *client, int64_t now_ns) noexcept nogil:
    """The body of the put is complete: the job gets into its tube and into the journal."""
    cdef Job *job = client.arriving
    cdef uint64_t id = client.arriving_id
    cdef Tube *tube = state.tube_of(job)
    cdef Heap *heap = &tube.delayed if job.delay_s else &tube.ready
    cdef Space space
    if state.draining:
        put_abort(state, client)
        return REPLY_DRAINING
    space = state.journal.reserve(job.body_bytes) if state.has_binlog else SPACE_READY
    if space == SPACE_COMING:
        if client.queue is NULL:
            queue_join(&state.held, client)
        return REPLY_NONE
    if space != SPACE_READY or heap_reserve(heap, 1) < 0 or job_table_put(&state.jobs, &state.slab, id, job) < 0:
        state.hits.binlog_space += space == SPACE_NONE
        put_abort(state, client)
        return REPLY_OUT_OF_MEMORY
    client.arriving = NULL
    client.answer.number = id
    state.counts.total_jobs += 1
    tube.total_jobs += 1
    tube.body_bytes += job.body_bytes
    if job.delay_s:
        state.to_delayed(tube, job, id, now_ns)
    else:
        state.to_ready(tube, job, id)
        tube.enqueued += 1
    if state.has_binlog:
        journal_put(state, job, id)
    if job.delay_s == 0 and tube.pause_ns == 0:
        state.match(tube, now_ns)
    return REPLY_INSERTED


cdef void journal_put(State state, Job *job, uint64_t id) noexcept nogil:
    cdef JobImage image
    state.fill_image(job, id, &image)
    job.segment = state.journal.put(&image)
    job.lsn = <uint32_t>state.journal.end_lsn


cdef bint retry_held(State state, int64_t now_ns) noexcept nogil:
    """Retry the puts and pauses for which the journal had no room; true when more can be retried at once.

    They keep their order, so the first one that still finds no room ends this.
    """
    cdef uint64_t limit = state.effort + EFFORT_PER_ITERATION
    cdef Client *client
    cdef Reply reply
    cdef int _step
    for _step in range(STEPS_AT_ONCE):
        client = state.held.first
        if client is NULL or state.effort >= limit:
            break
        reply = pause_begin(state, client, now_ns) if client.arriving is NULL else put_end(state, client, now_ns)
        if reply == REPLY_NONE:
            return False
        queue_leave(client)
        state.answer_later(client, reply)
    return state.held.first is not NULL


cdef void put_abort(State state, Client *client) noexcept nogil:
    """Drop the put that is being received, if there is one. Its id stays used."""
    cdef Job *job = client.arriving
    cdef Tube *tube
    if job is NULL:
        return
    tube = state.tube_of(job)
    client.arriving = NULL
    memory_drop(&state.memory, job_cost(client.arriving_bytes))
    job_discard(job)
    tube.jobs -= 1
    state.release_tube(tube)


# The worker's commands

cdef Reply reserve(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    """`reserve`: waits as long as it takes."""
    return reserve_within(state, client, NEVER, now_ns)


cdef Reply reserve_with_timeout(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return reserve_within(state, client, command.timeout_s, now_ns)


cdef Reply reserve_within(State state, Client *client, int64_t timeout_s, int64_t now_ns) noexcept nogil:
    """Reserve the first ready job of the watched tubes, or wait for one; `timeout_s`: seconds, or NEVER."""
    cdef Job *job
    cdef int64_t soon_ns
    cdef int _step
    set_worker(state, client)
    # Reservations that have ended are released before anything is decided; a client that waits may get such a job.
    # If there are very many, `expire` does the rest.
    for _step in range(STEPS_AT_ONCE):
        if client.reserved.len == 0 or <int64_t>heap_top(&client.reserved).key > now_ns or state.journal.tight:
            break
        if state.time_out(client, now_ns) < 0:
            break
    job = best_ready(state, client)
    if job is not NULL:
        return REPLY_OUT_OF_MEMORY if state.reserve_for(client, job, now_ns) < 0 else REPLY_RESERVED
    # A reservation of this iteration may have begun nanoseconds after `now_ns`; see `deadline_after`.
    soon_ns = max(now_ns, state.begun_ns) + SAFETY_MARGIN_NS
    if client.reserved.len and <int64_t>heap_top(&client.reserved).key <= soon_ns:
        return REPLY_DEADLINE_SOON
    if timeout_s == 0:
        return REPLY_TIMED_OUT
    # The command that later has a job for this client could not report to it that there is no memory.
    if heap_reserve(&client.reserved, 1) < 0:
        return REPLY_OUT_OF_MEMORY
    client.give_up_at_ns = NEVER if timeout_s == NEVER else now_ns + seconds_ns(<uint32_t>timeout_s)
    state.start_waiting(client)
    return REPLY_NONE


cdef void give_up_waiting(State state, Client *client) noexcept nogil:
    """The waiting client will send nothing more: answer it at once, as if its time were up."""
    state.end_wait(client, REPLY_TIMED_OUT)


cdef Job *best_ready(State state, Client *client) noexcept nogil:
    """The first job by (pri, id) that the client may reserve, or NULL."""
    cdef HeapSlot *best = NULL
    cdef HeapSlot *top
    cdef Tube *tube
    cdef uint32_t place
    state.effort += client.watched_count
    for place in range(client.watched_count):
        tube = client.watched[place].tube
        if tube.ready.len == 0 or tube.pause_ns:
            continue
        top = heap_top(&tube.ready)
        if best is NULL or top.key < best.key or (top.key == best.key and top.tie < best.tie):
            best = top
    return NULL if best is NULL else <Job *>best.node


cdef void set_worker(State state, Client *client) noexcept nogil:
    """Count the client among `current-workers`, from its first reserve."""
    if not client.worker:
        client.worker = True
        state.counts.workers += 1


cdef Reply reserve_job(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_RESERVE)
    if job is NULL:
        return REPLY_NOT_FOUND
    set_worker(state, client)
    return REPLY_OUT_OF_MEMORY if state.reserve_for(client, job, now_ns) < 0 else REPLY_RESERVED


# The journal comes first, while the job still has what the record and the space accounting need: its segment, its
# size, and its tube's name, which may end with the job. Nothing after it can fail, so the record is always true.
cdef Reply delete(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_DELETE)
    cdef Tube *tube
    if job is NULL:
        return REPLY_NOT_FOUND
    tube = state.tube_of(job)
    tube.deletes += 1
    tube.finished += job.state == JOB_RESERVED
    state.journal.delete(command.id, job.segment, logged_bytes(job.body_bytes, tube.name_bytes))
    state.remove_job(job, command.id)
    return REPLY_DELETED


cdef Reply release(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_END_OR_KEEP)
    cdef Tube *tube
    if job is NULL:
        return REPLY_NOT_FOUND
    tube = state.tube_of(job)
    if heap_reserve(&tube.delayed if command.delay_s else &tube.ready, 1) < 0:
        return REPLY_OUT_OF_MEMORY
    state.take(job)
    job.pri = command.pri
    job.delay_s = command.delay_s
    job.releases += 1
    if command.delay_s:
        state.to_delayed(tube, job, command.id, now_ns)
    else:
        state.to_ready(tube, job, command.id)
        tube.enqueued += 1
    state.journal_change(job, True)
    if command.delay_s == 0 and tube.pause_ns == 0:
        state.match(tube, now_ns)
    return REPLY_RELEASED


cdef Reply bury(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_END_OR_KEEP)
    cdef Tube *tube
    if job is NULL:
        return REPLY_NOT_FOUND
    tube = state.tube_of(job)
    if heap_reserve(&tube.buried, 1) < 0:
        return REPLY_OUT_OF_MEMORY
    state.take(job)
    job.pri = command.pri
    state.to_buried(tube, job, command.id)
    state.journal_change(job, True)
    return REPLY_BURIED


cdef Reply touch(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_END_OR_KEEP)
    if job is NULL:
        return REPLY_NOT_FOUND
    heap_update(&client.reserved, &job.node, <uint64_t>state.deadline_after(now_ns, job.ttr_s), command.id)
    return REPLY_TOUCHED


# Operating

cdef Reply kick_job(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_KICK)
    if job is NULL:
        return REPLY_NOT_FOUND
    return REPLY_OUT_OF_MEMORY if kick_one(state, job, now_ns) < 0 else REPLY_KICKED


cdef Reply kick(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    """Kick at most as many jobs of the used tube, of those that are in it now: only buried ones if it has any."""
    cdef Tube *tube = client.use
    return begin_work(state, client, WORK_KICK, min(command.count, tube.buried.len or tube.delayed.len), now_ns)


cdef Reply pause_tube(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Tube *tube = tube_find(&state.tubes, command.name, command.name_bytes)
    if tube is NULL:
        return REPLY_NOT_FOUND
    client.work.tube = tube.number
    client.work.birth = tube.birth
    client.work.left = command.delay_s
    return pause_begin(state, client, now_ns)


# The first pause of a tube adds to what compaction has to keep, as a put does. So it needs room like a put: it is held
# while room is being made, and refused if there is none. Other pauses replace a record, and the end of one has room.
cdef Reply pause_begin(State state, Client *client, int64_t now_ns) noexcept nogil:
    """Set the pause that ``client.work`` has: of ``left`` seconds, for a tube that may have ended while it was held."""
    cdef Tube *tube = state.tubes.by_number[client.work.tube]
    cdef Space space = SPACE_READY
    if tube is NULL or tube.birth != client.work.birth:
        return REPLY_NOT_FOUND
    if client.work.left and tube.segment == 0:
        space = state.journal.reserve(PAUSE_BYTES)
    if space == SPACE_COMING:
        if client.queue is NULL:
            queue_join(&state.held, client)
        return REPLY_NONE
    if space != SPACE_READY:
        state.hits.binlog_space += space == SPACE_NONE
        return REPLY_OUT_OF_MEMORY
    tube.pauses += 1
    if client.work.left == 0:
        end_pause(state, tube, now_ns)
        return REPLY_PAUSED
    tube.pause_ns = seconds_ns(client.work.left)
    tube.unpause_at_ns = now_ns + tube.pause_ns
    state.schedule(&tube.timer, tube.unpause_at_ns)
    state.journal_settings(tube)
    return REPLY_PAUSED


cdef void end_pause(State state, Tube *tube, int64_t now_ns) noexcept nogil:
    """Serve the waiting clients at once; if there are very many, `expire` does the rest, and the pause lasts. After a
    restart it has ended in any case."""
    cdef int64_t pause_ns = tube.pause_ns
    cdef int _step
    tube.unpause_at_ns = now_ns
    if tube.segment:
        tube.pause_ns = 0
        state.journal_settings(tube)
        tube.pause_ns = pause_ns
    for _step in range(STEPS_AT_ONCE):
        if tube.pause_ns == 0 or not state.match(tube, now_ns):
            state.pause_over(tube)
            return
        if state.effort >= state.effort_limit:
            break
    state.schedule(&tube.timer, now_ns)


# Looking

cdef Reply found(State state, Client *client, Job *job) noexcept nogil:
    if job is NULL:
        return REPLY_NOT_FOUND
    answer_add(&client.answer, job, state.id_of(job))
    return REPLY_FOUND


cdef Reply peek(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return found(state, client, job_for(state, client, command.id, TO_LOOK))


cdef Reply peek_ready(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return found(state, client, first_job(&client.use.ready))


cdef Reply peek_delayed(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return found(state, client, first_job(&client.use.delayed))


cdef Reply peek_buried(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return found(state, client, first_job(&client.use.buried))


cdef Reply list_tube_used(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return REPLY_USING


cdef Reply list_tubes(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return begin_list_tubes(state, client, now_ns)


cdef Reply list_tubes_watched(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    return begin_work(state, client, WORK_LIST_WATCHED, 0, now_ns)


cdef Reply stats(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    stats_text(state, &client.answer.text, now_ns)
    return text_reply(client)


cdef Reply stats_tube(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Tube *tube = tube_find(&state.tubes, command.name, command.name_bytes)
    if tube is NULL:
        return REPLY_NOT_FOUND
    stats_tube_text(tube, &client.answer.text, now_ns)
    return begin_oldest(state, client, tube, now_ns)


cdef Reply stats_job(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Job *job = job_for(state, client, command.id, TO_LOOK)
    if job is NULL:
        return REPLY_NOT_FOUND
    stats_job_text(state, job, command.id, &client.answer.text, now_ns)
    return text_reply(client)


cdef Reply text_reply(Client *client) noexcept nogil:
    """The reply that has ``client.answer.text``, unless there was no memory for it."""
    if client.answer.text.failed:
        buffer_free(&client.answer.text)
        return REPLY_OUT_OF_MEMORY
    return REPLY_OK


# Using and watching

cdef Tube *wanted_tube(State state, Command *command) noexcept nogil:
    """As `find_or_make_tube`, for a client: NULL also at the limit on tubes, which restored tubes do not have."""
    cdef Tube *tube
    if state.max_tubes == 0 or state.tubes.count < state.max_tubes:
        return state.find_or_make_tube(command.name, command.name_bytes)
    tube = tube_find(&state.tubes, command.name, command.name_bytes)
    state.hits.tubes += tube is NULL
    return tube


cdef Reply use(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Tube *tube = wanted_tube(state, command)
    cdef Tube *before = client.use
    if tube is NULL:
        return REPLY_OUT_OF_MEMORY
    tube.using += 1
    client.use = tube
    before.using -= 1
    state.release_tube(before)
    return REPLY_USING


cdef Reply watch(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Tube *tube = wanted_tube(state, command)
    if tube is NULL:
        return REPLY_OUT_OF_MEMORY
    if client_watch_of(client, tube) is NULL and client_add_watch(client, tube) is NULL:
        state.release_tube(tube)
        return REPLY_OUT_OF_MEMORY
    client.answer.number = client.watched_count
    return REPLY_WATCHING


cdef Reply ignore(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil:
    cdef Tube *tube = tube_find(&state.tubes, command.name, command.name_bytes)
    cdef Watch *watch = NULL if tube is NULL else client_watch_of(client, tube)
    if watch is not NULL:
        if client.watched_count == 1:
            return REPLY_NOT_IGNORED
        client_remove_watch(client, watch)
        state.release_tube(tube)
    client.answer.number = client.watched_count
    return REPLY_WATCHING
