"""The engine: what each command does to the jobs, tubes and clients."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean._client cimport Client, Work, WorkKind
from fastbean._job cimport Job
from fastbean._protocol cimport OP_COUNT, Command, Reply
from fastbean._recovery cimport Recovery
from fastbean._tube cimport Tube


cdef class Engine(Recovery):
    cdef uint64_t next_id
    cdef Client *first_held         # clients whose put waits for room in the log, oldest first
    cdef Client *last_held
    cdef uint64_t[<int>OP_COUNT] commands
    cdef int64_t started_ns
    cdef readonly bytes version
    cdef readonly bytes instance_id
    cdef readonly bytes hostname
    cdef readonly bytes os
    cdef readonly bytes platform
    cdef readonly uint64_t binlog_max_size
    cdef public uint32_t max_job_size
    cdef public bint draining

    cdef Client *connect(self, void *connection) noexcept
    cdef void leave(self, Client *client, int64_t now_ns) noexcept

    cdef Reply put_begin(self, Client *client, Command *command, int64_t now_ns) noexcept
    cdef Reply put_end(self, Client *client, int64_t now_ns) noexcept
    cdef void put_abort(self, Client *client) noexcept
    cdef void log_put(self, Job *job, uint64_t id) noexcept
    cdef void hold(self, Client *client) noexcept
    cdef void retry_held(self, int64_t now_ns) noexcept
    cdef void unhold(self, Client *client) noexcept
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
    cdef Reply use(self, Client *client, const char *name, uint32_t name_bytes) noexcept
    cdef Reply watch(self, Client *client, const char *name, uint32_t name_bytes) noexcept
    cdef Reply ignore(self, Client *client, const char *name, uint32_t name_bytes) noexcept
    cdef Reply pause_tube(self, const char *name, uint32_t name_bytes, uint32_t delay_s, int64_t now_ns) noexcept
    cdef void end_pause(self, Tube *tube, int64_t now_ns) noexcept
    cdef Reply list_tubes(self, Client *client, int64_t now_ns) noexcept
    cdef Reply list_tubes_watched(self, Client *client, int64_t now_ns) noexcept

    cdef bint work_on(self, int64_t now_ns) noexcept

    cdef Job *reserved_job(self, Client *client, uint64_t id) noexcept
    cdef Job *best_ready(self, Client *client) noexcept
    cdef Reply found(self, Client *client, Job *job) noexcept
    cdef void set_worker(self, Client *client) noexcept
    cdef int kick_one(self, Job *job, int64_t now_ns) noexcept
    cdef Reply begin_work(self, Client *client, WorkKind kind, uint32_t left, int64_t now_ns) noexcept
    cdef bint step_work(self, Work *work, int64_t now_ns) noexcept
    cdef bint step_kick(self, Work *work, int64_t now_ns) noexcept
    cdef bint step_list(self, Work *work) noexcept
    cdef int give_back(self, Client *client, int64_t now_ns) noexcept
    cdef bint step_leave(self, Work *work, int64_t now_ns) noexcept
    cdef Reply end_work(self, Work *work) noexcept
