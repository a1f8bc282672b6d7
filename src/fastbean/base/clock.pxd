"""The system's clocks, for what is compiled and gets no time as an argument."""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clockid_t, timespec

cdef enum:
    NEVER = -1                      # instead of a time: nothing is due


cdef inline int64_t clock_ns(clockid_t clock) noexcept nogil:
    """What this clock says, in nanoseconds."""
    cdef timespec time
    clock_gettime(clock, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec


cdef inline int64_t monotonic_ns() noexcept nogil:
    """The clock of ``time.monotonic_ns``."""
    return clock_ns(CLOCK_MONOTONIC)


cdef inline int64_t wall_ns() noexcept nogil:
    """The time of day, since 1970; it may be set at any time."""
    return clock_ns(CLOCK_REALTIME)
