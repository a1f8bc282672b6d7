"""The node on a real stream: it commits, follows, fails over, and understands every answer that a server gives."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import pytest

from fastbean.replication.jetstream import JetStream
from fastbean.replication.node import STATUS_WRONG_STREAM, State
from fastbean.replication.requests import (
    Append,
    AskInfo,
    CaughtUp,
    DropEngine,
    Purge,
    ReadMessage,
    Refusal,
    StreamInfo,
)  # fmt: skip
from nats_servers import NatsCluster

from .nodes import LiveNode, api, create_stream, leader_of, until


def with_nodes(
    cluster: NatsCluster, stream: str, names: str, act: Callable[..., Awaitable[None]], **settings: object
) -> None:
    """Run ``act`` with a node for each letter of ``names``; each has caught up."""

    async def run() -> None:
        nodes = [LiveNode(cluster.urls, stream, name) for name in names]
        try:
            for node in nodes:
                await node.start(**settings)  # type: ignore[arg-type]
            await until(lambda: all(node.first(CaughtUp) for node in nodes), "all have caught up")
            await act(*nodes)
        finally:
            for node in nodes:
                await node.kill()

    asyncio.run(run())


def test_what_a_leader_writes_a_standby_applies(cluster: NatsCluster, stream: str) -> None:
    async def act(*nodes: LiveNode) -> None:
        leader = await leader_of(nodes)
        standby = next(node for node in nodes if node is not leader)
        for number in range(20):
            await leader.append(b"%d " % number * 100)
        await until(lambda: standby.records == leader.records, "the standby has all records")
        assert standby.node.run.claim is not None
        assert standby.node.run.claim.node == leader.name

    with_nodes(cluster, stream, "AB", act)


def test_a_batch_larger_than_a_message_goes_in_parts(cluster: NatsCluster, stream: str) -> None:
    async def act(*nodes: LiveNode) -> None:
        leader = await leader_of(nodes)
        standby = next(node for node in nodes if node is not leader)
        before = leader.node.run.position
        await leader.append(bytes(range(256)) * 100)
        assert leader.node.run.position >= before + 25
        await until(lambda: standby.records == leader.records, "the standby has all parts")

    with_nodes(cluster, stream, "AB", act, message_bytes=1024)


def test_the_next_leader_goes_on_where_the_dead_one_ended(cluster: NatsCluster, stream: str) -> None:
    async def act(*nodes: LiveNode) -> None:
        leader = await leader_of(nodes)
        standby = next(node for node in nodes if node is not leader)
        await leader.append(b"before")
        await leader.kill()
        await until(lambda: standby.leads, "the standby leads")
        assert standby.records == b"before"
        await standby.append(b" after")
        assert standby.node.run.epoch == 2
        late = await LiveNode(cluster.urls, stream, "C").start()
        await until(lambda: late.records == b"before after", "a new node has everything")
        await late.kill()

    with_nodes(cluster, stream, "AB", act)


def test_a_leader_that_was_frozen_is_deposed(cluster: NatsCluster, stream: str) -> None:
    """Its timer and its connection stand still, as in a process that was stopped."""

    async def act(*nodes: LiveNode) -> None:
        leader = await leader_of(nodes)
        standby = next(node for node in nodes if node is not leader)
        await leader.append(b"before")
        leader.runner.close()
        await until(lambda: standby.leads, "the standby leads")
        await standby.append(b" after")
        leader.runner.post(lambda node, now_ns: node.batch(6, b" never", now_ns))
        await until(lambda: leader.first(DropEngine), "the frozen one is deposed")
        assert leader.safe_lsn == 6
        await until(lambda: leader.records == b"before after", "it follows the new one")

    with_nodes(cluster, stream, "AB", act)


def test_a_hand_over_is_taken_at_once(cluster: NatsCluster, stream: str) -> None:
    async def act(*nodes: LiveNode) -> None:
        leader = await leader_of(nodes)
        standby = next(node for node in nodes if node is not leader)
        await leader.append(b"before")
        standby.asked.clear()
        leader.runner.post(lambda node, now_ns: node.hand_over(standby.name, now_ns))
        await until(lambda: standby.leads, "the standby leads")
        assert not any(request for request in standby.asked if getattr(request, "event", "") == "lease-over")
        await until(lambda: leader.node.state is State.STANDBY, "the old leader follows")
        assert leader.records == standby.records

    with_nodes(cluster, stream, "AB", act, lease_ns=20_000_000_000)


def test_what_is_trimmed_is_purged_and_a_new_node_reads_the_rest(
    cluster: NatsCluster, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastbean.replication.run.MARK_BYTES", 1000)

    async def act(leader: LiveNode) -> None:
        await until(lambda: leader.leads, "it leads")
        for _ in range(10):
            await leader.append(b"x" * 1000)
        leader.runner.post(lambda node, now_ns: node.trim(8000))
        client = await nats.connect(cluster.urls)
        while (info := await api(client, f"STREAM.INFO.{stream}", {}))["state"]["bytes"] > 5000:
            await asyncio.sleep(0.01)
        await client.close()
        assert info["state"]["first_seq"] == 1  # the claim stays
        late = LiveNode(cluster.urls, stream, "C")
        late.records += bytes(8000)
        await late.start()
        await until(lambda: len(late.records) == 10_000, "a new node has the rest")
        await late.kill()

    with_nodes(cluster, stream, "A", act)


def test_a_stream_that_was_created_anew_stops_all(cluster: NatsCluster, stream: str) -> None:
    async def act(*nodes: LiveNode) -> None:
        leader = await leader_of(nodes)
        await leader.append(b"before")
        client = await nats.connect(cluster.urls)
        await api(client, f"STREAM.DELETE.{stream}", {})
        await client.close()
        await create_stream(cluster.urls, stream)
        await until(lambda: all(node.stopped() for node in nodes), "all have stopped")
        stops = [node.stopped() for node in nodes]
        assert {stop.status for stop in stops if stop} == {STATUS_WRONG_STREAM}

    with_nodes(cluster, stream, "AB", act)


class FakeNode:
    """Notes the answers that the driver gives."""

    def __init__(self) -> None:
        self.answers: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.answers.append((name, *values))


def with_driver(
    cluster: NatsCluster, stream: str, act: Callable[[Callable[[Any], Awaitable[tuple[Any, ...]]]], Awaitable[None]]
) -> None:
    """Run ``act`` with a function that has the driver do a request, and returns the answer."""

    async def run() -> None:
        node = FakeNode()
        driver = JetStream(cluster.urls, stream, lambda event: event(node, 0), trouble=lambda _text: None)  # type: ignore[arg-type]

        async def ask(request: Any) -> tuple[Any, ...]:
            node.answers.clear()
            driver.do(request)
            await until(lambda: node.answers, "the driver answers")
            return node.answers[0]

        driver.connect()
        await driver.wait_connected()
        try:
            await act(ask)
        finally:
            await driver.close()

    asyncio.run(run())


def test_the_answers_to_an_append(cluster: NatsCluster, stream: str) -> None:
    async def act(ask: Callable[[Any], Awaitable[tuple[Any, ...]]]) -> None:
        assert await ask(Append(1, True, b"claim", 0, 0)) == ("acknowledged", 1, 1, 0)
        assert await ask(Append(2, False, b"batch", 1, 1)) == ("acknowledged", 2, 2, 0)
        assert await ask(Append(3, False, b"", 2, 1)) == ("acknowledged", 3, 3, 0)
        for after_seq, claim_seq in ((2, 1), (4, 1), (3, 2), (3, 0)):
            name, id, refusal, text, _ = await ask(Append(4, False, b"batch", after_seq, claim_seq))
            assert (name, id, refusal) == ("refused", 4, Refusal.CONFLICT), text
            assert "10071" in text
        for after_seq, claim_seq in ((2, 1), (3, 0)):
            assert (await ask(Append(5, True, b"claim", after_seq, claim_seq)))[2] is Refusal.CONFLICT
        assert await ask(Append(6, True, b"claim", 3, 1)) == ("acknowledged", 6, 4, 0)
        # The leader before, with its own tail and with the true one.
        assert (await ask(Append(7, False, b"batch", 3, 1)))[2] is Refusal.CONFLICT
        assert (await ask(Append(7, False, b"batch", 4, 1)))[2] is Refusal.CONFLICT

    with_driver(cluster, stream, act)


def test_the_answers_to_questions(cluster: NatsCluster, stream: str) -> None:
    async def act(ask: Callable[[Any], Awaitable[tuple[Any, ...]]]) -> None:
        for number in range(5):
            await ask(Append(1, number == 0, b"message %d" % number, number, min(number, 1)))
        name, id, info, _ = await ask(AskInfo(2))
        assert (name, id) == ("info", 2)
        assert isinstance(info, StreamInfo)
        assert (info.first_seq, info.last_seq, info.messages, info.max_bytes) == (1, 5, 5, 64 << 20)
        assert info.leader
        assert info.created
        assert await ask(ReadMessage(3, 4)) == ("message", 3, 4, b"message 3", 0)
        assert await ask(ReadMessage(4, 6)) == ("message", 4, 6, None, 0)
        assert await ask(Purge(5, 4)) == ("purged", 5, True, 0)
        assert await ask(ReadMessage(6, 3)) == ("message", 6, 3, None, 0)
        assert await ask(ReadMessage(7, 1)) == ("message", 7, 1, b"message 0", 0)  # the claim

    with_driver(cluster, stream, act)


def test_a_full_stream_says_so(cluster: NatsCluster, stream: str) -> None:
    asyncio.run(create_stream(cluster.urls, f"{stream}-full", max_bytes=2000))

    async def act(ask: Callable[[Any], Awaitable[tuple[Any, ...]]]) -> None:
        await ask(Append(1, True, b"claim", 0, 0))
        assert (await ask(Append(2, False, bytes(4000), 1, 1)))[2] is Refusal.FULL
        assert await ask(Append(2, False, b"small", 1, 1)) == ("acknowledged", 2, 2, 0)

    with_driver(cluster, f"{stream}-full", act)


def test_a_stream_of_another_name_and_one_that_is_not_there(cluster: NatsCluster, stream: str) -> None:
    asyncio.run(create_stream(cluster.urls, f"{stream}-other", subjects=[f"fb.{stream}-x.*"]))

    async def other(ask: Callable[[Any], Awaitable[tuple[Any, ...]]]) -> None:
        assert (await ask(Append(1, True, b"claim", 0, 0)))[2] is Refusal.WRONG_STREAM

    async def missing(ask: Callable[[Any], Awaitable[tuple[Any, ...]]]) -> None:
        assert (await ask(Append(1, True, b"claim", 0, 0)))[2] is Refusal.NO_LEADER
        assert await ask(AskInfo(2)) == ("info", 2, None, 0)

    with_driver(cluster, f"{stream}-x", other)
    with_driver(cluster, f"{stream}-missing", missing)


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_server_that_dies_or_hangs_is_left(cluster: NatsCluster, stream: str, how: str) -> None:
    """The leader is connected to it; if it leads the stream too, an election comes first."""

    async def act(leader: LiveNode) -> None:
        await until(lambda: leader.leads, "it leads")
        await leader.append(b"before")
        number = (cluster.urls.index(leader.runner.stream.server)) % 3
        if how == "killed":
            cluster.kill(number)
        else:
            cluster.signal(number, signal.SIGSTOP)
        try:
            await leader.append(b" after")
        finally:
            if how == "killed":
                cluster.start(number)
            else:
                cluster.signal(number, signal.SIGCONT)
        assert leader.records == b"before after"
        assert leader.node.run.epoch == 1

    with_nodes(cluster, stream, "A", act)
