"""What Python must hear from code that runs without the GIL."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from fastbean.base.buffer cimport Buffer

cdef enum:
    NUMBERS = 5

cdef enum NoticeKind:               # and what its numbers are; those that are not named are 0
    NOTICE_ACCEPT                   # descriptor; the text is the client's address
    NOTICE_CLOSE                    # descriptor
    NOTICE_COMMAND                  # descriptor; the text is the command line
    NOTICE_REPLY                    # descriptor; the text is the reply's first line
    NOTICE_SLOW_SYNC                # whether it is still running, milliseconds, files, bytes
    NOTICE_SLOW_WRITE               # milliseconds, bytes

cdef struct Notice:                 # in memory its text follows, padded to a multiple of 8 bytes
    NoticeKind kind
    uint32_t text_bytes
    int64_t[<int>NUMBERS] numbers


cdef class Notices:
    cdef Buffer entries
    cdef uint64_t count
    cdef readonly uint64_t dropped

    cdef void note(
        self, NoticeKind kind, int64_t first=*, int64_t second=*, int64_t third=*, int64_t fourth=*,
    ) noexcept nogil
    cdef void note_text(self, NoticeKind kind, int64_t first, const char *text, size_t text_bytes) noexcept nogil

    cdef Notice *append(self, NoticeKind kind, const char *text, size_t text_bytes) noexcept nogil

    cdef inline bint is_empty(self) noexcept nogil:
        return self.entries.len == 0
