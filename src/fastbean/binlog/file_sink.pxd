"""The sink of a local binlog: the files of its segments, and the threads that write and sync them."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.binlog.batch cimport Batch
from fastbean.binlog.record cimport RUN_BYTES
from fastbean.binlog.rounds cimport Round
from fastbean.binlog.sink cimport Sink, SinkEvent

cdef struct Files:                  # descriptors of files that have to be synced, the oldest first
    int *fds
    int count
    int cap


cdef class FileSink(Sink):
    cdef char[RUN_BYTES] run_id     # for the headers of the files
    cdef bint syncs                 # False: full files are closed, and only the newest one is ever synced (-F)
    cdef bint left_unsynced         # a full file was closed without a sync
    cdef bint threaded              # the threads run
    cdef int fd                     # the file that is written to
    cdef uint64_t offset            # where the next record goes in it
    cdef uint32_t segment           # its number
    cdef Files closed               # full files that are not synced yet
    # While it runs, `batch` belongs to the writing thread.
    cdef Round writing
    cdef int write_error
    cdef Files syncing_files        # belongs to the syncing thread while `syncing` runs
    cdef Round syncing
    cdef int sync_error
    cdef uint64_t syncing_lsn       # what was written when the last sync began
    cdef uint64_t synced_lsn        # as `safe_lsn`, but for what -F has left unsynced
    cdef bint fsyncs                # `fsync` takes the place of `fdatasync`, which the file system does not support
    cdef int done_out

    cdef void write_here(self, Batch *batch) noexcept nogil
    cdef void begin_sync(self) noexcept nogil
    cdef void sync_here(self) noexcept nogil
    cdef void advance(self, Batch *batch) noexcept nogil
    cdef void retire(self) noexcept nogil
    cdef void fail(self, const char *text, int error, uint32_t segment) noexcept nogil
    cdef int write_batch(self, Batch *batch) noexcept nogil
    cdef int write_piece(self, int fd, const char *data, size_t size, uint64_t offset) noexcept nogil
    cdef int sync_files(self, Files *files) noexcept nogil
    cdef int sync_file(self, int fd) noexcept nogil
    cdef void synced(self, int closed) noexcept nogil
