"""A made-up stream: keeps the promises that the node relies on, and breaks everything that is not promised."""

from __future__ import annotations

from collections.abc import Callable

from fastbean.replication import messages
from fastbean.replication.requests import Append, Refusal, StreamInfo

from .truth import Truth


class ViolationError(AssertionError):
    """A promise was broken."""


class MadeUpStream:
    """Messages with sequences that count up from 1.

    Attributes:
        is_full: refuses every message.
        has_leader: without one, it answers nothing.
        checks_tail: whether a claim has to name the last sequence; False is a fault, for the test of the test.
        checks_claim: the same for the last claim, of batches.
    """

    def __init__(self, truth: Truth) -> None:
        self.truth = truth
        self.stored: dict[int, bytes] = {}
        self.last_seq = 0
        self.claim_seq = 0
        self.claims: set[int] = set()
        self.is_full = False
        self.has_leader = True
        self.leader = 1
        self.checks_tail = True
        self.checks_claim = True
        self.listeners: list[Callable[[int], None]] = []
        self.in_process: set[bytes] = set()

    def append(self, request: Append) -> int | Refusal:
        """The sequence that the message got, or why it got none."""
        if not self.has_leader:
            return Refusal.NO_LEADER
        if request.data in self.in_process:
            return Refusal.IN_PROCESS
        if request.after_seq != self.last_seq and (self.checks_tail or not request.is_claim):
            return Refusal.CONFLICT
        if request.claim_seq != self.claim_seq and (self.checks_claim or request.is_claim):
            return Refusal.CONFLICT
        if self.is_full:
            return Refusal.FULL
        self.last_seq += 1
        self.stored[self.last_seq] = request.data
        if request.is_claim:
            self.claim_seq = self.last_seq
            self.claims.add(self.last_seq)
        self.truth.append(messages.decode(request.data))
        for listener in self.listeners:
            listener(self.last_seq)
        return self.last_seq

    def info(self) -> StreamInfo | None:
        if not self.has_leader:
            return None
        first = min(self.stored, default=self.last_seq + 1)
        return StreamInfo("once", first, self.last_seq, len(self.stored), leader=str(self.leader))

    def purge(self, below_seq: int) -> None:
        for seq in [seq for seq in self.stored if seq < below_seq and seq not in self.claims]:
            del self.stored[seq]
