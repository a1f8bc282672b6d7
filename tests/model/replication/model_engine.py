"""A queue of puts, deletes and looks in a few lines, with replies that wait for their batch: the engine of a node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from fastbean.replication.requests import Apply, Lead

from .truth import DELETE, IDS, NOTHING, PUT, RECORD, Truth, record

IDS_AT_ONCE = 8

Reply = Callable[[], None]


class ModelEngine:
    """The engine of one node; ``hand_over`` gets a batch: its first LSN and its records; ``trim`` an LSN.

    ``answers_early`` and ``reads_early``: all replies, or those that change nothing, do not wait: two faults, for the
    test of the test.
    """

    def __init__(
        self,
        hand_over: Callable[[int, bytes], None],
        trim: Callable[[int], None],
        *,
        answers_early: bool,
        reads_early: bool,
    ) -> None:
        self.jobs: dict[int, int] = {}
        self.end_lsn = 0
        self.opened = False  # to clients
        self._hand_over = hand_over
        self._trim = trim
        self._is_trimmed = False  # the records before the first ones that it has applied are not known
        self._answers_early = answers_early
        self._reads_early = reads_early
        self._next_id = 1
        self._id_limit = 1
        self._asked_limit = 1
        self._open = bytearray()
        self._busy = False
        self._waiting: deque[tuple[int, Reply]] = deque()
        self._ids: deque[tuple[int, int]] = deque()

    def apply(self, request: Apply) -> None:
        if self.end_lsn == 0 and request.first_lsn:
            self._is_trimmed = True
            self.end_lsn = request.first_lsn
        assert request.first_lsn == self.end_lsn
        for what, id, token in RECORD.iter_unpack(request.records):
            if what == PUT:
                self.jobs[id] = token
            elif what == DELETE:
                found = self.jobs.pop(id, None)
                assert found is not None or self._is_trimmed
            elif what == IDS:
                self._id_limit = id
        self.end_lsn += len(request.records)

    def close(self) -> None:
        """Nothing is open."""

    def has_jobs_of(self, truth: Truth, _ids: Iterable[int]) -> bool:
        """Whether it has exactly the jobs of the truth."""
        return self.jobs == truth.jobs

    def lead(self, _request: Lead) -> None:
        self._next_id = self._asked_limit = self._id_limit
        self._more_ids()
        self.commit()

    def _more_ids(self) -> None:
        self._asked_limit += IDS_AT_ONCE
        self._append(IDS, self._asked_limit)
        self._ids.append((self.end_lsn, self._asked_limit))

    def _append(self, what: bytes, id: int = 0, token: int = 0) -> None:
        self._open += record(what, id, token)
        self.end_lsn += RECORD.size

    def put(self, token: int, reply: Callable[[int], None]) -> None:
        if self._next_id >= self._id_limit:
            if self._asked_limit == self._id_limit:
                self._more_ids()
            return  # the client tries again
        id = self._next_id
        self._next_id += 1
        self.jobs[id] = token
        self._append(PUT, id, token)
        self._answer(lambda: reply(id))

    def delete(self, id: int, reply: Callable[[bool], None]) -> None:
        found = self.jobs.pop(id, None) is not None
        if found:
            self._append(DELETE, id)
        self._answer(lambda: reply(found))

    def peek(self, id: int, reply: Callable[[int | None], None]) -> None:
        token = self.jobs.get(id)
        if self._reads_early:
            reply(token)
        else:
            self._answer(lambda: reply(token))

    def compact(self) -> None:
        """Copy what is live to the end, so that everything before it can go."""
        first_lsn = self.end_lsn
        for id, token in self.jobs.items():
            self._append(PUT, id, token)
        self._append(IDS, self._asked_limit)
        self._waiting.append((self.end_lsn, lambda: self._trim(first_lsn)))

    def _answer(self, reply: Reply) -> None:
        """Every reply waits for the batch that is open now."""
        if self._answers_early:
            reply()
            return
        if not self._open:
            self._append(NOTHING)
        self._waiting.append((self.end_lsn, reply))

    def commit(self) -> None:
        """The end of an iteration."""
        if self._open and not self._busy:
            self._busy = True
            records = bytes(self._open)
            self._open.clear()
            self._hand_over(self.end_lsn - len(records), records)

    def safe(self, lsn: int) -> None:
        """The batch is safe: the next one may begin."""
        self._busy = False
        self.send_replies(lsn)
        self.commit()

    def send_replies(self, lsn: int) -> None:
        """Send the replies that wait for anything below ``lsn``."""
        while self._ids and self._ids[0][0] <= lsn:
            self._id_limit = self._ids.popleft()[1]
        while self._waiting and self._waiting[0][0] <= lsn:
            self._waiting.popleft()[1]()
