"""Starts and stops the servers for the tests over a socket: fastbean and real beanstalkd.

A server listens on loopback, on a free port or on a unix socket. `start` returns once the server answers; it has then
served exactly one connection, which is closed again, so `total-connections` is known. Stopping waits until the process
has ended. What the server writes to stderr is kept and can be read at any time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from patience import PATIENCE_S
from ports import ReservedPort

FASTBEAN = "fastbean"
BEANSTALKD = "beanstalkd"
KINDS = (FASTBEAN, BEANSTALKD)

HOST = "127.0.0.1"
LOG_BYTES = 1 << 24
ATTEMPTS = 5


class ServerMissingError(Exception):
    """The program of this kind is not installed."""


class ServerFailedError(Exception):
    """The program was started and ended, or never answered."""


class _EndedError(ServerFailedError):
    """The program ended before it answered: another process may have taken its port meanwhile."""


@dataclass
class Server:
    """A running server.

    kind: "fastbean" or "beanstalkd". address: (host, port), or the path of a unix socket.
    """

    kind: str
    address: tuple[str, int] | str
    process: subprocess.Popen[bytes]
    errors: IO[bytes] = field(repr=False)
    reserved: ReservedPort | None = field(default=None, repr=False)
    returncode: int | None = None

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        assert isinstance(self.address, tuple), "this server listens on a unix socket"
        return self.address[1]

    def connect(self, limit_s: float = PATIENCE_S) -> socket.socket:
        """A new connected socket; its operations time out after limit_s seconds."""
        family = socket.AF_INET if isinstance(self.address, tuple) else socket.AF_UNIX
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(limit_s)
            sock.connect(self.address)
            if family == socket.AF_INET:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            sock.close()
            raise
        return sock

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        self.process.send_signal(number)

    def stderr(self) -> str:
        """Everything that the server wrote to stderr so far."""
        # A seek would move the place at which the server writes: they share it.
        return os.pread(self.errors.fileno(), LOG_BYTES, 0).decode("utf-8", "replace")

    def resident_kib(self) -> int:
        """The memory that the process holds now, in KiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise ServerFailedError(f"the {self.kind} has no memory figure: is it still running?")

    def stop(self) -> str:
        """Stops the server and waits for its end; returns what it wrote to stderr. A second call does nothing."""
        if self.returncode is not None:
            return ""
        self.process.terminate()
        try:
            self.returncode = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.returncode = self.process.wait()
        written = self.stderr()
        self.errors.close()
        if self.reserved is not None:
            self.reserved.release()
        return written


def find(kind: str) -> list[str]:
    """The command that starts a server of this kind.

    Raises ServerMissingError, with what to do about it, when it is not installed.
    """
    if kind == FASTBEAN:
        return [sys.executable, "-m", "fastbean"]
    path = shutil.which("beanstalkd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/bin")
    if path is None:
        raise ServerMissingError(
            "no beanstalkd is installed, so nothing is compared with it (Debian: apt-get install beanstalkd)"
        )
    return [path]


def version(kind: str) -> tuple[int, ...]:
    """The version of the protocol that this kind answers with, as beanstalkd counts: (1, 12) or (1, 13)."""
    if kind == FASTBEAN:
        return (1, 13)
    said = subprocess.run([*find(kind), "-v"], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    number = said.stdout.split()[1]
    return tuple(int(part) for part in number.split("+")[0].split(".")[:2])


def start(kind: str, *, flags: Sequence[str] = (), unix: Path | None = None) -> Server:
    """Starts a server and waits until it answers.

    flags: more words for its command line. unix: listen on this path instead of a port.
    Raises ServerMissingError or ServerFailedError.
    """
    for attempt in range(ATTEMPTS):
        try:
            return _start_once(kind, flags, unix)
        except _EndedError:
            if attempt == ATTEMPTS - 1:
                raise
    raise AssertionError("the loop above always returns or raises")


def _start_once(kind: str, flags: Sequence[str], unix: Path | None) -> Server:
    address: tuple[str, int] | str
    reserved = None
    if unix is None:
        reserved = ReservedPort(HOST)
        address = (HOST, reserved.number)
        where = ["-l", HOST, "-p", str(address[1])]
    else:
        address = str(unix)
        where = ["-l", f"unix:{unix}"]
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - the server keeps it open until it is stopped
    try:
        process = subprocess.Popen(
            [*find(kind), *where, *flags], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors
        )
    except BaseException:
        errors.close()
        if reserved is not None:
            reserved.release()
        raise
    server = Server(kind, address, process, errors, reserved)
    try:
        _wait_until_it_answers(server)
    except BaseException:
        server.stop()
        raise
    return server


def _wait_until_it_answers(server: Server) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        if server.process.poll() is not None:
            raise _EndedError(f"{server.kind} ended with {server.process.returncode} at its start:\n{server.stderr()}")
        try:
            with server.connect() as sock:
                sock.sendall(b"quit\r\n")
                if sock.recv(1) == b"":
                    return
        except OSError:
            if time.monotonic() > give_up:
                raise ServerFailedError(
                    f"{server.kind} does not answer on {server.address}:\n{server.stderr()}"
                ) from None
        time.sleep(0.005)
