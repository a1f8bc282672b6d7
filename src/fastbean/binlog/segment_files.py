"""The files of a binlog: their names and headers, and the thread that makes and removes them.

A segment is ``fastbean-N.log``. A file whose header is still zero is a spare: allocated, but not used yet. What may
take long (creating, allocating, removing, syncing the folder) happens in the segment worker's thread, never in the
loop.
"""

import contextlib
import errno
import os
import stat
import struct
import threading
from collections import deque

from fastbean.base import clock
from fastbean.base.limits import NS_IN_MS
from fastbean.binlog.record import checksum
from fastbean.binlog.segments import write_zeros
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC = b"fastbean"
FORMAT_VERSION = 1
NEWEST_PLAUSIBLE_VERSION = 255  # above this, the number is damage and not a format
HEADER = struct.Struct("<8sIIQQQ20xI")  # magic, version, number, first LSN, id limit, floor, CRC32C of all before
VERSION_AT = 8
BLOCK_BYTES = 512  # the unit of st_blocks
REMOVE_RETRY_S = 1.0
PART = ".part"  # the end of the name of a file that is not in use yet


# These are plain classes: importing `dataclasses`, or making named tuples, would delay each start.
class Header:
    """The header of a segment.

    ``number``: also in the name. ``first_lsn``: of its first record. ``id_limit``: every id assigned before the segment
    was begun is below it. ``floor``: every id put before is below it.
    """

    __slots__ = ("first_lsn", "floor", "id_limit", "number")

    def __init__(self, number: int, first_lsn: int, id_limit: int, floor: int) -> None:
        self.number = number
        self.first_lsn = first_lsn
        self.id_limit = id_limit
        self.floor = floor


def name_of(number: int, end: str = ".log") -> str:
    """The name of the segment with this number."""
    return f"fastbean-{number}{end}"


def path_of(directory: str, number: int, end: str = ".log") -> str:
    """The path of the segment with this number."""
    return os.path.join(directory, name_of(number, end))


def list_names(directory: str, end: str = ".log") -> list[str]:
    """The names in a directory that are, or resemble, names of segments, in no order. OSError if it cannot be read."""
    return [name for name in os.listdir(directory) if name.startswith("fastbean-") and name.endswith(end)]


def list_segments(directory: str) -> list[tuple[int, str]]:
    """All segments of a directory, spares included, by number, each with its path.

    Raises BinlogError for a name that resembles a segment's, and for a segment's name on something that is no file:
    ignoring it might lose jobs, and reading it might never end. Raises OSError if the directory cannot be read.
    """
    found = []
    for name in list_names(directory):
        digits = name.removeprefix("fastbean-").removesuffix(".log")
        if digits.isascii() and digits.isdigit():
            number = int(digits)
            path = os.path.join(directory, name)
            if name != name_of(number):
                raise BinlogError(f"{path}: no segment has such a name; call it {name_of(number)} again")
            refuse_what_is_no_file(path)
            found.append((number, path))
    return sorted(found)


def refuse_what_is_no_file(path: str) -> None:
    """Raises BinlogError if something other than a file is there; no error if nothing is, since segments may vanish."""
    status = status_of(path)
    is_odd = os.path.islink(path) if status is None else not stat.S_ISREG(status.st_mode)
    if is_odd:
        raise BinlogError(f"{path}: has the name of a log's file and is none; move it into another directory")


def status_of(path: str) -> os.stat_result | None:
    """The status of what is there; None for nothing and for a dangling link. OSError where that cannot be found out."""
    try:
        return os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def is_there(path: str) -> bool:
    """Whether something is there. Raises OSError where `os.path.exists` would hide an error and return False."""
    return status_of(path) is not None


def remove(path: str) -> None:
    """Remove a file, if it exists."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def parse_header(data: bytes, name: str = "this log") -> Header | None:
    """Parse the header of a segment (``name`` is for the message); None if those bytes are not one.

    Raises BinlogError for a format that only a newer fastbean knows.
    """
    if len(data) < HEADER.size:
        return None
    magic, version, number, first_lsn, id_limit, floor, crc = HEADER.unpack_from(data)
    if magic != MAGIC:
        return None
    sound = checksum(data[: HEADER.size - 4]) == crc
    # A newer format may compute its checksum differently: a header that claims to be newer never counts as torn.
    if version > FORMAT_VERSION and (sound or version <= NEWEST_PLAUSIBLE_VERSION) and not _is_really_known(data, crc):
        raise BinlogError(
            f"{name}: at offset 8 it says that it has format {version}, and this fastbean knows formats up to "
            f"{FORMAT_VERSION}: use a newer fastbean"
        )
    return Header(number, first_lsn, id_limit, floor) if sound else None


def _is_really_known(data: bytes, crc: int) -> bool:
    """Whether only the version number is damaged: with a known one the checksum is right."""
    return any(
        checksum(data[:VERSION_AT] + struct.pack("<I", version) + data[VERSION_AT + 4 : HEADER.size - 4]) == crc
        for version in range(1, FORMAT_VERSION + 1)
    )


def sync_directory(directory: str) -> None:
    """Sync the names in a directory."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(directory: str, number: int, size: int, *, written: bool = False) -> int:
    """Make a spare segment of ``size`` zero bytes, allocated and synced; returns its descriptor. OSError leaves none.

    ``written``: write the zeros too. A later sync then does not have to record that a block is in use, which about
    halves its time on ext4 or xfs; the price is that the file is written twice.
    """
    path = path_of(directory, number)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.truncate(fd, size)
        if written:
            write_zeros(fd, size)
        os.fsync(fd)
        sync_directory(directory)
    except BaseException:
        os.close(fd)
        remove(path)
        raise
    return fd


def allocated(fd: int) -> int:
    """Allocate all of a file; returns its size, or 0 if there is no room.

    A copy of a file may have holes in place of zeros, and on a full disk a write into a hole would fail.
    """
    status = os.fstat(fd)
    try:
        if status.st_blocks * BLOCK_BYTES < status.st_size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, status.st_size)
    except OSError:
        return 0
    return status.st_size


def remove_newest(directory: str, paths: "Sequence[str]") -> None:
    """Remove the last segments of a directory, the newest first, so that there never is a gap."""
    for path in reversed(paths):
        os.unlink(path)
        sync_directory(directory)


def recycle(directory: str, old: int, number: int, size: int) -> int:
    """Make a spare of a segment that is no longer needed, without freeing its blocks.

    In between it has a name under which a start removes it. Returns its descriptor. After an OSError the old segment is
    either unchanged or gone.
    """
    path = path_of(directory, number)
    part = path_of(directory, number, PART)
    os.rename(path_of(directory, old), part)
    fd = -1
    try:
        sync_directory(directory)
        fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
        write_zeros(fd, size)
        os.fsync(fd)
        os.rename(part, path)
        sync_directory(directory)
    except BaseException:
        if fd >= 0:
            os.close(fd)
        remove(part)
        remove(path)
        raise
    return fd


class Result:
    """A result of the segment worker.

    ``kind``: "made" (a spare), "recycled" (an old segment became a spare), "refused" (no spare can be made), "removed"
    (an old segment), or "failed" (a sync, and with it the binlog). A segment that could not be recycled is "refused",
    and also "removed", now or later. ``number``, ``fd``, ``size``: of the segment, if it has them. ``text``: why it
    failed.
    """

    __slots__ = ("fd", "kind", "number", "size", "text")

    def __init__(self, kind: str, number: int, size: int, fd: int = -1, text: str = "") -> None:
        self.kind = kind
        self.number = number
        self.size = size
        self.fd = fd
        self.text = text


class Task:
    """A task of the segment worker: make ``number``, recycle ``old`` as ``number``, or remove ``old``; 0: none."""

    __slots__ = ("number", "old", "size", "sync_first")

    def __init__(self, number: int, size: int, old: int = 0, sync_first: int = 0) -> None:
        self.number = number
        self.size = size
        self.old = old
        self.sync_first = sync_first


class SegmentWorker:
    """The thread that makes and removes segments.

    The thread calls ``wake`` after each result; the loop then calls ``results``. ``log`` is called with a level, an
    event and fields. ``written``: see ``create``. ``slow_ns``: tasks that take this long are logged; 0 logs none.
    """

    def __init__(
        self,
        directory: str,
        wake: "Callable[[], None]",
        log: "Callable[..., None]",
        *,
        written: bool = False,
    ) -> None:
        self._directory = directory
        self._wake = wake
        self._log = log
        self._written = written
        self._tasks: deque[Task | None] = deque()
        self._tasks_there = threading.Semaphore(0)
        self._results: deque[Result] = deque()
        self._to_remove: deque[Task] = deque()
        self.slow_ns = 0
        self._full_told = False
        self._synced_to = 0  # removals have synced all segments before this one, which are full
        self._thread = threading.Thread(target=self._work, name="fastbean-segment_worker", daemon=True)
        self._thread.start()

    def create(self, number: int, size: int) -> None:
        """Request a spare."""
        self._ask(Task(number, size))

    def recycle(self, old: int, number: int, size: int, sync_first: int = 0) -> None:
        """Request a spare made from an old segment once those before it are removed. ``sync_first``: see ``remove``."""
        self._ask(Task(number, size, old, sync_first))

    def remove(self, number: int, size: int, sync_first: int = 0) -> None:
        """Request the removal of a segment. Segments are removed in the order of these calls, one after the other.

        ``sync_first``: all later segments up to this one are synced before that; 0 for none.
        """
        self._ask(Task(0, size, number, sync_first))

    def results(self) -> list[Result]:
        """The results since the last call."""
        found = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def close(self) -> None:
        """Finish the requested tasks, and end."""
        self._ask(None)
        self._thread.join()

    def _ask(self, task: Task | None) -> None:
        self._tasks.append(task)
        self._tasks_there.release()

    def _work(self) -> None:
        while True:
            if not self._tasks_there.acquire(timeout=REMOVE_RETRY_S if self._to_remove else None):
                self._remove_all()
                continue
            task = self._tasks.popleft()
            if task is None:
                return
            began_ns = clock.monotonic_ns()
            self._do(task)
            took_ns = clock.monotonic_ns() - began_ns
            if self.slow_ns and took_ns >= self.slow_ns:
                work = "make" if not task.old else "recycle" if task.number else "remove"
                file = name_of(task.number or task.old)
                self._log("WARNING", "slow-segment", ms=took_ns // NS_IN_MS, work=work, file=file)

    def _do(self, task: Task) -> None:
        if not task.old:
            self._make("made", task, self._create)
        elif not task.number:
            self._to_remove.append(task)
            self._remove_all()
        else:
            self._recycle(task)

    def _tell(self, result: Result) -> None:
        self._results.append(result)
        self._wake()

    def _create(self, task: Task) -> int:
        return create(self._directory, task.number, task.size, written=self._written)

    def _make(self, kind: str, task: Task, make: "Callable[[Task], int]") -> bool:
        try:
            result = Result(kind, task.number, task.size, make(task))
            self._full_told = self._full_told and kind != "made"
        except OSError as error:
            if not self._full_told:
                self._full_told = True
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    self._log("WARNING", "binlog-has-no-room", error=error.strerror)
                else:
                    self._log("ERROR", "binlog-cannot-grow", error=error.strerror)
            result = Result("refused", task.number, task.size)
        self._tell(result)
        return result.fd >= 0

    def _recycle(self, task: Task) -> None:
        self._remove_all()
        if self._to_remove:
            self._tell(Result("refused", task.number, task.size))
        elif not self._sync(task) or self._make("recycled", task, self._rename_and_clear):
            return
        elif not is_there(path_of(self._directory, task.old)):
            self._tell(Result("removed", task.old, task.size))
            return
        # It could not be removed, or not before the others: it is removed after them, and later ones after it.
        self._to_remove.append(Task(0, task.size, task.old, task.sync_first))

    def _rename_and_clear(self, task: Task) -> int:
        return recycle(self._directory, task.old, task.number, task.size)

    def _remove_all(self) -> None:
        """A segment is removed only after those before it: deletes must not vanish before the puts that they end."""
        while self._to_remove:
            task = self._to_remove[0]
            if not self._sync(task):
                return
            try:
                remove(path_of(self._directory, task.old))
                sync_directory(self._directory)
            except OSError as error:
                self._log("WARNING", "segment-not-removed", file=name_of(task.old), error=error.strerror)
                return
            self._to_remove.popleft()
            self._tell(Result("removed", task.old, task.size))

    def _sync(self, task: Task) -> bool:
        """Sync all segments from the oldest that stays to the one with the shed record.

        What was copied out of a segment must be as safe as it was there. False when a sync fails: the binlog ends.
        """
        for number in range(max(self._synced_to, task.old + 1), task.sync_first + 1):
            try:
                with open(path_of(self._directory, number), "rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                self._tell(Result("failed", number, 0, text=f"cannot sync {name_of(number)}: {error.strerror}"))
                return False
        # The last one may still be written to: it is synced again the next time.
        self._synced_to = max(self._synced_to, task.sync_first)
        return True
