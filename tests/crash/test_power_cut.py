"""A simulated power cut at any point of a run: the start succeeds, and what was acknowledged under `-f 0` is there."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from .expected_state import ExpectedState, UnexpectedStateError, look
from .faults import Event, Faults, Kind
from .powercut import PAGE_BYTES, SECTOR_BYTES, Disk, Image, Story, complaints, write_image
from .process import BEANSTALKD, FASTBEAN, Server, segment_numbers, wait_until
from .replay import count_jobs, replay
from .writers import EVERYTHING, KEPT_BY_BEANSTALKD, Load

WRITERS = 3
SEGMENT_BYTES = 8192
COMMANDS = 500
SYNCED = ("-f", "0")
WITHIN_50_MS = ("-f", "50")
NEVER_SYNCED = ("-F",)


def traced_run(
    shim: Path, folder: Path, policy: Sequence[str], kind: str = FASTBEAN, runs: int = 1
) -> tuple[Story, list[Event], Path]:
    """Some commands of some writers, in runs that end with kill -9: the story, the trace, and the folder of the log."""
    directory = folder / "log"
    directory.mkdir()
    events: list[Event] = []
    expected = ExpectedState(WRITERS, strict_ids=kind == FASTBEAN)
    allowed = EVERYTHING if kind == FASTBEAN else KEPT_BY_BEANSTALKD
    choices = {"commands": allowed, "largest": 900, "jobs": 12, "shared": False}
    load = Load(expected, random.Random(7), place=lambda: len(events) + faults.records, **choices)
    for run in range(runs):
        control = folder / f"run{run}"
        control.mkdir()
        faults = Faults(shim, control, directory)
        with Server(directory, policy, segment_bytes=SEGMENT_BYTES, env=faults.env, kind=kind) as server:
            with server.connect() as client:
                expected.check(client)
            load.run(server, lambda goal=(run + 1) * COMMANDS: is_enough(expected, server, goal))
            server.kill()
        events += faults.events()
    return Story(load.notes(), events, WRITERS), events, directory


def is_enough(expected: ExpectedState, server: Server, goal: int) -> bool:
    """Whether `goal` commands are done; up to four times as many if no segment has become unneeded by then."""
    done = expected.acknowledged
    numbers = segment_numbers(server.directory)
    return done >= goal and (done >= 4 * goal or not numbers or numbers[0] > 1)


def images(disk: Disk, rng: random.Random) -> Iterator[tuple[str, Image]]:
    """What the folder may look like if the power goes now, of each kind one."""
    yield "synced only", disk.synced()
    yield "everything", disk.everything()
    if disk.unsynced():
        yield "torn", disk.torn(rng)
        yield "sectors missing", disk.holes(rng, SECTOR_BYTES)
        yield "pages missing", disk.holes(rng, PAGE_BYTES)
        yield "names missing", disk.late_names(rng)


class Cuts:
    """Cuts the power after events of a run, and judges what a server makes of what is left."""

    def __init__(self, story: Story, events: Sequence[Event], root: Path, folder: Path, policy: Sequence[str]) -> None:
        self._story = story
        self._events = events
        self._root = root
        self._folder = folder
        self._policy = policy
        self.tried = 0

    def all(self, share: float, first: int = 0) -> None:
        """Cuts at this share of all points from the first one on. Raises UnexpectedStateError with what is wrong."""
        rng = random.Random(11)
        disk = Disk(self._root)
        known = set()
        for place, event in enumerate(self._events, 1):
            disk.step(event)
            for name, image in images(disk, rng) if place > first else ():
                if rng.random() > share:
                    continue
                key = hashlib.sha256(repr((place if name == "synced only" else 0, sorted(image.items()))).encode())
                if key.digest() not in known:
                    known.add(key.digest())
                    self.judge(place, name, image)

    def judge(self, place: int, name: str, image: Image) -> None:
        """Starts a server on one image."""
        self.tried += 1
        write_image(image, self._folder)
        replayed = replay(self._folder, self._story.ids, SEGMENT_BYTES)
        expected = self._story.expected_at(place, acknowledged_counts=self._policy == SYNCED)
        if self._policy == NEVER_SYNCED:
            wrong = expected.wrong_jobs(replayed.seen)
        else:
            wrong = complaints(expected, replayed.seen, replayed.there)
        if replayed.next_id <= self._story.highest_id_told(place):
            wrong.append(f"the id {replayed.next_id} comes again")
        if wrong:
            event = self._events[place - 1]
            what = f"{event.kind.name} {event.path} {event.offset}+{event.result}"
            raise UnexpectedStateError(f"power cut after event {place} ({what}), {name}:\n  " + "\n  ".join(wrong[:10]))


def cuts_over_a_rotation(shim: Path, tmp_path: Path, memory_path: Path, policy: Sequence[str], share: float) -> None:
    story, events, root = traced_run(shim, tmp_path, policy)
    assert sum(event.kind == Kind.CREATE and event.path.endswith(".log") for event in events) > 3, "no rotation"
    assert any(event.kind == Kind.UNLINK and event.path.endswith(".log") for event in events), "no compaction"
    cuts = Cuts(story, events, root, memory_path, policy)
    cuts.all(share)
    assert cuts.tried > 100


def test_after_a_power_cut_everything_acknowledged_is_there(shim: Path, tmp_path: Path, memory_path: Path) -> None:
    cuts_over_a_rotation(shim, tmp_path, memory_path, SYNCED, share=0.15)


def test_after_a_kill_and_a_power_cut_everything_acknowledged_is_there(
    shim: Path, tmp_path: Path, memory_path: Path
) -> None:
    story, events, root = traced_run(shim, tmp_path, SYNCED, runs=2)
    cuts = Cuts(story, events, root, memory_path, SYNCED)
    second = next(place for place, event in enumerate(events) if place and event.path.endswith("/lock"))
    cuts.all(0.06, second)
    assert cuts.tried > 100


def test_after_a_power_cut_a_log_that_syncs_late_is_as_it_once_was(
    shim: Path, tmp_path: Path, memory_path: Path
) -> None:
    cuts_over_a_rotation(shim, tmp_path, memory_path, WITHIN_50_MS, share=0.08)


def test_after_a_power_cut_a_log_that_never_syncs_has_no_wrong_job(
    shim: Path, tmp_path: Path, memory_path: Path
) -> None:
    cuts_over_a_rotation(shim, tmp_path, memory_path, NEVER_SYNCED, share=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("policy", [SYNCED, WITHIN_50_MS, NEVER_SYNCED], ids=["synced", "within-50-ms", "never-synced"])
def test_after_a_power_cut_at_every_point(shim: Path, tmp_path: Path, memory_path: Path, policy: Sequence[str]) -> None:
    cuts_over_a_rotation(shim, tmp_path, memory_path, policy, share=1)


def test_a_real_process_starts_after_a_power_cut(shim: Path, tmp_path: Path, memory_path: Path) -> None:
    story, events, root = traced_run(shim, tmp_path, SYNCED)
    disk, rng = Disk(root), random.Random(3)
    chosen = set(rng.sample(range(len(events) // 4, len(events)), 8))
    for place, event in enumerate(events, 1):
        disk.step(event)
        if place not in chosen:
            continue
        write_image(disk.holes(rng, SECTOR_BYTES), memory_path)
        with Server(memory_path, SYNCED, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
            wrong = complaints(story.expected_at(place), look(client, story.ids), count_jobs(client))
            assert not wrong, f"after event {place}: {wrong[:5]}"


def test_what_a_start_has_read_is_synced_before_it_is_told(shim: Path, tmp_path: Path, memory_path: Path) -> None:
    story, events, root = traced_run(shim, tmp_path, NEVER_SYNCED)
    again = tmp_path / "again"
    again.mkdir()
    faults = Faults(shim, again, root)
    with Server(root, SYNCED, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        told = look(client, story.ids)
        server.kill()
    disk = Disk(root)
    for event in events:
        disk.step(event)
    for event in faults.events():
        if event.kind == Kind.SEND:
            break
        disk.step(event)
    write_image(disk.synced(), memory_path)
    seen = replay(memory_path, story.ids, SEGMENT_BYTES).seen
    assert {id: shown.body for id, shown in seen.items() if shown} == {
        id: shown.body for id, shown in told.items() if shown
    }


def test_an_idle_server_syncs_what_it_wrote(shim: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    faults = Faults(shim, tmp_path, directory)
    with Server(directory, WITHIN_50_MS, env=faults.env) as server, server.connect() as client:
        for _ in range(4):
            assert client.ask(b"put 0 0 60 3", b"abc").word == "INSERTED"
        wait_until(lambda: synced_bytes(directory, faults).count(b"abc") == 4, "a sync of the four jobs")


def test_a_full_segment_is_synced_though_the_log_goes_on_in_the_next(shim: Path, tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    faults = Faults(shim, tmp_path, directory)
    with Server(directory, WITHIN_50_MS, segment_bytes=SEGMENT_BYTES, env=faults.env) as server:
        with server.connect() as client:
            for number in range(40):
                body = b"<%02d>" % number + bytes(500)
                assert client.ask(b"put 0 0 60 %d" % len(body), body).word == "INSERTED"
            assert len(segment_numbers(directory)) > 2
            wait_until(lambda: all_there(synced_bytes(directory, faults)), "a sync of all segments")


def all_there(content: bytes) -> bool:
    """Whether the forty jobs are."""
    return all(b"<%02d>" % number in content for number in range(40))


def synced_bytes(directory: Path, faults: Faults) -> bytes:
    """All that would certainly survive a power cut now."""
    disk = Disk(directory)
    for event in faults.events():
        disk.step(event)
    return b"".join(disk.synced().values())


def test_the_simulation_finds_that_beanstalkd_never_syncs_its_folder(
    shim: Path, tmp_path: Path, beanstalkd: str
) -> None:
    story, events, root = traced_run(shim, tmp_path, SYNCED, kind=BEANSTALKD)
    disk = Disk(root)
    for event in events:
        disk.step(event)
    after = tmp_path / "after"
    after.mkdir()
    found = []
    for image in (disk.everything(), disk.synced()):
        write_image(image, after)
        with Server(after, SYNCED, kind=BEANSTALKD) as server, server.connect() as client:
            found.append(complaints(story.expected_at(len(events)), look(client, story.ids), count_jobs(client)))
    assert found[0] == []
    assert any("it is gone" in line for line in found[1]), found[1]
