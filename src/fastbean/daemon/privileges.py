"""The rights of the whole process: its user, its limit on open files. Only the program calls this, never a library."""

from __future__ import annotations

import contextlib
import errno
import os

from fastbean.errors import NoSuchUserError, PrivilegeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pwd import struct_passwd


def find_user(user: str) -> struct_passwd:
    """The entry of a user given by name or number. Raises NoSuchUserError if there is none."""
    try:
        import pwd
    except ImportError:
        raise NoSuchUserError(f"-u {user}: this system has no users to become; start it without -u") from None
    try:
        return pwd.getpwnam(user)
    except KeyError:
        with contextlib.suppress(KeyError, ValueError, OverflowError):
            return pwd.getpwuid(int(user))
    raise NoSuchUserError(f"-u {user}: no such user; create it with `useradd --system {user}`, or name another one")


def become(user: str) -> None:
    """Switches for good from the present user, group and supplementary groups to those of ``user``.

    Does nothing if the process runs as that user already. Raises NoSuchUserError, or PrivilegeError if the system
    refuses.
    """
    entry = find_user(user)
    if _is_already(entry):
        return
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise _cannot_become(user, str(error.strerror)) from None


def check_user(user: str) -> None:
    """Raises what ``become`` would raise, as far as that can be known, and changes nothing."""
    if not _is_already(find_user(user)) and os.geteuid() != 0:
        raise _cannot_become(user, os.strerror(errno.EPERM))


def _is_already(entry: struct_passwd) -> bool:
    return os.geteuid() != 0 and (os.geteuid(), os.getegid()) == (entry.pw_uid, entry.pw_gid)


def _cannot_become(user: str, reason: str) -> PrivilegeError:
    return PrivilegeError(f"-u {user}: cannot become this user: {reason}; start as root, or without -u")


def run_as(user: str | None, action: Callable[[], bool]) -> bool:
    """Returns what ``action`` returns when it is run as ``user`` (None: as the present one).

    For another user it runs in a child process, so that this one stays what it is.
    """
    if user is None or _is_already(find_user(user)):
        return action()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            become(user)
            status = 0 if action() else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def raise_descriptor_limit() -> int:
    """Raises the soft limit on open files to the hard one; returns the limit that holds, -1 if it is unknown."""
    try:
        import resource
    except ImportError:
        return -1
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # an unlimited hard limit is more than some systems grant
        return soft
    return hard
