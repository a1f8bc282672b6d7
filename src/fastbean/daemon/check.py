"""``--check-config``: what a start would use, and what would prevent it, without changing anything.

It binds no address on which a server listens, and takes no lock, so the settings of a running server can be checked
at any time.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from fastbean.base import limits
from fastbean.daemon import privileges
from fastbean.errors import BinlogError, FastbeanError, NoSuchUserError, PrivilegeError
from fastbean.net.listener import Address, check_all, parse_address

if TYPE_CHECKING:
    from fastbean.config import Config
    from fastbean.daemon.command_line import CommandLine


def problems(config: Config) -> list[FastbeanError]:
    """Returns the errors that a start with ``config`` would meet, in its order.

    That is: an unknown user, the addresses, a user that it cannot become, the binlog.
    """
    found: list[FastbeanError] = []
    user = config.user
    try:
        if user is not None:
            privileges.find_user(user)
    except NoSuchUserError as error:
        found.append(error)
        user = None
    found += check_all(_addresses(config) + _http_addresses(config))
    try:
        if user is not None:
            privileges.check_user(user)
    except PrivilegeError as error:
        found.append(error)
        user = None
    try:
        if config.binlog_dir is not None:
            _check_directory(config.binlog_dir, user)
    except BinlogError as error:
        found.append(error)
    return found


def _addresses(config: Config) -> list[Address]:
    return [parse_address(text, config.port) for text in config.listen or (limits.DEFAULT_HOST,)]


def _http_addresses(config: Config) -> list[Address]:
    return [parse_address(text, limits.DEFAULT_HTTP_PORT) for text in config.http]


def _check_directory(directory: str, user: str | None) -> None:
    advice = "the directory must exist and be writable"
    try:
        if not stat.S_ISDIR(os.stat(directory).st_mode):
            raise BinlogError(f"-b {directory}: this is not a directory; {advice}")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BinlogError(f"-b {directory}: cannot use it: {reason}; {advice}") from None
    lock = os.path.join(directory, "lock")

    def usable() -> bool:
        needed = os.R_OK | os.W_OK | os.X_OK
        return os.access(directory, needed) and (not os.path.exists(lock) or os.access(lock, os.W_OK))

    if not privileges.run_as(user, usable):
        name = f"the user {user}" if user is not None else "this user"
        raise BinlogError(f"-b {directory}: {name} may not write to it or to its lock; {advice}")


def report(wanted: CommandLine, config: Config) -> list[str]:
    """Returns the lines of ``--check-config`` for settings without problems."""
    lines = ["the settings are correct"]
    file = wanted.file
    if file is not None:
        set_there = [key for setting, key in file.keys.items() if setting not in wanted.by_flags]
        unused = [key for setting, key in file.keys.items() if setting in wanted.by_flags]
        lines.append(f"{os.path.abspath(file.path)} sets {', '.join(set_there) or 'nothing'}")
        if unused:
            lines.append(f"the command line wins over its {', '.join(unused)}")
    lines.append(f"listens on {', '.join(map(str, _addresses(config)))}")
    if config.http:
        lines.append(f"answers HTTP probes on {', '.join(map(str, _http_addresses(config)))}")
    if config.user is not None:
        entry = privileges.find_user(config.user)
        lines.append(f"becomes user {entry.pw_name}, uid {entry.pw_uid}, gid {entry.pw_gid}")
    if config.binlog_dir is None:
        lines.append("keeps no binlog: jobs end with the server")
    else:
        lines.append(f"keeps a binlog in {os.path.abspath(config.binlog_dir)}, which is there and writable")
    lines += [f"note: {warning}" for warning in wanted.warnings]
    return lines
