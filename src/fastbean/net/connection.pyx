"""One client's bytes: received, cut into commands, answered, sent.

The way of a command: the loop reports that a socket is readable, `on_ready` receives (into a buffer that all
connections share, or straight into the body of the job being put), `run` cuts lines and bodies, `execute` has the
engine run the command, `answer` appends the reply to the outbox, `flush` sends it. One receive and one send serve all
commands that arrived together.

Limits of a client: one receive and STEPS_PER_ITERATION lines and bodies in each iteration; INPUT_LIMIT bytes received
but not run; about OUTPUT_LIMIT bytes (and one reply) not sent, above which none of its commands runs; a body of at most
the largest job. An idle connection costs no time, and well below 2 KiB.

Invariants, between two calls: a connection that could run a command is in ``runnable``, or its socket is watched; a
connection whose command has no reply yet (``blocked``) runs no other; a closed one is in no list of the engine.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

from fastbean.base.buffer cimport buffer_append, buffer_drop_front, buffer_free, buffer_reserve
from fastbean.engine.client cimport INPUT_LIMIT, OUTPUT_LIMIT, STEPS_PER_ITERATION, Client
from fastbean.engine.command_table cimport rows
from fastbean.engine.commands cimport awaited_lsn, connect, give_up_waiting, leave, put_abort, put_end, put_refuse
from fastbean.engine.state cimport State
from fastbean.engine.job cimport Job, job_body
from fastbean.base.debug_counters cimport LIVE_CONNECTIONS, live_born, live_gone
from fastbean.engine.memory cimport memory_count_buffers, memory_drop
from fastbean.net.outbox cimport (
    KEPT_BYTES, PIECES, SENT_AT_ONCE, outbox_answer, outbox_capacity, outbox_free, outbox_gate, outbox_gather,
    outbox_send, outbox_sent, outbox_unsent,
)
from fastbean.net.poller cimport EDGE, READ, WRITE, Poller
from fastbean.protocol.http_request cimport HTTP_TAIL_BYTES, ends_with_http_version, is_http, length_without_cr
from fastbean.protocol.replies cimport (
    REPLY_BAD_FORMAT, REPLY_EXPECTED_CRLF, REPLY_JOB_TOO_BIG, REPLY_NONE, Reply,
)
from fastbean.protocol.tokenizer cimport line_length
from fastbean.protocol.commands cimport FORM_PUT, MAX_LINE_BYTES, Command, parse_line
from fastbean.net.socket_calls cimport PEER_GONE, PEER_HALF_CLOSED, iovec, socket_drain, socket_peer, socket_receive

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)

cdef enum:
    SCRATCH_BYTES = 65536
    CRLF_BYTES = 2


cdef class Connections:
    """What all connections of one server share; the hub has one.

    Args:
        state: jobs, tubes and clients.
        poller: what watches the sockets, made by `new_selector`; None is fine as long as there is no socket.
    """

    def __cinit__(self, State state not None, poller=None):
        self.state = state
        self.poller = poller
        self.compiled = poller if isinstance(poller, Poller) else None
        self.open = set()
        self.runnable = []
        self.unwatched = set()
        self.answered = []
        self.gated = []
        # A partial line is moved in front of what arrives next, so that a line is always in one piece.
        self.scratch = <char *>malloc(MAX_LINE_BYTES + SCRATCH_BYTES)
        if self.scratch is NULL:
            raise MemoryError("no memory for the receive buffer")

    def __dealloc__(self):
        free(self.scratch)

    cdef void deliver(self) noexcept:
        """The rest of `deliver_answers`."""
        cdef Client *client = self.state.next_answered()
        cdef Connection connection
        while client is not NULL:
            connection = <Connection>client.connection
            connection.blocked = False
            connection.answer(client.answer.reply)
            connection.count_memory()
            if connection.input.len or connection.eof:
                connection.make_runnable()
            if not connection.is_answered:
                connection.is_answered = True
                self.answered.append(connection)
            client = self.state.next_answered()

    cdef void unwatch(self, int fd) noexcept:
        """Have the poller forget a descriptor."""
        if self.compiled is not None:
            self.compiled.forget(fd)
        else:
            self.poller.remove(fd)

    cdef void emit(self, str event, int fd, bytes text) noexcept:
        if self.on_event is not None:
            self.on_event(event, fd, text.decode("latin-1"))


@cython.final
@cython.no_gc_clear
cdef class Connection:
    """One client's bytes. Made by `Hub.adopt` (with a socket) or `Hub.connect` (in memory)."""

    def __cinit__(self, Connections shared not None, int fd):
        live_born(LIVE_CONNECTIONS)
        self.shared = shared
        self.state = shared.state
        self.fd = fd
        self.reading = READ
        self.client = connect(self.state, <void *>self)
        if self.client is NULL:
            raise MemoryError("no memory for another connection")

    def __dealloc__(self):
        live_gone(LIVE_CONNECTIONS)
        outbox_free(&self.out)
        buffer_free(&self.input)
        if self.state is not None:
            self.count_memory()

    def feed(self, bytes data not None, int64_t now_ns):
        """For clients in memory: the client sends `data`. `now_ns`: the monotonic time in nanoseconds.

        Raises:
            BufferError: the client's command has no reply yet, and more than 65536 bytes wait after it.
        """
        cdef iovec[2] where
        cdef size_t offset = 0, size, piece
        cdef int count, part
        while offset < <size_t>len(data) and not self.closed:
            count = self.space(where)
            if count == 0 and not self.input.failed:
                raise BufferError("the client has sent too much after a command that is not answered yet")
            size = 0
            for part in range(count):
                piece = min(where[part].iov_len, <size_t>len(data) - offset)
                memcpy(where[part].iov_base, PyBytes_AS_STRING(data) + offset, piece)
                offset += piece
                size += piece
            self.arrived(size, now_ns)
            self.update_interest(now_ns)
        self.shared.deliver()

    def feed_eof(self, int64_t now_ns):
        """For clients in memory: the client has closed its sending half. `now_ns`: monotonic, in nanoseconds."""
        self.end_of_file()
        self.update_interest(now_ns)
        self.shared.deliver()

    def take_output(self):
        """For clients in memory: the replies since the last call, as bytes."""
        cdef iovec[PIECES] pieces
        cdef bytes output = b""
        while outbox_unsent(&self.out):
            if outbox_gather(&self.out, pieces, self.state.journal.committed_lsn) == 0:
                break
            output += PyBytes_FromStringAndSize(<char *>pieces[0].iov_base, pieces[0].iov_len)
            outbox_sent(&self.out, pieces[0].iov_len)
            self.resume_if_drained()
        self.count_memory()
        return output

    def close(self, int64_t now_ns):
        """The client is gone: release what it had reserved. `now_ns`: the monotonic time in nanoseconds."""
        self.drop(now_ns)
        self.shared.deliver()

    # Receiving

    cdef void on_ready(self, int events, int64_t now_ns) noexcept:
        """The socket is readable, writable or both."""
        if self.closed:
            return
        if events & WRITE:
            self.socket_full = False
            self.flush(now_ns)
        if events & READ:
            self.receive(events, now_ns)
        self.update_interest(now_ns)

    cdef void receive(self, int events, int64_t now_ns) noexcept:
        cdef iovec[2] where
        cdef ssize_t size
        cdef int count = self.space(where)
        if count == 0:
            return
        size = socket_receive(self.fd, where, count)
        if size == 0:
            self.end_of_file()
        elif size < 0:
            if errno != EAGAIN:
                self.drop(now_ns)
        elif self.rearm_if_needed(events, size, where[0].iov_len + (where[1].iov_len if count > 1 else 0)):
            self.arrived(size, now_ns)
            self.flush(now_ns)
        else:
            self.drop(now_ns)

    cdef bint rearm_if_needed(self, int events, size_t size, size_t room) noexcept:
        """Have the poller report again what one receive may have left. False: it cannot, so close the client."""
        if not self.interest & EDGE or (size < room and not events & EDGE):
            return True
        return self.shared.compiled.tell_again(self.fd)

    cdef int space(self, iovec *where) noexcept:
        """Where the next bytes go: fills up to two pieces and returns how many; 0 when none may be received now."""
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
            where[1].iov_base = self.shared.scratch
            where[1].iov_len = SCRATCH_BYTES
            return 2
        # A partial line is moved in front of what arrives next, so that a line is always in one piece.
        where[0].iov_base = self.shared.scratch + self.input.len
        where[0].iov_len = SCRATCH_BYTES
        return 1

    cdef void arrived(self, size_t size, int64_t now_ns) noexcept:
        """`size` bytes were received where `space` said: run what is complete, keep the rest."""
        cdef char *scratch = self.shared.scratch
        cdef size_t used
        if self.is_halted():
            self.input.len += size
            self.state.hits.client_input += self.input.len >= INPUT_LIMIT
            return
        if self.phase == PHASE_BODY and self.body_got < self.client.arriving.body_bytes:
            used = min(size, <size_t>(self.client.arriving.body_bytes - self.body_got))
            self.body_got += <uint32_t>used
            if not self.state.body_arrived(self.client, self.body_got):
                self.refuse_body()
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
        """The client will send no more. Its commands are still answered; a wait ends at once."""
        self.eof = True
        self.end_hopeless_wait()

    cdef void end_hopeless_wait(self) noexcept:
        """A client that will send nothing more waits for a job: answer it at once."""
        if (self.eof or self.hung_up) and self.client.waiting:
            give_up_waiting(self.state, self.client)

    cdef void look_for_hang_up(self, int64_t now_ns) noexcept:
        """Check an unwatched socket: has the client gone, or will it send no more?"""
        cdef int peer = socket_peer(self.fd)
        if peer == PEER_GONE:
            self.drop(now_ns)
        elif peer == PEER_HALF_CLOSED:
            self.hung_up = True
            self.end_hopeless_wait()

    cdef bint is_halted(self) noexcept:
        """Whether what arrives has to wait until earlier commands are run."""
        return self.blocked or self.is_runnable or self.held_back

    cdef void postpone(self, uint32_t steps) noexcept:
        """Leave the rest of the commands to the next iteration, after `steps` steps in this one."""
        if steps == STEPS_PER_ITERATION:
            self.state.hits.client_steps += 1
        elif not self.state.journal.tight:
            self.state.hits.iteration_effort += 1
        self.make_runnable()

    cdef void make_runnable(self) noexcept:
        """Have the hub call `resume` in the next iteration."""
        if not self.is_runnable and not self.closed:
            self.is_runnable = True
            self.shared.runnable.append(self)

    cdef void resume(self, int64_t now_ns) noexcept:
        """Continue with commands that were received before, and with replies that were not sent."""
        if self.closed:
            return
        if not self.shared.stopping:
            buffer_drop_front(&self.input, self.run(self.input.data, self.input.len, now_ns))
        if self.input.len == 0 and self.input.cap > KEPT_BYTES:
            buffer_free(&self.input)
        self.flush(now_ns)
        self.update_interest(now_ns)

    # Cutting

    cdef size_t run(self, char *data, size_t size, int64_t now_ns) noexcept:
        """Run the commands in `data`, as many as may run now. Returns the number of bytes consumed."""
        cdef size_t at = 0
        cdef size_t used
        cdef uint32_t steps = 0
        while at < size and not self.blocked and not self.quitting:
            if outbox_unsent(&self.out) >= OUTPUT_LIMIT:
                self.held_back = True
                self.state.hits.client_output += 1
                break
            if self.state.journal.tight or steps == STEPS_PER_ITERATION or (
                self.state.effort >= self.state.effort_limit and (steps or self.state.is_costly(self.client))
            ):
                self.postpone(steps)
                break
            steps += 1
            self.state.effort += 1
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
        self.shared.steps += steps
        return size if self.quitting else at

    cdef size_t take_line(self, char *data, size_t size, int64_t now_ns) noexcept:
        """Handle one command line. Returns the bytes consumed, 0 when its end has not arrived."""
        cdef size_t length = line_length(data, min(size, <size_t>MAX_LINE_BYTES))
        if length:
            self.execute(data, length - CRLF_BYTES, now_ns)
            return length
        if size < MAX_LINE_BYTES:
            return 0
        if is_http(data, MAX_LINE_BYTES):
            self.refuse_http()
            return size
        self.phase = PHASE_LONG_LINE
        return self.take_long_line(data, size)

    cdef size_t take_long_line(self, const char *data, size_t size) noexcept:
        """Skip a part of a line that is too long; at its end, reply."""
        cdef const char *newline = <const char *>memchr(data, c'\n', size)
        cdef size_t length
        if newline is NULL:
            # What the line ends with has to be seen in one piece.
            return size - min(size, <size_t>HTTP_TAIL_BYTES)
        length = newline - data
        if ends_with_http_version(data, length_without_cr(data, length)):
            self.refuse_http()
        elif length and data[length - 1] == c'\r':
            self.phase = PHASE_LINE
            self.answer(REPLY_BAD_FORMAT)
        return length + 1

    cdef size_t take_body(self, const char *data, size_t size, int64_t now_ns) noexcept:
        """Take a part of a put's body, or of the CRLF after it."""
        cdef Job *job = self.client.arriving
        cdef size_t used = 0
        if self.body_got < job.body_bytes:
            used = min(size, <size_t>(job.body_bytes - self.body_got))
            memcpy(job_body(job) + self.body_got, data, used)
            self.body_got += <uint32_t>used
            if not self.state.body_arrived(self.client, self.body_got):
                self.refuse_body()
                return used
        while used < size and self.body_got < job.body_bytes + CRLF_BYTES:
            self.trailer[self.body_got - job.body_bytes] = data[used]
            self.body_got += 1
            used += 1
        if self.body_got == job.body_bytes + CRLF_BYTES:
            self.end_put(now_ns)
        return used

    cdef void refuse_body(self) noexcept:
        """There is no room for what has arrived of the body: drop it, and skip the rest."""
        self.to_skip = <uint64_t>self.client.arriving.body_bytes + CRLF_BYTES - self.body_got
        self.refusal = put_refuse(self.state, self.client)
        self.phase = PHASE_SKIP

    cdef size_t take_skipped(self, size_t size) noexcept:
        """Skip a part of a refused body."""
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
        if self.shared.verbosity >= 2:
            self.shared.emit("command", self.fd, line[:size])
        self.state.commands[command.number] += 1
        self.shared.last_command = command.number
        if command.form == FORM_PUT:
            reply = begin_put(self, &command, now_ns)
        elif command.fault != REPLY_NONE:
            if command.number == 0 and is_http(line, size):
                self.refuse_http()
                return
            reply = command.fault
        elif rows[command.number].run is NULL:
            self.quitting = True
            return
        else:
            reply = rows[command.number].run(self.state, self.client, &command, now_ns)
        if reply != REPLY_NONE:
            self.answer(reply)
            return
        self.blocked = self.is_blocked()
        self.end_hopeless_wait()

    cdef void refuse_http(self) noexcept:
        """Close a connection that speaks HTTP, without a reply; drop everything after the request."""
        self.quitting = True
        self.shared.http_requests += 1

    cdef bint is_blocked(self) noexcept:
        """Whether the reply to the last command comes later."""
        return self.client.waiting or self.client.queue is not NULL

    cdef void end_put(self, int64_t now_ns) noexcept:
        """The body of a put and its CRLF are complete."""
        cdef Reply reply
        self.phase = PHASE_LINE
        if self.trailer[0] == c'\r' and self.trailer[1] == c'\n':
            reply = put_end(self.state, self.client, now_ns)
            if reply != REPLY_NONE:
                self.answer(reply)
            else:
                self.blocked = self.is_blocked()
        else:
            put_abort(self.state, self.client)
            self.answer(REPLY_EXPECTED_CRLF)

    # Replying and sending

    cdef void answer(self, Reply reply) noexcept:
        """Append a reply, with its arguments (``client.answer``), to the outbox."""
        cdef size_t start = self.out.bytes.len
        cdef uint64_t lsn = awaited_lsn(self.state, self.client, reply) if self.state.has_binlog else 0
        outbox_answer(&self.out, reply, self.client)
        if lsn > self.state.journal.committed_lsn:
            outbox_gate(&self.out, max(start, self.out.start), lsn)
        if self.shared.verbosity >= 2 and not self.out.bytes.failed:
            start = max(start, self.out.start)
            self.shared.emit("reply", self.fd, self.out.bytes.data[start:self.out.bytes.len].split(b"\r\n", 1)[0])

    cdef void flush(self, int64_t now_ns) noexcept:
        """Send what the socket accepts."""
        cdef size_t total = 0
        cdef ssize_t size
        while outbox_unsent(&self.out) and not self.socket_full and self.fd >= 0 and not self.closed:
            size = outbox_send(&self.out, self.fd, self.state.journal.committed_lsn)
            if size > 0:
                self.resume_if_drained()
                total += size
                if total >= SENT_AT_ONCE and outbox_unsent(&self.out):
                    # A reader that keeps up would be served as long as there is data: other clients come first.
                    self.make_runnable()
                    return
            elif size == 0:
                self.wait_for_commit()
                return
            elif errno == EAGAIN:
                self.socket_full = True
            elif errno != EINTR:
                self.drop(now_ns)

    cdef void resume_if_drained(self) noexcept:
        """Replies were sent: there may be room for further commands."""
        if self.held_back and outbox_unsent(&self.out) < OUTPUT_LIMIT:
            self.held_back = False
            self.make_runnable()

    cdef void wait_for_commit(self) noexcept:
        """The rest of the outbox waits for the binlog: the hub sends it after the next commit."""
        if not self.is_gated:
            self.is_gated = True
            self.shared.gated.append(self)

    cdef void count_memory(self) noexcept:
        """Update the engine's count of memory: the present size of the buffers, and deleted jobs that were sent."""
        cdef size_t held = self.input.cap + outbox_capacity(&self.out)
        if held != self.counted_bytes:
            memory_count_buffers(&self.state.memory, self.counted_bytes, held)
            self.counted_bytes = held
        memory_drop(&self.state.memory, self.out.freed_bytes)
        self.out.freed_bytes = 0

    cdef void update_interest(self, int64_t now_ns) noexcept:
        """Called after every event of a connection: close it if it is finished, otherwise watch the right events."""
        if self.closed:
            return
        if self.input.cap + outbox_capacity(&self.out) != self.counted_bytes or self.out.freed_bytes:
            self.count_memory()
        if self.out.bytes.failed or self.input.failed:
            self.drop(now_ns)
        elif (self.eof or self.quitting) and not self.is_halted() and not (self.fd >= 0 and outbox_unsent(&self.out)):
            self.drop(now_ns)
        elif self.fd >= 0 and self.wanted_events() != self.interest:
            self.watch_events(self.wanted_events(), now_ns)

    cdef int wanted_events(self) noexcept:
        cdef int events = 0
        if not (self.eof or self.quitting or (self.is_halted() and self.input.len >= INPUT_LIMIT)):
            events |= self.reading
        if self.socket_full:
            events |= WRITE
        return events

    cdef void watch_events(self, int events, int64_t now_ns) noexcept:
        """Change what the poller watches; it cannot watch nothing."""
        cdef int before = self.interest
        self.interest = 0  # A poller that fails to change no longer watches the socket.
        try:
            if events == 0:
                self.shared.unwatch(self.fd)
                self.shared.unwatched.add(self)
            elif before == 0:
                self.shared.unwatched.discard(self)
                self.shared.poller.add(self.fd, events, self)
            else:
                self.shared.poller.change(self.fd, events)
            self.interest = events
        except (OSError, MemoryError):
            # The poller cannot watch it, and unwatched it would hang for ever.
            self.drop(now_ns)

    cdef void drop(self, int64_t now_ns) noexcept:
        """Close the connection now, whatever is still to be run or sent."""
        cdef Client *client = self.client
        if self.closed:
            return
        self.closed = True
        if self.interest:
            self.shared.unwatch(self.fd)
        if self.shared.verbosity >= 1:
            self.shared.emit("close", self.fd, b"")
        self.shared.open.discard(self)
        self.shared.unwatched.discard(self)
        self.client = NULL
        leave(self.state, client, now_ns)
        if self.fd >= 0:
            outbox_free(&self.out)
            buffer_free(&self.input)
            self.count_memory()
            if not self.eof:
                # Unread, it would make the close reset the connection, and replies on their way could be lost.
                socket_drain(self.fd, self.shared.scratch, SCRATCH_BYTES)
            close_descriptor(self.fd)
            self.shared.has_closed = True


cdef inline Reply begin_put(Connection connection, Command *command, int64_t now_ns) noexcept:
    """Handle the line of a put. A body that is refused for its size or for lack of memory is skipped."""
    if command.body_bytes > connection.state.max_job_size:
        connection.refusal = REPLY_JOB_TOO_BIG
        connection.state.hits.job_size += 1
    elif command.fault != REPLY_NONE:
        return command.fault
    else:
        connection.refusal = rows[command.number].run(connection.state, connection.client, command, now_ns)
    if connection.refusal == REPLY_NONE:
        connection.phase = PHASE_BODY
        connection.body_got = 0
    else:
        connection.phase = PHASE_SKIP
        connection.to_skip = <uint64_t>command.body_bytes + CRLF_BYTES
    return REPLY_NONE
