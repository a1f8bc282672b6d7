"""The engine: what each command does to the jobs, tubes and clients."""

from libc.stdint cimport int64_t, uint64_t

from fastbean.engine.client cimport Client
from fastbean.engine.state cimport State
from fastbean.protocol.commands cimport Command
from fastbean.protocol.replies cimport Reply

cdef Client *connect(State state, void *connection) noexcept nogil
cdef void leave(State state, Client *client, int64_t now_ns) noexcept nogil
cdef uint64_t awaited_lsn(State state, Client *client, Reply reply) noexcept nogil
cdef void give_up_waiting(State state, Client *client) noexcept nogil

cdef Reply put_begin(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply put_end(State state, Client *client, int64_t now_ns) noexcept nogil
cdef Reply put_refuse(State state, Client *client) noexcept nogil
cdef void put_abort(State state, Client *client) noexcept nogil
cdef bint retry_held(State state, int64_t now_ns) noexcept nogil

cdef Reply reserve(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply reserve_with_timeout(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply reserve_job(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply delete(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply release(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply bury(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply touch(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply kick_job(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply kick(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply pause_tube(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply peek(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply peek_ready(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply peek_delayed(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply peek_buried(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply list_tube_used(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply list_tubes(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply list_tubes_watched(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply stats(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply stats_tube(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply stats_job(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply use(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply watch(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
cdef Reply ignore(State state, Client *client, Command *command, int64_t now_ns) noexcept nogil
