"""The replies, and what each waits for."""

from libc.stdint cimport uint8_t

cdef enum Reply:
    REPLY_NONE                      # none yet: the client waits, or its command continues in the next iteration
    REPLY_INSERTED
    REPLY_RESERVED
    REPLY_FOUND
    REPLY_OK
    REPLY_USING
    REPLY_WATCHING
    REPLY_KICKED_COUNT
    REPLY_KICKED
    REPLY_DELETED
    REPLY_RELEASED
    REPLY_BURIED
    REPLY_TOUCHED
    REPLY_PAUSED
    REPLY_NOT_FOUND
    REPLY_NOT_IGNORED
    REPLY_TIMED_OUT
    REPLY_DEADLINE_SOON
    REPLY_DRAINING
    REPLY_EXPECTED_CRLF
    REPLY_JOB_TOO_BIG
    REPLY_OUT_OF_MEMORY
    REPLY_BAD_FORMAT
    REPLY_UNKNOWN_COMMAND
    REPLY_COUNT                     # the number of values

cdef enum Carried:                  # what follows the text
    CARRIES_NOTHING
    CARRIES_NUMBER                  # <id> or <count>
    CARRIES_JOBS                    # <id> <bytes>, body; for each job the whole reply
    CARRIES_TUBE                    # <tube>, the used one
    CARRIES_TEXT                    # <bytes>, text

cdef enum Awaited:                  # what has to be safe in the binlog before the reply may be sent
    AWAITS_BINLOG                   # all that it has so far; also for a reply whose row says nothing else
    AWAITS_JOBS                     # the newest records of the jobs that it carries
    AWAITS_NOTHING                  # it reports no change, and no state that a change may have caused

cdef struct ReplyRow:
    const char *text                # the whole line; or, if it carries something, its word and a blank
    uint8_t carries
    uint8_t awaits

cdef ReplyRow[<int>REPLY_COUNT] reply_rows

cdef int add_reply(Reply reply, const char *text, Carried carries=*, Awaited awaits=*) except -1
cdef int check_replies() except -1

cdef inline const char *reply_text(Reply reply) noexcept nogil:
    return reply_rows[<int>reply].text
