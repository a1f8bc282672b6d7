"""The compiled core of the load tool: clients that go through a list of steps, over and over.

A Load has connected clients that all run one scenario, a short list of steps. A client sends `depth` requests of a step
in one piece, and continues once all of them are answered. Requests that never change are built once and shared by all
clients; those that do (random priorities, tubes, ids) are composed just before they are sent. Every reply is checked.
Invariant: the replies that a client is owed all belong to its present step.
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memchr, memcmp, memcpy

from fastbean.benchmark.clients cimport (
    MAX_BATCH_BYTES,
    MAX_BODY_BYTES,
    MAX_CLIENTS,
    MAX_DEPTH,
    NOTHING_FAILED,
    TTR_S,
    Client,
    Clients,
    read_number,
    write_number,
)
from fastbean.benchmark.histogram cimport count_values

from fastbean.benchmark.clients import LoadError, Result, check, cpu_ns
from fastbean.benchmark.histogram import Histogram

__all__ = ["SCENARIOS", "Histogram", "Jobs", "Load", "LoadError", "Result", "cpu_ns", "run"]

cdef enum:
    MAX_STEPS = 3
    MAX_REPLIES = 2                 # of one request
    MAX_TUBES = 10_000_000
    DELETE_BYTES = 32               # room for one "delete <id>\r\n": 7 + 20 + 2
    INSERTED_BYTES = 31             # the longest "INSERTED <id>\r\n": 9 + 20 + 2
    NUMBERS_BYTES = 64              # room for the numbers in a request that is composed
    LEAST_DELAY_S = 10_000          # long enough that no job becomes ready during a measurement
    DELAYS_S = 1_000_000            # the number of different delays

cdef enum Request:
    SHARED                          # the same for all clients, built once
    DELETE_TAKEN                    # of the jobs that the last replies named
    PUT_AT_RANDOM                   # with a random priority, a random delay or both
    USE_AND_PUT                     # in a tube chosen at random
    USE_AND_PUT_IN_TURN             # in one tube after the other
    PEEK                            # at a job chosen at random
    DELETE_KNOWN                    # one job after the other

cdef enum Content:                  # of a reply, after its first words
    NOTHING
    ANYTHING
    JOB_ID
    JOB                             # an id and the size of a body that follows
    BODY                            # the size of a body that follows, perhaps after an id

cdef struct Reply:
    const char *start
    size_t start_bytes
    const char *otherwise           # a second right reply; NULL: there is none
    size_t otherwise_bytes
    Content content

cdef struct Step:
    Request request
    const char *text                # `depth` requests in a row; of a composed request, its end
    size_t text_bytes               # of one request
    Reply replies[MAX_REPLIES]
    uint32_t reply_count

# The steps of each scenario. An operation is one round through them.
SCENARIOS = {
    "put": ("put",),
    "take": ("reserve", "delete"),
    "cycle": ("put", "reserve", "delete"),
    "tubes": ("use and put",),
    "peek": ("peek",),
    "stats": ("stats",),
    "fill": ("use and put in turn",),
    "discard": ("delete of a known job",),
}
_REQUESTS = {
    "put": SHARED,
    "reserve": SHARED,
    "delete": DELETE_TAKEN,
    "use and put": USE_AND_PUT,
    "use and put in turn": USE_AND_PUT_IN_TURN,
    "peek": PEEK,
    "stats": SHARED,
    "delete of a known job": DELETE_KNOWN,
}
# How the replies to one request start, and what follows.
_INSERTED = (b"INSERTED ", JOB_ID)
_DELETED = (b"DELETED\r\n", NOTHING)
_REPLIES = {
    "put": (_INSERTED,),
    "reserve": ((b"RESERVED ", JOB),),
    "delete": (_DELETED,),
    "use and put": ((b"USING ", ANYTHING), _INSERTED),
    "use and put in turn": ((b"USING ", ANYTHING), _INSERTED),
    "peek": ((b"FOUND ", BODY),),
    "stats": ((b"OK ", BODY),),
    "delete of a known job": (_DELETED,),
}
_NEED_JOBS = {"peek", "discard"}
# Another client may have deleted the job meanwhile, which is fine.
cdef bytes _GONE = b"NOT_FOUND\r\n"


cdef class Jobs:
    """The ids of the jobs that were put, in order, 8 bytes each: for `peek`, and to delete the jobs at the end."""

    cdef uint64_t *ids
    cdef size_t count
    cdef size_t room

    def __dealloc__(self):
        free(self.ids)

    def __len__(self) -> int:
        return self.count

    def __iter__(self):
        cdef size_t i
        for i in range(self.count):
            yield self.ids[i]

    def clear(self) -> None:
        """Forget all ids."""
        self.count = 0

    cdef bint add(self, uint64_t job_id) noexcept nogil:
        """Returns False without memory."""
        cdef size_t room
        cdef uint64_t *ids
        if self.count == self.room:
            room = max(self.room * 2, <size_t>1024)
            ids = <uint64_t *>realloc(self.ids, room * sizeof(uint64_t))
            if ids is NULL:
                return False
            self.ids = ids
            self.room = room
        self.ids[self.count] = job_id
        self.count += 1
        return True

    cdef uint64_t at(self, uint64_t number) noexcept nogil:
        return self.ids[number % self.count] if self.count else 0


cdef class Load(Clients):
    """Clients that are connected to one server and run one scenario; `run` may be called any number of times.

    address: (host, port), or the path of a unix socket. scenario: a key of SCENARIOS. clients: connections, 1 to
    100,000. depth: requests that a client sends in one piece before it waits for all replies, 1 to 100,000.
    body_bytes: size of the jobs that are put, 0 to 1 GiB; a batch must stay below 1 GiB. limit_s: how long to wait for
    a reply, in seconds, before the run fails. tube: the one tube that is used and watched; None: the default tube.
    tubes: the number of tubes into which "tubes" and "fill" put, named after `tube`. pri: 0 to 2**32 - 1, or None for
    random ones. delayed: put jobs with random delays of hours. jobs: collects the ids of the jobs that are put; "peek"
    and "discard" go through them.

    A context manager: leaving it closes the connections. "take" takes jobs that must exist already, and "put" leaves
    its jobs on the server. Random numbers are the same in every Load. Raises ValueError for an argument out of range,
    LoadError when the server cannot be reached.
    """

    cdef Step steps[MAX_STEPS]
    cdef uint32_t step_count
    cdef uint32_t depth
    cdef char *delete_room
    cdef uint32_t *idle             # open loop: a ring of the clients that have nothing to do, longest first
    cdef uint32_t idle_first
    cdef uint32_t idle_count
    cdef uint64_t random_state
    cdef uint64_t tubes
    cdef uint64_t pri
    cdef bint random_pri
    cdef bint delayed
    cdef Jobs jobs
    cdef const char *tube_request   # "use <tube>-", for many tubes
    cdef size_t tube_request_bytes
    cdef list texts                 # keeps alive what the steps point to

    def __init__(
        self,
        address: tuple[str, int] | str,
        scenario: str,
        *,
        clients: int = 1,
        depth: int = 1,
        body_bytes: int = 64,
        limit_s: float = 10.0,
        tube: str | None = None,
        tubes: int = 1,
        pri: int | None = 0,
        delayed: bool = False,
        jobs: Jobs | None = None,
    ) -> None:
        if self.clients is not NULL:
            raise RuntimeError("a Load cannot be initialised twice; make another one")
        if scenario not in SCENARIOS:
            raise ValueError(f"there is no scenario {scenario!r}; there are: {', '.join(SCENARIOS)}")
        if scenario in _NEED_JOBS and not jobs:
            raise ValueError(f"{scenario!r} needs jobs; put some first")
        self.client_count = check("clients", clients, 1, MAX_CLIENTS)
        self.depth = check("depth", depth, 1, MAX_DEPTH)
        check("depth * body_bytes", depth * check("body_bytes", body_bytes, 0, MAX_BODY_BYTES), 0, MAX_BATCH_BYTES)
        self.limit_ns = <uint64_t>(check("limit_s", limit_s, 0, 86400) * 1e9)
        self.tubes = check("tubes", tubes, 1, MAX_TUBES)
        self.random_pri = pri is None
        self.pri = check("pri", pri or 0, 0, 0xFFFFFFFF)
        self.delayed = delayed
        self.jobs = jobs
        self.address, self.scenario = address, scenario
        self.random_state = 1
        self._make_steps(body_bytes, tube or "default")
        self._make_client_room()
        self._open(tube)

    def __dealloc__(self):
        free(self.delete_room)
        free(self.idle)

    def _make_steps(self, body_bytes: int, tube: str) -> None:
        cdef Step *step
        cdef Reply *reply
        cdef bytes text
        cdef bytes start
        cdef bytes use = b"use %s-" % tube.encode("ascii")
        self.tube_request, self.tube_request_bytes = use, len(use)
        self.texts = [_GONE, use]
        for name in SCENARIOS[self.scenario]:
            step = &self.steps[self.step_count]
            step.request = _REQUESTS[name]
            if name == "put" and (self.random_pri or self.delayed):
                step.request = PUT_AT_RANDOM
            text = self._text(name, body_bytes)
            step.text_bytes = len(text)
            if step.request == SHARED:
                text *= self.depth
            step.text = text
            self.texts.append(text)
            for start, content in _REPLIES[name]:
                reply = &step.replies[step.reply_count]
                reply.start, reply.start_bytes, reply.content = start, len(start), content
                if step.request == DELETE_KNOWN:
                    reply.otherwise, reply.otherwise_bytes = <const char *>_GONE, len(_GONE)
                self.texts.append(start)
                step.reply_count += 1
            self.step_count += 1

    def _text(self, name: str, body_bytes: int) -> bytes:
        """The request, or of a composed one the part after its numbers."""
        if "put" not in name:
            return b"%s\r\n" % name.encode("ascii") if _REQUESTS[name] == SHARED else b"\r\n"
        end = b"%d %d\r\n%s\r\n" % (TTR_S, body_bytes, b"x" * body_bytes)
        return b"put %d 0 %s" % (self.pri, end) if name == "put" and not (self.random_pri or self.delayed) else end

    def _make_client_room(self) -> None:
        cdef size_t room = <size_t>self.depth * DELETE_BYTES
        cdef uint32_t i
        cdef size_t longest = 0
        for i in range(self.step_count):
            longest = max(longest, self.steps[i].text_bytes)
        self._make_room(self.depth * (longest + NUMBERS_BYTES + self.tube_request_bytes))
        self.delete_room = <char *>calloc(self.client_count, room)
        self.idle = <uint32_t *>calloc(self.client_count, sizeof(uint32_t))
        if self.delete_room is NULL or self.idle is NULL:
            raise MemoryError(f"no room for {self.client_count} clients")
        for i in range(self.client_count):
            self.clients[i].deletes = self.delete_room + i * room

    def _owed(self, client: int) -> tuple[str, bytes]:
        cdef Client *culprit = &self.clients[client]
        step = SCENARIOS[self.scenario][culprit.step]
        return step, _REPLIES[step][culprit.reply][0]

    cdef void begin(self) noexcept nogil:
        cdef uint32_t i
        self.idle_first = self.idle_count = 0
        for i in range(self.client_count):
            self.begin_batch(&self.clients[i])

    cdef bint can_begin(self) noexcept nogil:
        return self.idle_count > 0

    cdef void begin_due(self) noexcept nogil:
        """Open loop: give the operations that have become due to the clients that have been idle longest."""
        cdef Client *client
        while self.idle_count and self.failure == NOTHING_FAILED and self.due(self.now_ns):
            client = &self.clients[self.idle[self.idle_first]]
            self.idle_first = (self.idle_first + 1) % self.client_count
            self.idle_count -= 1
            self.begin_batch(client)

    cdef void begin_batch(self, Client *client) noexcept nogil:
        """Begin the client's next operations; if none is due, the client becomes idle."""
        client.batch = min(<uint64_t>self.depth, self.due(self.now_ns))
        if client.batch == 0:
            self.idle[(self.idle_first + self.idle_count) % self.client_count] = client - self.clients
            self.idle_count += 1
            return
        client.first = self.begun
        self.begun += client.batch
        self.left -= client.batch
        self.under_way += 1
        client.step = 0
        self.send_step(client)

    cdef void send_step(self, Client *client) noexcept nogil:
        cdef Step *step = &self.steps[client.step]
        cdef size_t size
        client.flight = client.counted = client.batch * step.reply_count
        client.reply = 0
        client.sent_ns = self.now_ns
        if step.request == SHARED:
            self.send_shared(client, step.text, client.batch * step.text_bytes)
        elif step.request == DELETE_TAKEN:
            size = client.deletes_bytes
            client.deletes_bytes = 0
            self.send_shared(client, client.deletes, size)
        else:
            self.send_scratch(client, self.compose(client, step))

    cdef size_t compose(self, Client *client, Step *step) noexcept nogil:
        """Write the requests of the client's batch into the scratch; returns their size."""
        cdef char *at = self.scratch
        cdef uint64_t operation
        for operation in range(client.first, client.first + client.batch):
            if step.request == PEEK:
                at = write_words(at, b"peek ", 5)
                at = write_number(at, self.jobs.at(self.random()))
            elif step.request == DELETE_KNOWN:
                at = write_words(at, b"delete ", 7)
                at = write_number(at, self.jobs.at(operation))
            else:
                if step.request != PUT_AT_RANDOM:
                    at = write_words(at, self.tube_request, self.tube_request_bytes)
                    at = write_number(at, (self.random() if step.request == USE_AND_PUT else operation) % self.tubes)
                    at = write_words(at, b"\r\n", 2)
                at = self.begin_put(at)
            at = write_words(at, step.text, step.text_bytes)
        return at - self.scratch

    cdef char *begin_put(self, char *at) noexcept nogil:
        at = write_words(at, b"put ", 4)
        at = write_number(at, self.random() >> 32 if self.random_pri else self.pri)
        at = write_words(at, b" ", 1)
        at = write_number(at, LEAST_DELAY_S + self.random() % DELAYS_S if self.delayed else 0)
        return write_words(at, b" ", 1)

    cdef uint64_t random(self) noexcept nogil:
        """The next number of splitmix64: all its bits are random, whatever the seed."""
        cdef uint64_t mixed
        self.random_state += <uint64_t>0x9E3779B97F4A7C15
        mixed = self.random_state
        mixed = (mixed ^ (mixed >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
        mixed = (mixed ^ (mixed >> 27)) * <uint64_t>0x94D049BB133111EB
        return mixed ^ (mixed >> 31)

    cdef const char *take_lines(self, Client *client, const char *at, const char *end) noexcept nogil:
        cdef const char *found
        if self.steps[client.step].replies[0].content == JOB_ID:
            at = self.take_inserted(client, at, end)
        while at < end and client.body_left == 0 and self.failure == NOTHING_FAILED:
            found = <const char *>memchr(at, c'\n', end - at)
            if found is NULL:
                return at
            if not self.take_reply(client, at, found + 1):
                if self.failure == NOTHING_FAILED:
                    self.refuse(client, at, found + 1 - at)
                return at
            at = found + 1
        return at

    cdef const char *take_inserted(self, Client *client, const char *at, const char *end) noexcept nogil:
        """A fast path for the most frequent reply: while a whole one must be in the buffer, its end needs no search."""
        cdef const char *digits
        cdef uint64_t number
        while end - at >= INSERTED_BYTES and client.flight and memcmp(at, b"INSERTED ", 9) == 0:
            digits = at + 9
            number = 0
            while <unsigned char>(digits[0] - c'0') <= 9 and digits - at < INSERTED_BYTES - 2:
                number = number * 10 + <uint64_t>(digits[0] - c'0')
                digits += 1
            if digits == at + 9 or digits[0] != c'\r' or digits[1] != c'\n':
                break
            if self.jobs is not None and not self.note_job(client, number):
                break
            client.flight -= 1
            at = digits + 2
        return at

    cdef bint note_job(self, Client *client, uint64_t job_id) noexcept nogil:
        if self.jobs.add(job_id):
            return True
        self.fail_for_room(client)
        return False

    cdef inline bint take_reply(self, Client *client, const char *at, const char *end) noexcept nogil:
        """Handle one line. Returns False if it is not the reply that the client is owed."""
        cdef Step *step = &self.steps[client.step]
        cdef Reply *reply = &step.replies[client.reply]
        if client.flight == 0:
            return False
        if starts_with(at, end, reply.start, reply.start_bytes):
            if reply.content > ANYTHING and not self.take_content(client, reply.content, at + reply.start_bytes, end):
                return False
        elif reply.otherwise_bytes == 0 or not starts_with(at, end, reply.otherwise, reply.otherwise_bytes):
            return False
        client.flight -= 1
        if step.reply_count > 1:
            client.reply = (client.reply + 1) % step.reply_count
        return True

    cdef inline bint take_content(
        self, Client *client, Content content, const char *at, const char *end
    ) noexcept nogil:
        """Parse a reply after its first words, up to its CRLF. Returns False if it is malformed."""
        cdef uint64_t number
        cdef const char *start = at
        at = read_number(at, end, &number)
        if at is NULL:
            return False
        if content == JOB_ID:
            if self.jobs is not None and not self.note_job(client, number):
                return False
            return end - at == 2 and at[0] == c'\r'
        if content == JOB:
            if at[0] != c' ':
                return False
            self.note_delete(client, start, at - start)
        if at[0] == c' ':
            at = read_number(at + 1, end, &number)
        if at is NULL or end - at != 2 or at[0] != c'\r' or number > MAX_BODY_BYTES:
            return False
        client.body_left = number + 2
        return True

    cdef void note_delete(self, Client *client, const char *job_id, size_t size) noexcept nogil:
        """Compose the delete of a job that was reserved."""
        cdef char *start = client.deletes + client.deletes_bytes
        cdef char *at = write_words(start, b"delete ", 7)
        at = write_words(at, job_id, size)
        at = write_words(at, b"\r\n", 2)
        client.deletes_bytes += at - start

    cdef void take_pause(self, Client *client) noexcept nogil:
        """After each received piece: count latencies, and take the next step once all of this one is answered."""
        cdef uint32_t answered = client.counted - client.flight
        if answered:
            if self.interval_ns == 0:
                count_values(self.counts, self.now_ns - client.sent_ns, answered)
            elif client.step + 1 == self.step_count:
                self.count_operations(client)
            client.counted = client.flight
        if client.flight or client.batch == 0 or client.body_left:
            return
        client.step += 1
        if client.step < self.step_count:
            self.send_step(client)
            return
        self.done += client.batch
        self.under_way -= 1
        self.begin_batch(client)

    cdef void count_operations(self, Client *client) noexcept nogil:
        """Open loop: count the latencies of the operations that have completed, from when each was due."""
        cdef uint32_t replies = self.steps[client.step].reply_count
        cdef uint32_t before = client.batch - (client.counted + replies - 1) // replies
        cdef uint32_t ended = client.batch - (client.flight + replies - 1) // replies
        cdef uint64_t operation
        for operation in range(client.first + before, client.first + ended):
            count_values(self.counts, self.now_ns - min(self.due_ns(operation), self.now_ns), 1)


cdef inline char *write_words(char *at, const char *words, size_t size) noexcept nogil:
    memcpy(at, words, size)
    return at + size


cdef inline bint starts_with(const char *at, const char *end, const char *start, size_t start_bytes) noexcept nogil:
    return <size_t>(end - at) >= start_bytes and memcmp(at, start, start_bytes) == 0


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
    """Connect, run the scenario `operations` times, and close the connections; arguments and errors as for Load."""
    with Load(address, scenario, clients=clients, depth=depth, body_bytes=body_bytes, limit_s=limit_s) as load:
        return load.run(operations)
