"""How long an iteration takes, at a few nanoseconds each: the system's coarse clock, read a few times in an iteration.

The coarse clock is the monotonic one as the kernel's last iteration left it, up to 10 ms ago, so an iteration seems
shorter than it was by at most that; nobody asks for less. It is told by the system without a look at the hardware, and
costs a fifth of the other's reading. A stopwatch without a limit reads nothing.
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

cdef enum TurnPhase:
    PART_SERVE                      # sockets that were ready: commands read, run and answered; functions called
    PART_WORK                       # commands left over, what time brings, slices of long commands, compaction
    PART_BINLOG                        # the log written, and synced where the loop does that itself
    PART_SEND                       # replies that waited for the log or for somebody else

cdef struct Stopwatch:
    int64_t limit_ns                # an iteration that takes so long is slow; 0: none is
    int64_t begun_ns
    int64_t marked_ns
    int64_t longest_ns              # of one phase
    TurnPhase longest


cdef inline void stopwatch_begin(Stopwatch *watch, int64_t now_ns) noexcept nogil:
    """An iteration begins, at this reading of the exact clock."""
    watch.begun_ns = now_ns
    watch.marked_ns = now_ns
    watch.longest_ns = 0


cdef inline bint stopwatch_mark(Stopwatch *watch, TurnPhase phase) noexcept nogil:
    """What was done since the last mark was this phase. Returns whether the iteration is slow by now."""
    cdef int64_t now_ns
    if watch.limit_ns == 0:
        return False
    now_ns = fastbean_coarse_ns()
    if now_ns - watch.marked_ns > watch.longest_ns:
        watch.longest_ns = now_ns - watch.marked_ns
        watch.longest = phase
    watch.marked_ns = now_ns
    return now_ns - watch.begun_ns >= watch.limit_ns
