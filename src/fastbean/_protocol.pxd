"""The tokenizer: a command line in, a Command out; and the text of the replies."""

from libc.stdint cimport uint32_t, uint64_t

cdef enum:
    MAX_LINE_BYTES = 224            # with its CRLF
    MAX_TUBE_NAME_BYTES = 200

cdef enum Op:
    OP_NONE
    OP_PUT
    OP_PEEK
    OP_PEEK_READY
    OP_PEEK_DELAYED
    OP_PEEK_BURIED
    OP_RESERVE
    OP_RESERVE_WITH_TIMEOUT
    OP_RESERVE_JOB
    OP_DELETE
    OP_RELEASE
    OP_BURY
    OP_KICK
    OP_KICK_JOB
    OP_TOUCH
    OP_STATS
    OP_STATS_JOB
    OP_STATS_TUBE
    OP_USE
    OP_WATCH
    OP_IGNORE
    OP_LIST_TUBES
    OP_LIST_TUBE_USED
    OP_LIST_TUBES_WATCHED
    OP_PAUSE_TUBE
    OP_QUIT
    OP_COUNT                        # how many there are

cdef enum Reply:
    REPLY_NONE                      # nothing yet: the client waits, or its command goes on in the next tick
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
    REPLY_DRAINING                  # this and all below tell of no job and no record, so none waits for the log
    REPLY_EXPECTED_CRLF
    REPLY_JOB_TOO_BIG
    REPLY_OUT_OF_MEMORY
    REPLY_BAD_FORMAT
    REPLY_UNKNOWN_COMMAND
    REPLY_COUNT

cdef struct Command:
    Op op                           # OP_NONE: malformed, and counted nowhere
    Reply fault                     # REPLY_NONE, or why the command is refused
    uint64_t id
    uint32_t pri
    uint32_t delay_s
    uint32_t ttr_s
    uint32_t timeout_s
    uint32_t count                  # of kick
    uint32_t body_bytes
    uint32_t name_bytes
    const char *name                # points into the line

cdef size_t line_length(const char *data, size_t size) noexcept nogil
cdef void parse_line(char *line, size_t size, Command *command) noexcept nogil
cdef const char *reply_text(Reply reply) noexcept nogil
