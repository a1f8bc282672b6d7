"""The test's side of faults.c: compiles the shim, chooses which calls fail, and reads the trace of the calls made.

A trace is a run of records: a head of 40 bytes (see `struct head` in faults.c), one or two paths, data.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from builds import compile_library

MAX_KINDS = 32
FOR_EVER = 1 << 62
HELD = 1 + MAX_KINDS + 6  # the place of `held` in the control file, as a number of 8 bytes


class Kind(IntEnum):
    """Kinds of calls, numbered as in faults.c."""

    CREATE = 0
    WRITE = 1
    SYNC = 2
    SYNC_FOLDER = 3
    ALLOCATE = 4
    TRUNCATE = 5
    RENAME = 6
    UNLINK = 7
    MKDIR = 8
    LINK = 9
    OPEN = 10
    CLOSE = 11
    SEND = 12
    SYNC_BEGIN = 13
    SYNC_FOLDER_BEGIN = 14
    READ = 15  # counted, and not recorded, as the next ones
    LOCK = 16
    DATA_SYNC = 17  # fdatasync, which is counted and recorded as a SYNC, too, unless it fails as a DATA_SYNC


@dataclass(frozen=True)
class Event:
    """One record of a trace.

    offset: of a write or an allocation; the new size of a truncation; the peer's port of a send; the flags of an open.
    """

    kind: Kind
    fd: int
    offset: int
    length: int
    result: int
    path: str
    path2: str
    data: bytes

    @property
    def is_of_zeros(self) -> bool:
        """Whether it writes nothing but zeros: room is prepared, or cleared. Of a failure, the beginning is known."""
        return self.kind == Kind.WRITE and not any(self.data)


_HEAD = struct.Struct("=IiqqiIII")


def read_trace(path: Path) -> list[Event]:
    """All complete records of a trace; a kill may have cut off the last one."""
    return list(_events(path.read_bytes()))


def _events(data: bytes) -> Iterator[Event]:
    at = 0
    while at + _HEAD.size <= len(data):
        kind, fd, offset, length, result, path_bytes, path2_bytes, data_bytes = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        middle, last = at + path_bytes, at + path_bytes + path2_bytes
        if last + data_bytes > len(data):
            return
        names = os.fsdecode(data[at:middle]), os.fsdecode(data[middle:last])
        yield Event(Kind(kind), fd, offset, length, result, *names, data[last : last + data_bytes])
        at = last + data_bytes


def compile_shim(folder: Path) -> Path:
    """Compiles faults.c into a folder; returns the library's path."""
    return compile_library(Path(__file__).with_name("faults.c"), folder, "-ldl", "-lpthread")


class Faults:
    """The shim of one server at a time.

    folder: where control file and trace lie. directory: the files that are watched. traced: whether to write a trace.
    """

    def __init__(self, library: Path, folder: Path, directory: Path, *, traced: bool = True) -> None:
        self.trace_path = folder / "trace"
        control = folder / "control"
        control.write_bytes(bytes(4096))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 4096)
        self.env = {
            # Behind a sanitizer's library, if there is one: that has to be the first.
            "LD_PRELOAD": ":".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)])),
            "FAULTS_DIR": str(directory.resolve()),
            "FAULTS_CONTROL": str(control),
            **({"FAULTS_TRACE": str(self.trace_path)} if traced else {}),
        }

    @property
    def records(self) -> int:
        """The number of records in the trace so far: the place of the next one."""
        return self._number(0)

    @property
    def failed(self) -> int:
        """The number of calls that failed since the last `set`."""
        return self._number(1 + MAX_KINDS + 5)

    def calls(self, kind: Kind) -> int:
        """The number of calls of this kind so far."""
        return self._number(1 + kind)

    def set(self, *kinds: Kind, error: int = errno.EIO, first: int = 1, count: int = FOR_EVER) -> None:
        """Makes calls of these kinds fail: ``count`` of them, starting with the ``first`` one from now.

        error: their errno; 0 cuts writes in half, which is no failure but must be dealt with.
        """
        self._store(mask=sum(1 << kind for kind in kinds), first=first, last=first + count - 1, error=error)

    def clear(self) -> None:
        """Makes no more calls fail."""
        self._store(mask=0)

    def hold(self, kind: Kind, least_bytes: int = 0) -> None:
        """Has calls of this kind, SYNC or WRITE, wait until `release`: of writes those of ``least_bytes`` or more."""
        struct.pack_into("=4Q", self._memory, 8 * HELD, 0, least_bytes, 0, 0)
        struct.pack_into("=Q", self._memory, 8 * HELD, 1 << kind)

    def release(self) -> None:
        """Lets all calls continue."""
        struct.pack_into("=Q", self._memory, 8 * HELD, 0)

    @property
    def waited(self) -> tuple[int, int]:
        """The number of calls that had to wait since the last `hold`: of the event loop, and of other threads."""
        return self._number(HELD + 2), self._number(HELD + 3)

    def events(self) -> list[Event]:
        """The trace so far."""
        return read_trace(self.trace_path)

    def _number(self, place: int) -> int:
        number: int = struct.unpack_from("=Q", self._memory, 8 * place)[0]
        return number

    def _store(self, mask: int, first: int = 0, last: int = 0, error: int = 0) -> None:
        rule = 8 * (1 + MAX_KINDS)
        struct.pack_into("=6Q", self._memory, rule, 0, 0, first, last, error, 0)
        struct.pack_into("=Q", self._memory, rule, mask)
