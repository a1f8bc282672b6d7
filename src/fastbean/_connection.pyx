"""One client's bytes: received, cut into commands, answered, sent; and the hub of all clients of one server.

The way of a command: the loop says that a socket is readable, `on_ready` receives (into the hub's shared buffer, or
straight into the body of the job on its way), `run` cuts lines and bodies, `execute` calls the engine, `answer` writes
the reply into the outbox, `flush` sends it. One receive and one send serve all commands that came together.

What bounds a client: one receive and STEPS_IN_A_TICK lines and bodies in each tick; INPUT_LIMIT bytes received and
not run; about OUTPUT_LIMIT bytes (and one reply) answered and not sent, beyond which it gets no further command run; a
body of at most the largest job. A connection costs nothing while nothing happens, and well below 2 KiB.

Always true between two calls: a connection that could run a command stands in ``runnable``, or its socket is watched; a
connection whose command is not answered yet (``blocked``) runs no other; a closed one stands in no list of the engine.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from fastbean._buffer cimport (
    Buffer, buffer_append, buffer_append_number, buffer_append_text, buffer_drop_front, buffer_free, buffer_reserve,
)
from fastbean._client cimport WORK_NONE, Client
from fastbean._engine cimport Engine
from fastbean._job cimport Job, job_body, job_unpin
from fastbean._protocol cimport (
    MAX_LINE_BYTES, OP_BURY, OP_DELETE, OP_IGNORE, OP_KICK, OP_KICK_JOB, OP_LIST_TUBE_USED, OP_LIST_TUBES,
    OP_LIST_TUBES_WATCHED, OP_PAUSE_TUBE, OP_PEEK, OP_PEEK_BURIED, OP_PEEK_DELAYED, OP_PEEK_READY, OP_PUT,
    OP_QUIT, OP_RELEASE, OP_RESERVE, OP_RESERVE_JOB, OP_RESERVE_WITH_TIMEOUT, OP_STATS, OP_STATS_JOB,
    OP_TOUCH, OP_USE, OP_WATCH, REPLY_BAD_FORMAT, REPLY_DRAINING, REPLY_EXPECTED_CRLF, REPLY_FOUND, REPLY_INSERTED,
    REPLY_JOB_TOO_BIG, REPLY_KICKED_COUNT, REPLY_NONE, REPLY_NOT_FOUND, REPLY_OK, REPLY_RESERVED,
    REPLY_USING, REPLY_WATCHING, Command, Op, Reply, line_length, parse_line, reply_text,
)
from fastbean._report cimport stats_job_text, stats_text, stats_tube_text
from fastbean._state cimport NEVER
from fastbean._tube cimport tube_name

from selectors import EVENT_READ as _EVENT_READ, EVENT_WRITE as _EVENT_WRITE

from fastbean.errors import LogFailedError

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t recvmsg(int fd, msghdr *message, int flags)
    ssize_t sendmsg(int fd, msghdr *message, int flags)
    ssize_t recv(int fd, void *data, size_t size, int flags)
    ssize_t send(int fd, const void *data, size_t size, int flags)
    int MSG_DONTWAIT
    int MSG_NOSIGNAL

cdef extern from "<poll.h>" nogil:
    """
    #include <poll.h>
    #ifndef POLLRDHUP
    #define POLLRDHUP 0
    #endif
    """
    cdef struct pollfd:
        int fd
        short events
        short revents
    int poll(pollfd *fds, unsigned long count, int timeout)
    int POLLERR, POLLHUP, POLLNVAL, POLLRDHUP

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)

cdef enum:
    SCRATCH_BYTES = 65536
    INPUT_LIMIT = 65536             # received bytes that wait behind an unanswered command
    OUTPUT_LIMIT = 262144           # answered bytes from which on no further command is run
    SENT_AT_ONCE = 1048576          # bytes to one client, after which others are served
    COPY_LIMIT = 16384              # a larger body is sent from its job
    KEPT_BYTES = 512                # an emptied buffer that is larger is given back
    STEPS_IN_A_TICK = 512           # lines and bodies of one client
    LOOK_EVERY_NS = 1000000000      # at clients that the selector does not watch
    CRLF_BYTES = 2
    SWALLOWED_RECEIVES = 4          # before a close
    PIECES = 16                     # of one sendmsg
    READ = 1
    WRITE = 2
    MAX_PINS = 0xFFFF
    OUT_OF_MEMORY_RETRY_NS = 100000000

assert (_EVENT_READ, _EVENT_WRITE) == (READ, WRITE)


@cython.final
cdef class Hub:
    """All connections of one server: the shared receive buffer, and who has something to run or to send.

    Args:
        engine: the engine that runs the commands.
        selector: where sockets are watched; None is fine as long as no socket is adopted.
    """

    def __cinit__(self, Engine engine not None, selector=None):
        self.engine = engine
        self.selector = selector
        self.open = set()
        self.runnable = []
        self.unwatched = set()
        self.answered = []
        self.gated = []
        # A partial line is put in front of what arrives, so that a line always lies in one piece.
        self.scratch = <char *>malloc(MAX_LINE_BYTES + SCRATCH_BYTES)
        if self.scratch is NULL:
            raise MemoryError("no memory for the receive buffer")

    def __dealloc__(self):
        free(self.scratch)

    @property
    def connections(self):
        """How many connections are open."""
        return len(self.open)

    @property
    def unsent(self):
        """How many connections have replies that are not sent yet."""
        return sum(1 for connection in self.open if (<Connection>connection).unsent())

    def adopt(self, sock, str peer, int64_t now_ns):
        """Take over an accepted socket and serve it.

        Args:
            sock: the socket; it is detached, and closed when the client goes.
            peer: who it is, for the log.
            now_ns: the monotonic time in nanoseconds.

        Returns:
            The new Connection.

        Raises:
            OSError: the selector cannot watch the socket. The socket is closed.
            MemoryError: likewise for memory.
        """
        cdef Connection connection
        try:
            connection = self.open_connection(sock.fileno())
        except MemoryError:
            sock.close()
            raise
        sock.detach()
        try:
            self.selector.register(connection.fd, READ, connection)
        except BaseException:
            connection.drop(now_ns)
            raise
        connection.interest = READ
        if self.verbosity >= 1:
            self.emit("accept", connection.fd, peer.encode())
        return connection

    def connect(self):
        """A client in memory, without a socket: fed by `Connection.feed`, read by `Connection.take_output`."""
        return self.open_connection(-1)

    cdef Connection open_connection(self, int fd):
        cdef Connection connection = Connection.__new__(Connection, self, fd)
        self.open.add(connection)
        return connection

    def handle(self, list events, int64_t now_ns):
        """Serve what the selector found ready.

        Args:
            events: what ``selector.select`` returned. A key whose data is a Connection is served here; any other
                data is called with the mask.
            now_ns: the monotonic time in nanoseconds.
        """
        cdef object data
        self.ready = len(events)
        self.engine.begin_tick()
        # A command finds the world as it is now, even if the process was kept from running for a while.
        self.engine.expire(now_ns)
        for key, mask in events:
            data = key[3]
            if type(data) is Connection:
                (<Connection>data).on_ready(mask, now_ns)
            else:
                data(mask)
        self.deliver()

    def tick(self, int64_t now_ns):
        """What no socket announces: commands left over, what time brings, unfinished work, replies to others.

        Raises:
            LogFailedError: the log could not be written or synced. Nothing is sent any more.

        Returns:
            Nanoseconds until it wants to be called again: 0 at once, -1 when only a socket can bring something new.
        """
        cdef list connections = self.runnable
        cdef Connection connection
        cdef bint more
        if self.unwatched and now_ns - self.looked_ns >= LOOK_EVERY_NS:
            self.look_at_unwatched(now_ns)
        self.runnable = []
        self.engine.begin_tick()
        for connection in connections:
            connection.is_runnable = False
            connection.resume(now_ns)
        more = self.engine.expire(now_ns)
        more = self.engine.work_on(now_ns) or more
        if self.engine.first_held is not NULL:
            self.engine.retry_held(now_ns)
        more = self.engine.journal.compact() or more
        self.deliver()
        self.commit(now_ns)
        if self.engine.journal.failure is not None:
            raise LogFailedError(f"{self.engine.journal.failure}; the server ends and tells no client anything more")
        connections = self.answered
        self.answered = []
        self.send(connections, now_ns)
        if self.engine.short_of_memory:
            return OUT_OF_MEMORY_RETRY_NS
        if more or self.runnable or self.answered or self.engine.first_answered is not NULL:
            return 0
        return self.next_ns(now_ns)

    cdef void commit(self, int64_t now_ns) noexcept:
        """Write what the log has gathered in this tick, and send the replies that waited for it."""
        cdef list connections
        cdef bint alone = len(self.gated) == 1 and self.ready == 1 and not self.runnable
        self.engine.journal.commit(now_ns, alone)
        if self.gated and self.engine.journal.failure is None:
            connections = self.gated
            self.gated = []
            self.send(connections, now_ns)

    cdef void send(self, list connections, int64_t now_ns) noexcept:
        cdef Connection connection
        for connection in connections:
            connection.is_answered = False
            connection.is_gated = False
            if not connection.closed:
                connection.flush(now_ns)
                connection.settle(now_ns)

    cdef int64_t next_ns(self, int64_t now_ns) noexcept:
        """Nanoseconds until time brings something new, or -1."""
        cdef int64_t due_ns = self.engine.next_timer_ns()
        cdef int64_t log_ns = self.engine.journal.due_ns()
        if due_ns == NEVER or (log_ns != NEVER and log_ns < due_ns):
            due_ns = log_ns
        if self.unwatched and (due_ns == NEVER or due_ns > self.looked_ns + LOOK_EVERY_NS):
            due_ns = self.looked_ns + LOOK_EVERY_NS
        return -1 if due_ns == NEVER else max(due_ns - now_ns, 0)

    def close_all(self, int64_t now_ns):
        """Close every connection at once."""
        for connection in list(self.open):
            (<Connection>connection).drop(now_ns)

    cdef void look_at_unwatched(self, int64_t now_ns) noexcept:
        """Clients whose input is full are not watched by the selector: see whether they are still there."""
        cdef Connection connection
        self.looked_ns = now_ns
        for connection in list(self.unwatched):
            connection.look_for_hang_up(now_ns)

    cdef void deliver(self) noexcept:
        """Write the answers of clients that did not ask just now; they are sent at the end of the tick."""
        cdef Client *client = self.engine.next_answered()
        cdef Connection connection
        while client is not NULL:
            connection = <Connection>client.connection
            connection.blocked = False
            connection.answer(client.answer.reply)
            if connection.input.len or connection.eof:
                connection.make_runnable()
            if not connection.is_answered:
                connection.is_answered = True
                self.answered.append(connection)
            client = self.engine.next_answered()

    cdef void emit(self, str event, int fd, bytes text) noexcept:
        if self.on_event is not None:
            self.on_event(event, fd, text.decode("latin-1"))


@cython.final
@cython.no_gc_clear
cdef class Connection:
    """One client's bytes. Made by `Hub.adopt` (with a socket) or `Hub.connect` (in memory)."""

    def __cinit__(self, Hub hub not None, int fd):
        self.hub = hub
        self.engine = hub.engine
        self.fd = fd
        self.client = self.engine.connect(<void *>self)
        if self.client is NULL:
            raise MemoryError("no memory for another connection")

    def __dealloc__(self):
        self.free_buffers()

    def feed(self, bytes data not None, int64_t now_ns):
        """In memory only: bytes arrive.

        Args:
            data: what the client sends.
            now_ns: the monotonic time in nanoseconds.

        Raises:
            BufferError: the client's command is not answered yet, and more than 65536 bytes stand behind it.
        """
        cdef iovec[2] where
        cdef size_t offset = 0, size, piece
        cdef int count, part
        while offset < <size_t>len(data) and not self.closed:
            count = self.space(where)
            if count == 0:
                raise BufferError("the client has sent too much behind a command that is not answered yet")
            size = 0
            for part in range(count):
                piece = min(where[part].iov_len, <size_t>len(data) - offset)
                memcpy(where[part].iov_base, PyBytes_AS_STRING(data) + offset, piece)
                offset += piece
                size += piece
            self.arrived(size, now_ns)
            self.settle(now_ns)
        self.hub.deliver()

    def feed_eof(self, int64_t now_ns):
        """In memory only: the client has closed its sending half."""
        self.end_of_file()
        self.settle(now_ns)
        self.hub.deliver()

    def take_output(self):
        """In memory only: the replies since the last call, as bytes."""
        cdef iovec[PIECES] pieces
        cdef bytes output = b""
        while self.unsent():
            if self.gather(pieces, self.open_end()) == 0:
                break
            output += PyBytes_FromStringAndSize(<char *>pieces[0].iov_base, pieces[0].iov_len)
            self.sent(pieces[0].iov_len)
        return output

    def close(self, int64_t now_ns):
        """The client is gone; what it had reserved is ready again."""
        self.drop(now_ns)
        self.hub.deliver()

    # Receiving

    cdef void on_ready(self, int events, int64_t now_ns) noexcept:
        """The socket is readable, writable or both."""
        if self.closed:
            return
        if events & WRITE:
            self.socket_full = False
            self.flush(now_ns)
        if events & READ:
            self.receive(now_ns)
        self.settle(now_ns)

    cdef void receive(self, int64_t now_ns) noexcept:
        cdef iovec[2] where
        cdef msghdr message
        cdef ssize_t size
        cdef int count = self.space(where)
        if count == 0:
            return
        if count == 1:
            size = recv(self.fd, where[0].iov_base, where[0].iov_len, MSG_DONTWAIT)
        else:
            memset(&message, 0, sizeof(message))
            message.msg_iov = where
            message.msg_iovlen = count
            size = recvmsg(self.fd, &message, MSG_DONTWAIT)
        if size > 0:
            self.arrived(size, now_ns)
            self.flush(now_ns)
        elif size == 0:
            self.end_of_file()
        elif errno != EAGAIN and errno != EINTR:
            self.drop(now_ns)

    cdef int space(self, iovec *where) noexcept:
        """Where the next bytes go. Fills up to two pieces and returns how many; 0 when none may come now."""
        cdef size_t more
        if self.closed or self.eof or self.quitting:
            return 0
        if self.is_halted():
            if self.input.len >= INPUT_LIMIT:
                return 0
            more = min(INPUT_LIMIT - self.input.len, max(self.input.len, <size_t>KEPT_BYTES))
            if buffer_reserve(&self.input, more) < 0:
                return 0
            where[0].iov_base = self.input.data + self.input.len
            where[0].iov_len = more
            return 1
        if self.phase == PHASE_BODY and self.body_got < self.client.arriving.body_bytes:
            where[0].iov_base = job_body(self.client.arriving) + self.body_got
            where[0].iov_len = self.client.arriving.body_bytes - self.body_got
            where[1].iov_base = self.hub.scratch
            where[1].iov_len = SCRATCH_BYTES
            return 2
        # A partial line is put in front of what arrives, so that a line always lies in one piece.
        where[0].iov_base = self.hub.scratch + self.input.len
        where[0].iov_len = SCRATCH_BYTES
        return 1

    cdef void arrived(self, size_t size, int64_t now_ns) noexcept:
        """`size` bytes have been put where `space` said: run what is complete, keep the rest."""
        cdef char *scratch = self.hub.scratch
        cdef size_t used
        if self.is_halted():
            self.input.len += size
            return
        if self.phase == PHASE_BODY and self.body_got < self.client.arriving.body_bytes:
            used = min(size, <size_t>(self.client.arriving.body_bytes - self.body_got))
            self.body_got += <uint32_t>used
            size -= used
        elif self.input.len:
            memcpy(scratch, self.input.data, self.input.len)
            size += self.input.len
            self.input.len = 0
        used = self.run(scratch, size, now_ns)
        if used < size:
            buffer_append(&self.input, scratch + used, size - used)
        elif self.input.cap > KEPT_BYTES:
            buffer_free(&self.input)

    cdef void end_of_file(self) noexcept:
        """The client will send no more. What it has sent is still answered; a wait is over at once."""
        self.eof = True
        self.give_up_waiting()

    cdef void give_up_waiting(self) noexcept:
        if (self.eof or self.hung_up) and self.client.waiting:
            self.engine.give_up_waiting(self.client)

    cdef void look_for_hang_up(self, int64_t now_ns) noexcept:
        """Ask the socket itself, which nobody watches, whether the client has gone or will send no more."""
        cdef pollfd asked
        asked.fd = self.fd
        asked.events = POLLRDHUP
        asked.revents = 0
        if poll(&asked, 1, 0) <= 0:
            return
        if asked.revents & (POLLERR | POLLHUP | POLLNVAL):
            self.drop(now_ns)
        elif asked.revents & POLLRDHUP:
            self.hung_up = True
            self.give_up_waiting()

    cdef bint is_halted(self) noexcept:
        """Whether what arrives has to wait behind commands that are not run yet."""
        return self.blocked or self.is_runnable or self.held_back

    cdef void make_runnable(self) noexcept:
        """Have the hub call `resume` in the next tick."""
        if not self.is_runnable and not self.closed:
            self.is_runnable = True
            self.hub.runnable.append(self)

    cdef void resume(self, int64_t now_ns) noexcept:
        """Go on with commands that were received before."""
        if self.closed:
            return
        buffer_drop_front(&self.input, self.run(self.input.data, self.input.len, now_ns))
        if self.input.len == 0 and self.input.cap > KEPT_BYTES:
            buffer_free(&self.input)
        self.flush(now_ns)
        self.settle(now_ns)

    # Cutting

    cdef size_t run(self, char *data, size_t size, int64_t now_ns) noexcept:
        """Run the commands in `data`, as many as may run now. Returns how many bytes are done with."""
        cdef size_t at = 0
        cdef size_t used
        cdef uint32_t steps = 0
        while at < size and not self.blocked and not self.quitting:
            if self.unsent() >= OUTPUT_LIMIT:
                self.held_back = True
                break
            if steps == STEPS_IN_A_TICK or (steps and self.engine.effort >= self.engine.effort_limit):
                self.make_runnable()
                break
            steps += 1
            if self.phase == PHASE_LINE:
                used = self.take_line(data + at, size - at, now_ns)
            elif self.phase == PHASE_BODY:
                used = self.take_body(data + at, size - at, now_ns)
            elif self.phase == PHASE_SKIP:
                used = self.take_skipped(size - at)
            else:
                used = self.take_long_line(data + at, size - at)
            if used == 0:
                break
            at += used
        return size if self.quitting else at

    cdef size_t take_line(self, char *data, size_t size, int64_t now_ns) noexcept:
        """One command line. Returns the bytes used, 0 when its end has not come."""
        cdef size_t length = line_length(data, min(size, <size_t>MAX_LINE_BYTES))
        if length:
            self.execute(data, length - CRLF_BYTES, now_ns)
            return length
        if size < MAX_LINE_BYTES:
            return 0
        self.phase = PHASE_LONG_LINE
        return self.take_long_line(data, size)

    cdef size_t take_long_line(self, const char *data, size_t size) noexcept:
        """Part of a line that is too long; at its end it is answered."""
        cdef size_t length = line_length(data, size)
        if length:
            self.phase = PHASE_LINE
            self.answer(REPLY_BAD_FORMAT)
            return length
        # Its LF may be the next byte to come.
        return size - 1 if data[size - 1] == c'\r' else size

    cdef size_t take_body(self, const char *data, size_t size, int64_t now_ns) noexcept:
        """Part of a put's body, or of the CRLF behind it."""
        cdef Job *job = self.client.arriving
        cdef size_t used = 0
        if self.body_got < job.body_bytes:
            used = min(size, <size_t>(job.body_bytes - self.body_got))
            memcpy(job_body(job) + self.body_got, data, used)
            self.body_got += <uint32_t>used
        while used < size and self.body_got < job.body_bytes + CRLF_BYTES:
            self.trailer[self.body_got - job.body_bytes] = data[used]
            self.body_got += 1
            used += 1
        if self.body_got == job.body_bytes + CRLF_BYTES:
            self.end_put(now_ns)
        return used

    cdef size_t take_skipped(self, size_t size) noexcept:
        """Part of a body that nobody wants."""
        cdef size_t used = min(<uint64_t>size, self.to_skip)
        self.to_skip -= used
        if self.to_skip == 0:
            self.phase = PHASE_LINE
            self.answer(self.refusal)
        return used

    # Running

    cdef void execute(self, char *line, size_t size, int64_t now_ns) noexcept:
        """Run one command line (without its CRLF) and answer it, if it can be answered now."""
        cdef Command command
        cdef Reply reply
        parse_line(line, size, &command)
        if self.hub.verbosity >= 2:
            self.hub.emit("command", self.fd, line[:size])
        self.engine.commands[<int>command.op] += 1
        if command.op == OP_PUT:
            reply = self.begin_put(&command, now_ns)
        elif command.fault != REPLY_NONE:
            reply = command.fault
        else:
            reply = self.dispatch(&command, now_ns)
        if reply != REPLY_NONE:
            self.answer(reply)
            return
        self.blocked = self.is_blocked()
        self.give_up_waiting()

    cdef bint is_blocked(self) noexcept:
        """Whether the command that ran last is answered later."""
        return self.client.waiting or self.client.held or self.client.work.kind != WORK_NONE

    cdef Reply dispatch(self, Command *command, int64_t now_ns) noexcept:
        """Call the engine's function for the command."""
        cdef Engine engine = self.engine
        cdef Client *client = self.client
        cdef Op op = command.op
        if op == OP_RESERVE:
            return engine.reserve(client, NEVER, now_ns)
        if op == OP_RESERVE_WITH_TIMEOUT:
            return engine.reserve(client, command.timeout_s, now_ns)
        if op == OP_DELETE:
            return engine.delete(client, command.id)
        if op == OP_RELEASE:
            return engine.release(client, command.id, command.pri, command.delay_s, now_ns)
        if op == OP_BURY:
            return engine.bury(client, command.id, command.pri)
        if op == OP_TOUCH:
            return engine.touch(client, command.id, now_ns)
        if op == OP_USE:
            return engine.use(client, command.name, command.name_bytes)
        if op == OP_WATCH:
            return engine.watch(client, command.name, command.name_bytes)
        if op == OP_IGNORE:
            return engine.ignore(client, command.name, command.name_bytes)
        if op == OP_RESERVE_JOB:
            return engine.reserve_job(client, command.id, now_ns)
        if op == OP_KICK:
            return engine.kick(client, command.count, now_ns)
        if op == OP_KICK_JOB:
            return engine.kick_job(command.id, now_ns)
        if op == OP_PAUSE_TUBE:
            return engine.pause_tube(command.name, command.name_bytes, command.delay_s, now_ns)
        if op == OP_QUIT:
            self.quitting = True
            return REPLY_NONE
        return self.dispatch_look(command, now_ns)

    cdef Reply dispatch_look(self, Command *command, int64_t now_ns) noexcept:
        """The commands that change nothing."""
        cdef Engine engine = self.engine
        cdef Client *client = self.client
        cdef Buffer *text = &client.answer.text
        cdef Op op = command.op
        cdef bint there = True
        if op == OP_PEEK:
            return engine.peek(client, command.id)
        if op == OP_PEEK_READY:
            return engine.peek_ready(client)
        if op == OP_PEEK_DELAYED:
            return engine.peek_delayed(client)
        if op == OP_PEEK_BURIED:
            return engine.peek_buried(client)
        if op == OP_LIST_TUBE_USED:
            return REPLY_USING
        if op == OP_LIST_TUBES:
            return engine.list_tubes(client, now_ns)
        if op == OP_LIST_TUBES_WATCHED:
            return engine.list_tubes_watched(client, now_ns)
        if op == OP_STATS:
            stats_text(engine, text, now_ns)
        elif op == OP_STATS_JOB:
            there = stats_job_text(engine, command.id, text, now_ns)
        else:
            there = stats_tube_text(engine, command.name, command.name_bytes, text, now_ns)
        return REPLY_OK if there else REPLY_NOT_FOUND

    cdef Reply begin_put(self, Command *command, int64_t now_ns) noexcept:
        """The line of a put. A body that is refused here for its size or for want of memory is skipped."""
        if command.op == OP_PUT and command.body_bytes > self.engine.max_job_size:
            self.refusal = REPLY_JOB_TOO_BIG
        elif command.fault != REPLY_NONE:
            return command.fault
        else:
            self.refusal = self.engine.put_begin(self.client, command, now_ns)
        if self.refusal == REPLY_NONE:
            self.phase = PHASE_BODY
            self.body_got = 0
        else:
            self.phase = PHASE_SKIP
            self.to_skip = <uint64_t>command.body_bytes + CRLF_BYTES
        return REPLY_NONE

    cdef void end_put(self, int64_t now_ns) noexcept:
        """The body of a put and its CRLF have come."""
        cdef Reply reply
        self.phase = PHASE_LINE
        if self.trailer[0] == c'\r' and self.trailer[1] == c'\n':
            reply = self.engine.put_end(self.client, now_ns)
            self.blocked = self.is_blocked()
            if reply != REPLY_NONE:
                self.answer(reply)
        else:
            self.engine.put_abort(self.client)
            self.answer(REPLY_EXPECTED_CRLF)

    # Answering

    cdef void answer(self, Reply reply) noexcept:
        """Write a reply, and what goes with it (``client.answer``), into the outbox."""
        cdef Buffer *out = &self.out
        cdef size_t start = out.len
        buffer_append_text(out, reply_text(reply))
        if reply == REPLY_RESERVED or reply == REPLY_FOUND:
            self.append_job(self.client.answer.job)
        elif reply == REPLY_INSERTED or reply == REPLY_WATCHING or reply == REPLY_KICKED_COUNT:
            buffer_append_number(out, self.client.answer.number)
            buffer_append(out, b"\r\n", CRLF_BYTES)
        elif reply == REPLY_USING:
            buffer_append(out, tube_name(self.client.use), self.client.use.name_bytes)
            buffer_append(out, b"\r\n", CRLF_BYTES)
        elif reply == REPLY_OK:
            self.append_text(&self.client.answer.text)
        if self.engine.logging:
            self.gate(start, self.lsn_of(reply))
        if self.hub.verbosity >= 2 and not out.failed:
            self.hub.emit("reply", self.fd, out.data[start:out.len].split(b"\r\n", 1)[0])

    cdef uint64_t lsn_of(self, Reply reply) noexcept:
        """How far the log has to be safe before this reply may be sent."""
        if reply == REPLY_RESERVED or reply == REPLY_FOUND:
            return self.job_lsn(self.client.answer.job)
        if reply == REPLY_USING or reply == REPLY_WATCHING or reply >= REPLY_DRAINING:
            return 0
        # It tells of a record of this command, or that something is not there: both the log may still have to learn.
        return self.engine.journal.gate_lsn

    cdef uint64_t job_lsn(self, Job *job) noexcept:
        """The newest LSN that ends as the job's does: its own, or for an old job one that is no less safe."""
        cdef uint64_t end_lsn = self.engine.journal.end_lsn
        cdef uint32_t behind = <uint32_t>end_lsn - job.lsn
        return end_lsn - behind if behind <= end_lsn else 0

    cdef void gate(self, size_t at, uint64_t lsn) noexcept:
        """What begins at this offset of the outbox is not sent before the log is safe up to `lsn`."""
        cdef uint32_t cap = self.gates_cap * 2 if self.gates_cap else 4
        cdef Gate *gates
        if lsn <= self.engine.journal.committed_lsn:
            return
        if self.gates_count and self.gates[self.gates_count - 1].lsn >= lsn:
            return
        if self.gates_count == self.gates_cap:
            gates = <Gate *>realloc(self.gates, cap * sizeof(Gate))
            if gates is NULL:
                self.out.failed = True
                return
            self.gates = gates
            self.gates_cap = cap
        self.gates[self.gates_count].at = at
        self.gates[self.gates_count].lsn = lsn
        self.gates_count += 1

    cdef void append_job(self, Job *job) noexcept:
        """The id, the size and the body of a job."""
        cdef Buffer *out = &self.out
        buffer_append_number(out, self.client.answer.number)
        buffer_append(out, b" ", 1)
        buffer_append_number(out, job.body_bytes)
        buffer_append(out, b"\r\n", CRLF_BYTES)
        if job.body_bytes <= COPY_LIMIT or job.pins == MAX_PINS or self.pin(job) < 0:
            buffer_append(out, job_body(job), job.body_bytes)
        buffer_append(out, b"\r\n", CRLF_BYTES)

    cdef int pin(self, Job *job) noexcept:
        """Send the body from the job itself. Returns 0, or -1 without memory."""
        cdef uint32_t cap = self.pinned_cap * 2 if self.pinned_cap else 1
        cdef Pinned *pinned
        if self.pinned_count == self.pinned_cap:
            pinned = <Pinned *>realloc(self.pinned, cap * sizeof(Pinned))
            if pinned is NULL:
                return -1
            self.pinned = pinned
            self.pinned_cap = cap
        self.pinned[self.pinned_count].job = job
        self.pinned[self.pinned_count].at = self.out.len
        self.pinned[self.pinned_count].sent = 0
        self.pinned_count += 1
        self.pinned_bytes += job.body_bytes
        job.pins += 1
        return 0

    cdef void append_text(self, Buffer *text) noexcept:
        """The size and the bytes of a text, which is then empty again."""
        cdef Buffer *out = &self.out
        buffer_append_number(out, text.len)
        buffer_append(out, b"\r\n", CRLF_BYTES)
        buffer_append(out, text.data, text.len)
        buffer_append(out, b"\r\n", CRLF_BYTES)
        out.failed = out.failed or text.failed
        buffer_free(text)

    # Sending

    cdef size_t unsent(self) noexcept:
        """Bytes that are answered and not yet sent."""
        return self.out.len - self.out_start + self.pinned_bytes

    cdef size_t open_end(self) noexcept:
        """The offset of the outbox up to which replies may be sent: all of it, or where the first gate is shut."""
        if self.gates_count == 0:
            return self.out.len
        while self.gates_first < self.gates_count:
            if self.gates[self.gates_first].lsn > self.engine.journal.committed_lsn:
                return self.gates[self.gates_first].at
            self.gates_first += 1
        self.gates_first = 0
        self.gates_count = 0
        return self.out.len

    cdef int gather(self, iovec *pieces, size_t end) noexcept:
        """The first PIECES pieces of what is to be sent up to `end`. Returns how many there are."""
        cdef size_t at = self.out_start
        cdef uint32_t place
        cdef Pinned *body
        cdef int count = 0
        for place in range(self.pinned_first, self.pinned_count):
            body = &self.pinned[place]
            if body.at >= end:
                break
            if at < body.at:
                pieces[count].iov_base = self.out.data + at
                pieces[count].iov_len = body.at - at
                at = body.at
                count += 1
            pieces[count].iov_base = job_body(body.job) + body.sent
            pieces[count].iov_len = min(<size_t>(body.job.body_bytes - body.sent), <size_t>SENT_AT_ONCE)
            count += 1
            if count > PIECES - 2 or body.job.body_bytes - body.sent > SENT_AT_ONCE:
                return count
        if at < end:
            pieces[count].iov_base = self.out.data + at
            pieces[count].iov_len = end - at
            count += 1
        return count

    cdef void sent(self, size_t size) noexcept:
        """`size` bytes are on their way: forget them."""
        cdef Pinned *body
        cdef size_t step
        while size and self.pinned_first < self.pinned_count:
            body = &self.pinned[self.pinned_first]
            if self.out_start < body.at:
                step = min(size, body.at - self.out_start)
                self.out_start += step
            else:
                step = min(size, <size_t>(body.job.body_bytes - body.sent))
                body.sent += <uint32_t>step
                self.pinned_bytes -= step
                if body.sent == body.job.body_bytes:
                    job_unpin(body.job)
                    self.pinned_first += 1
            size -= step
        self.out_start += size
        if self.unsent() == 0:
            self.out.len = 0
            self.out_start = 0
            self.pinned_first = 0
            self.pinned_count = 0
            if self.out.cap > KEPT_BYTES:
                buffer_free(&self.out)
        elif self.out_start >= SCRATCH_BYTES and self.out_start >= self.out.len // 2:
            self.shift_outbox()
        if self.held_back and self.unsent() < OUTPUT_LIMIT:
            self.held_back = False
            self.make_runnable()

    cdef void shift_outbox(self) noexcept:
        """Give the room of what was sent back: an outbox that is never quite empty must not grow for ever."""
        cdef uint32_t place
        self.pinned_count -= self.pinned_first
        for place in range(self.pinned_count):
            self.pinned[place] = self.pinned[place + self.pinned_first]
            self.pinned[place].at -= self.out_start
        self.pinned_first = 0
        self.gates_count -= self.gates_first
        for place in range(self.gates_count):
            self.gates[place] = self.gates[place + self.gates_first]
            self.gates[place].at -= self.out_start
        self.gates_first = 0
        buffer_drop_front(&self.out, self.out_start)
        self.out_start = 0

    cdef void flush(self, int64_t now_ns) noexcept:
        """Send what the socket takes."""
        cdef iovec[PIECES] pieces
        cdef msghdr message
        cdef size_t total = 0
        cdef size_t end
        cdef ssize_t size
        while self.unsent() and not self.socket_full and self.fd >= 0 and not self.closed:
            end = self.open_end()
            if self.pinned_count == 0 and end > self.out_start:
                size = send(
                    self.fd, self.out.data + self.out_start, min(end - self.out_start, <size_t>SENT_AT_ONCE),
                    MSG_DONTWAIT | MSG_NOSIGNAL,
                )
            else:
                memset(&message, 0, sizeof(message))
                message.msg_iov = pieces
                message.msg_iovlen = self.gather(pieces, end)
                if message.msg_iovlen == 0:
                    self.await_log()
                    return
                size = sendmsg(self.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if size >= 0:
                self.sent(size)
                total += size
                if total >= SENT_AT_ONCE and self.unsent():
                    # A reader that keeps up would be served for as long as there is anything: the others come first.
                    self.make_runnable()
                    return
            elif errno == EAGAIN:
                self.socket_full = True
            elif errno != EINTR:
                self.drop(now_ns)

    cdef void await_log(self) noexcept:
        """The rest of the outbox waits for the log: the hub sends it after the next commit."""
        if not self.is_gated:
            self.is_gated = True
            self.hub.gated.append(self)

    cdef void settle(self, int64_t now_ns) noexcept:
        """After everything that happens to a connection: close it if it is done with, watch what is to be watched."""
        if self.closed:
            return
        if self.out.failed or self.input.failed:
            self.drop(now_ns)
        elif (self.eof or self.quitting) and not self.is_halted() and not (self.fd >= 0 and self.unsent()):
            self.drop(now_ns)
        elif self.fd >= 0 and self.wanted_events() != self.interest:
            self.watch_events(self.wanted_events(), now_ns)

    cdef int wanted_events(self) noexcept:
        cdef int events = 0
        if not (self.eof or self.quitting or (self.is_halted() and self.input.len >= INPUT_LIMIT)):
            events |= READ
        if self.socket_full:
            events |= WRITE
        return events

    cdef void watch_events(self, int events, int64_t now_ns) noexcept:
        """Change what the selector watches; it cannot watch nothing."""
        try:
            if events == 0:
                self.hub.selector.unregister(self.fd)
                self.hub.unwatched.add(self)
            elif self.interest == 0:
                self.hub.unwatched.discard(self)
                self.hub.selector.register(self.fd, events, self)
            else:
                # A selector that cannot modify has given the socket up.
                self.interest = 0
                self.hub.selector.modify(self.fd, events, self)
            self.interest = events
        except OSError:
            # The kernel has no room to watch it: without that it would hang for ever.
            self.drop(now_ns)

    cdef void drop(self, int64_t now_ns) noexcept:
        """Close the connection now, whatever is left to run or to send."""
        cdef Client *client = self.client
        if self.closed:
            return
        self.closed = True
        if self.interest:
            self.hub.selector.unregister(self.fd)
        if self.hub.verbosity >= 1:
            self.hub.emit("close", self.fd, b"")
        self.hub.open.discard(self)
        self.hub.unwatched.discard(self)
        self.client = NULL
        self.engine.leave(client, now_ns)
        if self.fd >= 0:
            self.free_buffers()
            self.swallow()
            close_descriptor(self.fd)
            if self.hub.on_close is not None:
                self.hub.on_close()

    cdef void swallow(self) noexcept:
        """Take what the client has sent and nobody will read: else the close would reset the connection, and replies
        that are on their way could be lost."""
        cdef int _time
        for _time in range(SWALLOWED_RECEIVES):
            if recv(self.fd, self.hub.scratch, SCRATCH_BYTES, MSG_DONTWAIT) < SCRATCH_BYTES:
                return

    cdef void free_buffers(self) noexcept:
        while self.pinned_first < self.pinned_count:
            job_unpin(self.pinned[self.pinned_first].job)
            self.pinned_first += 1
        self.pinned_count = 0
        self.pinned_first = 0
        self.pinned_bytes = 0
        free(self.pinned)
        free(self.gates)
        self.gates = NULL
        self.gates_first = 0
        self.gates_count = 0
        self.gates_cap = 0
        self.pinned = NULL
        self.pinned_cap = 0
        buffer_free(&self.out)
        buffer_free(&self.input)
        self.out_start = 0
