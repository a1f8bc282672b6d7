"""The node that claims or leads: every answer that a message may get, and what it does beside its batches."""

from __future__ import annotations

import pytest

from fastbean.replication import messages
from fastbean.replication.messages import BATCH, RELEASE, Message
from fastbean.replication.node import STATUS_UNUSABLE, STATUS_WRONG_STREAM, State
from fastbean.replication.requests import (
    Append,
    AskInfo,
    Purge,
    ReadMessage,
    Reconnect,
    Refusal,
    Room,
    Safe,
)  # fmt: skip
from replicated_node import LEASE_NS, MS, STALL_NS, Harness, Stream, message_of


@pytest.fixture
def harness() -> Harness:
    return Harness()


@pytest.fixture
def stream() -> Stream:
    return Stream()


# Every answer that a message may get, for a claim and for a batch


@pytest.fixture(params=["claim", "batch"])
def sending(request: pytest.FixtureRequest, harness: Harness) -> Harness:
    """A node with a message that was sent once."""
    if request.param == "claim":
        harness.begin_claim()
    else:
        harness.lead()
        harness.batch(b"more")
    return harness


def is_stored(harness: Harness) -> bool:
    """Whether the node goes on behind its message."""
    return harness.kinds() in (["Unsubscribe", "Lead"], ["Safe"])


def has_given_up(harness: Harness) -> bool:
    state, kinds = harness.node.state, harness.kinds()
    return (state, kinds) in ((State.STANDBY, []), (State.DEPOSED, ["DropEngine"]))


def test_acknowledged(sending: Harness) -> None:
    sending.acknowledge()
    assert is_stored(sending)


def test_a_conflict_of_the_first_copy_is_another_leader(sending: Harness) -> None:
    sending.refuse(Refusal.CONFLICT)
    assert has_given_up(sending)


@pytest.mark.parametrize(
    ("refusal", "after_ms"),
    [
        (Refusal.IN_PROCESS, 20),
        (Refusal.NO_LEADER, 20),
        (Refusal.UNKNOWN, 20),
        (Refusal.FULL, 250),
        (None, 500),
    ],
)
def test_the_same_bytes_are_sent_again(sending: Harness, refusal: Refusal | None, after_ms: int) -> None:
    first = sending.one(Append)
    if refusal is not None:
        sending.node.refused(first.id, refusal, "reason", sending.now_ns)
    sending.wait(after_ms * MS - 1)
    kinds = sending.kinds()
    assert "Append" not in kinds
    sending.wait(1)
    sending.collect()
    assert any(isinstance(request, Reconnect) for request in sending.asked) == (refusal is None)
    again = sending.one(Append)
    assert again.id != first.id
    assert again._replace(id=first.id) == first
    sending.node.acknowledged(again.id, again.after_seq + 1, sending.now_ns)
    assert "Lead" in (kinds := sending.kinds()) or "Safe" in kinds


def sent_twice(sending: Harness) -> tuple[Append, Append]:
    first = sending.refuse(Refusal.UNKNOWN)
    sending.wait(20 * MS)
    return first, sending.one(Append)


def test_a_conflict_after_an_unknown_outcome_may_be_the_own_copy(sending: Harness) -> None:
    _, again = sent_twice(sending)
    sending.node.refused(again.id, Refusal.CONFLICT, "reason", sending.now_ns)
    sending.collect()
    (read,) = [request for request in sending.asked if isinstance(request, ReadMessage)]
    assert read.seq == again.after_seq + 1
    sending.answer_read(again.data)
    assert is_stored(sending)


@pytest.mark.parametrize("found", [b"another message", None])
def test_or_the_message_of_another_leader(sending: Harness, found: bytes | None) -> None:
    _, again = sent_twice(sending)
    sending.node.refused(again.id, Refusal.CONFLICT, "reason", sending.now_ns)
    sending.answer_read(found)
    assert has_given_up(sending)


def test_the_stream_is_asked_until_it_answers(sending: Harness) -> None:
    _, again = sent_twice(sending)
    sending.node.refused(again.id, Refusal.CONFLICT, "reason", sending.now_ns)
    read = sending.one(ReadMessage)
    sending.node.message_unknown(read.id, sending.now_ns)
    second = sending.one(ReadMessage)
    assert second.seq == read.seq
    sending.node.message(read.id, read.seq, b"late", sending.now_ns)
    assert sending.kinds() == []
    sending.wait(500 * MS)
    sending.collect()
    assert not any(isinstance(request, Append) for request in sending.asked)
    sending.answer_read(again.data)
    assert "Lead" in (kinds := sending.kinds()) or "Safe" in kinds


def test_a_late_acknowledgement_of_the_first_copy_counts(sending: Harness) -> None:
    first, again = sent_twice(sending)
    sending.node.acknowledged(first.id, first.after_seq + 1, sending.now_ns)
    assert is_stored(sending)
    sending.node.refused(again.id, Refusal.CONFLICT, "the second copy", sending.now_ns)
    assert sending.kinds() == []
    assert sending.node.state is State.LEADING


def test_a_late_acknowledgement_while_it_looks_counts(sending: Harness) -> None:
    first, again = sent_twice(sending)
    sending.node.refused(again.id, Refusal.CONFLICT, "reason", sending.now_ns)
    sending.one(ReadMessage)
    sending.node.acknowledged(first.id, first.after_seq + 1, sending.now_ns)
    assert is_stored(sending)


def test_a_late_refusal_of_the_first_copy_says_nothing(sending: Harness) -> None:
    first, again = sent_twice(sending)
    sending.node.refused(first.id, Refusal.CONFLICT, "late", sending.now_ns)
    assert sending.kinds() == []
    sending.node.acknowledged(again.id, again.after_seq + 1, sending.now_ns)
    assert is_stored(sending)


def test_a_wrong_stream_stops_the_node(sending: Harness) -> None:
    sending.refuse(Refusal.WRONG_STREAM)
    status, text = sending.stopped()
    assert status == STATUS_WRONG_STREAM
    assert "is not the one of this name any more" in text


def test_an_acknowledgement_of_another_sequence_stops_the_node(sending: Harness) -> None:
    append = sending.one(Append)
    sending.node.acknowledged(append.id, append.after_seq + 2, sending.now_ns)
    assert sending.stopped()[0] == STATUS_WRONG_STREAM


# Leading


def test_one_message_is_in_flight_at_most(harness: Harness) -> None:
    harness.lead()
    harness.batch(b"one")
    harness.wait(LEASE_NS // 4)  # a heartbeat would be due
    append = harness.one(Append)
    harness.node.hand_over(None, harness.now_ns)
    assert harness.kinds() == []
    harness.node.acknowledged(append.id, append.after_seq + 1, harness.now_ns)
    assert message_of(harness.one(Append)).kind == RELEASE


def test_a_leader_sends_heartbeats(harness: Harness) -> None:
    harness.lead()
    for number in range(2, 6):
        harness.wait(LEASE_NS // 5 - 1)
        assert "Append" not in harness.kinds()
        harness.wait(1)
        message = message_of(harness.acknowledge())
        assert (message.kind, message.number, message.payload) == (BATCH, number, b"")
        assert harness.kinds() == []


def test_a_leader_whose_loop_hangs_sends_none(harness: Harness) -> None:
    harness.lead()
    sent = 0
    for _ in range(STALL_NS * 5 // LEASE_NS + 20):
        harness.wait(LEASE_NS // 5)
        harness.collect()
        for append in [request for request in harness.asked if isinstance(request, Append)]:
            sent += 1
            harness.node.acknowledged(append.id, append.after_seq + 1, harness.now_ns)
        harness.asked.clear()
    assert sent == STALL_NS * 5 // LEASE_NS - 1
    harness.node.loop_ran(harness.now_ns)
    harness.wait(LEASE_NS // 5)
    harness.one(Append)


def test_a_large_batch_goes_in_parts(harness: Harness) -> None:
    harness.lead()
    harness.batch(b"0123456789abcdefghijABC")
    found: list[Message] = []
    for _ in range(2):
        found.append(message_of(harness.acknowledge()))
        assert "Safe" not in [type(request).__name__ for request in harness.asked]
    found.append(message_of(harness.acknowledge()))
    assert harness.one(Safe).lsn == 28
    assert [(each.payload, each.part, each.more, each.first_lsn) for each in found] == [
        (b"0123456789", 0, True, 5),
        (b"abcdefghij", 1, True, 15),
        (b"ABC", 2, False, 25),
    ]


def test_the_clock_stands_still_while_nothing_is_safe(harness: Harness) -> None:
    harness.lead()
    harness.batch(b"more")
    append = harness.one(Append)
    harness.wait(LEASE_NS // 2 - 1)
    assert "HoldClock" not in harness.kinds()
    harness.wait(1)
    assert "HoldClock" in harness.kinds()
    harness.wait(LEASE_NS)
    assert "HoldClock" not in harness.kinds()
    harness.node.acknowledged(append.id, append.after_seq + 1, harness.now_ns)
    assert harness.kinds() == ["ReleaseClock", "Safe"]


def test_a_stall_closes_the_doors_until_something_is_safe(harness: Harness) -> None:
    harness.lead()
    harness.batch(b"more")
    append = harness.one(Append)
    harness.wait(STALL_NS - 1)
    assert "Stall" not in harness.kinds()
    harness.wait(1)
    assert "Stall" in harness.kinds()
    assert harness.node.state is State.STALLED
    harness.wait(STALL_NS)
    kinds = harness.kinds()
    assert "Stall" not in kinds
    assert "Append" in kinds  # it goes on trying
    harness.node.acknowledged(append.id, append.after_seq + 1, harness.now_ns)
    assert harness.kinds() == ["ReleaseClock", "Safe", "Resume"]
    assert harness.node.state is State.LEADING


def test_a_full_stream_is_reported_once(harness: Harness) -> None:
    harness.lead()
    harness.batch(b"more")
    events = []
    for _ in range(3):
        append = harness.refuse(Refusal.FULL)
        events += harness.events()
        harness.wait(250 * MS)
    harness.node.acknowledged(append.id, append.after_seq + 1, harness.now_ns)
    assert events == ["stream-full"]


def test_a_leader_that_is_deposed_begins_anew(harness: Harness, stream: Stream) -> None:
    harness.lead()
    harness.batch(b"more")
    harness.refuse(Refusal.CONFLICT)
    assert harness.node.state is State.DEPOSED
    harness.batch(b"never")  # the loop did not know yet
    assert harness.kinds() == ["DropEngine"]
    harness.wait(10 * LEASE_NS)
    assert harness.kinds() == []
    harness.node.engine_ready(harness.now_ns)
    harness.info(3)
    assert harness.node.state is State.CATCHING_UP
    assert harness.node.run.end_lsn == 0


def test_no_feed_begins_while_the_engine_is_dropped(harness: Harness, stream: Stream) -> None:
    harness.lead()
    harness.batch(b"more")
    harness.refuse(Refusal.CONFLICT)
    harness.kinds()
    harness.node.feed_ended(0, harness.now_ns)
    harness.node.feed_ended(1, harness.now_ns)
    harness.wait(10 * LEASE_NS)
    assert harness.kinds() == []


def test_a_hand_over_releases_and_follows(harness: Harness) -> None:
    harness.lead()
    harness.node.hand_over("q2", harness.now_ns)
    append = harness.acknowledge()
    assert messages.decode_release(message_of(append).payload) == "q2"
    assert harness.node.state is State.RELEASED
    assert harness.kinds() == ["DropEngine"]
    harness.node.engine_ready(harness.now_ns)
    assert harness.kinds() == ["AskInfo"]


def test_the_own_release_is_no_reason_to_claim(harness: Harness) -> None:
    harness.begin_claim()
    found = [harness.acknowledge()]
    harness.node.hand_over(None, harness.now_ns)
    found.append(harness.acknowledge())
    harness.node.engine_ready(harness.now_ns)
    harness.info(2)
    harness.answer_read(found[1].data)
    for seq, append in enumerate(found, 1):
        harness.deliver(seq, append.data)
    assert harness.node.state is State.STANDBY
    harness.wait(LEASE_NS * 11 // 10)
    harness.info(2)
    assert harness.node.state is State.CLAIMING


def test_a_stop_commits_the_last_batch_and_releases(harness: Harness) -> None:
    harness.lead()
    harness.batch(b"last")
    harness.node.stop(harness.now_ns)
    assert message_of(harness.acknowledge()).payload == b"last"
    harness.collect()
    assert message_of(harness.acknowledge()).kind == RELEASE
    assert harness.stopped() == (0, "stopped")


@pytest.mark.parametrize("state", [State.STANDBY, State.CATCHING_UP, State.CLAIMING])
@pytest.mark.parametrize("wins", [False, True])
def test_a_stop_of_a_node_that_does_not_lead(harness: Harness, state: State, wins: bool) -> None:
    if state is State.CATCHING_UP:
        harness.node.start(harness.now_ns)
    elif state is State.STANDBY:
        harness.become_standby()
    else:
        harness.begin_claim()
    assert harness.node.state is state
    if state is not State.CLAIMING:
        harness.node.stop(harness.now_ns)
    elif wins:
        append = harness.one(Append)
        harness.node.stop(harness.now_ns)
        harness.node.acknowledged(append.id, 1, harness.now_ns)
        assert message_of(harness.acknowledge()).kind == RELEASE
    else:
        append = harness.one(Append)
        harness.node.stop(harness.now_ns)
        harness.node.refused(append.id, Refusal.CONFLICT, "reason", harness.now_ns)
    assert harness.stopped() == (0, "stopped")


def test_an_engine_that_fails_stops_the_node(harness: Harness) -> None:
    harness.lead()
    harness.node.engine_failed("no memory")
    assert harness.stopped() == (STATUS_UNUSABLE, "no memory")
    harness.wait(10 * LEASE_NS)
    assert harness.kinds() == []


def test_a_leader_asks_how_full_the_stream_is(harness: Harness) -> None:
    harness.lead()
    harness.wait(1)
    harness.info(2, bytes=5, max_bytes=10)
    assert harness.one(Room) == (5, 10)


def test_a_leader_notices_a_stream_that_was_created_anew(harness: Harness) -> None:
    harness.lead()
    harness.wait(1)
    harness.info(2, created="tomorrow")
    assert harness.stopped()[0] == STATUS_WRONG_STREAM


def test_a_late_answer_about_the_stream_is_compared_with_what_was_known(harness: Harness) -> None:
    harness.lead()
    harness.wait(1)
    question = harness.one(AskInfo)
    harness.batch(b"more")
    harness.acknowledge()
    harness.kinds()
    harness.asked = [question]
    harness.info(2)
    assert harness.node.run.position == 3
    assert harness.node.state is State.LEADING


def test_what_is_not_needed_is_purged_step_by_step(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastbean.replication.run.MARK_BYTES", 4)
    monkeypatch.setattr("fastbean.replication.leadership.PURGE_BYTES", 6)
    harness.lead()
    for records in (b"aaaa", b"bbbb", b"cccc", b"dddd"):
        harness.batch(records)
        harness.acknowledge()
    harness.kinds()
    harness.node.trim(17)  # LSN 5, 9, 13 and 17 begin at the messages 3, 4, 5 and 6
    purge = harness.one(Purge)
    assert purge.below_seq == 3
    harness.node.trim(17)
    assert harness.kinds() == []  # one at a time
    harness.node.purged(purge.id, True, harness.now_ns)
    purge = harness.one(Purge)
    assert purge.below_seq == 4
    harness.node.purged(purge.id, False, harness.now_ns)
    assert harness.kinds() == []
    for _ in range(60):
        harness.wait(LEASE_NS // 10)
        harness.collect()
        for append in [request for request in harness.asked if isinstance(request, Append)]:
            harness.node.acknowledged(append.id, append.after_seq + 1, harness.now_ns)
    assert harness.one(Purge).below_seq == 4
