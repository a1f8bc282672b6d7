"""The system's clocks, for compiled code that does not get the time as an argument."""

from libc.stdint cimport int64_t
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clockid_t, timespec

cdef enum:
    NEVER = -1                      # in place of a time: nothing is due


cdef inline int64_t clock_ns(clockid_t clock) noexcept nogil:
    """The present reading of `clock`, in nanoseconds."""
    cdef timespec time
    clock_gettime(clock, &time)
    return <int64_t>time.tv_sec * 1000000000 + time.tv_nsec


cdef inline int64_t monotonic_ns() noexcept nogil:
    """The clock of ``time.monotonic_ns``."""
    return clock_ns(CLOCK_MONOTONIC)


cdef inline int64_t wall_ns() noexcept nogil:
    """Nanoseconds since 1970. An operator may set this clock at any time."""
    return clock_ns(CLOCK_REALTIME)
