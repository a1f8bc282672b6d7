"""Directories with all kinds of damage: `check` says what a start does, and a repaired log starts.

The rules of both are the same (`fastbean.binlog.damage_rules`), but the readers are not: a start restores jobs, the
tools read record by record. Whatever is done to a directory, they must agree on it: sound, torn, damaged or refused;
the same jobs; and what a start made of it must be sound, and the same, at the next start.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastbean.binlog import inspection, segment_files, tool
from fastbean.binlog.saved_job import SavedJob
from fastbean.errors import BinlogError

from .expected_state import ExpectedState, look
from .powercut import Image, read_image, write_image
from .process import Server, segment_numbers
from .replay import count_jobs, started
from .writers import Load

SEGMENT_BYTES = 8192
HEADER_BYTES = 64
SOUND, TORN, DAMAGED, UNUSABLE = 0, 1, 2, 10
REFUSED = (DAMAGED, UNUSABLE)
SECOND_NS = 10**9
POLICIES = {"synced": ("-f", "0"), "within-50-ms": ("-f", "50"), "never-synced": ("-F",)}

Jobs = dict[int, tuple[object, ...]]


@dataclass
class Sample:
    """A log as a killed server left it.

    files: their names, in order. last: the place of the last segment in use. ids: of all jobs. folder: for one file.
    """

    image: Image
    files: list[str]
    last: int
    ids: range
    folder: Path

    def records(self, place: int) -> list[int]:
        """The offsets in one of the files between records, the end of the header and of the last one too."""
        name = self.files[place]
        segment = inspection.Segment(int(name.split("-")[1].split(".")[0]), self.written(name))
        header = segment.header
        assert header is not None
        return [at for at, _ in segment.scan(header.first_lsn)]

    def written(self, name: str) -> Path:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        path.write_bytes(self.image[name])
        return path


def name_of(number: int) -> str:
    return segment_files.name_of(number)


def make_sample(folder: Path, policy: Sequence[str], enough: Callable[[Path, int], bool]) -> Sample:
    """Works on a server and kills it when its directory, and the number of commands so far, are `enough`.

    Only segments are kept, and a spare is there for certain.
    """
    folder.mkdir()
    directory = folder / "log"
    directory.mkdir()
    expected = ExpectedState(1)
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES) as server:
        load = Load(expected, random.Random(5), largest=900, jobs=60, shared=False)
        load.run(server, lambda: enough(directory, expected.acknowledged))
        server.kill()
    image, used = read_image(directory), used_segments(directory)
    numbers = [*used, used[-1] + 1]
    image = {name_of(number): image.get(name_of(number), bytes(SEGMENT_BYTES)) for number in numbers}
    return Sample(image, list(image), len(used) - 1, range(1, expected.highest_id + 2), folder / "parts")


def used_segments(directory: Path) -> list[int]:
    """Those that were begun."""
    found = []
    for number in segment_numbers(directory):
        with contextlib.suppress(FileNotFoundError), (directory / name_of(number)).open("rb") as file:
            if file.read(1) != b"\0":
                found.append(number)
    return found


def is_large(directory: Path) -> bool:
    """Whether the first segments are gone, some are there, and the last one has a few records."""
    used = used_segments(directory)
    return (
        used[0] > 1 and len(used) > 3
        and len((directory / name_of(used[-1])).read_bytes().rstrip(b"\0")) > SEGMENT_BYTES // 4
    )  # fmt: skip


@pytest.fixture(scope="module", params=POLICIES.values(), ids=POLICIES)
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, Sample]:
    """A log of a few segments, whose first ones are gone; and one in its first segment."""
    folder = tmp_path_factory.mktemp("samples")
    large = make_sample(folder / "large", request.param, lambda directory, _: is_large(directory))
    small = make_sample(folder / "small", request.param, lambda _, commands: commands > 12)
    assert small.last == 0
    return large, small


@pytest.fixture
def sample(samples: tuple[Sample, Sample]) -> Sample:
    """The larger one."""
    return samples[0]


@pytest.fixture
def small(samples: tuple[Sample, Sample]) -> Sample:
    """The smaller one."""
    return samples[1]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is writing here: nothing settles."""
    monkeypatch.setattr(inspection, "SETTLE_S", 0)


def jobs_on_disk(directory: Path) -> Jobs:
    """What the tools read."""
    return {job.id: as_told(job) for job in inspection.Inspection(directory).jobs.values()}


def as_told(job: SavedJob) -> tuple[object, ...]:
    counters = (job.reserves, job.timeouts, job.releases, job.buries, job.kicks)
    # Its delay may end in between.
    state = "" if job.tube.startswith(b"late") else job.state
    return (job.body, job.tube.decode(), state, job.pri, job.delay_s, job.ttr_s, *counters)


def start(directory: Path, ids: range) -> tuple[int, Jobs, str]:
    """Starts a server: the status that `check` should have, the jobs, and why it was refused."""
    try:
        with started(directory, SEGMENT_BYTES) as (client, warnings):
            found: Jobs = {}
            for id, seen in look(client, ids).items():
                if seen is not None:
                    stats = seen.stats
                    counters = (int(stats[key]) for key in ("reserves", "timeouts", "releases", "buries", "kicks"))
                    state = "" if stats["tube"].startswith("late") else stats["state"]
                    numbers = (int(stats[key]) for key in ("pri", "delay", "ttr"))
                    found[id] = (seen.body, stats["tube"], state, *numbers, *counters)
            assert count_jobs(client) == len(found)
    except BinlogError as refusal:
        text = str(refusal)
        assert "\n" not in text
        assert str(directory) in text
        return DAMAGED, {}, text
    return (TORN if warnings else SOUND), found, ""


def judge(sample: Sample, folder: Path, image: Image) -> int:
    """Compares what check, start and repair make of a directory; returns the status of check."""
    write_image(image, folder)
    status = tool.main(["check", str(folder)])
    read = {} if status in REFUSED else jobs_on_disk(folder)
    verdict, there, why = start(folder, sample.ids)
    assert (status in REFUSED) == (verdict in REFUSED), f"check ends with {status}; the start: {why or verdict}"
    if verdict in REFUSED:
        after = {name: content for name, content in read_image(folder).items() if name != "lock"}
        assert after == image, "a start that was refused has changed something"
        assert "fastbean binlog repair" in why
        judge_repair(sample, folder, image)
        return status
    assert verdict == status, f"check ends with {status}, the start is {verdict}"
    assert there == read
    assert tool.main(["check", str(folder)]) == SOUND
    assert start(folder, sample.ids)[:2] == (SOUND, there), "the second start is not like the first one"
    return status


def judge_repair(sample: Sample, folder: Path, image: Image) -> None:
    """After a repair a server starts, with what the tools read; all old files are kept."""
    assert tool.main(["repair", str(folder)]) == 0
    assert tool.main(["check", str(folder)]) == SOUND
    read = jobs_on_disk(folder)
    verdict, there, why = start(folder, sample.ids)
    assert (verdict, there) == (SOUND, read), why
    (aside,) = (path for path in folder.iterdir() if path.is_dir())
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == image


def judge_all(sample: Sample, folder: Path, images: Iterator[tuple[str, Image]]) -> dict[str, int]:
    """Judges each; returns the statuses of check by what was done."""
    statuses = {}
    for what, image in images:
        try:
            statuses[what] = judge(sample, folder, image)
        except AssertionError as wrong:
            raise AssertionError(f"{what}: {wrong}") from wrong
    return statuses


def changed(sample: Sample, place: int, change: Callable[[bytearray], None]) -> Image:
    """The image with other bytes in one of its files."""
    content = bytearray(sample.image[sample.files[place]])
    change(content)
    return {**sample.image, sample.files[place]: bytes(content)}


def flipped(sample: Sample, place: int, offset: int, bits: int = 0xFF) -> Image:
    def flip(content: bytearray) -> None:
        content[offset] ^= bits

    return changed(sample, place, flip)


def zeroed(sample: Sample, place: int, offset: int, end: int | None = None) -> Image:
    def zero(content: bytearray) -> None:
        content[offset:end] = bytes(len(content[offset:end]))

    return changed(sample, place, zero)


def cut(sample: Sample, place: int, offset: int) -> Image:
    def truncate(content: bytearray) -> None:
        del content[offset:]

    return changed(sample, place, truncate)


def without(sample: Sample, *places: int) -> Image:
    gone = {sample.files[place] for place in places}
    return {name: content for name, content in sample.image.items() if name not in gone}


def around_records(sample: Sample, places: Sequence[int]) -> Iterator[tuple[int, int]]:
    for place in places:
        for end in sample.records(place):
            yield from ((place, offset) for offset in (end - 1, end, end + 1) if offset < SEGMENT_BYTES)


def test_the_undamaged_log_is_sound(sample: Sample, small: Sample, memory_path: Path) -> None:
    assert judge(sample, memory_path, sample.image) == SOUND
    assert judge(small, memory_path, small.image) == SOUND
    assert judge(sample, memory_path, {**sample.image, "fastbean-9.part": b"begun", "replacing.part": b""}) == SOUND


@pytest.mark.parametrize("which", ["first", "middle", "last in use", "first two", "all but the last in use"])
def test_a_missing_segment_is_named(sample: Sample, memory_path: Path, which: str) -> None:
    places = {
        "first": [0], "middle": [1], "last in use": [sample.last], "first two": [0, 1],
        "all but the last in use": list(range(sample.last)),
    }[which]  # fmt: skip
    image = without(sample, *places)
    write_image(image, memory_path)
    verdict, _, why = start(memory_path, sample.ids)
    assert verdict == DAMAGED
    named = [name for name in (sample.files[place] for place in places) if name in why]
    assert len(named) == 1
    assert "missing" in why
    assert judge(sample, memory_path, image) == DAMAGED


def test_only_spares_are_left(sample: Sample, small: Sample, memory_path: Path) -> None:
    assert judge(sample, memory_path, without(sample, *range(sample.last + 1))) == DAMAGED
    assert judge(small, memory_path, without(small, 0)) == DAMAGED
    assert judge(small, memory_path, {name_of(1): bytes(SEGMENT_BYTES)}) == SOUND
    assert judge(small, memory_path, {name_of(1): b""}) == SOUND


@pytest.mark.parametrize("bits", [0xFF, 1])
def test_flipped_bytes_of_headers(sample: Sample, small: Sample, memory_path: Path, bits: int) -> None:
    for made, places in ((sample, (0, 1, sample.last)), (small, (0,))):
        statuses = judge_all(made, memory_path, (
            (f"byte {offset} of {made.files[place]}", flipped(made, place, offset, bits))
            for place in places for offset in range(HEADER_BYTES)
        ))  # fmt: skip
        assert set(statuses.values()) == {DAMAGED}


def test_headers_that_are_torn(sample: Sample, small: Sample, memory_path: Path) -> None:
    for made in (sample, small):
        statuses = judge_all(made, memory_path, (
            (f"{made.files[place]} from {offset} on {rest.__name__}", rest(made, place, offset))
            for place in {0, 1, made.last} if place <= made.last
            for offset in (0, 1, 8, 30, 63, HEADER_BYTES) for rest in (zeroed, cut)
        ))  # fmt: skip
        assert made is small or DAMAGED in statuses.values()


def test_headers_that_are_missing_before_records(sample: Sample, small: Sample, memory_path: Path) -> None:
    for made in (sample, small):
        judge_all(made, memory_path, (
            (f"{made.files[place]} {start} to {end}", zeroed(made, place, start, end))
            for place in range(made.last + 1) for start, end in ((0, HEADER_BYTES), (0, 512), (0, 4096), (8, 30))
        ))  # fmt: skip


@pytest.mark.parametrize("rest", [zeroed, cut], ids=lambda rest: rest.__name__)
def test_cut_around_every_record(sample: Sample, small: Sample, memory_path: Path, rest: Callable[..., Image]) -> None:
    for made, places in ((sample, (sample.last - 1, sample.last)), (small, (0,))):
        statuses = judge_all(made, memory_path, (
            (f"{made.files[place]} {rest.__name__} from {offset} on", rest(made, place, offset))
            for place, offset in around_records(made, places)
        ))  # fmt: skip
        assert {SOUND, TORN} <= set(statuses.values())


def test_flipped_bytes_around_every_record(sample: Sample, small: Sample, memory_path: Path) -> None:
    for made, places in ((sample, (0, sample.last)), (small, (0,))):
        statuses = judge_all(made, memory_path, (
            (f"{made.files[place]} flipped at {offset}", flipped(made, place, offset))
            for place, offset in around_records(made, places)
        ))  # fmt: skip
        assert TORN in statuses.values()


def test_holes(sample: Sample, memory_path: Path) -> None:
    judge_all(sample, memory_path, (
        (f"{sample.files[place]}: hole of {size} at {offset}", zeroed(sample, place, offset, offset + size))
        for place in range(sample.last + 1) for size in (512, 4096) for offset in range(0, SEGMENT_BYTES, size)
    ))  # fmt: skip


def test_swapped_files(sample: Sample, memory_path: Path) -> None:
    for one in range(sample.last + 1):
        for other in range(one):
            first, second = sample.files[one], sample.files[other]
            image = {**sample.image, first: sample.image[second], second: sample.image[first]}
            assert judge(sample, memory_path, image) == DAMAGED
            write_image(image, memory_path)
            assert tool.main(["repair", str(memory_path)]) == 0
            mended = jobs_on_disk(memory_path)
            write_image(sample.image, memory_path)
            assert mended == jobs_on_disk(memory_path), "a repair loses jobs, though all files are there"


def test_a_segment_twice(sample: Sample, memory_path: Path) -> None:
    for place in range(sample.last + 1):
        image = {**sample.image, sample.files[sample.last + 1]: sample.image[sample.files[place]]}
        assert judge(sample, memory_path, image) == DAMAGED


def test_a_spare_in_the_middle(sample: Sample, memory_path: Path) -> None:
    for place in range(sample.last):
        for size in (SEGMENT_BYTES, 4096, 0):
            judge(sample, memory_path, {**sample.image, sample.files[place]: bytes(size)})


def test_spares_of_all_kinds(sample: Sample, memory_path: Path) -> None:
    spare = int(sample.files[-1].split("-")[1].split(".")[0])
    for sizes in ((0,), (4096, SEGMENT_BYTES), (SEGMENT_BYTES, 0), (SEGMENT_BYTES, 2 * SEGMENT_BYTES, 4096)):
        more = {name_of(spare + place): bytes(size) for place, size in enumerate(sizes)}
        assert judge(sample, memory_path, {**sample.image, **more}) == SOUND
    assert judge(sample, memory_path, {**sample.image, name_of(spare + 2): bytes(SEGMENT_BYTES)}) == DAMAGED


def test_a_shed_record_that_is_lost(sample: Sample, memory_path: Path) -> None:
    """The last one of all that say that the segments before the first one are gone, and everything behind it."""
    first = int(sample.files[0].split("-")[1].split(".")[0])
    statuses = set()
    for place in range(sample.last + 1):
        number = first + place
        segment = inspection.Segment(number, sample.written(name_of(number)))
        assert segment.header is not None
        for at, members in segment.scan(segment.header.first_lsn):
            if members and members["type"] == "shed" and members["below"] >= first:
                statuses.add(judge(sample, memory_path, flipped(sample, place, at + 6)))
                statuses.add(judge(sample, memory_path, {
                    name: content if int(name.split("-")[1].split(".")[0]) < number else bytes(SEGMENT_BYTES)
                    for name, content in zeroed(sample, place, at).items()
                }))  # fmt: skip
    assert DAMAGED in statuses
