"""The hub: all connections of one server, and the iterations of the event loop.

The loop calls `serve`. An iteration waits for sockets, reads the clock once, serves the ready ones, and ends with
`end_iteration`, which does what no socket announces. Everything that may be long is done in slices. An iteration that
only serves connections makes no Python object and does not take the interpreter's lock (the GIL), so other threads of
the process can compute meanwhile. The next one follows at once; it waits for nothing but the binlog's disk.

An iteration takes the GIL at most four times: after a signal; for the callbacks of other descriptors that are ready,
after the connections were served; for log lines of commands, before their replies are sent; and at its end, if Python
must hear something. `report` then calls the owner's functions: ``on_slow_iteration`` after an iteration that took
``slow_iteration_ns`` or longer, measured from the end of its wait to the next one; ``on_close`` after one in which a
socket was closed; ``on_http_requests`` at most once a minute, with the number of connections that were closed because
they spoke HTTP; ``on_dropped_notices`` with the number of log lines that were lost. What one of them raises comes out
of `serve`, and what was not reported then is reported at the end of the next iteration.

With a binlog, replies that depend on it are sent after the commit at the end of the iteration, all others at once.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.clock cimport NEVER
from fastbean.base.debug_counters cimport gil_taken
from fastbean.base.notices cimport NOTICE_ACCEPT, NOTICE_CLOSE, NOTICE_COMMAND, NOTICE_REPLY
from fastbean.base.stopwatch cimport PART_BINLOG, PART_SEND, PART_SERVE, PART_WORK, stopwatch_begin, stopwatch_mark
from fastbean.engine.commands cimport retry_held
from fastbean.engine.long_commands cimport work_on
from fastbean.engine.state cimport State
from fastbean.engine.timers cimport expire
from fastbean.net.accept cimport accept_some, is_full
from fastbean.net.connection cimport (
    PHASE_LINE, Connection, Connections, Link, free_ended, link_leave, ring_begin, ring_is_empty, ring_is_single,
    ring_move, unsent_bytes,
)
from fastbean.net.memory_connection cimport MemoryConnection
from fastbean.net.poller cimport READ, WATCHED_CALLBACK, WATCHED_CONNECTION, WATCHED_LISTENER, Watch, raise_error
from fastbean.net.run cimport deliver_answers
from fastbean.net.service cimport (
    begin_serving, connect_socket, drop, look_at_unwatched, resume, send_all, serve_ready, settle,
)
from fastbean.net.socket_calls cimport socket_has_unread
from fastbean.net.transport cimport transport_pending, transport_unsent

from fastbean.engine.command_table import WORDS as _WORDS
from fastbean.errors import BinlogFailedError

cdef extern from "<sys/socket.h>" nogil:
    int shutdown(int fd, int how)
    int AF_UNIX, SHUT_WR

cdef extern from "<fcntl.h>" nogil:
    int fcntl(int fd, int command, ...)
    int F_DUPFD_CLOEXEC

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

_EVENTS = {
    <int>NOTICE_ACCEPT: "accept", <int>NOTICE_CLOSE: "close", <int>NOTICE_COMMAND: "command",
    <int>NOTICE_REPLY: "reply",
}
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
        return self.shared.count

    @property
    def unsent(self):
        """The number of connections with replies that are not sent yet."""
        cdef uint64_t found = 0
        cdef Link *link = self.shared.open.next
        while link != &self.shared.open:
            found += unsent_bytes(link.connection) > 0
            link = link.next
        return found

    def is_full(self):
        """Whether no other client may connect; each True counts in `stats` as a refused client."""
        return bool(is_full(self.shared))

    def listen(self, int fd):
        """Accept clients from a listening, non-blocking socket.

        After an error none is accepted any more, from any socket, and ``on_accept_error`` is called with the system's
        number of the error; see `accept_again`. ``on_refused`` is called after clients beyond the limit were refused.

        Args:
            fd: the descriptor; it stays the caller's.

        Raises:
            OSError: the kernel cannot watch it.
            MemoryError: no memory.
        """
        raise_error(self.shared.poller.watch(fd, READ, WATCHED_LISTENER, NULL))

    def stop_listening(self, int fd):
        """Accept no further client from this socket. Does nothing if none is accepted from it."""
        self.shared.poller.forget(fd)

    def accept_again(self, int64_t client_descriptors):
        """Accept clients again after an error.

        Args:
            client_descriptors: when a client gets the descriptor before this one, that is the next error: EMFILE.
        """
        self.shared.client_descriptors = client_descriptors
        self.shared.accept_error = self.reported_error = 0

    def adopt(self, sock, str peer, int64_t now_ns):
        """Take over an accepted socket and serve it.

        Args:
            sock: the non-blocking socket; it is detached, and closed when the client goes.
            peer: the client's address, for log lines.
            now_ns: the monotonic time in nanoseconds.

        Raises:
            OSError: the poller cannot watch the socket. The socket is closed.
            MemoryError: no memory. The socket is closed.
        """
        cdef int fd
        cdef Connection *connection
        cdef bytes text = peer.encode()
        cdef bint is_unix = sock.family == AF_UNIX
        fd = sock.detach()
        if self.shared.verbosity >= 1:
            self.shared.notices.note_text(NOTICE_ACCEPT, fd, text, len(text))
        connection = connect_socket(self.shared, fd, is_unix, NULL)
        if connection is NULL:
            raise MemoryError("no memory for another connection")
        raise_error(begin_serving(self.shared, connection, now_ns))

    def connect(self):
        """Make a client in memory, without a socket.

        Returns:
            A MemoryConnection.

        Raises:
            MemoryError: no memory.
        """
        return MemoryConnection(self.shared)

    def serve(self, int64_t until_ns, bint once=False):
        """Run iterations until the loop has something to do: a callback ran, or the time has come.

        An iteration waits, at most until `end_iteration` wants to be called again, and serves what the poller found.
        The data of a descriptor that is not a connection's is a function, which is called with the mask.

        Args:
            until_ns: when to return at the latest, in monotonic nanoseconds.
            once: return after one iteration.

        Raises:
            BinlogFailedError: see `end_iteration`.
            Exception: whatever a callback or a signal handler raises.
        """
        cdef bint called = once
        PyErr_CheckSignals()
        with nogil:
            while True:
                called = self.iterate(until_ns) or called
                if called or self.now_ns >= until_ns:
                    break
        gil_taken()

    cdef bint iterate(self, int64_t until_ns) except -1 nogil:
        """Run one iteration; returns whether a callback ran."""
        cdef int64_t wait_ns = max(until_ns - self.now_ns, 0)
        cdef bint called = False
        if self.wait_ns >= 0:
            wait_ns = min(wait_ns, self.wait_ns)
        # Set again at the end: after an error in this iteration the next one must not wait.
        self.wait_ns = 0
        self.shared.poller.poll(wait_ns)
        if self.shared.poller.interrupted:
            self.handle_signals()
        self.begin(self.shared.poller.found, self.shared.poller.now_ns)
        if self.serve_found():
            called = self.call_back()
        deliver_answers(self.shared)
        if not ring_is_empty(&self.shared.runnable) or self.state.has_binlog:
            stopwatch_mark(&self.watch, self.phase)
            self.phase = PART_WORK
        wait_ns = self.finish(self.now_ns)
        self.is_slow = stopwatch_mark(&self.watch, self.phase)
        if self.on_close is None:
            self.shared.has_closed = False
        if self.has_news():
            called = self.report() or called
        self.wait_ns = wait_ns
        return called

    cdef int handle_signals(self) except -1 with gil:
        gil_taken()
        PyErr_CheckSignals()
        return 0

    cdef void begin(self, uint32_t ready, int64_t now_ns) noexcept nogil:
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

    cdef bint serve_found(self) noexcept nogil:
        """Serve the connections that the poller found. Returns whether a descriptor with a callback is ready."""
        cdef int place, mask, fd
        cdef Watch *watched
        cdef bint has_callback = False
        for place in range(self.shared.poller.found):
            mask = self.shared.poller.mask_of(place, &fd)
            if mask == 0:
                continue
            watched = &self.shared.poller.watches[fd]
            if watched.kind == WATCHED_CONNECTION:
                serve_ready(self.shared, <Connection *>watched.connection, mask, self.now_ns)
            elif watched.kind == WATCHED_LISTENER:
                accept_some(self.shared, fd, self.now_ns)
            elif fd == self.state.journal.done_fd:
                self.state.journal.take_event()
            else:
                has_callback = True
        return has_callback

    cdef bint call_back(self) except -1 with gil:
        """Call the functions of the descriptors that are ready; returns whether there were any.

        After an exception the others are found again by the next poll: no callback's descriptor is watched with EDGE.
        """
        cdef int place, mask, fd
        cdef bint called = False
        gil_taken()
        PyErr_CheckSignals()
        for place in range(self.shared.poller.found):
            mask = self.shared.poller.mask_of(place, &fd)
            if mask and self.shared.poller.watches[fd].kind == WATCHED_CALLBACK:
                callback = self.shared.poller.data_at(fd)
                # A function that was called before may have ended its registration.
                if callback is not None:
                    callback(mask)
                    called = True
        return called

    cdef bint has_news(self) noexcept nogil:
        """Whether `report` has something to report."""
        return (
            self.is_slow or self.shared.has_closed or self.shared.notices.dropped or self.shared.refused
            or self.state.journal.has_requests or self.shared.accept_error != self.reported_error
            or not self.shared.notices.is_empty() or self.are_http_requests_due()
        )

    cdef bint are_http_requests_due(self) noexcept nogil:
        return self.shared.http_requests and self.now_ns >= self.http_report_ns

    cdef bint report(self) except -1 with gil:
        """Call the owner's functions; returns whether one was called that may have set a timer.

        The order is that of importance: an error ends the report, and the rest waits for the next iteration.
        """
        cdef bint called = False
        gil_taken()
        self.tell_requests()
        called = self.report_acceptance()
        self.tell_notices()
        # What takes long until here delays clients, too, and may be what makes the iteration slow.
        self.is_slow = stopwatch_mark(&self.watch, PART_SERVE) or self.is_slow
        if self.shared.has_closed and self.on_close is not None:
            self.on_close()
            called = True
        self.shared.has_closed = False
        if self.is_slow:
            self.report_slow_iteration()
            self.is_slow = False
        if self.are_http_requests_due():
            self.report_http_requests()
        return called

    cdef bint report_acceptance(self) except -1:
        """Report that clients were refused, or that none is accepted any more; returns whether a timer may be set."""
        cdef uint64_t refused = self.shared.refused
        if refused:
            if self.on_refused is not None:
                self.on_refused()
            self.shared.refused -= refused
        if self.shared.accept_error == self.reported_error:
            return False
        error = self.shared.accept_error
        if self.on_accept_error is not None:
            self.on_accept_error(error)
        if self.shared.accept_error:
            self.reported_error = error
        return True

    cdef int tell_requests(self) except -1:
        """Have the journal's owner do what the journal has asked for."""
        if self.state.journal.has_requests:
            self.state.journal.make_requests()
        return 0

    cdef int tell_notices(self) except -1:
        """Pass the log lines on. What the interpreter has no memory for is lost, and counted."""
        cdef uint64_t dropped = 0
        cdef list found = []
        try:
            found, dropped = self.shared.notices.take()
            found.reverse()
            while found:
                if self.shared.on_event is not None:
                    kind, numbers, text = found[len(found) - 1]
                    self.shared.on_event(_EVENTS[kind], numbers[0], text.decode("latin-1"))
                found.pop()
            if dropped and self.on_dropped_notices is not None:
                self.on_dropped_notices(dropped)
        except MemoryError:
            self.shared.notices.dropped += dropped + len(found)
        return 0

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
        self.http_report_ns = self.now_ns + HTTP_REPORT_EVERY_NS
        self.shared.http_requests = 0
        if self.on_http_requests is not None:
            self.on_http_requests(requests)
        return 0

    def end_iteration(self, int64_t now_ns):
        """Do what no socket announces: postponed commands, timers, long commands, replies to other clients.

        Args:
            now_ns: the monotonic time in nanoseconds.

        Returns:
            Nanoseconds until the next call is due: 0 at once, -1 when only a socket can bring something new.

        Raises:
            BinlogFailedError: the binlog could not be written or synced. Nothing is sent any more.
        """
        cdef int64_t wait_ns = self.finish(now_ns)
        self.tell_requests()
        self.tell_notices()
        return wait_ns

    cdef int64_t finish(self, int64_t now_ns) except -2 nogil:
        """What `end_iteration` does, without reporting anything."""
        cdef bint more = False, copies = False
        if not ring_is_empty(&self.shared.unwatched) and now_ns - self.looked_ns >= LOOK_EVERY_NS:
            self.looked_ns = now_ns
            look_at_unwatched(self.shared, now_ns)
        self.state.begin_iteration(now_ns)
        if not ring_is_empty(&self.shared.runnable):
            self.resume_postponed(now_ns)
        if self.state.timer_is_due(now_ns):
            more = expire(self.state, now_ns)
        if self.state.has_long_commands():
            more = work_on(self.state, now_ns) or more
        if self.state.held.first is not NULL:
            more = retry_held(self.state, now_ns) or more
        if self.state.has_binlog:
            copies = self.state.journal.compactor.step()
        deliver_answers(self.shared)
        if not self.shared.notices.is_empty():
            self.tell_notices_first()
        if self.state.has_binlog:
            stopwatch_mark(&self.watch, self.phase)
            self.commit(now_ns)
            stopwatch_mark(&self.watch, PART_BINLOG)
            self.phase = PART_SEND
        if self.state.journal.failed:
            self.raise_failure()
        if not ring_is_empty(&self.shared.answered):
            send_all(self.shared, &self.shared.answered, now_ns)
        if not ring_is_empty(&self.shared.ended):
            free_ended(self.shared)
        return self.wait_after(now_ns, more, copies)

    cdef int tell_notices_first(self) except -1 with gil:
        """Have the lines of commands and replies logged before the replies are sent."""
        gil_taken()
        return self.tell_notices()

    cdef void resume_postponed(self, int64_t now_ns) noexcept nogil:
        """Resume the runnable connections, one at least. What the effort does not allow comes first next time."""
        cdef Link connections
        cdef Link *first
        cdef bint resumed = False
        ring_begin(&connections)
        ring_move(&self.shared.runnable, &connections)
        while not ring_is_empty(&connections) and not (resumed and self.state.effort >= self.state.effort_limit):
            first = connections.next
            link_leave(first)
            resume(self.shared, first.connection, now_ns)
            resumed = True
        ring_move(&connections, &self.shared.runnable)

    cdef int raise_failure(self) except -1 with gil:
        raise BinlogFailedError(f"{self.state.journal.failure}; the server ends and sends no more replies")

    cdef int64_t wait_after(self, int64_t now_ns, bint more, bint copies) noexcept nogil:
        """How long the next iteration may wait, or -1; `more` and `copies`: work is left, compaction continues."""
        if self.gathering:
            return 0
        if self.state.short_of_memory:
            return OUT_OF_MEMORY_RETRY_NS
        if self.state.journal.tight and not copies:
            # What makes room, or syncs, wakes the loop; until then no command can continue.
            return BINLOG_RETRY_NS
        if (
            more or copies or not ring_is_empty(&self.shared.runnable) or not ring_is_empty(&self.shared.answered)
            or self.state.answered.first is not NULL
        ):
            return 0
        return self.next_ns(now_ns)

    # `alone`: apart from clients that wait for this sync, no client is ready to be served. Waking the sync thread
    # then gains nothing: the loop has nothing else to do, and syncs itself. For a single client, this means that one
    # reply waits, one socket was ready, and nothing else can run.
    #
    # A group whose syncs are short is gathered: the replies of several iterations wait for one sync. When an iteration
    # finds no ready socket, all clients that are active wait for this sync, so the group is alone.
    # Only iterations that polled count (`polled`), since others cannot know whether a client is arriving.
    cdef void commit(self, int64_t now_ns) noexcept nogil:
        """Write the records gathered in this iteration, and send the replies that waited for them."""
        cdef bint is_idle = ring_is_empty(&self.shared.runnable)
        cdef bint alone = ring_is_single(&self.shared.gated) and self.ready == 1 and is_idle
        cdef uint64_t before_lsn = self.shared.committed_lsn
        self.gathering = False
        if (
            self.polled and not ring_is_empty(&self.shared.gated) and not alone and is_idle
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
        self.shared.committed_lsn = self.state.journal.committed_lsn
        if self.shared.committed_lsn != before_lsn and not self.state.journal.failed:
            send_all(self.shared, &self.shared.gated, now_ns)

    cdef int64_t next_ns(self, int64_t now_ns) noexcept nogil:
        """Nanoseconds until the next timer is due, or -1."""
        cdef int64_t due_ns = self.state.next_timer_ns()
        cdef int64_t binlog_ns = self.state.journal.due_ns() if self.state.has_binlog else NEVER
        cdef int64_t release_ns = self.state.memory.release_at_ns
        if due_ns == NEVER or (binlog_ns != NEVER and binlog_ns < due_ns):
            due_ns = binlog_ns
        if due_ns == NEVER or (release_ns != NEVER and release_ns < due_ns):
            due_ns = release_ns
        if not ring_is_empty(&self.shared.unwatched) and (due_ns == NEVER or due_ns > self.looked_ns + LOOK_EVERY_NS):
            due_ns = self.looked_ns + LOOK_EVERY_NS
        return -1 if due_ns == NEVER else max(due_ns - now_ns, 0)

    def full_sockets(self):
        """The sockets with replies that are not sent yet because the client does not read.

        Returns:
            A list of (descriptor, bytes). Other replies that are unsent wait for the binlog, or for the next iteration.
        """
        cdef list found = []
        cdef Link *link = self.shared.open.next
        while link != &self.shared.open:
            if unsent_bytes(link.connection) and (
                link.connection.socket_full or transport_unsent(link.connection.transport)
            ):
                found.append((link.connection.fd, unsent_bytes(link.connection)))
            link = link.next
        return found

    def stop_running(self, int64_t now_ns):
        """Run no further command: send the replies that are ready, and receive nothing more.

        Args:
            now_ns: the monotonic time in nanoseconds.
        """
        cdef Link *link = self.shared.open.next
        cdef Connection *connection
        self.shared.stopping = True
        while link != &self.shared.open:
            connection = link.connection
            link = link.next
            connection.reading = 0
            settle(self.shared, connection, now_ns)

    def close_all(self, int64_t now_ns):
        """Close every connection at once.

        Args:
            now_ns: the monotonic time in nanoseconds.

        Returns:
            Descriptors of the sockets whose clients may still be sending. Nothing more is sent to them; while they are
            open, data that arrives does not make the kernel reset them, which could lose replies on their way.
        """
        cdef list sending = []
        cdef Connection *connection
        cdef int fd
        while not ring_is_empty(&self.shared.open):
            connection = self.shared.open.next.connection
            fd = stop_sending(self.shared, connection)
            if fd >= 0:
                sending.append(fd)
            drop(self.shared, connection, now_ns)
        free_ended(self.shared)
        self.tell_notices()
        return sending


cdef int stop_sending(Connections shared, Connection *connection) noexcept nogil:
    """Half-close a socket whose client may still be sending. Returns another descriptor of it, or -1.

    A client with unsent replies has been given up: it will get only part of them in any case.
    """
    cdef int fd
    if connection.fd < 0 or unsent_bytes(connection) or not (
        connection.input.len or connection.phase != PHASE_LINE or transport_pending(connection.transport)
        or socket_has_unread(connection.fd)
    ):
        return -1
    shutdown(connection.fd, SHUT_WR)
    fd = fcntl(connection.fd, F_DUPFD_CLOEXEC, 0)
    if fd >= 0:
        # What it still sends is read through the other descriptor, which keeps epoll watching the socket.
        connection.eof = True
        shared.poller.forget(connection.fd)
        connection.interest = 0
    return fd
