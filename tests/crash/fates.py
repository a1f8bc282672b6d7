"""What became of each job of clients that do as they please: exactly one fate, whatever was killed in between.

Where the ledger knows beforehand what a command does, this account knows only what may have become of a job: anybody
may reserve it, its time to run may end, its client may be gone before the reply has come. What always holds:

- a job whose put was acknowledged is there until somebody has sent a delete for it;
- a job whose delete was acknowledged is never seen again by a command that was sent later, and by no second delete;
- a put or a delete that was not acknowledged has happened or has not;
- an id has one body, and a body one id.

Several threads use it at once. Moments are counted, not timed: what was sent before something else was answered.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from dataclasses import dataclass

PREFIX = b"free"
NEVER = 1 << 62


class FateError(AssertionError):
    """A job was lost, or came back, or was somebody else's."""


@dataclass
class Fate:
    """What is known of one job. deleted: when its delete was acknowledged; there: whether the end has found it."""

    checksum: int
    id: int = 0
    acknowledged: bool = False
    delete_sent: bool = False
    deleted: int = NEVER
    there: bool = False


def is_free(body: bytes) -> bool:
    """Whether a job of this body is one of those accounted for here."""
    return body.startswith(PREFIX)


def token_of(body: bytes) -> bytes:
    """The word by which a job is known."""
    return body.partition(b"|")[0]


class Fates:
    """The account of all jobs that were ever put, over any number of restarts."""

    def __init__(self) -> None:
        self.by_token: dict[bytes, Fate] = {}
        self.highest_id = 0
        self.live = 0  # acknowledged, and not known to be deleted
        self._by_id: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._moment = 0

    def moment(self) -> int:
        """A moment later than all before: take it before something is sent."""
        with self._lock:
            self._moment += 1
            return self._moment

    def is_there_for_certain(self, id: int) -> bool:
        """Whether the job was acknowledged, and nobody has sent a delete for it."""
        with self._lock:
            fate = self.by_token.get(self._by_id.get(id, b""))
            return fate is not None and fate.acknowledged and not fate.delete_sent

    def put_sent(self, body: bytes) -> None:
        """A put of this body is about to be sent."""
        with self._lock:
            self.by_token[token_of(body)] = Fate(zlib.crc32(body))

    def put_refused(self, body: bytes) -> None:
        """The put was answered, and not with INSERTED: nothing may ever be seen of it."""
        with self._lock:
            del self.by_token[token_of(body)]

    def put_acknowledged(self, body: bytes, id: int) -> None:
        """The put was answered with this id."""
        with self._lock:
            self._name(token_of(body), id).acknowledged = True
            self.live += 1

    def delete_sent(self, id: int) -> None:
        """A delete of this job is about to be sent."""
        with self._lock:
            token = self._by_id.get(id)
            if token is not None:
                self.by_token[token].delete_sent = True

    def delete_acknowledged(self, id: int) -> None:
        """A delete was answered with DELETED."""
        with self._lock:
            fate = self.by_token[self._by_id[id]]
            if fate.deleted != NEVER:
                raise FateError(f"job {id} was deleted twice")
            self._moment += 1
            fate.deleted = self._moment
            self.live -= 1

    def seen(self, id: int, body: bytes, asked: int) -> None:
        """A command that was sent after the moment `asked` was answered with this job."""
        with self._lock:
            fate = self._name(token_of(body), id)
            if zlib.crc32(body) != fate.checksum:
                raise FateError(f"job {id} has another body than it was put with: {body[:60]!r}, {len(body)} bytes")
            if fate.deleted < asked:
                raise FateError(f"job {id} is back: it was deleted, and seen by a command that was sent later")

    def found_at_the_end(self, id: int, body: bytes) -> None:
        """The last server of all has this job; told once for each."""
        self.seen(id, body, self.moment())
        fate = self.by_token[token_of(body)]
        if fate.there:
            raise FateError(f"job {id} was handed out twice at the end")
        fate.there = True

    def _name(self, token: bytes, id: int) -> Fate:
        fate = self.by_token.get(token)
        if fate is None:
            raise FateError(f"job {id} was never put, or its put was refused: {token!r}")
        if fate.id not in (0, id) or self._by_id.setdefault(id, token) != token:
            raise FateError(f"{token!r} is job {id}, but was {fate.id}; that id was {self._by_id.get(id)!r}")
        fate.id = id
        self.highest_id = max(self.highest_id, id)
        return fate

    def totals(self) -> Counter[str]:
        """How many jobs came to which end. Raises FateError for those that have none, or two."""
        counts: Counter[str] = Counter()
        lost = []
        for token, fate in self.by_token.items():
            if fate.deleted != NEVER:
                assert not fate.there, f"{token!r} is there though it was deleted"
                counts["deleted"] += 1
            elif fate.there:
                counts["still there" if fate.acknowledged else "still there, put unacknowledged"] += 1
            elif fate.delete_sent:
                counts["gone, delete unacknowledged"] += 1
            elif not fate.acknowledged:
                counts["never there, put unacknowledged"] += 1
            else:
                lost.append(f"job {fate.id}, {token!r}")
        if lost:
            raise FateError(f"{len(lost)} jobs are lost, the first of them: {', '.join(lost[:5])}")
        return counts
