"""Writers: connections that send all commands in random order, as fast as the server replies, and record the results.

Each writer has tubes of its own, so the effects of its commands are known in advance: one tube to work in, and one for
short delays. All writers put into one further tube, and the writer that reserves a job there also ends it. Up to WINDOW
commands of a writer may be without a reply; only after a reserve does it wait for the reply.
"""

from __future__ import annotations

import random
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .expected_state import ALL, SHARED, UNOWNED, ExpectedState, Job, Op, put, to_kick
from .process import HOST, PATIENCE_S, Replies, Server

WINDOW = 6
JOBS_EACH = 60
TTR_S = 100000
NOISE = random.Random(1).randbytes(1 << 19).replace(b"|", b"\r\n")

Commands = frozenset[str]
EVERYTHING = frozenset(
    ["put", "reserve", "delete", "release", "bury", "kick", "kick-job", "touch", "reserve-job", "pause-tube"]
)
KEPT_BY_BEANSTALKD = frozenset(["put", "reserve", "delete", "touch", "pause-tube"])


class Maker:
    """Chooses random commands for one writer.

    commands: the commands that may be used. largest: the size of the largest body, in bytes. jobs: about how many jobs
    to keep. shared: whether to use the shared tube.
    """

    def __init__(
        self,
        expected: ExpectedState,
        number: int,
        rng: random.Random,
        *,
        commands: Commands = EVERYTHING,
        largest: int = 65535,
        jobs: int = JOBS_EACH,
        shared: bool = True,
    ) -> None:
        self._expected = expected
        self._number = number
        self._rng = rng
        self._commands = commands
        self._largest = largest
        self._jobs = jobs
        self._shared = shared
        self._used = "default"
        self._puts = 0
        self.work = f"work{number}"
        self.late = f"late{number}"

    def first(self) -> list[Op]:
        """What a new connection sends first."""
        self._used = "default"
        tubes = [self.work, SHARED] if self._shared else [self.work]
        return [Op("watch", b"watch %s\r\n" % tube.encode()) for tube in tubes]

    def next(self) -> list[Op]:
        """The next command, preceded by a ``use`` where a put or a kick needs one."""
        future = self._expected.writers[self._number].future
        dice = self._rng.random()
        if dice < (0.5 if len(future) < self._jobs else 0.12):
            return self._put()
        if dice < 0.60 and "reserve" in self._commands:
            return [Op("reserve", b"reserve-with-timeout 0\r\n", tube=self.work)]
        if dice < 0.62 and "kick" in self._commands:
            return self._kick()
        if dice < 0.63 and "pause-tube" in self._commands:
            return [Op("pause-tube", b"pause-tube %s 1\r\n" % self.late.encode())]
        mine = [job for job in future.values() if job.owner == self._number and job.id is not None]
        return self._for_job(self._rng.choice(mine)) if mine else self._put()

    def _put(self) -> list[Op]:
        rng = self._rng
        tube = rng.choices([self.work, self.late, SHARED if self._shared else self.work], [6, 1, 2])[0]
        delay = 0
        if tube == self.late:
            delay = rng.choice([1, 2, 3])
        elif tube == self.work and rng.random() < 0.2:
            delay = rng.randrange(5000, 9000)
        return [*self._using(tube), put(self.new_job(tube, delay))]

    def _using(self, tube: str) -> list[Op]:
        use = [] if tube == self._used else [Op("use", b"use %s\r\n" % tube.encode())]
        self._used = tube
        return use

    def new_job(self, tube: str, delay: int) -> Job:
        """A job with a token and a body that are not in use yet."""
        rng = self._rng
        self._puts += 1
        token = b"w%d-%x-%d" % (self._number, rng.getrandbits(32), self._puts)
        most = rng.choices([100, 2000, 20000, self._largest], [60, 34, 5, 1])[0]
        start, size = rng.randrange(len(NOISE) // 2), rng.randrange(min(most, self._largest) - 60)
        body = token + b"|" + NOISE[start : start + size]
        owner = UNOWNED if tube == SHARED else self._number
        return Job(token, owner, tube, body, self._priority(), delay, TTR_S + rng.randrange(1000))

    def _priority(self) -> int:
        return self._rng.choice([0, 1, 1000, 1024, 4294967295, self._rng.getrandbits(32)])

    def _kick(self) -> list[Op]:
        future = self._expected.writers[self._number].future
        kicked = to_kick(self.work, 1, future)
        count = self._rng.choice([1, 2, 3, 3, 5, ALL]) if kicked and kicked[0].state == "buried" else ALL
        return [*self._using(self.work), Op("kick", b"kick %d\r\n" % count, tube=self.work, count=count)]

    def _for_job(self, job: Job) -> list[Op]:
        kinds = {
            "ready": ["delete", "delete", "reserve-job"],
            "delayed": ["delete", "delete", "reserve-job"] + ["kick-job"] * (job.tube == self.work),
            "buried": ["delete", "delete", "reserve-job", "kick-job"],
            "reserved": ["delete", "delete", "touch", "release", "release", "bury", "bury", "bury"],
        }[job.state]
        if job.tube == SHARED:
            kinds = [kind for kind in kinds if kind in ("delete", "touch", "bury")]
        kinds = [kind for kind in kinds if kind in self._commands]
        if not kinds:
            return self._put()
        return [self.command(self._rng.choice(kinds), job)]

    def command(self, kind: str, job: Job) -> Op:
        """A command for one job."""
        assert job.id is not None
        if kind == "release":
            delay = self._rng.choice([0, 0, self._rng.randrange(5000, 9000)])
            if job.tube == self.late:
                delay = self._rng.choice([0, 1, 2])
            pri = self._priority()
            return Op(kind, b"release %d %d %d\r\n" % (job.id, pri, delay), job.token, pri=pri, delay=delay)
        if kind == "bury":
            pri = self._priority()
            return Op(kind, b"bury %d %d\r\n" % (job.id, pri), job.token, pri=pri)
        return Op(kind, b"%s %d\r\n" % (kind.encode(), job.id), job.token)


@dataclass
class _Connection:
    number: int
    maker: Maker
    sock: socket.socket
    replies: Replies = field(default_factory=Replies)
    unsent: bytes = b""


@dataclass
class Note:
    """A command of a traced run: its writer, and where its reply ends in the replies to this port (0: no reply)."""

    op: Op
    writer: int
    port: int
    ends_at: int


class Load:
    """All writers of one `ExpectedState`; `run` sends commands to one server until it has ended or ``enough()``.

    place: returns the number of records in a trace, if there is one; then `notes` has all commands. choices: see
    `Maker`.
    """

    def __init__(
        self,
        expected: ExpectedState,
        rng: random.Random,
        *,
        place: Callable[[], int] | None = None,
        **choices: Any,
    ) -> None:
        self._expected = expected
        self._place = place
        self._notes: list[Note] = []
        self._makers = [
            Maker(expected, number, random.Random(rng.random()), **choices) for number in range(len(expected.writers))
        ]

    def notes(self) -> list[Note]:
        """All commands so far, including those without a reply."""
        unanswered = [
            Note(op, number, 0, 0) for number, each in enumerate(self._expected.writers) for op in each.pending
        ]
        return self._notes + unanswered

    def run(self, server: Server, enough: Callable[[], bool]) -> None:
        """Sends commands until the server has ended or until ``enough()``; then waits for the outstanding replies."""
        with selectors.DefaultSelector() as selector:
            for number, maker in enumerate(self._makers):
                connection = _Connection(number, maker, socket.create_connection((HOST, server.port), PATIENCE_S))
                connection.sock.setblocking(False)
                selector.register(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
                self._send(connection, maker.first())
            while selector.get_map():
                stopping = enough()
                ready = selector.select(PATIENCE_S)
                assert ready, "the server has answered nothing for a long time"
                for key, mask in ready:
                    if not self._serve(key.data, mask, selector, stopping=stopping):
                        selector.unregister(key.data.sock)
                        key.data.sock.close()

    def _serve(self, connection: _Connection, mask: int, selector: selectors.BaseSelector, *, stopping: bool) -> bool:
        """Serves one readable or writable connection; returns False once it is done."""
        if mask & selectors.EVENT_READ and not self._receive(connection):
            return False
        pending = self._expected.writers[connection.number].pending
        if stopping and not pending and not connection.unsent:
            return False
        if not stopping:
            while len(pending) < WINDOW and not (pending and pending[-1].kind == "reserve"):
                self._send(connection, connection.maker.next())
        try:
            connection.unsent = connection.unsent[connection.sock.send(connection.unsent) :]
        except BlockingIOError:
            pass
        except ConnectionError:
            self._receive(connection)
            return False
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if connection.unsent else 0)
        selector.modify(connection.sock, events, connection)
        return True

    def _send(self, connection: _Connection, ops: list[Op]) -> None:
        for op in ops:
            place = self._place() if self._place else 0
            connection.unsent += self._expected.send(connection.number, op, sent_at=place)

    def _receive(self, connection: _Connection) -> bool:
        """Reads what has arrived; returns False once the server has closed the connection."""
        try:
            while data := connection.sock.recv(1 << 18):
                connection.replies.feed(data)
        except BlockingIOError:
            data = b"more"
        except ConnectionError:
            data = b""
        while (reply := connection.replies.take()) is not None:
            op = self._expected.answer(connection.number, reply)
            if self._place:
                port = connection.sock.getsockname()[1]
                self._notes.append(Note(op, connection.number, port, connection.replies.consumed))
        return bool(data)
