"""The client as the engine sees it: what it uses, watches, has reserved and waits for; and the set of all clients."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer, buffer_append
from fastbean._core cimport Heap
from fastbean.engine.job cimport Job
from fastbean.protocol.replies cimport Reply
from fastbean.base.hash_table cimport Table
from fastbean.engine.tube cimport Timer, Tube, Watch

cdef enum:
    TEXT_HEAD_BYTES = 32        # left free before a text, so that "OK SIZE" can be written there

cdef struct CarriedJob:         # the body of this job is sent with the reply
    Job *job
    uint64_t id

cdef struct Answer:             # the arguments of a reply; its row says what it carries
    Reply reply
    uint32_t jobs_count
    uint32_t more_cap
    uint64_t number             # the id of a new job, or a count
    CarriedJob first
    CarriedJob *more            # all after the first one
    Buffer text                 # of stats-like commands; begun by `begin_text`

cdef enum WorkKind:
    WORK_KICK
    WORK_LIST_TUBES
    WORK_LIST_WATCHED
    WORK_OLDEST
    WORK_LEAVE

cdef struct Work:               # a long command, or a client's disconnect; it may take more than one iteration
    WorkKind kind
    uint32_t left               # jobs still to kick, or entries still to list
    uint32_t done               # jobs kicked, or entries listed
    bint buried                 # kick: takes buried jobs, not delayed ones
    uint32_t tube               # number of the tube whose oldest job is searched for
    uint64_t birth              # that tube's `birth`: another tube may have the number by now
    uint64_t reached            # where the search continues: the tube's `oldest_id` after the last step

cdef struct ClientQueue:        # all zero bytes = an empty queue
    Client *first
    Client *last

cdef struct Client:
    Timer timer                 # due when its first reservation or its wait ends
    Heap reserved               # by (deadline, id)
    Heap returning              # after its disconnect: by (reservation_seq, id), the order in which they become ready
    uint32_t reservation_seq    # reservations so far, modulo 2**32
    Tube *use
    Watch **watched             # in the order of list-tubes-watched
    uint32_t watched_count
    uint32_t watched_cap
    Table watch_table           # tube number -> Watch, once it watches more than FEW
    uint32_t number
    bint producer
    bint worker
    bint waiting
    uint32_t arriving_bytes     # bytes of the arriving body that are counted as memory
    int64_t give_up_at_ns       # the end of its reserve-with-timeout, or -1
    Job *arriving               # the job whose body is being received, or NULL
    uint64_t arriving_id
    Work work                   # its long command, or its leaving
    Answer answer
    size_t text_bytes           # size of `answer.text` as counted in the memory
    ClientQueue *queue          # the queue that it is in, or NULL
    Client *next                # its neighbours there
    Client *previous
    void *connection            # identifies the client to the caller; the engine never looks at it

cdef struct ClientSet:          # all zero bytes = an empty set
    Client **by_number          # NULL where a number is free
    uint32_t *free_numbers
    uint32_t free_count
    uint32_t cap                # of both arrays
    uint32_t numbers            # assigned so far

cdef inline void begin_text(Buffer *text) noexcept nogil:
    """Write the first line of a text, after TEXT_HEAD_BYTES that the sender fills in."""
    buffer_append(text, b"                                ---\n", TEXT_HEAD_BYTES + 4)

cdef inline CarriedJob *carried_job(Answer *answer, uint32_t place) noexcept nogil:
    """The job at this place of those that the reply carries."""
    return &answer.first if place == 0 else &answer.more[place - 1]

cdef inline void answer_add(Answer *answer, Job *job, uint64_t id) noexcept nogil:
    """The reply carries this job too. There always is room for one; for more, `answer_reserve` makes it."""
    cdef CarriedJob *carried = carried_job(answer, answer.jobs_count)
    carried.job = job
    carried.id = id
    answer.jobs_count += 1

cdef int answer_reserve(Answer *answer, uint32_t count) noexcept nogil
cdef void answer_drop_jobs(Answer *answer) noexcept nogil

cdef void queue_join(ClientQueue *queue, Client *client) noexcept nogil
cdef void queue_leave(Client *client) noexcept nogil

cdef Client *client_new(ClientSet *clients) noexcept nogil
cdef void client_remove(ClientSet *clients, Client *client) noexcept nogil
cdef void client_set_free(ClientSet *clients) noexcept nogil

cdef Watch *client_watch_of(Client *client, Tube *tube) noexcept nogil
cdef Watch *client_add_watch(Client *client, Tube *tube) noexcept nogil
cdef void client_remove_watch(Client *client, Watch *watch) noexcept nogil
cdef void client_start_waiting(Client *client) noexcept nogil
cdef void client_stop_waiting(Client *client) noexcept nogil
