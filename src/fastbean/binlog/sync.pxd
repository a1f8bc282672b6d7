"""The sync thread: one round at a time, without the GIL."""

from libc.stdint cimport int64_t, uint64_t

cdef struct SyncRound:              # shared with the thread
    int wake_in
    int wake_out
    int done_in
    int done_out
    int *fds
    int count
    int cap
    int error                       # errno of the failed sync, or 0
    bint fsyncs                     # `fsync` takes the place of `fdatasync`, which the file system does not support
    int64_t begun_ns                # when the round was requested
    uint64_t lsn                    # everything up to here is synced when the round is done
    uint64_t last_us
    uint64_t longest_us
    uint64_t rounds

cdef void sync_rounds(SyncRound *round) noexcept nogil
cdef int sync_begin(SyncRound *round, list closed_fds, int fd, uint64_t lsn) noexcept
cdef bint sync_finished(SyncRound *round) noexcept nogil
cdef int sync_inline(SyncRound *round, list closed_fds, int fd) noexcept
cdef void sync_stop(SyncRound *round) noexcept nogil
