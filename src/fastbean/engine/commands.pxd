"""The engine: what each command does to the jobs, tubes and clients."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.client cimport Client
from fastbean.engine.figure cimport Text
from fastbean.engine.job cimport Job
from fastbean.protocol.replies cimport Reply
from fastbean.protocol.commands cimport OP_COUNT, Command
from fastbean.engine.tube cimport Tube
from fastbean.engine.long_commands cimport LongCommands

cdef class Engine(LongCommands):
    cdef uint64_t next_id
    cdef uint64_t[<int>OP_COUNT] commands
    cdef int64_t started_ns
    cdef Text version
    cdef Text fastbean_version
    cdef bytes instance_id
    cdef Text hostname
    cdef Text os
    cdef Text platform
    cdef uint64_t binlog_max_size
    cdef public uint32_t max_job_size
    cdef uint32_t max_tubes
    cdef uint32_t max_connections
    cdef public bint draining

    cdef Client *connect(self, void *connection) noexcept
    cdef void leave(self, Client *client, int64_t now_ns) noexcept

    cdef Reply put_begin(self, Client *client, Command *command, int64_t now_ns) noexcept
    cdef Reply put_end(self, Client *client, int64_t now_ns) noexcept
    cdef void put_abort(self, Client *client) noexcept
    cdef void journal_put(self, Job *job, uint64_t id) noexcept
    cdef bint retry_held(self, int64_t now_ns) noexcept
    cdef Reply reserve(self, Client *client, int64_t timeout_s, int64_t now_ns) noexcept
    cdef void give_up_waiting(self, Client *client) noexcept
    cdef Reply reserve_job(self, Client *client, uint64_t id, int64_t now_ns) noexcept
    cdef Reply delete(self, Client *client, uint64_t id) noexcept
    cdef Reply release(self, Client *client, uint64_t id, uint32_t pri, uint32_t delay_s, int64_t now_ns) noexcept
    cdef Reply bury(self, Client *client, uint64_t id, uint32_t pri) noexcept
    cdef Reply kick(self, Client *client, uint32_t count, int64_t now_ns) noexcept
    cdef Reply kick_job(self, uint64_t id, int64_t now_ns) noexcept
    cdef Reply touch(self, Client *client, uint64_t id, int64_t now_ns) noexcept
    cdef Reply peek(self, Client *client, uint64_t id) noexcept
    cdef Reply peek_ready(self, Client *client) noexcept
    cdef Reply peek_delayed(self, Client *client) noexcept
    cdef Reply peek_buried(self, Client *client) noexcept
    cdef Tube *wanted_tube(self, const char *name, uint32_t name_bytes) noexcept
    cdef Reply use(self, Client *client, const char *name, uint32_t name_bytes) noexcept
    cdef Reply watch(self, Client *client, const char *name, uint32_t name_bytes) noexcept
    cdef Reply ignore(self, Client *client, const char *name, uint32_t name_bytes) noexcept
    cdef Reply pause_tube(self, const char *name, uint32_t name_bytes, uint32_t delay_s, int64_t now_ns) noexcept
    cdef void end_pause(self, Tube *tube, int64_t now_ns) noexcept
    cdef Reply list_tubes(self, Client *client, int64_t now_ns) noexcept
    cdef Reply list_tubes_watched(self, Client *client, int64_t now_ns) noexcept

    cdef Job *reserved_job(self, Client *client, uint64_t id) noexcept
    cdef Job *best_ready(self, Client *client) noexcept
    cdef Reply found(self, Client *client, Job *job) noexcept
    cdef void set_worker(self, Client *client) noexcept
