"""The binlog of the real beanstalkd, versions 7 (1.5 and later) and 5 (up to 1.4.6): strict reader, version 7 writer.

Promises. Reading changes nothing in the directory. Every live job of a sound binlog is read. The format has no
checksums, so each record is checked against what a server can have written: sizes inside the file, names of tubes,
whole seconds, the CR LF after a body, members that never change. What fails is reported in ``BeanstalkdBinlog.damage``,
and reading continues at the next valid record: nothing is left out silently.

Costs. Reading: three to five microseconds per record and five per live job; memory for the largest file and for one
copy of the record of each live job. Writing: one pass; buried jobs are held until its end, because beanstalkd buries
them in the order of the binlog.

Invariant: records are kept in the layout of version 7, whichever version they were read from.
"""

from __future__ import annotations

import contextlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastbean.base.limits import DEFAULT_BINLOG_SIZE_BYTES, DEFAULT_MAX_JOB_SIZE_BYTES
from fastbean.binlog import segment_files
from fastbean.binlog.beanstalkd_layout import (
    BURIED,
    CRLF,
    DELAYED,
    DELETED,
    ID,
    LAYOUTS,
    LAYOUTS_32_BIT,
    MAX_U32,
    READY,
    RESERVED,
    SECOND_NS,
    STATE,
    VERSION_7,
    VERSION_BYTES,
    Layout,
    record_of_version_7,
    struct_of_version_7,
    unchanging,
)
from fastbean.binlog.saved_job import SavedJob
from fastbean.errors import BinlogError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO, Self

    from fastbean.binlog.beanstalkd_layout import Members
    from fastbean.binlog.saved_job import State

ZEROS = bytes(1 << 16)
NOTHING = (None, 0, 0)
MIN_FILE_BYTES = 4096
LARGEST_MAX_JOB_SIZE = 1 << 30  # beanstalkd lowers a larger -z to this

STATES: dict[int, State] = {READY: "ready", RESERVED: "ready", BURIED: "buried", DELAYED: "delayed"}
NUMBERS: dict[State, int] = {"ready": READY, "buried": BURIED, "delayed": DELAYED}

FILE_NAME = re.compile(r"binlog\.(0|[1-9][0-9]*)")
FOREIGN = (
    "{path} was written on {machine} and cannot be read here: start its beanstalkd once more and move the jobs with a "
    "client, or move the files away"
)


@dataclass(frozen=True, slots=True)
class Damage:
    """A part of a binlog that could not be used.

    - ``path``: the file. ``offset``: where the damage begins. ``end``: where reading continued; equal to ``offset``
      when nothing was left out.
    - ``what``: what is wrong.
    - ``torn``: it is only the last record of the file, which a server was writing when it was stopped. No client
      received a reply that depends on it, as far as beanstalkd's sync policy promises that.
    """

    path: Path
    offset: int
    end: int
    what: str
    torn: bool = False

    def __str__(self) -> str:
        left_out = f" ({self.end - self.offset} bytes left out)" if self.end > self.offset else ""
        return f"{self.path}: offset {self.offset}: {self.what}{left_out}"


class BeanstalkdBinlog:
    """The content of a beanstalkd's binlog directory; ``read`` makes it.

    - ``files``: the files, in the order in which they were read.
    - ``damage``: a list of ``Damage``, in the order in which it was found; empty for a sound binlog.
    - ``highest_id``: the highest id in any record, dead jobs and those of removed files included; 0 if there is none.
    - ``records``: how many records were read.

    ``len(binlog)`` is the number of live jobs.
    """

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.damage: list[Damage] = []
        self.highest_id = 0
        self.records = 0
        self._bodies: dict[int, bytes] = {}  # the record with the body, as version 7
        self._updated: dict[int, bytes] = {}  # the struct of a later record, as version 7
        self._burials: dict[int, int] = {}
        # Updates of jobs whose body was not seen: file, offset, number of the burial if it was one.
        self._unexplained: dict[int, tuple[Path, int, int]] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    @property
    def jobs(self) -> Iterator[SavedJob]:
        """The live jobs, in order of their ids; each iteration makes them anew."""
        burials = self._burials
        for id in sorted(self._bodies):
            record = self._bodies[id]
            start = VERSION_7.length.size + record[0]
            struct_of = self._updated.get(id)
            members = VERSION_7.job.unpack_from(record, start) if struct_of is None else VERSION_7.job.unpack(struct_of)
            _, pri, delay, ttr, _, created, deadline, reserves, timeouts, releases, buries, kicks, state = members
            yield SavedJob(
                id,
                pri,
                delay // SECOND_NS,
                ttr // SECOND_NS,
                created,
                deadline if state == DELAYED else 0,
                STATES[state],
                burials.get(id, 0),
                reserves,
                timeouts,
                releases,
                buries,
                kicks,
                record[VERSION_7.length.size : start],
                record[start + VERSION_7.job.size : -2],
            )

    def _read_file(self, path: Path, data: bytes) -> None:
        """Read one file, whatever state it is in."""
        written_end = _written_end(data)
        layout = self._layout(path, data, written_end)
        if layout is None:
            return
        at = self._read_records(path, data, layout, VERSION_BYTES)
        while at < written_end:
            what = layout.parse(data, at)
            assert isinstance(what, str)
            went_on = layout.find(data, at + 1, written_end)
            nothing_follows = went_on == written_end
            torn = nothing_follows and layout.is_only_begun(data, at, written_end)
            self.damage.append(Damage(path, at, len(data) if nothing_follows else went_on, what, torn))
            at = self._read_records(path, data, layout, went_on)

    def _layout(self, path: Path, data: bytes, written_end: int) -> Layout | None:
        """The layout of this file; None, with the damage reported, if it has no known one."""
        if written_end == 0 or len(data) < VERSION_BYTES:
            self.damage.append(
                Damage(path, 0, len(data), "the file is barely begun: it does not say its version", torn=True)
            )
            return None
        version = int.from_bytes(data[:VERSION_BYTES], "little")
        if version not in LAYOUTS:
            if int.from_bytes(data[:VERSION_BYTES], "big") in LAYOUTS:
                raise BinlogError(FOREIGN.format(path=path, machine="a big-endian machine"))
            what = f"no known beanstalkd writes version {version}: nothing in this file was read"
            self.damage.append(Damage(path, 0, len(data), what))
            return None
        layout = LAYOUTS[version]
        if isinstance(layout.parse(data, VERSION_BYTES), str):
            for other in LAYOUTS_32_BIT[version]:
                if not isinstance(other.parse(data, VERSION_BYTES), str):
                    raise BinlogError(FOREIGN.format(path=path, machine="a 32-bit machine"))
        return layout

    def _read_records(self, path: Path, data: bytes, layout: Layout, at: int) -> int:
        """Read the records from ``at`` to the first invalid one; returns the offset of that one."""
        parse = layout.parse
        length_bytes = layout.length.size
        converts = layout is not VERSION_7
        bodies = self._bodies
        while True:
            found = parse(data, at)
            if isinstance(found, str):
                return at
            end, start, job = found
            id = job[ID]
            if id > self.highest_id:
                self.highest_id = id
            if start == at + length_bytes:
                changed = struct_of_version_7(job, layout) if converts else data[start:end]
                self._update(path, at, id, job[STATE], changed)
            else:
                record = record_of_version_7(data, at, found, layout) if converts else data[at:end]
                if id in bodies:
                    self._check_copy(path, at, id, record)
                    self._updated.pop(id, None)
                bodies[id] = record
                if job[STATE] == BURIED:
                    _, _, burial = self._unexplained.get(id, NOTHING)
                    self._burials.setdefault(id, burial or self.records + 1)
                elif id in self._burials:
                    del self._burials[id]
                if self._unexplained:
                    self._unexplained.pop(id, None)
            self.records += 1
            at = end

    def _update(self, path: Path, at: int, id: int, state: int, changed: bytes) -> None:
        """Apply a short record: a new state of a job, or its deletion."""
        record = self._bodies.get(id)
        burial = self.records + 1 if state == BURIED else 0
        if record is None:
            # The full record was in a removed file. Either the job is gone, or its copy or its deletion comes later.
            if state == DELETED:
                self._unexplained.pop(id, None)
            else:
                self._unexplained[id] = (path, at, burial)
            return
        if unchanging(changed, 0) != unchanging(record, VERSION_7.length.size + record[0]):
            what = f"a record about job {id} has another ttr, size or creation time than the job: it was ignored"
            self.damage.append(Damage(path, at, at, what))
            return
        if burial:
            self._burials[id] = burial
        else:
            self._burials.pop(id, None)
        if state == DELETED:
            del self._bodies[id]
            self._updated.pop(id, None)
        else:
            self._updated[id] = changed

    def _check_copy(self, path: Path, at: int, id: int, record: bytes) -> None:
        """Check the copy of a job that compaction wrote against the job's record so far."""
        before = self._bodies[id]
        start = VERSION_7.length.size + record[0]
        body = start + VERSION_7.job.size
        same = (
            before[:start] == record[:start]
            and unchanging(before, start) == unchanging(record, start)
            and before[body:] == record[body:]
        )
        if not same:
            what = f"the copy of job {id} differs from the job so far in tube, ttr, creation time or body: it was used"
            self.damage.append(Damage(path, at, at, what))

    def _report_gap(self, before: Path, path: Path) -> None:
        """Report files that are missing between two others."""
        first, last = (int(file.name.rpartition(".")[2]) for file in (before, path))
        if last - first > 1:
            missing = f"binlog.{first + 1}" + (f" to binlog.{last - 1}" if last - first > 2 else "")
            self.damage.append(Damage(path, 0, 0, f"{missing}, which should precede this file, is missing"))

    def _report_lost_jobs(self) -> None:
        """After the last file, report jobs that were changed, but neither deleted nor put."""
        for id, (path, at, _) in self._unexplained.items():
            what = f"job {id} was changed here, but no file has the record with its body: it is lost"
            self.damage.append(Damage(path, at, at, what))
        self._unexplained.clear()


def has_binlog(directory: str | os.PathLike[str]) -> list[Path]:
    """The files of a beanstalkd's binlog in this directory, in numeric order; none if it is not a directory.

    Raises :class:`~fastbean.errors.BinlogError` when the directory cannot be read.
    """
    try:
        found = [(int(match[1]), match[0]) for name in os.listdir(directory) if (match := FILE_NAME.fullmatch(name))]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise BinlogError(
            f"cannot read the directory {os.fspath(directory)}: {error.strerror}; let this user read it"
        ) from error
    return [Path(directory, name) for _, name in sorted(found)]


def read(
    directory: str | os.PathLike[str], *, on_progress: Callable[[int, int], None] | None = None
) -> BeanstalkdBinlog:
    """Reads the binlog that a beanstalkd left in this directory, which must not be in use.

    - ``on_progress``: called after each file with the bytes read so far and the bytes of all files.

    Damage does not end it, but is reported in ``damage``. Raises :class:`~fastbean.errors.BinlogError` when a file
    cannot be read at all, or was written by a beanstalkd on a big-endian or 32-bit machine.
    """
    binlog = BeanstalkdBinlog()
    binlog.files = has_binlog(directory)
    total = sum(_size(path) for path in binlog.files)
    done = 0
    for number, path in enumerate(binlog.files):
        if number:
            binlog._report_gap(binlog.files[number - 1], path)
        data = _load(path)
        binlog._read_file(path, data)
        done += len(data)
        if on_progress is not None:
            on_progress(done, total)
    binlog._report_lost_jobs()
    return binlog


@dataclass(frozen=True, slots=True)
class Oversized:
    """A job that a beanstalkd reads from its binlog only when it was started with a larger ``-z``.

    - ``id``: the job. ``max_job_size``: the smallest sufficient ``-z`` in bytes, or None when none is large enough.
    """

    id: int
    max_job_size: int | None


@dataclass(frozen=True, slots=True)
class Written:
    """What ``write`` wrote: its files in order, the number of jobs, and the jobs that need a larger ``-z``."""

    files: list[Path]
    jobs: int
    oversized: list[Oversized]


def write(
    directory: str | os.PathLike[str],
    jobs: Iterable[SavedJob],
    *,
    file_bytes: int = DEFAULT_BINLOG_SIZE_BYTES,
    max_job_size: int = DEFAULT_MAX_JOB_SIZE_BYTES,
    highest_id: int = 0,
) -> Written:
    """Writes a version 7 binlog from which a beanstalkd 1.5 or later starts with all these jobs, and syncs it.

    - ``directory``: empty, or new in a directory that exists. Only this user can read the files in it. If beanstalkd
      runs as another user, give them to that user: it skips files that it may not read.
    - ``jobs``: in any order. Buried jobs are written last, in the order of their burial.
    - ``file_bytes``: a file is closed before it would grow past this (4096 or more), but has at least one job.
    - ``max_job_size``: the ``-z`` with which beanstalkd will run. Its replay counts the closing CR LF, so it accepts
      bodies of two bytes less, and skips the rest of a file after a larger one. Each larger job gets a file of its own.
    - ``highest_id``: ids up to this one will not be assigned again, if that beanstalkd is started only once.

    beanstalkd's replay counts one more burial for each buried job; therefore one less is written.

    Raises ValueError for a job that the format cannot represent, and :class:`~fastbean.errors.BinlogError` when the
    directory is not empty or cannot be written. After an error the files are removed again.
    """
    if file_bytes < MIN_FILE_BYTES:
        raise ValueError(f"a binlog file of {file_bytes} bytes is too small: give at least {MIN_FILE_BYTES}")
    directory = os.fspath(directory)
    try:
        _make_empty(directory)
        with _Writer(directory, file_bytes, max_job_size) as writer:
            buried = []
            for job in jobs:
                if job.state == "buried":
                    buried.append(job)
                else:
                    writer.add(job)
            for job in sorted(buried, key=lambda job: (job.burial, job.id)):
                writer.add(job)
            if highest_id > writer.highest_id:
                writer.use_up(highest_id)
            return writer.finish()
    except OSError as error:
        raise BinlogError(
            f"cannot write a binlog into {directory}: {error.strerror}; fix that, or name another directory"
        ) from error


class _Writer:
    """Writes records into one file after another. If it is left before ``finish``, it removes what it wrote."""

    def __init__(self, directory: str, file_bytes: int, max_job_size: int) -> None:
        self._directory = directory
        self._file_bytes = file_bytes
        self._max_job_size = max_job_size
        self._files: list[str] = []
        self._file: BinaryIO | None = None
        self._size = 0
        self._jobs = 0
        self._oversized: list[Oversized] = []
        self._finished = False
        self.highest_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._finished:
            return
        if self._file is not None:
            with contextlib.suppress(OSError):  # the first failure is the one to report
                self._file.close()
        for path in self._files:
            with contextlib.suppress(OSError):
                os.unlink(path)

    def add(self, job: SavedJob) -> None:
        """Write one job."""
        record = _record_of(job)
        needed = len(job.body) + len(CRLF)
        is_oversized = needed > self._max_job_size
        if is_oversized:
            self._oversized.append(Oversized(job.id, needed if needed <= LARGEST_MAX_JOB_SIZE else None))
            self._close_file()
        self._append(record)
        if is_oversized:
            self._close_file()
        self._jobs += 1
        self.highest_id = max(self.highest_id, job.id)

    def use_up(self, id: int) -> None:
        """Write a put and a delete of a job with this id, so that beanstalkd never assigns it again."""
        members = (id, 0, 0, SECOND_NS, len(CRLF), 1, 0, 0, 0, 0, 0, 0)
        put = _checked(b"default", (*members, READY), CRLF)
        delete = VERSION_7.length.pack(0) + VERSION_7.job.pack(*members, DELETED)
        self._append(put + delete)
        self.highest_id = id

    def finish(self) -> Written:
        """Close and sync everything."""
        if not self._files:
            self._open_file()
        self._close_file()
        segment_files.sync_directory(self._directory)
        self._finished = True
        return Written([Path(path) for path in self._files], self._jobs, self._oversized)

    def _append(self, record: bytes) -> None:
        if self._file is not None and self._size + len(record) > self._file_bytes:
            self._close_file()
        if self._file is None:
            self._open_file()
        assert self._file is not None
        self._file.write(record)
        self._size += len(record)

    def _open_file(self) -> None:
        path = os.path.join(self._directory, f"binlog.{len(self._files) + 1}")
        self._file = open(path, "xb", opener=_private)  # noqa: SIM115 - open until the next file is begun
        self._files.append(path)
        self._file.write((7).to_bytes(VERSION_BYTES, "little"))
        self._size = VERSION_BYTES

    def _close_file(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._file = None


def _record_of(job: SavedJob) -> bytes:
    """The full record of a job; raises ValueError if the format cannot represent it."""
    is_buried = job.state == "buried"
    members = (
        job.id,
        job.pri,
        job.delay_s * SECOND_NS,
        job.ttr_s * SECOND_NS,
        len(job.body) + len(CRLF),
        job.created_ns,
        job.deadline_ns if job.state == "delayed" else 0,
        min(job.reserves, MAX_U32),
        min(job.timeouts, MAX_U32),
        min(job.releases, MAX_U32),
        (min(job.buries, MAX_U32) - is_buried) & MAX_U32,
        min(job.kicks, MAX_U32),
        NUMBERS.get(job.state, -1),
    )
    return _checked(job.tube, members, job.body + CRLF)


def _checked(tube: bytes, members: Members, body: bytes) -> bytes:
    """The full record of these parts; raises ValueError unless the reader accepts it."""
    try:
        record = VERSION_7.length.pack(len(tube)) + tube + VERSION_7.job.pack(*members) + body
    except struct.error as error:
        raise ValueError(f"job {members[ID]} cannot be written: {error}") from None
    found = VERSION_7.parse(record, 0)
    if not isinstance(found, tuple) or found[0] != len(record):
        raise ValueError(f"job {members[ID]} cannot be written: {found}")
    return record


def _written_end(data: bytes) -> int:
    """The offset after the last byte that is not zero: the rest was only allocated."""
    end = len(data)
    while end >= len(ZEROS) and data[end - len(ZEROS) : end] == ZEROS:
        end -= len(ZEROS)
    rest = max(0, end - len(ZEROS))
    return rest + len(data[rest:end].rstrip(b"\0"))


def _load(path: Path) -> bytes:
    """The content of a file."""
    try:
        return segment_files.read_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> BinlogError:
    return BinlogError(f"cannot read {path}: {error.strerror}; nothing was changed: fix that and try again")


def _make_empty(directory: str) -> None:
    """Create the directory, or accept an empty one."""
    try:
        os.mkdir(directory)
    except FileExistsError:
        if not os.path.isdir(directory):
            raise BinlogError(f"{directory} is not a directory: name a new one, or an empty one") from None
        if os.listdir(directory):
            raise BinlogError(
                f"{directory} is not empty: a binlog is only written into a new or empty directory"
            ) from None
    else:
        segment_files.sync_directory(str(Path(directory).absolute().parent))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
