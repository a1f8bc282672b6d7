"""Reads a binlog directory without changing anything, even while a server is working on it.

A server only appends to the last segment and removes the first, so what was read stays true. `open_segments` makes sure
that nothing is missing at either end: it lists the directory before and after, and no segment may have come or gone in
between. It keeps each one open, so it can be read to the end even if the server removes it meanwhile.

The rules are those of a start (see ``damage_rules``): the binlog ends at the first bytes that are no record. If what
was there had been synced, the binlog is damaged, otherwise its tail is torn. What a server is just writing is neither.

It costs about five microseconds per record, a descriptor per segment, and the memory of all live jobs and of the
largest segment.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastbean.binlog import damage_rules, replacement, segment_files
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import find_record, find_seed, highest_mark, is_zero_from, records
from fastbean.binlog.saved_job import SavedJob, SavedTube
from fastbean.binlog.segment_files import HEADER, Header
from fastbean.errors import BinlogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeAlias

    Members: TypeAlias = dict[str, Any]

LOOKS = 1000
SETTLE_TRIES = 4
SETTLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Fault:
    """The place where a binlog ends although it should continue.

    - ``path``, ``offset``: the file, and where in it; None if the file is missing. ``what``: what is wrong.
    - ``torn``: a power cut may cause it, and a start cuts the tail here; nothing that was synced is missing.
    """

    path: str
    offset: int | None
    what: str
    torn: bool

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.offset is None else f"{self.path}: offset {self.offset}: {self.what}"


class Segment:
    """One file, open: its ``number``, ``path``, ``size`` in bytes, and ``header``, None if it has no valid one.

    ``found_header`` may be that of another segment. ``seed`` is that of the run to which the records belong: see
    `share_run`. A segment is ``spare`` if it was prepared but nothing was written to it yet. Raises OSError if the file
    cannot be opened, and BinlogError, here and later, if it cannot be read.
    """

    def __init__(self, number: int, path: str) -> None:
        self.number = number
        self.path = path
        self.is_foreign = False
        self._fd = -1
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._fd).st_size
        self.look_again()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def read(self, size: int = -1) -> bytes:
        """The present content of the file: its first ``size`` bytes, or all if that is negative."""
        try:
            with open(self._fd, "rb", buffering=0, closefd=False) as file:
                file.seek(0)
                return file.read(size)
        except OSError as error:
            raise BinlogError(f"{self.path}: cannot read it: {error.strerror}; look at the disk") from error

    def look_again(self) -> None:
        """Read the header again; a server may have written it since."""
        head = self.read(HEADER.size)
        self.found_header = segment_files.parse_header(head, self.path)
        self.header = self.found_header
        if self.header is not None and self.header.number != self.number:
            self.header = None
        self.seed = 0 if self.found_header is None else run_seed(self.found_header.run)
        self.spare = not any(head) and is_zero_from(self.read())

    def scan(self, first_lsn: int, at: int = HEADER.size) -> Iterator[tuple[int, Members | None]]:
        """The records from the offset ``at``, each with its offset.

        After the last one comes the offset where they end, with an empty dict if nothing was written after it, or with
        None if that is damage. A caller that continues after None gets the records after the damage. Raises BinlogError
        for a record that only a newer fastbean can read.
        """
        data = memoryview(self.read())
        while len(data) > HEADER.size:
            # A view that begins a header's length before `at`, because `records` skips a header unread.
            skipped = at - HEADER.size
            for offset, found in records(data[skipped:], self.seed, first_lsn + skipped):
                at = offset + skipped
                if isinstance(found, dict):
                    yield at, found
                elif found == "newer":
                    raise segment_files.newer_record(self.path, at)
            if is_zero_from(data, at):
                yield at, {}
                return
            yield at, None
            at = find_record(data, self.seed, first_lsn, at + 1)
            if at == len(data):
                return

    def is_impossible(self, lsn: int, at: int) -> bool:
        """Whether the bytes at the offset ``at`` have the checksum of a record at ``lsn``, but wrong members."""
        _, found = next(records(memoryview(self.read())[at - HEADER.size :], self.seed, lsn))
        return bool(found == "impossible")


def open_segments(directory: str) -> list[Segment]:
    """All segments of a directory, spares included, in order; complete as of the call or later.

    Raises BinlogError if the directory has no binlog of fastbean's, or it cannot be read.
    """
    for _ in range(LOOKS):
        try:
            before = segment_files.list_segments(directory)
            found = [Segment(number, path) for number, path in before]
            after = segment_files.list_segments(directory)
        except FileNotFoundError as error:
            if error.filename == directory:
                raise BinlogError(f"{directory}: there is no such directory") from error
            continue
        except OSError as error:
            raise BinlogError(f"{error.filename or directory}: cannot read it: {error.strerror}") from error
        # The first listing has everything that existed at its end, except for what had been removed before; the second
        # one everything that existed at its start. If they are equal, no first and no last segment is missing.
        if after == before:
            _refuse_what_is_no_binlog(directory, found)
            # Newest first: a segment that the server begins meanwhile must not follow one that still looked spare.
            for segment in reversed(found):
                segment.look_again()
                if segment.header is None and not segment.spare:
                    time.sleep(SETTLE_S)  # its server may be writing the header
                    segment.look_again()
            share_run(found)
            return found
    raise BinlogError(f"{directory}: its files change too fast to be read; try again when the server has less work")


def share_run(found: list[Segment]) -> None:
    """Have all segments read records of one run only: of the one that most headers name.

    If no header is readable, the records of the first segment may still show the run.
    """
    runs = Counter(segment.found_header.run for segment in found if segment.found_header is not None)
    if runs:
        seed = run_seed(runs.most_common(1)[0][0])
    else:
        seed = next((find_seed(segment.read(), 0) for segment in found if not segment.spare), 0)
    for segment in found:
        if segment.found_header is None or segment.seed != seed:
            segment.seed = seed
            segment.is_foreign = segment.found_header is not None


def _refuse_what_is_no_binlog(directory: str, found: list[Segment]) -> None:
    if segment_files.is_there(os.path.join(directory, replacement.MARKER)):
        raise BinlogError(f"{directory}: its binlog is being replaced; start fastbean on it, or repair it, to finish")
    if found:
        return
    from fastbean.binlog import beanstalkd

    if beanstalkd.has_binlog(directory):
        raise BinlogError(f"{directory}: contains a beanstalkd's binlog; start fastbean with -b on it to take it over")
    raise BinlogError(f"{directory}: there is no binlog in it, no file fastbean-N.log")


class Inspection:
    """Reads a whole binlog.

    - ``segments``: those in use. ``spares``: the number of prepared ones.
    - ``jobs``: the live ones by id. ``tubes``: the paused ones by name. ``records``: how many were read.
    - ``first_lsn``, ``end_lsn``: where the binlog begins and ends. ``durable_lsn``: up to where it says that it is
      synced.
    - ``id_limit``: every id ever assigned is below it. ``needed_lsn``: no record below it is needed, as far as the
      binlog says.
    - ``fault``: where the binlog ends too early, or None.
    - ``ends``: for each segment that was read, the offset where its records end.

    ``on_bytes`` is called after each segment with the bytes read so far and the total. Without ``keep_jobs``, jobs are
    neither kept nor checked. With ``salvage``, reading continues after damage: ``gaps`` then lists what was left out,
    and ``unknown`` has the ids of jobs that were changed but whose put could not be read.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep_jobs: bool = True,
        salvage: bool = False,
        on_bytes: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        directory = os.fspath(directory)
        found = open_segments(directory)
        numbers = [segment.number for segment in found]
        if salvage:
            by_their_headers(found)
        self.segments = _without_spares(found)
        self.spares = len(found) - len(self.segments)
        self.jobs: dict[int, SavedJob] = {}
        self.tubes: dict[bytes, SavedTube] = {}
        self.records = 0
        self.first_lsn = self.end_lsn = self.durable_lsn = 0
        self.id_limit = self._above_puts = 1
        self.needed_lsn = 0
        self.fault: Fault | None = None
        self.ends: list[int] = []
        self.gaps: list[str] = []
        self.unknown: set[int] = set()
        self._keep_jobs = keep_jobs
        self._salvage = salvage
        self._known_from: int | None = None
        self._run: bytes | None = None
        self._put_lsns: dict[int, int] = {}
        self._gap_behind = False  # whether the segment before ended with damage, so that the LSN cannot continue
        self._tubes: dict[bytes, bytes] = {}
        self._look_for_gap(directory, numbers)
        for place, segment in enumerate(self.segments):
            if self._is_over():
                return
            if segment.spare:
                self.ends.append(0)
            else:
                self._read(place, segment)
            on_bytes(sum(each.size for each in self.segments[: place + 1]), self.bytes_on_disk)
        if not self._is_over() and self._lacks_first(found[0].number):
            self._lost(directory, found[0].number - 1)

    @property
    def bytes_on_disk(self) -> int:
        """The size of all segments in use."""
        return sum(segment.size for segment in self.segments)

    def _lacks_first(self, number: int) -> bool:
        first_lsn = None if self._known_from is None else self.first_lsn
        return damage_rules.lacks_first(number, first_lsn, self.needed_lsn)

    def _look_for_gap(self, directory: str, numbers: list[int]) -> None:
        lost = damage_rules.gap(numbers)
        while lost:
            self._lost(directory, lost)
            numbers = [number for number in numbers if number > lost]
            lost = damage_rules.gap(numbers)

    def _lost(self, directory: str, number: int) -> None:
        """A segment is missing, according to its neighbours or to the binlog itself."""
        path = segment_files.path_of(directory, number)
        what = "missing, and maybe others beside it"
        self.gaps.append(f"{path}: {what}")
        if self.fault is None:
            self.fault = Fault(path, None, what, torn=False)

    def _read(self, place: int, segment: Segment) -> None:
        """Read one segment, to its end or to the first damage."""
        what = self._trouble_at_head(place, segment)
        if what is not None:
            self._fault(place, 0, what)
            if self._is_over():
                return
        header = segment.header
        if header is not None:
            self._follow(header)
        first_lsn = self.end_lsn
        start = HEADER.size
        while start:
            start = self._read_records(place, segment, first_lsn, start)
        self.ends.append(self.end_lsn - first_lsn + HEADER.size)

    def _read_records(self, place: int, segment: Segment, first_lsn: int, start: int) -> int:
        """Take in the records from an offset on. Returns where to read again what has been written meanwhile, or 0."""
        for at, found in segment.scan(first_lsn, start):
            self.end_lsn = first_lsn + at - HEADER.size
            self._gap_behind = found is None
            if found:
                self._apply(place, at, found)
            elif found is None:
                if self._settles(place, at):
                    return at
                self._fault(place, at, "there is no readable record here")
            if self._is_over():
                break
        return 0

    def _is_over(self) -> bool:
        """Whether damage has ended the reading."""
        return self.fault is not None and not self._salvage

    def _trouble_at_head(self, place: int, segment: Segment) -> str | None:
        before = self.segments[place - 1] if place else None
        end_lsn = None if before is None or self._gap_behind else self.end_lsn
        return damage_rules.trouble_at_head(
            segment.found_header, segment.number, end_lsn, self._run, after_spare=before is not None and before.spare
        )

    def _follow(self, header: Header) -> None:
        self.end_lsn = header.first_lsn
        if self._known_from is None:
            self.first_lsn = header.first_lsn
            self._known_from = header.floor
            self._run = header.run
        self.id_limit = max(self.id_limit, header.id_limit)

    def _apply(self, place: int, at: int, found: Members) -> None:
        """Apply one record."""
        self.records += 1
        kind = found["type"]
        if kind == "durable":
            self.durable_lsn = max(self.durable_lsn, found["lsn"])
        elif kind == "shed":
            self.needed_lsn = max(self.needed_lsn, found["below"])
        elif kind == "next-id":
            self.id_limit = max(self.id_limit if self._salvage else self._above_puts, found["id"])
        elif self._keep_jobs:
            self._apply_change(place, at, found)

    def _apply_change(self, place: int, at: int, found: Members) -> None:
        """Apply a record of a job or a tube."""
        kind = found["type"]
        if kind == "tube":
            self.tubes.pop(found["tube"], None)
            if found["pause"]:
                self.tubes[found["tube"]] = SavedTube(found["tube"], found["pause"], found["pause_end_ns"])
        elif kind == "cleared":
            self._clear(found["tube"], found["below"])
        elif "id" not in found:
            return  # of a later version, and may be skipped
        elif kind == "put":
            self.unknown.discard(found["id"])
            self.jobs[found["id"]] = self._job(found, found["created_ns"], found["ttr"], found["tube"], found["body"])
            self._above_puts = max(self._above_puts, found["id"] + 1)
            self.id_limit = max(self.id_limit, self._above_puts)
            self._put_lsns[found["id"]] = self.end_lsn
        elif found["id"] not in self.jobs:
            self._change_of_unknown(place, at, found["id"], kind == "delete")
        elif kind == "delete":
            del self.jobs[found["id"]]
        else:
            old = self.jobs[found["id"]]
            self.jobs[old.id] = self._job(found, old.created_ns, old.ttr_s, old.tube, old.body)

    def _clear(self, tube: bytes, below: int) -> None:
        ended = [job.id for job in self.jobs.values() if job.tube == tube and self._put_lsns[job.id] < below]
        for id in ended:
            del self.jobs[id]

    def _job(self, found: Members, created_ns: int, ttr_s: int, tube: bytes, body: bytes) -> SavedJob:
        return SavedJob(
            found["id"],
            found["pri"],
            found["delay"],
            ttr_s,
            created_ns,
            found.get("deadline_ns", 0),
            found["state"],
            found.get("burial", 0),
            found["reserves"],
            found["timeouts"],
            found["releases"],
            found["buries"],
            found["kicks"],
            self._tubes.setdefault(tube, tube),
            body,
        )

    def _change_of_unknown(self, place: int, at: int, id: int, deleted: bool) -> None:
        """A change of a job whose put was not seen.

        That is normal for a job below the floor: a removed segment may have had its put, and its end too.
        """
        if self._known_from is not None and id < self._known_from:
            return
        if not self._salvage:
            what = f"job {id} changes here, but its put is not in the binlog: something before it is missing"
            self.fault = Fault(self.segments[place].path, at, what, torn=False)
        elif deleted:
            self.unknown.discard(id)
        else:
            self.unknown.add(id)

    def _fault(self, place: int, at: int, what: str) -> None:
        """The binlog ends too early, at the offset ``at`` of a segment."""
        segment = self.segments[place]
        if self._salvage:
            self.gaps.append(f"{segment.path}: offset {at}: {what}")
        if self.fault is None:
            mark = max(self.durable_lsn, *(self._mark_in(each) for each in self.segments[place:]))
            was_synced = (
                mark > self.end_lsn
                or self._lacks_first(self.segments[0].number)
                or (
                    damage_rules.is_misplaced(segment.read(), segment.number, self.end_lsn, self._run)
                    if at < HEADER.size
                    else segment.is_impossible(self.end_lsn, at)
                )
            )
            self.fault = Fault(segment.path, at, what, torn=not was_synced)

    def _mark_in(self, segment: Segment) -> int:
        first_lsn = segment.header.first_lsn if segment.header is not None else self.end_lsn
        mark: int = highest_mark(segment.read(), segment.seed, first_lsn)
        return mark

    def _settles(self, place: int, at: int) -> bool:
        """Whether a server is just writing here: if so, there soon is a complete record."""
        if place != len(self.segments) - 1:
            return False
        segment = self.segments[place]
        first_lsn = self.end_lsn - at + HEADER.size
        for _ in range(SETTLE_TRIES):
            _, found = next(segment.scan(first_lsn, at))
            if found is not None:
                return True
            time.sleep(SETTLE_S)
        return False


def by_their_headers(found: list[Segment]) -> None:
    """Order segments by the numbers in their headers instead of those in their names; not those of another run."""
    for segment in found:
        if segment.is_foreign:
            segment.header = None
        elif segment.header is None and segment.found_header is not None:
            segment.number = segment.found_header.number
            segment.header = segment.found_header
    found.sort(key=lambda segment: segment.number)


def _without_spares(found: list[Segment]) -> list[Segment]:
    """All segments except the spares at the end."""
    count = len(found)
    while count and found[count - 1].spare:
        count -= 1
    return found[:count]
