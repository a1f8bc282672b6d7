"""Syncs, in the thread or in the loop.

`sync_inline` syncs in the loop. The thread (`sync_rounds`) syncs one round at a time, without the GIL.

A round is a few files and the LSN up to which the binlog is safe once they are synced. `sync_begin` wakes the thread by
a byte in a pipe. The thread syncs, and writes a byte into another pipe, which the loop watches; `sync_finished` takes
that byte.
In between no other code touches the round. After a failed sync the thread is not used again: ``error`` is the reason.
Any error counts, because every file system that keeps files can sync them. Only for `fdatasync` may an error mean "not
supported": then `fsync` does it, and `fdatasync` is not called again.
"""

from libc.errno cimport EINTR, EINVAL, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport realloc

from fastbean.base.clock cimport monotonic_ns

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *data, size_t size)
    ssize_t write(int fd, const void *data, size_t size)
    int fdatasync(int fd)
    int fsync(int fd)

cdef enum:
    ROUND = 0                       # wakes the thread
    STOP = 1


cdef int sync_file(SyncRound *round, int fd) noexcept nogil:
    """Sync a file. Returns 0, or its errno."""
    if not round.fsyncs:
        if fdatasync(fd) == 0:
            return 0
        if errno not in (EINVAL, ENOSYS, EOPNOTSUPP):
            return errno
        # Old kernels and some file systems of FUSE and the network know `fsync` alone.
    if fsync(fd) != 0:
        return errno
    round.fsyncs = True
    return 0


cdef void sync_rounds(SyncRound *round) noexcept nogil:
    """The body of the thread: wait for a round, sync its files, report the end; until it is stopped."""
    cdef char byte = 0
    cdef int64_t start_ns
    cdef ssize_t size
    cdef int place
    while True:
        size = read(round.wake_out, &byte, 1)
        while size < 0 and errno == EINTR:
            size = read(round.wake_out, &byte, 1)
        # A pipe that was closed or replaced never wakes the thread again: continuing would be a busy loop.
        if size != 1 or byte == STOP:
            return
        start_ns = monotonic_ns()
        for place in range(round.count):
            round.error = sync_file(round, round.fds[place])
            if round.error != 0:
                break
        note_time(round, start_ns)
        while write(round.done_in, &byte, 1) < 0 and errno == EINTR:
            pass


cdef void note_time(SyncRound *round, int64_t start_ns) noexcept nogil:
    round.last_us = <uint64_t>((monotonic_ns() - start_ns) // 1000)
    round.longest_us = max(round.longest_us, round.last_us)
    round.rounds += 1


cdef int sync_begin(SyncRound *round, list closed_fds, int fd, uint64_t lsn) noexcept:
    """Have the thread sync these files. Returns 0, or -1 without memory."""
    cdef int count = len(closed_fds) + 1
    cdef int place
    cdef int *fds
    cdef char byte = ROUND
    if count > round.cap:
        fds = <int *>realloc(round.fds, count * sizeof(int))
        if fds is NULL:
            return -1
        round.fds = fds
        round.cap = count
    for place in range(count - 1):
        round.fds[place] = closed_fds[place]
    round.fds[count - 1] = fd
    round.count = count
    round.lsn = lsn
    round.begun_ns = monotonic_ns()
    while write(round.wake_in, &byte, 1) < 0 and errno == EINTR:
        pass
    return 0


cdef bint sync_finished(SyncRound *round) noexcept nogil:
    """Take the thread's report that the round is done; wait for it if necessary."""
    cdef char byte
    while True:
        if read(round.done_out, &byte, 1) == 1:
            return True
        if errno != EINTR:
            return False


cdef int sync_inline(SyncRound *round, list closed_fds, int fd) noexcept:
    """Sync these files in the calling thread. Returns 0, or the errno of the sync that failed."""
    cdef int64_t start_ns = monotonic_ns()
    cdef int error
    for each in closed_fds:
        error = sync_file(round, each)
        if error != 0:
            return error
    error = sync_file(round, fd)
    if error == 0:
        note_time(round, start_ns)
    return error


cdef void sync_stop(SyncRound *round) noexcept nogil:
    """Make the thread end, after the round that was begun, if there is one: its end may be waited for."""
    cdef char byte = STOP
    while write(round.wake_in, &byte, 1) < 0 and errno == EINTR:
        pass
