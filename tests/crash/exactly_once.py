"""Checks that every job put by the random clients meets exactly one end, whatever was killed in between.

`expected_state` knows in advance what each command does. This check cannot: any client may reserve a job, its ttr may
expire, its client may disconnect before the reply arrives. These rules always hold:

- a job whose put was acknowledged exists until some client has sent a delete for it;
- a job whose delete was acknowledged is never seen by a command sent later, and cannot be deleted again;
- a put or a delete that was not acknowledged either happened or did not;
- an id has one body, and a body has one id.

Several threads use one check. Events are ordered by a counter, not by a clock.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from dataclasses import dataclass

PREFIX = b"free"
NEVER = 1 << 62


class ExactlyOnceError(AssertionError):
    """A job was lost, came back, or was another job than the one expected."""


@dataclass
class JobHistory:
    """What is known about one job.

    deleted: the moment its delete was acknowledged. is_there: whether the final drain found it.
    """

    checksum: int
    id: int = 0
    acknowledged: bool = False
    delete_sent: bool = False
    deleted: int = NEVER
    is_there: bool = False


def is_random_client_job(body: bytes) -> bool:
    """Whether a job with this body was put by a random client."""
    return body.startswith(PREFIX)


def token_of(body: bytes) -> bytes:
    """The word that identifies a job."""
    return body.partition(b"|")[0]


class ExactlyOnceCheck:
    """The histories of all jobs that were ever put, over any number of restarts."""

    def __init__(self) -> None:
        self.by_token: dict[bytes, JobHistory] = {}
        self.highest_id = 0
        self.live = 0  # acknowledged, and not known to be deleted
        self._by_id: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._moment = 0

    def moment(self) -> int:
        """A moment later than all before; take it before sending a request."""
        with self._lock:
            self._moment += 1
            return self._moment

    def must_exist(self, id: int) -> bool:
        """Whether the job's put was acknowledged, and no client has sent a delete for it."""
        with self._lock:
            history = self.by_token.get(self._by_id.get(id, b""))
            return history is not None and history.acknowledged and not history.delete_sent

    def put_sent(self, body: bytes) -> None:
        """A put of this body is about to be sent."""
        with self._lock:
            self.by_token[token_of(body)] = JobHistory(zlib.crc32(body))

    def put_refused(self, body: bytes) -> None:
        """The reply to the put was not INSERTED: no client may ever see this job."""
        with self._lock:
            del self.by_token[token_of(body)]

    def put_acknowledged(self, body: bytes, id: int) -> None:
        """The reply to the put was INSERTED with this id."""
        with self._lock:
            self._set_id(token_of(body), id).acknowledged = True
            self.live += 1

    def delete_sent(self, id: int) -> None:
        """A delete of this job is about to be sent."""
        with self._lock:
            token = self._by_id.get(id)
            if token is not None:
                self.by_token[token].delete_sent = True

    def delete_acknowledged(self, id: int) -> None:
        """The reply to a delete was DELETED."""
        with self._lock:
            history = self.by_token[self._by_id[id]]
            if history.deleted != NEVER:
                raise ExactlyOnceError(f"job {id} was deleted twice")
            self._moment += 1
            history.deleted = self._moment
            self.live -= 1

    def seen(self, id: int, body: bytes, asked: int) -> None:
        """A command that was sent after the moment ``asked`` returned this job."""
        with self._lock:
            history = self._set_id(token_of(body), id)
            if zlib.crc32(body) != history.checksum:
                raise ExactlyOnceError(f"job {id} was put with another body than {body[:60]!r}, {len(body)} bytes")
            if history.deleted < asked:
                raise ExactlyOnceError(f"job {id} is back: a command sent after its delete returned it")

    def found_at_end(self, id: int, body: bytes) -> None:
        """The last server of the run has this job. Call this once for each job."""
        self.seen(id, body, self.moment())
        history = self.by_token[token_of(body)]
        if history.is_there:
            raise ExactlyOnceError(f"job {id} was handed out twice at the end")
        history.is_there = True

    def _set_id(self, token: bytes, id: int) -> JobHistory:
        history = self.by_token.get(token)
        if history is None:
            raise ExactlyOnceError(f"job {id} was never put, or its put was refused: {token!r}")
        if history.id not in (0, id) or self._by_id.setdefault(id, token) != token:
            raise ExactlyOnceError(f"{token!r} is job {id}, but was {history.id}; that id was {self._by_id.get(id)!r}")
        history.id = id
        self.highest_id = max(self.highest_id, id)
        return history

    def totals(self) -> Counter[str]:
        """How many jobs met which end. Raises ExactlyOnceError if a job met none, or two."""
        counts: Counter[str] = Counter()
        lost = []
        for token, history in self.by_token.items():
            if history.deleted != NEVER:
                assert not history.is_there, f"{token!r} is there though it was deleted"
                counts["deleted"] += 1
            elif history.is_there:
                counts["still there" if history.acknowledged else "still there, put unacknowledged"] += 1
            elif history.delete_sent:
                counts["gone, delete unacknowledged"] += 1
            elif not history.acknowledged:
                counts["never there, put unacknowledged"] += 1
            else:
                lost.append(f"job {history.id}, {token!r}")
        if lost:
            raise ExactlyOnceError(f"{len(lost)} jobs are lost, the first of them: {', '.join(lost[:5])}")
        return counts
