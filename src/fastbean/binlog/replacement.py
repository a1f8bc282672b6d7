"""Replaces one binlog by another: a beanstalkd's when it is imported, a damaged one when it is repaired.

Promise: whatever interrupts it, a kill or a power cut, the next start finds either the old binlog, unchanged, or the
new one with every job. No job is lost or duplicated, and no file of the old binlog is ever deleted.

How: the new segments are written under temporary names (``fastbean-N.part``) and synced. Then ``replacing``, the
marker, is renamed into place: it lists the new files, the old ones, and the subfolder for the old ones. That rename is
the moment at which the new binlog replaces the old one. Only then do the new files get their final names, the old ones
are moved, and the marker is removed. Each of these steps may be repeated, and the next start repeats them as long as
the marker exists.

The caller holds the lock of the directory throughout.
"""

from __future__ import annotations

import contextlib
import os
import time

from fastbean.binlog import segment_files
from fastbean.binlog.descriptors import OpenFile
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import encode_mark, encode_put, encode_shed, encode_tube
from fastbean.binlog.segment_files import PART, RUN_BYTES, Header, is_there
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastbean.binlog.saved_job import SavedJob, SavedTube

MARKER = "replacing"
JOBS_PER_PROGRESS = 10000
GROWTH = 40  # room after the jobs of a full segment, so that the last one also has room for its shed record and mark


class PartWriter:
    """Writes jobs and settings of tubes into segments that are not in use yet.

    ``first_number``, ``first_lsn``: where the new binlog begins. ``id_limit``: every id ever assigned is below it.
    ``run``: the identity of the run.
    """

    def __init__(
        self, directory: str, *, segment_bytes: int, first_number: int, first_lsn: int, id_limit: int, run: bytes
    ) -> None:
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._id_limit = id_limit
        self._lsn = first_lsn
        self._highest_id = 0
        self._first_lsn = first_lsn
        self._run = run
        self._seed = run_seed(run)
        self.numbers: list[int] = []
        self._begin(first_number)

    def add(self, job: SavedJob) -> None:
        """Append one job."""
        self._append(encode_put(job, self._seed, self._lsn))
        self._highest_id = max(self._highest_id, job.id)

    def add_tube(self, tube: SavedTube) -> None:
        """Append the settings of one tube."""
        self._append(encode_tube(tube, self._seed, self._lsn))

    def _append(self, record: bytes) -> None:
        # The bytes of a record do not depend on the segment that it is in.
        if len(self._data) > segment_files.HEADER.size and len(self._data) + len(record) + GROWTH > self._segment_bytes:
            self._write(0)
            self._begin(self._number + 1)
        self._data += record
        self._lsn += len(record)

    def finish(self) -> None:
        """Write the last segment, at full size, so that a server can append, with a shed record and a mark at its end.

        The shed record says where the binlog begins, the mark that all of it is synced.
        """
        shed = encode_shed(self._first_lsn, self._seed, self._lsn)
        self._data += shed
        self._lsn += len(shed)
        self._data += encode_mark(self._lsn, self._seed, self._lsn)
        self._write(self._segment_bytes)
        segment_files.sync_directory(self._directory)

    def _begin(self, number: int) -> None:
        self._number = number
        self._data = bytearray(Header(number, self._lsn, self._id_limit, self._highest_id + 1, self._run).encode())

    def _write(self, allocated_bytes: int) -> None:
        write_file(part_of(self._directory, self._number), self._data, allocated_bytes)
        self.numbers.append(self._number)


def write_file(path: str, data: bytes | bytearray | memoryview, allocated_bytes: int = 0) -> None:
    """Create a file with this content and at least ``allocated_bytes``; sync it, but not its directory."""
    with OpenFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as file:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file.fd, rest) :]
        if allocated_bytes > len(data):
            segment_files.allocate(file.fd, allocated_bytes)
        os.fsync(file.fd)


def part_of(directory: str, number: int) -> str:
    """The path of a new segment until it is in use."""
    return segment_files.path_of(directory, number, PART)


def replace(
    directory: str,
    jobs: Iterable[SavedJob],
    old: Sequence[str | os.PathLike[str]],
    *,
    aside: str,
    segment_bytes: int,
    id_limit: int,
    first_number: int = 1,
    first_lsn: int = 0,
    tubes: Iterable[SavedTube] = (),
    on_jobs: Callable[[int], None] = lambda _done: None,
) -> str:
    """Replace the files ``old`` by a binlog of these jobs and these settings of tubes.

    - ``aside``: the start of the name of the subfolder for the old files.
    - ``segment_bytes``: of a new segment. ``first_number``, ``first_lsn``: where the new binlog begins.
    - ``id_limit``: every id ever assigned is below it.
    - ``on_jobs``: called now and then with the number of jobs written.

    Returns the name of the subfolder. Raises BinlogError if the new binlog cannot be written; the old one stays in use.
    """
    import json

    remove_parts(directory)
    writer = PartWriter(
        directory,
        segment_bytes=segment_bytes,
        first_number=first_number,
        first_lsn=first_lsn,
        id_limit=id_limit,
        run=os.urandom(RUN_BYTES),
    )
    folder = new_folder_name(directory, aside)
    marker = os.path.join(directory, MARKER)
    try:
        for count, job in enumerate(jobs):
            writer.add(job)
            if count % JOBS_PER_PROGRESS == 0:
                on_jobs(count)
        for tube in tubes:
            writer.add_tube(tube)
        writer.finish()
        plan = {"aside": folder, "new": writer.numbers, "old": [os.path.basename(path) for path in old]}
        write_file(marker + PART, json.dumps(plan).encode() + b"\n")
    except OSError as error:
        # Try to free the space on a full disk; the next start does it in any case.
        with contextlib.suppress(OSError):
            remove_parts(directory)
        raise BinlogError(
            f"{directory}: cannot write the new binlog: {error.strerror}; the old one is unchanged. Make room for all "
            "its live jobs, and try again"
        ) from error
    os.rename(marker + PART, marker)
    segment_files.sync_directory(directory)
    finish(directory)
    return folder


def finish(directory: str) -> bool:
    """Complete the replacement that a marker describes; returns False when there is no marker.

    Raises BinlogError, and changes nothing, when the directory is not as the replacement left it.
    """
    marker = os.path.join(directory, MARKER)
    try:
        with open(marker, "rb") as file:
            text = file.read()
    except FileNotFoundError:
        return False
    # Loaded only when there is something to finish.
    import json

    try:
        plan = json.loads(text)
        aside = os.path.join(directory, plan["aside"])
        old = [os.path.join(directory, name) for name in plan["old"]]
        new = [(part_of(directory, number), segment_files.path_of(directory, number)) for number in plan["new"]]
    except (ValueError, KeyError, TypeError) as error:
        raise BinlogError(f"{marker}: cannot be read; restore the directory from a copy") from error
    _check_as_left(directory, aside, old, new)
    for part, path in new:
        if is_there(part):
            os.rename(part, path)
    segment_files.sync_directory(directory)
    os.makedirs(aside, mode=0o700, exist_ok=True)
    segment_files.sync_directory(directory)
    # Oldest first: a beanstalkd that is started in between gives its new file a number by which _check_as_left notices
    # it.
    for path in old:
        if is_there(path):
            os.rename(path, os.path.join(aside, os.path.basename(path)))
    segment_files.sync_directory(aside)
    segment_files.sync_directory(directory)
    os.unlink(marker)
    segment_files.sync_directory(directory)
    return True


def _check_as_left(directory: str, aside: str, old: list[str], new: list[tuple[str, str]]) -> None:
    for part, path in new:
        if not is_there(part) and not is_there(path):
            raise BinlogError(
                f"{path}: missing, though its binlog was about to be used; put it back, or restore all from a copy"
            )
    from fastbean.binlog.beanstalkd import has_binlog

    known = {os.path.basename(path) for path in old}
    for found in has_binlog(directory):
        if found.name not in known or is_there(os.path.join(aside, found.name)):
            raise BinlogError(
                f"{found}: a beanstalkd has run here since its binlog was about to be taken over; move this file into "
                "a folder of its own, start again, and bring its jobs over with a client"
            )


def remove_parts(directory: str) -> None:
    """Remove the files of a replacement that got no marker; there must be no marker."""
    for name in [*segment_files.list_names(directory, PART), MARKER + PART]:
        segment_files.remove(os.path.join(directory, name))


def new_folder_name(directory: str, start: str) -> str:
    """A name for a new subfolder: ``start`` and the time."""
    name = time.strftime(f"{start}-%Y%m%dT%H%M%S")
    count = 0
    while is_there(os.path.join(directory, name + (f"-{count}" if count else ""))):
        count += 1
    return name + (f"-{count}" if count else "")
