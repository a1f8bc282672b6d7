"""When something may run out: what keeps a comparison in real time free of races.

Whoever compares two servers that run on real clocks must not ask either of them anything near a moment at which a
delay, a ttr or a timeout ends, for one may think it over and the other not. This table holds every moment at which
something *may* end (it may long be settled otherwise; that costs a little waiting and nothing else). A moment is an
interval, from just before the command was sent to just after the reply came, plus the seconds.

Deadlines of one kind and one length end in the order in which they were set, however close together they are, so
they may stand close; those of a ttr only where one client holds both jobs (see Comparison on the real server's way
with them). All others keep SEPARATE_S apart, for a server that wakes late finds several due at once and
may look at delays before pauses and at these before reservations, whatever the order in which they ended.
"""

from __future__ import annotations

from dataclasses import dataclass

SEPARATE_S = 0.026
BEFORE_S = 0.012
AFTER_S = 0.004

# Two pauses that end together are looked at in the order of the tubes, not in that of their ends.
_KEEPS_ITS_ORDER = frozenset(("delay", "ttr", "margin", "timeout"))


@dataclass(frozen=True)
class Deadline:
    """Something that may end between low and high.

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
        """True when both may end close together without harm."""
        mine, theirs = (self.what, self.span_s, self.holder), (other.what, other.span_s, other.holder)
        return self.what in _KEEPS_ITS_ORDER and mine == theirs

    def is_near(self, other: Deadline) -> bool:
        """True when both end too close together for anything to be done between them."""
        return self.low - SEPARATE_S < other.high and other.low - SEPARATE_S < self.high


class Deadlines:
    """All deadlines that may still come."""

    def __init__(self) -> None:
        self._all: dict[tuple[str, object], Deadline] = {}

    def __len__(self) -> int:
        return len(self._all)

    def add(self, what: str, span_s: int, key: object, low: float, high: float, holder: int = 0) -> None:
        """Adds what was set between the moments low and high, in place of an earlier one of this kind and key."""
        self._all[what, key] = Deadline(what, span_s, key, low + span_s, high + span_s, holder)

    def is_set(self, what: str, key: object) -> bool:
        """True when this may still end."""
        return (what, key) in self._all

    def cancel(self, what: str, key: object) -> None:
        """Takes away what certainly does not end any more."""
        self._all.pop((what, key), None)

    def is_free(self, what: str, span_s: int, now: float, holder: int) -> bool:
        """True when something of this kind and length may be set now, a ttr for this holder."""
        wanted = Deadline(what, span_s, None, now + span_s, now + span_s, holder if what == "ttr" else 0)
        return not any(d.is_near(wanted) and not d.may_touch(wanted) for d in self._all.values())

    def soonest(self) -> float:
        """The first moment at which anything may end; infinity when there is nothing."""
        return min((d.low for d in self._all.values()), default=float("inf"))

    def due(self) -> list[Deadline]:
        """The soonest and all that end together with it, in their order."""
        ordered = sorted(self._all.values(), key=lambda d: d.low)
        due = ordered[:1]
        for deadline in ordered[1:]:
            if deadline.low - SEPARATE_S < max(d.high for d in due):
                due.append(deadline)
        return due

    def take_due(self) -> list[Deadline]:
        """Takes these out."""
        due = self.due()
        for deadline in due:
            del self._all[deadline.what, deadline.key]
        return due

    def clash(self) -> Deadline | None:
        """A deadline that stands too near another one; the one of a reservation, for that can be called off."""
        ordered = sorted(self._all.values(), key=lambda d: d.low)
        for i, one in enumerate(ordered):
            for other in ordered[i + 1 :]:
                if other.low - SEPARATE_S >= one.high:
                    break
                if not one.may_touch(other):
                    return other if other.what in ("ttr", "margin") else one
        return None
