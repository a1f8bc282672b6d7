"""The engine: what each command does to the jobs, tubes and clients.

One function for each command (a put has two, or three when it fails); `state` has the moves of a job. A function
returns the reply; its arguments (an id, a count, a job, a text) are in ``client.answer``. REPLY_NONE means that the
reply comes later: `next_answered` returns the client when its wait or its long command ends.

A client that waits, or whose long command is unfinished, must not be given another command.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport buffer_free
from fastbean.engine.client cimport (
    WORK_KICK, WORK_LEAVE, WORK_LIST_WATCHED, Client, Watch, client_add_watch, client_remove_watch,
    client_stop_waiting, client_watch_of, queue_join, queue_leave,
)
from fastbean.base.clock cimport NEVER
from fastbean._core cimport Heap, HeapSlot, heap_reserve, heap_top, heap_update
from fastbean.engine.journal cimport SPACE_COMING, SPACE_NONE, SPACE_READY, JobImage, Journal, Space, logged_bytes
from fastbean.engine.job cimport (
    JOB_BURIED, JOB_DELAYED, JOB_RESERVED, JOB_RETURNING, Job, first_job, job_cost, job_discard, job_new,
    job_table_get, job_table_put,
)
from fastbean.engine.memory cimport arrives_whole, memory_drop, memory_keep
from fastbean.protocol.replies cimport (
    REPLY_BURIED, REPLY_DEADLINE_SOON, REPLY_DELETED, REPLY_DRAINING, REPLY_FOUND, REPLY_INSERTED, REPLY_KICKED,
    REPLY_NONE, REPLY_NOT_FOUND, REPLY_NOT_IGNORED, REPLY_OUT_OF_MEMORY, REPLY_PAUSED, REPLY_RELEASED, REPLY_RESERVED,
    REPLY_TIMED_OUT, REPLY_TOUCHED, REPLY_USING, REPLY_WATCHING, Reply,
)
from fastbean.protocol.commands cimport Command
from fastbean.engine.state cimport EFFORT_PER_ITERATION, SAFETY_MARGIN_NS, STEPS_AT_ONCE, seconds_ns
from fastbean.engine.tube cimport Tube, tube_find
from fastbean.engine.long_commands cimport LongCommands

from fastbean.engine.identity import quoted

cdef enum:
    KEPT_SHARE = 64                 # of the limit on memory, what the journal may keep of an empty buffer


cdef class Engine(LongCommands):
    """Every job, tube and client of one server, and what each command does to them.

    It does no I/O and reads no clock, so it can run under simulated time.

    Args:
        max_job_size: the largest body that a put may have, in bytes, 0 to 1073741824.
        now_ns: the monotonic time of the start, in nanoseconds; uptime counts from it.
        version: the version of the protocol that `stats` reports; likewise the next five.
        fastbean_version: the version of this program.
        instance_id: 16 hexadecimal digits, see `identity.new_instance_id`.
        hostname: the machine's name.
        os: the version of the operating system.
        platform: the kind of machine.
        binlog_max_size: the size of a binlog file in bytes, shown by `stats`.
        max_memory_bytes: the memory of jobs and buffers at which puts are refused; 0 for no limit, as in the next two.
        max_tubes: the number of tubes at which clients cannot make another one.
        max_connections: the number of clients at which the hub accepts no other one; see `Hub.is_full`.
        hash_key: 16 secret bytes for the hash of tube names.
    """

    def __cinit__(
        self, *, uint32_t max_job_size=65535, int64_t now_ns=0, str version="", str fastbean_version="",
        str instance_id="", str hostname="", str os="", str platform="", uint64_t binlog_max_size=10485760,
        uint64_t max_memory_bytes=0, uint32_t max_tubes=0, uint32_t max_connections=0, bytes hash_key=bytes(16),
    ):
        self.max_job_size = max_job_size
        self.started_ns = now_ns
        self.version = quoted(version)
        self.fastbean_version = quoted(fastbean_version)
        self.instance_id = instance_id.encode()
        self.hostname = quoted(hostname)
        self.os = quoted(os)
        self.platform = quoted(platform)
        self.binlog_max_size = binlog_max_size
        self.max_tubes = max_tubes
        self.max_connections = max_connections
        if max_memory_bytes:
            self.memory.limit_bytes = max_memory_bytes
        self.next_id = 1

    def next_deadline_ns(self):
        """The earliest time at which a timer is due, in monotonic nanoseconds; -1 when there is none."""
        return self.next_timer_ns()

    def counters(self):
        """How many objects of each kind there are, by name; for tests."""
        return {
            "jobs": self.jobs.count, "tubes": self.tubes.count,
            "clients": self.clients.numbers - self.clients.free_count,
            "ready": self.counts.ready, "reserved": self.counts.reserved, "delayed": self.counts.delayed,
            "buried": self.counts.buried, "urgent": self.counts.urgent, "waiting": self.counts.waiting,
            "connections": self.counts.connections, "producers": self.counts.producers,
            "workers": self.counts.workers, "total_jobs": self.counts.total_jobs, "timeouts": self.counts.timeouts,
        }

    def keep_binlog(self, Journal journal not None):
        """Record every later change in a journal.

        Args:
            journal: the journal; its content has been restored into this engine.
        """
        self.expect_no_more()
        # With a small limit, an empty buffer must not keep the room that the next put needs.
        journal.kept_bytes = min(journal.kept_bytes, self.memory.limit_bytes // KEPT_SHARE)
        self.journal = journal
        self.has_binlog = True
        self.next_id = max(self.next_id, journal.id_limit)

    @property
    def next_job_id(self):
        """The lowest id that was never assigned."""
        return self.next_id

    # Connecting and leaving

    cdef Client *connect(self, void *connection) noexcept:
        """Make a new client; returns NULL without memory. `connection` identifies it to the caller."""
        cdef Client *client = self.new_client(connection)
        if client is not NULL:
            self.counts.connections += 1
            self.counts.total_connections += 1
        return client

    cdef void leave(self, Client *client, int64_t now_ns) noexcept:
        """The client is gone: release the jobs that it has reserved. It must not be used any more."""
        self.counts.connections -= 1
        self.counts.producers -= client.producer
        self.counts.workers -= client.worker
        client.connection = NULL
        if client.queue is not NULL:
            queue_leave(client)
        self.put_abort(client)
        if client.waiting:
            self.effort += client.watched_count
            client_stop_waiting(client)
            self.counts.waiting -= 1
        buffer_free(&client.answer.text)
        self.count_text(client)
        self.begin_work(client, WORK_LEAVE, 0, now_ns)

    # put

    cdef Reply put_begin(self, Client *client, Command *command, int64_t now_ns) noexcept:
        """The line of a put has arrived: take an id, and allocate the job, whose body is received next
        (``client.arriving``).

        Returns REPLY_NONE; or, if the put is refused and no id is taken, the reply: REPLY_OUT_OF_MEMORY, or at the
        limit on memory REPLY_DRAINING in drain mode, since no delete would make the put acceptable.
        """
        cdef uint64_t cost = job_cost(command.body_bytes)
        cdef Job *job
        if self.is_full(cost):
            if self.draining:
                return REPLY_DRAINING
            self.hits.memory += 1
            return REPLY_OUT_OF_MEMORY
        job = job_new(&self.slab, command.body_bytes)
        if job is NULL:
            return REPLY_OUT_OF_MEMORY
        if self.next_id >= self.journal.id_limit:
            self.journal.more_ids()
            if self.next_id >= self.journal.id_limit:
                job_discard(job)
                return REPLY_OUT_OF_MEMORY
        if not client.producer:
            client.producer = True
            self.counts.producers += 1
        job.tube = client.use.number
        job.pri = command.pri
        job.delay_s = command.delay_s
        job.ttr_s = command.ttr_s if command.ttr_s > 0 else 1
        job.created_ns = now_ns
        client.use.jobs += 1
        client.arriving_bytes = job.body_bytes if arrives_whole(job.body_bytes) else 0
        memory_keep(&self.memory, job_cost(client.arriving_bytes))
        client.arriving = job
        client.arriving_id = self.next_id
        self.next_id += 1
        return REPLY_NONE

    # The order is what makes a put all or nothing. First everything that can fail, and that needs no undoing: room in
    # the journal (which may still be on its way: the put is then held, and comes back here), room in the heap, and the
    # entry in the job table. After that nothing can fail. The push comes before the record, because the record's
    # deadline is read from the heap's slot. The record comes before `match`, because `match` may reserve the job at
    # once and record that: replay must find the put first.
    cdef Reply put_end(self, Client *client, int64_t now_ns) noexcept:
        """The body of the put is complete: the job gets into its tube and into the journal."""
        cdef Job *job = client.arriving
        cdef uint64_t id = client.arriving_id
        cdef Tube *tube = self.tube_of(job)
        cdef Heap *heap = &tube.delayed if job.delay_s else &tube.ready
        cdef Space space
        if self.draining:
            self.put_abort(client)
            return REPLY_DRAINING
        space = self.journal.reserve(job.body_bytes)
        if space == SPACE_COMING:
            if client.queue is NULL:
                queue_join(&self.held, client)
            return REPLY_NONE
        if space != SPACE_READY or heap_reserve(heap, 1) < 0 or job_table_put(&self.jobs, &self.slab, id, job) < 0:
            self.hits.binlog_space += space == SPACE_NONE
            self.put_abort(client)
            return REPLY_OUT_OF_MEMORY
        client.arriving = NULL
        client.answer.number = id
        self.counts.total_jobs += 1
        tube.total_jobs += 1
        tube.body_bytes += job.body_bytes
        if job.delay_s:
            self.to_delayed(tube, job, id, now_ns)
        else:
            self.to_ready(tube, job, id)
            tube.enqueued += 1
        if self.has_binlog:
            self.journal_put(job, id)
        if job.delay_s == 0 and tube.pause_ns == 0:
            self.match(tube, now_ns)
        return REPLY_INSERTED

    cdef void journal_put(self, Job *job, uint64_t id) noexcept:
        cdef JobImage image
        self.fill_image(job, id, &image)
        job.segment = self.journal.put(&image)
        job.lsn = <uint32_t>self.journal.end_lsn

    cdef bint retry_held(self, int64_t now_ns) noexcept:
        """Retry the puts for which the journal had no room; true when more can be retried at once.

        They keep their order, so the first one that still finds no room ends this.
        """
        cdef uint64_t limit = self.effort + EFFORT_PER_ITERATION
        cdef Client *client
        cdef Reply reply
        cdef int _step
        for _step in range(STEPS_AT_ONCE):
            client = self.held.first
            if client is NULL or self.effort >= limit:
                break
            reply = self.put_end(client, now_ns)
            if reply == REPLY_NONE:
                return False
            queue_leave(client)
            self.answer_later(client, reply)
        return self.held.first is not NULL

    cdef void put_abort(self, Client *client) noexcept:
        """Drop the put that is being received, if there is one. Its id stays used."""
        cdef Job *job = client.arriving
        cdef Tube *tube
        if job is NULL:
            return
        tube = self.tube_of(job)
        client.arriving = NULL
        memory_drop(&self.memory, job_cost(client.arriving_bytes))
        job_discard(job)
        tube.jobs -= 1
        self.release_tube(tube)

    # The worker's commands

    cdef Reply reserve(self, Client *client, int64_t timeout_s, int64_t now_ns) noexcept:
        """`reserve` (with NEVER) and `reserve-with-timeout`."""
        cdef Job *job
        cdef int64_t soon_ns
        cdef int _step
        self.set_worker(client)
        # Reservations that have ended are released before anything is decided; a client that waits may get such a job.
        # If there are very many, `expire` does the rest.
        for _step in range(STEPS_AT_ONCE):
            if client.reserved.len == 0 or <int64_t>heap_top(&client.reserved).key > now_ns or self.journal.tight:
                break
            if self.time_out(client, now_ns) < 0:
                break
        job = self.best_ready(client)
        if job is not NULL:
            return REPLY_OUT_OF_MEMORY if self.reserve_for(client, job, now_ns) < 0 else REPLY_RESERVED
        # A reservation of this iteration may have begun nanoseconds after `now_ns`; see `deadline_after`.
        soon_ns = max(now_ns, self.begun_ns) + SAFETY_MARGIN_NS
        if client.reserved.len and <int64_t>heap_top(&client.reserved).key <= soon_ns:
            return REPLY_DEADLINE_SOON
        if timeout_s == 0:
            return REPLY_TIMED_OUT
        # The command that later has a job for this client could not report to it that there is no memory.
        if heap_reserve(&client.reserved, 1) < 0:
            return REPLY_OUT_OF_MEMORY
        client.give_up_at_ns = NEVER if timeout_s == NEVER else now_ns + seconds_ns(<uint32_t>timeout_s)
        self.start_waiting(client)
        return REPLY_NONE

    cdef void give_up_waiting(self, Client *client) noexcept:
        """The waiting client will send nothing more: answer it at once, as if its time were up."""
        self.end_wait(client, REPLY_TIMED_OUT)

    cdef Job *best_ready(self, Client *client) noexcept:
        """The first job by (pri, id) that the client may reserve, or NULL."""
        cdef HeapSlot *best = NULL
        cdef HeapSlot *top
        cdef Tube *tube
        cdef uint32_t place
        self.effort += client.watched_count
        for place in range(client.watched_count):
            tube = client.watched[place].tube
            if tube.ready.len == 0 or tube.pause_ns:
                continue
            top = heap_top(&tube.ready)
            if best is NULL or top.key < best.key or (top.key == best.key and top.tie < best.tie):
                best = top
        return NULL if best is NULL else <Job *>best.node

    cdef void set_worker(self, Client *client) noexcept:
        """Count the client among `current-workers`, from its first reserve."""
        if not client.worker:
            client.worker = True
            self.counts.workers += 1

    cdef Reply reserve_job(self, Client *client, uint64_t id, int64_t now_ns) noexcept:
        cdef Job *job = job_table_get(&self.jobs, id)
        if job is NULL or job.state == JOB_RESERVED or job.state == JOB_RETURNING:
            return REPLY_NOT_FOUND
        self.set_worker(client)
        return REPLY_OUT_OF_MEMORY if self.reserve_for(client, job, now_ns) < 0 else REPLY_RESERVED

    cdef Job *reserved_job(self, Client *client, uint64_t id) noexcept:
        """The job with this id if this client has reserved it, or NULL."""
        cdef Job *job = job_table_get(&self.jobs, id)
        if job is NULL or job.state != JOB_RESERVED or job.client != client.number:
            return NULL
        return job

    # The journal comes first, while the job still has what the record and the space accounting need: its segment, its
    # size, and its tube's name, which may end with the job. Nothing after it can fail, so the record is always true.
    cdef Reply delete(self, Client *client, uint64_t id) noexcept:
        cdef Job *job = job_table_get(&self.jobs, id)
        cdef Tube *tube
        if job is NULL or job.state == JOB_RETURNING or (job.state == JOB_RESERVED and job.client != client.number):
            return REPLY_NOT_FOUND
        tube = self.tube_of(job)
        tube.deletes += 1
        tube.finished += job.state == JOB_RESERVED
        self.journal.delete(id, job.segment, logged_bytes(job.body_bytes, tube.name_bytes))
        self.remove_job(job, id)
        return REPLY_DELETED

    cdef Reply release(self, Client *client, uint64_t id, uint32_t pri, uint32_t delay_s, int64_t now_ns) noexcept:
        cdef Job *job = self.reserved_job(client, id)
        cdef Tube *tube
        if job is NULL:
            return REPLY_NOT_FOUND
        tube = self.tube_of(job)
        if heap_reserve(&tube.delayed if delay_s else &tube.ready, 1) < 0:
            return REPLY_OUT_OF_MEMORY
        self.take(job)
        job.pri = pri
        job.delay_s = delay_s
        job.releases += 1
        if delay_s:
            self.to_delayed(tube, job, id, now_ns)
        else:
            self.to_ready(tube, job, id)
            tube.enqueued += 1
        self.journal_change(job, True)
        if delay_s == 0 and tube.pause_ns == 0:
            self.match(tube, now_ns)
        return REPLY_RELEASED

    cdef Reply bury(self, Client *client, uint64_t id, uint32_t pri) noexcept:
        cdef Job *job = self.reserved_job(client, id)
        cdef Tube *tube
        if job is NULL:
            return REPLY_NOT_FOUND
        tube = self.tube_of(job)
        if heap_reserve(&tube.buried, 1) < 0:
            return REPLY_OUT_OF_MEMORY
        self.take(job)
        job.pri = pri
        self.to_buried(tube, job, id)
        self.journal_change(job, True)
        return REPLY_BURIED

    cdef Reply touch(self, Client *client, uint64_t id, int64_t now_ns) noexcept:
        cdef Job *job = self.reserved_job(client, id)
        if job is NULL:
            return REPLY_NOT_FOUND
        heap_update(&client.reserved, &job.node, <uint64_t>self.deadline_after(now_ns, job.ttr_s), id)
        return REPLY_TOUCHED

    # kick

    cdef Reply kick_job(self, uint64_t id, int64_t now_ns) noexcept:
        cdef Job *job = job_table_get(&self.jobs, id)
        if job is NULL or (job.state != JOB_BURIED and job.state != JOB_DELAYED):
            return REPLY_NOT_FOUND
        return REPLY_OUT_OF_MEMORY if self.kick_one(job, now_ns) < 0 else REPLY_KICKED

    cdef Reply kick(self, Client *client, uint32_t count, int64_t now_ns) noexcept:
        """Kick at most `count` jobs of the used tube, of those that are in it now: only buried ones if it has any."""
        cdef Tube *tube = client.use
        return self.begin_work(client, WORK_KICK, min(count, tube.buried.len or tube.delayed.len), now_ns)

    # Peeking and listing

    cdef Reply found(self, Client *client, Job *job) noexcept:
        if job is NULL:
            return REPLY_NOT_FOUND
        client.answer.job = job
        client.answer.number = self.id_of(job)
        return REPLY_FOUND

    cdef Reply peek(self, Client *client, uint64_t id) noexcept:
        return self.found(client, job_table_get(&self.jobs, id))

    cdef Reply peek_ready(self, Client *client) noexcept:
        return self.found(client, first_job(&client.use.ready))

    cdef Reply peek_delayed(self, Client *client) noexcept:
        return self.found(client, first_job(&client.use.delayed))

    cdef Reply peek_buried(self, Client *client) noexcept:
        return self.found(client, first_job(&client.use.buried))

    cdef Reply list_tubes(self, Client *client, int64_t now_ns) noexcept:
        return self.begin_list_tubes(client, now_ns)

    cdef Reply list_tubes_watched(self, Client *client, int64_t now_ns) noexcept:
        return self.begin_work(client, WORK_LIST_WATCHED, 0, now_ns)

    # Tubes

    cdef Tube *wanted_tube(self, const char *name, uint32_t name_bytes) noexcept:
        """As `find_or_make_tube`, for a client: NULL also at the limit on tubes, which restored tubes do not have."""
        cdef Tube *tube
        if self.max_tubes == 0 or self.tubes.count < self.max_tubes:
            return self.find_or_make_tube(name, name_bytes)
        tube = tube_find(&self.tubes, name, name_bytes)
        self.hits.tubes += tube is NULL
        return tube

    cdef Reply use(self, Client *client, const char *name, uint32_t name_bytes) noexcept:
        cdef Tube *tube = self.wanted_tube(name, name_bytes)
        cdef Tube *before = client.use
        if tube is NULL:
            return REPLY_OUT_OF_MEMORY
        tube.using += 1
        client.use = tube
        before.using -= 1
        self.release_tube(before)
        return REPLY_USING

    cdef Reply watch(self, Client *client, const char *name, uint32_t name_bytes) noexcept:
        cdef Tube *tube = self.wanted_tube(name, name_bytes)
        if tube is NULL:
            return REPLY_OUT_OF_MEMORY
        if client_watch_of(client, tube) is NULL and client_add_watch(client, tube) is NULL:
            self.release_tube(tube)
            return REPLY_OUT_OF_MEMORY
        client.answer.number = client.watched_count
        return REPLY_WATCHING

    cdef Reply ignore(self, Client *client, const char *name, uint32_t name_bytes) noexcept:
        cdef Tube *tube = tube_find(&self.tubes, name, name_bytes)
        cdef Watch *watch = NULL if tube is NULL else client_watch_of(client, tube)
        if watch is not NULL:
            if client.watched_count == 1:
                return REPLY_NOT_IGNORED
            client_remove_watch(client, watch)
            self.release_tube(tube)
        client.answer.number = client.watched_count
        return REPLY_WATCHING

    cdef Reply pause_tube(self, const char *name, uint32_t name_bytes, uint32_t delay_s, int64_t now_ns) noexcept:
        cdef Tube *tube = tube_find(&self.tubes, name, name_bytes)
        if tube is NULL:
            return REPLY_NOT_FOUND
        tube.pauses += 1
        if delay_s == 0:
            self.end_pause(tube, now_ns)
            return REPLY_PAUSED
        tube.pause_ns = seconds_ns(delay_s)
        tube.unpause_at_ns = now_ns + tube.pause_ns
        self.schedule(&tube.timer, tube.unpause_at_ns)
        self.journal_settings(tube)
        return REPLY_PAUSED

    cdef void end_pause(self, Tube *tube, int64_t now_ns) noexcept:
        """Serve the waiting clients at once; if there are very many, `expire` does the rest, and the pause lasts. After
        a restart it has ended in any case."""
        cdef int64_t pause_ns = tube.pause_ns
        cdef int _step
        tube.unpause_at_ns = now_ns
        if tube.segment:
            tube.pause_ns = 0
            self.journal_settings(tube)
            tube.pause_ns = pause_ns
        for _step in range(STEPS_AT_ONCE):
            if tube.pause_ns == 0 or not self.match(tube, now_ns):
                self.pause_over(tube)
                return
            if self.effort >= self.effort_limit:
                break
        self.schedule(&tube.timer, now_ns)
