"""The loop and the sync thread: who waits for whom, and who never."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from fastbean import logs
from fastbean._engine import Engine
from fastbean._hub import Hub
from fastbean.binlog import Log

LIMIT_S = 20
TIMES = 30


def open_log(directory: Path, engine: Engine, fsync_ms: int) -> Log:
    directory.mkdir()
    return Log(directory, engine, segment_bytes=4096, fsync_ms=fsync_ms, log=logs.silent, progress=lambda _text: None)


def returns(function: Callable[[], None]) -> bool:
    """Whether it comes back at all."""
    caller = threading.Thread(target=function, daemon=True)
    caller.start()
    caller.join(LIMIT_S)
    return not caller.is_alive()


def test_a_word_that_somebody_has_taken_already_keeps_nobody_waiting(tmp_path: Path) -> None:
    # In one tick a command may wait for the round itself, and the event that announced its end comes after that.
    log = open_log(tmp_path / "log", Engine(), 50)
    assert returns(log.journal.sync_done), "it waits for a round that nobody has begun"
    log.close()


def test_a_stop_does_not_wait_for_a_round_that_the_thread_never_saw(tmp_path: Path) -> None:
    for time in range(TIMES):
        engine = Engine()
        log = open_log(tmp_path / str(time), engine, 0)
        hub = Hub(engine)
        hub.connect().feed(b"put 0 0 10 1\r\nx\r\n", 0)
        hub.tick(0)
        assert returns(log.close), f"close {time + 1} hangs: the round that was begun was never made"
