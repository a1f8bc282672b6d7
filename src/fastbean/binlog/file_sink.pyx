"""The sink of a local binlog: the files of its segments, and the threads that write and sync them.

A batch of up to LARGE_WRITE_BYTES is written in the loop, which is quicker than waking a thread. A larger one is
written by a thread, because a write may wait for the disk, too. Another thread syncs (`begin_sync`); a sync that will
be short can be done in the loop (`sync_here`). All of it runs without the GIL.

After a failed write or sync neither thread is used again. Any error counts, because every file system that keeps files
can sync them. Only for `fdatasync` may an error mean "not supported": then `fsync` does it, and `fdatasync` is not
called again.
"""

cimport cython
from libc.errno cimport EINTR, EINVAL, ENOSYS, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from fastbean.base.clock cimport monotonic_ns
from fastbean.binlog.batch cimport Batch, Cut, batch_clear, batch_end, batch_free, batch_swap
from fastbean.binlog.record cimport SEGMENT_HEADER_BYTES, fill_segment_header
from fastbean.binlog.rounds cimport (
    round_begin, round_note_time, round_report, round_stop, round_take, round_wait,
)
from fastbean.binlog.sink cimport SINK_FAILED, SINK_MADE_SAFE, SINK_NOTHING, SINK_WROTE, Sink, SinkEvent

cdef extern from "<unistd.h>" nogil:
    ssize_t pwrite(int fd, const void *data, size_t size, long long offset)
    int fdatasync(int fd)
    int fsync(int fd)
    int close(int fd)

# LARGE_WRITE_BYTES: copying as much into the page cache takes some tens of microseconds, about what waking a thread and
# hearing of its end costs. A judgement.
cdef enum:
    LARGE_WRITE_BYTES = 262144
    FIRST_CAP = 64                  # of a list of files: well above UNSYNCED_FILES, so that it practically never grows

cdef char WRITING = c"w"
cdef char SYNCING = c"s"


# Lists of files

cdef int files_reserve(Files *files, int count) noexcept nogil:
    """Make room for `count` files in all. Returns 0, or -1 without memory."""
    cdef int cap = max(count, files.cap * 2 if files.cap else FIRST_CAP)
    cdef int *fds
    if count <= files.cap:
        return 0
    fds = <int *>realloc(files.fds, cap * sizeof(int))
    if fds is NULL:
        return -1
    files.fds = fds
    files.cap = cap
    return 0


cdef void files_close(Files *files, int count) noexcept nogil:
    """Close and remove the first `count` files."""
    cdef int place
    if count == 0:
        return
    for place in range(count):
        close(files.fds[place])
    files.count -= count
    memmove(files.fds, files.fds + count, files.count * sizeof(int))


@cython.final
cdef class FileSink(Sink):
    """See the module's text.

    Args:
        syncs: whether full files are synced before they are closed.
        pipes: of the threads: the reading and the writing end of the pipe that wakes the one that writes, of the pipe
            that wakes the one that syncs, and of the pipe by which both report.

    Raises:
        MemoryError: there is no memory.
    """

    def __cinit__(self, *, bint syncs, pipes):
        self.fd = -1
        self.syncs = syncs
        self.writing.name = WRITING
        self.syncing.name = SYNCING
        (
            self.writing.wake_out, self.writing.wake_in, self.syncing.wake_out, self.syncing.wake_in, self.done_out,
            self.writing.done_in,
        ) = pipes
        self.syncing.done_in = self.writing.done_in
        if files_reserve(&self.closed, FIRST_CAP) < 0 or files_reserve(&self.syncing_files, FIRST_CAP) < 0:
            raise MemoryError("no memory for the binlog")

    def __dealloc__(self):
        # Without its lists it was never begun, and `fd` may not have been set.
        if self.closed.cap:
            self.close_files()
        free(self.closed.fds)
        free(self.syncing_files.fds)

    # Writing

    cdef void begin(self, Batch *batch) noexcept nogil:
        if not self.threaded or batch.bytes.len <= LARGE_WRITE_BYTES:
            self.write_here(batch)
            return
        batch_clear(&self.batch, batch_end(batch))
        batch_swap(batch, &self.batch)
        self.busy = True
        round_begin(&self.writing)

    cdef void write_here(self, Batch *batch) noexcept nogil:
        """Write a batch in the loop."""
        cdef int64_t start_ns = monotonic_ns()
        cdef int error = self.write_batch(batch)
        round_note_time(&self.writing, start_ns)
        if error:
            self.fail(b"cannot write segment %d of the binlog", error, self.error_segment)
            return
        self.advance(batch)
        batch_clear(batch, self.written_lsn)

    def run_writes(self):
        """The body of the thread that writes; ends when `stop_rounds` is called."""
        with nogil:
            while round_wait(&self.writing):
                self.write_error = self.write_batch(&self.batch)
                round_report(&self.writing)

    cdef int write_batch(self, Batch *batch) noexcept nogil:
        """Write the records, and the headers of the files that begin between them. Returns 0, or the errno."""
        cdef char[SEGMENT_HEADER_BYTES] header
        cdef int fd = self.fd
        cdef uint64_t offset = self.offset
        cdef size_t done = 0
        cdef uint32_t place
        cdef int error
        cdef Cut *cut
        self.error_segment = self.segment
        for place in range(batch.cuts_count):
            cut = &batch.cuts[place]
            error = self.write_piece(fd, batch.bytes.data + done, cut.place - done, offset)
            if error:
                return error
            fd = cut.fd
            self.error_segment = cut.segment
            fill_segment_header(
                header, cut.segment, batch.first_lsn + cut.place, cut.id_limit, cut.floor, self.run_id,
            )
            error = self.write_piece(fd, header, SEGMENT_HEADER_BYTES, 0)
            if error:
                return error
            offset = SEGMENT_HEADER_BYTES
            done = cut.place
        return self.write_piece(fd, batch.bytes.data + done, batch.bytes.len - done, offset)

    cdef int write_piece(self, int fd, const char *data, size_t size, uint64_t offset) noexcept nogil:
        cdef size_t done = 0
        cdef ssize_t written
        while done < size:
            written = pwrite(fd, data + done, size - done, offset + done)
            if written >= 0:
                done += written
            elif errno != EINTR:
                return errno
        return 0

    cdef void advance(self, Batch *batch) noexcept nogil:
        """A batch was written: note where the next one goes."""
        cdef size_t done = 0
        cdef uint32_t place
        for place in range(batch.cuts_count):
            self.retire()
            self.fd = batch.cuts[place].fd
            self.segment = batch.cuts[place].segment
            self.offset = SEGMENT_HEADER_BYTES
            done = batch.cuts[place].place
        self.offset += batch.bytes.len - done
        self.written_lsn = batch_end(batch)

    cdef void retire(self) noexcept nogil:
        """The file is full: close it, after the next sync if there are syncs."""
        if self.fd < 0:
            return
        if not self.syncs:
            close(self.fd)
            self.left_unsynced = True
        elif files_reserve(&self.closed, self.closed.count + 1) < 0:
            # What no sync knows of would count as synced.
            close(self.fd)
            self.fail(b"no memory for the files to be synced", 0, self.segment)
        else:
            self.closed.fds[self.closed.count] = self.fd
            self.closed.count += 1
            self.unsynced_files += 1

    # Syncing

    cdef void begin_sync(self) noexcept nogil:
        """Have the thread sync all that is written. Not to be called while a sync runs."""
        if files_reserve(&self.syncing_files, self.closed.count + 1) < 0:
            self.fail(b"no memory for the files to be synced", 0, self.segment)
            return
        memcpy(self.syncing_files.fds, self.closed.fds, self.closed.count * sizeof(int))
        self.syncing_files.fds[self.closed.count] = self.fd
        self.syncing_files.count = self.closed.count + 1
        self.syncing_lsn = self.written_lsn
        round_begin(&self.syncing)

    cdef void sync_here(self) noexcept nogil:
        """Sync in the loop all that is written. Not to be called while a sync runs."""
        cdef int64_t start_ns = monotonic_ns()
        cdef int error = self.sync_files(&self.closed)
        if error == 0:
            error = self.sync_file(self.fd)
        if error:
            self.fail(b"cannot sync the binlog", error, self.segment)
            return
        round_note_time(&self.syncing, start_ns)
        self.syncing_lsn = self.written_lsn
        self.synced(self.closed.count)

    def run_syncs(self):
        """The body of the thread that syncs; ends when `stop_rounds` is called."""
        with nogil:
            while round_wait(&self.syncing):
                self.sync_error = self.sync_files(&self.syncing_files)
                round_report(&self.syncing)

    cdef int sync_files(self, Files *files) noexcept nogil:
        """Sync these files. Returns 0, or the errno of the first that failed."""
        cdef int place, error
        for place in range(files.count):
            error = self.sync_file(files.fds[place])
            if error:
                return error
        return 0

    cdef int sync_file(self, int fd) noexcept nogil:
        """Sync a file. Returns 0, or its errno."""
        if not self.fsyncs:
            if fdatasync(fd) == 0:
                return 0
            if errno not in (EINVAL, ENOSYS, EOPNOTSUPP):
                return errno
            # Old kernels and some file systems of FUSE and the network know `fsync` alone.
        if fsync(fd) != 0:
            return errno
        self.fsyncs = True
        return 0

    cdef void synced(self, int closed) noexcept nogil:
        """All up to `syncing_lsn` is synced, and so are the first `closed` of the full files."""
        files_close(&self.closed, closed)
        self.unsynced_files -= closed
        self.synced_lsn = max(self.synced_lsn, self.syncing_lsn)
        # Under -F a full file is not synced, and a later sync says nothing about it.
        if not self.left_unsynced:
            self.safe_lsn = max(self.safe_lsn, self.syncing_lsn)

    # Both

    cdef SinkEvent finished(self) noexcept nogil:
        cdef char name
        if not self.busy and not self.syncing.running:
            return SINK_NOTHING
        name = round_take(self.done_out)
        if name == WRITING:
            self.writing.running = False
            if self.write_error:
                self.fail(b"cannot write segment %d of the binlog", self.write_error, self.error_segment)
                return SINK_FAILED
            self.busy = False
            self.advance(&self.batch)
            batch_clear(&self.batch, self.written_lsn)
            return SINK_WROTE
        if name == SYNCING:
            self.syncing.running = False
            if self.sync_error:
                self.fail(b"cannot sync the binlog", self.sync_error, self.segment)
                return SINK_FAILED
            self.synced(self.syncing_files.count - 1)
            return SINK_MADE_SAFE
        return SINK_NOTHING

    cdef void fail(self, const char *text, int error, uint32_t segment) noexcept nogil:
        self.error_text = text
        self.error = error
        self.error_segment = segment

    def use_threads(self):
        """The threads run: they may be given work."""
        self.threaded = True

    def stop_rounds(self):
        """Make both threads end, after the rounds that were begun."""
        self.threaded = False
        round_stop(&self.writing)
        round_stop(&self.syncing)

    def close_files(self):
        """Close all files. May be called again."""
        if self.fd >= 0:
            close(self.fd)
        self.fd = -1
        files_close(&self.closed, self.closed.count)
        batch_free(&self.batch)
