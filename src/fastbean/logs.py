"""The log: lines on stderr, one an event: time, level, what happened, and fields.

``2026-11-21T21:10:00.123+0000 INFO listening address=127.0.0.1:11300``

Each line is one ``write``, so lines of several processes do not mix, and a line never holds a line break that a client
sent. A stderr that is closed, full or broken loses lines and nothing else. ``logging`` is not used: importing it takes
longer than the whole rest of the start.
"""

import contextlib
import os
import time

from fastbean import clock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

STDERR = 2


class Log:
    """Writes lines to the descriptor ``fd``; called with a level, an event and fields. Never raises an OSError."""

    def __init__(self, fd: int = STDERR, wall_ns: "Callable[[], int]" = clock.wall_ns) -> None:
        self._fd = fd
        self._wall_ns = wall_ns

    def __call__(self, level: str, event: str, **fields: object) -> None:
        """Writes one line; fields with odd characters are quoted."""
        write_text(self._fd, format_line(self._wall_ns(), level, event, fields))


def silent(level: str, event: str, **fields: object) -> None:
    """A log that keeps quiet; what an embedded server has unless it is given another."""


def write_text(fd: int, text: str) -> None:
    """Writes ``text`` to ``fd`` in one call; does nothing if nobody can be reached there."""
    with contextlib.suppress(OSError):
        os.write(fd, text.encode("utf-8", "backslashreplace"))


def format_line(wall_ns: int, level: str, event: str, fields: dict[str, object]) -> str:
    """One line of the log, with its line break; ``wall_ns`` is the time of day in nanoseconds since 1970."""
    seconds, rest_ns = divmod(wall_ns, 1_000_000_000)
    local = time.localtime(seconds)
    stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{rest_ns // 1_000_000:03d}{time.strftime('%z', local)}"
    words = [stamp, level, event, *(f"{name}={_quoted(str(value))}" for name, value in fields.items())]
    return " ".join(words) + "\n"


def _quoted(text: str) -> str:
    """``text`` as it is if it is one plain word, otherwise in quotes with everything odd escaped."""
    plain = text.isascii() and text.isprintable() and text and not any(char in " \"'=" for char in text)
    return text if plain else ascii(text)
