"""A growable run of bytes, for replies and for the text of statistics."""

from libc.stdint cimport uint64_t


cdef struct Buffer:             # all zero bytes = an empty buffer
    char *data
    size_t len
    size_t cap
    bint failed                 # memory ran out; every later append is ignored

cdef int buffer_reserve(Buffer *buffer, size_t extra) noexcept nogil
cdef void buffer_append(Buffer *buffer, const char *data, size_t size) noexcept nogil
cdef void buffer_append_text(Buffer *buffer, const char *text) noexcept nogil
cdef void buffer_append_number(Buffer *buffer, uint64_t number) noexcept nogil
cdef void buffer_drop_front(Buffer *buffer, size_t size) noexcept nogil
cdef void buffer_free(Buffer *buffer) noexcept nogil
