"""What is due: delays, pauses, reservations and waits that end."""

from libc.stdint cimport int64_t, uint64_t

from fastbean._core cimport heap_top
from fastbean.engine.state cimport State

cdef bint expire_due(State state, int64_t now_ns) noexcept

cdef inline bint expire(State state, int64_t now_ns) noexcept:
    """Do what is due at `now_ns`, in order of time, up to STEPS_AT_ONCE steps; true when more is due."""
    if heap_top(&state.timers).key > <uint64_t>now_ns:
        state.short_of_memory = False
        return False
    return expire_due(state, now_ns)
