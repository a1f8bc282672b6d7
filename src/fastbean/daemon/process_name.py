"""The name of the process, as ``ps``, ``top``, ``pidof`` and monit show it. Linux only; elsewhere it stays unchanged.

Without it a daemon started as ``python -m fastbean`` is just another "python". Only the daemon calls this: a
program that embeds a server keeps its own name.

Linux knows two names. ``comm``, 15 bytes, is what ``ps -o comm`` and ``pgrep`` show. The arguments, which are in the
memory of the process, are what ``ps -o args`` shows, and the first of them is what ``pidof`` compares.
"""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

ARG_START, ARG_END = 45, 46  # their positions in /proc/self/stat, after the name in parentheses


def set_process_name(name: str, arguments: Sequence[str]) -> None:
    """Makes ``ps`` show the process as ``name`` with ``arguments``, which must be the last of its real arguments.

    Where the system does not allow it, the name stays unchanged.
    """
    # prctl does the same, but would need ctypes, which is slow to load.
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
        # A program that calls `main` with other arguments has different ones in memory.
        if len(new) <= len(old) and old.endswith(b"".join(b"\0" + each for each in arguments[1:]) + b"\0"):
            memory.seek(start)
            memory.write(new.ljust(len(old), b"\0"))
