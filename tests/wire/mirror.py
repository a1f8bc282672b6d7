"""Two servers that are sent the same bytes, and whose replies must be the same.

A `Mirror` has two sides. A client of it is a connection to either side. What is sent goes to both, each with its own
job ids; replies are paired up client by client in the order in which they came, brought to one form, and compared.
`settle` returns when both sides have done everything that was asked; only then does it mean anything that a reply is
missing. Every reply carries the two moments between which the servers must have made it.
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

from . import servers

PATIENCE_S = 5.0
# No statistics count what is not a command.
_BARRIER = b"?\r\n"
_BARRIER_REPLY = b"UNKNOWN_COMMAND\r\n"
_WITH_BODY = (b"RESERVED", b"FOUND", b"OK")
_WITH_ID = (b"INSERTED", b"RESERVED", b"FOUND", b"BURIED")

# What no two processes have in common.
_PRIVATE = frozenset(("pid", "version", "rusage-utime", "rusage-stime", "id"))
# Seconds that go by: two readings of the same moment differ by one when a second has just ended.
_PASSING = frozenset(("age", "time-left", "pause-time-left", "uptime"))
# 1.13 put these in quotes, 1.12 did not.
_NEWLY_QUOTED = frozenset(("hostname", "os", "platform", "name", "tube"))

# The statistics that may have keys of fastbean's own, told by the first key: stats and stats-tube.
_FIRST_KEYS = frozenset(("current-jobs-urgent", "name"))


class DifferenceError(AssertionError):
    """The two sides did not answer alike."""


class StalledError(Exception):
    """The machine stood still for so long that the two sides may rightly differ."""


@dataclass(frozen=True)
class Command:
    """One command, with all bytes that it takes up.

    kind: its name, under which it is counted. pieces: its bytes; a number among them is a job id, which either side
    writes as it knows it. job, tube, delay_s, ttr_s, pri and limit_s repeat what the text says, for who keeps books;
    waits: it may stay without an answer for long. starts: what may run out later because of it: pairs of what
    it is and its seconds.
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
        """The bytes, with the ids of one side; an id that it does not know stays as it is."""
        return b"".join(p if isinstance(p, bytes) else b"%d" % ids.get(p, p) for p in self.pieces)

    def __str__(self) -> str:
        text = self.encode({})
        return repr(text if len(text) <= 120 else text[:80] + b"..." + text[-20:])


@dataclass(frozen=True)
class Answer:
    """A reply that both sides gave. low and high: the moments between which both made it."""

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
    """One of the two servers, with its half of each client.

    alter: changes what the server says before it is compared, for tests of the comparison itself.
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
        """Sends bytes; they are few enough to fit into the socket."""
        self.links[client].sock.sendall(data)

    def ask_barrier(self) -> None:
        """Sends a question on a connection that has no other use."""
        self._barrier.sendall(_BARRIER)

    def await_barrier(self) -> None:
        """Waits for the answer to it."""
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
        """Takes in what has come; it was made after the moment low."""
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


class Mirror:
    """Two servers and the clients that are connected to both.

    kinds: of the two servers, the left one being the measure. flags: the same for both. right_flags: for the right
    one alone. alter: see Side; for the right one.
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
        """Takes a client away from both sides."""
        for side in self.sides:
            side.close(client)
        del self.unanswered[client]

    def half_close(self, client: int) -> None:
        """Tells both sides that this client sends no more."""
        for side in self.sides:
            with contextlib.suppress(OSError):
                side.links[client].sock.shutdown(socket.SHUT_WR)

    def send(self, client: int, data: tuple[bytes, bytes], complete: Sequence[Command]) -> None:
        """Sends bytes to both sides. complete: the commands that end within them, each of which gets one reply."""
        self.unanswered[client].extend(complete)
        for side, part in zip(self.sides, data, strict=True):
            side.send(client, part)

    def settle(self, rounds: int, low: float) -> None:
        """Returns when both sides have done what they were asked, and takes in the replies.

        Either server looks after one connection after the other; a question on a connection of its own that is
        answered twice says that all others were looked after in between. rounds: how often to ask, two and one more
        for each command that lies behind another.
        """
        for _ in range(rounds):
            for side in self.sides:
                side.ask_barrier()
            for side in self.sides:
                side.await_barrier()
        self.pump(low)

    def pump(self, low: float) -> None:
        """Takes in what has come for any client."""
        for side in self.sides:
            side.pump(low)

    def watch(self, until: float, low: float) -> None:
        """Lets time pass, and takes replies in at the moment that they come."""
        poll = select.poll()
        for side in self.sides:
            for link in side.links.values():
                poll.register(link.sock, select.POLLIN)
        while (now := time.monotonic()) < until:
            if poll.poll((until - now) * 1000 + 0.5):
                self.pump(max(low, now))

    def even(self) -> bool:
        """True when both sides have sent equally many replies, and closed the same clients."""
        return all(
            len(link.replies) == len(other.replies) and link.closed == other.closed
            for link, other in self._pairs_of_links()
        )

    def take(self) -> Iterator[Answer]:
        """Takes out the replies that both sides have given, compares them, and returns what they say.

        Raises DifferenceError at the first pair that is not alike.
        """
        self._learn_ids()
        for client in list(self.unanswered):
            left, right = (side.links[client] for side in self.sides)
            while left.replies and right.replies:
                yield self._compare(client, left.replies.popleft(), right.replies.popleft())

    def missing(self) -> str:
        """Says which side owes a reply that the other has given."""
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
        """Learns from the puts which ids belong together, before any other reply that names one is read."""
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
        ours, other = _form(left, {}), _form(right, theirs)
        if (unlike := _unlike(ours, other, self._apart_s)) is not None:
            raise DifferenceError(
                f"client {client}, {command}:\n"
                f"{self.left.server.kind} answered {left.line!r} {left.body!r}\n"
                f"{self.right.server.kind} answered {right.line!r} {right.body!r}\n{unlike}"
            )
        word = left.line.split(b" ")[0].decode("ascii")
        return Answer(client, command, word, left.line, min(left.low, right.low), max(left.high, right.high))


_Form = list[tuple[str, str]]


def _form(raw: _Raw, ids: dict[int, int]) -> _Form:
    """A reply as a list of names and values: the words of its line, then its body, with the ids of the left side."""
    words = raw.line.split(b" ")
    if words[0] in _WITH_ID and len(words) > 1:
        number = int(words[1])
        words[1] = b"%d" % ids.get(number, number)
    if words[0] != b"OK" or raw.body is None:
        form = [("line", word.decode("latin-1")) for word in words]
        return form if raw.body is None else [*form, ("body", raw.body.decode("latin-1"))]
    # The size of statistics is checked by reading them; it varies with what is private to the process.
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


def _unlike(left: _Form, right: _Form, apart_s: int) -> str | None:
    """What is unlike in two replies, or None. The right one may have keys of its own after the last of the left.

    apart_s: how many seconds there may lie between the starts of the two servers.
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
