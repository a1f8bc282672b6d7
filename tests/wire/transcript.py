r"""Conversations with a server, written down line by line, and played.

    A> put 0 0 60 5          client A sends this line (A, B, ... connect when they are first used)
    A> hello                 and this one
    A< INSERTED {job}        the server must reply with exactly this line; {job} is learned here
    A> delete {job}          and used here
    A>> pea                  sends without CRLF
    A: - default             a line of a body that ends with LF alone, as in lists and statistics
    A: ...                   and keys of the server's own; real beanstalkd has none
    A waits                  nothing has arrived for A, although the server has processed everything
    A waits 1 second         A's next reply arrives one second or more after A has sent its last line
    A leaves                 closes its connection
    A half-closes            sends no more, and still reads
    A is closed              the server closes A's connection, and sends nothing before that
    1.2 seconds pass         and the server has handled everything that was due by then
    SIGUSR1 is sent          the signal goes to the server
    # a remark

In requests and replies, {name} is a number to learn or to repeat, {?} is any word, and {40*x} is forty times x; \r, \n
and \xNN stand for bytes. {0+t} is an age: a number from 0 up to the seconds that have passed since the start. {50-t} is
a time left: a number from 50 down by as many. The size in an `OK` line is checked against the lines that follow.
beanstalkd before 1.13 writes five values of the statistics without quotes: these are removed from what is expected.

Nothing here may depend on how fast the machine is. Commands that must reach the server before a short time has passed
are sent in one line, so that it runs them together; `waits` is for what no passing of time changes.
"""

from __future__ import annotations

import re
import signal
import textwrap
import time
from contextlib import ExitStack

from . import servers
from .client import Client, settle
from .servers import Server

_SAID = re.compile(r"([A-Z])(>>|>|<|:)(?: (.*))?$")
_DONE = re.compile(r"([A-Z]) (waits|leaves|half-closes|is closed)$")
_WAITS = re.compile(r"([A-Z]) waits ([0-9]+) seconds?$")
_TIME = re.compile(r"([0-9.]+) seconds pass$")
_SIGNAL = re.compile(r"(SIG[A-Z0-9]+) is sent$")
_PLACE = re.compile(r"\{([^{}]+)\}")
_PASSING = re.compile(r"([0-9]+)([+-])t")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|r|n)")
_NEWLY_QUOTED = re.compile(rb'^(hostname|os|platform|name|tube): "(.*)"$')
# By which two clocks of one system may differ over a few seconds: beanstalkd uses the wall clock.
_CLOCKS_S = 0.05


def play(server: Server, text: str) -> dict[str, int]:
    """Plays a transcript against a server; returns the numbers that were learned.

    Raises AssertionError, naming the line, at the first difference.
    """
    with ExitStack() as clients:
        return _Play(server, clients).run(textwrap.dedent(text))


class _Play:
    def __init__(self, server: Server, clients: ExitStack) -> None:
        self.server = server
        self.quotes = servers.version(server.kind) >= (1, 13)
        self.known: dict[str, int] = {}
        self.clients: dict[str, Client] = {}
        self.unread: dict[str, int] = {}
        self.sent_s: dict[str, float] = {}
        self._leave = clients
        self._began_s = time.monotonic()

    def run(self, text: str) -> dict[str, int]:
        for number, line in enumerate(text.splitlines(), 1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            try:
                self._line(line)
            except AssertionError as wrong:
                raise AssertionError(f"{self.server.kind}, line {number} of the transcript: {line}\n{wrong}") from None
        for name, client in self.clients.items():
            assert client.sock.fileno() == -1 or not (more := client.received_now()), f"{name} also got {more!r}"
        return self.known

    def _line(self, line: str) -> None:
        if said := _SAID.match(line):
            name, how, words = said.group(1), said.group(2), said.group(3) or ""
            if how in (">", ">>"):
                client = self._client(name)
                self.sent_s[name] = time.monotonic()
                client.send(self._bytes(words) + (b"\r\n" if how == ">" else b""))
            elif how == ":" and words == "...":
                self._own_keys(name)
            else:
                self._expect(name, self._client(name), words, b"\r\n" if how == "<" else b"\n")
        elif done := _DONE.match(line):
            self._do(self._client(done.group(1)), done.group(2))
        elif waits := _WAITS.match(line):
            self._client(waits.group(1)).wait_for_data()
            waited_s = time.monotonic() - self.sent_s[waits.group(1)]
            assert waited_s >= int(waits.group(2)) - _CLOCKS_S, f"the reply came after {waited_s:.3f} seconds"
        elif passing := _TIME.match(line):
            time.sleep(float(passing.group(1)))
            settle(self.server)
        elif sent := _SIGNAL.match(line):
            self.server.signal(signal.Signals[sent.group(1)])
            settle(self.server)
        else:
            raise ValueError(f"not a line of a transcript: {line!r}")

    def _do(self, client: Client, what: str) -> None:
        if what == "waits":
            settle(self.server)
            got = client.received_now()
            assert not got, f"nothing was expected, but this came: {got!r}"
        elif what == "leaves":
            client.close()
            settle(self.server, rounds=8)
        elif what == "half-closes":
            client.half_close()
        else:
            got = client.read_to_the_end()
            assert not got, f"before the end this came: {got!r}"

    def _client(self, name: str) -> Client:
        if name not in self.clients:
            self.clients[name] = self._leave.enter_context(Client(self.server))
            self.clients[name].ask("list-tube-used")
        return self.clients[name]

    def _expect(self, name: str, client: Client, words: str, end: bytes) -> None:
        pattern = self._pattern(words)
        if end == b"\n":
            line = _read_to(client, b"\n")
            self.unread[name] = self.unread.get(name, 0) - len(line) - 1
        else:
            assert self.unread.pop(name, 0) == 0, "the size in the OK line is not the size of what followed"
            line = client.read_line()
            if size := re.fullmatch(rb"OK ([0-9]+)", line):
                self.unread[name] = int(size.group(1))
        found = re.fullmatch(pattern, line)
        assert found, f"this came: {line!r}"
        for place, number in found.groupdict().items():
            self.known[place] = int(number)
        self._check_passing_time(words, line)

    def _own_keys(self, name: str) -> None:
        rest = self._client(name).read_exactly(self.unread.pop(name))
        pattern = rb"([a-z-]+: [0-9]+\n)+" if self.server.kind == servers.FASTBEAN else rb""
        assert re.fullmatch(pattern, rest), f"this came: {rest!r}"

    def _bytes(self, words: str) -> bytes:
        def fill(place: re.Match[str]) -> str:
            many = re.fullmatch(r"([0-9]+)\*(.)", place.group(1))
            return int(many.group(1)) * many.group(2) if many else str(self.known[place.group(1)])

        return _unescape(_PLACE.sub(fill, words))

    def _pattern(self, words: str) -> bytes:
        plain = words
        if not self.quotes:
            plain = _NEWLY_QUOTED.sub(rb"\1: \2", plain.encode("latin-1")).decode("latin-1")
        parts = []
        end = 0
        for place in _PLACE.finditer(plain):
            parts += [re.escape(_unescape(plain[end : place.start()])), self._place(place.group(1))]
            end = place.end()
        return b"".join([*parts, re.escape(_unescape(plain[end:]))])

    def _place(self, name: str) -> bytes:
        if name == "?":
            return rb"\S+"
        if _PASSING.fullmatch(name):
            return rb"[0-9]+"
        if many := re.fullmatch(r"([0-9]+)\*(.)", name):
            return re.escape(int(many.group(1)) * many.group(2)).encode("latin-1")
        if name in self.known:
            return str(self.known[name]).encode("ascii")
        return b"(?P<%s>[0-9]+)" % name.encode("ascii")

    def _check_passing_time(self, words: str, line: bytes) -> None:
        for place in re.finditer(r"\{([0-9]+)([+-])t\}$", words):
            number, start = int(line.rsplit(b" ", 1)[1]), int(place.group(1))
            passed = int(time.monotonic() - self._began_s) + 1
            low, high = (start, start + passed) if place.group(2) == "+" else (start - passed, start)
            assert low <= number <= high, f"{number} is not within {low} and {high}"


def _read_to(client: Client, end: bytes) -> bytes:
    line = b""
    while not line.endswith(end):
        line += client.read_exactly(1)
    return line[: -len(end)]


def _unescape(words: str) -> bytes:
    plain = {b"r": b"\r", b"n": b"\n"}
    return _ESCAPE.sub(
        lambda found: plain.get(found.group(1)) or bytes([int(found.group(1)[1:], 16)]), words.encode("latin-1")
    )
