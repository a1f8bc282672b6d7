"""A fastbean in a process of its own, what the system reports about it, and a blocking client.

Another program may run the daemon (a shell that lowers a limit, strace). It listens on loopback, on a port that the
system chooses, or on a unix socket.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from patience import PATIENCE_S

HOST = "127.0.0.1"
LOG_BYTES = 1 << 24


class Client:
    """A connected socket whose replies are read line by line."""

    def __init__(self, address: tuple[str, int] | str, receive_bytes: int = 0) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_bytes:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self.sock.settimeout(PATIENCE_S)
            self.sock.connect(address)
            if family == socket.AF_INET:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            self.sock.close()
            raise
        self.buffer = b""

    def send(self, data: bytes) -> None:
        """All of the bytes."""
        self.sock.sendall(data)

    def line(self) -> bytes:
        """The next line, without its CRLF."""
        while b"\r\n" not in self.buffer:
            self._receive()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def exactly(self, size: int) -> bytes:
        """The next `size` bytes."""
        pieces, missing = [self.buffer], size - len(self.buffer)
        self.buffer = b""
        while missing > 0:
            self._receive()
            pieces.append(self.buffer)
            missing -= len(self.buffer)
            self.buffer = b""
        data = b"".join(pieces)
        self.buffer = data[size:]
        return data[:size]

    def ask(self, command: bytes) -> bytes:
        """One command, answered by one line."""
        self.send(command)
        return self.line()

    def text(self) -> bytes:
        """The text that an ``OK`` announces."""
        word, size = self.line().split()
        assert word == b"OK"
        return self.exactly(int(size) + 2)[:-2]

    def close(self) -> None:
        """Closes the connection."""
        self.sock.close()

    def _receive(self) -> None:
        data = self.sock.recv(1 << 18)
        if not data:
            raise EOFError("the server has closed the connection")
        self.buffer += data


def fill(client: Client, commands: Sequence[bytes], expected: bytes, at_once: int = 500) -> None:
    """Many short commands, of which each must be answered by one line that starts as `expected`."""
    for start in range(0, len(commands), at_once):
        batch = commands[start : start + at_once]
        client.send(b"".join(batch))
        for command in batch:
            line = client.line()
            assert line.startswith(expected), f"{command!r} was answered with {line!r}"


class Daemon:
    """A running fastbean. before: the command of a program that runs it. flags: more arguments for fastbean."""

    def __init__(self, before: Sequence[str] = (), flags: Sequence[str] = (), unix: Path | None = None) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by the test that made the daemon, once the log is read
        self.clients: list[Client] = []
        where = ["-l", HOST, "-p", "0"] if unix is None else ["-l", f"unix:{unix}"]
        words = [*before, sys.executable, "-m", "fastbean", *where, *flags]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors)
        try:
            said = wait_for(self._said_where, "the address in fastbean's log")
            self.address: tuple[str, int] | str = str(unix) if unix else (HOST, int(said))
            # strace is the process that was started, and fastbean its child.
            self.pid = self._ask_pid()
        except BaseException:
            self.stop()
            self.errors.close()
            raise

    def connect(self, receive_bytes: int = 0) -> Client:
        """Connects a new client. receive_bytes: the size of its receive buffer; 0: the system's default."""
        client = Client(self.address, receive_bytes)
        self.clients.append(client)
        return client

    def log(self) -> str:
        """What it has written to stderr so far."""
        # A seek would move the place at which the daemon writes: they share it.
        return os.pread(self.errors.fileno(), LOG_BYTES, 0).decode("utf-8", "replace")

    def resident_bytes(self) -> int:
        """The memory that is really there, without what it shares with files."""
        return self._status("RssAnon") * 1024

    def wake_ups(self) -> int:
        """How often the process has gone to sleep until now, which is as often as it was woken."""
        return self._status("voluntary_ctxt_switches")

    def cpu_ticks(self) -> int:
        """Processor time used until now, in ticks of a hundredth of a second."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def soft_limit(self) -> int:
        """How many descriptors the process may have now."""
        return resource.prlimit(self.pid, resource.RLIMIT_NOFILE)[0]

    def settle(self) -> None:
        """Returns once the server has received everything that any client sent before."""
        client = self.connect()
        for _ in range(3):
            assert client.ask(b"list-tube-used\r\n") == b"USING default"
        client.close()

    def stop(self) -> int:
        """Closes all its clients, stops it and returns its exit status."""
        for client in self.clients:
            client.close()
        pid = getattr(self, "pid", self.process.pid)
        try:
            if self.process.poll() is None:
                os.kill(pid, signal.SIGTERM)
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self.process.wait()

    def _ask_pid(self) -> int:
        client = self.connect()
        client.send(b"stats\r\n")
        found = re.search(rb"^pid: (\d+)$", client.text(), re.MULTILINE)
        client.close()
        assert found, "there is no pid in stats"
        return int(found[1])

    def _said_where(self) -> str | None:
        if self.process.poll() is not None:
            raise RuntimeError(f"fastbean ended with {self.process.returncode}:\n{self.log()}")
        found = re.search(r"listening address=\S*[:/](\S+)", self.log())
        return found and found[1]

    def _status(self, name: str) -> int:
        text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
        assert found, f"there is no {name} in the status of process {self.pid}"
        return int(found[1])


def wait_for(look: Callable[[], str | None], what: str) -> str:
    """Waits until ``look`` finds something, and returns it."""
    give_up = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < give_up, f"waited {PATIENCE_S:.0f} seconds in vain for {what}"
        time.sleep(0.01)
    return found
