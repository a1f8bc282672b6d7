"""A client in memory, for tests and benches: bytes are fed to its connection instead of received, and taken from it
instead of sent."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from fastbean.net.connection cimport Connections, connection_free, connection_new, count_memory
from fastbean.net.outbox cimport PIECES, outbox_gather, outbox_sent, outbox_unsent
from fastbean.net.receive cimport space
from fastbean.net.run cimport arrived, deliver_answers, end_hopeless_wait
from fastbean.net.send cimport resume_if_drained
from fastbean.net.service cimport drop, settle
from fastbean.net.socket_calls cimport iovec


@cython.final
@cython.no_gc_clear
cdef class MemoryConnection:
    """One client without a socket, made by `Hub.connect`. If nothing refers to it, the client stays connected.

    Args:
        shared: what all connections of the hub share.

    Raises:
        MemoryError: no memory.
    """

    def __cinit__(self, Connections shared not None):
        self.shared = shared
        self.connection = connection_new(shared, -1)
        if self.connection is NULL:
            raise MemoryError("no memory for another connection")
        self.connection.has_handle = True

    def __dealloc__(self):
        if self.connection is NULL:
            return
        self.connection.has_handle = False
        if self.connection.closed:
            connection_free(self.shared, self.connection)

    @property
    def closed(self):
        """Whether the connection has ended."""
        return bool(self.connection.closed)

    @property
    def fd(self):
        """The descriptor in log lines: -1."""
        return self.connection.fd

    def feed(self, bytes data not None, int64_t now_ns):
        """The client sends `data`. `now_ns`: the monotonic time in nanoseconds.

        Raises:
            BufferError: the client's command has no reply yet, and more than 65536 bytes wait after it.
        """
        cdef iovec[2] where
        cdef size_t offset = 0, size, piece
        cdef int count, part
        while offset < <size_t>len(data) and not self.connection.closed:
            count = space(self.shared, self.connection, where)
            if count == 0 and not self.connection.input.failed:
                raise BufferError("the client has sent too much after a command that is not answered yet")
            size = 0
            for part in range(count):
                piece = min(where[part].iov_len, <size_t>len(data) - offset)
                memcpy(where[part].iov_base, PyBytes_AS_STRING(data) + offset, piece)
                offset += piece
                size += piece
            arrived(self.shared, self.connection, size, now_ns)
            settle(self.shared, self.connection, now_ns)
        deliver_answers(self.shared)

    def feed_eof(self, int64_t now_ns):
        """The client has closed its sending half. `now_ns`: the monotonic time in nanoseconds."""
        if self.connection.closed:
            return
        self.connection.eof = True
        end_hopeless_wait(self.shared, self.connection)
        settle(self.shared, self.connection, now_ns)
        deliver_answers(self.shared)

    def take_output(self):
        """The replies since the last call, as bytes."""
        cdef iovec[PIECES] pieces
        cdef bytes output = b""
        while outbox_unsent(&self.connection.out):
            if outbox_gather(&self.connection.out, pieces, self.shared.state.journal.committed_lsn) == 0:
                break
            output += PyBytes_FromStringAndSize(<char *>pieces[0].iov_base, pieces[0].iov_len)
            outbox_sent(&self.connection.out, pieces[0].iov_len)
            if not self.connection.closed:
                resume_if_drained(self.shared, self.connection)
        count_memory(self.shared, self.connection)
        return output

    def close(self, int64_t now_ns):
        """The client is gone: release what it had reserved. `now_ns`: the monotonic time in nanoseconds."""
        drop(self.shared, self.connection, now_ns)
        deliver_answers(self.shared)
