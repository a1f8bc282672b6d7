"""The sink of a local binlog: what it leaves in the files, in which order, and when it fails or stops."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fastbean.binlog import segment_files
from fastbean.binlog.binlog import Binlog
from fastbean.binlog.descriptors import OpenFile
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.errors import BinlogFailedError
from fastbean.net.hub import Hub
from local_binlog import NEVER_NS, POLICIES_NS, LocalBinlog, bytes_of, layout, put
from made_binlogs import restored
from patience import PATIENCE_S

TIMES = 30
SMALL_SEGMENT_BYTES = 1 << 16
LARGE_BATCH = put(20_000) * 16  # above 256 KiB: a thread writes it
LARGE_PUTS = 16


def replay(local: LocalBinlog, batches: list[tuple[bytes, int]]) -> None:
    """Send each batch in one iteration, and wait for this number of lines."""
    for data, count in batches:
        received = local.send(data)
        if received.count(b"\r\n") < count:
            received += local.wait_for(count - received.count(b"\r\n"))
        assert received.count(b"\r\n") == count


def test_the_thread_leaves_the_bytes_that_the_loop_would(tmp_path: Path) -> None:
    # Under -F no time of a sync shows in the records. A large batch continues in five segments.
    session = [
        (put(10) * 3, 3),
        (LARGE_BATCH, LARGE_PUTS),
        (b"delete 2\r\n" + put(30_000) + b"delete 1\r\n", 3),
        (LARGE_BATCH, LARGE_PUTS),
    ]
    options = {"segment_bytes": SMALL_SEGMENT_BYTES, "segments": 40}
    with LocalBinlog(tmp_path / "loop", NEVER_NS, threaded=False, **options) as loop:
        replay(loop, session)
    with LocalBinlog(tmp_path / "thread", NEVER_NS, threaded=True, **options) as thread:
        thread.run_writes()
        replay(thread, session)
    written = layout(tmp_path / "loop")
    assert layout(tmp_path / "thread") == written
    assert len(written) > 10
    assert sum(members["type"] == "put" for _, found in written for _, members in found) == 4 + 2 * LARGE_PUTS


@pytest.mark.parametrize("policy_ns", POLICIES_NS)
def test_nothing_is_written_while_a_write_is_under_way(tmp_path: Path, policy_ns: int) -> None:
    with LocalBinlog(tmp_path / "log", policy_ns, threaded=True) as local:
        before = bytes_of(local.directory)
        assert local.send(LARGE_BATCH) == b""
        for _ in range(5):
            assert local.send(put(10)) == b""
        assert local.send(LARGE_BATCH) == b""
        assert bytes_of(local.directory) == before
        local.run_writes()
        local.run_syncs()
        count = 2 * LARGE_PUTS + 5
        assert local.wait_for(count) == b"".join(b"INSERTED %d\r\n" % number for number in range(1, count + 1))
    found = [members for _, records in layout(local.directory) for _, members in records]
    assert [members["id"] for members in found if members["type"] == "put"] == [*range(1, count + 1)]


@pytest.mark.parametrize("threaded", [False, True])
def test_a_failed_write_ends_the_server_with_a_line(tmp_path: Path, threaded: bool) -> None:
    options = {"segment_bytes": SMALL_SEGMENT_BYTES, "segments": 1}
    with LocalBinlog(tmp_path / "log", NEVER_NS, threaded=threaded, **options) as local:
        for number in range(2, 20):
            path = segment_files.path_of(local.directory, number)
            Path(path).write_bytes(bytes(SMALL_SEGMENT_BYTES))
            local.add_spare(OpenFile(path, os.O_RDONLY if number == 3 else os.O_RDWR))
        if threaded:
            local.run_writes()
        local.client.connection.feed(LARGE_BATCH, 0)
        with pytest.raises(BinlogFailedError) as caught:
            replay(local, [(b"", LARGE_PUTS)])
        assert str(caught.value) == (
            "cannot write segment 3 of the binlog: Bad file descriptor; the server ends and sends no more replies"
        )
        assert local.client.connection.take_output() == b""
        with pytest.raises(BinlogFailedError):
            local.send(put(1))
        assert local.client.connection.take_output() == b""


# The whole binlog, with its threads


def open_binlog(directory: Path, engine: State, fsync_ms: int | None, segment_bytes: int = 4096) -> Binlog:
    directory.mkdir()
    log = Binlog(directory, EngineJobs(engine), segment_bytes=segment_bytes, fsync_ms=fsync_ms, log=stderr_log.silent)
    log.open(lambda _text: None)
    return log


def returns(function: Callable[[], None]) -> bool:
    """Whether the function returns at all."""
    caller = threading.Thread(target=function, daemon=True)
    caller.start()
    caller.join(PATIENCE_S)
    return not caller.is_alive()


def test_a_report_that_was_taken_already_keeps_no_caller_waiting(tmp_path: Path) -> None:
    # In one iteration a command may wait for the round itself, and the event that announced its end comes after that.
    log = open_binlog(tmp_path / "log", State(), 50)
    assert returns(log.journal.sink_done), "it waits for a round that was not begun"
    log.close()


def test_a_stop_does_not_wait_for_a_round_that_the_thread_never_saw(tmp_path: Path) -> None:
    for run in range(TIMES):
        engine = State()
        log = open_binlog(tmp_path / str(run), engine, 0)
        hub = Hub(engine)
        hub.connect().feed(b"put 0 0 10 1\r\nx\r\n", 0)
        hub.end_iteration(0)
        assert returns(log.close), f"close {run + 1} hangs: the round that was begun was never made"


@pytest.mark.parametrize("fsync_ms", [None, 0, 50])
def test_a_stop_waits_for_a_large_write(tmp_path: Path, fsync_ms: int | None) -> None:
    for run in range(5):
        engine = State()
        directory = tmp_path / str(run)
        log = open_binlog(directory, engine, fsync_ms, segment_bytes=1 << 22)
        # No loop hears of segments that are created: this one is enough.
        spare = segment_files.create(str(directory), 2, 1 << 24, written=False)
        spare.hand_over(log.journal.room.add_spare, 2, 1 << 24)
        hub = Hub(engine)
        hub.connect().feed(LARGE_BATCH + put(10), 0)
        hub.end_iteration(0)
        assert returns(log.close), f"close {run + 1} hangs"
        assert restored(directory).counters()["jobs"] == LARGE_PUTS + 1
