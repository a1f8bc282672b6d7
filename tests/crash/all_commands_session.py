"""A session of one client that runs every command once, one at a time: for tests that inspect each of its steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .expected_state import ALL, ExpectedState, Job, Op, put
from .process import Client, Reply
from .writers import Note

TUBE = "tube"
TTR_S = 9000


def new_job(token: str, size: int = 10, pri: int = 100, delay: int = 0) -> Job:
    """A job of the one writer. Its body has ``size`` bytes, or as many as its token and a bar need."""
    start = token.encode() + b"|"
    body = start + (b"\r\n.\0" * (size // 4 + 1))[: max(0, size - len(start))]
    return Job(token.encode(), 0, TUBE, body, pri, delay, TTR_S)


class Session:
    """Commands on jobs by their tokens, recorded in an `ExpectedState`.

    place: returns the number of records in a trace, if there is one.
    """

    def __init__(self, expected: ExpectedState, client: Client, place: Callable[[], int] = lambda: 0) -> None:
        self.expected = expected
        self.notes: list[Note] = []
        self._client = client
        self._place = place
        self.do(Op("use", b"use tube\r\n"))
        self.do(Op("watch", b"watch tube\r\n"))

    def do(self, op: Op) -> Reply:
        """Sends a command and waits for its reply. Raises EOFError if the server has ended."""
        client = self._client
        client.send(self.expected.send(0, op, sent_at=self._place()))
        reply = client.reply()
        self.expected.answer(0, reply)
        self.notes.append(Note(op, 0, client.port, client.replies.consumed))
        return reply

    def put(self, token: str, size: int = 10, pri: int = 100, delay: int = 0) -> Reply:
        """Puts a job; the reply says whether the server accepted it."""
        return self.do(put(new_job(token, size, pri, delay)))

    def reserve(self) -> Reply:
        """Reserves the first ready job."""
        return self.do(Op("reserve", b"reserve-with-timeout 0\r\n", tube=TUBE))

    def reserve_job(self, token: str) -> Reply:
        """Reserves this job, whatever its state."""
        return self._command("reserve-job", token)

    def release(self, token: str, pri: int = 7, delay: int = 0) -> Reply:
        """Releases a reserved job with another priority."""
        line = b"release %d %d %d\r\n" % (self._id(token), pri, delay)
        return self.do(Op("release", line, token.encode(), pri=pri, delay=delay))

    def bury(self, token: str, pri: int = 8) -> Reply:
        """Buries a reserved job with another priority."""
        return self.do(Op("bury", b"bury %d %d\r\n" % (self._id(token), pri), token.encode(), pri=pri))

    def kick(self, count: int = ALL) -> Reply:
        """Kicks up to ``count`` jobs of the tube."""
        return self.do(Op("kick", b"kick %d\r\n" % count, tube=TUBE, count=count))

    def kick_job(self, token: str) -> Reply:
        """Kicks a buried or delayed job."""
        return self._command("kick-job", token)

    def touch(self, token: str) -> Reply:
        """Touches a reserved job."""
        return self._command("touch", token)

    def delete(self, token: str) -> Reply:
        """Deletes a job, whatever its state."""
        return self._command("delete", token)

    def _command(self, kind: str, token: str) -> Reply:
        return self.do(Op(kind, b"%s %d\r\n" % (kind.encode(), self._id(token)), token.encode()))

    def _id(self, token: str) -> int:
        id = self.expected.jobs[token.encode()].id
        assert id is not None
        return id


def all_commands_once(session: Session) -> Iterator[str]:
    """Runs every command that changes jobs; yields the name of each command before it runs."""
    steps: list[tuple[str, Callable[[], Reply]]] = [
        ("put", lambda: session.put("a")),
        ("put a delayed one", lambda: session.put("b", 40, delay=4000)),
        ("put", lambda: session.put("c", 4, pri=1)),
        ("put", lambda: session.put("d", 100, pri=2)),
        ("reserve c", session.reserve),
        ("touch c", lambda: session.touch("c")),
        ("bury c", lambda: session.bury("c")),
        ("reserve d", session.reserve),
        ("bury d", lambda: session.bury("d", 9)),
        ("kick c", lambda: session.kick(1)),
        ("reserve c", session.reserve),
        ("release c with another priority", lambda: session.release("c", 3)),
        ("reserve a delayed one", lambda: session.reserve_job("b")),
        ("release it with a delay", lambda: session.release("b", 5, 6000)),
        ("kick it", lambda: session.kick_job("b")),
        ("delete", lambda: session.delete("a")),
        ("reserve a buried one", lambda: session.reserve_job("d")),
        ("release it", lambda: session.release("d", 4)),
        ("put an empty one", lambda: session.put("e", 0)),
    ]
    for name, step in steps:
        yield name
        step()
