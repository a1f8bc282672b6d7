"""Many clients of any beanstalk server, in one thread, over epoll: the base of all kinds of load.

This base connects the clients, serves them, cuts what they receive into lines and bodies, and sends. Which requests are
sent and which replies are right is up to the kinds of load: `load` (steps, over and over) and `wake`.

There are two ways to pace. Closed loop: an operation begins when another one has ended, so the server never gets more
than it answers. Open loop: operation i is due at start + i / rate and begins as soon as a client is free; its latency
counts from when it was due. An open loop sleeps with a resolution finer than a millisecond, and spins for the last part
of a wait.

Promises: a run allocates nothing except for data that a full socket did not accept, releases the interpreter lock, and
reads the clock once per received piece. Invariants: a client's `flight` is the number of replies that it is still owed;
the run is over when nothing is left to begin and nothing is under way.
"""

import errno as errors
import socket
import time

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, ENOMEM, ENOSYS, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcpy, memset, strerror
from posix.time cimport clockid_t, timespec
from posix.unistd cimport close

from dataclasses import dataclass

from fastbean.benchmark.histogram cimport Histogram
from fastbean.benchmark.system cimport (
    EPOLL_CTL_ADD,
    EPOLL_CTL_MOD,
    EPOLLIN,
    EPOLLOUT,
    MSG_NOSIGNAL,
    epoll_create1,
    epoll_ctl,
    epoll_event,
    epoll_sleep,
    epoll_wait,
    process_clock,
    recv,
    send,
)
from fastbean.base.clock cimport clock_ns, monotonic_ns

from fastbean.errors import FastbeanError

__all__ = ["Clients", "LoadError", "Result", "check", "connect", "cpu_ns", "name_of"]

cdef enum:
    RECEIVE_BYTES = 1 << 18
    EVENTS = 512
    SLICE_NS = 100_000_000          # how often a busy loop checks for Ctrl-C
    SPIN_NS = 100_000               # spin for the last part of a wait: sleeping is less precise than this
    WIND_UP_S = 3                   # how long an interrupted run waits for the replies that it is owed

# What to do about an unexpected reply, by its first word.
HINTS = {
    "JOB_TOO_BIG": "choose a smaller body (--body), or start the server with a larger limit (-z)",
    "DRAINING": "the server is in drain mode and accepts no jobs; use one that does",
    "OUT_OF_MEMORY": "the server has no room for more jobs; give it more memory, or run fewer operations",
    "NOT_FOUND": "another client takes or deletes the jobs; use a server that has no other clients",
    "TIMED_OUT": "another client takes the jobs; use a server that has no other clients",
    "DEADLINE_SOON": "the server is too slow to delete the reserved jobs in time; choose a smaller depth",
    "INTERNAL_ERROR": "the server has a fault; its log may say more",
}
OTHER_HINT = "is this a beanstalk server that knows the command?"


class LoadError(FastbeanError):
    """The run failed: the server is not there, went away, or sent a wrong reply."""


@dataclass(frozen=True)
class Result:
    """The result of one run.

    operations: the number that were completed. seconds: from the first request to the last reply. latencies: closed
    loop: from passing a request to the socket to reading its reply, one entry per request; open loop: from when an
    operation was due to reading its last reply, one entry per operation.
    """

    operations: int
    seconds: float
    latencies: Histogram

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


def check(name, value, lowest, highest):
    """Return the value; raise ValueError if it is out of its range."""
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; it must be between {lowest} and {highest}")
    return value


def name_of(address: tuple[str, int] | str) -> str:
    """The address as people write it."""
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def connect(address: tuple[str, int] | str, limit_s: float) -> socket.socket:
    """A connected socket whose operations time out after limit_s seconds. Raises OSError."""
    if not isinstance(address, str):
        sock = socket.create_connection(address, limit_s)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(limit_s)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


cdef class Clients:
    """Connected clients of one server; the base class of `Load` and `Wake`.

    A context manager: leaving it closes the connections. Raises ValueError for an argument out of range, LoadError
    when the server cannot be reached.
    """

    def __cinit__(self) -> None:
        self.epoll = -1
        self.sockets = []

    def __dealloc__(self):
        cdef uint32_t i
        if self.epoll >= 0:
            close(self.epoll)
        if self.clients is not NULL:
            for i in range(self.client_count):
                free(self.clients[i].kept)
        free(self.clients)
        free(self.received)
        free(self.scratch)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. A second call does nothing."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def run(
        self,
        operations: int | None = None,
        *,
        seconds: float | None = None,
        rate: float = 0.0,
        progress: object = None,
    ) -> Result:
        """Run the scenario `operations` times (at least once) or for `seconds`, whichever ends first.

        rate: operations per second, for an open loop; 0: closed loop. progress: called about ten times a second with
        the number of operations done. Ctrl-C is checked as often; operations under way are then completed. Raises
        LoadError, and closes the connections, when the server goes away, sends an unexpected reply or owes a reply for
        limit_s seconds.
        """
        if not self.sockets:
            raise ValueError(f"this {type(self).__name__} is closed; make another one")
        cdef Histogram latencies = Histogram()
        self.wanted = _operations(operations, seconds, rate)
        self.left, self.begun, self.done, self.under_way = self.wanted, 0, 0, 0
        self.interval_ns = 1e9 / <double>rate if rate else 0.0
        self.failure = NOTHING_FAILED
        self.counts = &latencies.counts
        self.start_ns = self.heard_ns = self.now_ns = <uint64_t>monotonic_ns()
        self.end_ns = self.start_ns + <uint64_t>(seconds * 1e9) if seconds is not None and not rate else 0
        try:
            with nogil:
                self.begin()
            self._go_on(progress)
        except BaseException:
            self.close()
            raise
        finally:
            self.counts = NULL
        return Result(self.done, max(self.now_ns - self.start_ns, <uint64_t>1) / 1e9, latencies)

    def _go_on(self, progress: object) -> None:
        try:
            while (self.left or self.under_way) and self.failure == NOTHING_FAILED:
                with nogil:
                    self.serve_for_a_slice()
                PyErr_CheckSignals()
                if progress is not None:
                    progress(self.done)
        except KeyboardInterrupt:
            self.left = 0
            give_up_s = time.monotonic() + WIND_UP_S
            while self.under_way and self.failure == NOTHING_FAILED and time.monotonic() < give_up_s:
                with nogil:
                    self.serve_for_a_slice()
                PyErr_CheckSignals()
            raise
        if self.failure != NOTHING_FAILED:
            raise LoadError(self._failure_text())

    def _make_room(self, scratch_bytes: int) -> None:
        self.clients = <Client *>calloc(self.client_count, sizeof(Client))
        self.received = <char *>malloc(RECEIVE_BYTES)
        self.scratch = <char *>malloc(max(scratch_bytes, 1))
        if self.clients is NULL or self.received is NULL or self.scratch is NULL:
            raise MemoryError(f"no room for {self.client_count} clients")

    def _open(self, tube: str | None) -> None:
        """Connect all clients, and have them use and watch only this tube; None: the default tube."""
        cdef epoll_event event
        cdef uint32_t i
        memset(&event, 0, sizeof(event))
        event.events = EPOLLIN
        self.epoll = epoll_create1(0)
        if self.epoll < 0:
            hint = ": the load tool needs Linux's epoll" if errno == ENOSYS else ""
            raise OSError(errno, strerror(errno).decode() + hint)
        try:
            self._connect_all()
            if tube is not None:
                self._choose_tube(tube)
            for i in range(self.client_count):
                self.sockets[i].setblocking(False)
                self.clients[i].fd = self.sockets[i].fileno()
                event.data.u64 = i
                if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.clients[i].fd, &event) < 0:
                    raise OSError(errno, strerror(errno).decode())
        except BaseException:
            self.close()
            raise

    def _connect_all(self) -> None:
        try:
            for _ in range(self.client_count):
                self.sockets.append(connect(self.address, self.limit_ns / 1e9))
        except OSError as error:
            hint = "is the server running there?"
            if error.errno in {errors.EMFILE, errors.ENFILE}:
                hint = "raise the limit on open files (ulimit -n), or use fewer clients"
            elif error.errno == errors.EADDRNOTAVAIL:
                hint = "this host has no ports left; use a unix socket, or fewer clients"
            so_far = f" after {len(self.sockets)} of {self.client_count}" if self.sockets else ""
            raise LoadError(f"no connection to {name_of(self.address)}{so_far}: {error}; {hint}") from error

    def _choose_tube(self, tube: str) -> None:
        name = tube.encode("ascii")
        request = b"use %s\r\nwatch %s\r\nignore default\r\n" % (name, name)
        wanted = b"USING %s\r\nWATCHING 2\r\nWATCHING 1\r\n" % name
        server = name_of(self.address)
        try:
            for sock in self.sockets:
                sock.sendall(request)
            for at, sock in enumerate(self.sockets):
                received = b""
                while len(received) < len(wanted) and wanted.startswith(received):
                    part = sock.recv(4096)
                    if not part:
                        raise LoadError(
                            f"{server} closed connection {at + 1} of {self.client_count}; does it accept that many?"
                        )
                    received += part
                if received != wanted:
                    raise LoadError(f"{server} answered {received!r} to {request!r}; {OTHER_HINT}")
        except TimeoutError:
            raise LoadError(
                f"{server} sent no reply for {self.limit_ns / 1e9:g} s on connection {at + 1} of {self.client_count}; "
                "raise the server's limit on open files (ulimit -n), or use fewer clients"
            ) from None
        except OSError as error:
            raise LoadError(f"the connection to {server} failed: {error}") from error

    def _failure_text(self) -> str:
        server = name_of(self.address)
        total = f" of {self.wanted}" if self.wanted < <uint64_t>1 << 62 else ""
        progress = f"after {self.done}{total} operations of {self.scenario!r}"
        if self.failure == SERVER_SILENT:
            hint = "; are there enough ready jobs to take?" if self.scenario == "take" else ""
            return f"{server} sent no reply for {self.limit_ns / 1e9:g} s {progress}{hint}"
        if self.failure == SERVER_CLOSED:
            return f"{server} closed a connection {progress}; was it stopped?"
        if self.failure == SYSTEM_FAILED:
            return f"the connection to {server} failed: {strerror(self.errno_seen).decode()}, {progress}"
        received = self.culprit.line[:self.culprit.held]
        request, wanted = self._owed(self.culprit - self.clients)
        hint = HINTS.get(received.split(None, 1)[0].decode("latin-1") if received.split() else "", OTHER_HINT)
        return f"{server} answered {received!r} to a {request}, where {wanted!r} was expected, {progress}; {hint}"

    def _owed(self, client: int) -> tuple[str, bytes]:
        """The client's last request, and how a right reply to it begins."""
        raise NotImplementedError

    cdef void begin(self) noexcept nogil:
        pass

    cdef void begin_due(self) noexcept nogil:
        pass

    cdef bint can_begin(self) noexcept nogil:
        return False

    cdef const char *take_lines(self, Client *client, const char *at, const char *end) noexcept nogil:
        """Handle whole lines, up to one with a body after it or a wrong one; returns where the rest begins."""
        return at

    cdef void take_end_of_body(self, Client *client) noexcept nogil:
        pass

    cdef void take_pause(self, Client *client) noexcept nogil:
        pass

    cdef uint64_t due(self, uint64_t now_ns) noexcept nogil:
        """The number of operations that may begin now."""
        cdef uint64_t number
        if self.end_ns and now_ns >= self.end_ns:
            self.left = 0
        if self.interval_ns == 0 or self.left == 0:
            return self.left
        number = <uint64_t>(<double>(now_ns - self.start_ns) / self.interval_ns) + 1
        return min(number - self.begun, self.left) if number > self.begun else 0

    cdef uint64_t due_ns(self, uint64_t operation) noexcept nogil:
        return self.start_ns + <uint64_t>(<double>operation * self.interval_ns)

    cdef void serve_for_a_slice(self) noexcept nogil:
        """Serve the clients until all is done, something fails, a signal arrives or the slice is over."""
        cdef epoll_event events[EVENTS]
        cdef uint64_t started_ns = self.now_ns
        cdef int ready
        cdef int i
        while self.left or self.under_way:
            ready = self.wait(events)
            self.now_ns = <uint64_t>monotonic_ns()
            if ready < 0:
                if errno != EINTR:
                    self.fail(SYSTEM_FAILED, NULL)
                return
            if ready or self.under_way == 0:
                self.heard_ns = self.now_ns
            elif self.now_ns - self.heard_ns >= self.limit_ns:
                self.fail(SERVER_SILENT, NULL)
            for i in range(ready):
                if self.failure == NOTHING_FAILED:
                    self.serve(&self.clients[events[i].data.u64], events[i].events)
            if self.failure != NOTHING_FAILED:
                return
            self.begin_due()
            if self.now_ns - started_ns >= SLICE_NS:
                return

    cdef int wait(self, epoll_event *events) noexcept nogil:
        cdef timespec pause
        cdef uint64_t due_ns
        cdef uint64_t now_ns
        if self.interval_ns == 0 or self.left == 0 or not self.can_begin():
            return epoll_wait(self.epoll, events, EVENTS, SLICE_NS // 1_000_000)
        due_ns = self.due_ns(self.begun)
        now_ns = <uint64_t>monotonic_ns()
        if due_ns > now_ns + SPIN_NS:
            pause.tv_sec = 0
            pause.tv_nsec = min(due_ns - now_ns - SPIN_NS, <uint64_t>SLICE_NS)
            if epoll_sleep(self.epoll, &pause) < 0:
                return -1
        return epoll_wait(self.epoll, events, EVENTS, 0)

    cdef void serve(self, Client *client, uint32_t events) noexcept nogil:
        cdef ssize_t size
        if client.unsent_bytes and events & EPOLLOUT:
            self.send_on(client)
        if not events & ~EPOLLOUT or self.failure != NOTHING_FAILED:
            return
        size = recv(client.fd, self.received, RECEIVE_BYTES, 0)
        if size < 0:
            if errno != EAGAIN and errno != EINTR:
                self.fail(SYSTEM_FAILED, client)
            return
        if size == 0:
            self.fail(SERVER_CLOSED, client)
            return
        self.now_ns = <uint64_t>monotonic_ns()
        self.take_bytes(client, self.received, self.received + size)
        if self.failure == NOTHING_FAILED:
            self.take_pause(client)

    cdef void take_bytes(self, Client *client, const char *at, const char *end) noexcept nogil:
        while at < end and self.failure == NOTHING_FAILED:
            if client.body_left:
                at += self.take_body(client, at, end - at)
            elif client.held:
                at = self.hold_line(client, at, end)
            else:
                at = self.take_lines(client, at, end)
                if at < end and client.body_left == 0 and self.failure == NOTHING_FAILED:
                    at = self.hold_line(client, at, end)

    cdef const char *hold_line(self, Client *client, const char *at, const char *end) noexcept nogil:
        """Keep a line, or part of one, until it is complete; returns where the rest begins."""
        cdef const char *found = <const char *>memchr(at, c'\n', end - at)
        cdef size_t size
        if found is not NULL:
            end = found + 1
        size = end - at
        if client.held + size > LINE_BYTES:
            self.refuse(client, at, size)
            return end
        memcpy(client.line + client.held, at, size)
        client.held += size
        if found is not NULL:
            size = client.held
            client.held = 0
            self.take_lines(client, client.line, client.line + size)
        return end

    cdef size_t take_body(self, Client *client, const char *at, size_t size) noexcept nogil:
        cdef size_t step = min(<uint64_t>size, client.body_left)
        cdef size_t part
        if client.stamp_missing:
            part = min(step, <size_t>client.stamp_missing)
            memcpy(client.stamp + STAMP_BYTES - client.stamp_missing, at, part)
            client.stamp_missing -= part
        client.body_left -= step
        if client.body_left == 0:
            self.take_end_of_body(client)
        return step

    cdef void send_shared(self, Client *client, const char *piece, size_t size) noexcept nogil:
        """Send a piece that outlives the run."""
        client.unsent = piece
        client.unsent_bytes = size
        self.send_on(client)

    cdef void send_scratch(self, Client *client, size_t size) noexcept nogil:
        """Send what was composed in the scratch; keep a copy of what the socket does not accept."""
        self.send_shared(client, self.scratch, size)
        if client.unsent_bytes == 0 or self.failure != NOTHING_FAILED:
            return
        free(client.kept)
        client.kept = <char *>malloc(client.unsent_bytes)
        if client.kept is NULL:
            self.fail_for_room(client)
            return
        memcpy(client.kept, client.unsent, client.unsent_bytes)
        client.unsent = client.kept

    cdef void send_on(self, Client *client) noexcept nogil:
        cdef ssize_t size
        while client.unsent_bytes:
            size = send(client.fd, client.unsent, client.unsent_bytes, MSG_NOSIGNAL)
            if size >= 0:
                client.unsent += size
                client.unsent_bytes -= size
            elif errno == EAGAIN:
                break
            elif errno != EINTR:
                self.fail(SYSTEM_FAILED, client)
                return
        if (client.unsent_bytes > 0) != client.writable_wanted:
            self.want_writable(client, client.unsent_bytes > 0)

    cdef void want_writable(self, Client *client, bint wanted) noexcept nogil:
        cdef epoll_event event
        client.writable_wanted = wanted
        event.events = EPOLLIN | EPOLLOUT if wanted else EPOLLIN
        event.data.u64 = client - self.clients
        if epoll_ctl(self.epoll, EPOLL_CTL_MOD, client.fd, &event) < 0:
            self.fail(SYSTEM_FAILED, client)

    cdef void refuse(self, Client *client, const char *line, size_t size) noexcept nogil:
        """The reply is not the one that is owed: keep its start for the message."""
        client.held = min(size, <size_t>LINE_BYTES)
        if line != client.line:
            memcpy(client.line, line, client.held)
        self.fail(REPLY_UNEXPECTED, client)

    cdef void fail(self, Failure failure, Client *client) noexcept nogil:
        self.errno_seen = errno
        self.failure = failure
        self.culprit = client

    cdef void fail_for_room(self, Client *client) noexcept nogil:
        self.fail(SYSTEM_FAILED, client)
        self.errno_seen = ENOMEM


def _operations(operations: int | None, seconds: float | None, rate: float) -> int:
    """The number of operations of a run: as many as requested, but at a rate no more than fit into `seconds`."""
    check("rate", rate, 0, 1e9)
    if seconds is not None:
        check("seconds", seconds, 0, 1e6)
        if rate:
            in_time = max(round(seconds * rate), 1)
            operations = in_time if operations is None else min(operations, in_time)
    if operations is None:
        if seconds is None:
            raise ValueError("a run needs an end: give operations or seconds")
        operations = 1 << 62
    return check("operations", operations, 1, 1 << 62)


def cpu_ns(pid: int) -> int:
    """The CPU time that the process has used so far, user and system, in nanoseconds.

    Raises OSError when there is no such process or the system does not say.
    """
    cdef clockid_t clock
    cdef int error = process_clock(pid, &clock)
    if error:
        raise OSError(error, f"the CPU time of process {pid}: {strerror(error).decode()}")
    return <uint64_t>clock_ns(clock)
