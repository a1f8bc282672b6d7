"""Nodes on a real stream, with hosts that only note what they are asked for."""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import nats
import nats.errors

from fastbean.replication.jetstream import JetStream
from fastbean.replication.messages import HEADER_BYTES
from fastbean.replication.node import Node, State
from fastbean.replication.requests import Apply, DropEngine, Lead, Request, Safe, Stopped
from fastbean.replication.runner import Runner
from fastbean.replication.settings import Settings
from fastbean.replication.stream_settings import stream_config
from patience import PATIENCE_S

LEASE_NS = 3_000_000_000  # so long that a pause of the machine changes no leader
STALL_NS = 60_000_000_000
MAX_BYTES = 64 << 20


async def api(client: Any, what: str, body: object) -> dict[str, Any]:
    """Ask JetStream until it answers: a cluster that has just begun may have no leader."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = await client.request(f"$JS.API.{what}", json.dumps(body).encode(), timeout=5)
        except nats.errors.Error:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
            continue
        found: dict[str, Any] = json.loads(answer.data)
        error = found.get("error", {})
        # A server that was just started is not known to all others yet (10005).
        if (error.get("code") != 503 and error.get("err_code") != 10005) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.1)


async def create_stream(urls: Sequence[str], name: str, **settings: object) -> None:
    client = await nats.connect(list(urls))
    try:
        config = {**stream_config(name, min(len(urls), 3), MAX_BYTES), **settings}
        found = await api(client, f"STREAM.CREATE.{name}", config)
        assert "error" not in found, found
        # It takes a moment until the new stream has a leader, without which nothing answers.
        while not (await api(client, f"STREAM.INFO.{name}", {}))["cluster"].get("leader"):
            await asyncio.sleep(0.05)
    finally:
        await client.close()


async def until(is_so: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, f"it never happens that {what}"
        await asyncio.sleep(0.005)


class LiveNode:
    """One node, and what its host was asked for.

    Attributes:
        records: the run that it has applied or written, by LSN.
        safe_lsn: what the stream has acknowledged.
    """

    def __init__(self, urls: Sequence[str], stream: str, name: str) -> None:
        self.name = name
        self.urls = list(urls)
        self.stream_name = stream
        self.runner = Runner(self._asked)
        self.asked: list[Request] = []
        self.troubles: list[str] = []
        self.records = bytearray()
        self.safe_lsn = 0

    async def start(self, message_bytes: int = 1 << 19, **settings: object) -> LiveNode:
        runner = self.runner
        runner.stream = JetStream(self.urls, self.stream_name, runner.post, trouble=self.troubles.append)
        runner.stream.connect()
        await runner.stream.wait_connected()
        made = Settings(
            name=self.name,
            instance=os.urandom(8),
            address=f"{self.name}:1",
            key=os.urandom(32),
            version="1",
            run=os.urandom(16),
            lease_ns=LEASE_NS,
            stall_ns=STALL_NS,
            message_bytes=message_bytes + HEADER_BYTES,
        )
        runner.node = Node(made._replace(**settings), random.Random(), 0)
        runner.post(lambda node, now_ns: node.start(now_ns))
        return self

    @property
    def node(self) -> Node:
        return self.runner.node

    @property
    def leads(self) -> bool:
        return self.node.state is State.LEADING

    def _asked(self, request: Request) -> None:
        self.asked.append(request)
        if isinstance(request, Apply):
            assert request.first_lsn == len(self.records)
            self.records += request.records
        elif isinstance(request, Lead):
            assert request.first_lsn == len(self.records)
            self.safe_lsn = request.first_lsn
        elif isinstance(request, Safe):
            self.safe_lsn = request.lsn
        elif isinstance(request, DropEngine):
            self.records.clear()
            asyncio.get_running_loop().call_soon(
                self.runner.post, lambda node, now_ns: node.engine_ready(now_ns)
            )  # fmt: skip

    def first(self, kind: type) -> Any:
        return next((request for request in self.asked if isinstance(request, kind)), None)

    async def append(self, records: bytes) -> None:
        """Have it append a batch, and wait until that is safe."""
        first_lsn = len(self.records)
        self.records += records
        self.runner.post(lambda node, now_ns: node.batch(first_lsn, records, now_ns))
        await until(lambda: self.safe_lsn >= first_lsn + len(records) or not self.leads, "a batch becomes safe")
        assert self.safe_lsn == first_lsn + len(records), f"{self.name} does not lead any more"

    async def kill(self) -> None:
        """Let it do nothing more, as if its process had died."""
        self.runner.close()
        await self.runner.stream.close()

    def stopped(self) -> Stopped | None:
        found: Stopped | None = self.first(Stopped)
        return found


async def leader_of(nodes: Sequence[LiveNode]) -> LiveNode:
    await until(lambda: any(node.leads for node in nodes), "a node leads")
    return next(node for node in nodes if node.leads)
