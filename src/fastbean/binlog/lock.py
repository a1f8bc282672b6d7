"""The lock of a binlog directory: beanstalkd's ``DIR/lock``, so that neither server starts on the other's.

An open-file-description lock excludes every other server: a real beanstalkd, a fastbean of another process, and one of
this process. It is held until its own descriptor is closed. A system or file system without such locks gets the kind
that beanstalkd takes. That kind belongs to the process: it does not exclude a second server of the same process, and
closing any descriptor of the file ends it. So the directories that this process has locked are also listed here,
and the file of a listed directory is not opened again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
import threading

from fastbean.binlog.advice import NO_ACCESS, advice
from fastbean.binlog.descriptors import OpenFile
from fastbean.errors import BinlogError

# The command's argument is the C struct flock; elsewhere than on Linux its members have another order. The zeros at the
# end are members that exist on some processors: a start of 0 and a length of 0 mean the whole file.
_FLOCK = struct.Struct("hhqqi16x")
_HELD_BY_ANOTHER = frozenset({errno.EAGAIN, errno.EACCES})
_NO_SUCH_LOCKS = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})

_held: dict[tuple[int, int], OpenFile] = {}  # by device and inode of the directory
_guard = threading.Lock()


class DirectoryLock:
    """Holds ``DIR/lock``, for writing, until ``release``, or until it is dropped, or the end of the process.

    Raises BinlogError when another server holds it, when the directory cannot be used, and when its file system has no
    locks: without one, two servers would overwrite each other's jobs.
    """

    # Here, since an exception may end the constructor before its first line; `__del__` follows.
    _file: OpenFile | None = None
    _key: tuple[int, int] | None = None

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.path = os.path.join(directory, "lock")
        try:
            with _guard:
                self._take(directory)
        except BaseException:
            self.release()
            raise

    def __del__(self) -> None:
        self.release()

    def _take(self, directory: str | os.PathLike[str]) -> None:
        try:
            found = os.stat(directory)
            if (found.st_dev, found.st_ino) in _held:
                raise _taken(directory)
            self._file = file = OpenFile(self.path, os.O_WRONLY | os.O_CREAT)
        except OSError as error:
            what_to_do = "the directory must exist and be writable" if error.errno in NO_ACCESS else advice(error)
            raise BinlogError(f"-b {directory}: cannot open its lock: {error.strerror}; {what_to_do}") from error
        try:
            _lock(file.fd)
        except OSError as error:
            raise _taken(directory) if error.errno in _HELD_BY_ANOTHER else _refusal(directory, error) from error
        self._key = (found.st_dev, found.st_ino)
        _held[self._key] = file

    def release(self) -> None:
        """Release the directory. May be called again."""
        if self._key is not None:
            _held.pop(self._key, None)
            self._key = None
        if self._file is not None:
            self._file.close()


def _lock(fd: int) -> None:
    """Lock the file; raises OSError if that fails."""
    if sys.platform == "linux" and hasattr(fcntl, "F_OFD_SETLK"):
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            # A kernel before 3.15, or a file system that supports only the older kind.
            if error.errno not in _NO_SUCH_LOCKS:
                raise
        else:
            return
    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(directory: str | os.PathLike[str]) -> BinlogError:
    return BinlogError(f"-b {directory}: another server uses this directory; stop it, or choose another directory")


def _refusal(directory: str | os.PathLike[str], error: OSError) -> BinlogError:
    if error.errno == errno.ENOLCK or error.errno in _NO_SUCH_LOCKS:
        what_to_do = (
            "its file system has no locks, or the system has no more of them: mount it with locks (NFS version 3 needs "
            "rpc.statd), or choose a directory on a local disk"
        )
    else:
        what_to_do = advice(error)
    return BinlogError(f"-b {directory}: cannot lock it: {error.strerror}; {what_to_do}")


def _forget_all() -> None:
    """In the child of a fork, which shares the locks: a parent that ends must not leave its directory locked."""
    global _guard
    _guard = threading.Lock()
    for file in _held.values():
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
