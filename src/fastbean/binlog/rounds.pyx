"""A thread that does one round of work at a time, without the GIL.

`round_begin` wakes the thread by a byte in a pipe. The thread works, and writes a byte into another pipe, which the
loop watches; `round_take` takes that byte. In between no other code touches what the round works with.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint64_t

from fastbean.base.clock cimport monotonic_ns

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *data, size_t size)
    ssize_t write(int fd, const void *data, size_t size)

cdef enum:
    ROUND = 0                       # wakes the thread
    STOP = 1


cdef void send_byte(int fd, char byte) noexcept nogil:
    while write(fd, &byte, 1) < 0 and errno == EINTR:
        pass


cdef void round_begin(Round *round) noexcept nogil:
    """Have the thread do a round."""
    round.begun_ns = monotonic_ns()
    round.running = True
    send_byte(round.wake_in, ROUND)


cdef void round_stop(Round *round) noexcept nogil:
    """Make the thread end, after the round that was begun, if there is one: its end may be waited for."""
    send_byte(round.wake_in, STOP)


cdef bint round_wait(Round *round) noexcept nogil:
    """In the thread: wait for the next round; false when the thread has to end."""
    cdef char byte = 0
    cdef ssize_t size = read(round.wake_out, &byte, 1)
    while size < 0 and errno == EINTR:
        size = read(round.wake_out, &byte, 1)
    round.woken_ns = monotonic_ns()
    # A pipe that was closed or replaced never wakes the thread again: continuing would be a busy loop.
    return size == 1 and byte == ROUND


cdef void round_report(Round *round) noexcept nogil:
    """In the thread: the round is done."""
    round_note_time(round, round.woken_ns)
    send_byte(round.done_in, round.name)


cdef void round_note_time(Round *round, int64_t start_ns) noexcept nogil:
    """A round, or the same work in the loop, has ended; it began at this monotonic time."""
    round.last_us = <uint64_t>((monotonic_ns() - start_ns) // 1000)
    # A slow one counts an eighth less with each that follows: one of 20 ms is forgotten, down to 2 ms, after 18 others.
    round.expected_us = max(round.last_us, round.expected_us - round.expected_us // 8)
    round.longest_us = max(round.longest_us, round.last_us)
    round.count += 1


cdef char round_take(int done_out) noexcept nogil:
    """Take the report of one thread; wait for it if necessary. Returns its name, 0 if the pipe is closed."""
    cdef char byte = 0
    while True:
        if read(done_out, &byte, 1) == 1:
            return byte
        if errno != EINTR:
            return 0
