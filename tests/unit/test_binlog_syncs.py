"""The loop and the sync thread: who waits for whom, and who never."""

from __future__ import annotations

import threading
from pathlib import Path

from fastbean import logs
from fastbean._engine import Engine
from fastbean.binlog import Log

LIMIT_S = 20


def test_a_word_that_somebody_has_taken_already_keeps_nobody_waiting(tmp_path: Path) -> None:
    # In one tick a command may wait for the round itself, and the event that announced its end comes after that.
    log = Log(tmp_path, Engine(), segment_bytes=4096, fsync_ms=50, log=logs.silent, progress=lambda _text: None)
    caller = threading.Thread(target=log.journal.sync_done, daemon=True)
    caller.start()
    caller.join(LIMIT_S)
    stuck = caller.is_alive()
    if not stuck:
        log.close()
    assert not stuck, "it waits for a round that nobody has begun"
