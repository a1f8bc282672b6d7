"""The table of replies: the text of each, what it carries, and what it waits for.

A new reply is a value of `Reply` and a row here. It waits for the binlog so far unless its row says otherwise.
"""


cdef int add_reply(
    Reply reply, const char *text, Carried carries=CARRIES_NOTHING, Awaited awaits=AWAITS_BINLOG
) except -1:
    """Add a row. A row that does not say what its reply waits for makes it wait for the binlog so far."""
    cdef ReplyRow *row = &reply_rows[<int>reply]
    row.text = text
    row.carries = carries
    row.awaits = awaits
    return 0


add_reply(REPLY_NONE, b"", CARRIES_NOTHING, AWAITS_NOTHING)
add_reply(REPLY_INSERTED, b"INSERTED ", CARRIES_NUMBER)
add_reply(REPLY_RESERVED, b"RESERVED ", CARRIES_JOBS, AWAITS_JOBS)
add_reply(REPLY_FOUND, b"FOUND ", CARRIES_JOBS, AWAITS_JOBS)
add_reply(REPLY_OK, b"OK ", CARRIES_TEXT)
add_reply(REPLY_USING, b"USING ", CARRIES_TUBE, AWAITS_NOTHING)
add_reply(REPLY_WATCHING, b"WATCHING ", CARRIES_NUMBER, AWAITS_NOTHING)
add_reply(REPLY_KICKED_COUNT, b"KICKED ", CARRIES_NUMBER)
add_reply(REPLY_KICKED, b"KICKED\r\n")
add_reply(REPLY_DELETED, b"DELETED\r\n")
add_reply(REPLY_RELEASED, b"RELEASED\r\n")
add_reply(REPLY_BURIED, b"BURIED\r\n")
add_reply(REPLY_TOUCHED, b"TOUCHED\r\n")
add_reply(REPLY_PAUSED, b"PAUSED\r\n")
add_reply(REPLY_NOT_FOUND, b"NOT_FOUND\r\n")
add_reply(REPLY_NOT_IGNORED, b"NOT_IGNORED\r\n")
add_reply(REPLY_TIMED_OUT, b"TIMED_OUT\r\n")
add_reply(REPLY_DEADLINE_SOON, b"DEADLINE_SOON\r\n")
add_reply(REPLY_DRAINING, b"DRAINING\r\n", CARRIES_NOTHING, AWAITS_NOTHING)
add_reply(REPLY_EXPECTED_CRLF, b"EXPECTED_CRLF\r\n", CARRIES_NOTHING, AWAITS_NOTHING)
add_reply(REPLY_JOB_TOO_BIG, b"JOB_TOO_BIG\r\n", CARRIES_NOTHING, AWAITS_NOTHING)
add_reply(REPLY_OUT_OF_MEMORY, b"OUT_OF_MEMORY\r\n", CARRIES_NOTHING, AWAITS_NOTHING)
add_reply(REPLY_BAD_FORMAT, b"BAD_FORMAT\r\n", CARRIES_NOTHING, AWAITS_NOTHING)
add_reply(REPLY_UNKNOWN_COMMAND, b"UNKNOWN_COMMAND\r\n", CARRIES_NOTHING, AWAITS_NOTHING)


cdef int check_replies() except -1:
    """Raise ImportError if a reply has no row."""
    cdef int number
    for number in range(<int>REPLY_COUNT):
        if reply_rows[number].text is NULL:
            raise ImportError(f"the reply with the number {number} has no row in the table of replies")
    return 0


check_replies()

AWAITED = {AWAITS_BINLOG: "the binlog", AWAITS_JOBS: "its jobs", AWAITS_NOTHING: "nothing"}


def table() -> list[dict[str, str]]:
    """Return the rows but that of "no reply yet": of each the ``word``, and what it ``awaits``: "the binlog" so far,
    "its jobs" or "nothing"."""
    return [
        {"word": (<bytes>row.text).decode().strip(), "awaits": AWAITED[row.awaits]}
        for row in reply_rows[1:<int>REPLY_COUNT]
    ]
