"""The tokenizer and the encoder of binlog records, each alone: what they do for one command, again and again.

Each function does it `times` times without the GIL and returns the number of failures.
"""
from libc.stdint cimport uint64_t
from libc.string cimport memcpy, memset

from fastbean.base.buffer cimport Buffer, buffer_free
from fastbean.protocol.replies cimport REPLY_NONE
from fastbean.protocol.tokenizer cimport line_length
from fastbean.protocol.commands cimport MAX_LINE_BYTES, Command, parse_line
from fastbean.engine.journal cimport STATE_READY, JobImage
from fastbean.binlog.record cimport append_delete, append_put, append_update


def tokenize(line: bytes, times: int) -> int:
    """Finds the end of a command's line, CRLF included, and reads it."""
    cdef char copy[MAX_LINE_BYTES]
    cdef Command command
    cdef size_t size = min(len(line), <size_t>MAX_LINE_BYTES)
    cdef uint64_t count = times
    cdef uint64_t wrong = 0
    cdef const char *source = line
    memcpy(copy, source, size)
    with nogil:
        for _ in range(count):
            parse_line(copy, line_length(copy, size) - 2, &command)
            wrong += command.fault != REPLY_NONE
    return wrong


def encode(record: str, body: bytes, times: int) -> int:
    """Encodes a record of one job, "put", "update" or "delete", checksum included."""
    cdef Buffer buffer
    cdef JobImage image
    cdef uint64_t count = times
    cdef uint64_t wrong = 0
    cdef int kind = ("put", "update", "delete").index(record)
    cdef bytes name = b"default"
    memset(&buffer, 0, sizeof(buffer))
    memset(&image, 0, sizeof(image))
    image.id, image.state, image.ttr_s, image.created_ns = 123_456, STATE_READY, 60, 1_700_000_000_000_000_000
    image.body, image.body_bytes, image.name, image.name_bytes = body, len(body), name, len(name)
    with nogil:
        for lsn in range(count):
            buffer.len = 0
            if kind == 0:
                append_put(&buffer, &image, 1, lsn)
            elif kind == 1:
                append_update(&buffer, &image, 1, lsn)
            else:
                append_delete(&buffer, image.id, 1, lsn)
            wrong += buffer.failed or buffer.len == 0
    buffer_free(&buffer)
    return wrong
