"""A small log, cut at every byte and with every byte flipped: never a wrong job, never a silent loss.

Below the highest durable mark the start is refused, with a line that names the file and the offset. From there on a
server starts with what came before the damage, says so, and keeps what it cut.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastbean.errors import BinlogError

from .all_commands_session import Session, all_commands_once
from .expected_state import ExpectedState
from .faults import Event, Faults, Kind
from .powercut import Image, Story, complaints, write_image
from .process import Server
from .replay import Replayed, replay

SEGMENT_BYTES = 16384


@dataclass
class Sample:
    """A small log in one segment, and what is known of it.

    ends: of each command of `story`, in order, where its last record ends in the segment. header_bytes: where the first
    record begins. durable: up to where the newest write knew the segment to be synced.
    """

    image: Image
    name: str
    story: Story
    events: int
    ends: list[int]
    header_bytes: int
    durable: int

    @property
    def used(self) -> int:
        """Bytes that were written."""
        return self.ends[-1]

    def damaged(self, content: bytes) -> Image:
        """The image with other bytes in its segment."""
        return {**self.image, self.name: content}

    def complaints(self, replayed: Replayed, intact: int) -> list[str]:
        """What is wrong, if the first `intact` commands must have survived and the others may have."""
        expected = self.story.expected_at(self.events, acknowledged_counts=False)
        expected.writers[0].at_least = intact
        return complaints(expected, replayed.seen, replayed.there)

    def intact(self, offset: int) -> int:
        """How many commands' records end before this offset."""
        return sum(end <= offset for end in self.ends)


@pytest.fixture(scope="module")
def sample(shim: Path, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """The log of a run in which everything happened once, synced after each command; then kill -9."""
    folder = tmp_path_factory.mktemp("sample")
    directory = folder / "log"
    directory.mkdir()
    faults = Faults(shim, folder, directory)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        session = Session(ExpectedState(1), client, lambda: faults.records)
        for _ in all_commands_once(session):
            pass
        server.kill()
    events = faults.events()
    story = Story(session.notes, events, 1)
    image = {path.name: path.read_bytes() for path in directory.iterdir()}
    written = list(_writes(events))
    name = written[-1][1]
    assert {other for _, other, _, _ in written} == {name}, "the sample is to fit into one segment"
    ends = [max(end for place, _, _, end in written if place < note.op.answered_at) for note in session.notes]
    header_bytes = min(start for _, _, start, _ in written if start > 0)
    return Sample(image, name, story, len(events), ends, header_bytes, _marked(events, written))


def _writes(events: list[Event]) -> Iterator[tuple[int, str, int, int]]:
    """Of all writes to segments: place, name of the file, from where, to where."""
    names: dict[int, str] = {}
    for place, event in enumerate(events):
        if event.kind in (Kind.CREATE, Kind.OPEN) and event.result >= 0:
            names[event.fd] = Path(event.path).name
        elif event.kind == Kind.WRITE and names[event.fd].endswith(".log") and not event.is_of_zeros:
            yield place, names[event.fd], event.offset, event.offset + event.result


def _marked(events: list[Event], written: list[tuple[int, str, int, int]]) -> int:
    """Up to where the log was synced when it was last written to."""
    synced = began = 0
    newest = written[-1][0]
    for place, event in enumerate(events[:newest]):
        if event.kind == Kind.SYNC_BEGIN:
            began = max((end for at, _, _, end in written if at < place), default=0)
        elif event.kind == Kind.SYNC:
            synced = began
    return synced


def saved_files(folder: Path) -> list[Path]:
    """Files that are neither segments nor the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return [path for path in files if not re.fullmatch(r"fastbean-\d+\.log|lock", path.name)]


def judge_refusal(sample: Sample, text: str) -> None:
    """One line that names the file and an offset."""
    assert sample.name in text, f"the message does not name the file: {text}"
    assert re.search(r"offset \d", text), f"the message names no offset: {text}"
    assert "\n" not in text


def try_damage(sample: Sample, folder: Path, content: bytes, offset: int, *, may_refuse: bool) -> str:
    """Starts on a damaged segment; returns "refused", "cut" or "whole". Fails if that was wrong."""
    write_image(sample.damaged(content), folder)
    try:
        replayed = replay(folder, sample.story.ids, SEGMENT_BYTES)
    except BinlogError as refusal:
        if not may_refuse:
            raise
        judge_refusal(sample, str(refusal))
        return "refused"
    wrong = sample.complaints(replayed, sample.intact(offset))
    assert not wrong, f"damage at {offset}: {wrong[:5]}"
    return "cut" if replayed.warnings else "whole"


def test_the_undamaged_log_starts(sample: Sample, memory_path: Path) -> None:
    write_image(sample.image, memory_path)
    replayed = replay(memory_path, sample.story.ids, SEGMENT_BYTES)
    assert sample.complaints(replayed, len(sample.ends)) == []
    assert replayed.warnings == []
    assert 0 < sample.header_bytes < sample.durable <= sample.used


@pytest.mark.parametrize("rest", ["zeros", "nothing"])
def test_cut_at_every_byte(sample: Sample, memory_path: Path, rest: str) -> None:
    whole = sample.image[sample.name]
    for offset in range(sample.header_bytes, sample.used):
        tail = bytes(len(whole) - offset) if rest == "zeros" else b""
        outcome = try_damage(sample, memory_path, whole[:offset] + tail, offset, may_refuse=False)
        torn = offset not in (sample.header_bytes, *sample.ends) and any(whole[offset : sample.used])
        if torn and outcome == "cut":
            assert saved_files(memory_path), f"cut at {offset}: what was cut is not kept"


def test_cut_inside_the_header(sample: Sample, memory_path: Path) -> None:
    whole = sample.image[sample.name]
    for offset in range(1, sample.header_bytes):
        write_image(sample.damaged(whole[:offset]), memory_path)
        try:
            replayed = replay(memory_path, sample.story.ids, SEGMENT_BYTES)
        except BinlogError as refusal:
            judge_refusal(sample, str(refusal))
        else:
            assert sample.complaints(replayed, 0) == []
            assert replayed.warnings, f"cut at {offset}, and nothing was said"


def flip(sample: Sample, folder: Path, offset: int, bits: int) -> None:
    """Flips bits of one byte, and judges what becomes of it."""
    content = bytearray(sample.image[sample.name])
    content[offset] ^= bits
    outcome = try_damage(sample, folder, bytes(content), offset, may_refuse=offset < sample.used)
    if offset < sample.durable:
        assert outcome == "refused", f"the byte at {offset}, which was known to be synced, is lost in silence"
    elif offset < sample.used:
        assert outcome == "cut", f"the byte at {offset} is wrong and nothing was said"
        assert saved_files(folder), f"the byte at {offset} is wrong and what was cut is not kept"


def test_flip_every_byte_of_the_header(sample: Sample, memory_path: Path) -> None:
    for offset in range(sample.header_bytes):
        flip(sample, memory_path, offset, 0xFF)


def test_flip_every_byte_of_the_records(sample: Sample, memory_path: Path) -> None:
    for offset in range(sample.header_bytes, sample.used + 20):
        flip(sample, memory_path, offset, 0xFF)


@pytest.mark.slow
def test_flip_every_bit(sample: Sample, memory_path: Path) -> None:
    for offset in range(sample.used + 20):
        for bit in range(8):
            flip(sample, memory_path, offset, 1 << bit)
