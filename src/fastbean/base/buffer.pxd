"""A growable run of bytes, for replies and for the text of statistics."""

from libc.stdint cimport uint64_t


cdef struct Buffer:             # all zero bytes = an empty buffer
    char *data
    size_t len
    size_t cap
    bint failed                 # memory ran out; every later append is ignored

cdef enum:
    DIGITS = 20                 # of the largest 64-bit number

cdef inline char *write_number(char *at, uint64_t number) noexcept nogil:
    """Write `number` in decimal, at most DIGITS bytes; returns the end of what it wrote."""
    cdef char[DIGITS] digits
    cdef int left = DIGITS
    while True:
        left -= 1
        digits[left] = <char>(c'0' + number % 10)
        number //= 10
        if number == 0:
            break
    while left < DIGITS:
        at[0] = digits[left]
        at += 1
        left += 1
    return at

cdef int buffer_grow(Buffer *buffer, size_t extra) noexcept nogil

cdef inline int buffer_reserve(Buffer *buffer, size_t extra) noexcept nogil:
    """Make room for `extra` more bytes. Returns 0, or -1 when there is no memory (and sets ``failed``)."""
    return 0 if buffer.cap - buffer.len >= extra else buffer_grow(buffer, extra)

cdef int buffer_reserve_exactly(Buffer *buffer, size_t extra) noexcept nogil
cdef void buffer_append(Buffer *buffer, const char *data, size_t size) noexcept nogil
cdef void buffer_append_text(Buffer *buffer, const char *text) noexcept nogil
cdef void buffer_append_number(Buffer *buffer, uint64_t number) noexcept nogil
cdef void buffer_drop_front(Buffer *buffer, size_t size) noexcept nogil
cdef void buffer_free(Buffer *buffer) noexcept nogil
