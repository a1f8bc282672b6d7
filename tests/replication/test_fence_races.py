"""Rival leaders on a real stream: nothing of an earlier leader comes behind a later claim, with one message in flight.

With eight in flight and only the sequence of the last message to follow, the same race finds such messages: when one is
refused because a claim has its place, the next one fits behind that claim.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import nats
import nats.errors
import pytest

from nats_servers import NatsCluster
from patience import PATIENCE_S

from .nodes import api

BATCHES = 40
ROUNDS = 12
MOST_ROUNDS = 120  # to find a violation, which takes a few
RIVALS = 3


class Rival:
    """A leader that appends what it likes; ``window`` messages are in flight at most."""

    def __init__(self, client: Any, stream: str, number: int, window: int, *, names_claim: bool) -> None:
        self._client = client
        self._stream = stream
        self._number = number
        self._window = window
        self._names_claim = names_claim

    async def _append(self, subject: str, after_seq: int, claim_seq: int | None, data: bytes) -> int | None:
        headers = {"Nats-Expected-Stream": self._stream, "Nats-Expected-Last-Sequence": str(after_seq)}
        if claim_seq is not None:
            headers["Nats-Expected-Last-Subject-Sequence"] = str(claim_seq)
            headers["Nats-Expected-Last-Subject-Sequence-Subject"] = f"fb.{self._stream}.claim"
        try:
            answer = await self._client.request(
                f"fb.{self._stream}.{subject}", data, timeout=PATIENCE_S, headers=headers
            )  # fmt: skip
        except nats.errors.NoRespondersError:
            return None  # the stream has no leader for a moment
        found = json.loads(answer.data)
        return None if "error" in found else int(found["seq"])

    async def _tail(self) -> tuple[int, int]:
        """The last sequence, and that of the last claim."""
        info = await api(self._client, f"STREAM.INFO.{self._stream}", {})
        claim = await api(
            self._client, f"STREAM.MSG.GET.{self._stream}", {"last_by_subj": f"fb.{self._stream}.claim"}
        )  # fmt: skip
        return info["state"]["last_seq"], claim["message"]["seq"] if "message" in claim else 0

    async def claim(self) -> int | None:
        """Claim somewhere near the end of the stream: claims that do not fit are refused."""
        tail, claim_seq = await self._tail()
        tries = range(tail, tail + (2 * self._window if claim_seq else 1))
        claims = [self._append("claim", after_seq, claim_seq, b"%d" % self._number) for after_seq in tries]
        won = [seq for seq in await asyncio.gather(*claims) if seq is not None]
        return won[0] if won else None

    async def lead(self, claim_seq: int) -> None:
        """Append batches until one is refused."""
        after_seq = claim_seq
        flying: list[asyncio.Task[int | None]] = []
        for _ in range(BATCHES):
            data = b"%d" % claim_seq
            fence = claim_seq if self._names_claim else None
            flying.append(asyncio.ensure_future(self._append("data", after_seq, fence, data)))
            after_seq += 1
            if len(flying) >= self._window and await flying.pop(0) is None:
                break
        await asyncio.gather(*flying)

    async def run(self, rounds: int) -> None:
        for _ in range(rounds):
            claim_seq = await self.claim()
            if claim_seq is not None:
                await self.lead(claim_seq)
            await asyncio.sleep(random.random() * 0.005)


async def read_all(client: Any, stream: str) -> list[tuple[str, int, int]]:
    """The subject, the sequence and the number in each message."""
    info = await api(client, f"STREAM.INFO.{stream}", {})
    found = []
    subscription = await client.jetstream().subscribe(f"fb.{stream}.*", stream=stream, ordered_consumer=True)
    for _ in range(info["state"]["messages"]):
        message = await subscription.next_msg(timeout=PATIENCE_S)
        found.append((message.subject.rpartition(".")[2], message.metadata.sequence.stream, int(message.data)))
    await subscription.unsubscribe()
    return found


def violations(messages: list[tuple[str, int, int]]) -> int:
    """How many batches are behind a claim that is not their own."""
    claim_seq = count = 0
    for kind, seq, number in messages:
        if kind == "claim":
            claim_seq = seq
        elif number != claim_seq:
            count += 1
    return count


async def race(cluster: NatsCluster, stream: str, window: int, rounds: int, *, names_claim: bool) -> tuple[int, int]:
    """Returns the numbers of violations and of claims."""
    clients = [await nats.connect(cluster.urls[number % len(cluster.urls)]) for number in range(RIVALS)]
    try:
        rivals = [
            Rival(client, stream, number, window, names_claim=names_claim) for number, client in enumerate(clients)
        ]  # fmt: skip
        await asyncio.gather(*(rival.run(rounds) for rival in rivals))
        found = await read_all(clients[0], stream)
    finally:
        for client in clients:
            await client.close()
    return violations(found), sum(kind == "claim" for kind, _, _ in found)


@pytest.mark.parametrize("names_claim", [True, False])
def test_with_one_message_in_flight_no_batch_is_behind_another_claim(
    cluster: NatsCluster, stream: str, names_claim: bool
) -> None:
    found, claims = asyncio.run(race(cluster, stream, 1, ROUNDS, names_claim=names_claim))
    assert found == 0
    assert claims > RIVALS


def test_with_eight_in_flight_the_race_finds_such_batches(cluster: NatsCluster, stream: str) -> None:
    for _ in range(MOST_ROUNDS // ROUNDS):
        found, _ = asyncio.run(race(cluster, stream, 8, ROUNDS, names_claim=False))
        if found:
            return
    pytest.fail("the race did not find what it is about")
