"""Waiting for descriptors: ``selectors.EpollSelector``, compiled; for Linux.

A Poller has the interface of the standard library's selectors, and their errors. What is registered stands in arrays
by descriptor, so that a wait makes no Python object: the hub walks what `wait` found. Keys are made for who asks for
them. One wait is one epoll_wait, with the interpreter lock released, and notes the time at its end.

A wait is never shorter than asked, but for a signal: when a wait that it ended returns, its Python handler has run, and
what that raised is raised. It finds EVENTS_AT_ONCE descriptors at most; the kernel hands out the others before these
come again.

What is registered with EDGE (epoll's EPOLLET) is told once, each time something comes, where the kernel would look at
it again after each wait, to find nothing there. Whoever asks for it has to receive all there is, or call `tell_again`,
and nothing that a wait has found may be forgotten.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

from fastbean.base.clock cimport monotonic_ns

import selectors as _selectors
from collections.abc import Mapping as _Mapping

cdef extern from * nogil:
    uint32_t EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP, EPOLLET
    int EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event *event)
    int epoll_wait(int epoll, epoll_event *events, int count, int timeout_ms)

cdef extern from "<unistd.h>" nogil:
    int close_descriptor "close"(int fd)

assert (_selectors.EVENT_READ, _selectors.EVENT_WRITE) == (READ, WRITE)

cdef enum:
    EVENTS_AT_ONCE = 1024
    SMALLEST_CAP = 64
    NS_IN_MS = 1000000
    FAR_S = 1000000000              # a longer wait is none that anybody could tell from this one


cdef int checked_events(object events) except -1:
    if not events & (READ | WRITE) or events & ~(READ | WRITE | EDGE):
        raise ValueError(f"Invalid events: {events!r}")
    return events


cdef int descriptor_of(object fileobj) except -1:
    """The descriptor of an open file."""
    fd = fileobj
    if not isinstance(fileobj, int):
        try:
            fd = int(fileobj.fileno())
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"Invalid file object: {fileobj!r}") from None
    if fd < 0:
        raise ValueError(f"Invalid file descriptor: {fd}")
    return fd


def new_selector(kind="compiled"):
    """A new selector.

    Args:
        kind: "compiled" for a Poller where the system has epoll, "selectors" for the standard library's.
    """
    if kind == "compiled" and hasattr(_selectors, "EpollSelector"):
        return Poller()
    return _selectors.DefaultSelector()


@cython.final
cdef class Poller:
    """A selector over epoll; see ``selectors.BaseSelector``.

    Raises:
        OSError: no more descriptors.
        MemoryError: no memory for the array of events.
    """

    def __cinit__(self):
        self.epoll = -1
        self.datas = []
        self.fileobjs = []
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

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def fileno(self):
        """The descriptor of the epoll itself.

        Raises:
            ValueError: it is closed.
        """
        self.check_open()
        return self.epoll

    def close(self):
        """Watch nothing any more. May be called again."""
        if self.epoll >= 0:
            close_descriptor(self.epoll)
        self.epoll = -1
        self.datas = []
        self.fileobjs = []
        free(self.masks)
        self.masks = NULL
        self.cap = 0
        self.count = 0

    # Registering

    def register(self, fileobj, events, data=None):
        """Watch a descriptor.

        Args:
            fileobj: a descriptor, or an object with a ``fileno``.
            events: EVENT_READ, EVENT_WRITE or both.
            data: what the key tells of it.

        Returns:
            The SelectorKey.

        Raises:
            ValueError: there are no such events, this is no open file, or the selector is closed.
            KeyError: it is registered.
            OSError: the kernel cannot watch it.
            MemoryError: likewise for memory. Nothing has changed then, nor with any other error.
        """
        cdef int mask = checked_events(events)
        cdef int fd = self.lookup(fileobj)
        self.check_open()
        if fd < self.cap and self.masks[fd]:
            raise KeyError(f"{fileobj!r} (FD {fd}) is already registered")
        self.grow(fd)
        self.control(EPOLL_CTL_ADD, fd, mask)
        self.masks[fd] = mask
        self.count += 1
        self.datas[fd] = data
        self.fileobjs[fd] = fileobj
        return self.key_of(fd)

    def unregister(self, fileobj):
        """Watch it no longer. It may be closed already.

        Returns:
            The SelectorKey that it had.

        Raises:
            KeyError: it is not registered.
        """
        cdef int fd = self.registered(fileobj)
        key = self.key_of(fd)
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, fd, self.events)  # fails for a file that was closed, which is fine
        self.forget(fd)
        return key

    def modify(self, fileobj, events, data=None):
        """Watch for other events, with other data.

        Returns:
            The SelectorKey.

        Raises:
            KeyError: it is not registered.
            ValueError: there are no such events.
            OSError: the kernel cannot watch it any more; it is not registered then.
        """
        cdef int fd = self.registered(fileobj)
        cdef int mask
        if events != self.masks[fd]:
            mask = checked_events(events)
            try:
                self.control(EPOLL_CTL_MOD, fd, mask)
            except OSError:
                self.forget(fd)
                raise
            self.masks[fd] = mask
        self.datas[fd] = data
        return self.key_of(fd)

    def get_key(self, fileobj):
        """The SelectorKey of a registered file.

        Raises:
            KeyError: it is not registered.
            RuntimeError: the selector is closed.
        """
        if self.epoll < 0:
            raise RuntimeError("Selector is closed")
        return self.key_of(self.registered(fileobj))

    def get_map(self):
        """All that is registered, as a mapping from file to SelectorKey; None when it is closed."""
        return None if self.epoll < 0 else _Registered(self)

    cdef object key_of(self, int fd):
        return _selectors.SelectorKey(self.fileobjs[fd], fd, <int>self.masks[fd], self.datas[fd])

    cdef int lookup(self, object fileobj) except -2:
        """The descriptor of `fileobj`, or the one it had when it was registered."""
        cdef int fd
        try:
            return descriptor_of(fileobj)
        except ValueError:
            for fd in range(self.cap):
                if self.masks[fd] and self.fileobjs[fd] is fileobj:
                    return fd
            raise

    cdef int registered(self, object fileobj) except -2:
        """The descriptor of a registered file."""
        cdef int fd = self.lookup(fileobj)
        if fd >= self.cap or not self.masks[fd]:
            raise KeyError(f"{fileobj!r} is not registered")
        return fd

    cdef int check_open(self) except -1:
        if self.epoll < 0:
            raise ValueError("I/O operation on closed epoll object")
        return 0

    cdef int grow(self, int fd) except -1:
        """Room for this descriptor."""
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
        self.fileobjs += [None] * (cap - len(self.fileobjs))
        memset(masks + self.cap, 0, cap - self.cap)
        self.cap = cap
        return 0

    cdef void forget(self, int fd) noexcept:
        self.masks[fd] = 0
        self.count -= 1
        self.datas[fd] = None
        self.fileobjs[fd] = None

    cdef int control(self, int operation, int fd, int mask) except -1:
        if self.ask(operation, fd, mask) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef int ask(self, int operation, int fd, int mask) noexcept:
        """Returns 0, or -1 with errno when the kernel refuses."""
        cdef epoll_event event
        event.events = (EPOLLIN if mask & READ else 0) | (EPOLLOUT if mask & WRITE else 0)
        if mask & EDGE:
            # A receive ends at urgent data, and with what came before a hang-up: it must be known that there is more.
            event.events |= EPOLLET | EPOLLRDHUP | EPOLLPRI
        event.data.fd = fd
        return epoll_ctl(self.epoll, operation, fd, &event)

    # Waiting

    def select(self, timeout=None):
        """Wait until something is ready.

        Args:
            timeout: seconds at most; None for ever, 0 and less not at all.

        Returns:
            A list of (SelectorKey, events), empty when the time is up.
        """
        cdef int64_t timeout_ns = -1
        cdef int64_t end_ns = monotonic_ns()
        cdef int count, place, mask, fd
        self.check_open()
        if timeout is not None:
            timeout_ns = <int64_t>(min(max(timeout, 0), FAR_S) * 1e9)
            end_ns += timeout_ns
        while True:
            count = self.wait(timeout_ns)
            if count or timeout_ns == 0:
                break
            if timeout_ns > 0:
                timeout_ns = max(end_ns - self.now_ns, 0)
        ready = []
        for place in range(count):
            mask = self.mask_of(place, &fd)
            if mask:
                ready.append((self.key_of(fd), mask))
        return ready

    cdef int wait(self, int64_t timeout_ns) except -1:
        """Wait at most so long, -1 for ever; after a signal perhaps less. Returns how many descriptors are ready."""
        cdef int64_t timeout_ms = -1
        cdef int count
        if timeout_ns >= 0:
            # Rounded up: to come too soon would be to come again and again until the time is there.
            timeout_ms = min((timeout_ns + NS_IN_MS - 1) // NS_IN_MS, <int64_t>INT_MAX)
        self.found = 0
        # Before it: what a handler raises afterwards would have to wait until what was found is served.
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
        """What is ready of a descriptor that `wait` found, by its place, and is still asked for; `fd` is set to it."""
        cdef uint32_t events = self.events[place].events
        cdef int mask = 0
        fd[0] = self.events[place].data.fd
        if events & ~EPOLLIN:
            mask |= WRITE
        if events & ~EPOLLOUT:
            mask |= READ
        if events & ~(EPOLLIN | EPOLLOUT):
            mask |= EDGE
        # Whoever was served before it in this iteration may have ended its registration.
        return mask & self.masks[fd[0]] if fd[0] < self.cap else 0

    cdef bint tell_again(self, int fd) noexcept:
        """Have the next wait find this descriptor if it is ready then, with EDGE too. False: the kernel cannot."""
        return self.ask(EPOLL_CTL_MOD, fd, self.masks[fd]) == 0

    cdef void tell_rest_again(self, int place) noexcept:
        """What the last wait found, from this place on, was not served: the next wait finds it too."""
        cdef int fd
        for place in range(place, self.found):
            if self.mask_of(place, &fd):
                self.tell_again(fd)


class _Registered(_Mapping):
    """What is registered with a Poller, as it is at each moment."""

    def __init__(self, Poller poller not None):
        self._poller = poller

    def __len__(self):
        return (<Poller>self._poller).count

    def __getitem__(self, fileobj):
        cdef Poller poller = self._poller
        return poller.key_of(poller.registered(fileobj))

    def __iter__(self):
        cdef Poller poller = self._poller
        return iter([fd for fd in range(poller.cap) if poller.masks[fd]])
