"""Command lines: which word a line begins with, and its arguments."""

from libc.stdint cimport uint32_t, uint64_t

from fastbean.protocol.replies cimport Reply

cdef enum:
    MAX_LINE_BYTES = 224            # CRLF included
    MAX_COMMANDS = 64               # numbers of commands are below it

cdef enum Form:                     # of the arguments; each has one function, see `parse_arguments`
    FORM_NOTHING
    FORM_IGNORED                    # anything may follow the word
    FORM_PUT                        # <pri> <delay> <ttr> <bytes>; a body follows the line
    FORM_ID                         # <id>
    FORM_ID_PRI                     # <id> <pri>
    FORM_ID_PRI_DELAY               # <id> <pri> <delay>
    FORM_TUBE                       # <tube>
    FORM_TUBE_DELAY                 # <tube> <delay>
    FORM_COUNT                      # <count>
    FORM_TIMEOUT                    # <seconds>

cdef enum Counter:                  # in `stats`
    COUNTER_OF_BEANSTALKD           # among the keys that beanstalkd has too
    COUNTER_OF_FASTBEAN
    COUNTER_NONE

cdef struct Word:                   # of a command
    uint64_t head                   # its first 8 bytes
    uint64_t head_mask              # the bits of `head` that count, if it has fewer
    Word *next                      # another one that may begin with the same two characters, or NULL
    uint32_t number                 # of the command
    uint32_t bytes
    Form form
    const char *text                # what a line begins with; a blank at its end is part of it
    Counter counter

cdef struct Command:
    uint32_t number                 # of the row in `engine.command_table`; 0: malformed, and counted by nothing
    Form form                       # FORM_NOTHING if `number` is 0
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

cdef Word[<int>MAX_COMMANDS] words
cdef uint32_t words_count           # numbers begin with 1

cdef uint32_t add_word(const char *text, Form form, Counter counter) except 0
cdef void parse_line(char *line, size_t size, Command *command) noexcept nogil
