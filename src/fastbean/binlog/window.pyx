"""A part of a file in memory that moves through the file: this is how a start reads segments.

A mapping would be as fast. But if the disk cannot read a mapped page, or the file becomes shorter, SIGBUS ends the
process; a system call returns an error, which can be reported in one clear line.

It takes WINDOW_BYTES, or the size of one record if that is larger, because a segment may have gigabytes.
"""

from libc.errno cimport EINTR, ENOMEM, errno
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove

from fastbean.binlog.record cimport MAX_RECORD_HEAD_BYTES, record_bytes

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *data, size_t size, long long offset)

cdef enum:
    # It fits into a core's second-level cache, so records are checked and copied before they leave the cache.
    WINDOW_BYTES = 131072


cdef int window_open(Window *window, int fd, uint64_t file_bytes) noexcept nogil:
    """Begin to read another file. Returns 0, or the errno."""
    window.fd = fd
    window.error = 0
    window.len = 0
    window.begin = 0
    window.file_bytes = file_bytes
    fill(window, min(file_bytes, <uint64_t>WINDOW_BYTES))
    return window.error


cdef bint window_reach(Window *window, uint64_t at) noexcept nogil:
    """Read on until the whole record at the offset `at` is in memory, as far as it is in the file.

    Returns whether more of it is in memory than before. False without an error means that the file has no more of it.
    """
    cdef size_t skipped = at - window.begin
    cdef size_t left = window.len - skipped
    cdef uint64_t wanted = record_bytes(window.data + skipped, left)
    if wanted == 0:
        # Its head is not complete yet.
        wanted = min(<uint64_t>MAX_RECORD_HEAD_BYTES, window.file_bytes - at)
    if wanted <= left or wanted > window.file_bytes - at:
        return False
    memmove(window.data, window.data + skipped, left)
    window.begin = at
    window.len = left
    fill(window, max(wanted, min(<uint64_t>WINDOW_BYTES, window.file_bytes - at)))
    return window.error == 0 and window.len > left


cdef void fill(Window *window, size_t wanted) noexcept nogil:
    """Read until `wanted` bytes are in memory, or to the present end of a file that has become shorter."""
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
