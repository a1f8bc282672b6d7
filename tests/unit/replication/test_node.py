"""The node that does not lead: how it follows, waits for the lease and claims, under made-up time."""

from __future__ import annotations

import pytest

from fastbean.replication import messages
from fastbean.replication.messages import CLAIM
from fastbean.replication.node import STATUS_WRONG_STREAM, State
from fastbean.replication.requests import (
    Append,
    Apply,
    AskInfo,
    DropEngine,
    Lead,
    Refusal,
    Subscribe,
)  # fmt: skip
from replicated_node import LEASE_NS, MS, SETTINGS, Harness, Stream, message_of


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def stream() -> Stream:
    return Stream()


def follow(harness: Harness, stream: Stream, *batches: bytes) -> None:
    """Make it a standby of a stream with a claim and these batches."""
    found = [stream.claim("other"), *(stream.batch(records) for records in batches)]
    harness.node.start(harness.now_ns)
    harness.info(len(found))
    harness.answer_read(found[-1][1])
    for seq, data in found:
        harness.deliver(seq, data)
    assert harness.node.state is State.STANDBY


# Following


def test_a_stream_is_read_from_its_beginning(harness: Harness, stream: Stream) -> None:
    harness.node.start(harness.now_ns)
    harness.info(2)
    claim, batch = stream.claim("other"), stream.batch(b"records")
    harness.answer_read(batch[1])
    assert harness.one(Subscribe).from_seq == 1
    harness.deliver(*claim)
    assert harness.node.state is State.CATCHING_UP
    harness.deliver(*batch)
    harness.collect()
    (apply,) = [request for request in harness.asked if isinstance(request, Apply)]
    assert (apply.records, apply.first_lsn, apply.run) == (b"records", 0, bytes(range(16)))
    assert harness.kinds() == ["Apply", "CaughtUp"]
    assert harness.node.state is State.STANDBY


def test_old_batches_are_read_by_the_newest_clock(harness: Harness, stream: Stream) -> None:
    """Else the delays of an old batch would begin again."""
    found = [stream.claim("other"), stream.batch(b"old"), stream.batch(b"new")]  # sent at 1001, 1002 and 1003
    harness.node.start(harness.now_ns)
    harness.info(3)
    harness.answer_read(found[2][1])
    for seq, data in found:
        harness.wait(MS)
        harness.deliver(seq, data)
    offsets = [request.wall_offset_ns for request in harness.asked + harness.node.take() if isinstance(request, Apply)]
    assert offsets == [1003 - 10_000 * MS] * 2
    harness.now_ns += MS
    harness.asked.clear()
    harness.deliver(*stream.batch(b"next"))
    assert harness.one(Apply).wall_offset_ns == 1004 - harness.now_ns


def test_a_gap_in_the_feed_is_read_again(harness: Harness, stream: Stream) -> None:
    follow(harness, stream, b"one")
    lost, after = stream.batch(b"two"), stream.batch(b"three")
    harness.kinds()
    harness.place += 1
    harness.deliver(*after)
    assert harness.kinds() == ["Unsubscribe"]
    harness.wait(50 * MS)
    assert harness.one(Subscribe).from_seq == 3
    harness.deliver(*lost)
    assert harness.one(Apply).records == b"two"


def test_a_feed_that_ends_is_begun_again_later_and_later(harness: Harness, stream: Stream) -> None:
    follow(harness, stream)
    harness.kinds()
    times = []
    for _ in range(7):
        harness.node.feed_ended(harness.feed, harness.now_ns)
        before_ns = harness.now_ns
        while not any(isinstance(request, Subscribe) for request in harness.asked):
            harness.wait(10 * MS)
            harness.collect()
        harness.asked.clear()
        times.append((harness.now_ns - before_ns) // MS)
    assert times == [50, 100, 200, 400, 800, 1000, 1000]


def test_messages_of_an_earlier_feed_are_ignored(harness: Harness, stream: Stream) -> None:
    follow(harness, stream, b"one")
    harness.node.feed_ended(harness.feed, harness.now_ns)
    harness.kinds()
    harness.deliver(*stream.batch(b"two"))
    assert harness.kinds() == []


def test_a_silent_feed_is_noticed_while_catching_up(harness: Harness, stream: Stream) -> None:
    claim = stream.claim("other")
    harness.node.start(harness.now_ns)
    harness.info(1)
    harness.answer_read(claim[1])
    harness.one(Subscribe)
    harness.wait(LEASE_NS + 60 * MS)
    assert harness.one(Subscribe).from_seq == 1


def test_a_purge_that_overtakes_the_node_makes_it_begin_anew(harness: Harness, stream: Stream) -> None:
    follow(harness, stream, b"one")
    stream.batch(b"purged")
    harness.kinds()
    harness.deliver(*stream.batch(b"next"))
    assert "purged" in harness.one(DropEngine).why
    harness.node.engine_ready(harness.now_ns)
    assert harness.node.state is State.CATCHING_UP
    assert harness.node.run.position == 0
    assert harness.kinds() == ["AskInfo"]


def test_damage_stops_the_node(harness: Harness, stream: Stream) -> None:
    follow(harness, stream, b"one")
    harness.kinds()
    harness.deliver(3, b"hello")
    status, text = harness.stopped()
    assert status == STATUS_WRONG_STREAM
    assert text.startswith("message 3: it has 5 bytes")


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"created": "tomorrow"}, "the stream was created anew (tomorrow, before today)"),
        ({"last_seq": 1}, "the stream ends at 1, and had 2 before"),
        ({"last_seq": 3, "messages": 0}, "the stream was emptied: it had messages up to 3"),
    ],
)
def test_another_stream_of_the_same_name_stops_the_node(
    harness: Harness, stream: Stream, members: dict[str, object], text: str
) -> None:
    follow(harness, stream, b"one")
    harness.kinds()
    harness.wait(2 * LEASE_NS)
    harness.info(**{"last_seq": 2, **members})
    assert harness.stopped() == (STATUS_WRONG_STREAM, text)


def test_a_last_message_that_was_removed_stops_the_node(harness: Harness, stream: Stream) -> None:
    harness.node.start(harness.now_ns)
    harness.info(5)
    harness.answer_read(None)
    harness.info(5)
    harness.answer_read(None)
    assert harness.stopped() == (STATUS_WRONG_STREAM, "the last message of the stream, 5, was removed")


def test_a_purge_between_two_questions_does_not(harness: Harness, stream: Stream) -> None:
    harness.node.start(harness.now_ns)
    harness.info(1)
    harness.answer_read(None)
    stream.claim("other")
    harness.info(2)
    harness.answer_read(stream.batch(b"records")[1])
    assert harness.kinds() == ["Subscribe"]


def test_a_stream_that_does_not_answer_is_asked_again(harness: Harness) -> None:
    harness.node.start(harness.now_ns)
    harness.node.info(harness.one(AskInfo).id, None, harness.now_ns)
    assert harness.events() == ["stream-lost"]
    harness.wait(50 * MS)
    harness.one(AskInfo)
    harness.wait(1050 * MS)  # no answer at all
    harness.info(0)
    assert harness.node.state is State.STANDBY
    assert "stream-back" in harness.events()


# The lease


def test_a_standby_of_an_empty_stream_claims_at_once(harness: Harness) -> None:
    harness.become_standby()
    harness.wait(LEASE_NS // 10)
    harness.info(0)
    append = harness.one(Append)
    assert (append.is_claim, append.after_seq, append.claim_seq) == (True, 0, 0)
    message = message_of(append)
    assert message[:5] == (CLAIM, 1, 0, 0, harness.now_ns + 7)
    claim = messages.decode_claim(message.payload)
    assert claim == (
        SETTINGS.name, SETTINGS.instance, SETTINGS.address, SETTINGS.key, SETTINGS.version, SETTINGS.run,
    )  # fmt: skip


def test_a_standby_waits_for_the_lease(harness: Harness, stream: Stream) -> None:
    follow(harness, stream, b"one")
    harness.kinds()
    harness.wait(LEASE_NS - 1)
    assert harness.kinds() == []
    harness.deliver(*stream.batch())  # a heartbeat
    harness.wait(LEASE_NS - 1)
    assert harness.kinds() == []
    harness.wait(LEASE_NS // 10 + 1)
    harness.info(3)
    append = harness.one(Append)
    assert (append.is_claim, append.after_seq, append.claim_seq) == (True, 3, 1)
    message = message_of(append)
    assert (message.epoch, message.first_lsn) == (2, 3)
    assert messages.decode_claim(message.payload).run == bytes(range(16))


def test_standbys_do_not_all_claim_at_once(stream: Stream) -> None:
    harness = Harness()
    times = set()
    follow(harness, stream)
    for _ in range(20):
        harness.deliver(*stream.batch())
        wake_ns = harness.node.wake_ns
        assert wake_ns is not None
        times.add(wake_ns - harness.now_ns)
    assert LEASE_NS <= min(times) < max(times) <= LEASE_NS * 1.1
    assert len(times) == 20


@pytest.mark.parametrize("answer", ["no leader", "nothing"])
def test_an_election_of_the_stream_begins_the_lease_again(harness: Harness, stream: Stream, answer: str) -> None:
    follow(harness, stream)
    harness.wait(LEASE_NS * 11 // 10)
    question = harness.one(AskInfo)
    if answer == "no leader":
        harness.node.info(question.id, None, harness.now_ns)
    else:
        harness.wait(LEASE_NS)
    assert harness.kinds() == []
    harness.wait(LEASE_NS - 101 * MS)
    assert harness.kinds() == []
    harness.wait(LEASE_NS)
    harness.one(AskInfo)


def test_a_new_leader_of_the_stream_begins_the_lease_again(harness: Harness, stream: Stream) -> None:
    follow(harness, stream)
    harness.wait(LEASE_NS * 11 // 10)
    harness.info(1, leader="n2")
    assert harness.kinds() == []
    assert harness.node.state is State.STANDBY
    harness.wait(LEASE_NS * 11 // 10)
    harness.info(1, leader="n2")
    assert harness.node.state is State.CLAIMING


def test_a_standby_that_is_behind_reads_on(harness: Harness, stream: Stream) -> None:
    follow(harness, stream)
    harness.wait(LEASE_NS * 11 // 10)
    harness.info(2)
    assert harness.node.state is State.STANDBY
    harness.wait(LEASE_NS)
    harness.info(2)
    # It has not come for another lease: the feed is not alive.
    assert harness.kinds() == ["Unsubscribe"]
    harness.wait(50 * MS)
    assert harness.one(Subscribe).from_seq == 2


def test_a_leader_that_was_heard_while_the_question_was_open_is_not_replaced(harness: Harness, stream: Stream) -> None:
    follow(harness, stream)
    harness.wait(LEASE_NS * 11 // 10)
    question = harness.one(AskInfo)
    harness.deliver(*stream.batch())
    harness.asked = [question]
    harness.info(2)
    assert harness.node.state is State.STANDBY


def test_a_node_that_never_leads_does_not_claim(stream: Stream) -> None:
    harness = Harness(never_lead=True)
    follow(harness, stream)
    for _ in range(3):
        harness.wait(LEASE_NS * 11 // 10)
        harness.info(1)
    harness.deliver(*stream.release())
    assert harness.node.state is State.STANDBY


# Claims


def test_a_claim_that_is_acknowledged_leads(harness: Harness) -> None:
    harness.begin_claim()
    harness.acknowledge()
    assert harness.node.state is State.LEADING
    assert harness.one(Lead)[:3] == (SETTINGS.run, 1, 0)
    harness.node.batch(0, b"first", harness.now_ns)
    append = harness.acknowledge()
    assert (append.is_claim, append.after_seq, append.claim_seq) == (False, 1, 1)
    assert harness.kinds() == ["Safe", "Serve"]


def test_a_claim_that_is_refused_follows_on(harness: Harness, stream: Stream) -> None:
    harness.begin_claim()
    harness.refuse(Refusal.CONFLICT)
    assert harness.node.state is State.STANDBY
    harness.deliver(*stream.claim("other"))
    assert harness.kinds() == ["NewLeader"]


def test_a_claim_of_another_node_that_is_read_first_ends_the_own_one(harness: Harness, stream: Stream) -> None:
    harness.begin_claim()
    own = harness.one(Append)
    harness.deliver(*stream.claim("other"))
    assert harness.node.state is State.STANDBY
    assert harness.node.run.epoch == 1
    harness.node.refused(own.id, Refusal.CONFLICT, "late", harness.now_ns)
    assert harness.node.state is State.STANDBY


def test_the_own_claim_that_is_read_leads(harness: Harness) -> None:
    harness.begin_claim()
    own = harness.one(Append)
    harness.deliver(1, own.data)
    assert harness.node.state is State.LEADING
    harness.node.acknowledged(own.id, 1, harness.now_ns)  # late
    assert harness.kinds() == ["Unsubscribe", "Lead"]


def test_a_release_is_answered_by_a_claim_at_once(harness: Harness, stream: Stream) -> None:
    follow(harness, stream)
    harness.deliver(*stream.release())
    assert harness.node.state is State.CLAIMING
    assert harness.one(Append).after_seq == 2


def test_a_release_for_another_node_is_not(harness: Harness, stream: Stream) -> None:
    follow(harness, stream)
    harness.deliver(*stream.release("q2"))
    assert harness.node.state is State.STANDBY
    harness.wait(LEASE_NS * 11 // 10)
    harness.info(2)
    assert harness.node.state is State.CLAIMING


def test_a_node_that_finds_a_released_stream_claims_at_once(harness: Harness, stream: Stream) -> None:
    found = [stream.claim("other"), stream.release()]
    harness.node.start(harness.now_ns)
    harness.info(2)
    harness.answer_read(found[1][1])
    for message in found:
        harness.deliver(*message)
    assert harness.node.state is State.CLAIMING
