"""Fuzzes whole connections with the engine behind them: up to four clients, and time that passes.

An input is a sequence of steps of one byte: which client, and what it does. The client sends a command, made from a
template and another byte (at once, in two pieces, byte by byte), or any bytes; it closes or half-closes the connection;
time passes; drain mode begins or ends. `Peer` splits its client's bytes into commands in the simplest way, and so knows
how many replies are due. A connection that was sent HTTP may be closed without a reply.

Whenever the server has nothing left to do, these checks must hold: each command got exactly one reply, of a known form;
the counts are consistent; nothing is due any more at this time. At the end, all clients disconnect, all jobs are
deleted and all pauses end: nothing may be left, and no object may be alive once the engine is gone.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, memset, strlen

from fastbean.net.connection cimport Connection, is_halted
from fastbean.engine.commands cimport delete
from fastbean.engine.state cimport State
from fastbean.engine.timers cimport expire
from fastbean.net.hub cimport Hub
from fastbean.net.memory_connection cimport MemoryConnection
from fastbean.base.debug_counters cimport LIVE_KINDS, live
from fastbean.protocol.replies cimport REPLY_COUNT, REPLY_FOUND, REPLY_NONE, REPLY_OK, REPLY_RESERVED, Reply, reply_text
from fastbean.protocol.commands cimport (
    FORM_IGNORED, FORM_PUT as FORM_OF_PUT, MAX_LINE_BYTES, Command, parse_line, words,
)

from check cimport as_capsule, at_most, equal, line_end

cdef enum:
    PEERS = 4
    STREAM_BYTES = 131072           # what one client may send
    LARGEST_BODY = 20000            # larger than what is copied into an outbox
    TICKS_AT_MOST = 5000
    LINE_BYTES = 256
    INPUTS_OF_A_SERVER = 1000
    FORMS = 28
    FORM_PUT = 0
    FORM_LARGE_PUT = 1
    HTTP_BYTES = 6                  # of the longer text that `has_http` looks for

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *one, const char *other, size_t size)

cdef const char *forms[FORMS]
forms[:] = [
    "put %u %u %u", "put %u %u %u", "reserve\r\n", "reserve-with-timeout %u\r\n", "reserve-job %u\r\n",
    "delete %u\r\n", "release %u %u %u\r\n", "bury %u %u\r\n", "touch %u\r\n", "kick %u\r\n", "kick-job %u\r\n",
    "peek %u\r\n", "peek-ready\r\n", "peek-delayed\r\n", "peek-buried\r\n", "use t%u\r\n", "watch t%u\r\n",
    "ignore t%u\r\n", "ignore default\r\n", "pause-tube t%u %u\r\n", "pause-tube default %u\r\n", "stats\r\n",
    "stats-job %u\r\n", "stats-tube t%u\r\n", "list-tubes\r\n", "list-tubes-watched\r\n", "list-tube-used\r\n",
    "quit\r\n",
]

cdef int64_t SECOND_NS = 1000000000
cdef int64_t LONGEST_PAUSE_S = 4294967295   # a paused tube does not end
cdef int64_t[8] passing_ns
passing_ns[:] = [
    1, SECOND_NS // 2, SECOND_NS - 1, SECOND_NS, 2 * SECOND_NS, 16 * SECOND_NS, 3600 * SECOND_NS,
    10000000 * SECOND_NS,
]

cdef struct Peer:                   # what a client should have been told
    size_t sent                     # bytes in its stream
    size_t cut                      # so many of them are done with
    uint64_t commands               # that are complete
    uint64_t replies                # that have come
    uint64_t to_skip                # of the body of a reply
    size_t line_bytes               # of a reply's line that is not complete
    char[LINE_BYTES] line
    bint quit
    bint http                       # it has sent what a line of HTTP has
    bint full                       # it has sent too much after a command that is not answered

cdef char[PEERS][STREAM_BYTES] streams
cdef char[LARGEST_BODY + 2] filler
memset(filler, c'x', LARGEST_BODY)
filler[LARGEST_BODY] = c'\r'
filler[LARGEST_BODY + 1] = c'\n'


cdef size_t cut_one(Peer *peer, const char *data, size_t size) noexcept:
    """The size of the command at the front of `data`, or 0 if it is not complete."""
    cdef char[MAX_LINE_BYTES] line
    cdef Command command
    cdef size_t length = line_end(data, size)
    if length == 0 or length > MAX_LINE_BYTES:
        return length
    memcpy(line, data, length)
    parse_line(line, length - 2, &command)
    if words[command.number].form == FORM_OF_PUT and (command.fault == REPLY_NONE or command.body_bytes > LARGEST_BODY):
        length += <size_t>command.body_bytes + 2
        return length if length <= size else 0
    peer.quit = words[command.number].form == FORM_IGNORED
    return length


cdef bint has_http(const char *data, size_t size) noexcept:
    """Whether the bytes have what every line of HTTP has that closes a connection."""
    cdef size_t at
    for at in range(size):
        if (size - at >= 5 and strncasecmp(data + at, b"Host:", 5) == 0) or (
            size - at >= 6 and memcmp(data + at, b" HTTP/", 6) == 0
        ):
            return True
    return False


cdef void cut(Peer *peer, const char *stream) noexcept:
    """Count the commands that are complete."""
    cdef size_t size
    while peer.cut < peer.sent and not peer.quit:
        size = cut_one(peer, stream + peer.cut, peer.sent - peer.cut)
        if size == 0:
            return
        peer.cut += size
        if not peer.quit:
            peer.commands += 1


cdef uint64_t number_in(const char *line, size_t size) noexcept:
    """The last number of a reply's line."""
    cdef uint64_t number = 0
    cdef size_t at = size - 2
    while at and c'0' <= line[at - 1] <= c'9':
        at -= 1
    at_most("the place of a number in a reply", at, size - 3)
    for place in range(at, size - 2):
        number = 10 * number + <uint64_t>(line[place] - c'0')
    return number


cdef void take_reply_line(Peer *peer) noexcept:
    """Checks a complete reply line: it must have a known form."""
    cdef int reply
    cdef size_t size
    cdef const char *text
    for reply in range(1, REPLY_COUNT):
        text = reply_text(<Reply>reply)
        size = strlen(text)
        if peer.line_bytes < size or memcmp(text, peer.line, size) != 0:
            continue
        if text[size - 1] == c'\n' and size != peer.line_bytes:
            continue
        if reply == REPLY_RESERVED or reply == REPLY_FOUND or reply == REPLY_OK:
            peer.to_skip = number_in(peer.line, peer.line_bytes) + 2
        peer.replies += 1
        peer.line_bytes = 0
        return
    equal("a known reply", 0, 1)


cdef void hear(Peer *peer, const char *data, size_t size) noexcept:
    """Count the replies."""
    cdef size_t at = 0
    cdef uint64_t skipped
    while at < size:
        if peer.to_skip:
            skipped = min(peer.to_skip, <uint64_t>(size - at))
            peer.to_skip -= skipped
            at += skipped
            continue
        at_most("the length of a reply's line", peer.line_bytes, LINE_BYTES - 1)
        peer.line[peer.line_bytes] = data[at]
        peer.line_bytes += 1
        at += 1
        if peer.line_bytes >= 2 and data[at - 1] == c'\n' and peer.line[peer.line_bytes - 2] == c'\r':
            take_reply_line(peer)


cdef class World:
    """One server with its clients."""

    cdef State state
    cdef Hub hub
    cdef list connections
    cdef Peer[PEERS] peers
    cdef int64_t now_ns

    def __cinit__(self):
        self.now_ns = SECOND_NS
        self.state = State(max_job_size=LARGEST_BODY, now_ns=SECOND_NS)
        self.hub = Hub(self.state)
        self.connections = [None] * PEERS

    cdef int begin(self) except -1:
        """Reset the empty server: creating a new one for each input would take most of the time."""
        self.now_ns = 6000000000 * SECOND_NS
        self.state.begin_iteration(self.now_ns)
        self.settle()
        self.state.next_id = 1
        self.state.burials = 0
        self.state.draining = False
        self.now_ns = SECOND_NS
        return 0

    cdef MemoryConnection client(self, int number):
        if self.connections[number] is None:
            self.connections[number] = self.hub.connect()
            memset(&self.peers[number], 0, sizeof(Peer))
        return self.connections[number]

    cdef int send(self, int number, const char *data, size_t size) except -1:
        cdef MemoryConnection client = self.client(number)
        cdef Connection *connection = client.connection
        cdef Peer *peer = &self.peers[number]
        cdef size_t at
        if connection.closed or connection.eof or peer.full or peer.sent + size > STREAM_BYTES:
            return 0
        try:
            client.feed(data[:size], self.now_ns)
        except BufferError:
            equal("a client that may not send is blocked", is_halted(connection), True)
            peer.full = True
            return 0
        memcpy(&streams[number][peer.sent], data, size)
        at = peer.sent - min(peer.sent, <size_t>HTTP_BYTES)
        peer.sent += size
        peer.http = peer.http or has_http(&streams[number][at], peer.sent - at)
        cut(peer, streams[number])
        return 0

    cdef int close(self, int number) except -1:
        if self.connections[number] is not None:
            (<MemoryConnection>self.connections[number]).close(self.now_ns)
            self.connections[number] = None
        return 0

    cdef int settle(self) except -1:
        """Run until nothing is left to do at this time; then check everything."""
        cdef int64_t wait_ns = 0
        cdef int iterations = 0
        cdef bint told = True
        while wait_ns == 0 or told:
            at_most("iterations until it comes to rest", iterations, TICKS_AT_MOST)
            iterations += 1
            wait_ns = self.hub.end_iteration(self.now_ns)
            told = False
            for number in range(PEERS):
                if self.connections[number] is not None:
                    output = (<MemoryConnection>self.connections[number]).take_output()
                    hear(&self.peers[number], output, len(output))
                    told = told or len(output) > 0
        self.check_clients()
        self.check_counts()
        return 0

    cdef int check_clients(self) except -1:
        cdef Connection *connection
        cdef Peer *peer
        for number in range(PEERS):
            if self.connections[number] is None:
                continue
            connection = (<MemoryConnection>self.connections[number]).connection
            peer = &self.peers[number]
            equal("bytes of a half reply", peer.line_bytes + peer.to_skip, 0)
            if peer.full:
                at_most("replies", peer.replies, peer.commands + 1)
            elif connection.blocked:
                equal("a blocked client is there", connection.closed, False)
                at_most("replies to a blocked client", peer.replies + 1, peer.commands)
            elif connection.closed and peer.http:
                at_most("replies before HTTP", peer.replies, peer.commands)
            else:
                equal("replies", peer.replies, peer.commands)
                equal("closed after quit or half-close", connection.closed, peer.quit or connection.eof)
            if connection.closed:
                self.connections[number] = None
        return 0

    cdef int check_counts(self) except -1:
        cdef State state = self.state
        cdef uint64_t here = 0, waiting = 0
        for number in range(PEERS):
            if self.connections[number] is not None:
                here += 1
                waiting += (<MemoryConnection>self.connections[number]).connection.client.waiting
        equal("connections", state.counts.connections, here)
        equal("clients", state.clients.numbers - state.clients.free_count, here)
        equal("waiting", state.counts.waiting, waiting)
        equal(
            "jobs", state.jobs.count,
            state.counts.ready + state.counts.reserved + state.counts.delayed + state.counts.buried,
        )
        at_most("urgent", state.counts.urgent, state.counts.ready)
        at_most("producers", state.counts.producers, here)
        at_most("workers", state.counts.workers, here)
        equal("timers", state.timers.len, state.tubes.count + here)
        return 0

    cdef int finish(self) except -1:
        """Disconnect all clients, delete all jobs, let all pauses end: nothing may be left."""
        cdef State state = self.state
        cdef Command command
        cdef int number
        cdef uint64_t id
        for number in range(PEERS):
            self.close(number)
        self.settle()
        equal("reserved jobs without clients", state.counts.reserved, 0)
        for id in range(1, state.next_id):
            command.id = id
            delete(state, self.client(0).connection.client, &command, self.now_ns)
        self.close(0)
        self.now_ns += LONGEST_PAUSE_S * SECOND_NS
        self.settle()
        equal("jobs at the end", state.jobs.count, 0)
        equal("tubes at the end", state.tubes.count, 1)
        return 0


cdef size_t command(const uint8_t *data, size_t size, char *line, size_t *body_bytes) noexcept:
    """Fill in a template with two bytes of the input; the body of a put is the end of `filler`. Returns the length."""
    cdef uint8_t form = data[0] % FORMS if size else 0
    cdef uint8_t byte = data[1] if size > 1 else 0
    cdef uint32_t id = 1 + (byte & 15), second = byte >> 4 & 3, third = byte >> 6
    cdef int length
    body_bytes[0] = 0
    if form == FORM_PUT or form == FORM_LARGE_PUT:
        body_bytes[0] = 2 + (third if form == FORM_PUT else LARGEST_BODY - third)
        length = snprintf(
            line, LINE_BYTES, "put %u %u %u %u\r\n", id, second, third, <uint32_t>(body_bytes[0] - 2)
        )
        return length
    return snprintf(line, LINE_BYTES, forms[form], id, second, third)


cdef int send_command(World world, int number, int manner, const uint8_t *data, size_t size) except -1:
    """Send a command; `manner` says into which pieces it is cut."""
    cdef char[LINE_BYTES] line
    cdef size_t body_bytes, at, first
    cdef size_t length = command(data, size, line, &body_bytes)
    cdef const char *body = filler + LARGEST_BODY + 2 - body_bytes
    if manner == 0:                     # in two pieces, and the server is at rest in between
        first = data[1] % length if size > 1 else 1
        world.send(number, line, first)
        world.settle()
        world.send(number, line + first, length - first)
    elif manner == 1:                   # byte by byte
        for at in range(length):
            world.send(number, line + at, 1)
    else:
        world.send(number, line, length)
    if body_bytes and manner == 0:
        world.send(number, body, body_bytes - 1)
        world.send(number, body + body_bytes - 1, 1)
    elif body_bytes:
        world.send(number, body, body_bytes)
    return 0


cdef size_t step(World world, const uint8_t *data, size_t size) except 0:
    """Run one step; returns how many bytes of the input it used."""
    cdef int number = data[0] & 3
    cdef int action = data[0] >> 2 & 15
    cdef size_t length
    if action < 8:
        send_command(world, number, action, data + 1, size - 1)
        if data[0] & 64:
            world.settle()
        return 3
    if action < 11:
        length = min(<size_t>(data[1] & 63 if size > 1 else 0), size - min(size, <size_t>2))
        world.send(number, <const char *>data + 2, length)
        return 2 + length
    if action == 11 or action == 12:
        world.settle()
        world.now_ns += passing_ns[data[0] >> 5]
        world.state.begin_iteration(world.now_ns)
        expire(world.state, world.now_ns)
    elif action == 13:
        world.close(number)
    elif action == 14:
        world.state.draining = not world.state.draining
    elif not world.client(number).connection.closed:
        world.client(number).feed_eof(world.now_ns)
    return 1


cdef World world = None
cdef int inputs = 0
cdef int64_t[<int>LIVE_KINDS] alive         # in a server that is empty


cdef int play(const uint8_t *data, size_t size) except -1:
    global world, inputs
    cdef size_t at = 0
    cdef int kind
    if inputs % INPUTS_OF_A_SERVER == 0:
        world = None
        for kind in range(LIVE_KINDS):
            equal("objects alive without a server", live[kind], 0)
        world = World()
        memcpy(alive, live, sizeof(alive))
    inputs += 1
    world.begin()
    while at < size:
        at += step(world, data + at, size - at)
    world.settle()
    world.finish()
    for kind in range(LIVE_KINDS):
        equal("objects alive at the end", live[kind], alive[kind])
    return 0


cdef int one(const uint8_t *data, size_t size) noexcept:
    try:
        play(data, size)
    except BaseException as error:
        print(repr(error))
        equal("no error", 1, 0)
    return 0


TARGET = as_capsule(one)


def run(bytes data not None):
    """Run one input, without a fuzzer."""
    one(<const uint8_t *><char *>data, len(data))
