"""The tokenizer: where a line ends."""

from libc.string cimport memchr


cdef size_t line_length(const char *data, size_t size) noexcept nogil:
    """Length of the line that starts at `data`, its CRLF included; 0 when no CRLF is in the `size` bytes."""
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
