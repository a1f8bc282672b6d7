"""What a node has read of the stream, and the rules that each next message has to keep."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from fastbean.replication import messages
from fastbean.replication.messages import BATCH, CLAIM, Claim, Message, MessageError

# A mark takes 100 bytes of memory, so even a stream of 100 GiB costs only 10 MiB; and a purge leaves at most this much
# that could go. A judgement.
MARK_BYTES = 1 << 20


class StreamError(Exception):
    """The stream breaks its rules: it was changed by another program, damaged, or written by a newer fastbean."""


class TrimmedError(Exception):
    """The next messages were purged before this node had read them: it has to begin anew."""


class Records(NamedTuple):
    """A whole batch of records."""

    records: bytes
    first_lsn: int
    sent_ns: int


class Release(NamedTuple):
    """The leader gives up its lead, in favour of ``node``, or of any node if it is None."""

    node: str | None


class Run:
    """The stream up to ``position``.

    Attributes:
        position: sequence of the last message.
        claim: what the last claim says; None before the first one.
        claim_seq: its sequence, 0 before the first one.
        epoch: its epoch.
        number: of the last message, in its epoch.
        chain: of the last message.
        end_lsn: where the records of whole batches end.
        released: what the last message says if it is a release.
    """

    def __init__(self) -> None:
        self.position = 0
        self.claim: Claim | None = None
        self.claim_seq = 0
        self.epoch = 0
        self.number = 0
        self.chain = 0
        self.end_lsn = 0
        self.released: Release | None = None
        self._has_records = False
        self._parts: list[bytes] = []  # of an unfinished batch
        self._parts_bytes = 0
        self._marks: deque[tuple[int, int]] = deque()

    def read(self, seq: int, data: bytes) -> Records | Claim | Release | None:
        """Take the message ``seq``, the next one; returns what it says, None for a heartbeat or a part of a batch.

        Raises StreamError, and TrimmedError if messages are missing before it.
        """
        follows = self.position > 0 and seq == self.position + 1
        if not follows and self._has_records:
            raise TrimmedError(f"messages {self.position + 1} to {seq - 1} were purged before they were read")
        try:
            message = messages.decode(data)
            said = self._check(message, follows=follows)
        except MessageError as error:
            raise StreamError(f"message {seq}: {error}") from error
        if message.kind == BATCH and message.payload:
            self._parts.append(message.payload)
        if not follows:
            self.end_lsn = message.first_lsn
        self.advance(seq, message)
        if message.kind == BATCH:
            return self._take_batch(message)
        if isinstance(said, Claim):
            self._begin_epoch(seq, message, said)
        elif isinstance(said, Release):
            self.released = said
        return said

    def _check(self, message: Message, *, follows: bool) -> Claim | Release | None:
        """Compare a message with those before it; ``follows``: the one before it was read."""
        said: Claim | Release | None = None
        if message.kind == CLAIM:
            said = messages.decode_claim(message.payload)
            _expect("epoch", message.epoch, self.epoch + 1, at_least=not follows)
            if self.claim is not None and said.run != self.claim.run:
                raise MessageError("it is of another run of records")
        else:
            _expect("epoch", message.epoch, self.epoch)
            _expect("number", message.number, self.number + 1, at_least=not follows)
            if message.kind != BATCH:
                said = Release(messages.decode_release(message.payload))
        if not follows:
            if message.part:
                raise MessageError("it is in the middle of a batch, and its beginning is missing")
            return said
        _expect("chain", message.chain, messages.chain_of(self.chain, message.payload))
        # Only a claim may come between the parts of a batch; it makes them void.
        parts = 0 if message.kind == CLAIM else len(self._parts)
        _expect("part", message.part, parts)
        _expect("LSN", message.first_lsn, self.end_lsn + (self._parts_bytes if parts else 0))
        return said

    def _take_batch(self, message: Message) -> Records | None:
        self._parts_bytes += len(message.payload)
        if message.more or not message.payload:
            return None
        parts, self._parts, self._parts_bytes = self._parts, [], 0
        records = parts[0] if len(parts) == 1 else b"".join(parts)
        self.end_lsn += len(records)
        return Records(records, self.end_lsn - len(records), message.sent_ns)

    def _begin_epoch(self, seq: int, message: Message, claim: Claim) -> None:
        self.claim = claim
        self.claim_seq = seq
        self.epoch = message.epoch
        # What the leader before has left unfinished is void.
        self._parts = []
        self._parts_bytes = 0

    def advance(self, seq: int, message: Message) -> None:
        """The message ``seq`` is the last one now; what it says is the caller's to note, but for its place."""
        self.position = seq
        self.number = message.number
        self.chain = message.chain
        self.released = None
        if message.kind == BATCH and message.payload:
            self._has_records = True
            is_apart = not self._marks or message.first_lsn >= self._marks[-1][0] + MARK_BYTES
            if message.part == 0 and is_apart:
                self._marks.append((message.first_lsn, seq))

    def claimed(self, seq: int, message: Message, claim: Claim) -> None:
        """The claim of this node was appended as message ``seq``."""
        self.advance(seq, message)
        self._begin_epoch(seq, message, claim)

    def appended(self, seq: int, message: Message) -> None:
        """A message of this node, which leads, was appended as message ``seq``."""
        self.advance(seq, message)
        if message.kind == BATCH:
            self.end_lsn = message.first_lsn + len(message.payload)

    def trim(self, lsn: int, most_bytes: int) -> int:
        """The sequence below which no record is needed if none below ``lsn`` is; 0 if there is nothing to remove.

        One call steps over at most about ``most_bytes``, and forgets what it stepped over.
        """
        seq = 0
        if len(self._marks) > 1:
            limit = max(self._marks[0][0] + most_bytes, self._marks[1][0])
            while len(self._marks) > 1 and self._marks[1][0] <= min(lsn, limit):
                self._marks.popleft()
                seq = self._marks[0][1]
        return seq


def _expect(what: str, found: int, expected: int, *, at_least: bool = False) -> None:
    if found < expected if at_least else found != expected:
        raise MessageError(f"its {what} is {found} instead of {expected}")
