"""Parses a command line into a Command.

It accepts and refuses what beanstalkd 1.13 accepts and refuses, oddities included: a command is recognised by its
prefix. It looks at the line alone: it allocates nothing and knows no job, tube or client. A line costs O(its length),
and has at most 224 bytes.
"""

from libc.string cimport memchr

from fastbean.protocol.replies cimport REPLY_BAD_FORMAT, REPLY_NONE, REPLY_UNKNOWN_COMMAND, reply_text
from fastbean.protocol.tokenizer cimport (
    Cursor, is_tube_name, skip_blanks, take_name, take_strtoul, take_u32, take_u64, take_word,
)

cdef enum:
    MAX_TIMEOUT_S = 0x7FFFFFFF


# One function for each form of arguments. Each returns whether the rest of the line has that form.

cdef inline bint parse_nothing(Cursor *cursor) noexcept nogil:
    return cursor.at == cursor.end


cdef inline bint parse_id(Cursor *cursor, Command *command) noexcept nogil:
    return take_u64(cursor, &command.id) and cursor.at == cursor.end


cdef inline bint parse_tube(Cursor *cursor, Command *command) noexcept nogil:
    return (
        take_name(cursor, &command.name, &command.name_bytes) and cursor.at == cursor.end
        and is_tube_name(command.name, command.name_bytes)
    )


cdef inline bint parse_release(Cursor *cursor, Command *command) noexcept nogil:
    return (
        take_u64(cursor, &command.id) and take_u32(cursor, &command.pri) and take_u32(cursor, &command.delay_s)
        and cursor.at == cursor.end
    )


cdef inline bint parse_bury(Cursor *cursor, Command *command) noexcept nogil:
    return take_u64(cursor, &command.id) and take_u32(cursor, &command.pri) and cursor.at == cursor.end


cdef inline bint parse_timeout(Cursor *cursor, Command *command) noexcept nogil:
    # Anything after the number is ignored, as by beanstalkd.
    return take_u32(cursor, &command.timeout_s) and command.timeout_s <= MAX_TIMEOUT_S


cdef void parse_put(Cursor *cursor, Command *command) noexcept nogil:
    """Parse the four numbers. Anything after them is a fault, but a body that is too big comes first: so `op` stays."""

    if not (
        take_u32(cursor, &command.pri) and take_u32(cursor, &command.delay_s) and take_u32(cursor, &command.ttr_s)
        and take_u32(cursor, &command.body_bytes)
    ):
        refuse(command)
    elif cursor.at != cursor.end:
        command.fault = REPLY_BAD_FORMAT


cdef void parse_pause(Cursor *cursor, Command *command) noexcept nogil:
    """Parse a name and a delay. beanstalkd counts the command before it checks the name's length and start."""
    skip_blanks(cursor)
    if not (
        take_name(cursor, &command.name, &command.name_bytes) and take_u32(cursor, &command.delay_s)
        and cursor.at == cursor.end
    ):
        refuse(command)
    elif not is_tube_name(command.name, command.name_bytes):
        command.fault = REPLY_BAD_FORMAT


cdef inline void refuse(Command *command) noexcept nogil:
    """Mark a malformed command: the reply is BAD_FORMAT, and no counter of `stats` counts it."""
    command.op = OP_NONE
    command.fault = REPLY_BAD_FORMAT


cdef Op command_word(Cursor *cursor) noexcept nogil:
    """Step over the command's word. Where one word begins with another, the longer one is tried first."""
    cdef char first = cursor.at[0] if cursor.at < cursor.end else 0
    if first == c'p':
        return word_with_p(cursor)
    if first == c'r':
        return word_with_r(cursor)
    if first == c's':
        return word_with_s(cursor)
    if take_word(cursor, b"delete ", 7):
        return OP_DELETE
    if take_word(cursor, b"bury ", 5):
        return OP_BURY
    if take_word(cursor, b"kick ", 5):
        return OP_KICK
    if take_word(cursor, b"kick-job ", 9):
        return OP_KICK_JOB
    if take_word(cursor, b"touch ", 6):
        return OP_TOUCH
    if take_word(cursor, b"use ", 4):
        return OP_USE
    if take_word(cursor, b"watch ", 6):
        return OP_WATCH
    if take_word(cursor, b"ignore ", 7):
        return OP_IGNORE
    if take_word(cursor, b"list-tubes-watched", 18):
        return OP_LIST_TUBES_WATCHED
    if take_word(cursor, b"list-tube-used", 14):
        return OP_LIST_TUBE_USED
    if take_word(cursor, b"list-tubes", 10):
        return OP_LIST_TUBES
    if take_word(cursor, b"quit", 4):
        return OP_QUIT
    return OP_NONE


cdef inline Op word_with_p(Cursor *cursor) noexcept nogil:
    if take_word(cursor, b"put ", 4):
        return OP_PUT
    if take_word(cursor, b"peek ", 5):
        return OP_PEEK
    if take_word(cursor, b"peek-ready", 10):
        return OP_PEEK_READY
    if take_word(cursor, b"peek-delayed", 12):
        return OP_PEEK_DELAYED
    if take_word(cursor, b"peek-buried", 11):
        return OP_PEEK_BURIED
    if take_word(cursor, b"pause-tube", 10):
        return OP_PAUSE_TUBE
    return OP_NONE


cdef inline Op word_with_r(Cursor *cursor) noexcept nogil:
    if take_word(cursor, b"release ", 8):
        return OP_RELEASE
    if not take_word(cursor, b"reserve", 7):
        return OP_NONE
    if take_word(cursor, b"-with-timeout ", 14):
        return OP_RESERVE_WITH_TIMEOUT
    if take_word(cursor, b"-job ", 5):
        return OP_RESERVE_JOB
    return OP_RESERVE


cdef inline Op word_with_s(Cursor *cursor) noexcept nogil:
    if not take_word(cursor, b"stats", 5):
        return OP_NONE
    if take_word(cursor, b"-job ", 5):
        return OP_STATS_JOB
    if take_word(cursor, b"-tube ", 6):
        return OP_STATS_TUBE
    return OP_STATS


cdef bint parse_arguments(Cursor *cursor, Command *command) noexcept nogil:
    """Parse the arguments of every command except put and pause-tube."""
    cdef Op op = command.op
    if op == OP_RELEASE:
        return parse_release(cursor, command)
    if op == OP_BURY:
        return parse_bury(cursor, command)
    if op == OP_KICK:
        return take_strtoul(cursor, &command.count)
    if op == OP_RESERVE_WITH_TIMEOUT:
        return parse_timeout(cursor, command)
    if op == OP_USE or op == OP_WATCH or op == OP_IGNORE or op == OP_STATS_TUBE:
        return parse_tube(cursor, command)
    if (
        op == OP_DELETE or op == OP_PEEK or op == OP_RESERVE_JOB or op == OP_KICK_JOB or op == OP_TOUCH
        or op == OP_STATS_JOB
    ):
        return parse_id(cursor, command)
    # `quit` may be followed by anything: beanstalkd compares only its four letters.
    return op == OP_QUIT or parse_nothing(cursor)


cdef void parse_line(char *line, size_t size, Command *command) noexcept nogil:
    """Parse one command line.

    `line` is the line without its CRLF, `size` its length in bytes, at most 222. Sets ``command.op``, ``command.fault``
    and those other members that the command has. ``op`` is OP_NONE if no counter of `stats` counts the line.
    """
    cdef Cursor cursor
    command.fault = REPLY_NONE
    if memchr(line, 0, size) is not NULL:
        refuse(command)
        return
    cursor.at = line
    cursor.end = line + size
    command.op = command_word(&cursor)
    if command.op == OP_NONE:
        command.fault = REPLY_UNKNOWN_COMMAND
    elif command.op == OP_PUT:
        parse_put(&cursor, command)
    elif command.op == OP_PAUSE_TUBE:
        parse_pause(&cursor, command)
    elif not parse_arguments(&cursor, command):
        refuse(command)


_ARGUMENTS = {
    OP_PUT: ("pri", "delay_s", "ttr_s", "body_bytes"),
    OP_PEEK: ("id",),
    OP_RESERVE_WITH_TIMEOUT: ("timeout_s",),
    OP_RESERVE_JOB: ("id",),
    OP_DELETE: ("id",),
    OP_RELEASE: ("id", "pri", "delay_s"),
    OP_BURY: ("id", "pri"),
    OP_KICK: ("count",),
    OP_KICK_JOB: ("id",),
    OP_TOUCH: ("id",),
    OP_STATS_JOB: ("id",),
    OP_STATS_TUBE: ("name",),
    OP_USE: ("name",),
    OP_WATCH: ("name",),
    OP_IGNORE: ("name",),
    OP_PAUSE_TUBE: ("name", "delay_s"),
}

WORDS = {
    OP_PUT: "put",
    OP_PEEK: "peek",
    OP_PEEK_READY: "peek-ready",
    OP_PEEK_DELAYED: "peek-delayed",
    OP_PEEK_BURIED: "peek-buried",
    OP_RESERVE: "reserve",
    OP_RESERVE_WITH_TIMEOUT: "reserve-with-timeout",
    OP_RESERVE_JOB: "reserve-job",
    OP_DELETE: "delete",
    OP_RELEASE: "release",
    OP_BURY: "bury",
    OP_KICK: "kick",
    OP_KICK_JOB: "kick-job",
    OP_TOUCH: "touch",
    OP_STATS: "stats",
    OP_STATS_JOB: "stats-job",
    OP_STATS_TUBE: "stats-tube",
    OP_USE: "use",
    OP_WATCH: "watch",
    OP_IGNORE: "ignore",
    OP_LIST_TUBES: "list-tubes",
    OP_LIST_TUBE_USED: "list-tube-used",
    OP_LIST_TUBES_WATCHED: "list-tubes-watched",
    OP_PAUSE_TUBE: "pause-tube",
    OP_QUIT: "quit",
}


def parse(bytes line) -> tuple[str, str, dict[str, int | bytes]]:
    """Parse one command line as the server does; for tests, for fuzzing and to try out.

    Args:
        line: the line without its CRLF, at most 222 bytes.

    Returns:
        The command's word ("" when no counter of `stats` would count it), the fault ("" or the reply that refuses the
        line, such as "BAD_FORMAT"), and the arguments by name.

    Raises:
        ValueError: the line is longer than 222 bytes.
    """
    cdef Command command
    if len(line) > MAX_LINE_BYTES - 2:
        raise ValueError(f"a command line has at most {MAX_LINE_BYTES - 2} bytes before its CRLF, this one {len(line)}")
    parse_line(line, len(line), &command)
    fault = (<bytes>reply_text(command.fault)).decode().strip()
    if command.fault != REPLY_NONE:
        return WORDS.get(command.op, ""), fault, {}
    values = {
        "id": command.id, "pri": command.pri, "delay_s": command.delay_s, "ttr_s": command.ttr_s,
        "timeout_s": command.timeout_s, "count": command.count, "body_bytes": command.body_bytes,
    }
    arguments = {}
    for name in _ARGUMENTS.get(command.op, ()):
        arguments[name] = command.name[:command.name_bytes] if name == "name" else values[name]
    return WORDS[command.op], fault, arguments
