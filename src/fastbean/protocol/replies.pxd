"""The replies, and the text of each."""

cdef enum Reply:
    REPLY_NONE                      # none yet: the client waits, or its command continues in the next iteration
    REPLY_INSERTED                  # <id>
    REPLY_RESERVED                  # <id> <bytes>, body
    REPLY_FOUND                     # <id> <bytes>, body
    REPLY_OK                        # <bytes>, text
    REPLY_USING                     # <tube>
    REPLY_WATCHING                  # <count>
    REPLY_KICKED_COUNT              # <count>
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
    REPLY_DRAINING                  # this and all below report no change, so none of them waits for the binlog
    REPLY_EXPECTED_CRLF
    REPLY_JOB_TOO_BIG
    REPLY_OUT_OF_MEMORY
    REPLY_BAD_FORMAT
    REPLY_UNKNOWN_COMMAND
    REPLY_COUNT

cdef const char *reply_text(Reply reply) noexcept nogil
