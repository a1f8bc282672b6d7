"""The log: lines on stderr, one per event: time, level, event and fields.

``2026-11-21T21:10:00.123+0000 INFO listening address=127.0.0.1:11300``
``{"time": "2026-11-21T21:10:00.123Z", "level": "INFO", "event": "listening", "address": "127.0.0.1:11300"}``

The names of events and fields stay the same from one version to the next; docs/operations.md lists them. A line is one
line of printable ASCII, whatever a client sent, and at most LINE_BYTES long. It is written with one ``write``, so that
the lines of several processes do not mix.

The log never stops or delays the server. A line that cannot be written at once (a full pipe, a paused terminal, a full
disk, a reader that is gone) is lost; once lines can be written again, ``lines-lost`` reports how many. Only a file
whose disk does not respond can delay the server. The standard ``logging`` module is not used: importing it takes longer
than the rest of the start.
"""

from __future__ import annotations

import contextlib
import os
import select
import time

from fastbean.base import clock, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    _Formatter = Callable[[int, str, str, dict[str, object]], str]

STDERR = 2
LINE_BYTES = 4096  # PIPE_BUF of Linux: a pipe takes that much whole or not at all
SHORTEST_FIELD = 16


class Log:
    """Writes lines to the descriptor ``fd``; called with a level, an event and fields. Never raises an OSError.

    ``level`` is the lowest level that is written, one of ``limits.LOG_LEVELS``; ``form`` is one of
    ``limits.LOG_FORMATS``.
    """

    def __init__(
        self,
        fd: int = STDERR,
        *,
        level: str = "debug",
        form: str = "text",
        wall_ns: Callable[[], int] = clock.wall_ns,
    ) -> None:
        self._fd = fd
        self._wall_ns = wall_ns
        self._levels = {each.upper() for each in limits.LOG_LEVELS[limits.LOG_LEVELS.index(level) :]}
        self._format = format_json if form == "json" else format_line
        self._lost = 0
        self._torn = False

    def __call__(self, level: str, event: str, **fields: object) -> None:
        """Writes one line; quotes fields with unusual characters and shortens long ones."""
        if level not in self._levels:
            return
        now_ns = self._wall_ns()
        if self._lost and "WARNING" in self._levels:
            lost = self._lost
            if self._write(self._format(now_ns, "WARNING", "lines-lost", {"count": lost})):
                self._lost -= lost
        if not self._write(format_short(self._format, now_ns, level, event, fields)):
            self._lost += 1

    def _write(self, line: str) -> bool:
        """Writes a line; returns whether all of it was written."""
        data = line.encode("ascii", "backslashreplace")
        # If a full disk took only a part of the line before, this line must not be appended to that part.
        written = write_at_once(self._fd, b"\n" + data if self._torn else data)
        whole = written >= len(data)
        self._torn = not whole if written else self._torn
        return whole


def silent(level: str, event: str, **fields: object) -> None:
    """A log that writes nothing; the default of an embedded server."""


def write_text(fd: int, text: str) -> None:
    """Writes ``text`` to ``fd`` in one call; ignores errors."""
    with contextlib.suppress(OSError):
        os.write(fd, text.encode("utf-8", "backslashreplace"))


def write_at_once(fd: int, data: bytes) -> int:
    """Writes ``data`` to ``fd`` if it accepts data now; returns the number of bytes that it accepted."""
    try:
        if hasattr(select, "poll"):
            asked = select.poll()
            asked.register(fd, select.POLLOUT)
            if not any(events & select.POLLOUT for _, events in asked.poll(0)):
                return 0
        return os.write(fd, data)
    except OSError:
        return 0


def complain(fd: int, text: str) -> None:
    """Writes one line for a person: why the program ends."""
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    write_at_once(fd, f"fastbean: {line}\n".encode("utf-8", "backslashreplace"))


def format_short(form: _Formatter, wall_ns: int, level: str, event: str, fields: dict[str, object]) -> str:
    """The line that ``form`` makes. If it is too long, the longest fields are cut and end with ``...``."""
    line = form(wall_ns, level, event, fields)
    while len(line) > LINE_BYTES:
        name = max(fields, key=lambda each: len(str(fields[each])))
        text = str(fields[name])
        if len(text) <= SHORTEST_FIELD:
            break
        fields = {**fields, name: f"{text[: len(text) // 2 - len('...')]}..."}
        line = form(wall_ns, level, event, fields)
    return line


def format_line(wall_ns: int, level: str, event: str, fields: dict[str, object]) -> str:
    """One log line as text, with its line break; ``wall_ns`` is the time of day, in nanoseconds since 1970."""
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    local = time.localtime(seconds)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{rest_ns // 1_000_000:03d}{time.strftime('%z', local)}"
    words = [stamp, level, event, *(f"{name}={_quoted(str(value))}" for name, value in fields.items())]
    return " ".join(words) + "\n"


def format_json(wall_ns: int, level: str, event: str, fields: dict[str, object]) -> str:
    """One log line as a JSON object; the time is UTC, numbers are numbers, everything else is text."""
    import json  # loaded only with --log-format json: a start should not wait for it

    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest_ns // 1_000_000:03d}Z"
    return json.dumps({"time": stamp, "level": level, "event": event, **fields}, default=str) + "\n"


def _quoted(text: str) -> str:
    """``text`` unchanged if it is one plain word, otherwise quoted, with unusual characters escaped."""
    plain = text.isascii() and text.isprintable() and text and not any(char in " \"'=" for char in text)
    return text if plain else ascii(text)
