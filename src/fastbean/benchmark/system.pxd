"""The system calls of the load tool: epoll, sockets, clocks. Everything that needs Linux is here."""

from libc.stdint cimport uint32_t, uint64_t
from posix.time cimport clockid_t, timespec
from posix.types cimport pid_t

cdef extern from *:
    """
    #include <errno.h>
    #include <sys/socket.h>
    #include <time.h>
    #ifdef __linux__
    #include <poll.h>
    #include <sys/epoll.h>
    static inline int process_clock(pid_t pid, clockid_t *clock) {return clock_getcpuclockid(pid, clock);}
    /* Sleeps until a descriptor is ready or the time is over, more precisely than epoll_wait's milliseconds allow. */
    static inline int epoll_sleep(int epoll, const struct timespec *limit)
    {struct pollfd one = {epoll, POLLIN, 0}; return ppoll(&one, 1, limit, NULL);}
    #else
    /* On other systems the modules build, and report at their first use that they need Linux. */

    #include <stdint.h>
    enum {EPOLLIN = 1, EPOLLOUT = 4, EPOLL_CTL_ADD = 1, EPOLL_CTL_MOD = 3};
    typedef union {uint64_t u64;} epoll_data_t;
    struct epoll_event {uint32_t events; epoll_data_t data;};
    static inline int epoll_create1(int flags) {(void)flags; errno = ENOSYS; return -1;}
    static inline int epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event)
    {(void)epoll; (void)operation; (void)fd; (void)event; errno = ENOSYS; return -1;}
    static inline int epoll_wait(int epoll, struct epoll_event *events, int room, int limit_ms)
    {(void)epoll; (void)events; (void)room; (void)limit_ms; errno = ENOSYS; return -1;}
    static inline int epoll_sleep(int epoll, const struct timespec *limit)
    {(void)epoll; (void)limit; errno = ENOSYS; return -1;}
    static inline int process_clock(pid_t pid, clockid_t *clock) {(void)pid; (void)clock; return ENOSYS;}
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    """
    int EPOLLIN
    int EPOLLOUT
    int EPOLL_CTL_ADD
    int EPOLL_CTL_MOD
    int MSG_NOSIGNAL
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags) nogil
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event) nogil
    int epoll_wait(int epoll, epoll_event *events, int room, int limit_ms) nogil
    int epoll_sleep(int epoll, const timespec *limit) nogil
    ssize_t recv(int fd, void *data, size_t room, int flags) nogil
    ssize_t send(int fd, const void *data, size_t size, int flags) nogil
    int process_clock(pid_t pid, clockid_t *clock) nogil
