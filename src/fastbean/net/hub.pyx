"""The hub: all connections of one server, and the iterations of the event loop.

The loop calls `serve`. An iteration waits for sockets, reads the clock once, serves the ready ones, and ends with
`end_iteration`, which does what no socket announces. Everything that may be long is done in slices. An iteration that
only serves connections makes no Python object, and the next one follows at once; `end_iteration` waits for nothing but
the binlog's disk.

The hub calls its owner's functions between iterations, so that their exceptions are not lost: ``on_slow_iteration``
after an iteration that took ``slow_iteration_ns`` or longer, measured from the end of its wait to the next one;
``on_close`` after one in which a socket was closed; ``on_http_requests`` at most once a minute, with the number of
connections that were closed because they spoke HTTP.

With a binlog, replies that depend on it are sent after the commit at the end of the iteration, all others at once.
"""

import os

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.clock cimport NEVER, monotonic_ns
from fastbean.engine.commands cimport retry_held
from fastbean.engine.state cimport State
from fastbean.engine.long_commands cimport work_on
from fastbean.engine.timers cimport expire
from fastbean.net.connection cimport PHASE_LINE, Connection, Connections
from fastbean.net.outbox cimport outbox_unsent
from fastbean.net.poller cimport EDGE
from fastbean.net.socket_calls cimport socket_has_unread
from fastbean.base.stopwatch cimport PART_BINLOG, PART_SEND, PART_SERVE, PART_WORK, stopwatch_begin, stopwatch_mark

from fastbean.engine.command_table import WORDS as _WORDS
from fastbean.errors import BinlogFailedError

cdef extern from "<sys/socket.h>" nogil:
    int shutdown(int fd, int how)
    int AF_UNIX, SHUT_WR

# MAX_GATHERED_ITERATIONS: under -f 0, the iterations whose replies share one sync of the loop. An iteration that finds
# no ready socket ends the gathering, so the limit only matters while clients keep arriving: a reply waits for at most
# eight iterations before its sync begins. A judgement: each further one adds latency, and shares less.
#
# BINLOG_RETRY_NS: while commands have to wait for the binlog. A new segment and a finished sync wake the loop by
# themselves; this is for changes that do not, such as room that another program frees.
cdef enum:
    NS_IN_MS = 1000000
    LOOK_EVERY_NS = 1000000000      # how often clients that the poller does not watch are checked
    OUT_OF_MEMORY_RETRY_NS = 100000000
    MAX_GATHERED_ITERATIONS = 8
    HTTP_REPORT_EVERY_NS = 60000000000
    BINLOG_RETRY_NS = 10000000

_PHASES = ("serve", "work", "binlog", "send")


@cython.final
cdef class Hub:
    """All connections of one server. ``now_ns`` is the time of the current iteration.

    Args:
        state: jobs, tubes and clients.
        poller: what watches the sockets, made by `new_selector`; None is fine as long as no socket is adopted.
    """

    def __cinit__(self, State state not None, poller=None):
        self.state = state
        self.shared = Connections(state, poller)

    @property
    def slow_iteration_ns(self):
        """An iteration that takes at least this many nanoseconds is slow; 0, the default: none is.

        ``on_slow_iteration`` is called for it with keywords: ``ms`` of the iteration; ``phase`` that took longest, and
        ``phase_ms``; ``sockets``: the number that were ready; ``steps``: the number of lines and bodies taken;
        ``last``: the last command, or "none"; ``moved``: jobs moved, watches looked at, entries listed.
        """
        return self.watch.limit_ns

    @slow_iteration_ns.setter
    def slow_iteration_ns(self, int64_t limit_ns):
        self.watch.limit_ns = limit_ns

    @property
    def connections(self):
        """The number of open connections."""
        return len(self.shared.open)

    @property
    def unsent(self):
        """The number of connections with replies that are not sent yet."""
        return sum(1 for connection in self.shared.open if outbox_unsent(&(<Connection>connection).out))

    def is_full(self):
        """Whether no other client may connect; each True counts in `stats` as a refused client."""
        cdef uint32_t limit = self.state.max_connections
        if limit == 0 or <uint64_t>len(self.shared.open) < limit:
            return False
        self.state.hits.connections += 1
        return True

    def adopt(self, sock, str peer, int64_t now_ns):
        """Take over an accepted socket and serve it.

        Args:
            sock: the socket; it is detached, and closed when the client goes.
            peer: the client's address, for log lines.
            now_ns: the monotonic time in nanoseconds.

        Returns:
            The new Connection.

        Raises:
            OSError: the poller cannot watch the socket. The socket is closed.
            MemoryError: no memory. The socket is closed.
        """
        cdef Connection connection
        try:
            connection = self.open_connection(sock.fileno())
        except MemoryError:
            sock.close()
            raise
        if self.shared.compiled is not None and sock.family != AF_UNIX:
            # A receive from a unix socket ends after each passed descriptor, and nothing reports that.
            connection.reading |= EDGE
        sock.detach()
        try:
            self.shared.poller.add(connection.fd, connection.reading, connection)
        except BaseException:
            connection.drop(now_ns)
            raise
        connection.interest = connection.reading
        if self.shared.verbosity >= 1:
            self.shared.emit("accept", connection.fd, peer.encode())
        return connection

    def connect(self):
        """Make a client in memory, without a socket: fed by `Connection.feed`, read by `Connection.take_output`."""
        return self.open_connection(-1)

    cdef Connection open_connection(self, int fd):
        cdef Connection connection = Connection.__new__(Connection, self.shared, fd)
        self.shared.open.add(connection)
        return connection

    def serve(self, int64_t until_ns, bint once=False):
        """Run iterations until the loop has something to do: a callback ran, or the time has come.

        An iteration waits, at most until `end_iteration` wants to be called again, and serves what the poller found.
        Data of the poller that is not a Connection is a function, to be called with the mask.

        Args:
            until_ns: when to return at the latest, in monotonic nanoseconds.
            once: return after one iteration.

        Raises:
            BinlogFailedError: see `end_iteration`.
            Exception: whatever a callback or a signal handler raises.
        """
        cdef bint called = once
        while True:
            called = self.iterate(until_ns) or called
            if called or self.now_ns >= until_ns:
                return

    cdef bint iterate(self, int64_t until_ns) except -1:
        """Run one iteration; returns whether a callback ran."""
        cdef int64_t wait_ns = max(until_ns - self.now_ns, 0)
        cdef bint called
        if self.wait_ns >= 0:
            wait_ns = min(wait_ns, self.wait_ns)
        # Reset by `end_iteration`: after an error in this iteration the next one must not wait.
        self.wait_ns = 0
        called = self.handle(wait_ns) if self.shared.compiled is None else self.handle_polled(wait_ns)
        self.shared.deliver_answers()
        if self.shared.runnable or self.state.has_binlog:
            stopwatch_mark(&self.watch, self.phase)
            self.phase = PART_WORK
        self.wait_ns = self.end_iteration(self.now_ns)
        if stopwatch_mark(&self.watch, self.phase):
            self.report_slow_iteration()
        if self.shared.has_closed:
            if self.on_close is not None:
                self.on_close()
                called = True
            self.shared.has_closed = False
        if self.shared.http_requests:
            self.report_http_requests()
        return called

    cdef int report_slow_iteration(self) except -1:
        if self.on_slow_iteration is not None:
            self.on_slow_iteration(
                ms=(self.watch.marked_ns - self.watch.begun_ns) // NS_IN_MS, phase=_PHASES[<int>self.watch.longest],
                phase_ms=self.watch.longest_ns // NS_IN_MS, sockets=self.ready, steps=self.shared.steps,
                last=_WORDS.get(self.shared.last_command, "none"),
                moved=self.state.effort - self.before_moves - self.shared.steps,
            )
        return 0

    cdef int report_http_requests(self) except -1:
        cdef uint64_t requests = self.shared.http_requests
        if self.now_ns >= self.http_report_ns:
            self.http_report_ns = self.now_ns + HTTP_REPORT_EVERY_NS
            self.shared.http_requests = 0
            if self.on_http_requests is not None:
                self.on_http_requests(requests)
        return 0

    cdef bint handle_polled(self, int64_t wait_ns) except -1:
        """Wait and serve what is ready; returns whether a callback ran."""
        cdef int count = self.shared.compiled.poll(wait_ns)
        cdef int place = 0
        cdef int mask, fd
        cdef bint called = False
        self.begin(count, self.shared.compiled.now_ns)
        try:
            while place < count:
                mask = self.shared.compiled.mask_of(place, &fd)
                place += 1
                if mask:
                    called = self.serve_one(self.shared.compiled.datas[fd], mask) or called
        except BaseException:
            self.shared.compiled.tell_rest_again(place)
            raise
        return called

    cdef bint handle(self, int64_t wait_ns) except -1:
        """The same with the standard library's selector."""
        cdef list ready = self.shared.poller.wait(wait_ns)
        cdef bint called = False
        self.begin(len(ready), monotonic_ns())
        for fd, mask in ready:
            data = self.shared.poller.data_of(fd)
            # Serving an earlier descriptor may have removed this one.
            if data is not None:
                called = self.serve_one(data, mask) or called
        return called

    cdef void begin(self, uint32_t ready, int64_t now_ns) noexcept:
        """Called after the wait: timers that are due come before commands, even if the process was delayed."""
        self.ready = ready
        self.polled = True
        self.now_ns = now_ns
        self.shared.steps = 0
        self.before_moves = self.state.effort
        # An iteration without ready sockets consists of timers and postponed work.
        self.phase = PART_SERVE if ready else PART_WORK
        stopwatch_begin(&self.watch, now_ns)
        self.state.begin_iteration(now_ns)
        if self.state.timer_is_due(now_ns):
            expire(self.state, now_ns)

    cdef bint serve_one(self, object data, int mask) except -1:
        """Serve a ready descriptor; returns whether a callback ran."""
        if type(data) is Connection:
            (<Connection>data).on_ready(mask, self.now_ns)
            return False
        data(mask)
        return True

    cpdef int64_t end_iteration(self, int64_t now_ns) except? -2:
        """Do what no socket announces: postponed commands, timers, long commands, replies to other clients.

        Args:
            now_ns: the monotonic time in nanoseconds.

        Returns:
            Nanoseconds until the next call is due: 0 at once, -1 when only a socket can bring something new.

        Raises:
            BinlogFailedError: the binlog could not be written or synced. Nothing is sent any more.
        """
        cdef list connections = self.shared.runnable
        cdef Connection connection
        cdef Py_ssize_t resumed = 0
        cdef bint more = False, copies = False
        if self.shared.unwatched and now_ns - self.looked_ns >= LOOK_EVERY_NS:
            self.look_at_unwatched(now_ns)
        self.state.begin_iteration(now_ns)
        if connections:
            self.shared.runnable = []
            for connection in connections:
                if self.state.effort >= self.state.effort_limit and resumed:
                    break
                resumed += 1
                connection.is_runnable = False
                connection.resume(now_ns)
            if resumed < len(connections):
                # They come first in the next iteration.
                del connections[:resumed]
                connections += self.shared.runnable
                self.shared.runnable = connections
        if self.state.timer_is_due(now_ns):
            more = expire(self.state, now_ns)
        if self.state.has_long_commands():
            more = work_on(self.state, now_ns) or more
        if self.state.held.first is not NULL:
            more = retry_held(self.state, now_ns) or more
        if self.state.has_binlog:
            copies = self.state.journal.compactor.step()
        self.shared.deliver_answers()
        if self.state.has_binlog:
            stopwatch_mark(&self.watch, self.phase)
            self.commit(now_ns)
            stopwatch_mark(&self.watch, PART_BINLOG)
            self.phase = PART_SEND
        if self.state.journal.has_requests:
            self.state.journal.make_requests()
        if self.state.journal.failed:
            raise BinlogFailedError(f"{self.state.journal.failure}; the server ends and sends no more replies")
        connections = self.shared.answered
        if connections:
            self.shared.answered = []
            self.send(connections, now_ns)
        if self.gathering:
            return 0
        if self.state.short_of_memory:
            return OUT_OF_MEMORY_RETRY_NS
        if self.state.journal.tight and not copies:
            # What makes room, or syncs, wakes the loop; until then no command can continue.
            return BINLOG_RETRY_NS
        if more or copies or self.shared.runnable or self.shared.answered or self.state.answered.first is not NULL:
            return 0
        return self.next_ns(now_ns)

    # `alone`: apart from clients that wait for this sync, no client is ready to be served. Waking the sync thread
    # then gains nothing: the loop has nothing else to do, and syncs itself. For a single client, this means that one
    # reply waits, one socket was ready, and nothing else can run.
    #
    # A group whose syncs are short is gathered: the replies of several iterations wait for one sync. When an iteration
    # finds no ready socket, all clients that are active wait for this sync, so the group is alone.
    # Only iterations that polled count (`polled`), since others cannot know whether a client is arriving.
    cdef void commit(self, int64_t now_ns) noexcept:
        """Write the records gathered in this iteration, and send the replies that waited for them."""
        cdef list connections
        cdef bint alone = len(self.shared.gated) == 1 and self.ready == 1 and not self.shared.runnable
        cdef uint64_t before_lsn = self.committed_lsn
        self.gathering = False
        if (
            self.polled and self.shared.gated and not alone and not self.shared.runnable
            and self.state.journal.syncs_shortly()
        ):
            # Delay this sync for a few iterations so that clients arriving meanwhile share it. If an iteration finds no
            # ready socket, sync at once: that delays no client.
            self.gathering = self.ready > 0 and self.gathered_iterations < MAX_GATHERED_ITERATIONS
            alone = self.ready == 0
        self.polled = False
        self.gathered_iterations = self.gathered_iterations + 1 if self.gathering else 0
        if self.gathering:
            return
        self.state.journal.commit(now_ns, alone)
        self.committed_lsn = self.state.journal.committed_lsn
        if self.shared.gated and self.committed_lsn != before_lsn and not self.state.journal.failed:
            connections = self.shared.gated
            self.shared.gated = []
            self.send(connections, now_ns)

    # The flags say that a connection is in `answered` or `gated`. The caller has emptied that list, so they are reset
    # before `flush`, which may put the connection into `gated` again. A connection may have closed since it was listed.
    # The interest comes last, because it depends on what the flush left.
    cdef void send(self, list connections, int64_t now_ns) noexcept:
        cdef Connection connection
        for connection in connections:
            connection.is_answered = False
            connection.is_gated = False
            if not connection.closed:
                connection.flush(now_ns)
                connection.update_interest(now_ns)

    cdef int64_t next_ns(self, int64_t now_ns) noexcept:
        """Nanoseconds until the next timer is due, or -1."""
        cdef int64_t due_ns = self.state.next_timer_ns()
        cdef int64_t binlog_ns = self.state.journal.due_ns() if self.state.has_binlog else NEVER
        cdef int64_t release_ns = self.state.memory.release_at_ns
        if due_ns == NEVER or (binlog_ns != NEVER and binlog_ns < due_ns):
            due_ns = binlog_ns
        if due_ns == NEVER or (release_ns != NEVER and release_ns < due_ns):
            due_ns = release_ns
        if self.shared.unwatched and (due_ns == NEVER or due_ns > self.looked_ns + LOOK_EVERY_NS):
            due_ns = self.looked_ns + LOOK_EVERY_NS
        return -1 if due_ns == NEVER else max(due_ns - now_ns, 0)

    def full_sockets(self):
        """The sockets with replies that are not sent yet because the client does not read.

        Returns:
            A list of (descriptor, bytes). Other replies that are unsent wait for the binlog, or for the next iteration.
        """
        cdef Connection connection
        return [
            (connection.fd, outbox_unsent(&connection.out))
            for connection in self.shared.open
            if connection.socket_full and outbox_unsent(&connection.out)
        ]

    def stop_running(self, int64_t now_ns):
        """Run no further command: send the replies that are ready, and receive nothing more.

        Args:
            now_ns: the monotonic time in nanoseconds.
        """
        self.shared.stopping = True
        for connection in list(self.shared.open):
            (<Connection>connection).reading = 0
            (<Connection>connection).update_interest(now_ns)

    def close_all(self, int64_t now_ns):
        """Close every connection at once.

        Args:
            now_ns: the monotonic time in nanoseconds.

        Returns:
            Descriptors of the sockets whose clients may still be sending. Nothing more is sent to them; while they are
            open, data that arrives does not make the kernel reset them, which could lose replies on their way.
        """
        cdef list sending = []
        for connection in list(self.shared.open):
            fd = self.stop_sending(connection)
            if fd >= 0:
                sending.append(fd)
            (<Connection>connection).drop(now_ns)
        return sending

    cdef int stop_sending(self, Connection connection) noexcept:
        """Half-close a socket whose client may still be sending. Returns another descriptor of it, or -1.

        A client with unsent replies has been given up: it will get only part of them in any case.
        """
        if connection.fd < 0 or outbox_unsent(&connection.out) or not (
            connection.input.len or connection.phase != PHASE_LINE or socket_has_unread(connection.fd)
        ):
            return -1
        shutdown(connection.fd, SHUT_WR)
        try:
            fd = os.dup(connection.fd)
        except OSError:
            return -1
        # What it still sends is read through the other descriptor.
        connection.eof = True
        return fd

    cdef void look_at_unwatched(self, int64_t now_ns) noexcept:
        """The poller does not watch clients whose input is full: check whether they are still connected."""
        cdef Connection connection
        self.looked_ns = now_ns
        for connection in list(self.shared.unwatched):
            connection.look_for_hang_up(now_ns)
