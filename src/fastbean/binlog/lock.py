"""The lock of a log directory: the same as beanstalkd's, so that neither starts on the other's."""

import fcntl
import os

from fastbean.errors import BinlogError


class DirectoryLock:
    """Holds ``DIR/lock``, an fcntl write lock, until ``release``, or the end of the process.

    Raises BinlogError when another server holds it, or the directory cannot be used.
    """

    def __init__(self, directory: str) -> None:
        self.path = os.path.join(directory, "lock")
        try:
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise BinlogError(
                f"-b {directory}: cannot open its lock: {error.strerror}; the directory must exist and be writable"
            ) from error
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise BinlogError(
                f"-b {directory}: another server uses this directory; stop it, or choose another directory"
            ) from error

    def release(self) -> None:
        """Let others have the directory."""
        os.close(self._fd)
