"""A client that works with plain bytes: for tests that must see exactly what a server sends, and when.

Every wait has a limit (PATIENCE_S); NoAnswerError then reports a fault of the server under test.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from patience import PATIENCE_S

from .servers import Server

WITH_BODY = (b"RESERVED", b"FOUND", b"OK")


class NoAnswerError(AssertionError):
    """The server did not send what the test waited for."""


@dataclass(frozen=True)
class Reply:
    """One reply: its line without CRLF, and the body that came with it (without its CRLF) or None."""

    line: bytes
    body: bytes | None = None

    @property
    def word(self) -> str:
        """The first word of the line, which says what kind of reply it is."""
        return self.line.split(b" ")[0].decode("latin-1")

    @property
    def id(self) -> int:
        """The first number of the line: the id in RESERVED, FOUND and INSERTED."""
        return int(self.line.split(b" ")[1])


class Client:
    """A connection to a server.

    limit_s: how long each wait may take, in seconds.
    """

    def __init__(self, server: Server, limit_s: float = PATIENCE_S) -> None:
        self.sock = server.connect(limit_s)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        """Sends these bytes as they are."""
        self.sock.sendall(data)

    def send_bytewise(self, data: bytes) -> None:
        """Sends these bytes one at a time, each in a segment of its own."""
        for i in range(len(data)):
            self.sock.sendall(data[i : i + 1])

    def ask(self, line: bytes | str, body: bytes | None = None) -> Reply:
        """Sends a command line, with a body if there is one (CRLF added to both), and reads one reply."""
        data = (line.encode("latin-1") if isinstance(line, str) else line) + b"\r\n"
        self.send(data if body is None else data + body + b"\r\n")
        return self.reply()

    def put(self, body: bytes, pri: int = 0, delay: int = 0, ttr: int = 1000) -> int:
        """Puts a job and returns its id."""
        reply = self.ask(f"put {pri} {delay} {ttr} {len(body)}", body)
        if reply.word != "INSERTED":
            raise AssertionError(f"the put was answered with {reply.line!r}")
        return reply.id

    def reply(self) -> Reply:
        """Reads one reply, with its body."""
        line = self.read_line()
        words = line.split(b" ")
        if words[0] not in WITH_BODY:
            return Reply(line)
        size = int(words[-1])
        body = self.read_exactly(size + 2)
        if body[-2:] != b"\r\n":
            raise AssertionError(f"the body of {line!r} does not end with CRLF after {size} bytes: {body[-20:]!r}")
        return Reply(line, body[:-2])

    def read_line(self) -> bytes:
        """Reads up to the next CRLF, which is not returned."""
        while b"\r\n" not in self._received:
            self._receive()
        line, _, self._received = self._received.partition(b"\r\n")
        return line

    def read_exactly(self, count: int) -> bytes:
        """Reads this many bytes."""
        while len(self._received) < count:
            self._receive()
        data, self._received = self._received[:count], self._received[count:]
        return data

    def received_now(self) -> bytes:
        """Everything that lies here unread at this moment, without waiting."""
        limit = self.sock.gettimeout()
        self.sock.settimeout(0)
        try:
            with contextlib.suppress(BlockingIOError):
                while data := self.sock.recv(1 << 16):
                    self._received += data
        finally:
            self.sock.settimeout(limit)
        data, self._received = self._received, b""
        return data

    def wait_for_data(self) -> None:
        """Returns once there is something to read."""
        if not self._received:
            self._receive()

    def read_to_the_end(self) -> bytes:
        """Reads until the server closes the connection."""
        with contextlib.suppress(ConnectionResetError):
            while True:
                try:
                    data = self.sock.recv(1 << 16)
                except TimeoutError:
                    raise NoAnswerError("the server did not close the connection") from None
                if not data:
                    break
                self._received += data
        data, self._received = self._received, b""
        return data

    def half_close(self) -> None:
        """Says that nothing more will be sent; replies can still be read."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leaves with a reset in place of a proper end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        self.sock.close()

    def close(self) -> None:
        """Leaves."""
        self.sock.close()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(1 << 16)
        except TimeoutError:
            raise NoAnswerError(f"no answer in time; so far {self._received!r}") from None
        if not data:
            raise NoAnswerError(f"the server closed the connection; before that {self._received!r}")
        self._received += data


def settle(server: Server, rounds: int = 4) -> None:
    """Comes back when the server has done everything that was asked before, and has sent all replies to it.

    Both servers serve their connections in turn, so that what was sent before is read, and what was written before
    is sent, by the time that a few later questions on one more connection are answered.
    """
    with Client(server) as bystander:
        for _ in range(rounds):
            bystander.ask("list-tube-used")
