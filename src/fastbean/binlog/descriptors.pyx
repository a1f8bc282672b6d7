"""What owns the descriptors of a binlog: each is closed when its owner is closed or dropped.

A signal handler may raise between any two bytecodes, as Ctrl-C does, also between the call that returns a descriptor
and the one that stores it: then its number would be lost, and the descriptor open for ever. Between two calls of a
compiled function no handler runs. So descriptors are opened here, right into an object, and handed over here.
"""

import os


cdef extern from "<unistd.h>" nogil:
    int close(int fd)


cdef class OpenFile:
    """A file or directory, open as ``fd``; -1 once it is closed or handed over. Also a context manager.

    The arguments are those of ``os.open``, whose errors it raises.
    """

    cdef readonly int fd

    def __cinit__(self, path, int flags, int mode=0o600):
        self.fd = -1
        self.fd = os.open(path, flags | os.O_CLOEXEC, mode)

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()

    def hand_over(self, take, number, size):
        """Call ``take(number, fd, size)``; the descriptor is its own once it has returned, and ours if it raises.

        ``take`` has to be a compiled function: in any other, a handler may raise after the descriptor was stored.
        """
        take(number, self.fd, size)
        self.fd = -1

    def detach(self):
        """Return the descriptor, which the caller has to close. Only a thread that runs no signal handlers may."""
        fd, self.fd = self.fd, -1
        return fd

    def close(self):
        """Close it. May be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


cdef class Pipe:
    """A pipe with its two ends, ``reading`` and ``writing``; each is -1 once it is closed."""

    cdef readonly int reading
    cdef readonly int writing

    def __cinit__(self):
        self.reading = self.writing = -1
        self.reading, self.writing = os.pipe()

    def __dealloc__(self):
        if self.reading >= 0:
            close(self.reading)
        if self.writing >= 0:
            close(self.writing)

    def close(self):
        """Close both ends. May be called again."""
        ends = self.reading, self.writing
        self.reading = self.writing = -1
        for fd in ends:
            if fd >= 0:
                os.close(fd)
