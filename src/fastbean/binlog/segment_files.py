"""The files of a binlog: their names and headers, and the thread that creates and removes them.

A segment is ``fastbean-N.log``. A file whose header is still zero is a spare: allocated, but not used yet. What may
take long (creating, allocating, removing, syncing the folder) happens in the segment worker's thread, never in the
loop.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import threading
import time
from _queue import Empty, SimpleQueue  # `queue` itself would load more for each start
from collections import deque

from fastbean.base import clock, threads
from fastbean.base.limits import NS_IN_MS
from fastbean.binlog.advice import NO_ROOM
from fastbean.binlog.descriptors import OpenFile
from fastbean.binlog.record import checksum
from fastbean.binlog.zeros import fill_holes, write_zeros
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC = b"fastbean"
FORMAT_VERSION = 1
NEWEST_PLAUSIBLE_VERSION = 255  # above this, the number is damage and not a format
RUN_BYTES = 16
# Magic, version, number, first LSN, id limit, floor, identity of the run, CRC32C of all before.
HEADER = struct.Struct(f"<8sIIQQQ{RUN_BYTES}s4xI")
CRC = struct.Struct("<I")  # at the end of a header
VERSION_AT = 8
BLOCK_BYTES = 512  # the unit of st_blocks
REMOVE_RETRY_S = 1.0
MEMORY_RETRY_S = 0.1
UNSUPPORTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})
NO_DIRECTORY_SYNC = UNSUPPORTED | {errno.EBADF}  # EBADF: a system that syncs only what is open for writing
PART = ".part"  # the end of the name of a file that is not in use yet


# These are plain classes: importing `dataclasses`, or making named tuples, would delay each start.
class Header:
    """The header of a segment.

    ``number``: also in the name. ``first_lsn``: of its first record. ``id_limit``: every id assigned before the segment
    was begun is below it. ``floor``: every id put before is below it. ``run``: the identity of the run, RUN_BYTES.
    """

    __slots__ = ("first_lsn", "floor", "id_limit", "number", "run")

    def __init__(self, number: int, first_lsn: int, id_limit: int, floor: int, run: bytes) -> None:
        self.number = number
        self.first_lsn = first_lsn
        self.id_limit = id_limit
        self.floor = floor
        self.run = run

    def encode(self) -> bytes:
        """The bytes of the header, as they are at the start of the file."""
        members = (self.number, self.first_lsn, self.id_limit, self.floor, self.run)
        data = HEADER.pack(MAGIC, FORMAT_VERSION, *members, 0)[: -CRC.size]
        return data + CRC.pack(checksum(data))


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
        raise BinlogError(f"{path}: has the name of a binlog file, but is not a file; move it into another directory")


def status_of(path: str) -> os.stat_result | None:
    """The status of what is there; None for nothing and for a dangling link. Raises OSError if that is unknown."""
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


def parse_header(data: bytes, name: str = "this binlog") -> Header | None:
    """Parse the header of a segment (``name`` is for the message); None if those bytes are not one.

    Raises BinlogError for a format that only a newer fastbean knows.
    """
    if len(data) < HEADER.size:
        return None
    magic, version, number, first_lsn, id_limit, floor, run, crc = HEADER.unpack_from(data)
    if magic != MAGIC:
        return None
    sound = checksum(data[: HEADER.size - 4]) == crc
    # A newer format may compute its checksum differently: a header that claims to be newer never counts as torn.
    if version > FORMAT_VERSION and (sound or version <= NEWEST_PLAUSIBLE_VERSION) and not _is_really_known(data, crc):
        raise BinlogError(
            f"{name}: at offset 8 it says that it has format {version}, and this fastbean knows formats up to "
            f"{FORMAT_VERSION}: use a newer fastbean"
        )
    return Header(number, first_lsn, id_limit, floor, run) if sound and any(run) else None


def newer_record(path: str, offset: int) -> BinlogError:
    """What to raise for a record with something unknown that must not be skipped."""
    return BinlogError(
        f"{path}: at offset {offset} there is a record that only a newer fastbean can read: use a newer fastbean"
    )


def _is_really_known(data: bytes, crc: int) -> bool:
    """Whether only the version number is damaged: with a known one the checksum is right."""
    return any(
        checksum(data[:VERSION_AT] + struct.pack("<I", version) + data[VERSION_AT + 4 : HEADER.size - 4]) == crc
        for version in range(1, FORMAT_VERSION + 1)
    )


class DirectorySyncError(OSError):
    """The disk failed (EIO) while the names in a directory were synced.

    The kernel reports that once: a second sync would succeed, and the names might still be lost.
    """


def sync_directory(directory: str) -> bool:
    """Sync the names in a directory. Returns false where the file system cannot sync directories.

    The shared folders of virtual machines (vboxsf, 9p) always return EINVAL or ENOTSUP, and some systems EBADF. That is
    not a fault: names are as safe there as the host makes them. PostgreSQL ignores EINVAL and EBADF, too. For files
    there is no such exception: jobs should not be kept on a file system that cannot sync files. Raises
    DirectorySyncError for EIO, and OSError otherwise.
    """
    with OpenFile(directory, os.O_RDONLY | os.O_DIRECTORY) as opened:
        try:
            os.fsync(opened.fd)
        except OSError as error:
            if error.errno == errno.EIO:
                raise DirectorySyncError(error.errno, error.strerror) from error
            if error.errno not in NO_DIRECTORY_SYNC:
                raise
            return False
    return True


def allocate(fd: int, size: int) -> None:
    """Allocate ``size`` bytes of a file, so that a write into them never finds a full disk; the content stays the same.

    Where the file system cannot do that (EOPNOTSUPP, EINVAL, ENOSYS), glibc itself writes into each block. Other C
    libraries return the error, and some systems have no such call: then zeros are written into all holes.
    """
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return
    fill_holes(fd, size)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The present content of a file. Raises OSError, with the name, if it cannot be read.

    Files are read and never mapped: if the disk fails, or the file becomes shorter, an access to a mapping ends the
    process.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        error.filename = os.fspath(path)
        raise


def create(directory: str, number: int, size: int, *, written: bool = False) -> OpenFile:
    """Create a spare segment of ``size`` zero bytes, allocated and synced; returns it open. OSError leaves none.

    ``written``: write the zeros too. A later sync then does not have to record that a block is in use, which about
    halves its time on ext4 or xfs; the price is that the file is written twice.
    """
    path = path_of(directory, number)
    spare = OpenFile(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        allocate(spare.fd, size)
        if written:
            write_zeros(spare.fd, size)
        os.fsync(spare.fd)
        sync_directory(directory)
    except BaseException:
        spare.close()
        remove(path)
        raise
    return spare


def allocated(fd: int) -> int:
    """Allocate all of a file; returns its size, or 0 if there is no room.

    A copy of a file may have holes in place of zeros, and on a full disk a write into a hole would fail. On a file
    system that compresses, or does not count blocks, files always seem to have holes: then each start allocates again,
    which does no harm.
    """
    status = os.fstat(fd)
    try:
        if status.st_blocks * BLOCK_BYTES < status.st_size:
            allocate(fd, status.st_size)
    except OSError:
        return 0
    return status.st_size


def remove_newest(directory: str, paths: Sequence[str]) -> None:
    """Remove the last segments of a directory, the newest first, so that there never is a gap."""
    for path in reversed(paths):
        os.unlink(path)
        sync_directory(directory)


def recycle(directory: str, old: int, number: int, size: int) -> OpenFile:
    """Make a spare of a segment that is no longer needed, without freeing its blocks.

    In between it has a name under which a start removes it. Returns it open. After an OSError the old segment is
    either unchanged or gone.
    """
    path = path_of(directory, number)
    part = path_of(directory, number, PART)
    os.rename(path_of(directory, old), part)
    spare = None
    try:
        sync_directory(directory)
        spare = OpenFile(part, os.O_RDWR)
        write_zeros(spare.fd, size)
        os.fsync(spare.fd)
        os.rename(part, path)
        sync_directory(directory)
    except BaseException:
        if spare is not None:
            spare.close()
        remove(part)
        remove(path)
        raise
    return spare


class Work:
    """One task of the segment worker, and its result.

    - ``number``: of the spare to make, 0 for none. ``size``: in bytes.
    - ``old``: the segment to recycle as that spare, or to remove; 0 for none.
    - ``sync_first``: all segments after the old one, up to this one, are synced before it is removed; 0 for none.
    - ``outcome``: "made" or "recycled": a spare, open as ``fd``; "refused": no spare; "removed": the old segment was
      removed; "failed": the binlog has to end, and ``text`` says why.
    - ``removal``: the task that replaces a recycling that did not succeed.

    The loop creates everything that the thread needs in order to report, because the thread must be able to report
    without memory.
    """

    __slots__ = ("fd", "number", "old", "outcome", "removal", "size", "sync_first", "text")

    def __init__(self, number: int, size: int, old: int = 0, sync_first: int = 0) -> None:
        self.number = number
        self.size = size
        self.old = old
        self.sync_first = sync_first
        self.outcome = ""
        self.fd = -1
        self.text = ""
        self.removal: Work | None = Work(0, size, old, sync_first) if number and old else None

    @property
    def file(self) -> str:
        """The name of the file that is made or removed."""
        return name_of(self.number or self.old)


class SegmentWorker:
    """The thread that creates and removes segments.

    The thread calls ``wake`` after each result; the loop then calls ``first_result``, and ``drop_first_result``.
    ``log`` is called with a level, an event and fields. ``written``: see ``create``. ``slow_ns``: tasks that take this
    long are logged; 0 logs none.

    Nothing ends the thread before ``close``, because puts may wait for its results. Without memory a task is refused or
    retried; an error other than OSError is reported as "failed".
    """

    def __init__(
        self,
        directory: str,
        wake: Callable[[], None],
        log: Callable[..., None],
        *,
        written: bool = False,
    ) -> None:
        self._directory = directory
        self._wake = wake
        self._log = log
        self._written = written
        self._tasks: SimpleQueue[Work | None] = SimpleQueue()
        self._results: deque[Work] = deque()
        self._to_remove: deque[Work] = deque()
        self.slow_ns = 0
        self._complained = False  # no spare could be made: logged once, until one is made again
        self._failed = False
        self._retry = Work(0, 0)  # the task after a timeout: retry the removals
        self._synced_to = 0  # removals have synced all segments before this one, which are full
        self._thread = threading.Thread(target=self._work, name="fastbean-segments", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def create(self, number: int, size: int) -> None:
        """Request a spare."""
        self._tasks.put(Work(number, size))

    def recycle(self, old: int, number: int, size: int, sync_first: int = 0) -> None:
        """Request a spare made from an old segment once those before it are removed. ``sync_first``: see ``remove``."""
        self._tasks.put(Work(number, size, old, sync_first))

    def remove(self, number: int, size: int, sync_first: int = 0) -> None:
        """Request the removal of a segment. Segments are removed in the order of these calls, one after the other.

        ``sync_first``: all later segments up to this one are synced before that; 0 for none.
        """
        self._tasks.put(Work(0, size, number, sync_first))

    def first_result(self) -> Work | None:
        """The first task that is done; None if there is none."""
        return self._results[0] if self._results else None

    def drop_first_result(self) -> None:
        """The first task that is done has been dealt with."""
        self._results.popleft()

    def close(self) -> None:
        """Finish the requested tasks, and end. May be called again, and after a failed ``start``."""
        self._tasks.put(None)
        threads.join(self._thread)

    def _work(self) -> None:
        work: Work | None = self._retry
        while work is not None:
            try:
                work = self._next()
                if work is not None:
                    self._do(work)
            except MemoryError:
                # The task has been reported, or is still in `_to_remove`.
                time.sleep(MEMORY_RETRY_S)

    def _next(self) -> Work | None:
        try:
            return self._tasks.get(timeout=REMOVE_RETRY_S if self._to_remove else None)
        except Empty:
            return self._retry

    def _do(self, work: Work) -> None:
        began_ns = clock.monotonic_ns()
        try:
            if work is self._retry:
                self._remove_all()
            elif not work.old:
                self._make("made", work, self._create)
            elif work.removal is None:
                _insist(self._to_remove.append, work)
                self._remove_all()
            else:
                self._recycle(work, work.removal)
            self._warn_if_slow(work, clock.monotonic_ns() - began_ns)
        except MemoryError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is reported to the loop, which ends the server
            self._fail(work, f"the thread that makes and removes segments has failed: {error!r}")

    def _warn_if_slow(self, work: Work, took_ns: int) -> None:
        if self.slow_ns and took_ns >= self.slow_ns and work is not self._retry:
            kind = "make" if not work.old else "recycle" if work.number else "remove"
            self._log("WARNING", "slow-segment", ms=took_ns // NS_IN_MS, work=kind, file=work.file)

    def _report(self, work: Work, outcome: str) -> None:
        work.outcome = outcome
        _insist(self._results.append, work)
        _insist(self._wake)

    def _fail(self, work: Work, text: str) -> None:
        self._failed = True
        work.text = text
        self._report(work, "failed")

    def _fail_to_sync_names(self, work: Work, error: DirectorySyncError) -> None:
        self._fail(work, f"cannot sync the directory {self._directory}: {error.strerror}")

    def _create(self, work: Work) -> OpenFile:
        return create(self._directory, work.number, work.size, written=self._written)

    def _make(self, outcome: str, work: Work, make: Callable[[Work], OpenFile]) -> bool:
        """Make and report a spare. Returns whether there is nothing more to do: it was made, or the binlog failed."""
        try:
            work.fd = make(work).detach()
        except DirectorySyncError as error:
            self._fail_to_sync_names(work, error)
            return True
        except (OSError, MemoryError) as error:
            with contextlib.suppress(MemoryError):
                self._complain(error)
            outcome = "refused"
        else:
            self._complained = self._complained and outcome != "made"
        self._report(work, outcome)
        return work.fd >= 0

    def _complain(self, error: OSError | MemoryError) -> None:
        if self._complained:
            return
        self._complained = True
        if isinstance(error, MemoryError):
            self._log("ERROR", "binlog-cannot-grow", error="out of memory")
        elif error.errno in NO_ROOM:
            self._log("WARNING", "binlog-has-no-room", error=error.strerror)
        else:
            self._log("ERROR", "binlog-cannot-grow", error=error.strerror)

    def _recycle(self, work: Work, removal: Work) -> None:
        self._remove_all()
        try:
            may_go = not self._to_remove and self._sync(work)
        except MemoryError:
            may_go = False
        if self._failed or (may_go and self._make("recycled", work, self._rename_and_clear)):
            return
        if not may_go:
            self._report(work, "refused")
        # It could not be removed, or not before the others: it is removed after them, and later ones after it.
        _insist(self._to_remove.append, removal)
        self._remove_all()

    def _rename_and_clear(self, work: Work) -> OpenFile:
        return recycle(self._directory, work.old, work.number, work.size)

    def _remove_all(self) -> None:
        """A segment is removed only after those before it: deletes must not vanish before the puts that they end."""
        while self._to_remove and not self._failed:
            work = self._to_remove[0]
            try:
                if not self._sync(work):
                    return
                remove(path_of(self._directory, work.old))
                sync_directory(self._directory)
            except DirectorySyncError as error:
                self._fail_to_sync_names(work, error)
                return
            except OSError as error:
                self._log("WARNING", "segment-not-removed", file=work.file, error=error.strerror)
                return
            except MemoryError:
                return
            self._to_remove.popleft()
            self._report(work, "removed")

    def _sync(self, work: Work) -> bool:
        """Sync all segments from the oldest that stays to the one with the shed record.

        What was copied out of a segment must be as safe as it was there. False when a sync fails, which ends the
        binlog.
        """
        for number in range(max(self._synced_to, work.old + 1), work.sync_first + 1):
            try:
                with open(path_of(self._directory, number), "rb") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                self._fail(work, f"cannot sync {name_of(number)}: {error.strerror}")
                return False
        # The last one may still be written to: it is synced again the next time.
        self._synced_to = max(self._synced_to, work.sync_first)
        return True


def _insist(function: Callable[..., object], *arguments: object) -> None:
    """Call a function that must not fail for lack of memory: wait until there is enough."""
    while True:
        try:
            function(*arguments)
        except MemoryError:
            time.sleep(MEMORY_RETRY_S)
        else:
            return
