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
    FORM_COUNT, FORM_ID, FORM_ID_PRI, FORM_ID_PRI_DELAY, FORM_PUT, FORM_TIMEOUT, FORM_TUBE, FORM_TUBE_DELAY,
    MAX_LINE_BYTES, Command, Form, parse_line, words, words_count,
)

from fastbean.engine import command_table

assert command_table.table()  # loading it added the words

from check cimport as_capsule, at_most, equal, line_end


cdef bint has_name(Command *command) noexcept:
    cdef Form form = words[command.number].form
    return form == FORM_TUBE or form == FORM_TUBE_DELAY


cdef void check_meaning(char *line, size_t size, Command *command) noexcept:
    """Checks what holds for every parsed command."""
    cdef uint32_t place
    at_most("the number", command.number, words_count)
    if command.fault != REPLY_NONE:
        equal("a known fault", command.fault == REPLY_BAD_FORMAT or command.fault == REPLY_UNKNOWN_COMMAND, True)
        return
    equal("a command without fault has a number", command.number != 0, True)
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
    cdef const char *word = words[command.number].text
    cdef Form form = words[command.number].form
    memset(&again, 0, sizeof(again))
    if form == FORM_PUT:
        size = snprintf(line, sizeof(line), "%s%u %u %u %u", word, command.pri, command.delay_s, command.ttr_s,
                        command.body_bytes)
    elif form == FORM_ID:
        size = snprintf(line, sizeof(line), "%s%llu", word, <unsigned long long>command.id)
    elif form == FORM_ID_PRI_DELAY:
        size = snprintf(line, sizeof(line), "%s%llu %u %u", word, <unsigned long long>command.id, command.pri,
                        command.delay_s)
    elif form == FORM_ID_PRI:
        size = snprintf(line, sizeof(line), "%s%llu %u", word, <unsigned long long>command.id, command.pri)
    elif form == FORM_COUNT:
        size = snprintf(line, sizeof(line), "%s%u", word, command.count)
    elif form == FORM_TIMEOUT:
        size = snprintf(line, sizeof(line), "%s%u", word, command.timeout_s)
    elif form == FORM_TUBE:
        size = snprintf(line, sizeof(line), "%s%.*s", word, <int>command.name_bytes, command.name)
    elif form == FORM_TUBE_DELAY:
        size = snprintf(line, sizeof(line), "%s %.*s %u", word, <int>command.name_bytes, command.name, command.delay_s)
    else:
        return
    parse_line(line, size, &again)
    equal("the command, read again", again.number, command.number)
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
    if command.fault == REPLY_NONE:
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
