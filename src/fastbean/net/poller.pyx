"""Waiting for descriptors with epoll, compiled; for Linux only, except for `new_selector`.

What is watched is kept in arrays by descriptor, so that a wait makes no Python object: the hub walks what `poll` found.
One poll is one epoll_wait, with the interpreter lock released, and notes the time at its end.

A poll is never shorter than asked, except after a signal: before such a poll returns, the signal's Python handler runs,
and its exception is raised. A poll finds EVENTS_AT_ONCE descriptors at most; the kernel reports the others before it
reports these again.

What is added with EDGE (epoll's EPOLLET) is reported once per event; without it the kernel would check the descriptor
again after each wait, and find nothing. The owner has to receive everything, or call `tell_again`, and must not miss
anything that a poll has found.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from fastbean.base.clock cimport monotonic_ns

import select as _select

from fastbean.net.selector_poller import SelectorPoller as _SelectorPoller

cdef extern from * nogil:
    uint32_t EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP, EPOLLET
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout_ms)

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)

cdef enum:
    EVENTS_AT_ONCE = 1024
    SMALLEST_CAP = 64
    NS_IN_MS = 1000000


cdef int check_events(int events) except -1:
    if not events & (READ | WRITE) or events & ~(READ | WRITE | EDGE):
        raise ValueError(f"Invalid events: {events!r}")
    return 0


def new_selector(str kind not None="compiled"):
    """Make the object that an event loop waits with.

    Args:
        kind: "compiled": a Poller, or what "selectors" makes on a system without epoll; "selectors": a SelectorPoller,
            which is the standard library's selector.

    Raises:
        ValueError: there is no such kind.
        OSError: no more descriptors.
        MemoryError: no memory for the array of events.
    """
    if kind not in ("compiled", "selectors"):
        raise ValueError(f"{kind!r} is no event loop; choose 'compiled' or 'selectors'")
    return Poller() if kind == "compiled" and hasattr(_select, "epoll") else _SelectorPoller()


@cython.final
cdef class Poller:
    """Watches descriptors with epoll.

    Raises:
        OSError: no more descriptors.
        MemoryError: no memory for the array of events.
    """

    def __cinit__(self):
        self.epoll = -1
        self.datas = []
        self.events = <epoll_event *>malloc(EVENTS_AT_ONCE * sizeof(epoll_event))
        if self.events is NULL:
            raise MemoryError("no memory for the events of a wait")
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.epoll < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self.epoll >= 0:
            close_descriptor(self.epoll)
        free(self.events)
        free(self.masks)

    def close(self):
        """Stop watching everything. May be called again."""
        if self.epoll >= 0:
            close_descriptor(self.epoll)
        self.epoll = -1
        self.datas = []
        free(self.masks)
        self.masks = NULL
        self.cap = 0

    def add(self, int fd, int events, object data):
        """Watch a descriptor.

        Args:
            fd: the descriptor.
            events: READ, WRITE or both, with the values of ``selectors.EVENT_READ`` and ``EVENT_WRITE``.
            data: what `data_of` returns.

        Raises:
            ValueError: `events` or `fd` is invalid, or the poller is closed.
            KeyError: it is watched already.
            OSError: the kernel cannot watch it.
            MemoryError: no memory. After any of these errors nothing has changed.
        """
        check_events(events)
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        if self.epoll < 0:
            raise ValueError("the poller is closed")
        if fd < self.cap and self.masks[fd]:
            raise KeyError(f"FD {fd} is already watched")
        self.grow(fd)
        self.control(EPOLL_CTL_ADD, fd, events)
        self.masks[fd] = events
        self.datas[fd] = data

    def change(self, int fd, int events):
        """Watch a descriptor for other events.

        Raises:
            KeyError: it is not watched.
            ValueError: `events` is invalid.
            OSError: the kernel cannot watch it any more; then it is no longer watched.
        """
        check_events(events)
        if not 0 <= fd < self.cap or not self.masks[fd]:
            raise KeyError(f"FD {fd} is not watched")
        try:
            self.control(EPOLL_CTL_MOD, fd, events)
        except OSError:
            self.forget(fd)
            raise
        self.masks[fd] = events

    def remove(self, int fd):
        """Stop watching a descriptor, which may be closed already. Does nothing if it is not watched."""
        self.forget(fd)

    def data_of(self, int fd):
        """The data of a descriptor, or None if it is not watched."""
        return self.datas[fd] if 0 <= fd < self.cap else None

    def wait(self, int64_t timeout_ns):
        """Wait until something is ready.

        Args:
            timeout_ns: nanoseconds at most; -1 for ever. A signal may end the wait sooner.

        Returns:
            What is ready: a list of (descriptor, events).
        """
        cdef int place, mask, fd
        ready = []
        for place in range(self.poll(timeout_ns)):
            mask = self.mask_of(place, &fd)
            if mask:
                ready.append((fd, mask))
        return ready

    cdef int grow(self, int fd) except -1:
        """Make room for this descriptor."""
        cdef int cap = self.cap if self.cap else SMALLEST_CAP
        cdef uint8_t *masks
        if fd < self.cap:
            return 0
        while cap <= fd:
            cap *= 2
        masks = <uint8_t *>realloc(self.masks, cap)
        if masks is NULL:
            raise MemoryError("no memory to watch another descriptor")
        self.masks = masks
        self.datas += [None] * (cap - len(self.datas))
        memset(masks + self.cap, 0, cap - self.cap)
        self.cap = cap
        return 0

    cdef void forget(self, int fd) noexcept:
        """What `remove` does; nothing in it can fail."""
        if not 0 <= fd < self.cap or not self.masks[fd]:
            return
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, self.events)  # fails for a file that was closed, which is fine
        self.masks[fd] = 0
        self.datas[fd] = None

    cdef int control(self, int operation, int fd, int mask) except -1:
        if self.ask(operation, fd, mask) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef int ask(self, int operation, int fd, int mask) noexcept:
        """Returns 0, or -1 with errno when the kernel refuses."""
        cdef epoll_event event
        event.events = (EPOLLIN if mask & READ else 0) | (EPOLLOUT if mask & WRITE else 0)
        if mask & EDGE:
            # A receive ends at urgent data, and before a hang-up: the caller must know that there is more.
            event.events |= EPOLLET | EPOLLRDHUP | EPOLLPRI
        event.data.fd = fd
        return epoll_ctl(self.epoll, operation, fd, &event)

    cdef int poll(self, int64_t timeout_ns) except -1:
        """Wait for `timeout_ns` at most, -1 for ever; after a signal perhaps less. Returns the number of events."""
        cdef int64_t timeout_ms = -1
        cdef int count
        if timeout_ns >= 0:
            # Rounded up: a poll that ended too soon would be repeated until the time has come.
            timeout_ms = min((timeout_ns + NS_IN_MS - 1) // NS_IN_MS, <int64_t>INT_MAX)
        self.found = 0
        # Before the wait: afterwards, an exception of a handler would have to wait until what was found is served.
        PyErr_CheckSignals()
        with nogil:
            count = epoll_wait(self.epoll, self.events, EVENTS_AT_ONCE, <int>timeout_ms)
            if count < 0 and errno == EINTR:
                count = 0
            self.now_ns = monotonic_ns()
        if count < 0:
            PyErr_SetFromErrno(OSError)
        if count == 0:
            PyErr_CheckSignals()
        self.found = count
        return count

    cdef int mask_of(self, int place, int *fd) noexcept:
        """The events of a descriptor that `poll` found, by its place, that are still watched; sets `fd` to it."""
        cdef uint32_t events = self.events[place].events
        cdef int mask = 0
        fd[0] = self.events[place].data.fd
        if events & ~EPOLLIN:
            mask |= WRITE
        if events & ~EPOLLOUT:
            mask |= READ
        if events & ~(EPOLLIN | EPOLLOUT):
            mask |= EDGE
        # A descriptor that was served before it in this iteration may have ended its registration.
        return mask & self.masks[fd[0]] if fd[0] < self.cap else 0

    cdef bint tell_again(self, int fd) noexcept:
        """Have the next poll find this descriptor if it is ready then, with EDGE too. False: the kernel refuses."""
        return self.ask(EPOLL_CTL_MOD, fd, self.masks[fd]) == 0

    cdef void tell_rest_again(self, int place) noexcept:
        """Have the next poll find again what the last poll found from this place on, because it was not served."""
        cdef int fd
        for place in range(place, self.found):
            if self.mask_of(place, &fd):
                self.tell_again(fd)
