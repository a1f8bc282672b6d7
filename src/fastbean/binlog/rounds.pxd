"""A thread that does one round of work at a time, without the GIL."""

from libc.stdint cimport int64_t, uint64_t

cdef struct Round:
    int wake_out                    # a pipe that wakes the thread: what it reads, and what the loop writes
    int wake_in
    int done_in                     # a pipe that the loop watches; threads may share it
    char name                       # the byte that reports the end of this one's round
    bint running                    # for the loop: begun, and its end was not taken yet
    int64_t begun_ns                # when the loop asked for it
    int64_t woken_ns
    uint64_t last_us                # how long the last one took
    uint64_t expected_us            # how long the next one may take: as long as the slowest of the last ones
    uint64_t longest_us
    uint64_t count

cdef void round_begin(Round *round) noexcept nogil
cdef void round_stop(Round *round) noexcept nogil
cdef bint round_wait(Round *round) noexcept nogil
cdef void round_report(Round *round) noexcept nogil
cdef void round_note_time(Round *round, int64_t start_ns) noexcept nogil
cdef char round_take(int done_out) noexcept nogil
