"""What Python must hear from code that runs without the GIL: a bounded queue.

An iteration of the event loop calls no Python function. What has to be logged or reported is noted here; the hub takes
it at the end of the iteration, with the GIL. A notice that does not fit into LIMIT_BYTES, or for which there is no
memory, is dropped and counted in ``dropped``: so a flood of log lines, or a failed allocation, never hurts a client.
"""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastbean.base.buffer cimport buffer_free, buffer_reserve

# A judgement: an iteration of many clients under -VV notes some thousand lines of about 100 bytes.
cdef enum:
    LIMIT_BYTES = 1048576
    KEPT_BYTES = 65536


cdef inline size_t padded(size_t text_bytes) noexcept nogil:
    return (text_bytes + 7) & ~<size_t>7


@cython.final
cdef class Notices:
    """The queue, oldest notice first. ``dropped`` counts the notices that were lost since `take` was called last."""

    def __dealloc__(self):
        buffer_free(&self.entries)

    cdef void note(
        self, NoticeKind kind, int64_t first=0, int64_t second=0, int64_t third=0, int64_t fourth=0,
    ) noexcept nogil:
        """Append a notice with these numbers."""
        cdef Notice *notice = self.append(kind, NULL, 0)
        if notice is not NULL:
            notice.numbers[0] = first
            notice.numbers[1] = second
            notice.numbers[2] = third
            notice.numbers[3] = fourth

    cdef void note_text(self, NoticeKind kind, int64_t first, const char *text, size_t text_bytes) noexcept nogil:
        """Append a notice with a number and a text."""
        cdef Notice *notice = self.append(kind, text, text_bytes)
        if notice is not NULL:
            notice.numbers[0] = first

    cdef Notice *append(self, NoticeKind kind, const char *text, size_t text_bytes) noexcept nogil:
        """Append a notice whose numbers are 0; returns NULL if it is dropped."""
        cdef size_t size = sizeof(Notice) + padded(text_bytes)
        cdef Notice *notice
        if self.entries.len + size > LIMIT_BYTES or buffer_reserve(&self.entries, size) < 0:
            self.entries.failed = False
            self.dropped += 1
            return NULL
        notice = <Notice *>(self.entries.data + self.entries.len)
        memset(notice, 0, sizeof(Notice))
        notice.kind = kind
        notice.text_bytes = <uint32_t>text_bytes
        if text_bytes:
            memcpy(notice + 1, text, text_bytes)
        self.entries.len += size
        self.count += 1
        return notice

    def take(self):
        """Take all notices.

        Returns:
            A list of (kind, numbers, text): an int of NoticeKind, a tuple of ints, bytes; and the number that were
            dropped since the last call.

        Raises:
            MemoryError: they are lost, and count as dropped.
        """
        cdef size_t at = 0
        cdef Notice *notice
        cdef list found = []
        cdef uint64_t count = self.count
        cdef uint64_t dropped = self.dropped
        self.count = 0
        # Until all are taken, they count as lost.
        self.dropped += count
        try:
            while at < self.entries.len:
                notice = <Notice *>(self.entries.data + at)
                at += sizeof(Notice) + padded(notice.text_bytes)
                found.append((
                    <int>notice.kind, tuple([notice.numbers[place] for place in range(NUMBERS)]),
                    PyBytes_FromStringAndSize(<char *>(notice + 1), notice.text_bytes),
                ))
        finally:
            self.entries.len = 0
            if self.entries.cap > KEPT_BYTES:
                buffer_free(&self.entries)
        self.dropped -= count + dropped
        return found, dropped
