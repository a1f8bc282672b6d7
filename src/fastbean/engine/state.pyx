"""All jobs, tubes and clients of one server, and how a job moves among them.

Invariants, between two calls:

- A job in the table is in exactly one heap: its tube's ready, delayed or buried heap, or the reserved heap of the
  client that holds it (once that client has left, its heap of returning jobs). The job's state says which heap it is;
  the heap's slot has its id, and its deadline if there is one.
- No unpaused tube has a ready job while a client waits for that tube.
- A tube exists while it is paused, has a job, or is used or watched by a client; default always does.
- A tube with a delayed job or a pause has a timer that is due no later than they are, and so has a client with a
  reservation or a wait. Timers are lazy: one that is due too early is corrected when it reaches the top.
- Every tube and every client is in the timer heap, those with nothing to do at its far end, so that setting a timer
  moves an entry and cannot fail.

A move first allocates the memory that it needs, then changes anything: one that fails has changed nothing. Nothing here
does I/O or reads a clock; `now_ns` is passed in, monotonic, in nanoseconds.
"""

cimport cython
from libc.stdint cimport UINT64_MAX, int64_t, uint32_t, uint64_t

from fastbean.engine.client cimport (
    Client, answer_add, client_add_watch, client_new, client_remove, client_remove_watch, client_set_free,
    client_start_waiting, client_stop_waiting, queue_join, queue_leave,
)
from fastbean.base.buffer cimport buffer_append
from fastbean.base.clock cimport NEVER
from fastbean._core cimport (
    Heap, heap_free, heap_push, heap_remove, heap_reserve, heap_slot, heap_top, heap_update,
)
from fastbean.engine.figure cimport Text
from fastbean.engine.job cimport (
    JOB_BURIED, JOB_DELAYED, JOB_READY, JOB_RESERVED, JOB_RETURNING, Job, job_body, job_discard, job_table_free,
    job_table_remove,
)
from fastbean.engine.journal cimport STATE_BURIED, STATE_DELAYED, STATE_READY, JobImage, Journal, TubeImage
from fastbean.engine.memory cimport memory_count_buffers, memory_drop, memory_each_iteration
from fastbean.protocol.replies cimport REPLY_RESERVED, Reply
from fastbean.base.slab cimport slab_end
from fastbean.engine.tube cimport (
    TIMER_CLIENT, TIMER_TUBE, Timer, TimerKind, Tube, timer_tie, tube_find_or_make, tube_keep_settings, tube_name,
    tube_remove, tube_set_free,
)

cdef uint64_t NOT_DUE = <uint64_t>-1


cdef void append_entry(Client *client, Tube *tube) noexcept nogil:
    """Append one line to a list of tubes."""
    buffer_append(&client.answer.text, b"- ", 2)
    buffer_append(&client.answer.text, tube_name(tube), tube.name_bytes)
    buffer_append(&client.answer.text, b"\n", 1)


@cython.final
cdef class State:
    """Every job, tube, client and timer of one server, and how a job moves among them; see the module's text.

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

    Raises:
        ValueError: `hash_key` has another length.
        MemoryError: there is no memory, not even for the tube "default".
    """

    def __cinit__(
        self, *, uint32_t max_job_size=65535, int64_t now_ns=0, str version="", str fastbean_version="",
        str instance_id="", str hostname="", str os="", str platform="", uint64_t binlog_max_size=10485760,
        uint64_t max_memory_bytes=0, uint32_t max_tubes=0, uint32_t max_connections=0, bytes hash_key=bytes(16),
    ):
        if len(hash_key) != sizeof(self.tubes.key):
            raise ValueError(f"hash_key must have {sizeof(self.tubes.key)} bytes, not {len(hash_key)}")
        self.max_job_size = max_job_size
        self.started_ns = now_ns
        self.version = Text(version)
        self.fastbean_version = Text(fastbean_version)
        self.instance_id = Text(instance_id)
        self.hostname = Text(hostname)
        self.os = Text(os)
        self.platform = Text(platform)
        self.binlog_max_size = binlog_max_size
        self.max_tubes = max_tubes
        self.max_connections = max_connections
        self.next_id = 1
        self.effort_limit = EFFORT_PER_ITERATION
        self.memory.limit_bytes = max_memory_bytes or UINT64_MAX
        self.memory.release_at_ns = NEVER
        self.begun_ns = NEVER
        self.tubes.key.k0 = int.from_bytes(hash_key[:8], "little")
        self.tubes.key.k1 = int.from_bytes(hash_key[8:], "little")
        self.journal = Journal()
        self.default_tube = self.find_or_make_tube(b"default", 7)
        if self.default_tube is NULL:
            raise MemoryError("no memory for the tube default")

    def __dealloc__(self):
        client_set_free(&self.clients)
        job_table_free(&self.jobs)
        slab_end(&self.slab)
        tube_set_free(&self.tubes)
        heap_free(&self.timers)

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

    @property
    def next_job_id(self):
        """The lowest id that was never assigned."""
        return self.next_id

    # Clients and tubes

    cdef Client *new_client(self, void *connection) noexcept nogil:
        """Make a client that uses and watches default; returns NULL without memory."""
        cdef Client *client = client_new(&self.clients)
        if client is NULL:
            return NULL
        if client_add_watch(client, self.default_tube) is NULL:
            client_remove(&self.clients, client)
            return NULL
        if self.add_timer(&client.timer, TIMER_CLIENT, client.number) < 0:
            client_remove_watch(client, client.watched[0])
            client_remove(&self.clients, client)
            return NULL
        client.connection = connection
        client.give_up_at_ns = NEVER
        client.use = self.default_tube
        client.use.using += 1
        return client

    cdef void end_client(self, Client *client) noexcept nogil:
        """Free a client that has no reservation and no watch any more."""
        heap_remove(&self.timers, &client.timer.node)
        client_remove(&self.clients, client)

    cdef Tube *look_up_or_make_tube(self, const char *name, uint32_t name_bytes) noexcept nogil:
        """The slow path of `find_or_make_tube`: the tube is not the last one looked up."""
        cdef uint32_t count = self.tubes.count
        cdef Tube *tube = tube_find_or_make(&self.tubes, name, name_bytes)
        if self.tubes.count > count and self.add_timer(&tube.timer, TIMER_TUBE, tube.number) < 0:
            tube_remove(&self.tubes, tube)
            return NULL
        return tube

    cdef void release_tube(self, Tube *tube) noexcept nogil:
        """Free the tube if it is not paused and nothing refers to it: no job, no client that uses or watches it.
        default is never freed."""
        if tube.jobs or tube.using or tube.watching or tube.pause_ns or tube == self.default_tube:
            return
        heap_remove(&self.timers, &tube.timer.node)
        self.relist(tube)
        tube_remove(&self.tubes, tube)

    # Moving a job

    cdef Heap *heap_of(self, Job *job) noexcept nogil:
        """The heap that the job is in."""
        if job.state == JOB_READY:
            return &self.tube_of(job).ready
        if job.state == JOB_RESERVED:
            return &self.clients.by_number[job.client].reserved
        if job.state == JOB_RETURNING:
            return &self.clients.by_number[job.client].returning
        if job.state == JOB_DELAYED:
            return &self.tube_of(job).delayed
        return &self.tube_of(job).buried

    cdef uint64_t id_of(self, Job *job) noexcept nogil:
        return heap_slot(self.heap_of(job), &job.node).tie

    cdef int64_t deadline_of(self, Job *job) noexcept nogil:
        """When the delay or the reservation ends; only for a delayed or reserved job."""
        return <int64_t>heap_slot(self.heap_of(job), &job.node).key

    # The first half of every move. Until the second half (`to_ready` in `state.pxd`, `push_delayed`, ...) the job is in
    # no heap, and its state still names the old one: so the room in the new heap is reserved before, and nothing may
    # come in between that can fail or looks at the job. The counters of the old place are lowered here, those of the
    # new one raised by the second half. The timer stays: it is corrected when it comes due. The id is returned: only
    # the slot had it.
    cdef uint64_t take(self, Job *job) noexcept nogil:
        """Take the job out of its heap, to push it into another one or to free it. Returns its id."""
        cdef Tube *tube = self.tube_of(job)
        cdef Heap *heap = self.heap_of(job)
        cdef uint64_t id = heap_slot(heap, &job.node).tie
        self.effort += 1
        heap_remove(heap, &job.node)
        if job.state == JOB_READY:
            self.counts.ready -= 1
            if job.pri < URGENT_BELOW_PRI:
                self.counts.urgent -= 1
                tube.urgent -= 1
        elif job.state == JOB_RESERVED or job.state == JOB_RETURNING:
            self.counts.reserved -= 1
            tube.reserved -= 1
        elif job.state == JOB_DELAYED:
            self.counts.delayed -= 1
        else:
            self.counts.buried -= 1
        return id

    cdef void remove_job(self, Job *job, uint64_t id) noexcept nogil:
        """Free the job, and its tube if that was the last reference to it."""
        cdef Tube *tube = self.tube_of(job)
        self.take(job)
        job_table_remove(&self.jobs, id)
        tube.body_bytes -= job.body_bytes
        memory_drop(&self.memory, job_discard(job))
        tube.jobs -= 1
        self.release_tube(tube)

    cdef int64_t deadline_after(self, int64_t now_ns, uint32_t seconds) noexcept nogil:
        """When a delay or a ttr that begins now will end: of two in one iteration, the one that began first."""
        self.begun_ns = max(self.begun_ns + 1, now_ns)
        return self.begun_ns + seconds_ns(seconds)

    # The ways into a heap, except `to_ready` (in `state.pxd`). The caller has reserved the room: no push can fail.

    cdef void to_delayed(self, Tube *tube, Job *job, uint64_t id, int64_t now_ns) noexcept nogil:
        self.push_delayed(tube, job, id, self.deadline_after(now_ns, job.delay_s))

    cdef void push_delayed(self, Tube *tube, Job *job, uint64_t id, int64_t deadline_ns) noexcept nogil:
        heap_push(&tube.delayed, &job.node, <uint64_t>deadline_ns, id)
        job.state = JOB_DELAYED
        self.counts.delayed += 1
        self.schedule(&tube.timer, deadline_ns)

    cdef void to_buried(self, Tube *tube, Job *job, uint64_t id) noexcept nogil:
        self.push_buried(tube, job, id, self.burials + 1)
        job.buries += 1

    cdef void push_buried(self, Tube *tube, Job *job, uint64_t id, uint64_t burial) noexcept nogil:
        heap_push(&tube.buried, &job.node, burial, id)
        self.burials = max(self.burials, burial)
        job.state = JOB_BURIED
        self.counts.buried += 1

    cdef int reserve_for(self, Client *client, Job *job, int64_t now_ns) noexcept nogil:
        """Reserve the job, which is not reserved, for the client. Returns 0, or -1 without memory (nothing changed)."""
        cdef Tube *tube = self.tube_of(job)
        cdef int64_t deadline_ns
        cdef bint was_ready
        cdef uint64_t id
        if heap_reserve(&client.reserved, 1) < 0:
            return -1
        deadline_ns = self.deadline_after(now_ns, job.ttr_s)
        was_ready = job.state == JOB_READY
        id = self.take(job)
        heap_push(&client.reserved, &job.node, <uint64_t>deadline_ns, id)
        job.state = JOB_RESERVED
        job.client = client.number
        job.reservation_seq = client.reservation_seq
        client.reservation_seq += 1
        job.reserves += 1
        self.counts.reserved += 1
        tube.reserved += 1
        self.schedule(&client.timer, deadline_ns)
        answer_add(&client.answer, job, id)
        # A job that was buried or delayed is ready after a restart, even if the server dies now.
        self.journal_change(job, not was_ready)
        return 0

    cdef int make_ready(self, Job *job, int64_t now_ns) noexcept nogil:
        """Move a job from any heap to ready, and on to a waiting client if there is one.

        Returns 0, or -1 without memory (nothing changed).
        """
        cdef Tube *tube = self.tube_of(job)
        if heap_reserve(&tube.ready, 1) < 0:
            return -1
        self.to_ready(tube, job, self.take(job))
        tube.enqueued += 1
        if tube.pause_ns == 0:
            self.match(tube, now_ns)
        return 0

    cdef bint match(self, Tube *tube, int64_t now_ns) noexcept nogil:
        """Give the tube's first ready job to the client that has waited longest; false if there is no such pair."""
        cdef Client *client
        if tube.longest_waiting is NULL or tube.ready.len == 0:
            return False
        client = self.clients.by_number[tube.longest_waiting.client]
        # Cannot fail: every waiting client has reserved room for it.
        self.reserve_for(client, <Job *>heap_top(&tube.ready).node, now_ns)
        self.end_wait(client, REPLY_RESERVED)
        return True

    cdef int time_out(self, Client *client, int64_t now_ns) noexcept nogil:
        """The client's first reservation has run out: make the job ready. Returns 0, or -1 without memory."""
        cdef Job *job = <Job *>heap_top(&client.reserved).node
        if self.make_ready(job, now_ns) < 0:
            return -1
        job.timeouts += 1
        self.counts.timeouts += 1
        self.journal_change(job, False)
        return 0

    # The journal

    cdef void fill_image(self, Job *job, uint64_t id, JobImage *image) noexcept nogil:
        """What the journal stores of a job in a heap. A reserved job is stored as ready: that is how it is restored."""
        cdef Tube *tube = self.tube_of(job)
        cdef uint64_t key = heap_slot(self.heap_of(job), &job.node).key
        image.id = id
        image.pri = job.pri
        image.delay_s = job.delay_s
        image.ttr_s = job.ttr_s
        image.reserves = job.reserves
        image.timeouts = job.timeouts
        image.releases = job.releases
        image.buries = job.buries
        image.kicks = job.kicks
        image.created_ns = job.created_ns
        image.name = tube_name(tube)
        image.name_bytes = tube.name_bytes
        image.body = job_body(job)
        image.body_bytes = job.body_bytes
        image.state = STATE_READY
        if job.state == JOB_DELAYED:
            image.state = STATE_DELAYED
            image.deadline_ns = <int64_t>key
        elif job.state == JOB_BURIED:
            image.state = STATE_BURIED
            image.burial = key

    cdef void journal_change(self, Job *job, bint gates) noexcept nogil:
        """Record the job's present state. `gates`: a reply may depend on this change."""
        cdef JobImage image
        if not self.has_binlog:
            return
        self.fill_image(job, self.id_of(job), &image)
        self.journal.update(&image, gates)
        if gates:
            job.lsn = <uint32_t>self.journal.end_lsn

    cdef void fill_settings(self, Tube *tube, TubeImage *image) noexcept nogil:
        """What the journal stores of a tube."""
        image.name = tube_name(tube)
        image.name_bytes = tube.name_bytes
        image.pause_s = <uint32_t>(tube.pause_ns // 1000000000)
        image.pause_end_ns = tube.unpause_at_ns

    cdef void journal_settings(self, Tube *tube) noexcept nogil:
        """Record the tube's present settings; a reply may depend on them."""
        cdef TubeImage image
        if self.has_binlog:
            self.fill_settings(tube, &image)
            tube_keep_settings(&self.tubes, tube, self.journal.settings(&image, tube.segment))

    cdef void pause_over(self, Tube *tube) noexcept nogil:
        """The tube is not paused any more: free it if nothing else keeps it."""
        tube.pause_ns = 0
        if tube.segment:
            self.journal.settings_over(tube.segment, tube.name_bytes)
            tube_keep_settings(&self.tubes, tube, 0)
        self.release_tube(tube)

    # Waiting, and replies that come later

    cdef void begin_iteration(self, int64_t now_ns) noexcept nogil:
        """Called before the sockets are served, and before what was left over: each of the two has its own budget."""
        self.effort_limit = self.effort + EFFORT_PER_ITERATION
        self.short_of_memory = False
        memory_each_iteration(&self.memory, &self.slab, now_ns)

    cdef void start_waiting(self, Client *client) noexcept nogil:
        self.effort += client.watched_count
        client_start_waiting(client)
        self.counts.waiting += 1
        self.schedule(&client.timer, self.client_due_ns(client))

    cdef void end_wait(self, Client *client, Reply reply) noexcept nogil:
        client_stop_waiting(client)
        self.effort += client.watched_count
        self.counts.waiting -= 1
        self.answer_later(client, reply)

    cdef void answer_later(self, Client *client, Reply reply) noexcept nogil:
        """Queue a reply to a client other than the one whose command is running."""
        self.effort += 1
        client.answer.reply = reply
        queue_join(&self.answered, client)

    cdef Client *take_answered(self) noexcept nogil:
        """Take the first client with a queued reply; there must be one. From then on its outbox counts its text."""
        cdef Client *client = self.answered.first
        queue_leave(client)
        if client.text_bytes:
            self.count_text(client)
        return client

    cdef void count_text(self, Client *client) noexcept nogil:
        """Count the capacity of a text whose client is in a queue: it is unfinished, or the outbox has not taken it."""
        cdef size_t bytes = client.answer.text.cap if client.queue is not NULL else 0
        if bytes != client.text_bytes:
            memory_count_buffers(&self.memory, client.text_bytes, bytes)
            client.text_bytes = bytes

    # Timers

    cdef int add_timer(self, Timer *timer, TimerKind kind, uint32_t number) noexcept nogil:
        """Add the timer of a new tube or client. Returns 0, or -1 without memory."""
        timer.kind = kind
        timer.number = number
        return heap_push(&self.timers, &timer.node, NOT_DUE, timer_tie(timer))

    cdef void schedule(self, Timer *timer, int64_t when_ns) noexcept nogil:
        """Make sure that the timer is due at `when_ns` at the latest; NEVER does nothing."""
        if when_ns != NEVER and <uint64_t>when_ns < heap_slot(&self.timers, &timer.node).key:
            heap_update(&self.timers, &timer.node, <uint64_t>when_ns, timer_tie(timer))

    cdef int64_t next_timer_ns(self) noexcept nogil:
        """When `timers.expire` has something to look at, or -1."""
        cdef uint64_t key = heap_top(&self.timers).key
        return NEVER if key == NOT_DUE or self.follows else <int64_t>key

    cdef int64_t tube_due_ns(self, Tube *tube) noexcept nogil:
        """When the tube has something to do: a delay or its pause ends."""
        cdef int64_t due_ns = NEVER
        if tube.delayed.len:
            due_ns = <int64_t>heap_top(&tube.delayed).key
        if tube.pause_ns and (due_ns == NEVER or tube.unpause_at_ns < due_ns):
            due_ns = tube.unpause_at_ns
        return due_ns

    cdef int64_t client_due_ns(self, Client *client) noexcept nogil:
        """When the client has something to do: a reservation ends or is about to, or a wait ends."""
        cdef int64_t due_ns = NEVER
        if client.reserved.len:
            due_ns = <int64_t>heap_top(&client.reserved).key
        if client.waiting:
            if due_ns != NEVER:
                due_ns = max(due_ns - SAFETY_MARGIN_NS, 0)
            if client.give_up_at_ns != NEVER and (due_ns == NEVER or client.give_up_at_ns < due_ns):
                due_ns = client.give_up_at_ns
        return due_ns

    # Long commands

    cdef void relist(self, Tube *removed) noexcept nogil:
        """`removed` is about to leave the visible list: the list that is being written must not miss the tube that
        takes its place. No other list has begun, so the cost does not depend on the number of clients that wait."""
        cdef Client *client = self.lists.first
        cdef Tube *last = self.tubes.listed[self.tubes.count - 1]
        if client is NULL or removed.place >= client.work.done:
            return
        if last.place >= client.work.done:
            append_entry(client, last)
        elif client.work.done == self.tubes.count:
            client.work.done -= 1
