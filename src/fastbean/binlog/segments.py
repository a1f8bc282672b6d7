"""The files of a log: their names and headers, and the thread that makes and removes them.

A segment is ``fastbean-N.log``. A file whose header is still zero is a spare: allocated, and not used yet. What may
take long (creating, allocating, removing, syncing the folder) happens in the housekeeper's thread, never in the loop.
"""

import errno
import os
import queue
import struct
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from fastbean._record import checksum
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MAGIC = b"fastbean"
FORMAT_VERSION = 1
NEWEST_PLAUSIBLE_VERSION = 255  # beyond it, the number is damage and not a format
HEADER = struct.Struct("<8sIIQQQ20xI")  # magic, version, number, first LSN, id limit, floor, CRC32C of all before
REMOVE_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself.

    ``number``: in the name too. ``first_lsn``: of its first record. ``id_limit``: no id at or above it had been given
    out when the segment was begun. ``floor``: no id at or above it had been put.
    """

    number: int
    first_lsn: int
    id_limit: int
    floor: int


def path_of(directory: Path, number: int) -> Path:
    """The file of the segment with this number."""
    return directory / f"fastbean-{number}.log"


def list_segments(directory: Path) -> list[tuple[int, Path]]:
    """All segments of a directory, spares too, by number."""
    found = []
    for path in directory.glob("fastbean-*.log"):
        digits = path.name.removeprefix("fastbean-").removesuffix(".log")
        if digits.isascii() and digits.isdigit():
            found.append((int(digits), path))
    return sorted(found)


def parse_header(data: bytes, name: str = "this log") -> Header | None:
    """The header at the beginning of a segment (``name`` is for the message); None if those bytes are not one.

    Raises BinlogError for a format that only a newer fastbean knows.
    """
    if len(data) < HEADER.size:
        return None
    magic, version, number, first_lsn, id_limit, floor, crc = HEADER.unpack_from(data)
    if magic != MAGIC:
        return None
    sound = checksum(data[: HEADER.size - 4]) == crc
    # A newer format may check its header otherwise: one that claims to be newer is never taken for a torn one.
    if version > FORMAT_VERSION and (sound or version <= NEWEST_PLAUSIBLE_VERSION):
        raise BinlogError(
            f"{name}: at offset 8 it says that it has format {version}, and this fastbean knows formats up to "
            f"{FORMAT_VERSION}: use a newer fastbean"
        )
    return Header(number, first_lsn, id_limit, floor) if sound else None


def sync_directory(directory: Path) -> None:
    """Make the names of a directory safe."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create(directory: Path, number: int, size: int) -> int:
    """A spare segment of ``size`` zero bytes, allocated and safe. Returns its descriptor; OSError leaves nothing."""
    path = path_of(directory, number)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.truncate(fd, size)
        os.fsync(fd)
        sync_directory(directory)
    except BaseException:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd


class Housekeeper:
    """The thread that makes and removes segments.

    ``wake`` is called from the thread after each result; the loop then calls ``results``. ``log`` is called with a
    level, an event and fields.
    """

    def __init__(self, directory: Path, wake: "Callable[[], None]", log: "Callable[..., None]") -> None:
        self._directory = directory
        self._wake = wake
        self._log = log
        self._tasks: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._results: deque[tuple[int, int, int]] = deque()
        self._to_remove: deque[int] = deque()
        self._stopping = threading.Event()
        self._full_told = False
        self._thread = threading.Thread(target=self._work, name="fastbean-housekeeper", daemon=True)
        self._thread.start()

    def create(self, number: int, size: int) -> None:
        """Have a spare made; its result is (number, descriptor, size), the descriptor -1 if it cannot be had."""
        self._tasks.put((number, size))

    def remove(self, number: int) -> None:
        """Have a segment removed. They go in the order of these calls, each only when the one before is gone."""
        self._tasks.put((number, 0))

    def results(self) -> list[tuple[int, int, int]]:
        """What was made since the last call."""
        found = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def close(self) -> None:
        """Finish what is asked for, and end."""
        self._stopping.set()
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            try:
                task = self._tasks.get(timeout=REMOVE_RETRY_S if self._to_remove else None)
            except queue.Empty:
                self._remove_all()
                continue
            if task is None:
                return
            number, size = task
            if size:
                self._create(number, size)
            else:
                self._to_remove.append(number)
                self._remove_all()

    def _create(self, number: int, size: int) -> None:
        fd = -1
        try:
            fd = create(self._directory, number, size)
            self._full_told = False
        except OSError as error:
            if not self._full_told:
                self._full_told = True
                level = "WARNING" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "ERROR"
                self._log(level, "no room for the log: puts are refused until there is", error=error.strerror)
        self._results.append((number, fd, size))
        self._wake()

    def _remove_all(self) -> None:
        """A segment goes only after those before it: deletes must not go before the puts that they end."""
        while self._to_remove:
            path = path_of(self._directory, self._to_remove[0])
            try:
                path.unlink(missing_ok=True)
                sync_directory(self._directory)
            except OSError as error:
                self._log("WARNING", "cannot remove a segment; trying again", file=path.name, error=error.strerror)
                return
            self._to_remove.popleft()
