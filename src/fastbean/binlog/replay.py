"""Reads the files of a binlog into an engine, and deals with damage.

Reading ends at the first bytes that are no record. If the binlog says that it was synced beyond that place, what is
missing there was acknowledged: the start is refused, and nothing is changed. Otherwise it is what a power cut may take
away: everything after that place, later segments included, is saved in a subfolder, cut off, and reported.
``damage_rules`` has the rules, which the tools share.
"""

from __future__ import annotations

import os
import time

from fastbean.binlog import damage_rules, replacement, segment_files
from fastbean.binlog.loader import Loader
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import find_seed, highest_mark
from fastbean.binlog.segment_files import HEADER, Header
from fastbean.binlog.writer import BinlogWriter
from fastbean.binlog.zeros import reads_as_zeros, write_zeros
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PROGRESS_S = 2.0


class Replay:
    """Reads the binlog in ``directory`` into ``journal`` (and its engine). ``progress`` is called with a text."""

    def __init__(
        self, directory: str, journal: BinlogWriter, log: Callable[..., None], progress: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._journal = journal
        self._loader = Loader(journal)
        self._log = log
        self._progress = progress
        self._reported_s = time.monotonic()
        self.last: tuple[int, str] | None = None  # the segment in which the binlog continues
        self._first_lsn: int | None = None  # where the binlog begins, once a header was read
        self._run: bytes | None = None  # likewise, the identity of its run
        self.spares: list[str] = []

    def run(self) -> None:
        """Read everything. Raises BinlogError if something that was synced is missing or damaged."""
        found = segment_files.list_segments(self._directory)
        lost = damage_rules.gap([number for number, _ in found])
        if lost:
            raise self._missing(lost)
        for place, (number, path) in enumerate(found):
            self._report_progress(place, len(found))
            damage = self._read(number, path)
            if damage is not None:
                self._cut(path, damage, found, place)
                return
        if found and damage_rules.lacks_first(found[0][0], self._first_lsn, self._journal.first_needed):
            raise self._missing(found[0][0] - 1)

    def _missing(self, number: int) -> BinlogError:
        return BinlogError(
            f"{segment_files.path_of(self._directory, number)}: missing, and maybe others beside it. "
            f"Nothing was changed. Put them back, or lose what they hold: "
            f"fastbean binlog repair {self._directory}"
        )

    def _report_progress(self, done: int, count: int) -> None:
        if time.monotonic() - self._reported_s >= PROGRESS_S:
            self._reported_s = time.monotonic()
            self._progress(f"reading the binlog: {done} of {count} segments")

    def _read(self, number: int, path: str) -> int | None:
        """Load one segment. Returns the offset at which it is damaged, or None."""
        try:
            with open(path, "rb", buffering=0) as file:
                return self._read_file(number, path, file.fileno())
        except OSError as error:
            # The name belongs in the message with which the start ends.
            error.filename = path
            raise

    def _read_file(self, number: int, path: str, fd: int) -> int | None:
        # It may only be in the page cache, and replies to clients must not depend on data that is less safe.
        os.fsync(fd)
        if reads_as_zeros(fd):
            self.spares.append(path)
            return None
        header = segment_files.parse_header(os.pread(fd, HEADER.size, 0), path)
        end_lsn = None if self.last is None else self._journal.end
        trouble = damage_rules.trouble_at_head(header, number, end_lsn, self._run, after_spare=bool(self.spares))
        if header is None or trouble is not None:
            return 0
        end, offset = self._load(header, path, fd)
        return None if end == "end" and reads_as_zeros(fd, offset) else offset

    def _load(self, header: Header, path: str, fd: int) -> tuple[str, int]:
        """Returns what ended the reading, and where."""
        if self._run is None:
            self._first_lsn, self._run = header.first_lsn, header.run
        end, offset = self._loader.load(header, fd, os.fstat(fd).st_size)
        if end == "memory":
            raise BinlogError("there is not enough memory for the jobs of the binlog")
        if end == "newer":
            raise segment_files.newer_record(path, offset)
        if end == "impossible":
            raise BinlogError(
                f"{path}: damaged at offset {offset}: the checksum of the record there is right, but what it says "
                "cannot be. Nothing was changed. Restore it from a copy, or lose what is damaged: "
                f"fastbean binlog repair {self._directory}"
            )
        self.last = header.number, path
        if end == "unknown":
            raise BinlogError(
                f"{path}: at offset {offset} a job changes that the binlog does not know; an earlier segment is "
                "missing. Put it back, or run: fastbean binlog repair " + str(self._directory)
            )
        return end, offset

    def _highest(self, path: str, kind: str) -> int:
        """The highest number of this kind in a segment; see `highest_mark`.

        Without a header, its first LSN is the present one, and its run that of the binlog so far, or the one that its
        records show.
        """
        data = segment_files.read_file(path)
        header = segment_files.parse_header(data)
        first_lsn = header.first_lsn if header else self._journal.end
        run = header.run if header else self._run
        seed = run_seed(run) if run else find_seed(data, first_lsn)
        in_header = header.id_limit if header and kind == "next-id" else 0
        return max(in_header, highest_mark(data, seed, first_lsn, kind)) if data else in_header

    def _is_misplaced(self, number: int, path: str) -> bool:
        return damage_rules.is_misplaced(segment_files.read_file(path), number, self._journal.end, self._run)

    def _cut(self, path: str, offset: int, found: list[tuple[int, str]], place: int) -> None:
        """The binlog ends at `offset` of the file at this place; deal with everything after it."""
        rest = found[place:]

        def highest(kind: str) -> int:
            return max(self._highest(each, kind) for _, each in rest)

        if (
            max(self._journal.durable, highest("durable")) > self._journal.end
            or damage_rules.lacks_first(found[0][0], self._first_lsn, self._journal.first_needed)
            or (offset < HEADER.size and self._is_misplaced(found[place][0], path))
        ):
            raise BinlogError(
                f"{path}: damaged at offset {offset}, though that part was synced. Nothing was changed. Restore "
                f"it from a copy, or lose what is damaged: fastbean binlog repair {self._directory}"
            )
        self._journal.skip_ids(highest("next-id"))
        if offset < HEADER.size:
            self.spares.append(path)
        aside = set_aside(self._directory, path, offset, [each for _, each in rest[1:]])
        self._log("WARNING", "binlog-torn", offset=offset, file=os.path.basename(path), saved=aside)


def set_aside(directory: str, path: str, offset: int, later: list[str]) -> str:
    """Save a segment's bytes from `offset`, and all later segments, in a new subfolder; then cut them off.

    Returns the subfolder's name.
    """
    folder = replacement.new_folder_name(directory, "torn")
    aside = os.path.join(directory, folder)
    os.mkdir(aside)
    with open(path, "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        saved = os.path.join(aside, f"{os.path.basename(path)}.from-{offset}")
        replacement.write_file(saved, segment_files.read_file(path)[offset:].rstrip(b"\0"))
        segment_files.sync_directory(aside)
        segment_files.sync_directory(directory)
        # Later segments first: the binlog must never seem to continue after a gap.
        for each in reversed(later):
            os.rename(each, os.path.join(aside, os.path.basename(each)))
            segment_files.sync_directory(directory)
        segment_files.sync_directory(aside)
        # Its blocks stay allocated: a full disk would have no others. A header is zeroed last: without it, what follows
        # would look like damage.
        if offset < HEADER.size < size:
            write_zeros(file.fileno(), size, HEADER.size)
            os.fsync(file.fileno())
            size = HEADER.size
        write_zeros(file.fileno(), size, offset)
        os.fsync(file.fileno())
    return folder
