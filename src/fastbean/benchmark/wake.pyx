"""Workers that wait in reserve, and one producer that wakes them: how long a job takes from its put to a worker.

Every worker blocks until a job arrives; it then sends `delete` and the next `reserve` in one piece, so that it waits
again at once. The producer puts a job only when fewer than `depth` are in flight (closed loop) or when one is due (open
loop). The body of a job carries the time from which its latency counts, so it does not matter which worker gets the
job, or whether the producer has received the reply to its put by then. Invariant: each worker is owed a RESERVED, and
before that a DELETED if it had a job; `under_way` counts the INSERTED and DELETED replies that are still to come.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy

from fastbean.benchmark.clients cimport (
    MAX_BODY_BYTES,
    MAX_CLIENTS,
    MAX_DEPTH,
    STAMP_BYTES,
    TTR_S,
    Client,
    Clients,
    read_number,
    write_number,
)
from fastbean.benchmark.histogram cimport count_values

from fastbean.benchmark.clients import check

__all__ = ["Wake"]

cdef enum:
    PUTS_AT_ONCE = 64               # composed in one piece
    DELETE_BYTES = 48               # room for "delete <id>\r\nreserve\r\n"


cdef class Wake(Clients):
    """One producer and the workers that wait for its jobs; `run` may be called any number of times.

    address: (host, port), or the path of a unix socket. workers: 1 to 99,999. depth: jobs in flight at once, 1 to
    100,000. body_bytes: 16 to 1 GiB, since a job carries a timestamp. limit_s: how long to wait for a reply.
    tube: the one tube that is used and watched; None: the default tube.

    __init__ sends the workers' reserves. Call `run` once the server has had time to process them. An operation is a
    job: its latency is the time from its put (open loop: from when it was due) until a worker has read its RESERVED
    and its whole body. Raises ValueError for an argument out of range, LoadError when the server cannot be reached.
    """

    cdef uint64_t depth
    cdef uint64_t on_the_way        # jobs put and not deleted
    cdef const char *put            # the request before the timestamp
    cdef size_t put_bytes
    cdef const char *put_end        # and after it
    cdef size_t put_end_bytes
    cdef list texts                 # keeps `put` and `put_end` alive

    def __init__(
        self,
        address: tuple[str, int] | str,
        *,
        workers: int = 1,
        depth: int = 1,
        body_bytes: int = 64,
        limit_s: float = 10.0,
        tube: str | None = None,
    ) -> None:
        if self.clients is not NULL:
            raise RuntimeError("a Wake cannot be initialised twice; make another one")
        self.client_count = check("workers", workers, 1, MAX_CLIENTS - 1) + 1
        self.depth = check("depth", depth, 1, MAX_DEPTH)
        check("body_bytes", body_bytes, STAMP_BYTES, MAX_BODY_BYTES)
        self.limit_ns = <uint64_t>(check("limit_s", limit_s, 0, 86400) * 1e9)
        self.address, self.scenario = address, "wake"
        cdef bytes put = b"put 0 0 %d %d\r\n" % (TTR_S, body_bytes)
        cdef bytes end = b"x" * (body_bytes - STAMP_BYTES) + b"\r\n"
        self.put, self.put_bytes, self.put_end, self.put_end_bytes = put, len(put), end, len(end)
        self.texts = [put, end]
        self._make_room(max(min(PUTS_AT_ONCE, depth) * (len(put) + STAMP_BYTES + len(end)), DELETE_BYTES))
        self._open(tube)
        for sock in self.sockets[1:]:
            sock.sendall(b"reserve\r\n")

    def _owed(self, client: int) -> tuple[str, bytes]:
        if client == 0:
            return "put", b"INSERTED "
        return ("delete", b"DELETED\r\n") if self.clients[client].flight else ("reserve", b"RESERVED ")

    cdef void begin(self) noexcept nogil:
        self.begin_due()

    cdef bint can_begin(self) noexcept nogil:
        return self.on_the_way < self.depth and self.clients[0].unsent_bytes == 0

    cdef void begin_due(self) noexcept nogil:
        cdef uint64_t jobs
        cdef uint64_t i
        cdef char *at
        if not self.can_begin():
            return
        jobs = min(min(self.due(self.now_ns), self.depth - self.on_the_way), <uint64_t>PUTS_AT_ONCE)
        if jobs == 0:
            return
        at = self.scratch
        for i in range(jobs):
            at = self.write_put(at, self.due_ns(self.begun + i) if self.interval_ns else self.now_ns)
        self.begun += jobs
        self.left -= jobs
        self.on_the_way += jobs
        self.under_way += 2 * jobs
        self.clients[0].flight += jobs
        self.send_scratch(&self.clients[0], at - self.scratch)

    cdef char *write_put(self, char *at, uint64_t stamp) noexcept nogil:
        cdef int i
        memcpy(at, self.put, self.put_bytes)
        at += self.put_bytes
        for i in range(STAMP_BYTES):
            at[i] = <char>(c'a' + ((stamp >> (4 * i)) & 15))
        at += STAMP_BYTES
        memcpy(at, self.put_end, self.put_end_bytes)
        return at + self.put_end_bytes

    cdef const char *take_lines(self, Client *client, const char *at, const char *end) noexcept nogil:
        cdef const char *found
        while at < end and client.body_left == 0:
            found = <const char *>memchr(at, c'\n', end - at)
            if found is NULL:
                return at
            if not self.take_reply(client, at, found + 1):
                self.refuse(client, at, found + 1 - at)
                return at
            at = found + 1
        return at

    cdef bint take_reply(self, Client *client, const char *at, const char *end) noexcept nogil:
        """Handle one line. Returns False if it is not the reply that the client is owed."""
        if client == self.clients:
            if client.flight == 0 or end - at < 12 or memcmp(at, b"INSERTED ", 9) != 0:
                return False
            client.flight -= 1
            self.under_way -= 1
            return True
        if client.flight == 0:
            return self.take_job(client, at, end)
        if end - at != 9 or memcmp(at, b"DELETED\r\n", 9) != 0:
            return False
        client.flight = 0
        self.under_way -= 1
        self.on_the_way -= 1
        self.done += 1
        return True

    cdef bint take_job(self, Client *client, const char *at, const char *end) noexcept nogil:
        """Parse `RESERVED <id> <bytes>`; the body follows. Returns False if it is malformed, or no job of this load."""
        cdef uint64_t body_bytes
        if end - at < 9 or memcmp(at, b"RESERVED ", 9) != 0:
            return False
        at = read_number(at + 9, end, &client.first)
        if at is NULL or at[0] != c' ':
            return False
        at = read_number(at + 1, end, &body_bytes)
        if at is NULL or end - at != 2 or not STAMP_BYTES <= body_bytes <= MAX_BODY_BYTES:
            return False
        client.body_left = body_bytes + 2
        client.stamp_missing = STAMP_BYTES
        return True

    cdef void take_end_of_body(self, Client *client) noexcept nogil:
        """The worker has its job: count the latency, delete the job and wait for another one."""
        cdef uint64_t stamp = 0
        cdef int i
        cdef char *at
        for i in range(STAMP_BYTES):
            stamp |= <uint64_t>((client.stamp[i] - c'a') & 15) << (4 * i)
        count_values(self.counts, self.now_ns - min(stamp, self.now_ns), 1)
        client.flight = 1
        memcpy(self.scratch, b"delete ", 7)
        at = write_number(self.scratch + 7, client.first)
        memcpy(at, b"\r\nreserve\r\n", 11)
        self.send_scratch(client, at + 11 - self.scratch)
