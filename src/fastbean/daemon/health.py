"""Asks a beanstalk server whether it serves: ``fastbean health [ADDR]``, for containers and monitors.

It connects, sends a command that changes nothing, and waits for the reply, all within five seconds. ``ADDR`` is written
as for ``-l``; the default is 127.0.0.1:11300. Exit statuses: 0 the server serves, 1 it does not, 5 a wrong argument;
unless it is 0, one line on stderr says why. It works with any beanstalkd.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING

from fastbean.base import limits
from fastbean.errors import FastbeanError, UsageError
from fastbean.net.listener import parse_address

if TYPE_CHECKING:
    from collections.abc import Sequence

PATIENCE_S = 5.0
HELP = """\
Use: fastbean health [ADDR]

Ask the beanstalk server at ADDR (HOST, HOST:PORT, [IPV6]:PORT or unix:PATH; default
127.0.0.1:11300) whether it serves. It has five seconds to answer.

Exit status: 0 it serves, 1 it does not, 5 a wrong argument.
"""
QUESTION, ANSWER = b"list-tube-used\r\n", b"USING default\r\n"
HEALTHY, UNHEALTHY = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Asks the server that ``argv`` names (None: the command line's); returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write(HELP)
        return HEALTHY
    try:
        if len(arguments) > 1 or any(each.startswith("-") for each in arguments):
            raise UsageError("one address at most: fastbean health 127.0.0.1:11300")
        address = arguments[0] if arguments else f"127.0.0.1:{limits.DEFAULT_PORT}"
        fault = ask(address)
    except FastbeanError as error:
        sys.stderr.write(f"fastbean health: {error}\n")
        return UsageError.exit_status
    if fault:
        sys.stderr.write(f"fastbean health: {address}: {fault}\n")
        return UNHEALTHY
    return HEALTHY


def ask(address: str) -> str:
    """Asks the server at ``address``; returns what is wrong with it, or "". Raises ListenError for a bad address."""
    target = parse_address(address, limits.DEFAULT_PORT)
    give_up_s = time.monotonic() + PATIENCE_S
    found = b""
    try:
        with _connect(target.path, target.host, target.port) as sock:
            sock.sendall(QUESTION)
            while len(found) < len(ANSWER):
                sock.settimeout(max(give_up_s - time.monotonic(), 0.001))
                more = sock.recv(len(ANSWER) - len(found))
                if not more:
                    break
                found += more
    except (OSError, UnicodeError) as error:  # a host name that cannot be encoded is a UnicodeError
        return str(error)
    return "" if found == ANSWER else f"it answered {found!r}, not {ANSWER!r}"


def _connect(path: str, host: str, port: int) -> socket.socket:
    if not path:
        return socket.create_connection((host, port), PATIENCE_S)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(PATIENCE_S)
    try:
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


if __name__ == "__main__":
    sys.exit(main())
