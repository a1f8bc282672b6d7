"""The system calls of a server, from strace, each with the lines where it began and ended."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CALLS = (
    "write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sendto,sendmsg,unlink,unlinkat,rename,renameat,renameat2"
)

_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>.*\) += (-?\d+)")
_FILE = re.compile(r"(?:\d+|AT_FDCWD)<([^>]*)>")


@dataclass(frozen=True)
class Call:
    """A system call that succeeded; its lines in the trace, the file or socket it was for, its arguments as text."""

    name: str
    begin: int
    end: int
    file: str
    text: str

    @cached_property
    def is_write(self) -> bool:
        """Whether it writes records to a segment of the binlog."""
        return "write" in self.name and self.file.endswith(".log") and not self.is_of_zeros

    @cached_property
    def is_of_zeros(self) -> bool:
        """Whether it writes only zeros to a file of the binlog: prepares or clears space."""
        return "write" in self.name and re.search(r'"(\\0)+"(\.\.\.)?,', self.text) is not None

    @property
    def is_sync(self) -> bool:
        """Whether it syncs a segment of the binlog."""
        return self.name in ("fsync", "fdatasync") and self.file.endswith(".log")

    @property
    def is_send(self) -> bool:
        """Whether it sends to a client."""
        return self.name in ("sendto", "sendmsg")

    @property
    def removed(self) -> str:
        """The name of the segment that it removed, or renamed to make a spare; otherwise empty."""
        names = re.findall(r'(fastbean-\d+\.\w+)"', self.text)
        goes = self.name.startswith(("unlink", "rename")) and names and names[0].endswith(".log")
        return str(names[0]) if goes else ""

    @property
    def written(self) -> tuple[int, bytes]:
        """The offset and the bytes of a pwrite."""
        found = re.fullmatch(r'[^"]*"((?:[^"\\]|\\.)*)", \d+, (\d+)', self.text)
        assert found, self.text
        data, _ = codecs.escape_decode(found[1].encode("latin-1"))
        return int(found[2]), bytes(data)


def command(trace: Path, extra: Sequence[str] = ()) -> list[str]:
    """The beginning of a command that runs a program under strace."""
    return ["strace", "-f", "-y", "-s", "1000000", "-e", f"trace={CALLS}", *extra, "-o", str(trace)]


def read_calls(trace: Path) -> list[Call]:
    """The calls of a trace, in the order in which they began."""
    return sorted(_calls(trace), key=lambda call: call.begin)


def _calls(trace: Path) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for line_number, line in enumerate(trace.read_text(encoding="latin-1").splitlines()):
        if whole := _WHOLE.match(line):
            begin, text, name, result = line_number, whole[3], whole[2], int(whole[4])
        elif start := _BEGUN.match(line):
            begun[start[1]] = line_number, start[3]
            continue
        elif (rest := _ENDED.match(line)) and rest[1] in begun:
            (begin, text), name, result = begun.pop(rest[1]), rest[2], int(rest[3])
        else:
            continue
        if result >= 0:
            file = _FILE.match(text)
            yield Call(name, begin, line_number, file[1] if file else "", text)
