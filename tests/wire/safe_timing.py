"""When something may expire: this keeps a comparison of two servers on real clocks free of races.

A comparison must not send a command close to the moment when a delay, a ttr or a timeout ends: one server may have
noticed the end and the other not. `Deadlines` holds every moment when something *may* end. (If it has already ended in
another way, that costs a short wait and nothing else.) Each moment is an interval, from just before the command was
sent to just after its reply arrived, plus the seconds.

Deadlines of the same kind and length end in the order in which they were set, so they may be close together; for a ttr
only if one client holds both jobs (`comparison` explains how real beanstalkd treats these). All other deadlines are
kept SEPARATE_S apart: a server that wakes late finds several due at once, and may handle delays before pauses and
pauses before reservations, whatever the order in which they ended.
"""

from __future__ import annotations

from dataclasses import dataclass

SEPARATE_S = 0.026
BEFORE_S = 0.012
AFTER_S = 0.004

# Two pauses that end together are handled in the order of the tubes, not in the order in which they end.
_KEEPS_ITS_ORDER = frozenset(("delay", "ttr", "margin", "timeout"))


@dataclass(frozen=True)
class Deadline:
    """Something that may end between the moments low and high.

    what: "delay", "ttr", "margin", "timeout" or "pause". span_s: its length. key: the job, client or tube.
    holder: for a ttr the client that has the job, otherwise 0.
    """

    what: str
    span_s: int
    key: object
    low: float
    high: float
    holder: int = 0

    def may_touch(self, other: Deadline) -> bool:
        """True if both may safely end close together."""
        mine, theirs = (self.what, self.span_s, self.holder), (other.what, other.span_s, other.holder)
        return self.what in _KEEPS_ITS_ORDER and mine == theirs

    def is_near(self, other: Deadline) -> bool:
        """True if both end too close together for a command in between."""
        return self.low - SEPARATE_S < other.high and other.low - SEPARATE_S < self.high


class Deadlines:
    """All deadlines that may lie ahead."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, object], Deadline] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, what: str, span_s: int, key: object, low: float, high: float, holder: int = 0) -> None:
        """Adds a deadline that was set between low and high; replaces an earlier one of the same kind and key."""
        self._all[what, key] = Deadline(what, span_s, key, low + span_s, high + span_s, holder)

    def is_set(self, what: str, key: object) -> bool:
        """True if this deadline may lie ahead."""
        return (what, key) in self._all

    def cancel(self, what: str, key: object) -> None:
        """Removes a deadline that certainly will not come."""
        self._all.pop((what, key), None)

    def is_free(self, what: str, span_s: int, now: float, holder: int) -> bool:
        """True if a deadline of this kind and length may be set now; a ttr for this holder."""
        wanted = Deadline(what, span_s, None, now + span_s, now + span_s, holder if what == "ttr" else 0)
        return not any(d.is_near(wanted) and not d.may_touch(wanted) for d in self._all.values())

    def soonest(self) -> float:
        """The first moment at which anything may end; infinity if there is no deadline."""
        return min((d.low for d in self._all.values()), default=float("inf"))

    def due(self) -> list[Deadline]:
        """The first deadline and all that end together with it, in order."""
        ordered = sorted(self._all.values(), key=lambda d: d.low)
        due = ordered[:1]
        for deadline in ordered[1:]:
            if deadline.low - SEPARATE_S < max(d.high for d in due):
                due.append(deadline)
        return due

    def take_due(self) -> list[Deadline]:
        """Removes and returns the deadlines that are due."""
        due = self.due()
        for deadline in due:
            del self._all[deadline.what, deadline.key]
        return due

    def clash(self) -> Deadline | None:
        """A deadline that is too close to another; that of a reservation if possible, since it can be cancelled."""
        ordered = sorted(self._all.values(), key=lambda d: d.low)
        for i, one in enumerate(ordered):
            for other in ordered[i + 1 :]:
                if other.low - SEPARATE_S >= one.high:
                    break
                if not one.may_touch(other):
                    return other if other.what in ("ttr", "margin") else one
        return None
