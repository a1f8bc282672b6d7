"""The own engine of fastbean in the place of the model: its commands, its binlog, its compaction."""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable, Iterable

from fastbean.engine.restore import EngineJobs
from fastbean.replication import messages
from fastbean.replication.engine_host import EngineHost, HostError
from fastbean.replication.messages import CLAIM, Message
from fastbean.replication.requests import Apply, Lead
from memory_client import MemoryClient, MemoryServer

from .truth import Truth

SEGMENT_BYTES = 4096
BODY_BYTES = 200  # so that segments fill up, and compaction has something to do


def body_of(token: int) -> bytes:
    return b"%0*d" % (BODY_BYTES, token)


def peek(client: MemoryClient, id: int) -> int | None:
    """The token in a job of an engine that does not lead, so that its replies do not wait."""
    reply = client(b"peek %d\r\n" % id)
    return None if reply == b"NOT_FOUND\r\n" else int(reply.split()[3])


class RealEngine:
    """Does what ModelEngine does; ``clock`` returns the monotonic time of its machine."""

    def __init__(
        self, hand_over: Callable[[int, bytes], None], trim: Callable[[int], None], clock: Callable[[], int]
    ) -> None:
        self.opened = False
        self._hand_over = hand_over
        self._trim = trim
        self._clock = clock
        self._server = MemoryServer()
        self._host = EngineHost(EngineJobs(self._server.engine), SEGMENT_BYTES)
        self._client = self._server.client()
        self._replies: deque[Callable[[list[bytes]], None]] = deque()
        self._leads = False
        self._trimmed_lsn = 0
        self._poll = select.poll()
        for pipe in (self._host.room_pipe, self._host.wake_pipe):
            self._poll.register(pipe.reading, select.POLLIN)

    def close(self) -> None:
        self._host.close()

    @property
    def end_lsn(self) -> int:
        return self._host.journal.end

    def apply(self, request: Apply) -> None:
        self._host.apply(request, self._clock())

    def has_jobs_of(self, truth: Truth, ids: Iterable[int]) -> bool:
        """Whether these ids are what the truth says, in an engine that does not lead yet."""
        return all(peek(self._client, id) == truth.token_of(id) for id in ids)

    def lead(self, request: Lead) -> None:
        self._host.lead(request)
        self._leads = True

    def _send(self, line: bytes, reply: Callable[[list[bytes]], None]) -> None:
        self._replies.append(reply)
        self._client.connection.feed(line, self._clock())

    def put(self, token: int, reply: Callable[[int], None]) -> None:
        def answered(words: list[bytes]) -> None:
            if words[0] == b"INSERTED":
                reply(int(words[1]))

        self._send(b"put 0 0 60 %d\r\n%s\r\n" % (BODY_BYTES, body_of(token)), answered)

    def delete(self, id: int, reply: Callable[[bool], None]) -> None:
        self._send(b"delete %d\r\n" % id, lambda words: reply(words[0] == b"DELETED"))

    def peek(self, id: int, reply: Callable[[int | None], None]) -> None:
        self._send(b"peek %d\r\n" % id, lambda words: reply(int(words[3]) if words[0] == b"FOUND" else None))

    def compact(self) -> None:
        """It does so by itself."""

    def commit(self) -> None:
        if not self._leads:
            return
        self._server.now_ns = self._clock()
        self._server.settle()
        while ready := [fd for fd, _ in self._poll.poll(0)]:
            if self._host.room_pipe.reading in ready:
                self._host.give_room()
            if self._host.wake_pipe.reading in ready:
                os.read(self._host.wake_pipe.reading, 4096)
                self._take()
            self._server.settle()
        self._read_replies()

    def _take(self) -> None:
        """What the driver does when it is woken."""
        batch = self._host.sink.take()
        if batch is not None:
            self._hand_over(*batch)
        if self._host.sink.trimmed != self._trimmed_lsn:
            self._trimmed_lsn = self._host.sink.trimmed
            self._trim(self._trimmed_lsn)

    def safe(self, lsn: int) -> None:
        self._host.sink.appended()
        self._host.journal.sink_done()
        self.commit()

    def _read_replies(self) -> None:
        output = self._client.connection.take_output()
        while output:
            line, _, output = output.partition(b"\r\n")
            words = line.split()
            if words[0] == b"FOUND":
                body, _, output = output.partition(b"\r\n")
                words.append(body)
            self._replies.popleft()(words)


class RealTruth(Truth):
    """The same from the records of fastbean, as an engine reads them that gets each batch when it is stored."""

    def __init__(self) -> None:
        super().__init__()
        self._server = MemoryServer()
        self._host = EngineHost(EngineJobs(self._server.engine), SEGMENT_BYTES)
        self._client = self._server.client()
        self._run = b""

    def close(self) -> None:
        self._host.close()

    def append(self, message: Message) -> None:
        if message.kind == CLAIM:
            self._run = messages.decode_claim(message.payload).run
        super().append(message)

    def _apply(self, records: bytes) -> None:
        if not records:
            return
        try:
            self._host.apply(Apply(self._run, records, self._host.journal.end, 0), 0)
        except HostError as error:
            self.faults.append(str(error))

    def token_of(self, id: int) -> int | None:
        return peek(self._client, id)
