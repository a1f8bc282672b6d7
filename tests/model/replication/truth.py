"""What the stream says that has happened: the committed puts and deletes, as a naive reader understands them."""

from __future__ import annotations

from struct import Struct

from fastbean.replication.messages import BATCH, CLAIM, Message

# A record of the model: what happened, to which id, and the token in its job.
RECORD = Struct("<cII")
PUT = b"P"
DELETE = b"D"
IDS = b"I"  # no id at or above this one is used before another such record
NOTHING = b"."  # opens a batch


def record(what: bytes, id: int = 0, token: int = 0) -> bytes:
    return RECORD.pack(what, id, token)


class Truth:
    """Follows the messages as they are stored.

    Attributes:
        jobs: ids and tokens of the jobs that are there.
        put: the token of every id that was ever put.
        deleted: ids.
        epoch: of the last claim.
        id_limit: no id at or above it was used.
        faults: promises that the messages themselves break.
    """

    def __init__(self) -> None:
        self.jobs: dict[int, int] = {}
        self.put: dict[int, int] = {}
        self.deleted: set[int] = set()
        self.id_limit = 1
        self.faults: list[str] = []
        self.epoch = 0
        self._end_lsn = 0
        self._parts = b""

    def token_of(self, id: int) -> int | None:
        """The token of a job that is there."""
        return self.jobs.get(id)

    def close(self) -> None:
        """Nothing is open."""

    def append(self, message: Message) -> None:
        if message.kind == CLAIM:
            if message.epoch != self.epoch + 1:
                self.faults.append(f"epoch {message.epoch} follows epoch {self.epoch}")
            self.epoch = message.epoch
            self._parts = b""
        elif message.epoch != self.epoch:
            self.faults.append(f"a message of epoch {message.epoch} was stored in epoch {self.epoch}")
        if message.first_lsn != self._end_lsn + len(self._parts):
            self.faults.append(f"LSN {message.first_lsn} follows {self._end_lsn + len(self._parts)}")
        if message.kind == BATCH:
            self._parts += message.payload
            if not message.more:
                self._end_lsn += len(self._parts)
                records, self._parts = self._parts, b""
                self._apply(records)

    def _apply(self, records: bytes) -> None:
        for what, id, token in RECORD.iter_unpack(records):
            if what == PUT:
                if id in self.put and self.jobs.get(id) != token:  # the same again is a copy
                    self.faults.append(f"id {id} was given out twice")
                self.put[id] = self.jobs[id] = token
            elif what == DELETE:
                if self.jobs.pop(id, None) is None:
                    self.faults.append(f"job {id} was deleted, and is not there")
                self.deleted.add(id)
            elif what == IDS:
                self.id_limit = id
