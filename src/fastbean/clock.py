"""The one place that reads clocks. Engine, hub and loop get their time from here, as arguments."""

from time import monotonic_ns, time_ns

__all__ = ["monotonic_ns", "wall_ns"]


def wall_ns() -> int:
    """The time of day in nanoseconds since 1970, UTC; it may jump, so it only serves logs."""
    return time_ns()
