"""The tokenizer: finds the end of a line."""

from libc.string cimport memchr


cdef size_t line_length(const char *data, size_t size) noexcept nogil:
    """The length of the line at `data`, CRLF included; 0 when the `size` bytes contain no CRLF."""
    cdef const char *start = data
    cdef const char *end = data + size
    cdef const char *found
    while start < end:
        found = <const char *>memchr(start, c'\n', end - start)
        if found is NULL:
            return 0
        if found > data and (found - 1)[0] == c'\r':
            return found - data + 1
        start = found + 1
    return 0
