"""The loop and the sync thread: who waits for whom, and who never."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from fastbean.binlog.binlog import Binlog
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.net.hub import Hub
from patience import PATIENCE_S

TIMES = 30
HOUR_NS = 3_600_000_000_000


def open_binlog(directory: Path, engine: State, fsync_ms: int, segment_bytes: int = 4096) -> Binlog:
    directory.mkdir()
    log = Binlog(directory, EngineJobs(engine), segment_bytes=segment_bytes, fsync_ms=fsync_ms, log=stderr_log.silent)
    log.open(lambda _text: None)
    return log


def returns(function: Callable[[], None]) -> bool:
    """Whether it comes back at all."""
    caller = threading.Thread(target=function, daemon=True)
    caller.start()
    caller.join(PATIENCE_S)
    return not caller.is_alive()


def test_a_word_that_somebody_has_taken_already_keeps_nobody_waiting(tmp_path: Path) -> None:
    # In one iteration a command may wait for the round itself, and the event that announced its end comes after that.
    log = open_binlog(tmp_path / "log", State(), 50)
    assert returns(log.journal.sink_done), "it waits for a round that nobody has begun"
    log.close()


def test_a_stop_does_not_wait_for_a_round_that_the_thread_never_saw(tmp_path: Path) -> None:
    for run in range(TIMES):
        engine = State()
        log = open_binlog(tmp_path / str(run), engine, 0)
        hub = Hub(engine)
        hub.connect().feed(b"put 0 0 10 1\r\nx\r\n", 0)
        hub.end_iteration(0)
        assert returns(log.close), f"close {run + 1} hangs: the round that was begun was never made"


class Told:
    """A log with a hub, and what is told of its slow syncs; nobody watches for the end of a sync but the test."""

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
        # The first job is held until there is a segment more.
        self.put_and_end_iteration()
        self.log._take_results(0)
        self.put_and_end_iteration()
        self.log.journal.sink_done()
        self.lines.clear()

    def put_and_end_iteration(self, now_ns: int | None = None) -> int:
        """A job, and an iteration at this time, by default now; what the iteration returns."""
        now_ns = time.monotonic_ns() if now_ns is None else now_ns
        self.client.feed(b"put 0 0 10 1\r\nx\r\n", now_ns)
        return self.hub.end_iteration(now_ns)


def test_a_slow_sync_is_told_when_it_is_done(tmp_path: Path) -> None:
    told = Told(tmp_path / "log", 0, 1)
    told.put_and_end_iteration()
    told.log.journal.sink_done()
    told.log.close()
    (running, ms, files, size_bytes), *_ = told.lines
    assert not running
    assert ms >= 0
    assert files == 1
    assert size_bytes > 0


def test_a_sync_that_does_not_come_back_is_told_once_while_it_goes_on(tmp_path: Path) -> None:
    told = Told(tmp_path / "log", 0, HOUR_NS)
    before_ns = time.monotonic_ns()
    wait_ns = told.put_and_end_iteration(before_ns)
    after_ns = time.monotonic_ns()
    assert HOUR_NS <= wait_ns <= HOUR_NS + after_ns - before_ns, "the hub would not look after the sync in time"
    told.put_and_end_iteration(before_ns + HOUR_NS - 1)
    assert told.lines == []
    told.put_and_end_iteration(after_ns + HOUR_NS)
    told.put_and_end_iteration(after_ns + HOUR_NS + 1)
    assert [line[0] for line in told.lines] == [True]
    assert told.lines[0][1] >= HOUR_NS // 1_000_000
    told.log.journal.sink_done()
    told.log.close()
    assert len(told.lines) == 1, "the sync itself was quick"


def test_without_a_threshold_no_sync_is_slow(tmp_path: Path) -> None:
    told = Told(tmp_path / "log", 0, 0)
    told.put_and_end_iteration()
    told.put_and_end_iteration(time.monotonic_ns() + HOUR_NS)
    told.log.journal.sink_done()
    told.log.close()
    assert told.lines == []
