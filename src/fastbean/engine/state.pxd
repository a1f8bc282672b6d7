"""All jobs, tubes and clients of one server, and how a job moves among them."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.engine.client cimport Client, ClientQueue, ClientSet
from fastbean._core cimport Heap, heap_push, heap_top
from fastbean.engine.figure cimport Text
from fastbean.engine.job cimport JOB_READY, Job, JobTable
from fastbean.engine.journal cimport JobImage, Journal, TubeImage
from fastbean.engine.memory cimport Memory, memory_count_body, memory_is_full
from fastbean.engine.oldest_ready cimport oldest_enters
from fastbean.protocol.commands cimport MAX_COMMANDS
from fastbean.protocol.replies cimport Reply
from fastbean.base.slab cimport Slab
from fastbean.engine.tube cimport Timer, TimerKind, Tube, TubeSet, tube_again

cdef enum:
    # The first two are judgements. A move costs some hundred nanoseconds: a long command runs for a fraction of a
    # millisecond before other clients are served, and all clients together for a few milliseconds, which is what the
    # slowest reply of an iteration waits. Smaller values would cost more iterations for the same work.
    EFFORT_PER_ITERATION = 20000    # of all clients together; each that is not `is_costly` may run one command more
    STEPS_AT_ONCE = 1000            # jobs, watches or list entries that a long command handles per iteration
    CHEAP_STEPS = 128               # a client's first command may have to wait if it can cause more moves
    URGENT_BELOW_PRI = 1024         # beanstalkd's URGENT_THRESHOLD
    SAFETY_MARGIN_NS = 1000000000   # in the last second of a reservation, a reserve returns DEADLINE_SOON

cdef struct Counters:               # of the whole server, as `stats` shows them
    uint64_t ready
    uint64_t urgent
    uint64_t reserved
    uint64_t delayed
    uint64_t buried
    uint64_t timeouts
    uint64_t total_jobs
    uint64_t connections
    uint64_t total_connections
    uint64_t producers
    uint64_t workers
    uint64_t waiting

cdef struct Hits:                   # how often each limit was reached, as `stats` shows it
    uint64_t memory                 # puts and lists of tubes refused
    uint64_t binlog_space           # puts and pauses refused: the binlog may not, or cannot, grow
    uint64_t job_size               # puts refused: JOB_TOO_BIG
    uint64_t tubes                  # commands refused
    uint64_t connections            # clients refused
    uint64_t client_input           # times that reading from a client stopped
    uint64_t client_output          # times that a client's commands had to wait until it receives its replies
    uint64_t client_steps           # times that the rest of a client's commands waited for the next iteration
    uint64_t iteration_effort       # likewise, because the budget of all clients was used up


cdef inline int64_t seconds_ns(uint32_t seconds) noexcept nogil:
    return <int64_t>seconds * 1000000000


cdef void append_entry(Client *client, Tube *tube) noexcept nogil


cdef class State:
    cdef uint64_t next_id
    cdef uint64_t[<int>MAX_COMMANDS] commands   # how often each was given, by its number in the table of commands
    cdef int64_t started_ns
    cdef Text version
    cdef Text fastbean_version
    cdef Text instance_id
    cdef Text hostname
    cdef Text os
    cdef Text platform
    cdef uint64_t binlog_max_size
    cdef public uint32_t max_job_size
    cdef uint32_t max_tubes
    cdef uint32_t max_connections
    cdef public bint draining
    cdef public bint follows        # another server's records are applied: nothing happens by itself

    cdef JobTable jobs
    cdef Slab slab                  # of the jobs and of their table
    cdef TubeSet tubes
    cdef Tube *default_tube
    cdef Heap timers
    cdef ClientSet clients
    cdef uint64_t burials
    cdef ClientQueue answered       # clients with a queued reply, oldest first
    cdef ClientQueue held           # clients whose put or pause waits for room in the journal, oldest first
    cdef ClientQueue work           # clients with an unfinished long command or disconnect; served in turn
    cdef ClientQueue lists          # clients that asked for all tubes: only the first one's list is begun
    cdef readonly uint64_t effort   # so far: commands run, jobs moved, watches examined, entries listed
    cdef uint64_t effort_limit      # beyond it, what can wait for the next iteration does
    cdef Memory memory
    cdef int64_t begun_ns           # when the last delay or ttr began
    cdef bint short_of_memory       # an expiry or a long command could not continue
    cdef Counters counts
    cdef Hits hits
    cdef Journal journal
    cdef bint has_binlog            # `journal` is not the empty one

    cdef Client *new_client(self, void *connection) noexcept nogil
    cdef void end_client(self, Client *client) noexcept nogil
    cdef Tube *look_up_or_make_tube(self, const char *name, uint32_t name_bytes) noexcept nogil
    cdef void release_tube(self, Tube *tube) noexcept nogil

    cdef uint64_t id_of(self, Job *job) noexcept nogil
    cdef int64_t deadline_of(self, Job *job) noexcept nogil
    cdef Heap *heap_of(self, Job *job) noexcept nogil
    cdef uint64_t take(self, Job *job) noexcept nogil
    cdef int64_t deadline_after(self, int64_t now_ns, uint32_t seconds) noexcept nogil
    cdef void to_delayed(self, Tube *tube, Job *job, uint64_t id, int64_t now_ns) noexcept nogil
    cdef void push_delayed(self, Tube *tube, Job *job, uint64_t id, int64_t deadline_ns) noexcept nogil
    cdef void push_buried(self, Tube *tube, Job *job, uint64_t id, uint64_t burial) noexcept nogil
    cdef void remove_job(self, Job *job, uint64_t id) noexcept nogil
    cdef void to_buried(self, Tube *tube, Job *job, uint64_t id) noexcept nogil
    cdef int make_ready(self, Job *job, int64_t now_ns) noexcept nogil
    cdef int reserve_for(self, Client *client, Job *job, int64_t now_ns) noexcept nogil
    cdef bint match(self, Tube *tube, int64_t now_ns) noexcept nogil
    cdef void fill_image(self, Job *job, uint64_t id, JobImage *image) noexcept nogil
    cdef void journal_change(self, Job *job, bint gates) noexcept nogil
    cdef void fill_settings(self, Tube *tube, TubeImage *image) noexcept nogil
    cdef void journal_settings(self, Tube *tube) noexcept nogil
    cdef void pause_over(self, Tube *tube) noexcept nogil
    cdef int time_out(self, Client *client, int64_t now_ns) noexcept nogil

    cdef void begin_iteration(self, int64_t now_ns) noexcept nogil
    cdef void start_waiting(self, Client *client) noexcept nogil
    cdef void end_wait(self, Client *client, Reply reply) noexcept nogil
    cdef void answer_later(self, Client *client, Reply reply) noexcept nogil
    cdef Client *take_answered(self) noexcept nogil
    cdef void count_text(self, Client *client) noexcept nogil

    cdef int64_t next_timer_ns(self) noexcept nogil
    cdef void schedule(self, Timer *timer, int64_t when_ns) noexcept nogil
    cdef int64_t tube_due_ns(self, Tube *tube) noexcept nogil
    cdef int64_t client_due_ns(self, Client *client) noexcept nogil
    cdef int add_timer(self, Timer *timer, TimerKind kind, uint32_t number) noexcept nogil

    cdef void relist(self, Tube *removed) noexcept nogil

    # On the path of every job

    cdef inline bint is_full(self, uint64_t more_bytes) noexcept nogil:
        """Whether `more_bytes` more memory would pass the limit."""
        return memory_is_full(&self.memory, self.journal.memory_bytes + more_bytes)

    cdef inline bint body_arrived(self, Client *client, uint32_t bytes) noexcept nogil:
        """Of the body of the client's put, `bytes` have come so far. False: there is no room for them."""
        if bytes <= client.arriving_bytes:
            return True
        memory_count_body(&self.memory, bytes - client.arriving_bytes)
        client.arriving_bytes = bytes
        return not self.is_full(0)

    cdef inline Client *next_answered(self) noexcept nogil:
        """Take the next client with an answer, or NULL."""
        return NULL if self.answered.first is NULL else self.take_answered()

    cdef inline bint timer_is_due(self, int64_t now_ns) noexcept nogil:
        """Whether `timers.expire` has something to do."""
        return heap_top(&self.timers).key <= <uint64_t>now_ns and not self.follows

    cdef inline bint has_long_commands(self) noexcept nogil:
        """Whether `long_commands.work_on` has something to do."""
        return self.work.first is not NULL or self.lists.first is not NULL

    cdef inline bint is_costly(self, Client *client) noexcept nogil:
        """Whether one command of this client may move or look at very much: a reserve looks at all that it watches,
        and returns what it held for too long."""
        return client.watched_count + client.reserved.len > CHEAP_STEPS

    cdef inline Tube *find_or_make_tube(self, const char *name, uint32_t name_bytes) noexcept nogil:
        """The tube of this name, or NULL without memory. A caller that does not refer to it calls `release_tube`."""
        cdef Tube *tube = tube_again(&self.tubes, name, name_bytes)
        return tube if tube is not NULL else self.look_up_or_make_tube(name, name_bytes)

    cdef inline Tube *tube_of(self, Job *job) noexcept nogil:
        return self.tubes.by_number[job.tube]

    cdef inline void to_ready(self, Tube *tube, Job *job, uint64_t id) noexcept nogil:
        """The most frequent way into a heap. The caller has reserved room in it, so that the push cannot fail."""
        heap_push(&tube.ready, &job.node, job.pri, id)
        oldest_enters(tube, id)
        job.state = JOB_READY
        self.counts.ready += 1
        if job.pri < URGENT_BELOW_PRI:
            self.counts.urgent += 1
            tube.urgent += 1
