"""The tokenizer: finds the end of a line, and the words, numbers and names in it.

Each `take` function steps over one token at the cursor and returns whether there was one. They accept and refuse what
beanstalkd 1.13 accepts and refuses: a number may follow several blanks, and `kick` reads its number as C's strtoul
does. All of them look at the line alone, allocate nothing, and cost O(bytes read).
"""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memchr, memcmp

cdef enum:
    MAX_TUBE_NAME_BYTES = 200

cdef struct Cursor:                 # the rest of a line
    const char *at
    const char *end


cdef size_t line_length(const char *data, size_t size) noexcept nogil


cdef inline bint is_digit(char character) noexcept nogil:
    return c'0' <= character <= c'9'


cdef inline bint is_name_character(char character) noexcept nogil:
    return (
        c'a' <= character <= c'z' or c'A' <= character <= c'Z' or is_digit(character)
        or (character != 0 and memchr(b"-+/;.$_()", character, 9) is not NULL)
    )


cdef inline bint take_word(Cursor *cursor, const char *word, size_t size) noexcept nogil:
    """Step over `word` if the rest of the line begins with it."""
    if <size_t>(cursor.end - cursor.at) < size or memcmp(cursor.at, word, size) != 0:
        return False
    cursor.at += size
    return True


cdef inline void skip_blanks(Cursor *cursor) noexcept nogil:
    while cursor.at < cursor.end and cursor.at[0] == c' ':
        cursor.at += 1


cdef inline bint take_digits(Cursor *cursor, uint64_t *number) noexcept nogil:
    """Take one or more digits; false when there is none or the number does not fit into 64 bits."""
    cdef uint64_t value = 0
    cdef uint32_t digit
    if cursor.at == cursor.end or not is_digit(cursor.at[0]):
        return False
    while cursor.at < cursor.end and is_digit(cursor.at[0]):
        digit = <uint32_t>(cursor.at[0] - c'0')
        if value >= <uint64_t>-1 // 10 and value > (<uint64_t>-1 - digit) // 10:
            return False
        value = value * 10 + digit
        cursor.at += 1
    number[0] = value
    return True


cdef inline bint take_u64(Cursor *cursor, uint64_t *number) noexcept nogil:
    skip_blanks(cursor)
    return take_digits(cursor, number)


cdef inline bint take_u32(Cursor *cursor, uint32_t *number) noexcept nogil:
    cdef uint64_t value = 0
    if not take_u64(cursor, &value) or value > <uint32_t>-1:
        return False
    number[0] = <uint32_t>value
    return True


cdef inline bint take_strtoul(Cursor *cursor, uint32_t *number) noexcept nogil:
    """Take a number as C's strtoul does, cut to 32 bits: leading white space, a sign and any tail are accepted."""
    cdef uint64_t value = 0
    cdef bint negative = False
    while cursor.at < cursor.end and (cursor.at[0] == c' ' or c'\t' <= cursor.at[0] <= c'\r'):
        cursor.at += 1
    if cursor.at < cursor.end and (cursor.at[0] == c'-' or cursor.at[0] == c'+'):
        negative = cursor.at[0] == c'-'
        cursor.at += 1
    if not take_digits(cursor, &value):
        return False
    number[0] = <uint32_t>(0 - value if negative else value)
    return True


cdef inline bint take_name(Cursor *cursor, const char **name, uint32_t *name_bytes) noexcept nogil:
    """Take a run of name characters; false when it is empty."""
    name[0] = cursor.at
    while cursor.at < cursor.end and is_name_character(cursor.at[0]):
        cursor.at += 1
    name_bytes[0] = <uint32_t>(cursor.at - name[0])
    return name_bytes[0] > 0


cdef inline bint is_tube_name(const char *name, uint32_t name_bytes) noexcept nogil:
    return 0 < name_bytes <= MAX_TUBE_NAME_BYTES and name[0] != c'-'
