"""The table of commands: a row for each.

A row has the word, the form of its arguments, the function that runs it, what it acts on, the right that a client needs
for it, and whether it changes anything. The parser, the connection, the counters, the ``cmd-`` keys of `stats`, the
documentation and the generators of the tests use it. A new command is a row here and a function in `commands`.
"""

from libc.stdint cimport uint32_t

from fastbean.engine cimport commands
from fastbean.engine.statistics_tables cimport make_tables
from fastbean.protocol.commands cimport (
    COUNTER_NONE, COUNTER_OF_BEANSTALKD, COUNTER_OF_FASTBEAN,
    FORM_COUNT, FORM_ID, FORM_ID_PRI, FORM_ID_PRI_DELAY, FORM_IGNORED, FORM_NOTHING, FORM_PUT, FORM_TIMEOUT, FORM_TUBE,
    FORM_TUBE_DELAY, MAX_LINE_BYTES, Command, Counter, Form, add_word, parse_line, words, words_count,
)
from fastbean.protocol.replies cimport REPLY_NONE, reply_text

from fastbean.protocol.commands import ARGUMENTS as _ARGUMENTS

TARGETS = {ON_NOTHING: "nothing", ON_TUBE: "a tube", ON_JOB: "a job", ON_OWN_RESERVATION: "an own reservation"}
RIGHTS = {RIGHT_ADMIN: "admin", RIGHT_MONITOR: "monitor", RIGHT_PRODUCER: "producer", RIGHT_WORKER: "worker"}


cdef int add_command(
    const char *word, Form form, Run run, Target target, Effect effect, Right right=RIGHT_ADMIN,
    Counter counter=COUNTER_OF_BEANSTALKD,
) except -1:
    """Add a row. A row that states no right needs that of an administrator."""
    cdef Row *row = &rows[add_word(word, form, counter)]
    row.run = run
    row.target = target
    row.right = right
    row.effect = effect
    return 0


# The order is that of the keys in `stats`.
add_command(b"put ", FORM_PUT, commands.put_begin, ON_TUBE, CHANGES, RIGHT_PRODUCER)
add_command(b"peek ", FORM_ID, commands.peek, ON_JOB, LOOKS, RIGHT_ADMIN)
add_command(b"peek-ready", FORM_NOTHING, commands.peek_ready, ON_TUBE, LOOKS, RIGHT_ADMIN)
add_command(b"peek-delayed", FORM_NOTHING, commands.peek_delayed, ON_TUBE, LOOKS, RIGHT_ADMIN)
add_command(b"peek-buried", FORM_NOTHING, commands.peek_buried, ON_TUBE, LOOKS, RIGHT_ADMIN)
add_command(b"reserve", FORM_NOTHING, commands.reserve, ON_TUBE, CHANGES, RIGHT_WORKER)
add_command(b"reserve-with-timeout ", FORM_TIMEOUT, commands.reserve_with_timeout, ON_TUBE, CHANGES, RIGHT_WORKER)
add_command(b"delete ", FORM_ID, commands.delete, ON_JOB, CHANGES, RIGHT_WORKER)
add_command(b"release ", FORM_ID_PRI_DELAY, commands.release, ON_OWN_RESERVATION, CHANGES, RIGHT_WORKER)
add_command(b"use ", FORM_TUBE, commands.use, ON_TUBE, LOOKS, RIGHT_PRODUCER)
add_command(b"watch ", FORM_TUBE, commands.watch, ON_TUBE, LOOKS, RIGHT_WORKER)
add_command(b"ignore ", FORM_TUBE, commands.ignore, ON_TUBE, LOOKS, RIGHT_WORKER)
add_command(b"bury ", FORM_ID_PRI, commands.bury, ON_OWN_RESERVATION, CHANGES, RIGHT_WORKER)
add_command(b"kick ", FORM_COUNT, commands.kick, ON_TUBE, CHANGES, RIGHT_ADMIN)
add_command(b"touch ", FORM_ID, commands.touch, ON_OWN_RESERVATION, LOOKS, RIGHT_WORKER)
add_command(b"stats", FORM_NOTHING, commands.stats, ON_NOTHING, LOOKS, RIGHT_MONITOR)
add_command(b"stats-job ", FORM_ID, commands.stats_job, ON_JOB, LOOKS, RIGHT_WORKER)
add_command(b"stats-tube ", FORM_TUBE, commands.stats_tube, ON_TUBE, LOOKS, RIGHT_MONITOR)
add_command(b"list-tubes", FORM_NOTHING, commands.list_tubes, ON_NOTHING, LOOKS, RIGHT_MONITOR)
add_command(b"list-tube-used", FORM_NOTHING, commands.list_tube_used, ON_NOTHING, LOOKS, RIGHT_PRODUCER)
add_command(b"list-tubes-watched", FORM_NOTHING, commands.list_tubes_watched, ON_NOTHING, LOOKS, RIGHT_WORKER)
add_command(b"pause-tube", FORM_TUBE_DELAY, commands.pause_tube, ON_TUBE, CHANGES, RIGHT_ADMIN)
add_command(b"reserve-job ", FORM_ID, commands.reserve_job, ON_JOB, CHANGES, RIGHT_WORKER, COUNTER_OF_FASTBEAN)
add_command(b"kick-job ", FORM_ID, commands.kick_job, ON_JOB, CHANGES, RIGHT_ADMIN, COUNTER_OF_FASTBEAN)
add_command(b"quit", FORM_IGNORED, <Run>NULL, ON_NOTHING, LOOKS, RIGHT_MONITOR, COUNTER_NONE)


make_tables()


cdef str word_of(uint32_t number):
    return (<bytes>words[number].text).decode().strip() if number else ""


WORDS = {number: word_of(number) for number in range(1, words_count + 1)}


def table() -> list[dict[str, object]]:
    """Return the rows: of each the ``word``, the names of its ``arguments``, what it ``acts_on``, the ``right`` that
    it needs, and whether it ``changes`` something."""
    return [
        {
            "word": WORDS[number], "arguments": _ARGUMENTS[words[number].form], "acts_on": TARGETS[rows[number].target],
            "right": RIGHTS[rows[number].right], "changes": rows[number].effect == CHANGES,
        }
        for number in range(1, words_count + 1)
    ]


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
        return word_of(command.number), fault, {}
    values = {
        "id": command.id, "pri": command.pri, "delay_s": command.delay_s, "ttr_s": command.ttr_s,
        "timeout_s": command.timeout_s, "count": command.count, "body_bytes": command.body_bytes,
    }
    arguments = {}
    for name in _ARGUMENTS[words[command.number].form]:
        arguments[name] = command.name[:command.name_bytes] if name == "name" else values[name]
    return word_of(command.number), fault, arguments
