"""One client's connection, the lists that connections stand in, and what all connections of one loop share.

The way of a command: the loop reports that a socket is readable; `receive` takes bytes from it (into a buffer that all
connections share, or straight into the body of the job being put); `run` cuts lines and bodies, has the engine run the
commands and appends the replies to the outbox; `send` sends them. `service` calls these one after the other. One
receive and one send serve all commands that arrived together.

Limits of a client: one receive and STEPS_PER_ITERATION lines and bodies in each iteration; INPUT_LIMIT bytes received
but not run; about OUTPUT_LIMIT bytes (and one reply) not sent, above which none of its commands runs; a body of at most
the largest job. An idle connection costs no time, and well below 2 KiB.

Invariants, between two calls: a connection that could run a command is in ``runnable``, or its socket is watched; a
connection whose command has no reply yet (``blocked``) runs no other; a closed one is in no list of the engine.

Joining and leaving a list costs O(1) and cannot fail. A closed connection is freed at the end of the iteration, so that
the functions that it was passed to may still look at it.
"""

cimport cython
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, malloc

from fastbean.base.buffer cimport buffer_free
from fastbean.base.debug_counters cimport LIVE_CONNECTIONS, live_born, live_gone
from fastbean.engine.commands cimport connect
from fastbean.engine.state cimport State
from fastbean.net.outbox cimport outbox_free
from fastbean.net.poller cimport READ, poller_over
from fastbean.protocol.commands cimport MAX_LINE_BYTES


@cython.final
@cython.no_gc_clear
cdef class Connections:
    """What all connections of one loop share; the hub has one.

    Args:
        state: jobs, tubes and clients.
        poller: what watches the sockets, made by `new_selector`; None is fine as long as there is no socket.
    """

    def __cinit__(self, State state not None, poller=None):
        self.state = state
        self.notices = Notices()
        self.client_descriptors = INT64_MAX
        self.poller = None if poller is None else poller_over(poller)
        ring_begin(&self.open)
        ring_begin(&self.runnable)
        ring_begin(&self.answered)
        ring_begin(&self.gated)
        ring_begin(&self.unwatched)
        ring_begin(&self.ended)
        # A partial line is moved in front of what arrives next, so that a line is always in one piece.
        self.scratch = <char *>malloc(MAX_LINE_BYTES + SCRATCH_BYTES)
        if self.scratch is NULL:
            raise MemoryError("no memory for the receive buffer")

    def __dealloc__(self):
        if self.scratch is NULL:
            return
        free(self.scratch)
        while not ring_is_empty(&self.open):
            connection_free(self, self.open.next.connection)
        free_ended(self)


cdef Connection *connection_new(Connections shared, int fd) noexcept nogil:
    """Make an open connection, of a new client of the engine; returns NULL without memory."""
    cdef Connection *connection = <Connection *>calloc(1, sizeof(Connection))
    if connection is NULL:
        return NULL
    connection.client = connect(shared.state, connection)
    if connection.client is NULL:
        free(connection)
        return NULL
    live_born(LIVE_CONNECTIONS)
    connection.fd = fd
    connection.reading = READ
    connection.open.connection = connection
    connection.runnable.connection = connection
    connection.answered.connection = connection
    connection.gated.connection = connection
    connection.unwatched.connection = connection
    link_join(&shared.open, &connection.open)
    shared.count += 1
    return connection


cdef void connection_free_buffers(Connections shared, Connection *connection) noexcept nogil:
    """Free what was received and what was to be sent."""
    if connection.transport is not NULL:
        connection.transport.close(connection.transport)
        connection.transport = NULL
    memory_drop(&shared.state.memory, outbox_free(&connection.out))
    buffer_free(&connection.input)
    count_memory(shared, connection)


cdef void connection_free(Connections shared, Connection *connection) noexcept nogil:
    """Free a connection. Its client, unless it has disconnected, is freed with the engine."""
    connection_free_buffers(shared, connection)
    link_leave(&connection.open)
    live_gone(LIVE_CONNECTIONS)
    free(connection)


cdef void free_ended(Connections shared) noexcept nogil:
    """Free the connections that have been closed."""
    while not ring_is_empty(&shared.ended):
        connection_free(shared, shared.ended.next.connection)
