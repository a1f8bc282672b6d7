"""The one place that reads clocks, but for the compiled wait, which notes when it has ended (``Poller.now_ns``).

Both are the same clock. Everybody else gets the time as an argument.
"""

from time import monotonic_ns, time_ns

__all__ = ["monotonic_ns", "wall_ns"]


def wall_ns() -> int:
    """The time of day in nanoseconds since 1970, UTC; it may jump, so it only serves logs."""
    return time_ns()
