"""Recognising HTTP. A web page can make its visitor's browser send a request to this port, with commands as its body.

The browser sends its request line and a ``Host:`` line before anything that the page has chosen, so a server that stops
at the first of them runs no command of the page. Neither is a command of the protocol: only lines that were refused
have to be checked.
"""

from libc.string cimport memchr, memcmp

from fastbean.protocol.tokenizer cimport is_digit

cdef extern from "<strings.h>" nogil:
    int strncasecmp(const char *one, const char *other, size_t size)

cdef enum:
    HTTP_VERSION_BYTES = 9          # " HTTP/1.1"
    HTTP_TAIL_BYTES = 10            # the end of a request line without the LF: the version and a CR


cdef inline bint ends_with_http_version(const char *line, size_t size) noexcept nogil:
    """Whether the line, without its line end, ends as a request line does."""
    cdef const char *version = line + size - HTTP_VERSION_BYTES
    return (
        size >= HTTP_VERSION_BYTES and memcmp(version, b" HTTP/", 6) == 0 and is_digit(version[6])
        and version[7] == c'.' and is_digit(version[8])
    )


cdef inline bint is_request_line(const char *line, size_t size) noexcept nogil:
    """Whether it is a method, a target without blanks and a version, separated by single blanks."""
    cdef const char *version = line + size - HTTP_VERSION_BYTES
    cdef const char *blank
    if not ends_with_http_version(line, size):
        return False
    blank = <const char *>memchr(line, c' ', version - line)
    return (
        blank is not NULL and blank > line and version - blank > 1
        and memchr(blank + 1, c' ', version - blank - 1) is NULL
    )


cdef inline size_t length_without_cr(const char *line, size_t size) noexcept nogil:
    return size - 1 if size and line[size - 1] == c'\r' else size


cdef inline bint is_http(const char *text, size_t size) noexcept nogil:
    """Whether this text has a line of HTTP; a line may also end with an LF alone."""
    cdef const char *end = text + size
    cdef const char *line_end
    while text < end:
        line_end = <const char *>memchr(text, c'\n', end - text)
        if line_end is NULL:
            line_end = end
        if line_end - text >= 5 and strncasecmp(text, b"Host:", 5) == 0:
            return True
        if is_request_line(text, length_without_cr(text, line_end - text)):
            return True
        text = line_end + 1
    return False
