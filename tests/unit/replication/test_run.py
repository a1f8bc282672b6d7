"""What a reader of the stream accepts, and what it refuses."""

from __future__ import annotations

import pytest

from fastbean.replication import messages
from fastbean.replication import run as run_module
from fastbean.replication.messages import BATCH, CLAIM, RELEASE, Message
from fastbean.replication.run import Records, Release, Run, StreamError, TrimmedError
from replicated_node import Stream, claim_of


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def run(stream: Stream) -> Run:
    """One that has read a claim and a batch."""
    run = Run()
    run.read(*stream.claim())
    run.read(*stream.batch(b"records"))
    return run


def test_it_reads_what_leaders_write(stream: Stream) -> None:
    run = Run()
    assert run.read(*stream.claim("a")) == claim_of("a")
    assert run.read(*stream.batch(b"abc")) == Records(b"abc", 0, 1002)
    assert run.read(*stream.batch()) is None
    assert run.read(*stream.batch(b"defg")) == Records(b"defg", 3, 1004)
    assert (run.epoch, run.claim_seq, run.end_lsn, run.position) == (1, 1, 7, 4)
    assert run.read(*stream.release("b")) == Release("b")
    assert run.released == Release("b")
    assert run.read(*stream.claim("b")) == claim_of("b")
    assert run.released is None
    assert run.read(*stream.batch(b"h")) == Records(b"h", 7, 1007)
    assert (run.epoch, run.claim_seq, run.end_lsn, run.position) == (2, 6, 8, 7)


def test_the_parts_of_a_batch_count_together(run: Run, stream: Stream) -> None:
    assert run.read(*stream.batch(b"one ", 0, True)) is None
    assert run.read(*stream.batch(b"two ", 1, True)) is None
    assert run.end_lsn == 7
    assert run.read(*stream.batch(b"three", 2)) == Records(b"one two three", 7, 1005)
    assert run.end_lsn == 20


def test_a_claim_makes_the_parts_before_it_void(run: Run, stream: Stream) -> None:
    run.read(*stream.batch(b"one ", 0, True))
    run.read(*stream.claim("b", lsn=7))
    assert run.read(*stream.batch(b"other")) == Records(b"other", 7, 1005)


def test_the_stream_may_begin_behind_a_purge(stream: Stream) -> None:
    run = Run()
    run.read(*stream.claim())
    for _ in range(3):
        stream.batch(b"purged")
    assert run.read(*stream.batch(b"kept")) == Records(b"kept", 18, 1005)
    run.read(*stream.claim("b"))
    assert run.read(*stream.batch(b"more")) == Records(b"more", 22, 1007)


def test_whole_epochs_may_be_purged_but_for_their_claims(stream: Stream) -> None:
    run = Run()
    for node in "abc":
        assert run.read(*stream.claim(node)) == claim_of(node)
        stream.batch(b"purged")
    assert run.read(*stream.batch(b"kept")) == Records(b"kept", 18, 1007)
    assert run.epoch == 3


def test_a_purge_that_overtakes_the_reader_is_noticed(run: Run, stream: Stream) -> None:
    stream.batch(b"missed")
    with pytest.raises(TrimmedError, match="messages 3 to 3 were purged before they were read"):
        run.read(*stream.batch(b"next"))


def test_the_middle_of_a_batch_behind_a_purge_is_refused(stream: Stream) -> None:
    run = Run()
    run.read(*stream.claim())
    stream.batch(b"one", 0, True)
    with pytest.raises(StreamError, match="message 3: it is in the middle of a batch, and its beginning is missing"):
        run.read(*stream.batch(b"two", 1))


def forged(stream: Stream, **members: object) -> bytes:
    """The next batch, with other members."""
    right = Message(BATCH, stream.epoch, stream.number + 1, stream.lsn, 0, b"x")
    return messages.encode(right._replace(**members), stream.chain)


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"epoch": 2}, "its epoch is 2 instead of 1"),
        ({"number": 3}, "its number is 3 instead of 2"),
        ({"number": 1}, "its number is 1 instead of 2"),
        ({"first_lsn": 8}, "its LSN is 8 instead of 7"),
        ({"part": 1}, "its part is 1 instead of 0"),
        ({"kind": CLAIM, "number": 0}, "its last member is cut off"),
        (
            {"kind": CLAIM, "number": 0, "epoch": 3, "payload": messages.encode_claim(claim_of("b"))},
            "its epoch is 3 instead of 2",
        ),
        (
            {"kind": CLAIM, "number": 0, "epoch": 2, "payload": messages.encode_claim(claim_of("b", bytes(16)))},
            "it is of another run of records",
        ),
    ],
)
def test_what_no_leader_writes_is_refused(run: Run, stream: Stream, members: dict[str, object], text: str) -> None:
    with pytest.raises(StreamError) as refusal:
        run.read(3, forged(stream, **members))
    assert str(refusal.value) == f"message 3: {text}"
    assert (run.position, run.end_lsn) == (2, 7)


def test_a_message_that_was_replaced_breaks_the_chain(run: Run, stream: Stream) -> None:
    stream.chain += 1
    with pytest.raises(StreamError, match="message 3: its chain is"):
        run.read(3, forged(stream))


def test_another_batch_or_a_release_within_a_batch_is_refused(run: Run, stream: Stream) -> None:
    run.read(*stream.batch(b"one", 0, True))
    for members in ({}, {"kind": RELEASE, "payload": b""}, {"payload": b""}):
        with pytest.raises(StreamError, match="message 4: its part is 0 instead of 1"):
            run.read(4, forged(stream, **members))


def test_bytes_of_others_are_refused(run: Run) -> None:
    with pytest.raises(StreamError, match="message 3: it has 5 bytes"):
        run.read(3, b"hello")


def test_a_trim_names_the_beginning_of_a_batch(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    monkeypatch.setattr(run_module, "MARK_BYTES", 10)
    run = Run()
    run.read(*stream.claim())
    for _ in range(5):
        run.read(*stream.batch(b"12345", 0, True))
        run.read(*stream.batch(b"12345", 1))
    # LSN 0, 10, 20, 30 and 40 begin at the messages 2, 4, 6, 8 and 10.
    assert run.trim(9, 1000) == 0
    assert run.trim(29, 1000) == 6
    assert run.trim(29, 1000) == 0
    assert run.trim(50, 10) == 8
    assert run.trim(50, 1) == 10  # a step goes over one batch at least
    assert run.trim(50, 1000) == 0
