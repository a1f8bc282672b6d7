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


cdef class Poller:
    cdef int epoll                  # -1: closed
    cdef epoll_event *events        # what the last poll found
    cdef int found                  # the number of events
    cdef uint8_t *masks             # by descriptor: what is watched, 0 where nothing is
    cdef int cap
    cdef list datas                 # by descriptor
    cdef readonly int64_t now_ns    # when the last poll ended

    cdef int poll(self, int64_t timeout_ns) except -1
    cdef int mask_of(self, int place, int *fd) noexcept
    cdef bint tell_again(self, int fd) noexcept
    cdef void tell_rest_again(self, int place) noexcept
    cdef int grow(self, int fd) except -1
    cdef void forget(self, int fd) noexcept
    cdef int control(self, int operation, int fd, int mask) except -1
    cdef int ask(self, int operation, int fd, int mask) noexcept
