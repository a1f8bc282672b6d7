"""One message on its way into the stream: what each answer means, and when to send it again.

The same bytes are sent again with the same expectations until the outcome is known, never the next message before. So
the stream has a message at most once, and only if nobody else has appended anything since the one before it.
"""

from __future__ import annotations

import enum

from fastbean.replication.messages import Message
from fastbean.replication.requests import Append, Refusal

# AGAIN_NS: an election inside the stream, or a first copy that is in process, ends at any moment; one small message in
# 20 ms is no load. FULL_AGAIN_NS: somebody has to make room first. ANSWER_NS: longer than a commit takes on a disk that
# stutters; a copy too many does no harm. All three are judgements.
AGAIN_NS = 20_000_000
FULL_AGAIN_NS = 250_000_000
ANSWER_NS = 500_000_000


class Verdict(enum.Enum):
    """What a refusal means."""

    WAIT = 1  # it is sent again later, or is settled
    LOST = 2  # another node has written: this message is not in the stream, and never will be
    LOOK = 3  # an earlier copy of it may be at its place in the stream
    WRONG_STREAM = 4


class Outgoing:
    """A message that is being appended.

    Args:
        message: what it says.
        data: its bytes.
        after_seq: the sequence that it has to follow.
        claim_seq: the sequence of the last claim.
    """

    def __init__(self, message: Message, data: bytes, after_seq: int, claim_seq: int) -> None:
        self.message = message
        self.data = data
        self.after_seq = after_seq
        self.claim_seq = claim_seq
        self.is_full = False
        self.is_unanswered = False  # the last copy was neither acknowledged nor refused
        self.due_ns: int | None = None  # when to send it again, or to look again; None while that is the other side's
        self.looks = False  # at the message in its place
        self._ids: list[int] = []

    def send(self, id: int, now_ns: int) -> Append:
        """Send it, once more if it was sent before; ``id`` is new."""
        self._ids.append(id)
        self.is_unanswered = True
        self.due_ns = now_ns + ANSWER_NS
        return Append(id, self.message.number == 0, self.data, self.after_seq, self.claim_seq)

    def is_own(self, id: int) -> bool:
        """Whether an answer to this request is about this message: the answer to an earlier copy may come late."""
        return id in self._ids

    def is_current(self, id: int) -> bool:
        """Whether this request is the last one: a refusal of an earlier copy says nothing any more."""
        return not self.looks and bool(self._ids) and id == self._ids[-1]

    def refused(self, refusal: Refusal, now_ns: int) -> Verdict:
        """The last copy was refused."""
        self.is_unanswered = False
        self.is_full = refusal is Refusal.FULL
        if refusal is Refusal.WRONG_STREAM:
            return Verdict.WRONG_STREAM
        if refusal is Refusal.CONFLICT:
            if len(self._ids) == 1:
                return Verdict.LOST
            self.looks = True
            return Verdict.LOOK
        self.due_ns = now_ns + (FULL_AGAIN_NS if self.is_full else AGAIN_NS)
        return Verdict.WAIT
