"""Fuzzes the tokenizer with any bytes, as one line and as a sequence of lines.

Each line lies in memory of exactly its size, so that the AddressSanitizer sees a look behind its end. What is checked:
a line is read the same way twice, what it was read as can be written down and read again, and lines are cut where the
first CRLF stands.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from fastbean.protocol.replies cimport REPLY_BAD_FORMAT, REPLY_NONE, REPLY_UNKNOWN_COMMAND
from fastbean.protocol.tokenizer cimport MAX_TUBE_NAME_BYTES, line_length
from fastbean.protocol.commands cimport (
    MAX_LINE_BYTES, OP_BURY, OP_COUNT, OP_IGNORE, OP_KICK, OP_NONE, OP_PAUSE_TUBE, OP_PUT, OP_RELEASE,
    OP_RESERVE_WITH_TIMEOUT, OP_STATS_TUBE, OP_USE, OP_WATCH, Command, parse_line,
)

from check cimport as_capsule, at_most, equal, line_end


cdef bint has_name(Command *command) noexcept:
    return command.op in (OP_USE, OP_WATCH, OP_IGNORE, OP_STATS_TUBE, OP_PAUSE_TUBE)


cdef void check_meaning(char *line, size_t size, Command *command) noexcept:
    """Checks what holds for every parsed command."""
    cdef uint32_t place
    at_most("op", command.op, OP_COUNT - 1)
    if command.fault != REPLY_NONE:
        equal("a known fault", command.fault == REPLY_BAD_FORMAT or command.fault == REPLY_UNKNOWN_COMMAND, True)
        return
    equal("a command without fault has an op", command.op != OP_NONE, True)
    if not has_name(command):
        return
    equal("the name lies in the line", line < command.name, True)
    at_most("the end of the name", command.name + command.name_bytes - line, size)
    at_most("the length of the name", command.name_bytes, MAX_TUBE_NAME_BYTES)
    equal("the name begins well", command.name_bytes > 0 and command.name[0] != c'-', True)
    for place in range(command.name_bytes):
        equal("a character of the name", command.name[place] > c' ' and command.name[place] <= c'z', True)


cdef void check_again(Command *command) noexcept:
    """Write the arguments in their plainest form; parsing them must give the same arguments."""
    cdef char[MAX_LINE_BYTES + 64] line
    cdef Command again
    cdef int size
    memset(&again, 0, sizeof(again))
    if command.op == OP_PUT:
        size = snprintf(line, sizeof(line), "put %u %u %u %u", command.pri, command.delay_s, command.ttr_s,
                        command.body_bytes)
    elif command.op == OP_RELEASE:
        size = snprintf(line, sizeof(line), "release %llu %u %u", <unsigned long long>command.id, command.pri,
                        command.delay_s)
    elif command.op == OP_BURY:
        size = snprintf(line, sizeof(line), "bury %llu %u", <unsigned long long>command.id, command.pri)
    elif command.op == OP_KICK:
        size = snprintf(line, sizeof(line), "kick %u", command.count)
    elif command.op == OP_RESERVE_WITH_TIMEOUT:
        size = snprintf(line, sizeof(line), "reserve-with-timeout %u", command.timeout_s)
    elif command.op == OP_PAUSE_TUBE:
        size = snprintf(line, sizeof(line), "pause-tube %.*s %u", <int>command.name_bytes, command.name,
                        command.delay_s)
    else:
        return
    parse_line(line, size, &again)
    equal("the op, read again", again.op, command.op)
    equal("the fault, read again", again.fault, REPLY_NONE)
    equal("the id, read again", again.id, command.id)
    equal("the pri, read again", again.pri, command.pri)
    equal("the delay, read again", again.delay_s, command.delay_s)
    equal("the ttr, read again", again.ttr_s, command.ttr_s)
    equal("the timeout, read again", again.timeout_s, command.timeout_s)
    equal("the count, read again", again.count, command.count)
    equal("the size of the body, read again", again.body_bytes, command.body_bytes)
    equal("the size of the name, read again", again.name_bytes, command.name_bytes)
    equal("the name, read again", memcmp(again.name, command.name, command.name_bytes) if command.name_bytes else 0, 0)


cdef void check_line(const uint8_t *data, size_t size) noexcept:
    cdef char *line = <char *>malloc(size)
    cdef Command command
    memset(&command, 0, sizeof(command))
    memcpy(line, data, size)
    parse_line(line, size, &command)
    equal("the line is as it was", memcmp(line, data, size), 0)
    check_meaning(line, size, &command)
    if command.fault == REPLY_NONE and command.op != OP_NONE:
        check_again(&command)
    free(line)


cdef int one(const uint8_t *data, size_t size) noexcept:
    cdef char *exact = <char *>malloc(size)
    cdef size_t length
    if size:
        memcpy(exact, data, size)
    length = line_length(exact, size)
    equal("the length of the first line", length, line_end(<const char *>data, size))
    free(exact)
    if length == 0:
        length = size + 2
    if length > 2:
        check_line(data, min(length - 2, <size_t>(MAX_LINE_BYTES - 2)))
    return 0


TARGET = as_capsule(one)


def run(bytes data not None):
    """One input, without a fuzzer."""
    one(<const uint8_t *><char *>data, len(data))
