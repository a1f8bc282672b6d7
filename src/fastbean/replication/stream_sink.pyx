"""The sink of a replicated binlog: hands each batch to a thread that has it appended to a stream.

The loop calls what `Sink` has. The other thread calls the rest, after a byte in the pipe that wakes it. The batch is
the other thread's from `begin` until it reports.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint64_t

from fastbean.binlog.batch cimport Batch, batch_clear, batch_end, batch_free, batch_swap
from fastbean.binlog.sink cimport SINK_FAILED, SINK_NOTHING, SINK_WROTE, Sink, SinkEvent

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void *data, size_t size)
    ssize_t write(int fd, const void *data, size_t size)

cdef char WAKE = c"w"
cdef char SAFE = c"s"
cdef char ENDED = c"e"


cdef void send_byte(int fd, char byte) noexcept nogil:
    """The pipe is never full: it holds two bytes at most, and for each trim another."""
    while write(fd, &byte, 1) < 0 and errno == EINTR:
        pass


@cython.final
cdef class StreamSink(Sink):
    """See the module's text.

    Args:
        wake_in: the writing end of the pipe that wakes the other thread.
        done_out: the reading end of the pipe by which it reports, which the loop watches.
        done_in: the writing end of that.
    """

    def __cinit__(self, int wake_in, int done_out, int done_in):
        self.remote = True
        self.wake_in = wake_in
        self.done_out = done_out
        self.done_in = done_in

    def __dealloc__(self):
        batch_free(&self.batch)

    # The loop

    cdef void begin(self, Batch *batch) noexcept nogil:
        batch_clear(&self.batch, batch_end(batch))
        if batch.bytes.len == 0:
            # Segments alone, which the stream does not know.
            batch_clear(batch, batch_end(batch))
            return
        batch_swap(batch, &self.batch)
        self.busy = True
        self.taken = False
        send_byte(self.wake_in, WAKE)

    cdef SinkEvent finished(self) noexcept nogil:
        cdef char byte = 0
        if not self.busy:
            return SINK_NOTHING
        while read(self.done_out, &byte, 1) < 0 and errno == EINTR:
            pass
        if byte != SAFE:
            self.error_text = b"the stream takes no more from this node"
            return SINK_FAILED
        self.busy = False
        self.written_lsn = batch_end(&self.batch)
        self.safe_lsn = self.written_lsn
        batch_clear(&self.batch, self.written_lsn)
        return SINK_WROTE

    cdef void trim(self, uint64_t lsn) noexcept nogil:
        self.trim_lsn = lsn
        send_byte(self.wake_in, WAKE)

    # The other thread

    def take(self):
        """The batch that was begun, once.

        Returns:
            Its first LSN and its records as bytes; None if there is no new one.

        Raises:
            MemoryError: the batch can be taken later.
        """
        if not self.busy or self.taken:
            return None
        records = PyBytes_FromStringAndSize(self.batch.bytes.data, self.batch.bytes.len)
        self.taken = True
        return self.batch.first_lsn, records

    @property
    def is_busy(self):
        """Whether a batch was begun whose end was not reported to the loop yet."""
        return self.busy

    @property
    def trimmed(self):
        """The LSN below which no record is needed."""
        return self.trim_lsn

    def appended(self):
        """The batch is safe."""
        send_byte(self.done_in, SAFE)

    def end(self):
        """Nothing more becomes safe: the loop must not wait for it."""
        send_byte(self.done_in, ENDED)
