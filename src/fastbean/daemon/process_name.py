"""The name of the process, as ``ps -o comm``, ``top``, ``pidof`` and monit see it; for Linux.

Without it a daemon that was started as ``python -m fastbean`` is one more "python". Only the daemon calls this: a
program that embeds a server keeps its own name.
"""

import contextlib

COMM = "/proc/self/comm"  # prctl(PR_SET_NAME) does the same, but calling it takes ctypes, which is slow to load


def set_process_name(name: str) -> None:
    """Names the process ``name``, of which Linux keeps 15 bytes. Where this is not possible, the name stays."""
    with contextlib.suppress(OSError), open(COMM, "r+b", buffering=0) as comm:
        comm.write(name.encode())
