"""The clocks, for Python code that does not get the time as an argument.

``monotonic_ns`` is the clock of all deadlines. The compiled modules read the same clock through ``clock.pxd``, in two
places: the poller, when a wait has ended (``Poller.now_ns``), and the binlog, which reads the wall clock as well. The
stopwatch reads the coarse clock (``stopwatch.pxd``). The engine reads no clock.
"""

from time import monotonic_ns, time_ns

__all__ = ["monotonic_ns", "wall_ns"]


def wall_ns() -> int:
    """The time of day in nanoseconds since 1970, UTC. It may jump, so it is used for log lines only."""
    return time_ns()
