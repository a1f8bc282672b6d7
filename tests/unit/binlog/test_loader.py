"""Pieces of the run, as another server has sent them, applied to an engine that serves no client."""

from __future__ import annotations

import pytest

from fastbean.binlog.loader import Loader
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import encode_put, encode_shed
from fastbean.binlog.sink import Sink
from fastbean.binlog.writer import BinlogWriter
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.net.hub import Hub
from local_binlog import RUN
from made_binlogs import record_of, saved

SEED = run_seed(RUN)
SENT_NS = 1_700_000_000 * 1_000_000_000
NOW_NS = 5_000_000_000
SEGMENT_BYTES = 4096


class Follower:
    """An engine, and the loader that applies pieces to it."""

    def __init__(self, **settings: object) -> None:
        self.engine = State(now_ns=NOW_NS, **settings)
        self.jobs = EngineJobs(self.engine)
        self.writer = BinlogWriter(self.jobs, Sink(), segment_bytes=SEGMENT_BYTES, ask_for_segment=lambda _size: None)
        self.writer.begin_run(RUN)
        self._loader = Loader(self.writer)

    def apply(self, data: bytes, first_lsn: int | None = None) -> str:
        """Apply records; by default where the last ones ended."""
        return self._loader.apply(data, self.writer.end if first_lsn is None else first_lsn, SENT_NS, NOW_NS)

    def ids(self) -> set[int]:
        """Return the ids of its jobs below 200."""
        counted = self.engine.counters()["jobs"]
        hub = Hub(self.engine)
        client = hub.connect()
        found = set()
        for number in range(200):
            client.feed(b"peek %d\r\n" % number, NOW_NS)
            hub.end_iteration(NOW_NS)
            if client.take_output().startswith(b"FOUND "):
                found.add(number)
        assert len(found) == counted
        return found


def puts(numbers: range, lsn: int = 0, body: bytes = b"body") -> bytes:
    """Return the put records of these ids, as a run that is at this LSN has them."""
    data = b""
    for number in numbers:
        data += encode_put(saved(number, body=body), SEED, lsn + len(data))
    return data


def test_pieces_are_applied_one_after_the_other() -> None:
    follower = Follower()
    for first in range(1, 101, 10):
        assert follower.apply(puts(range(first, first + 10), follower.writer.end, b"x" * 100)) == "end"
    assert follower.ids() == {*range(1, 101)}
    assert follower.writer.figures()["live_jobs"] == 100
    assert follower.writer.figures()["segments"] > 1


def test_a_first_piece_may_begin_anywhere() -> None:
    follower = Follower()
    assert follower.apply(puts(range(50, 60), 12_345), 12_345) == "end"
    assert follower.ids() == {*range(50, 60)}


@pytest.mark.parametrize("off_bytes", [-1, 1, 1000])
def test_a_piece_after_a_gap_is_refused(off_bytes: int) -> None:
    follower = Follower()
    follower.apply(puts(range(1, 5)))
    end_lsn = follower.writer.end
    with pytest.raises(
        ValueError,
        match=f"the records begin at LSN {end_lsn + off_bytes}, but those before end at {end_lsn}",
    ):
        follower.apply(puts(range(5, 8), end_lsn + off_bytes), end_lsn + off_bytes)
    assert follower.ids() == {1, 2, 3, 4}
    assert follower.writer.end == end_lsn


@pytest.mark.parametrize("at", [0, 4, 5, 20])
def test_it_stops_at_a_broken_record(at: int) -> None:
    sound = puts(range(1, 4))
    broken = bytearray(puts(range(4, 5), len(sound)))
    broken[at] ^= 1
    follower = Follower()
    data = sound + bytes(broken)
    assert follower.apply(data + puts(range(5, 6), len(data))) == "broken"
    assert follower.ids() == {1, 2, 3}
    assert follower.writer.end == len(sound)


def test_a_cut_record_is_broken() -> None:
    # Whole records come: zeros, or an end in the middle, are no end of the run.
    sound = puts(range(1, 4))
    for rest in (puts(range(4, 5), len(sound))[:-1], bytes(1), bytes(64)):
        follower = Follower()
        assert follower.apply(sound + rest) == "broken"
        assert follower.ids() == {1, 2, 3}


def test_it_stops_at_a_record_of_a_newer_version() -> None:
    sound = puts(range(1, 4))
    newer = record_of(bytes([100, 1, 2, 3]), RUN, len(sound))
    follower = Follower()
    assert follower.apply(sound + newer + puts(range(4, 5), len(sound) + len(newer))) == "newer"
    assert follower.ids() == {1, 2, 3}
    assert follower.writer.end == len(sound)


def test_what_a_shed_record_does_not_need_is_dropped_at_once() -> None:
    follower = Follower()
    jobs = puts(range(1, 101), body=b"x" * 300)
    assert follower.apply(jobs) == "end"
    before = follower.writer.figures()["segments"]
    for number in range(1, 101):
        # A delete is of type 3.
        assert follower.apply(record_of(bytes([3, number]), RUN, follower.writer.end)) == "end"
    assert follower.writer.figures()["segments"] >= before
    assert follower.apply(encode_shed(len(jobs), SEED, follower.writer.end)) == "end"
    assert follower.writer.figures()["segments"] <= 2


def test_the_limit_on_memory_keeps_no_job_away() -> None:
    # The other server has accepted them. What the limit refuses is puts, once this one serves clients.
    body = b"x" * 10_000
    follower = Follower(max_memory_bytes=200_000)
    assert follower.apply(puts(range(1, 51), body=body)) == "end"
    assert follower.ids() == {*range(1, 51)}
    client = Hub(follower.engine).connect()
    client.feed(b"put 0 0 1 1\r\nx\r\n", NOW_NS)
    assert client.take_output() == b"OUT_OF_MEMORY\r\n"


@pytest.mark.parametrize("behind_s", [-600, 0, 600])
def test_delays_count_from_the_sending(behind_s: int) -> None:
    # Whatever the other server's clock says.
    sent_ns = SENT_NS + behind_s * 1_000_000_000
    job = saved(
        1, state="delayed", delay_s=100, deadline_ns=sent_ns + 40_000_000_000, created_ns=sent_ns - 7_000_000_000
    )
    follower = Follower()
    loader = Loader(follower.writer)
    assert loader.apply(encode_put(job, SEED, 0), 0, sent_ns, NOW_NS) == "end"
    client = Hub(follower.engine).connect()
    client.feed(b"stats-job 1\r\n", NOW_NS)
    text = client.take_output()
    assert b"\ntime-left: 40\n" in text
    assert b"\nage: 7\n" in text
