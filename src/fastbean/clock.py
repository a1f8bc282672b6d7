"""The clocks, for what is Python and gets no time as an argument.

``monotonic_ns`` is the clock of all deadlines. The compiled half reads the same one in three places: the wait, which
notes when it has ended (``Poller.now_ns``); the log, which also reads the wall's (``_sync``); and the coarse one of the
stopwatch (``_stopwatch``). The engine reads none.
"""

from time import monotonic_ns, time_ns

__all__ = ["monotonic_ns", "wall_ns"]


def wall_ns() -> int:
    """The time of day in nanoseconds since 1970, UTC; it may jump, so it only serves logs."""
    return time_ns()
