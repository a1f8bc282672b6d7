"""The compiled core of the load tool: many clients of any beanstalk server, in one thread, over epoll.

A Load holds connected clients that all play one scenario, a short list of steps. A client sends `depth` requests of a
step in one piece, and goes on once all of them are answered: a closed loop, so no server is sent more than it
answers. While it runs nothing is allocated, the interpreter lock is free, and a request costs one clock read at most;
requests that never change are built once and shared by all clients. Every reply is checked. What always holds: a
client's `flight` is the number of replies that it is still owed, and they are all replies to its present step.
"""

import socket

from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN, EINTR, ENOSYS, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memset, strerror
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, clockid_t, timespec
from posix.unistd cimport close

from dataclasses import dataclass

from fastbean.errors import FastbeanError

__all__ = ["SCENARIOS", "Histogram", "Load", "LoadError", "Result", "cpu_ns", "run"]

cdef enum:
    MAX_CLIENTS = 100_000
    MAX_DEPTH = 100_000
    MAX_BODY_BYTES = 1 << 30
    MAX_BATCH_BYTES = 1 << 30
    RECEIVE_BYTES = 1 << 18
    EVENTS = 512
    LINE_BYTES = 256                # the longest line of a reply that is understood
    DELETE_BYTES = 32               # room for one "delete <id>\r\n": 7 + 20 + 2
    MAX_STEPS = 3
    SLICE_NS = 100_000_000          # how often a busy loop comes up to look for Ctrl-C
    TTR_S = 120
    # A histogram's bucket is at most 1/128 of its value wide; values from 2**40 ns (18 minutes) on share the last one.
    FINE_BITS = 7
    MAX_BITS = 40
    BUCKETS = (MAX_BITS - FINE_BITS + 1) << FINE_BITS

cdef enum Failure:
    NOTHING_FAILED
    SYSTEM_FAILED                   # `errno_seen` says how
    SERVER_CLOSED
    SERVER_SILENT
    REPLY_UNEXPECTED                # the line is in the client's `line`

cdef struct Counts:                 # a histogram
    uint64_t total
    uint64_t sum_ns
    uint64_t max_ns
    uint64_t buckets[BUCKETS]

cdef struct Step:
    const char *batch               # `depth` requests in a row; NULL: deletes, composed from the last replies
    size_t request_bytes            # of one request
    const char *reply               # what a right reply starts with
    size_t reply_bytes
    bint brings_job                 # the reply names an id and the size of a body that follows

cdef struct Client:
    int fd
    uint32_t step                   # of the scenario
    uint32_t flight
    uint32_t batch                  # operations under way
    bint writable_wanted
    size_t held                     # bytes in `line`, when a line has come in part
    uint64_t body_left              # bytes of a body to step over, its CRLF included
    uint64_t left                   # operations not yet begun
    uint64_t sent_ns                # when the present batch was handed to the socket
    const char *unsent
    size_t unsent_bytes
    char *deletes                   # the next step's requests, as far as replies named their jobs
    size_t deletes_bytes
    char line[LINE_BYTES]


cdef uint64_t read_clock(clockid_t clock) noexcept nogil:
    cdef timespec time
    clock_gettime(clock, &time)
    return <uint64_t>time.tv_sec * 1_000_000_000 + <uint64_t>time.tv_nsec


cdef inline size_t bucket_of(uint64_t value_ns) noexcept nogil:
    cdef size_t shift = 0
    if value_ns >> MAX_BITS:
        return BUCKETS - 1
    while value_ns >> (shift + FINE_BITS + 1):
        shift += 1
    return (shift << FINE_BITS) + (value_ns >> shift)


cdef uint64_t bucket_top(size_t bucket) noexcept nogil:
    """The highest value that falls into the bucket."""
    cdef size_t shift
    if bucket >> (FINE_BITS + 1) == 0:
        return bucket
    shift = (bucket >> FINE_BITS) - 1
    return (((bucket - (shift << FINE_BITS)) + 1) << shift) - 1


cdef void count_values(Counts *counts, uint64_t value_ns, uint64_t times) noexcept nogil:
    counts.buckets[bucket_of(value_ns)] += times
    counts.total += times
    counts.sum_ns += value_ns * times
    if value_ns > counts.max_ns:
        counts.max_ns = value_ns


class LoadError(FastbeanError):
    """The load could not be run to its end: the server is not there, went away, or gave a wrong answer."""


cdef class Histogram:
    """Durations, counted in buckets that grow with the value: a quantile is at most 1/128 too high, never too low.

    Recording costs a few nanoseconds, a histogram about 35 KiB, whatever it counts. The mean and the highest value
    are exact.
    """

    cdef Counts counts

    def record(self, value_ns: int, times: int = 1) -> None:
        """Counts a duration of value_ns >= 0 nanoseconds, `times` >= 0 times.

        Raises OverflowError for a negative number or one of more than 64 bits.
        """
        count_values(&self.counts, value_ns, times)

    def quantile_ns(self, fraction: float) -> int:
        """The duration, in nanoseconds, that `fraction` (0 to 1) of all do not exceed; 0 when nothing was recorded.

        Raises ValueError for a fraction outside 0 to 1.
        """
        if not 0 <= fraction <= 1:
            raise ValueError(f"a quantile's fraction lies between 0 and 1, not at {fraction}")
        cdef uint64_t seen = 0
        cdef double wanted = max(<double>fraction * self.counts.total, 1.0)
        cdef size_t bucket
        for bucket in range(<size_t>BUCKETS - 1):
            seen += self.counts.buckets[bucket]
            if seen >= wanted:
                return min(bucket_top(bucket), self.counts.max_ns)
        return self.counts.max_ns

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return self.counts.total

    @property
    def max_ns(self) -> int:
        """The longest duration; 0 when nothing was recorded."""
        return self.counts.max_ns

    @property
    def mean_ns(self) -> float:
        """The mean duration; 0 when nothing was recorded."""
        return <double>self.counts.sum_ns / self.counts.total if self.counts.total else 0.0


@dataclass(frozen=True)
class Result:
    """What one run did.

    operations: rounds through the scenario. seconds: from the first request to the last reply. latencies: from the
    moment a request was handed to the socket until its reply was read, one entry for each request.
    """

    operations: int
    seconds: float
    latencies: Histogram

    @property
    def rate(self) -> float:
        """Operations a second."""
        return self.operations / self.seconds


# The steps of each scenario. An operation is one round through them.
SCENARIOS = {
    "put": ("put",),
    "take": ("reserve", "delete"),
    "cycle": ("put", "reserve", "delete"),
}
_REPLIES = {"put": b"INSERTED ", "reserve": b"RESERVED ", "delete": b"DELETED\r\n"}


def _request(step: str, body_bytes: int) -> bytes:
    if step == "put":
        return b"put 0 0 %d %d\r\n%s\r\n" % (TTR_S, body_bytes, b"x" * body_bytes)
    return b"" if step == "delete" else b"%s\r\n" % step.encode("ascii")


def _check(name, value, lowest, highest):
    if not lowest <= value <= highest:
        raise ValueError(f"{name} is {value}; it must lie between {lowest} and {highest}")
    return value


def _name(address: tuple[str, int] | str) -> str:
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _connect(address: tuple[str, int] | str, limit_s: float) -> socket.socket:
    try:
        if isinstance(address, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(limit_s)
                sock.connect(address)
            except BaseException:
                sock.close()
                raise
        else:
            sock = socket.create_connection(address, limit_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        raise LoadError(f"no connection to {_name(address)}: {error}; is the server running there?") from error
    sock.setblocking(False)
    return sock


cdef class Load:
    """Clients that are connected to one server and play one scenario, as often as `run` is called.

    address: (host, port), or the path of a unix socket. scenario: a key of SCENARIOS. clients: connections, 1 to
    100,000. depth: requests that a client sends in one piece before it waits for all their answers, 1 to 100,000.
    body_bytes: size of the jobs that are put, 0 to 1 GiB; a batch must stay below 1 GiB. limit_s: how long a server
    may say nothing at all, in seconds, before the run fails.

    A context manager: leaving it closes the connections. "take" takes jobs that are there already, and "put" leaves
    them there. Raises ValueError for an argument out of range, LoadError when the server cannot be reached.
    """

    cdef Step steps[MAX_STEPS]
    cdef uint32_t step_count
    cdef uint32_t client_count
    cdef uint32_t depth
    cdef Client *clients
    cdef Client *culprit            # whom `failure` befell; NULL when it befell nobody alone
    cdef char *delete_room
    cdef char *received
    cdef int epoll
    cdef int errno_seen
    cdef Failure failure
    cdef uint64_t done              # operations
    cdef uint64_t wanted
    cdef uint64_t heard_ns          # when the server last said something
    cdef uint64_t limit_ns
    cdef Counts *counts
    cdef object address
    cdef object scenario
    cdef list sockets
    cdef list texts                 # keeps alive what the steps point to

    def __cinit__(self) -> None:
        self.epoll = -1

    def __init__(
        self,
        address: tuple[str, int] | str,
        scenario: str,
        *,
        clients: int = 1,
        depth: int = 1,
        body_bytes: int = 64,
        limit_s: float = 10.0,
    ) -> None:
        if self.clients is not NULL:
            raise RuntimeError("a Load is made once; make another one")
        if scenario not in SCENARIOS:
            raise ValueError(f"there is no scenario {scenario!r}; there are: {', '.join(SCENARIOS)}")
        self.client_count = _check("clients", clients, 1, MAX_CLIENTS)
        self.depth = _check("depth", depth, 1, MAX_DEPTH)
        _check("depth * body_bytes", depth * _check("body_bytes", body_bytes, 0, MAX_BODY_BYTES), 0, MAX_BATCH_BYTES)
        _check("limit_s", limit_s, 0, 86400)
        self.limit_ns = <uint64_t>(limit_s * 1e9)
        self.address, self.scenario, self.sockets = address, scenario, []
        self._make_steps(body_bytes)
        self._make_room()
        try:
            self._open(limit_s)
        except BaseException:
            self.close()
            raise

    def __dealloc__(self):
        if self.epoll >= 0:
            close(self.epoll)
        free(self.clients)
        free(self.delete_room)
        free(self.received)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. A second call does nothing."""
        for sock in self.sockets:
            sock.close()
        self.sockets.clear()

    def run(self, operations: int) -> Result:
        """Plays the scenario `operations` times (at least once), shared out evenly among the clients.

        Raises LoadError, and closes the connections, when the server goes away, gives an unexpected answer or says
        nothing for limit_s seconds. Ctrl-C is heard ten times a second.
        """
        if not self.sockets:
            raise ValueError("this Load is closed; make another one")
        cdef Histogram latencies = Histogram()
        cdef uint64_t start_ns
        cdef uint64_t end_ns
        self.wanted = _check("operations", operations, 1, 1 << 62)
        self.done = 0
        self.failure = NOTHING_FAILED
        self.counts = &latencies.counts
        start_ns = self.heard_ns = read_clock(CLOCK_MONOTONIC)
        try:
            with nogil:
                self.begin()
            while self.done < self.wanted and self.failure == NOTHING_FAILED:
                with nogil:
                    self.serve_for_a_slice()
                PyErr_CheckSignals()
            end_ns = read_clock(CLOCK_MONOTONIC)
            if self.failure != NOTHING_FAILED:
                raise LoadError(self._complaint())
        except BaseException:
            self.close()
            raise
        return Result(operations, (end_ns - start_ns) / 1e9, latencies)

    def _make_steps(self, body_bytes: int) -> None:
        cdef Step *step
        cdef bytes batch
        cdef bytes reply
        self.texts = []
        for name in SCENARIOS[self.scenario]:
            step = &self.steps[self.step_count]
            batch = _request(name, body_bytes) * self.depth
            reply = _REPLIES[name]
            self.texts += [batch, reply]
            step.batch = <const char *>batch if batch else NULL
            step.request_bytes = len(batch) // self.depth
            step.reply = reply
            step.reply_bytes = len(reply)
            step.brings_job = name == "reserve"
            self.step_count += 1

    def _make_room(self) -> None:
        cdef size_t room = <size_t>self.depth * DELETE_BYTES
        cdef uint32_t i
        self.clients = <Client *>calloc(self.client_count, sizeof(Client))
        self.delete_room = <char *>calloc(self.client_count, room)
        self.received = <char *>calloc(1, RECEIVE_BYTES)
        if self.clients is NULL or self.delete_room is NULL or self.received is NULL:
            raise MemoryError(f"no room for {self.client_count} clients")
        for i in range(self.client_count):
            self.clients[i].deletes = self.delete_room + i * room

    def _open(self, limit_s: float) -> None:
        cdef epoll_event event
        cdef uint32_t i
        memset(&event, 0, sizeof(event))
        event.events = EPOLLIN
        self.epoll = epoll_create1(0)
        if self.epoll < 0:
            hint = ": the load tool needs Linux's epoll" if errno == ENOSYS else ""
            raise OSError(errno, strerror(errno).decode() + hint)
        for i in range(self.client_count):
            sock = _connect(self.address, limit_s)
            self.sockets.append(sock)
            self.clients[i].fd = sock.fileno()
            event.data.u64 = i
            if epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.clients[i].fd, &event) < 0:
                raise OSError(errno, strerror(errno).decode())

    def _complaint(self) -> str:
        name = _name(self.address)
        progress = f"after {self.done} of {self.wanted} operations of {self.scenario!r}"
        if self.failure == SERVER_SILENT:
            hint = "; are there enough ready jobs to take?" if self.scenario == "take" else ""
            return f"{name} said nothing for {self.limit_ns / 1e9:g} s {progress}{hint}"
        if self.failure == SERVER_CLOSED:
            return f"{name} closed a connection {progress}"
        if self.failure == SYSTEM_FAILED:
            return f"{name} cannot be reached any more: {strerror(self.errno_seen).decode()}, {progress}"
        step = SCENARIOS[self.scenario][self.culprit.step]
        said = self.culprit.line[:self.culprit.held]
        return f"{name} answered {said!r} to a {step}, where {_REPLIES[step]!r} was expected, {progress}"

    cdef void begin(self) noexcept nogil:
        cdef uint32_t i
        cdef Client *client
        for i in range(self.client_count):
            client = &self.clients[i]
            client.left = self.wanted // self.client_count + (i < self.wanted % self.client_count)
            client.step = 0
            client.batch = 0
            self.send_step(client, self.heard_ns)

    cdef void serve_for_a_slice(self) noexcept nogil:
        """Serves the clients until all is done, something fails, a signal comes in or the slice is over."""
        cdef epoll_event events[EVENTS]
        cdef uint64_t started_ns = self.heard_ns
        cdef uint64_t now_ns
        cdef int ready
        cdef int i
        while self.done < self.wanted and self.failure == NOTHING_FAILED:
            ready = epoll_wait(self.epoll, events, EVENTS, SLICE_NS // 1_000_000)
            now_ns = read_clock(CLOCK_MONOTONIC)
            if ready < 0:
                if errno != EINTR:
                    self.fail(SYSTEM_FAILED, NULL)
                return
            if ready == 0:
                if now_ns - self.heard_ns >= self.limit_ns:
                    self.fail(SERVER_SILENT, NULL)
                return
            self.heard_ns = now_ns
            for i in range(ready):
                self.serve(&self.clients[events[i].data.u64], events[i].events)
                if self.failure != NOTHING_FAILED:
                    return
            if now_ns - started_ns >= SLICE_NS:
                return

    cdef void serve(self, Client *client, uint32_t events) noexcept nogil:
        cdef ssize_t size
        cdef uint64_t now_ns
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
        now_ns = read_clock(CLOCK_MONOTONIC)
        self.take_bytes(client, self.received, size, now_ns)
        if client.flight == 0 and client.batch and client.body_left == 0 and self.failure == NOTHING_FAILED:
            self.next_step(client, now_ns)

    cdef void take_bytes(self, Client *client, const char *at, size_t size, uint64_t now_ns) noexcept nogil:
        cdef const char *end = at + size
        cdef const char *found
        cdef size_t step
        cdef uint32_t flight = client.flight
        while at < end and self.failure == NOTHING_FAILED:
            if client.body_left:
                step = min(<uint64_t>(end - at), client.body_left)
                client.body_left -= step
                at += step
                continue
            found = <const char *>memchr(at, c'\n', end - at)
            step = (found + 1 if found is not NULL else end) - at
            if found is not NULL and client.held == 0:
                self.take_reply(client, at, step)
            elif client.held + step > LINE_BYTES:
                self.refuse(client, at, step)
            else:
                memcpy(client.line + client.held, at, step)
                client.held += step
                if found is not NULL:
                    step = client.held
                    client.held = 0
                    self.take_reply(client, client.line, step)
                    step = found + 1 - at
            at += step
        count_values(self.counts, now_ns - client.sent_ns, flight - client.flight)

    cdef void take_reply(self, Client *client, const char *line, size_t size) noexcept nogil:
        cdef Step *step = &self.steps[client.step]
        if client.flight == 0 or size < step.reply_bytes or memcmp(line, step.reply, step.reply_bytes) != 0:
            self.refuse(client, line, size)
            return
        client.flight -= 1
        if step.brings_job and not self.take_job(client, line + step.reply_bytes, line + size):
            self.refuse(client, line, size)

    cdef bint take_job(self, Client *client, const char *at, const char *end) noexcept nogil:
        """Reads `<id> <bytes>`: composes the delete of the job, and steps over its body. False: not understood."""
        cdef char *out = client.deletes + client.deletes_bytes
        cdef const char *id_end = <const char *>memchr(at, c' ', end - at)
        cdef size_t id_bytes
        cdef uint64_t body_bytes = 0
        if id_end is NULL or end - id_end > 14:
            return False
        id_bytes = id_end - at
        if id_bytes == 0 or id_bytes > 20:
            return False
        memcpy(out, b"delete ", 7)
        memcpy(out + 7, at, id_bytes)
        memcpy(out + 7 + id_bytes, b"\r\n", 2)
        client.deletes_bytes += 7 + id_bytes + 2
        at = id_end + 1
        while c'0' <= at[0] <= c'9':
            body_bytes = body_bytes * 10 + <uint64_t>(at[0] - c'0')
            at += 1
        client.body_left = body_bytes + 2
        return at[0] == c'\r' and at + 2 == end

    cdef void next_step(self, Client *client, uint64_t now_ns) noexcept nogil:
        """All of the client's requests are answered: the next step of its operations, or the next operations."""
        client.step += 1
        if client.step == self.step_count:
            client.step = 0
            self.done += client.batch
            client.batch = 0
        self.send_step(client, now_ns)

    cdef void send_step(self, Client *client, uint64_t now_ns) noexcept nogil:
        cdef Step *step = &self.steps[client.step]
        if client.step == 0:
            client.batch = min(<uint64_t>self.depth, client.left)
            client.left -= client.batch
        client.flight = client.batch
        client.sent_ns = now_ns
        if step.batch is not NULL:
            client.unsent = step.batch
            client.unsent_bytes = client.batch * step.request_bytes
        else:
            client.unsent = client.deletes
            client.unsent_bytes = client.deletes_bytes
            client.deletes_bytes = 0
        self.send_on(client)

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
        """The reply is none that was asked for; its start is kept for the message."""
        client.held = min(size, <size_t>LINE_BYTES)
        if line != client.line:
            memcpy(client.line, line, client.held)
        self.fail(REPLY_UNEXPECTED, client)

    cdef void fail(self, Failure failure, Client *client) noexcept nogil:
        self.errno_seen = errno
        self.failure = failure
        self.culprit = client


def run(
    address: tuple[str, int] | str,
    scenario: str,
    *,
    clients: int = 1,
    depth: int = 1,
    operations: int = 100_000,
    body_bytes: int = 64,
    limit_s: float = 10.0,
) -> Result:
    """Connects, plays the scenario `operations` times, and closes the connections; arguments and errors as of Load."""
    with Load(address, scenario, clients=clients, depth=depth, body_bytes=body_bytes, limit_s=limit_s) as load:
        return load.run(operations)


def cpu_ns(pid: int) -> int:
    """The CPU time that the process has used so far, in nanoseconds, user and system together.

    Raises OSError when there is no such process or the system does not tell.
    """
    cdef clockid_t clock
    cdef int error = process_clock(pid, &clock)
    if error:
        raise OSError(error, f"the CPU time of process {pid}: {strerror(error).decode()}")
    return read_clock(clock)
