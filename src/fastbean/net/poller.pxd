"""Waiting for descriptors with epoll. Linux only, except for `new_selector`."""

from libc.stdint cimport int64_t, uint8_t, uint32_t

cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/epoll.h>
    #else
    /* Never called: without epoll no Poller can be made. */
    #include <errno.h>
    #include <stdint.h>
    enum { EPOLLIN = 1, EPOLLPRI, EPOLLOUT = 4, EPOLLRDHUP = 8, EPOLLET = 16 };
    enum { EPOLL_CTL_ADD = 1, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC = 0 };
    struct epoll_event { uint32_t events; union { int fd; } data; };
    #define epoll_create1(flags) (errno = ENOSYS, -1)
    #define epoll_ctl(epoll, operation, fd, event) (errno = ENOSYS, -1)
    #define epoll_wait(epoll, events, count, timeout_ms) (errno = ENOSYS, -1)
    #endif
    """
    cdef union epoll_data:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data data


cdef enum:
    READ = 1                        # as selectors.EVENT_READ and EVENT_WRITE
    WRITE = 2
    EDGE = 16                       # in `add`: report each event once; in a mask: a hang-up, or urgent data


cdef enum Watched:                  # what a descriptor is
    WATCHED_CALLBACK                # any that Python watches; its data may be a function
    WATCHED_CONNECTION
    WATCHED_LISTENER

cdef struct Watch:                  # of one descriptor
    void *connection
    uint8_t events                  # 0: it is not watched
    uint8_t kind                    # a Watched


cdef class Poller:
    cdef int epoll                  # -1: closed
    cdef epoll_event *events        # what the last poll found
    cdef int found                  # the number of events
    cdef bint has_edge              # it can watch with EDGE
    cdef bint interrupted           # a signal ended the last poll
    cdef Watch *watches             # by descriptor
    cdef int cap
    cdef dict datas                 # by descriptor, of those that Python watches
    cdef readonly int64_t now_ns    # when the last poll ended

    cdef int poll(self, int64_t timeout_ns) except -1 nogil
    cdef int mask_of(self, int place, int *fd) noexcept nogil
    cdef bint tell_again(self, int fd) noexcept nogil
    cdef int watch(self, int fd, int events, Watched kind, void *connection) noexcept nogil
    cdef int watch_for(self, int fd, int events) noexcept nogil
    cdef void forget(self, int fd) noexcept nogil
    cdef void forget_closed(self, int fd) noexcept nogil
    cdef object data_at(self, int fd)
    cdef int grow(self, int fd) noexcept nogil
    cdef int ask(self, int operation, int fd, int mask) noexcept nogil


cdef class PollerOverSelector(Poller):
    cdef object selector            # a SelectorPoller
    cdef int events_cap
    cdef object raised              # by a signal handler, while the selector was changed

    cdef int take(self, list ready) except -1

cdef int raise_error(int number) except -1 with gil
cdef Poller poller_over(object poller)
