"""Measures how long an iteration takes, for a few nanoseconds: reads the coarse clock a few times per iteration.

The coarse clock is the monotonic clock as of the kernel's last timer tick, up to 10 ms ago, so an iteration may seem up
to 10 ms shorter than it was. That is precise enough here, and reading it costs a fifth of reading the exact clock,
because it does not touch the hardware. A stopwatch without a limit reads no clock.
"""

from libc.stdint cimport int64_t

cdef extern from *:
    """
    #include <stdint.h>
    #include <time.h>
    #ifndef CLOCK_MONOTONIC_COARSE
    #define CLOCK_MONOTONIC_COARSE CLOCK_MONOTONIC
    #endif
    static inline int64_t fastbean_coarse_ns(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }
    """
    int64_t fastbean_coarse_ns() noexcept nogil

cdef enum IterationPart:
    PART_SERVE                      # sockets that were ready: commands read, run and answered; callbacks run
    PART_WORK                       # postponed commands, timers, slices of long commands, compaction
    PART_BINLOG                     # the binlog written, and synced where the loop does that itself
    PART_SEND                       # replies that waited for the binlog or for another client

cdef struct Stopwatch:
    int64_t limit_ns                # an iteration that takes this long is slow; 0: none is
    int64_t begun_ns
    int64_t marked_ns
    int64_t longest_ns              # of one phase
    IterationPart longest


cdef inline void stopwatch_begin(Stopwatch *watch, int64_t now_ns) noexcept nogil:
    """An iteration begins; `now_ns` is the exact clock's reading."""
    watch.begun_ns = now_ns
    watch.marked_ns = now_ns
    watch.longest_ns = 0


cdef inline bint stopwatch_mark(Stopwatch *watch, IterationPart phase) noexcept nogil:
    """Charge the time since the last mark to `phase`. Returns whether the iteration has reached the limit."""
    cdef int64_t now_ns
    if watch.limit_ns == 0:
        return False
    now_ns = fastbean_coarse_ns()
    if now_ns - watch.marked_ns > watch.longest_ns:
        watch.longest_ns = now_ns - watch.marked_ns
        watch.longest = phase
    watch.marked_ns = now_ns
    return now_ns - watch.begun_ns >= watch.limit_ns
