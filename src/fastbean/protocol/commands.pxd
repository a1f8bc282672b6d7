"""The commands: their words and arguments."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.protocol.replies cimport Reply

cdef enum:
    MAX_LINE_BYTES = 224            # CRLF included

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
    OP_COUNT                        # the number of values

cdef struct Command:
    Op op                           # OP_NONE: malformed; no counter of `stats` counts it
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

cdef void parse_line(char *line, size_t size, Command *command) noexcept nogil
