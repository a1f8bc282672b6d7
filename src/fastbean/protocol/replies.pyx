"""The replies, and the text of each.

The order of the texts is that of `Reply`.
"""

cdef const char *reply_texts[<int>REPLY_COUNT]
reply_texts[:] = [
    b"",
    b"INSERTED ",
    b"RESERVED ",
    b"FOUND ",
    b"OK ",
    b"USING ",
    b"WATCHING ",
    b"KICKED ",
    b"KICKED\r\n",
    b"DELETED\r\n",
    b"RELEASED\r\n",
    b"BURIED\r\n",
    b"TOUCHED\r\n",
    b"PAUSED\r\n",
    b"NOT_FOUND\r\n",
    b"NOT_IGNORED\r\n",
    b"TIMED_OUT\r\n",
    b"DEADLINE_SOON\r\n",
    b"DRAINING\r\n",
    b"EXPECTED_CRLF\r\n",
    b"JOB_TOO_BIG\r\n",
    b"OUT_OF_MEMORY\r\n",
    b"BAD_FORMAT\r\n",
    b"UNKNOWN_COMMAND\r\n",
]


cdef const char *reply_text(Reply reply) noexcept nogil:
    """The whole line of a reply without arguments; otherwise its word and a blank."""
    return reply_texts[<int>reply]
