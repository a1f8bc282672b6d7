"""The name of the process, as ``ps``, ``top``, ``pidof`` and monit see it; for Linux, elsewhere it stays as it is.

Without it a daemon that was started as ``python -m fastbean`` is one more "python". Only the daemon calls this: a
program that embeds a server keeps its own name.

Linux knows two names. ``comm``, 15 bytes, is what ``ps -o comm`` and ``pgrep`` show. The arguments, which lie in the
memory of the process, are what ``ps -o args`` shows, and the first of them is what ``pidof`` compares.
"""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ARG_START, ARG_END = 45, 46  # their places in /proc/self/stat, after the name in parentheses


def set_process_name(name: str, arguments: Sequence[str]) -> None:
    """Makes ``ps`` show the process as ``name``, started with ``arguments``, the last ones that it really has.

    Where the system does not allow it, the name stays as it is.
    """
    # prctl does the same, but calling it takes ctypes, which is slow to load.
    with contextlib.suppress(OSError), open("/proc/self/comm", "r+b", buffering=0) as comm:
        comm.write(name.encode())
    with contextlib.suppress(OSError, IndexError):
        _set_arguments([os.fsencode(each) for each in (name, *arguments)])


def _set_arguments(arguments: list[bytes]) -> None:
    with open("/proc/self/stat", "rb") as stat:
        fields = stat.read().rpartition(b")")[2].split()
    start, end = int(fields[ARG_START]), int(fields[ARG_END])
    with open("/proc/self/mem", "r+b", buffering=0) as memory:
        memory.seek(start)
        old = memory.read(end - start)
        new = b"".join(each + b"\0" for each in arguments)
        # In a program that calls `main` with arguments of its own, they are not these.
        if len(new) <= len(old) and old.endswith(b"".join(b"\0" + each for each in arguments[1:]) + b"\0"):
            memory.seek(start)
            memory.write(new.ljust(len(old), b"\0"))
