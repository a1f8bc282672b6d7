"""A short run of one client that does everything once, one command at a time: for tests that go through all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .ledger import ALL, Job, Ledger, Op, put
from .process import Client, Reply
from .writers import Note

TUBE = "tube"
TTR_S = 9000


def new_job(token: str, size: int = 10, pri: int = 100, delay: int = 0) -> Job:
    """A job of the one writer, with a body of `size` bytes, but at least its token and a bar."""
    start = token.encode() + b"|"
    body = start + (b"\r\n.\0" * (size // 4 + 1))[: max(0, size - len(start))]
    return Job(token.encode(), 0, TUBE, body, pri, delay, TTR_S)


class Script:
    """Commands for jobs by their names; the ledger knows what they did.

    place: where a trace stands, if there is one.
    """

    def __init__(self, ledger: Ledger, client: Client, place: Callable[[], int] = lambda: 0) -> None:
        self.ledger = ledger
        self.notes: list[Note] = []
        self._client = client
        self._place = place
        self.do(Op("use", b"use tube\r\n"))
        self.do(Op("watch", b"watch tube\r\n"))

    def do(self, op: Op) -> Reply:
        """Sends a command and waits for its reply. Raises EOFError when the server has gone."""
        client = self._client
        client.send(self.ledger.send(0, op, sent_at=self._place()))
        reply = client.reply()
        self.ledger.answer(0, reply)
        self.notes.append(Note(op, 0, client.port, client.replies.consumed))
        return reply

    def put(self, token: str, size: int = 10, pri: int = 100, delay: int = 0) -> Reply:
        """A put; the reply tells whether it was taken."""
        return self.do(put(new_job(token, size, pri, delay)))

    def reserve(self) -> Reply:
        """Whatever comes first."""
        return self.do(Op("reserve", b"reserve-with-timeout 0\r\n", tube=TUBE))

    def reserve_job(self, token: str) -> Reply:
        """This job, from whatever state."""
        return self._command("reserve-job", token)

    def release(self, token: str, pri: int = 7, delay: int = 0) -> Reply:
        """With another priority."""
        line = b"release %d %d %d\r\n" % (self._id(token), pri, delay)
        return self.do(Op("release", line, token.encode(), pri=pri, delay=delay))

    def bury(self, token: str, pri: int = 8) -> Reply:
        """With another priority."""
        return self.do(Op("bury", b"bury %d %d\r\n" % (self._id(token), pri), token.encode(), pri=pri))

    def kick(self, count: int = ALL) -> Reply:
        """In the tube."""
        return self.do(Op("kick", b"kick %d\r\n" % count, tube=TUBE, count=count))

    def kick_job(self, token: str) -> Reply:
        """Buried or delayed."""
        return self._command("kick-job", token)

    def touch(self, token: str) -> Reply:
        """Reserved."""
        return self._command("touch", token)

    def delete(self, token: str) -> Reply:
        """From any state."""
        return self._command("delete", token)

    def _command(self, kind: str, token: str) -> Reply:
        return self.do(Op(kind, b"%s %d\r\n" % (kind.encode(), self._id(token)), token.encode()))

    def _id(self, token: str) -> int:
        id = self.ledger.jobs[token.encode()].id
        assert id is not None
        return id


def everything_once(script: Script) -> Iterator[str]:
    """Every command that changes jobs; yields before each of them what comes."""
    steps: list[tuple[str, Callable[[], Reply]]] = [
        ("put", lambda: script.put("a")),
        ("put a delayed one", lambda: script.put("b", 40, delay=4000)),
        ("put", lambda: script.put("c", 4, pri=1)),
        ("put", lambda: script.put("d", 100, pri=2)),
        ("reserve c", script.reserve),
        ("touch c", lambda: script.touch("c")),
        ("bury c", lambda: script.bury("c")),
        ("reserve d", script.reserve),
        ("bury d", lambda: script.bury("d", 9)),
        ("kick c", lambda: script.kick(1)),
        ("reserve c", script.reserve),
        ("release c with another priority", lambda: script.release("c", 3)),
        ("reserve a delayed one", lambda: script.reserve_job("b")),
        ("release it with a delay", lambda: script.release("b", 5, 6000)),
        ("kick it", lambda: script.kick_job("b")),
        ("delete", lambda: script.delete("a")),
        ("reserve a buried one", lambda: script.reserve_job("d")),
        ("release it", lambda: script.release("d", 4)),
        ("put an empty one", lambda: script.put("e", 0)),
    ]
    for name, step in steps:
        yield name
        step()
