"""Waiting for descriptors with epoll, compiled; for Linux only, except for `new_selector` and `PollerOverSelector`.

What is watched is kept in an array by descriptor, so that waiting, and watching connections, needs neither the
interpreter nor its lock. One poll is one epoll_wait, and notes the time at its end. Descriptors that Python watches
have any object as their data.

A poll is never shorter than asked, except after a signal: then ``interrupted`` is set, and its owner has the signal's
Python handler run. `Poller.wait` does that by itself. A poll finds EVENTS_AT_ONCE descriptors at most; the kernel
reports the others before it reports these again.

What is watched with EDGE (epoll's EPOLLET) is reported once per event; without it the kernel would check the descriptor
again after each wait, and find nothing. The owner has to receive everything, or call `tell_again`, and must not miss
anything that a poll has found.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EBADF, EINTR, ENOMEM, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset, strerror

from fastbean.base.clock cimport monotonic_ns
from fastbean.base.debug_counters cimport gil_taken

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


cdef class Poller:
    """Watches descriptors with epoll.

    Raises:
        OSError: no more descriptors.
        MemoryError: no memory for the array of events.
    """

    def __cinit__(self, *_):
        self.epoll = -1
        self.datas = {}
        self.events = <epoll_event *>malloc(EVENTS_AT_ONCE * sizeof(epoll_event))
        if self.events is NULL:
            raise MemoryError("no memory for the events of a wait")

    def __init__(self):
        if self.epoll >= 0:
            return
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.has_edge = True
        if self.epoll < 0:
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        if self.epoll >= 0:
            close_descriptor(self.epoll)
        free(self.events)
        free(self.watches)

    def close(self):
        """Stop watching everything. May be called again."""
        if self.epoll >= 0:
            close_descriptor(self.epoll)
        self.epoll = -1
        self.datas = {}
        free(self.watches)
        self.watches = NULL
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
        cdef int error
        check_events(events)
        if fd < 0:
            raise ValueError(f"Invalid file descriptor: {fd}")
        if self.epoll < 0:
            raise ValueError("the poller is closed")
        if fd < self.cap and self.watches[fd].events:
            raise KeyError(f"FD {fd} is already watched")
        self.datas[fd] = data
        error = self.watch(fd, events, WATCHED_CALLBACK, NULL)
        if error:
            del self.datas[fd]
        raise_error(error)

    def change(self, int fd, int events):
        """Watch a descriptor for other events.

        Raises:
            KeyError: it is not watched.
            ValueError: `events` is invalid.
            OSError: the kernel cannot watch it any more; then it is no longer watched.
        """
        cdef int error
        check_events(events)
        if not 0 <= fd < self.cap or not self.watches[fd].events:
            raise KeyError(f"FD {fd} is not watched")
        error = self.watch_for(fd, events)
        if error:
            self.datas.pop(fd, None)
        raise_error(error)

    def remove(self, int fd):
        """Stop watching a descriptor, which may be closed already. Does nothing if it is not watched."""
        self.forget(fd)
        self.datas.pop(fd, None)

    def data_of(self, int fd):
        """The data of a descriptor, or None if Python does not watch it."""
        return self.data_at(fd)

    def wait(self, int64_t timeout_ns):
        """Wait until something is ready.

        Args:
            timeout_ns: nanoseconds at most; -1 for ever. A signal may end the wait sooner.

        Returns:
            What is ready: a list of (descriptor, events).
        """
        cdef int place, mask, fd
        ready = []
        # Before the wait: afterwards, an exception of a handler would have to wait until what was found is served.
        PyErr_CheckSignals()
        with nogil:
            self.poll(timeout_ns)
        if self.interrupted:
            PyErr_CheckSignals()
        for place in range(self.found):
            mask = self.mask_of(place, &fd)
            if mask:
                ready.append((fd, mask))
        return ready

    cdef int watch(self, int fd, int events, Watched kind, void *connection) noexcept nogil:
        """Watch a descriptor that is not watched yet. Returns 0, or the error's number (then nothing has changed)."""
        cdef int error = ENOMEM if self.grow(fd) < 0 else self.ask(EPOLL_CTL_ADD, fd, events)
        if error:
            return error
        self.watches[fd].events = events
        self.watches[fd].kind = kind
        self.watches[fd].connection = connection
        return 0

    cdef int watch_for(self, int fd, int events) noexcept nogil:
        """Watch a watched descriptor for other events. Returns 0, or the number of the error that ends that."""
        cdef int error = self.ask(EPOLL_CTL_MOD, fd, events)
        if error:
            self.forget(fd)
            return error
        self.watches[fd].events = events
        return 0

    cdef int grow(self, int fd) noexcept nogil:
        """Make room for this descriptor. Returns 0, or -1 without memory."""
        cdef int cap = self.cap if self.cap else SMALLEST_CAP
        cdef Watch *watches
        if fd < self.cap:
            return 0
        while cap <= fd:
            cap *= 2
        watches = <Watch *>realloc(self.watches, cap * sizeof(Watch))
        if watches is NULL:
            return -1
        self.watches = watches
        memset(watches + self.cap, 0, (cap - self.cap) * sizeof(Watch))
        self.cap = cap
        return 0

    cdef void forget(self, int fd) noexcept nogil:
        """Stop watching a descriptor, if it is watched; nothing in it can fail."""
        if not 0 <= fd < self.cap or not self.watches[fd].events:
            return
        self.ask(EPOLL_CTL_DEL, fd, 0)  # fails for a file that was closed, which is fine
        self.watches[fd].events = 0

    cdef void forget_closed(self, int fd) noexcept nogil:
        """As `forget`, for a descriptor that the caller closes, as the only one of its file: epoll forgets it then."""
        if fd < self.cap:
            self.watches[fd].events = 0

    cdef object data_at(self, int fd):
        return self.datas.get(fd)

    cdef int ask(self, int operation, int fd, int mask) noexcept nogil:
        """Returns 0, or the error's number when the kernel refuses."""
        cdef epoll_event event
        event.events = (EPOLLIN if mask & READ else 0) | (EPOLLOUT if mask & WRITE else 0)
        if mask & EDGE:
            # A receive ends at urgent data, and before a hang-up: the caller must know that there is more.
            event.events |= EPOLLET | EPOLLRDHUP | EPOLLPRI
        event.data.fd = fd
        return errno if epoll_ctl(self.epoll, operation, fd, &event) < 0 else 0

    cdef int poll(self, int64_t timeout_ns) except -1 nogil:
        """Wait for `timeout_ns` at most, -1 for ever; after a signal perhaps less. Returns the number of events."""
        cdef int64_t timeout_ms = -1
        if timeout_ns >= 0:
            # Rounded up: a poll that ended too soon would be repeated until the time has come.
            timeout_ms = min((timeout_ns + NS_IN_MS - 1) // NS_IN_MS, <int64_t>INT_MAX)
        self.found = epoll_wait(self.epoll, self.events, EVENTS_AT_ONCE, <int>timeout_ms)
        self.interrupted = self.found < 0 and errno == EINTR
        if self.found < 0:
            self.found = 0
            if not self.interrupted:
                raise_error(errno)
        self.now_ns = monotonic_ns()
        return self.found

    cdef int mask_of(self, int place, int *fd) noexcept nogil:
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
        return mask & self.watches[fd[0]].events if fd[0] < self.cap else 0

    cdef bint tell_again(self, int fd) noexcept nogil:
        """Have the next poll find this descriptor if it is ready then, with EDGE too. False: the kernel refuses."""
        return self.ask(EPOLL_CTL_MOD, fd, self.watches[fd].events) == 0


cdef int raise_error(int number) except -1 with gil:
    """Raise the error with this number; 0 is none."""
    if number == 0:
        return 0
    if number == ENOMEM:
        raise MemoryError("no memory to watch another descriptor")
    raise OSError(number, strerror(number).decode())


@cython.final
cdef class PollerOverSelector(Poller):
    """The same, for a hub, over a SelectorPoller. It takes the GIL to wait, and to change what it watches.

    Descriptors that were added to the SelectorPoller itself are found, too, with its data.
    """

    def __init__(self, selector):
        self.selector = selector
        self.events_cap = EVENTS_AT_ONCE

    cdef object data_at(self, int fd):
        return self.selector.data_of(fd)

    cdef int ask(self, int operation, int fd, int mask) noexcept nogil:
        with gil:
            gil_taken()
            try:
                if operation == EPOLL_CTL_DEL:
                    self.selector.remove(fd)
                elif operation == EPOLL_CTL_ADD:
                    self.selector.add(fd, mask & (READ | WRITE), None)
                else:
                    self.selector.change(fd, mask & (READ | WRITE))
                return 0
            except OSError as error:
                return error.errno or EBADF
            except MemoryError:
                return ENOMEM
            except BaseException as error:
                # A signal handler's: the next poll raises it.
                self.raised = error
                return EINTR

    cdef int poll(self, int64_t timeout_ns) except -1 nogil:
        with gil:
            gil_taken()
            self.found = 0
            self.interrupted = False
            if self.raised is not None:
                error, self.raised = self.raised, None
                raise error
            self.take(self.selector.wait(timeout_ns))
            self.now_ns = monotonic_ns()
        return self.found

    cdef int take(self, list ready) except -1:
        """Note what was found as epoll would, so that `mask_of` reads it."""
        cdef epoll_event *events
        cdef int fd, mask
        if len(ready) > self.events_cap:
            events = <epoll_event *>realloc(self.events, len(ready) * sizeof(epoll_event))
            if events is NULL:
                raise MemoryError("no memory for the events of a wait")
            self.events = events
            self.events_cap = len(ready)
        for fd, mask in ready:
            if self.grow(fd) < 0:
                raise MemoryError("no memory for the events of a wait")
            if self.watches[fd].events == 0 or self.watches[fd].kind == WATCHED_CALLBACK:
                # Added to the SelectorPoller itself; removing it there removes its data, too.
                self.watches[fd].kind = WATCHED_CALLBACK
                self.watches[fd].events = READ | WRITE
            self.events[self.found].events = (EPOLLIN if mask & READ else 0) | (EPOLLOUT if mask & WRITE else 0)
            self.events[self.found].data.fd = fd
            self.found += 1
        return 0


cdef Poller poller_over(object poller):
    """The compiled poller of a hub: what `new_selector` made, or one over it."""
    return poller if isinstance(poller, Poller) else PollerOverSelector(poller)
