"""What systemd and its service speak about: sockets handed over, readiness, status, the watchdog.

Plain environment variables and datagrams; without them every function here does nothing, so no system needs to be told
apart. Nothing here changes the environment.
"""

import contextlib
import os

from fastbean.errors import ListenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_FD = 3
SOCKET_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


def inherited_fds(environ: "Mapping[str, str]", pid: int) -> list[int]:
    """The descriptors that were handed to process ``pid``; none if the variables are missing or meant for another.

    Raises ListenError if LISTEN_FDS is not a number.
    """
    if environ.get("LISTEN_PID") != str(pid):
        return []
    count = environ.get("LISTEN_FDS", "0")
    if not (count.isascii() and count.isdigit() and len(count) < 7):
        raise ListenError(f"LISTEN_FDS={count} is not a number of descriptors; look at the .socket unit")
    return list(range(FIRST_FD, FIRST_FD + int(count)))


def watchdog_interval_ns(environ: "Mapping[str, str]", pid: int) -> int | None:
    """How often to tell that we are alive: half of WATCHDOG_USEC, in nanoseconds; None if nobody wants to know."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    with contextlib.suppress(ValueError):
        interval_ns = int(environ.get("WATCHDOG_USEC", "0")) * 1000 // 2
        return interval_ns if interval_ns > 0 else None
    return None


class Notifier:
    """Tells the service manager at ``address`` (NOTIFY_SOCKET: a path, or @NAME) about us; nobody if it is empty."""

    def __init__(self, address: str) -> None:
        self._address = ""
        if address[:1] in ("/", "@"):
            self._address = "\0" + address[1:] if address[0] == "@" else address

    def tell(self, *assignments: str) -> None:
        """Sends ``assignments``, such as READY=1, in one message; a manager that is gone or busy is no error."""
        if not self._address:
            return
        import socket  # slow to load, and neither --help nor a start without a manager needs it here

        if not hasattr(socket, "AF_UNIX"):
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto("\n".join(assignments).encode(), self._address)


def notifier(environ: "Mapping[str, str]") -> Notifier:
    """The notifier for NOTIFY_SOCKET."""
    return Notifier(environ.get("NOTIFY_SOCKET", ""))


def forget(environ: dict[str, str] | os._Environ[str]) -> None:
    """Takes the variables of the sockets out of ``environ``: they are ours, not a child's."""
    for name in SOCKET_VARIABLES:
        environ.pop(name, None)
