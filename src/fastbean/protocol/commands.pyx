"""Parses a command line into a Command.

It accepts and refuses what beanstalkd 1.13 accepts and refuses, oddities included: a command is recognised by its
prefix. It looks at the line alone: it allocates nothing and knows no job, tube or client. A line costs O(its length),
and has at most 224 bytes.

`engine.command_table` adds the words, in its order.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset, strlen

from fastbean.protocol.replies cimport REPLY_BAD_FORMAT, REPLY_NONE, REPLY_UNKNOWN_COMMAND
from fastbean.protocol.tokenizer cimport (
    Cursor, is_tube_name, skip_blanks, take_name, take_strtoul, take_u32, take_u64,
)

cdef enum:
    MAX_TIMEOUT_S = 0x7FFFFFFF
    HEAD_BYTES = 8                  # of a word, compared in one step

cdef Word *first_words[256]         # by `place_of` the two first characters

words_count = 0

# The arguments of each form by name, as members of Command.
ARGUMENTS = {
    FORM_NOTHING: (),
    FORM_IGNORED: (),
    FORM_PUT: ("pri", "delay_s", "ttr_s", "body_bytes"),
    FORM_ID: ("id",),
    FORM_ID_PRI: ("id", "pri"),
    FORM_ID_PRI_DELAY: ("id", "pri", "delay_s"),
    FORM_TUBE: ("name",),
    FORM_TUBE_DELAY: ("name", "delay_s"),
    FORM_COUNT: ("count",),
    FORM_TIMEOUT: ("timeout_s",),
}


# Words

cdef inline uint8_t place_of(const char *text) noexcept nogil:
    """Where the words that begin with these two characters are; words with others may share a place."""
    return <uint8_t>(<uint8_t>text[0] + 8 * <uint8_t>text[1])


cdef inline bint begins_with(const char *text, size_t size, uint64_t head, Word *word) noexcept nogil:
    """Whether the text begins with the word; `head`: its first 8 bytes, zeros after the end of a shorter one."""
    if (head ^ word.head) & word.head_mask:
        return False
    return word.bytes <= HEAD_BYTES or (
        size >= word.bytes and memcmp(text + HEAD_BYTES, word.text + HEAD_BYTES, word.bytes - HEAD_BYTES) == 0
    )


cdef uint32_t add_word(const char *text, Form form, Counter counter) except 0:
    """Add the word of a command, a text that stays in memory. Returns the command's number.

    Where one word begins with another, the longer one is tried first.

    Raises:
        ValueError: there are too many words, this one is too short, or another command has it.
    """
    global words_count
    cdef size_t size = strlen(text)
    cdef Word **place = &first_words[place_of(text)]
    cdef Word *added = &words[words_count + 1]
    if words_count == MAX_COMMANDS - 1 or size < 2:
        raise ValueError(f"{text.decode()!r} cannot be the word of a command: it is too short, or there are too many")
    memcpy(&added.head, text, min(size, <size_t>HEAD_BYTES))
    memset(&added.head_mask, 0xFF, min(size, <size_t>HEAD_BYTES))
    while place[0] is not NULL and not begins_with(text, size, added.head, place[0]):
        place = &place[0].next
    if place[0] is not NULL and place[0].bytes == size:
        raise ValueError(f"two commands have the word {text.decode()!r}")
    words_count += 1
    added.number = words_count
    added.text = text
    added.bytes = <uint32_t>size
    added.form = form
    added.counter = counter
    added.next = place[0]
    place[0] = added
    return words_count


cdef inline Word *word_of(const char *text, size_t size) noexcept nogil:
    """The word that the line begins with, or NULL."""
    cdef Word *word
    cdef uint64_t head = 0
    if size < 2:
        return NULL
    word = first_words[place_of(text)]
    if size >= HEAD_BYTES:
        memcpy(&head, text, HEAD_BYTES)
    else:
        memcpy(&head, text, size)
    while word is not NULL and not begins_with(text, size, head, word):
        word = word.next
    return word


# Arguments: one function for each form. Each returns whether the rest of the line has that form.

cdef inline bint parse_id(Cursor *cursor, Command *command) noexcept nogil:
    return take_u64(cursor, &command.id) and cursor.at == cursor.end


cdef inline bint parse_tube(Cursor *cursor, Command *command) noexcept nogil:
    return (
        take_name(cursor, &command.name, &command.name_bytes) and cursor.at == cursor.end
        and is_tube_name(command.name, command.name_bytes)
    )


cdef inline bint parse_id_pri_delay(Cursor *cursor, Command *command) noexcept nogil:
    return (
        take_u64(cursor, &command.id) and take_u32(cursor, &command.pri) and take_u32(cursor, &command.delay_s)
        and cursor.at == cursor.end
    )


cdef inline bint parse_id_pri(Cursor *cursor, Command *command) noexcept nogil:
    return take_u64(cursor, &command.id) and take_u32(cursor, &command.pri) and cursor.at == cursor.end


cdef inline bint parse_timeout(Cursor *cursor, Command *command) noexcept nogil:
    # Anything after the number is ignored, as by beanstalkd.
    return take_u32(cursor, &command.timeout_s) and command.timeout_s <= MAX_TIMEOUT_S


cdef inline bint parse_put(Cursor *cursor, Command *command) noexcept nogil:
    """Anything after the four numbers is a fault, but a body that is too big comes first: so the command counts."""
    if not (
        take_u32(cursor, &command.pri) and take_u32(cursor, &command.delay_s) and take_u32(cursor, &command.ttr_s)
        and take_u32(cursor, &command.body_bytes)
    ):
        return False
    if cursor.at != cursor.end:
        command.fault = REPLY_BAD_FORMAT
    return True


cdef inline bint parse_tube_delay(Cursor *cursor, Command *command) noexcept nogil:
    """beanstalkd counts the command before it checks the name's length and start."""
    skip_blanks(cursor)
    if not (
        take_name(cursor, &command.name, &command.name_bytes) and take_u32(cursor, &command.delay_s)
        and cursor.at == cursor.end
    ):
        return False
    if not is_tube_name(command.name, command.name_bytes):
        command.fault = REPLY_BAD_FORMAT
    return True


cdef inline bint parse_arguments(Form form, Cursor *cursor, Command *command) noexcept nogil:
    if form == FORM_PUT:
        return parse_put(cursor, command)
    if form == FORM_ID:
        return parse_id(cursor, command)
    if form == FORM_ID_PRI_DELAY:
        return parse_id_pri_delay(cursor, command)
    if form == FORM_ID_PRI:
        return parse_id_pri(cursor, command)
    if form == FORM_TUBE:
        return parse_tube(cursor, command)
    if form == FORM_TUBE_DELAY:
        return parse_tube_delay(cursor, command)
    if form == FORM_COUNT:
        return take_strtoul(cursor, &command.count)
    if form == FORM_TIMEOUT:
        return parse_timeout(cursor, command)
    return form == FORM_IGNORED or cursor.at == cursor.end


cdef inline void refuse(Command *command, Reply fault) noexcept nogil:
    """No counter of `stats` counts the line."""
    command.number = 0
    command.form = FORM_NOTHING
    command.fault = fault


cdef void parse_line(char *line, size_t size, Command *command) noexcept nogil:
    """Parse one command line.

    `line` is the line without its CRLF, `size` its length in bytes, at most 222. Sets ``command.number``,
    ``command.fault`` and those other members that the command has.
    """
    cdef Cursor cursor
    cdef Word *word
    word = word_of(line, size)
    if word is NULL:
        refuse(command, REPLY_UNKNOWN_COMMAND if memchr(line, 0, size) is NULL else REPLY_BAD_FORMAT)
        return
    command.number = word.number
    command.form = word.form
    command.fault = REPLY_NONE
    cursor.at = line + word.bytes
    cursor.end = line + size
    # No form takes a NUL, so only what a form leaves over can have one.
    if not parse_arguments(word.form, &cursor, command) or (
        cursor.at != cursor.end and memchr(cursor.at, 0, cursor.end - cursor.at) is not NULL
    ):
        refuse(command, REPLY_BAD_FORMAT)
