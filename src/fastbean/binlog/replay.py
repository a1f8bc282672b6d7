"""From the files of a log to the jobs in an engine: reading, and what is done about damage.

Reading ends at the first bytes that are no record. If the log says of itself that it was synced beyond that place, what
is missing there was acknowledged: the start is refused, and nothing is changed. Otherwise it is what a power cut may
take away: all from there on, in later segments too, is saved in a subfolder, cut off, and reported.
"""

import mmap
import os
import shutil
import time
from pathlib import Path

from fastbean._binlog import Binlog, highest_mark
from fastbean.binlog import segments
from fastbean.binlog.segments import HEADER, Header
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROGRESS_S = 2.0


class Replay:
    """Reads the log in ``directory`` into ``journal`` (and so into its engine). ``progress`` is called with a text."""

    def __init__(
        self, directory: Path, journal: Binlog, log: "Callable[..., None]", progress: "Callable[[str], None]"
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._log = log
        self._progress = progress
        self._told_s = time.monotonic()
        self.last: tuple[int, Path] | None = None  # the segment in which the log goes on
        self.spares: list[Path] = []

    def run(self) -> None:
        """Read everything. Raises BinlogError if something that was synced is missing or damaged."""
        found = segments.list_segments(self._directory)
        for place, (number, path) in enumerate(found):
            self._tell(place, len(found))
            damage = self._read(number, path)
            if damage is not None:
                self._cut(path, damage, found[place + 1 :])
                return

    def _tell(self, done: int, count: int) -> None:
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self._told_s = time.monotonic()
            self._progress(f"reading the log: {done} of {count} segments")

    def _read(self, number: int, path: Path) -> int | None:
        """Load one segment. Returns the offset from which on it is damaged, or None."""
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                self.spares.append(path)
                return None
            # It may be known to the page cache only; what is told to clients from here on must not be less safe.
            os.fsync(file.fileno())
            with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as data:
                header = segments.parse_header(data[: HEADER.size], str(path))
                if header is None and is_zero(data, 0):
                    self.spares.append(path)
                    return None
                if header is None or header.number != number or self.spares or not self._continues(header):
                    return 0
                return self._load(header, path, data)

    def _continues(self, header: Header) -> bool:
        return self.last is None or header.first_lsn == self._journal.end

    def _load(self, header: Header, path: Path, data: mmap.mmap) -> int | None:
        with memoryview(data) as view:
            end, offset = self._journal.load(header.number, view, header.first_lsn, header.id_limit, header.floor)
        if end == "memory":
            raise BinlogError("there is not enough memory for the jobs of the log")
        self.last = header.number, path
        if end == "unknown":
            raise BinlogError(
                f"{path}: at offset {offset} a job changes that the log does not know; a segment before it is missing. "
                "Put it back, or run: python -m fastbean.binlog repair " + str(self._directory)
            )
        return None if end == "end" and is_zero(data, offset) else offset

    def _highest(self, number: int, path: Path, *, of_ids: bool = False) -> int:
        """What a segment tells of the last sync, or of the ids; without a readable header it begins where we are."""
        data = path.read_bytes()
        header = segments.parse_header(data)
        first_lsn = header.first_lsn if header else self._journal.end
        told = header.id_limit if header and of_ids else 0
        return max(told, highest_mark(data, number, first_lsn, of_ids)) if data else told

    @staticmethod
    def _was_begun(path: Path) -> bool:
        """Whether a segment with an unreadable header holds something: behind a torn header there are zeros."""
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return (
                any(data[: HEADER.size])
                and segments.parse_header(data[: HEADER.size]) is None
                and not is_zero(data, min(HEADER.size, len(data)))
            )

    def _cut(self, path: Path, offset: int, later: list[tuple[int, Path]]) -> None:
        """The log ends at `offset` of this file; deal with all behind it."""
        behind = [(int(path.name.removeprefix("fastbean-").removesuffix(".log")), path), *later]
        marks = [self._journal.durable, *(self._highest(number, each) for number, each in behind)]
        if max(marks) > self._journal.end or (offset < HEADER.size and self._was_begun(path)):
            raise BinlogError(
                f"{path}: damaged at offset {offset}, though what stood there was synced. Nothing was changed. Restore "
                f"it from a copy, or lose what is damaged: python -m fastbean.binlog repair {self._directory}"
            )
        self._journal.spare_ids(max(self._highest(number, each, of_ids=True) for number, each in behind))
        if offset < HEADER.size:
            self.spares.append(path)
        aside = set_aside(self._directory, path, offset, [each for _, each in later])
        self._log(
            "WARNING",
            "the end of the log was torn; what was cut off is saved",
            offset=offset,
            file=path.name,
            saved=aside,
        )


def set_aside(directory: Path, path: Path, offset: int, later: list[Path]) -> str:
    """Save a segment's bytes from `offset` on, and all later segments, in a new subfolder; then cut them off.

    Returns the subfolder's name.
    """
    aside = directory / time.strftime("torn-%Y%m%dT%H%M%S")
    number = 0
    while aside.exists():
        number += 1
        aside = directory / (time.strftime("torn-%Y%m%dT%H%M%S") + f"-{number}")
    aside.mkdir()
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(offset)
        with (aside / f"{path.name}.from-{offset}").open("wb") as saved:
            shutil.copyfileobj(file, saved)
            saved.flush()
            os.fsync(saved.fileno())
        segments.sync_directory(aside)
        segments.sync_directory(directory)
        # Later segments first: the log must never look as if it went on behind a gap.
        for each in reversed(later):
            each.rename(aside / each.name)
            segments.sync_directory(directory)
        segments.sync_directory(aside)
        os.truncate(file.fileno(), offset)
        if offset >= HEADER.size:
            os.truncate(file.fileno(), size)
        os.fsync(file.fileno())
    return aside.name


def is_zero(data: mmap.mmap, offset: int) -> bool:
    """Whether nothing but zeros stands in a file from `offset` on."""
    step = 1 << 16
    return all(data[at : at + step].count(0) == min(step, len(data) - at) for at in range(offset, len(data), step))
