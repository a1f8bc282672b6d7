"""The log when an allocation fails, whichever: as it is written, as it moves on, and when a server starts on it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from allocations import FOR_EVER, Allocations, attempt
from fastbean.binlog import binlog
from fastbean.binlog.saved_job import SavedTube
from fastbean.errors import BinlogError
from made_binlogs import SEGMENT_BYTES, many_jobs, write_log
from oom_world import OomWorld, Step
from test_without_memory import BODIES, SCRIPT

MANY = {f"j{number}": b"%03d" % number * 300 for number in range(24)}

# Four jobs fill a segment. Few stay, so that segments become free, and what stays in others is copied.
MOVING: list[Step] = [
    ("client", b"pause-tube default 4294967295\r\n", b"PAUSED\r\n"),
    *(
        step
        for number, (name, body) in enumerate(MANY.items())
        for step in (
            ("client", b"put 1 0 60 900\r\n%b\r\n" % body, b"INSERTED {%b=}\r\n" % name.encode()),
            *(
                [("client", b"delete {%b}\r\n" % name.encode(), b"DELETED\r\n")]
                if number % 8
                else [
                    (
                        "client",
                        b"reserve-job {%b}\r\n" % name.encode(),
                        b"RESERVED {%b} 900\r\n%b\r\n" % (name.encode(), body),
                    )
                ]
            ),
        )
    ),
]


@pytest.fixture
def directories() -> Iterator[Iterator[Path]]:
    """Folders for logs, each new, in memory where the system can have them there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield (_new(Path(folder) / str(number)) for number in range(1, 1000))


def _new(path: Path) -> Path:
    path.mkdir()
    return path


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["one", "until-noticed"])
def test_every_command_with_a_log(allocations: Allocations, directories: Iterator[Path], count: int) -> None:
    for outage, directory in zip(allocations.in_turn(count), directories, strict=False):
        with OomWorld(directory) as world:
            world.play(SCRIPT, outage)
        assert not world.log_failed
        with OomWorld(directory) as again:
            world.after_a_restart(again).check_jobs(BODIES)
            again.check_end()
        shutil.rmtree(directory)
    assert allocations.calls > 50
    assert world.is_played


def test_segments_follow_one_another(allocations: Allocations, directories: Iterator[Path]) -> None:
    for outage, directory in zip(allocations.in_turn(), directories, strict=False):
        with OomWorld(directory, SEGMENT_BYTES) as world:
            world.play(MOVING, outage)
        assert not world.log_failed
        with OomWorld(directory, SEGMENT_BYTES) as again:
            world.after_a_restart(again).check_jobs(MANY)
            if world.is_played:
                assert b"\npause: 4294967295\n" in again.client("looker").ask(b"stats-tube default\r\n")
            again.check_end()
        shutil.rmtree(directory)
    assert world.is_played


def test_at_its_limit_the_log_loses_nothing_without_memory(
    allocations: Allocations, directories: Iterator[Path]
) -> None:
    """It refuses puts, for want of room and of memory; deletes make room, and old segments become new ones."""
    for outage, directory in zip(allocations.in_turn(), directories, strict=False):
        with OomWorld(directory, SEGMENT_BYTES, max_bytes=8 * SEGMENT_BYTES) as world:
            client = world.client("client")
            known: list[int] = []
            with outage:
                for number in range(60):
                    reply = client.ask(b"put 1 0 60 900\r\n%b\r\n" % (b"%03d" % number * 300))
                    if reply.startswith(b"INSERTED"):
                        known.append(int(reply.split()[1]))
                    elif reply == b"OUT_OF_MEMORY\r\n" and known:
                        assert client.ask(b"delete %d\r\n" % known.pop(0)) == b"DELETED\r\n" or client.closed
            if not client.closed:
                assert b"binlog-full-hits: 0\n" not in client.ask(b"stats\r\n")
        with OomWorld(directory, SEGMENT_BYTES) as again:
            # Of the command that got no reply because the connection ended nobody knows.
            assert again.engine.counters()["jobs"] - len(known) in ((0, 1) if client.closed else (0,))
            looker = again.client("looker")
            assert all(looker.ask(b"peek %d\r\n" % id).startswith(b"FOUND") for id in known)
        shutil.rmtree(directory)
    assert not client.closed


@pytest.mark.parametrize("large_bytes", [1, 1 << 25], ids=["large", "usual"])
def test_a_start_on_a_log_fails_whole_or_restores_all(
    allocations: Allocations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large_bytes: int
) -> None:
    monkeypatch.setattr(binlog, "LARGE_BINLOG_BYTES", large_bytes)
    write_log(tmp_path / "log", tubes=[SavedTube(b"paused", 4294967295, 2**62)])
    failures = 0
    for outage in allocations.in_turn():
        before = open_descriptors()
        with outage:
            world, said = attempt(partial(OomWorld, tmp_path / "log", SEGMENT_BYTES), BinlogError, MemoryError)
        if world is None:
            assert "memory" in said
            failures += 1
            assert open_descriptors() == before
            continue
        with world:
            assert world.engine.counters()["jobs"] == len(many_jobs())
            assert world.client("looker").ask(b"peek 1\r\n").endswith(b"\r\n%b\r\n" % many_jobs()[0].body)
            assert b"\npause: 4294967295\n" in world.client("other").ask(b"stats-tube paused\r\n")
    assert failures > 30
