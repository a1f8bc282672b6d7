"""The parts of systemd's protocol that a service uses: inherited sockets, readiness, status, the watchdog.

These are plain environment variables and datagrams. Without them every function here does nothing, so no other system
needs a special case. Only ``forget`` changes the environment.
"""

from __future__ import annotations

import contextlib
import os

from fastbean.errors import ListenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_FD = 3
SOCKET_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_fds(environ: Mapping[str, str], pid: int) -> list[int]:
    """The descriptors that were passed to process ``pid``; none if the variables are unset or name another process.

    Raises ListenError if LISTEN_FDS is not a number.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return []
    count = environ.get("LISTEN_FDS", "0")
    if not (count.isascii() and count.isdigit() and len(count) < 7):
        raise ListenError(f"LISTEN_FDS={count} is not a number of descriptors; look at the .socket unit")
    return list(range(FIRST_FD, FIRST_FD + int(count)))


def watchdog_interval_ns(environ: Mapping[str, str], pid: int) -> int | None:
    """The interval between watchdog messages, half of WATCHDOG_USEC, in nanoseconds; None if there is no watchdog."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    with contextlib.suppress(ValueError):
        interval_ns = int(environ.get("WATCHDOG_USEC", "0")) * 1000 // 2
        return interval_ns if interval_ns > 0 else None
    return None


class Notifier:
    """Sends messages to the service manager at ``address`` (NOTIFY_SOCKET: a path, or @NAME); none if it is empty."""

    def __init__(self, address: str) -> None:
        self._address = ""
        if address[:1] in ("/", "@"):
            self._address = "\0" + address[1:] if address[0] == "@" else address

    def notify(self, *assignments: str) -> None:
        """Sends ``assignments``, such as READY=1, in one message. A manager that is gone or busy is not an error."""
        if not self._address:
            return
        import socket  # slow to load, and neither --help nor a start without a manager needs it here

        if not hasattr(socket, "AF_UNIX"):
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode(), self._address)


def notifier(environ: Mapping[str, str]) -> Notifier:
    """The notifier for NOTIFY_SOCKET."""
    return Notifier(environ.get("NOTIFY_SOCKET", ""))


def forget(environ: dict[str, str] | os._Environ[str]) -> None:
    """Removes the socket variables from ``environ``: they are for this process, not for its children."""
    for name in SOCKET_VARIABLES:
        environ.pop(name, None)
