"""A part of a file in memory, which moves on through the file: how a start reads its segments.

A mapping would be no slower to read. But a disk that fails to read a mapped page ends the process with SIGBUS, and so
does a file that becomes shorter; a call returns an error, which becomes one clear line.

The memory is WINDOW_BYTES, and one more record when that is larger: a segment may have gigabytes.
"""

from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from fastbean.binlog.record cimport MAX_RECORD_HEAD_BYTES, record_bytes

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *data, size_t size, long long offset)

cdef enum:
    # A core's second cache holds as much, with some room: records are checked and copied before they leave it.
    WINDOW_BYTES = 131072


cdef int window_open(Window *window, int fd, uint64_t file_bytes) noexcept nogil:
    """Begin with another file. Returns 0, or the errno."""
    window.fd = fd
    window.error = 0
    window.len = 0
    window.begin = 0
    window.file_bytes = file_bytes
    fill(window, min(file_bytes, <uint64_t>WINDOW_BYTES))
    return window.error


cdef bint window_reach(Window *window, uint64_t at) noexcept nogil:
    """See that the whole record at the offset `at` is in memory, as far as the file has it.

    Returns whether there is more of it now than before. Without an error that says that what could be read before is
    all that the file has.
    """
    cdef size_t skipped = at - window.begin
    cdef size_t left = window.len - skipped
    cdef uint64_t wanted = record_bytes(window.data + skipped, left)
    if wanted == 0:
        # What its head says cannot be known yet.
        wanted = min(<uint64_t>MAX_RECORD_HEAD_BYTES, window.file_bytes - at)
    if wanted <= left or wanted > window.file_bytes - at:
        return False
    memmove(window.data, window.data + skipped, left)
    window.begin = at
    window.len = left
    fill(window, max(wanted, min(<uint64_t>WINDOW_BYTES, window.file_bytes - at)))
    return window.error == 0 and window.len > left


cdef void fill(Window *window, size_t wanted) noexcept nogil:
    """Read until there are as many bytes. A file that has become shorter ends where it ends now."""
    cdef ssize_t size
    cdef char *data
    if wanted > window.cap:
        data = <char *>realloc(window.data, wanted)
        if data is NULL:
            window.error = ENOMEM
            return
        window.data = data
        window.cap = wanted
    while window.len < wanted:
        size = pread(window.fd, window.data + window.len, wanted - window.len, window.begin + window.len)
        if size > 0:
            window.len += size
        elif size == 0:
            window.file_bytes = window.begin + window.len
            return
        elif errno != EINTR:
            window.error = errno
            return


cdef void window_end(Window *window) noexcept nogil:
    """Free the memory."""
    free(window.data)
    window.data = NULL
    window.cap = 0
