"""What one thread of a server does, as Linux sees it: its CPU time, and whether it sleeps all the time.

A server that sleeps through many looks although it has something to do has forgotten it. Such looks count only while
the thread sleeps in the kernel: a slow machine, on which it waits for a processor, adds none.
"""

from __future__ import annotations

import os
import re

LOOK_S = 0.02
QUIET_LOOKS = 150  # three seconds, which is longer than the timers in the tests


class ThreadWatch:
    """Watches a thread by its ids; the files stay open, so that it needs no descriptor later."""

    def __init__(self, process_id: int, thread_id: int) -> None:
        folder = f"/proc/{process_id}/task/{thread_id}"
        self._status = os.open(f"{folder}/status", os.O_RDONLY | os.O_CLOEXEC)
        self._schedstat = os.open(f"{folder}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        self._seen: tuple[int, int] | None = None
        self._looks = 0

    def close(self) -> None:
        os.close(self._status)
        os.close(self._schedstat)

    def cpu_ns(self) -> int:
        """The CPU time that the thread has used, in nanoseconds. Raises ProcessLookupError if it has ended."""
        return int(os.pread(self._schedstat, 200, 0).split()[0])

    def begin(self) -> None:
        """Begins to count looks."""
        self._seen, self._looks = None, 0

    def sleeps_on(self) -> bool:
        """Looks once; whether the thread has slept through QUIET_LOOKS looks in a row. To be called every LOOK_S."""
        status = os.pread(self._status, 8192, 0).decode("ascii", "replace")
        switches = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
        assert switches is not None
        seen = (int(switches[1]), self.cpu_ns()) if "State:\tS" in status else None
        self._looks = self._looks + 1 if seen is not None and seen == self._seen else 0
        self._seen = seen
        return self._looks >= QUIET_LOOKS
