"""Clients in memory, for unit tests: the engine and its connections without sockets, under made-up time."""

from fastbean.engine.state import State
from fastbean.net.hub import Hub
from fastbean.net.memory_connection import MemoryConnection

SECOND_NS = 1_000_000_000


class MemoryServer:
    """An engine, its hub, and the time that both believe in."""

    def __init__(self, **settings: object) -> None:
        self.engine = State(**settings)  # type: ignore[arg-type]
        self.hub = Hub(self.engine)
        self.now_ns = 0

    def client(self) -> "MemoryClient":
        return MemoryClient(self)

    def settle(self) -> None:
        """Run iterations until nothing is left to do at this time."""
        while self.hub.end_iteration(self.now_ns) == 0:
            pass

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(seconds * SECOND_NS)
        self.settle()


class MemoryClient:
    """One client; every call runs the server until it has nothing left to do."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.connection: MemoryConnection = server.hub.connect()

    def __call__(self, *pieces: bytes) -> bytes:
        """Send the pieces one after the other and return all that has been answered since the last call."""
        for piece in pieces:
            self.connection.feed(piece, self.server.now_ns)
        self.server.settle()
        return self.connection.take_output()

    def put(self, body: bytes = b"", pri: int = 0, delay: int = 0, ttr: int = 60) -> int:
        """Put a job and return its id."""
        reply = self(b"put %d %d %d %d\r\n%s\r\n" % (pri, delay, ttr, len(body), body))
        word, number = reply.split()
        assert word == b"INSERTED", reply
        return int(number)

    def stats(self, command: bytes) -> dict[str, str]:
        """The pairs of a stats-like command's text."""
        head, text = self(command + b"\r\n").split(b"\r\n", 1)
        assert head == b"OK %d" % (len(text) - 2), head
        lines = text.decode().strip().splitlines()
        assert lines[0] == "---"
        return dict(line.split(": ", 1) for line in lines[1:])

    def half_close(self) -> None:
        self.connection.feed_eof(self.server.now_ns)
        self.server.settle()

    def close(self) -> None:
        self.connection.close(self.server.now_ns)
        self.server.settle()
