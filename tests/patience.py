"""What keeps tests independent of how fast the machine is, and of pauses of several seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator

# How long a test waits for what must happen: only a hang takes longer, never a slow machine.
PATIENCE_S = 120.0
ATTEMPTS = 5


class Attempt:
    """One attempt; it swallows a failure that proves nothing, unless it is the last one."""

    def __init__(self, quick_s: float, *, is_last: bool) -> None:
        self.has_passed = False
        self._quick_s = quick_s
        self._is_last = is_last

    def __enter__(self) -> None:
        self._began_s = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.has_passed = kind is None
        is_failure = kind is not None and issubclass(kind, AssertionError)
        return is_failure and not self._is_last and time.monotonic() - self._began_s >= self._quick_s


def attempts(quick_s: float = 0.0) -> Iterator[Attempt]:
    """Attempts at a check that a pause of the machine may spoil, for use as ``for attempt in ...: with attempt:``.

    quick_s: a failure within this many seconds counts at once: no pause can have caused it. A later one counts only
    in the last attempt.
    """
    for number in range(ATTEMPTS):
        attempt = Attempt(quick_s, is_last=number == ATTEMPTS - 1)
        yield attempt
        if attempt.has_passed:
            return
