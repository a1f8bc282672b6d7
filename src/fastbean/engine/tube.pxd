"""The tube, and the set of all tubes."""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcmp

from fastbean._core cimport Heap, HeapNode
from fastbean.base.hash_table cimport Entry, HashKey, Table

cdef enum TimerKind:
    TIMER_TUBE
    TIMER_CLIENT

cdef struct Timer:              # an entry of the server's one timer heap
    HeapNode node
    TimerKind kind
    uint32_t number             # of the tube or the client

cdef inline uint64_t timer_tie(Timer *timer) noexcept nogil:
    """Orders tubes before clients, when both are due at once."""
    return <uint64_t>timer.kind << 32 | timer.number

cdef struct Watch:              # one client's interest in one tube
    Entry entry                 # in the client's table of watched tubes
    Tube *tube
    Watch *earlier              # its neighbours in the tube's queue of waiting clients
    Watch *later
    uint32_t client
    uint32_t place              # in the client's array

cdef struct Tube:               # the name follows, with a terminating NUL
    # The members that a put uses come first: with very many tubes, each cache line counts.
    Entry entry                 # in the table of names
    Heap ready                  # by (pri, id)
    uint64_t oldest_id          # no ready job has a lower id; see oldest_ready.pyx
    Watch *longest_waiting      # the queue of waiting clients, longest wait first
    uint32_t number             # its own while it exists
    uint32_t name_bytes
    uint32_t jobs               # in any state; reserved and arriving ones keep the tube alive too
    uint32_t using
    uint32_t urgent
    uint32_t reserved
    uint64_t total_jobs
    uint64_t enqueued           # times that a job became ready
    uint64_t body_bytes         # of all jobs that are in a heap
    int64_t pause_ns            # 0: not paused
    uint64_t finished           # jobs deleted by the client that had reserved them
    uint64_t deletes
    Timer timer                 # the sooner of its first delayed job and the end of its pause
    Heap delayed                # by (deadline, id)
    Heap buried                 # by (number of the burial, id)
    Watch *latest_waiting
    uint32_t place              # in the visible list
    uint32_t watching
    uint32_t waiting
    uint64_t pauses
    int64_t unpause_at_ns
    uint64_t birth              # which tube of this server it is: no other one ever has the same
    Tube *earlier_settings      # its neighbours in the set's list of settings
    Tube *later_settings
    uint32_t segment            # where the binlog has its settings, if they have to be kept there; else 0

cdef struct TubeSet:
    Table names
    HashKey key
    Tube **by_number            # NULL where a number is free
    Tube **listed               # the visible list, in the order of list-tubes
    uint32_t *free_numbers
    uint32_t free_count
    uint32_t cap                # of all three arrays
    uint32_t numbers            # assigned so far
    uint32_t count
    uint64_t births             # tubes so far
    uint64_t names_bytes        # size of the names of all tubes
    Tube *last                  # the last one found by its name, or NULL
    Tube *oldest_settings       # the tubes whose settings are in the binlog, in the order of their records
    Tube *latest_settings

cdef inline char *tube_name(Tube *tube) noexcept nogil:
    return <char *>tube + sizeof(Tube)

cdef inline bint tube_has_name(Tube *tube, const char *name, uint32_t name_bytes) noexcept nogil:
    return tube.name_bytes == name_bytes and memcmp(tube_name(tube), name, name_bytes) == 0

cdef inline Tube *tube_again(TubeSet *tubes, const char *name, uint32_t name_bytes) noexcept nogil:
    """The last tube found, if it has this name, else NULL: a binlog names the same tube again and again."""
    return tubes.last if tubes.last is not NULL and tube_has_name(tubes.last, name, name_bytes) else NULL

cdef Tube *tube_find(TubeSet *tubes, const char *name, uint32_t name_bytes) noexcept nogil
cdef Tube *tube_find_or_make(TubeSet *tubes, const char *name, uint32_t name_bytes) noexcept nogil
cdef void tube_remove(TubeSet *tubes, Tube *tube) noexcept nogil
cdef void tube_set_free(TubeSet *tubes) noexcept nogil
cdef void waiting_line_join(Tube *tube, Watch *watch) noexcept nogil
cdef void tube_keep_settings(TubeSet *tubes, Tube *tube, uint32_t segment) noexcept nogil
cdef void waiting_line_leave(Tube *tube, Watch *watch) noexcept nogil
