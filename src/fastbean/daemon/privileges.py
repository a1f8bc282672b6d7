"""The rights of the whole process: its user, its limit on open files. Only the program calls this, never a library."""

import contextlib
import os

from fastbean.errors import NoSuchUserError, PrivilegeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pwd import struct_passwd


def find_user(user: str) -> "struct_passwd":
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
    if os.geteuid() != 0 and (os.geteuid(), os.getegid()) == (entry.pw_uid, entry.pw_gid):
        return
    try:
        os.initgroups(entry.pw_name, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    except OSError as error:
        raise PrivilegeError(
            f"-u {user}: cannot become this user: {error.strerror}; start as root, or without -u"
        ) from None


def raise_descriptor_limit() -> int:
    """Raises the soft limit on open files to the hard one; returns the limit in force, -1 if it is unknown."""
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
