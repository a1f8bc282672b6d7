"""Servers with a binlog as processes that can be started, killed and stopped; and a blocking client.

What a server writes to stderr is kept and can be read at any time. Every wait has a limit that only a hanging server
reaches.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from builds import IS_COVERAGE
from patience import PATIENCE_S
from ports import ReservedPort

HOST = "127.0.0.1"
LOG_BYTES = 1 << 24
FASTBEAN = "fastbean"
BEANSTALKD = "beanstalkd"
SEGMENT_BYTES = 204800
WITH_BODY = (b"RESERVED", b"FOUND", b"OK")


class StartError(AssertionError):
    """A server ended instead of serving; `status` is its exit status and `said` what it wrote to stderr."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"the server ended with {status} at its start:\n{said}")
        self.status = status
        self.said = said


def find_beanstalkd() -> str | None:
    """The path of real beanstalkd, or None."""
    return shutil.which("beanstalkd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/bin")


def segment_numbers(directory: Path) -> list[int]:
    """The numbers of the segments of fastbean's binlog, in order."""
    found = (re.fullmatch(r"fastbean-(\d+)\.log", path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


def files_bytes(directory: Path) -> int:
    """The total size in bytes of the files in a directory; files may disappear meanwhile."""
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


@dataclass(frozen=True)
class Reply:
    """One reply: its line without CRLF, and the body that came with it (without its CRLF) or None."""

    line: bytes
    body: bytes | None = None

    @property
    def word(self) -> str:
        """The first word of the line."""
        return self.line.split(b" ")[0].decode("latin-1")

    @property
    def number(self) -> int:
        """The first number of the line: an id, or a count of kicked jobs."""
        return int(self.line.split(b" ")[1])


class Replies:
    """Splits received bytes into replies; ``consumed`` counts the bytes of the replies that were taken."""

    def __init__(self) -> None:
        self._data = bytearray()
        self.consumed = 0

    def feed(self, data: bytes) -> None:
        """Adds received bytes."""
        self._data += data

    def take(self) -> Reply | None:
        """The next complete reply, or None if there is none yet."""
        end = self._data.find(b"\r\n")
        if end < 0:
            return None
        line = bytes(self._data[:end])
        words = line.split(b" ")
        if words[0] not in WITH_BODY:
            self._drop(end + 2)
            return Reply(line)
        size = int(words[-1])
        if len(self._data) < end + 2 + size + 2:
            return None
        body = bytes(self._data[end + 2 : end + 2 + size])
        closing = self._data[end + 2 + size : end + 4 + size]
        assert closing == b"\r\n", f"the body of {line!r} does not end with CRLF after {size} bytes"
        self._drop(end + 4 + size)
        return Reply(line, body)

    def _drop(self, count: int) -> None:
        del self._data[:count]
        self.consumed += count


class Client:
    """A blocking connection; every wait for a reply has a limit."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection((HOST, port), timeout=PATIENCE_S)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.replies = Replies()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The local port, which identifies the connection in a trace."""
        port: int = self.sock.getsockname()[1]
        return port

    def send(self, data: bytes) -> None:
        """Sends all of the bytes."""
        self.sock.sendall(data)

    def reply(self) -> Reply:
        """Waits for the next reply. Raises EOFError if the server has closed the connection."""
        while (reply := self.replies.take()) is None:
            try:
                data = self.sock.recv(1 << 18)
            except ConnectionError:
                data = b""
            if not data:
                raise EOFError("the server has closed the connection")
            self.replies.feed(data)
        return reply

    def ask(self, line: bytes, body: bytes | None = None) -> Reply:
        """Sends one command, CRLF added, and waits for its reply."""
        self.send(line + b"\r\n" if body is None else line + b"\r\n" + body + b"\r\n")
        return self.reply()

    def stats(self, line: bytes = b"stats") -> dict[str, str]:
        """The text of a `stats` command by key."""
        reply = self.ask(line)
        assert reply.body is not None, f"{line!r} was answered with {reply.line!r}"
        return parse_stats(reply.body)

    def close(self) -> None:
        """Closes the connection."""
        self.sock.close()


def parse_stats(text: bytes) -> dict[str, str]:
    """Statistics by key, without quotes."""
    pairs = (line.partition(": ") for line in text.decode("latin-1").splitlines()[1:])
    return {key: value.strip('"') for key, _, value in pairs}


class Server:
    """A running server with its binlog in ``directory``.

    policy: ``-f MS`` or ``-F``, as separate arguments. kind: FASTBEAN or BEANSTALKD. extra: more flags. env: more
    environment variables. before: the command of a program that runs the server (strace). Raises StartError if it ends
    instead of serving.
    """

    def __init__(
        self,
        directory: Path,
        policy: Sequence[str] = ("-f", "0"),
        *,
        segment_bytes: int = SEGMENT_BYTES,
        kind: str = FASTBEAN,
        extra: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the server
        self._reserved = ReservedPort(HOST)
        self.port = self._reserved.number
        program = [find_beanstalkd() or BEANSTALKD] if kind == BEANSTALKD else [sys.executable, "-m", "fastbean"]
        words = [*before, *program, "-l", HOST, "-p", str(self.port), "-b", str(directory), *policy]
        self.process = subprocess.Popen(
            [*words, "-s", str(segment_bytes), *extra],
            stdin=subprocess.DEVNULL,
            stdout=self.errors,
            stderr=self.errors,
            env={**os.environ, **(env or {})},
        )
        try:
            self._wait_until_it_serves()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def connect(self) -> Client:
        """Connects a new client."""
        return Client(self.port)

    def said(self) -> str:
        """What it wrote to stderr so far."""
        if self.errors.closed:
            return self._said
        # A seek would move the place at which the server writes: they share it.
        self._said = os.pread(self.errors.fileno(), LOG_BYTES, 0).decode("utf-8", "replace")
        return self._said

    def kill(self) -> None:
        """Kills the server with -9; the system closes its connections."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def wait(self) -> int:
        """Waits until the server has ended by itself; returns the exit status."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """Ends the server if it still runs."""
        if self.process.poll() is None:
            if IS_COVERAGE:
                # A process that is killed does not report which lines have run.
                self.process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(PATIENCE_S)
            self.kill()
        self.said()
        self.errors.close()
        self._reserved.release()

    def _wait_until_it_serves(self) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while True:
            if (status := self.process.poll()) is not None:
                raise StartError(status, self.said())
            try:
                with socket.create_connection((HOST, self.port), timeout=PATIENCE_S) as sock:
                    sock.sendall(b"quit\r\n")
                    if sock.recv(1) == b"":
                        return
            except OSError:
                assert time.monotonic() < give_up, f"the server does not answer:\n{self.said()}"
            time.sleep(0.002)


class WallClock:
    """The wall clock of a server, set by libfaketime; the monotonic clock is not changed.

    A server started with ``env`` sees each `set`. Occasionally it sees the true time in between, because libfaketime
    rereads its file for each thread without a lock. A server started with `fixed` never does.
    """

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.set(0)
        self._preload = {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        self.env = {**self._preload, "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}

    def fixed(self, offset_s: int) -> dict[str, str]:
        """The environment of a server whose clock is always ``offset_s`` off the true time."""
        return {**self._preload, "FAKETIME": f"{offset_s:+d}"}

    def set(self, offset_s: int) -> None:
        """Sets the clock ``offset_s`` off the true time."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{offset_s:+d}\n", encoding="ascii")
        new.replace(self._file)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Waits until `condition` holds; fails after a long time."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up, f"waited in vain for {what}"
        time.sleep(0.01)
