"""A growable run of bytes, for replies and for the text of statistics.

A ``Buffer`` of all zero bytes is empty and owns nothing. Its capacity doubles when it is full, so appending n bytes
costs O(n). When an allocation fails, the buffer keeps its contents, sets ``failed`` and ignores every later append:
code that writes a long text checks once, at the end, instead of after each line.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, strlen

from fastbean.base.debug_counters cimport LIVE_BUFFERS, live_born, live_gone

cdef enum:
    SMALLEST_BYTES = 256


cdef int buffer_grow(Buffer *buffer, size_t extra) noexcept nogil:
    """The slow path of `buffer_reserve`: reallocate."""
    cdef size_t wanted = buffer.len + extra
    cdef size_t cap = buffer.cap if buffer.cap else SMALLEST_BYTES
    while cap < wanted:
        cap *= 2
    return set_capacity(buffer, cap)


cdef int buffer_reserve_exactly(Buffer *buffer, size_t extra) noexcept nogil:
    """As `buffer_reserve`, for a caller that knows the final size: it takes no more memory than was asked for."""
    return 0 if buffer.cap - buffer.len >= extra else set_capacity(buffer, buffer.len + extra)


cdef int set_capacity(Buffer *buffer, size_t cap) noexcept nogil:
    cdef char *data = <char *>realloc(buffer.data, cap)
    if data is NULL:
        buffer.failed = True
        return -1
    if buffer.data is NULL:
        live_born(LIVE_BUFFERS)
    buffer.data = data
    buffer.cap = cap
    return 0


cdef void buffer_append(Buffer *buffer, const char *data, size_t size) noexcept nogil:
    if buffer.failed or buffer_reserve(buffer, size) < 0:
        return
    memcpy(buffer.data + buffer.len, data, size)
    buffer.len += size


cdef void buffer_append_text(Buffer *buffer, const char *text) noexcept nogil:
    """Append a NUL-terminated text, without its NUL."""
    buffer_append(buffer, text, strlen(text))


cdef void buffer_append_number(Buffer *buffer, uint64_t number) noexcept nogil:
    """Append `number` in decimal."""
    if buffer.failed or buffer_reserve(buffer, DIGITS) < 0:
        return
    buffer.len = write_number(buffer.data + buffer.len, number) - buffer.data


cdef void buffer_drop_front(Buffer *buffer, size_t size) noexcept nogil:
    """Drop the first `size` bytes (at most ``len``) and move the rest to the front."""
    if size == 0:
        return                          # `data` may be NULL, which memmove must not get
    buffer.len -= size
    memmove(buffer.data, buffer.data + size, buffer.len)


cdef void buffer_free(Buffer *buffer) noexcept nogil:
    """Free the memory and leave an empty buffer."""
    if buffer.data is not NULL:
        live_gone(LIVE_BUFFERS)
    free(buffer.data)
    buffer.data = NULL
    buffer.len = 0
    buffer.cap = 0
    buffer.failed = False
