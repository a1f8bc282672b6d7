"""A start on a torn log, itself interrupted: by a fault at any call, or by another power cut at any point.

Whatever happens, the next start finds the same jobs as a start that nothing had disturbed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from .expected_state import ExpectedState
from .faults import Faults, Kind
from .powercut import SECTOR_BYTES, Disk, Image, read_image, write_image
from .process import Server, StartError, segment_numbers
from .replay import started
from .writers import Load

SEGMENT_BYTES = 8192
MAX_ID = 400
KEPT = ("tube", "state", "pri", "delay", "ttr", "releases", "buries", "kicks", "reserves")

Jobs = Mapping[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """A log of several segments that was never synced, with a hole in one in the middle."""
    directory = tmp_path_factory.mktemp("torn")
    expected = ExpectedState(1)
    with Server(directory, ("-F",), segment_bytes=SEGMENT_BYTES) as server:
        Load(expected, random.Random(2), largest=900, shared=False).run(server, lambda: expected.acknowledged > 200)
        server.kill()
    image = read_image(directory)
    used = [name for name in map("fastbean-{}.log".format, segment_numbers(directory)) if any(image[name])]
    assert len(used) > 3
    name = used[-3]
    middle = SEGMENT_BYTES // 2
    assert any(image[name][middle : middle + SECTOR_BYTES])
    image[name] = image[name][:middle] + bytes(SECTOR_BYTES) + image[name][middle + SECTOR_BYTES :]
    return image


def jobs_of(folder: Path) -> Jobs:
    """All jobs that a server finds in a folder."""
    found = {}
    with started(folder, SEGMENT_BYTES) as (client, _):
        for id in range(1, MAX_ID):
            reply = client.ask(b"peek %d" % id)
            if reply.body is not None:
                stats = client.stats(b"stats-job %d" % id)
                if stats["tube"].startswith("late"):
                    del stats["state"]  # its delay ends meanwhile
                found[str(id)] = (str(reply.body), *(stats[key] for key in KEPT if key in stats))
    return found


def judge_refusal(start: StartError) -> None:
    """It ended by itself, and says why."""
    assert start.status > 0
    assert "Traceback" not in start.said, start.said


def test_a_torn_log_is_cut_and_what_was_cut_is_kept(torn: Image, memory_path: Path) -> None:
    write_image(torn, memory_path)
    with started(memory_path, SEGMENT_BYTES) as (_, warnings):
        assert len(warnings) == 1
    kept = b"".join(read_image(memory_path).values())
    for name, content in torn.items():
        last = content.rstrip(b"\0")[-40:]
        assert last in kept, f"the end of {name} is gone"


@pytest.mark.parametrize(
    "kind",
    [Kind.WRITE, Kind.SYNC, Kind.SYNC_FOLDER, Kind.RENAME, Kind.MKDIR, Kind.CREATE],
    ids=lambda kind: kind.name.lower(),
)
def test_a_recovery_in_which_a_call_fails_loses_nothing(shim: Path, torn: Image, memory_path: Path, kind: Kind) -> None:
    whole = memory_path / "whole"
    whole.mkdir()
    write_image(torn, whole)
    wanted = jobs_of(whole)
    assert wanted
    refused = 0
    for first in itertools.count(1):
        directory = memory_path / f"log-{first}"
        directory.mkdir()
        write_image(torn, directory)
        faults = Faults(shim, memory_path, directory, traced=False)
        faults.set(kind, first=first, count=1)
        try:
            with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server:
                server.kill()
        except StartError as start:
            refused += 1
            judge_refusal(start)
        assert jobs_of(directory) == wanted, f"after a fault at {kind.name} number {first}"
        if not faults.failed:
            break
    assert refused or kind == Kind.CREATE


def test_a_power_cut_during_the_recovery_loses_nothing(shim: Path, torn: Image, memory_path: Path) -> None:
    directory, after = memory_path / "log", memory_path / "after"
    directory.mkdir()
    after.mkdir()
    write_image(torn, directory)
    faults = Faults(shim, memory_path, directory)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server:
        server.kill()
    wanted = jobs_of(directory)
    disk, rng = Disk(directory, torn), random.Random(4)
    for event in faults.events():
        disk.step(event)
        for image in (disk.synced(), disk.everything(), disk.torn(rng), disk.late_names(rng)):
            write_image(image, after)
            assert jobs_of(after) == wanted, f"power cut after {event.kind.name} {event.path}"
