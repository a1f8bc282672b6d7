"""The writer of the binlog: blocks of ids, reports about a slow disk, memory of large batches."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastbean.binlog.binlog import Binlog
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.net.hub import Hub
from local_binlog import BEFORE_REPLIES_NS, NEVER_NS, POLICIES_NS, LocalBinlog, layout, put
from made_binlogs import take_segment

HOUR_NS = 3_600_000_000_000
IDS_AT_ONCE = 1_048_576
HALF = IDS_AT_ONCE // 2
REFUSED = b"put 0 0 60 0\r\n??"  # it takes an id, and leaves no record
AT_ONCE = 500

Records = list[dict[str, object]]


# Ids


def records_of(local: LocalBinlog, kind: str) -> Records:
    """Return the records of this type that are written."""
    return [
        members
        for _, found in layout(local.directory)
        for _, members in found
        if isinstance(members, dict) and members["type"] == kind
    ]


def use_up(local: LocalBinlog, count: int) -> None:
    """Use up this number of ids, while nothing waits for the binlog."""
    for _ in range(count // AT_ONCE):
        assert local.send(REFUSED * AT_ONCE) == b"EXPECTED_CRLF\r\n" * AT_ONCE
    local.send(REFUSED * (count % AT_ONCE))


@pytest.fixture(params=POLICIES_NS, ids=["never", "before replies", "later"])
def stuck(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalBinlog]:
    """A binlog with a block of ids, whose later syncs do not end until the test lets them."""
    with LocalBinlog(tmp_path / "log", request.param, threaded=True) as local:
        yield local


def test_the_next_block_of_ids_is_recorded_when_half_of_the_last_one_is_used(stuck: LocalBinlog) -> None:
    assert [record["id"] for record in records_of(stuck, "next-id")] == [1 + IDS_AT_ONCE]
    use_up(stuck, HALF)
    assert len(records_of(stuck, "next-id")) == 1
    use_up(stuck, 1)
    assert [record["id"] for record in records_of(stuck, "next-id")] == [1 + IDS_AT_ONCE, 1 + 2 * IDS_AT_ONCE]
    # It is not safe, and commands do not wait for it.
    assert stuck.writer.figures()["id_limit"] == 1 + IDS_AT_ONCE
    use_up(stuck, 1)


def test_no_id_is_used_before_it_is_safe(stuck: LocalBinlog) -> None:
    use_up(stuck, IDS_AT_ONCE - 1)
    assert stuck.server.engine.next_job_id == IDS_AT_ONCE
    # One put takes the last id of the block. All commands wait then, its body too.
    assert stuck.send(REFUSED * 3) == b""
    for _ in range(3):
        assert stuck.send(b"list-tube-used\r\n") == b""
    assert stuck.server.engine.next_job_id == 1 + IDS_AT_ONCE
    assert stuck.writer.figures()["id_limit"] == 1 + IDS_AT_ONCE
    stuck.run_syncs()
    assert stuck.wait_for(6) == b"EXPECTED_CRLF\r\n" * 3 + b"USING default\r\n" * 3
    assert stuck.writer.figures()["id_limit"] == 1 + 2 * IDS_AT_ONCE
    use_up(stuck, 10)


def test_after_a_power_cut_no_id_comes_again(stuck: LocalBinlog, tmp_path: Path) -> None:
    # What was synced last has the first block alone.
    shutil.copytree(stuck.directory, tmp_path / "cut")
    use_up(stuck, IDS_AT_ONCE - 1)
    stuck.send(REFUSED)
    used = stuck.server.engine.next_job_id
    stuck.run_syncs()
    received = stuck.send(put(1) * 2)
    stuck.wait_for(3 - received.count(b"\r\n"))
    shutil.copytree(stuck.directory, tmp_path / "killed")
    assert first_id_after(tmp_path / "cut") >= used
    assert first_id_after(tmp_path / "killed") >= stuck.server.engine.next_job_id > used


def first_id_after(directory: Path) -> int:
    """Return the lowest id that a server on this directory may assign."""
    engine = State()
    log = Binlog(directory, EngineJobs(engine), segment_bytes=1 << 20, fsync_ms=None, log=stderr_log.silent)
    log.open(lambda _text: None)
    try:
        return engine.next_job_id
    finally:
        log.close()


# Memory


def buffers(local: LocalBinlog) -> int:
    """Return the memory of all buffers, once nothing is under way."""
    local.send(b"stats\r\n")
    output = local.send(b"stats\r\n") or local.wait_for(1)
    return int(output.split(b"memory-buffers: ")[-1].split()[0])


def test_the_memory_of_large_batches_is_freed(tmp_path: Path) -> None:
    batch = put(50_000) * 60
    with LocalBinlog(tmp_path / "log", NEVER_NS, threaded=True, segment_bytes=1 << 24) as local:
        local.run_writes()
        before = buffers(local)
        for _ in range(4):
            # The second batch is gathered while the first one is written.
            received = local.send(batch).count(b"INSERTED") + local.send(batch).count(b"INSERTED")
            local.wait_for(120 - received)
        assert buffers(local) - before < 1 << 20


# A slow disk


def open_binlog(directory: Path, engine: State, fsync_ms: int, segment_bytes: int) -> Binlog:
    directory.mkdir()
    log = Binlog(directory, EngineJobs(engine), segment_bytes=segment_bytes, fsync_ms=fsync_ms, log=stderr_log.silent)
    log.open(lambda _text: None)
    return log


class Slow:
    """A binlog with a hub, and the reports of its slow syncs; only the test looks for the end of a sync."""

    def __init__(self, directory: Path, fsync_ms: int, slow_ns: int) -> None:
        self.engine = State(now_ns=time.monotonic_ns())
        self.log = open_binlog(directory, self.engine, fsync_ms, segment_bytes=1 << 20)
        self.lines: list[tuple[bool, int, int, int]] = []
        self.writes: list[tuple[int, int]] = []
        self.log.journal.slow_sync_ns = slow_ns
        self.log.journal.on_slow_sync = lambda *line: self.lines.append(line)
        self.log.journal.on_slow_write = lambda *line: self.writes.append(line)
        self.hub = Hub(self.engine)
        self.client = self.hub.connect()
        # The first job is held until there is another segment.
        self.put_and_end_iteration()
        take_segment(self.log)
        self.put_and_end_iteration()
        self.log.journal.sink_done()
        self.lines.clear()

    def put_and_end_iteration(self, now_ns: int | None = None) -> int:
        """Put a job, and end the iteration at this time, by default now; return what the iteration returns."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        self.client.feed(b"put 0 0 10 1\r\nx\r\n", now_ns)
        return self.hub.end_iteration(now_ns)


def test_a_slow_sync_is_reported_when_it_is_done(tmp_path: Path) -> None:
    slow = Slow(tmp_path / "log", 0, 1)
    slow.put_and_end_iteration()
    slow.log.journal.sink_done()
    slow.log.close()
    (running, ms, files, size_bytes), *_ = slow.lines
    assert not running
    assert ms >= 0
    assert files == 1
    assert size_bytes > 0


def test_a_sync_that_does_not_end_is_reported_once_while_it_runs(tmp_path: Path) -> None:
    slow = Slow(tmp_path / "log", 0, HOUR_NS)
    before_ns = time.monotonic_ns()
    wait_ns = slow.put_and_end_iteration(before_ns)
    after_ns = time.monotonic_ns()
    assert HOUR_NS <= wait_ns <= HOUR_NS + after_ns - before_ns, "the hub would look at the sync too late"
    slow.put_and_end_iteration(before_ns + HOUR_NS - 1)
    assert slow.lines == []
    slow.put_and_end_iteration(after_ns + HOUR_NS)
    slow.put_and_end_iteration(after_ns + HOUR_NS + 1)
    assert [line[0] for line in slow.lines] == [True]
    assert slow.lines[0][1] >= HOUR_NS // 1_000_000
    slow.log.journal.sink_done()
    slow.log.close()
    assert len(slow.lines) == 1, "the sync itself was quick"


def test_without_a_threshold_no_sync_is_slow(tmp_path: Path) -> None:
    slow = Slow(tmp_path / "log", 0, 0)
    slow.put_and_end_iteration()
    slow.put_and_end_iteration(time.monotonic_ns() + HOUR_NS)
    slow.log.journal.sink_done()
    slow.log.close()
    assert slow.lines == []


@pytest.mark.parametrize("threaded", [False, True], ids=["in the loop", "in the thread"])
def test_a_slow_write_is_reported(tmp_path: Path, threaded: bool) -> None:
    reports: list[tuple[int, int]] = []
    batch = put(20_000) * 16
    with LocalBinlog(tmp_path / "log", BEFORE_REPLIES_NS, threaded=threaded) as local:
        local.run_writes()
        local.run_syncs()
        local.writer.on_slow_write = lambda *report: reports.append(report)
        local.writer.on_slow_sync = lambda *_report: None
        if not local.send(batch):
            local.wait_for(16)
        assert reports == [], "without a threshold no write is slow"
        local.writer.slow_sync_ns = HOUR_NS
        if not local.send(batch):
            local.wait_for(16)
        assert reports == []
        local.writer.slow_sync_ns = 1
        if not local.send(batch):
            local.wait_for(16)
        assert [size for _, size in reports if size >= 16 * 20_000] == [reports[0][1]]
        assert reports[0][0] >= 0
