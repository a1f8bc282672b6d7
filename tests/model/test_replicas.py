"""A leader and its followers through simulated time: random sessions, and what they have found.

In the random sessions the leader ends at each call of its sink in turn; see `replica_session`.
"""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest

from builds import fewer_if_slow
from fastbean.protocol.replies import table as replies

from .reference_state import SECOND_NS
from .replica_clients import WORDS
from .replica_session import Ends, Session
from .replicas import SEGMENT_BYTES, Node, Stream

STEPS = 60
LONG_STEPS = 300
LONG_SEEDS = 16
OUTCOMES = [(outcome, lost) for outcome in ("crashed", "failed") for lost in (False, True)]
# What the commands of these sessions cannot cause.
UNUSUAL = {"EXPECTED_CRLF", "JOB_TOO_BIG", "BAD_FORMAT", "UNKNOWN_COMMAND", "DRAINING"}


def run_with_every_end(module: ModuleType, seed: int, steps: int) -> None:
    """Run the session of a seed; then once for each call of the sink, with the leader ending there and again later."""
    session = Session(module, seed, Ends())
    session.run(steps)
    for call in range(1, session.calls.total() + 1):
        for outcome, lost in OUTCOMES:
            ends = Ends(frozenset((call, call + 1 + call % 13)), outcome, lost)
            try:
                Session(module, seed, ends).run(steps)
            except BaseException as error:
                error.add_note(f"seed {seed}, {steps} steps, {ends}")
                raise


@pytest.mark.parametrize("seed", range(5))
def test_the_leader_ends_at_every_call_of_its_sink(module: ModuleType, seed: int) -> None:
    run_with_every_end(module, seed, fewer_if_slow(STEPS, STEPS // 3))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5, 30))
def test_the_leader_ends_at_every_call_of_its_sink_in_long_sessions(module: ModuleType, seed: int) -> None:
    run_with_every_end(module, seed, 2 * STEPS)


def test_long_sessions_see_everything(module: ModuleType) -> None:
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    trimmed = waited_for_ids = 0
    for seed in range(LONG_SEEDS):
        session = Session(module, seed, Ends(frozenset(range(50, 10_000, 50)), *OUTCOMES[seed % len(OUTCOMES)]))
        session.run(LONG_STEPS)
        asked += session.claims.asked
        answered += session.claims.words
        trimmed += session.stream.trimmed
        waited_for_ids += session.waited_for_ids
    assert asked.keys() == set(WORDS)
    assert answered.keys() == {row["word"] for row in replies()} - UNUSUAL
    assert trimmed
    assert waited_for_ids


def test_a_read_that_does_not_wait_is_found(module: ModuleType) -> None:
    with pytest.raises(AssertionError, match="is sent before its batch is safe"):
        Session(module, 0, Ends(), binds_reads=False).run(STEPS)


# Sessions of a few commands


class Lone:
    """A leader whose every batch is acknowledged at once, and a client of it."""

    def __init__(self, node: Node, stream: Stream) -> None:
        self.node = node
        self._stream = stream
        self.now_ns = 0
        node.lead()
        self.client = node.hub.connect()
        self.settle()

    def settle(self) -> None:
        """Run iterations, and acknowledge, until nothing is left to do at this time."""
        wait_ns = 0
        while wait_ns == 0 or self.node.sink.taken is not None:
            wait_ns = self.node.hub.end_iteration(self.now_ns + self.node.clock_ns)
            self.node.answer_requests()
            batch = self.node.batch_in_flight(self.now_ns)
            if batch is not None:
                self._stream.append(batch)
                self.node.sink.acknowledge()
                self.node.writer.sink_done()

    def __call__(self, data: bytes) -> bytes:
        self.client.feed(data, self.now_ns + self.node.clock_ns)
        self.settle()
        return self.client.take_output()

    def churn(self) -> None:
        """Put and delete jobs of several segments."""
        for _ in range(20):
            job = self(b"put 0 0 60 1000\r\n" + b"x" * 1000 + b"\r\n")
            assert job.startswith(b"INSERTED "), job
            assert self(b"delete " + job.split()[1] + b"\r\n") == b"DELETED\r\n"


def silent(_name: str) -> str:
    return ""


def test_what_the_leader_sheds_makes_room_below_a_limit(module: ModuleType) -> None:
    stream = Stream()
    leader = Lone(Node(module, 1, silent, stream, max_bytes=12 * SEGMENT_BYTES), stream)
    for _ in range(10):
        leader.churn()
    assert module.segment_count(leader.node.writer) < 12
    assert stream.trimmed


class Kept(Stream):
    """A stream that only counts how often it is to be trimmed."""

    def trim(self, lsn: int) -> None:
        """Forget nothing."""
        self.trimmed += 1


def test_a_pause_that_is_over_for_a_leader_and_not_for_the_next_one(module: ModuleType) -> None:
    # The second one applies everything five seconds after it was sent. By then the first one has shed the pause.
    stream = Kept()
    first = Lone(Node(module, 1, silent, stream), stream)
    assert first(b"pause-tube default 4\r\n") == b"PAUSED\r\n"
    first.now_ns += 5 * SECOND_NS
    first.churn()
    assert stream.trimmed, "the pause was not shed, so this test shows nothing"
    second = Node(module, 2, silent, stream)
    for batch in stream.batches:
        second.apply(batch, first.now_ns)
    leader = Lone(second, stream)
    leader.now_ns = first.now_ns
    leader.churn()
    assert b"\npause: 4\n" in leader(b"stats-tube default\r\n")
    leader.now_ns += 5 * SECOND_NS
    leader.churn()
    assert b"\npause: 0\n" in leader(b"stats-tube default\r\n")
