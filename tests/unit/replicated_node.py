"""A node under test with made-up time and short ways to answer it, and a stream as other leaders write it."""

from __future__ import annotations

import random
from typing import TypeVar

from fastbean.replication import messages
from fastbean.replication.messages import BATCH, CLAIM, RELEASE, Claim, Message
from fastbean.replication.node import Node, State
from fastbean.replication.requests import (
    Append,
    AskInfo,
    Lead,
    Log,
    ReadMessage,
    Refusal,
    Request,
    Safe,
    Stopped,
    StreamInfo,
    Subscribe,
)  # fmt: skip
from fastbean.replication.settings import Settings

MS = 1_000_000
LEASE_NS = 1000 * MS
STALL_NS = 5000 * MS

SETTINGS = Settings(
    name="q1",
    instance=b"instance",
    address="q1:11300",
    key=bytes(32),
    version="1",
    run=bytes(range(16)),
    lease_ns=LEASE_NS,
    stall_ns=STALL_NS,
    message_bytes=48 + 10,
)
RequestT = TypeVar("RequestT", bound=Request)


class Harness:
    """Keeps what the node has asked for, since the last look at it."""

    def __init__(self, **settings: object) -> None:
        self.now_ns = 10_000 * MS
        self.node = Node(SETTINGS._replace(**settings), random.Random(1), 7)
        self.asked: list[Request] = []
        self.feed = 0
        self.place = 0

    def collect(self) -> None:
        for request in self.node.take():
            if isinstance(request, Subscribe):
                self.feed, self.place = request.feed, 0
            self.asked.append(request)

    def one(self, kind: type[RequestT]) -> RequestT:
        """The only request of this kind since the last look; all before it are forgotten."""
        self.collect()
        found = [request for request in self.asked if isinstance(request, kind)]
        assert len(found) == 1, self.asked
        self.asked.clear()
        return found[0]

    def kinds(self) -> list[str]:
        """What was asked for since the last look, but for lines of the log."""
        self.collect()
        kinds = [type(request).__name__ for request in self.asked if not isinstance(request, Log)]
        self.asked.clear()
        return kinds

    def events(self) -> list[str]:
        self.collect()
        events = [request.event for request in self.asked if isinstance(request, Log)]
        self.asked.clear()
        return events

    def wait(self, ns: int) -> None:
        """Let time pass, with all ticks that are due."""
        end_ns = self.now_ns + ns
        for _ in range(10_000):
            wake_ns = self.node.wake_ns
            if wake_ns is None or wake_ns > end_ns:
                break
            self.now_ns = max(self.now_ns, wake_ns)
            self.node.tick(self.now_ns)
        else:
            raise AssertionError("the node wants to be woken all the time")
        self.now_ns = end_ns

    def info(self, last_seq: int, **members: object) -> None:
        """Answer the open AskInfo."""
        info = StreamInfo("today", 1, last_seq, last_seq, leader="n1")._replace(**members)
        self.node.info(self.one(AskInfo).id, info, self.now_ns)

    def deliver(self, seq: int, data: bytes) -> None:
        self.collect()
        self.place += 1
        self.node.delivered(self.feed, self.place, seq, data, self.now_ns)

    def acknowledge(self) -> Append:
        """Acknowledge the open Append."""
        append = self.one(Append)
        self.node.acknowledged(append.id, append.after_seq + 1, self.now_ns)
        return append

    def refuse(self, refusal: Refusal) -> Append:
        append = self.one(Append)
        self.node.refused(append.id, refusal, "reason", self.now_ns)
        return append

    def answer_read(self, data: bytes | None) -> None:
        read = self.one(ReadMessage)
        self.node.message(read.id, read.seq, data, self.now_ns)

    def stopped(self) -> tuple[int, str]:
        assert self.node.state is State.STOPPED
        request = self.one(Stopped)
        return request.status, request.text

    def become_standby(self) -> None:
        """Of an empty stream."""
        self.node.start(self.now_ns)
        self.info(0)
        assert self.node.state is State.STANDBY

    def begin_claim(self) -> None:
        """On an empty stream."""
        self.become_standby()
        self.wait(LEASE_NS // 10)
        self.info(0)
        assert self.node.state is State.CLAIMING

    def lead(self) -> None:
        """With the first batch acknowledged, at message 2 and LSN 5."""
        self.begin_claim()
        self.acknowledge()
        self.one(Lead)
        self.node.batch(0, b"first", self.now_ns)
        self.acknowledge()
        assert self.one(Safe).lsn == 5
        assert self.node.state is State.LEADING

    def batch(self, records: bytes) -> None:
        self.node.batch(self.node.run.end_lsn, records, self.now_ns)


def message_of(append: Append) -> Message:
    return messages.decode(append.data)


RUN = bytes(range(16))


def claim_of(node: str, run: bytes = RUN) -> Claim:
    return Claim(node, node.encode().ljust(8), f"{node}:11300", bytes(32), "1", run)


class Stream:
    """Writes a stream as leaders do; each method returns a message and its bytes."""

    def __init__(self) -> None:
        self.epoch = self.number = self.lsn = self.chain = self.seq = 0

    def _add(self, kind: int, payload: bytes, part: int = 0, more: bool = False) -> tuple[int, bytes]:
        self.seq += 1
        data = messages.encode(
            Message(kind, self.epoch, self.number, self.lsn, 1000 + self.seq, payload, part, more), self.chain
        )
        self.chain = messages.decode(data).chain
        return self.seq, data

    def claim(self, node: str = "a", lsn: int | None = None, run: bytes = RUN) -> tuple[int, bytes]:
        self.epoch += 1
        self.number = 0
        self.lsn = self.lsn if lsn is None else lsn
        return self._add(CLAIM, messages.encode_claim(claim_of(node, run)))

    def batch(self, payload: bytes = b"", part: int = 0, more: bool = False) -> tuple[int, bytes]:
        self.number += 1
        added = self._add(BATCH, payload, part, more)
        self.lsn += len(payload)
        return added

    def release(self, to: str | None = None) -> tuple[int, bytes]:
        self.number += 1
        return self._add(RELEASE, messages.encode_release(to))
