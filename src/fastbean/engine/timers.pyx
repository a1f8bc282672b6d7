"""What is due: delays, pauses, reservations and waits that end.

The timer heap is lazy: see the invariants in `state`.
"""

from libc.stdint cimport int64_t, uint64_t

from fastbean._core cimport HeapSlot, heap_slot, heap_top, heap_update
from fastbean.engine.client cimport Client
from fastbean.engine.job cimport Job
from fastbean.engine.state cimport EFFORT_PER_ITERATION, SAFETY_MARGIN_NS, STEPS_AT_ONCE, State
from fastbean.engine.tube cimport TIMER_TUBE, Timer, Tube, timer_tie
from fastbean.protocol.replies cimport REPLY_DEADLINE_SOON, REPLY_TIMED_OUT


cdef bint expire(State state, int64_t now_ns) noexcept nogil:
    """Do what is due at `now_ns`, in order of time, up to STEPS_AT_ONCE steps; true when more is due.

    It has a budget of its own, because a step may wake a client that waits for very many tubes.
    """
    cdef uint64_t limit = state.effort + EFFORT_PER_ITERATION
    cdef int _step
    for _step in range(STEPS_AT_ONCE):
        if heap_top(&state.timers).key > <uint64_t>now_ns:
            return False
        if state.journal.tight or state.effort >= limit:
            return True
        if expire_timer(state, <Timer *>heap_top(&state.timers).node, now_ns) < 0:
            state.short_of_memory = True
            return False
    return True


cdef int expire_timer(State state, Timer *timer, int64_t now_ns) noexcept nogil:
    """One step for the timer at the top: correct it, or do what is due. Returns 0, or -1 without memory."""
    cdef Tube *tube = NULL
    cdef Client *client = NULL
    cdef int64_t due_ns
    if timer.kind == TIMER_TUBE:
        tube = state.tubes.by_number[timer.number]
        due_ns = state.tube_due_ns(tube)
    else:
        client = state.clients.by_number[timer.number]
        due_ns = state.client_due_ns(client)
    # NEVER, as an unsigned number, is NOT_DUE: such a timer moves to the far end.
    if <uint64_t>due_ns > heap_slot(&state.timers, &timer.node).key:
        heap_update(&state.timers, &timer.node, <uint64_t>due_ns, timer_tie(timer))
        return 0
    if client is NULL:
        return tube_step(state, tube, now_ns)
    return client_step(state, client, now_ns)


cdef int tube_step(State state, Tube *tube, int64_t now_ns) noexcept nogil:
    """Handle one delay that has ended, or one step of the pause's end. Returns 0, or -1 without memory."""
    cdef HeapSlot *first = heap_top(&tube.delayed)
    if first is not NULL and <int64_t>first.key <= now_ns and (
        tube.pause_ns == 0 or <int64_t>first.key <= tube.unpause_at_ns
    ):
        return state.make_ready(<Job *>first.node, now_ns)
    # The tube stays paused until its last waiting client is served, so that no other client overtakes them.
    if not state.match(tube, now_ns):
        state.pause_over(tube)
    return 0


cdef int client_step(State state, Client *client, int64_t now_ns) noexcept nogil:
    """Handle one reservation that has ended, or the end of the wait. Returns 0, or -1 without memory."""
    cdef HeapSlot *first = heap_top(&client.reserved)
    if first is not NULL and <int64_t>first.key <= now_ns:
        return state.time_out(client, now_ns)
    if first is not NULL and <int64_t>first.key - SAFETY_MARGIN_NS <= now_ns:
        state.end_wait(client, REPLY_DEADLINE_SOON)
    else:
        state.end_wait(client, REPLY_TIMED_OUT)
    return 0
