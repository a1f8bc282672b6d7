"""Two servers that receive the same bytes, and whose replies must be the same.

`PairedServers` has two sides. Each client is one connection to each side. Requests go to both sides, with the job ids
of that side. Replies are paired client by client in their order of arrival, normalised, and compared. `settle` returns
once both sides have processed all requests; only then is a missing reply a difference. Every reply carries the two
moments between which the servers must have created it.
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from patience import PATIENCE_S

from . import servers

# An unknown command is not counted in any statistics.
_BARRIER = b"?\r\n"
_BARRIER_REPLY = b"UNKNOWN_COMMAND\r\n"
_WITH_BODY = (b"RESERVED", b"FOUND", b"OK")
_WITH_ID = (b"INSERTED", b"RESERVED", b"FOUND", b"BURIED")

# Values that differ between any two processes.
_PRIVATE = frozenset(("pid", "version", "rusage-utime", "rusage-stime", "id"))
# Values in seconds that change by themselves: they differ by one if a second has just ended.
_PASSING = frozenset(("age", "time-left", "pause-time-left", "uptime"))
# 1.13 put these in quotes, 1.12 did not.
_NEWLY_QUOTED = frozenset(("hostname", "os", "platform", "name", "tube"))

# The first keys of the statistics that may have keys of fastbean's own: stats and stats-tube.
_FIRST_KEYS = frozenset(("current-jobs-urgent", "name"))


class DifferenceError(AssertionError):
    """The replies of the two sides differ."""


class StalledError(Exception):
    """The machine was paused for so long that the two sides may legitimately differ."""


@dataclass(frozen=True)
class Command:
    """One command, with all of its bytes.

    kind: its name, for the counts. pieces: its bytes; a number among them is a job id, to be replaced by each side's
    own. job, tube, delay_s, ttr_s and limit_s repeat what the bytes say, for `ComparisonState`. waits: whether its
    reply may take long. starts: what may expire later because of it, as pairs of a kind and seconds.
    """

    kind: str
    pieces: tuple[bytes | int, ...]
    job: int = 0
    tube: bytes = b""
    delay_s: int = 0
    ttr_s: int = 0
    limit_s: int = -1
    waits: bool = False
    starts: tuple[tuple[str, int], ...] = ()

    def encode(self, ids: dict[int, int]) -> bytes:
        """The bytes, with the ids of one side; an unknown id stays as it is."""
        return b"".join(p if isinstance(p, bytes) else b"%d" % ids.get(p, p) for p in self.pieces)

    def __str__(self) -> str:
        text = self.encode({})
        return repr(text if len(text) <= 120 else text[:80] + b"..." + text[-20:])


@dataclass(frozen=True)
class Answer:
    """A reply that both sides sent. low and high: the moments between which both created it."""

    client: int
    command: Command
    word: str
    line: bytes
    low: float
    high: float

    @property
    def number(self) -> int:
        """The first number of the line."""
        return int(self.line.split(b" ")[1])


@dataclass
class _Raw:
    line: bytes
    body: bytes | None
    low: float
    high: float


@dataclass
class _Link:
    """One side's end of a client."""

    sock: socket.socket
    received: bytes = b""
    replies: deque[_Raw] = field(default_factory=deque)
    closed: bool = False


class Side:
    """One of the two servers, with its connection of each client.

    alter: changes the server's replies before they are compared, for tests of the comparison itself.
    """

    def __init__(self, kind: str, flags: Sequence[str], alter: Callable[[bytes], bytes] | None = None) -> None:
        self.server = servers.start(kind, flags=flags)
        self.links: dict[int, _Link] = {}
        self.ids: dict[int, int] = {}
        self._alter = alter
        try:
            self._barrier = self.server.connect(PATIENCE_S)
        except BaseException:
            self.server.stop()
            raise

    def open(self, client: int) -> None:
        """Connects a client."""
        sock = self.server.connect(PATIENCE_S)
        sock.setblocking(False)
        self.links[client] = _Link(sock)

    def close(self, client: int) -> None:
        """Closes a client's connection and forgets it."""
        self.links.pop(client).sock.close()

    def send(self, client: int, data: bytes) -> None:
        """Sends bytes; there must be few enough to fit into the socket's buffer."""
        self.links[client].sock.sendall(data)

    def ask_barrier(self) -> None:
        """Sends a request on a connection that has no other use."""
        self._barrier.sendall(_BARRIER)

    def await_barrier(self) -> None:
        """Waits for the reply to it."""
        got = b""
        while len(got) < len(_BARRIER_REPLY):
            more = self._barrier.recv(64)
            if not more:
                raise DifferenceError(
                    f"{self.server.kind} closed a connection of its own accord:\n{self.server.stderr()}"
                )
            got += more
        if got != _BARRIER_REPLY:
            raise DifferenceError(f"{self.server.kind} answered a line that is no command with {got!r}")

    def pump(self, low: float) -> None:
        """Reads what has arrived; the server created it after the moment low."""
        for link in self.links.values():
            while not link.closed:
                try:
                    data = link.sock.recv(1 << 16)
                except BlockingIOError:
                    break
                except ConnectionError:
                    data = b""
                link.closed = not data
                link.received += data
                self._parse(link, low)

    def stop(self) -> None:
        """Closes everything and stops the server."""
        for link in self.links.values():
            link.sock.close()
        self._barrier.close()
        self.server.stop()

    def _parse(self, link: _Link, low: float) -> None:
        high = time.monotonic()
        while b"\r\n" in link.received:
            line, _, rest = link.received.partition(b"\r\n")
            words = line.split(b" ")
            body = None
            if words[0] in _WITH_BODY:
                size = int(words[-1])
                if len(rest) < size + 2:
                    return
                body, rest = rest[: size + 2], rest[size + 2 :]
            link.received = rest
            if self._alter is not None:
                line = self._alter(line)
                body = None if body is None else self._alter(body)
            link.replies.append(_Raw(line, body, low, high))


class PairedServers:
    """Two servers and the clients that are connected to both.

    kinds: of the two servers; the left one is the reference. flags: for both. right_flags: for the right one alone.
    alter: see `Side`; for the right one.
    """

    def __init__(
        self,
        kinds: tuple[str, str],
        flags: Sequence[str] = (),
        right_flags: Sequence[str] = (),
        alter: Callable[[bytes], bytes] | None = None,
    ) -> None:
        begun_s = time.monotonic()
        self.left = Side(kinds[0], flags)
        try:
            self.right = Side(kinds[1], [*flags, *right_flags], alter)
        except BaseException:
            self.left.stop()
            raise
        # On a busy machine one of them may start seconds after the other.
        self._apart_s = math.ceil(time.monotonic() - begun_s)
        self.sides = (self.left, self.right)
        self.unanswered: dict[int, deque[Command]] = {}

    def open(self, client: int) -> None:
        """Connects a client to both sides."""
        for side in self.sides:
            side.open(client)
        self.unanswered[client] = deque()

    def close(self, client: int) -> None:
        """Disconnects a client from both sides."""
        for side in self.sides:
            side.close(client)
        del self.unanswered[client]

    def half_close(self, client: int) -> None:
        """Shuts down the sending half of this client's connections."""
        for side in self.sides:
            with contextlib.suppress(OSError):
                side.links[client].sock.shutdown(socket.SHUT_WR)

    def send(self, client: int, data: tuple[bytes, bytes], complete: Sequence[Command]) -> None:
        """Sends bytes to both sides. complete: the commands that end within these bytes; each gets one reply."""
        self.unanswered[client].extend(complete)
        for side, part in zip(self.sides, data, strict=True):
            side.send(client, part)

    def settle(self, rounds: int, low: float) -> None:
        """Returns once both sides have processed all requests, and reads the replies.

        Each server serves its connections in turn. After two replies on a connection of its own, all others have been
        served in between. rounds: how often to ask: two, and one more for each command queued behind another.
        """
        for _ in range(rounds):
            for side in self.sides:
                side.ask_barrier()
            for side in self.sides:
                side.await_barrier()
        self.pump(low)

    def pump(self, low: float) -> None:
        """Reads what has arrived for any client."""
        for side in self.sides:
            side.pump(low)

    def watch(self, until: float, low: float) -> None:
        """Waits until the moment ``until``, and reads replies as they arrive."""
        poll = select.poll()
        for side in self.sides:
            for link in side.links.values():
                poll.register(link.sock, select.POLLIN)
        while (now := time.monotonic()) < until:
            if poll.poll((until - now) * 1000 + 0.5):
                self.pump(max(low, now))

    def even(self) -> bool:
        """True if both sides have sent the same number of replies and closed the same clients."""
        return all(
            len(link.replies) == len(other.replies) and link.closed == other.closed
            for link, other in self._pairs_of_links()
        )

    def take(self) -> Iterator[Answer]:
        """Removes the replies that both sides have sent, compares them, and yields them.

        Raises DifferenceError for the first pair that differs.
        """
        self._learn_ids()
        for client in list(self.unanswered):
            left, right = (side.links[client] for side in self.sides)
            while left.replies and right.replies:
                yield self._compare(client, left.replies.popleft(), right.replies.popleft())

    def missing(self) -> str:
        """Describes which side owes a reply that the other side has sent."""
        owed = []
        for client in self.unanswered:
            for side, other in ((self.left, self.right), (self.right, self.left)):
                has, lacks = other.links[client], side.links[client]
                if has.replies and not lacks.replies:
                    owed.append(f"client {client} got {has.replies[0].line!r}, and nothing from {side.server.kind}")
                if has.closed and not lacks.closed:
                    owed.append(f"client {client} was closed, and not by {side.server.kind}")
        return "; ".join(owed)

    def stop(self) -> None:
        """Stops both servers."""
        for side in self.sides:
            side.stop()

    def _pairs_of_links(self) -> Iterator[tuple[_Link, _Link]]:
        for client, link in self.left.links.items():
            yield link, self.right.links[client]

    def _learn_ids(self) -> None:
        """Learns from the replies to puts which ids correspond, before any other reply is compared."""
        for left, right in self._pairs_of_links():
            for mine, other in zip(left.replies, right.replies, strict=False):
                if mine.line.startswith(b"INSERTED ") and other.line.startswith(b"INSERTED "):
                    theirs = int(other.line.split(b" ")[1])
                    ours = int(mine.line.split(b" ")[1])
                    self.right.ids[ours] = theirs

    def _compare(self, client: int, left: _Raw, right: _Raw) -> Answer:
        if not self.unanswered[client]:
            raise DifferenceError(f"client {client} got {left.line!r} and asked nothing")
        command = self.unanswered[client].popleft()
        theirs = {right_id: left_id for left_id, right_id in self.right.ids.items()}
        ours, other = _normalised(left, {}), _normalised(right, theirs)
        if (difference := _difference(ours, other, self._apart_s)) is not None:
            raise DifferenceError(
                f"client {client}, {command}:\n"
                f"{self.left.server.kind} answered {left.line!r} {left.body!r}\n"
                f"{self.right.server.kind} answered {right.line!r} {right.body!r}\n{difference}"
            )
        word = left.line.split(b" ")[0].decode("ascii")
        return Answer(client, command, word, left.line, min(left.low, right.low), max(left.high, right.high))


_Form = list[tuple[str, str]]


def _normalised(raw: _Raw, ids: dict[int, int]) -> _Form:
    """A reply as a list of names and values: the words of its line, then its body, with the left side's ids."""
    words = raw.line.split(b" ")
    if words[0] in _WITH_ID and len(words) > 1:
        number = int(words[1])
        words[1] = b"%d" % ids.get(number, number)
    if words[0] != b"OK" or raw.body is None:
        form = [("line", word.decode("latin-1")) for word in words]
        return form if raw.body is None else [*form, ("body", raw.body.decode("latin-1"))]
    # Parsing the statistics checks their size, which varies with the values of the process.
    text = raw.body.decode("ascii")
    if not text.startswith("---\n") or not text.endswith("\n\r\n"):
        return [("not YAML", text)]
    lines = text[4:-2].splitlines()
    form = [("line", "OK")]
    for line in lines:
        key, _, value = line.partition(": ")
        if key in _NEWLY_QUOTED:
            value = re.sub('^"(.*)"$', r"\1", value)
        if key == "id" and value.isdigit() and "tube" in text[:40]:
            value = str(ids.get(int(value), int(value)))
            key = "job id"
        form.append((key, value))
    return form


def _difference(left: _Form, right: _Form, apart_s: int) -> str | None:
    """How two replies differ, or None. The right one may have keys of its own after the last key of the left one.

    apart_s: the most seconds between the starts of the two servers.
    """
    if len(left) > 2 and left[1][0] in _FIRST_KEYS and len(right) > len(left):
        right = right[: len(left)]
    if [name for name, _ in left] != [name for name, _ in right]:
        return f"not the same parts: {[name for name, _ in left]} and {[name for name, _ in right]}"
    for (name, mine), (_, other) in zip(left, right, strict=True):
        if name in _PRIVATE or mine == other:
            continue
        if name in _PASSING and abs(int(mine) - int(other)) <= 1 + (apart_s if name == "uptime" else 0):
            continue
        return f"{name}: {mine!r} and {other!r}"
    return None
