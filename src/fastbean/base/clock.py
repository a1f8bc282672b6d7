"""The clocks, for what is Python and gets no time as an argument.

``monotonic_ns`` is the clock of all deadlines. The compiled half reads the same one by ``_clock``, in two places: the
wait, which notes when it has ended (``Poller.now_ns``), and the log, which also reads the wall's; and the stopwatch
reads the coarse one (``_stopwatch``). The engine reads none.
"""

from time import monotonic_ns, time_ns

__all__ = ["monotonic_ns", "wall_ns"]


def wall_ns() -> int:
    """The time of day in nanoseconds since 1970, UTC; it may jump, so it only serves logs."""
    return time_ns()
