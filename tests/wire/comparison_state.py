"""What a comparison knows about the state of both servers, from the replies alone.

This is not a model of the server: it does not decide what is right or wrong. It keeps just enough to choose useful
steps (which jobs can be buried, which client holds which job), to know what may expire when, and to know the order of
the clients that wait on a tube.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from .paired_servers import Answer, Command, DifferenceError
from .safe_timing import Deadline, Deadlines

# Nothing longer than this ends while a comparison runs.
SHORT_S = 10


@dataclass
class Job:
    """A job. state may be wrong after a kick; holder is certain."""

    id: int
    tube: bytes
    ttr_s: int
    state: str
    holder: int | None = None


@dataclass(eq=False)
class Client:
    """A client. tail: commands of which only the first tail_sent bytes were sent so far.

    is_keeper: it only watches the tubes that are paused.
    """

    number: int
    used: bytes = b"default"
    watched: list[bytes] = field(default_factory=lambda: [b"default"])
    waits: bool = False
    tail: list[Command] = field(default_factory=list)
    tail_sent: int = 0
    is_keeper: bool = False


class Waiters:
    """The clients that wait on one tube, as beanstalkd keeps them: an array with a cursor.

    beanstalkd serves the client at the cursor, moves the last client into its place and advances the cursor, so in
    general it does not serve the client that has waited longest. fastbean does. A comparison lets a client wait only
    where both rules choose the same client.
    """

    def __init__(self) -> None:
        self.array: list[int] = []
        self.cursor = 0

    def append(self, client: int) -> None:
        """A client begins to wait."""
        self.array.append(client)

    def next(self) -> int:
        """The client that is served next."""
        return self.array[self.cursor % len(self.array)]

    def serve(self, client: int) -> None:
        """A client was served from this tube."""
        self.cursor %= len(self.array)
        self.remove(client)
        self.cursor += 1

    def remove(self, client: int) -> None:
        """A client stops waiting."""
        i = self.array.index(client)
        self.array[i] = self.array[-1]
        self.array.pop()

    def keeps_order_with(self, client: int) -> bool:
        """True if the clients are served in their order of arrival when this client is appended.

        The cursor restarts at 0 if the tube was destroyed in between, so both cases must hold. If one of three clients
        left, the order of the other two could change, so there are never more than two.
        """
        would_be = [*self.array, client]
        return len(would_be) == 1 or (len(would_be) == 2 and self.cursor % 2 == 0)


class ComparisonState:
    """Jobs, clients, waiters and deadlines of one comparison."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.clients: dict[int, Client] = {}
        self.waiters: dict[bytes, Waiters] = {}
        self.paused: set[bytes] = set()
        self.deadlines = Deadlines()

    def of_tube(self, tube: bytes) -> Waiters:
        """The clients that wait on a tube."""
        return self.waiters.setdefault(tube, Waiters())

    def held_by(self, client: int) -> list[Job]:
        """The jobs that a client has reserved."""
        return [job for job in self.jobs.values() if job.holder == client]

    def runs_out_for(self, client: int) -> bool:
        """True if a reservation of this client may expire while the comparison runs."""
        return any(self.deadlines.is_set("ttr", job.id) for job in self.held_by(client))

    def may_wait(self, client: Client) -> bool:
        """True if this client may begin to wait: the order of waiting stays known, and two other clients stay free."""
        others = sum(not other.waits and not other.is_keeper for other in self.clients.values() if other is not client)
        return others >= 2 and all(self.of_tube(tube).keeps_order_with(client.number) for tube in client.watched)

    def begins_to_wait(self, client: Client, command: Command, low: float, high: float) -> None:
        """A reserve gets no reply for now."""
        client.waits = True
        for tube in client.watched:
            self.of_tube(tube).append(client.number)
        if 0 <= command.limit_s < SHORT_S:
            self.deadlines.add("timeout", command.limit_s, client.number, low, high)

    def stops_waiting(self, client: Client, served_from: bytes | None = None) -> None:
        """A waiting reserve got its reply, or its client disconnected."""
        client.waits = False
        for tube in client.watched:
            if tube == served_from:
                self.of_tube(tube).serve(client.number)
            else:
                self.of_tube(tube).remove(client.number)
        self.deadlines.cancel("timeout", client.number)

    def is_gone(self, client: Client) -> None:
        """A client has disconnected from both servers and lost its reservations."""
        if client.waits:
            self.stops_waiting(client)
        for job in self.held_by(client.number):
            self._unreserve(job, "ready")
        del self.clients[client.number]

    def has_ended(self, deadline: Deadline) -> None:
        """A deadline has passed."""
        if isinstance(deadline.key, bytes):
            self.paused.discard(deadline.key)
        job = self.jobs.get(deadline.key) if isinstance(deadline.key, int) else None
        if job is None:
            return
        if deadline.what == "ttr" and job.holder is not None:
            self._unreserve(job, "ready")
        elif deadline.what == "delay" and job.state == "delayed":
            job.state = "ready"

    def note_all(self, answers: Sequence[Answer], acting: int | None) -> None:
        """Records what replies say. Replies to the acting client come first: they may have caused the others.

        A reservation of an unknown job is recorded after the reply to its put.
        """
        left: dict[int, deque[Answer]] = {}
        for answer in sorted(answers, key=lambda a: a.client != acting):
            left.setdefault(answer.client, deque()).append(answer)
        while left:
            before = sum(map(len, left.values()))
            for client, queue in list(left.items()):
                while queue and (queue[0].word != "RESERVED" or queue[0].number in self.jobs):
                    self._note(queue.popleft())
                if not queue:
                    del left[client]
            if sum(map(len, left.values())) == before:
                raise DifferenceError(
                    f"both sides handed out a job that no client put: {next(iter(left.values()))[0].line!r}"
                )

    def _note(self, answer: Answer) -> None:
        client, command = self.clients[answer.client], answer.command
        handle = getattr(self, f"_on_{answer.word.lower()}", None)
        if handle is not None:
            handle(client, command, answer)

    def _unreserve(self, job: Job, state: str) -> None:
        job.holder = None
        job.state = state
        self.deadlines.cancel("ttr", job.id)
        self.deadlines.cancel("margin", job.id)

    def _set_delay(self, job: Job, command: Command, answer: Answer) -> None:
        job.state = "delayed" if command.delay_s else "ready"
        if 0 < command.delay_s < SHORT_S:
            self.deadlines.add("delay", command.delay_s, job.id, answer.low, answer.high)

    def _set_ttr(self, job: Job, answer: Answer) -> None:
        if job.ttr_s >= SHORT_S:
            return
        self.deadlines.add("ttr", job.ttr_s, job.id, answer.low, answer.high, answer.client)
        if job.ttr_s > 1:
            self.deadlines.add("margin", job.ttr_s - 1, job.id, answer.low, answer.high)

    def _on_inserted(self, client: Client, command: Command, answer: Answer) -> None:
        job = self.jobs[answer.number] = Job(answer.number, client.used, max(1, command.ttr_s), "ready")
        self._set_delay(job, command, answer)

    def _on_reserved(self, client: Client, command: Command, answer: Answer) -> None:
        job = self.jobs[answer.number]
        if command.kind != "reserve-job":
            if client.waits:
                self.stops_waiting(client, served_from=job.tube)
            else:
                self.of_tube(job.tube).append(client.number)
                self.of_tube(job.tube).serve(client.number)
        job.state, job.holder = "reserved", client.number
        self.deadlines.cancel("delay", job.id)
        self._set_ttr(job, answer)

    def _on_timed_out(self, client: Client, _command: Command, _answer: Answer) -> None:
        if client.waits:
            self.stops_waiting(client)

    def _on_deadline_soon(self, client: Client, _command: Command, _answer: Answer) -> None:
        if client.waits:
            self.stops_waiting(client)

    def _on_deleted(self, _client: Client, command: Command, _answer: Answer) -> None:
        job = self.jobs.pop(command.job)
        self._unreserve(job, "gone")
        self.deadlines.cancel("delay", job.id)

    def _on_released(self, _client: Client, command: Command, answer: Answer) -> None:
        job = self.jobs[command.job]
        self._unreserve(job, "ready")
        self._set_delay(job, command, answer)

    def _on_buried(self, _client: Client, command: Command, _answer: Answer) -> None:
        self._unreserve(self.jobs[command.job], "buried")

    def _on_touched(self, _client: Client, command: Command, answer: Answer) -> None:
        self._set_ttr(self.jobs[command.job], answer)

    def _on_kicked(self, client: Client, command: Command, answer: Answer) -> None:
        if command.kind == "kick-job":
            kicked = [self.jobs[command.job]]
            self.deadlines.cancel("delay", command.job)
        else:
            here = [job for job in self.jobs.values() if job.tube == client.used]
            kicked = [job for job in here if job.state == "buried"] or [job for job in here if job.state == "delayed"]
            kicked = kicked[: answer.number]
        for job in kicked:
            if job.holder is None:
                job.state = "ready"

    def _on_paused(self, _client: Client, command: Command, answer: Answer) -> None:
        self.deadlines.cancel("pause", command.tube)
        self.paused.discard(command.tube)
        if command.delay_s:
            self.paused.add(command.tube)
        if 0 < command.delay_s < SHORT_S:
            self.deadlines.add("pause", command.delay_s, command.tube, answer.low, answer.high)

    def _on_using(self, client: Client, command: Command, _answer: Answer) -> None:
        if command.kind == "use":
            client.used = command.tube

    def _on_watching(self, client: Client, command: Command, _answer: Answer) -> None:
        if command.kind == "watch" and command.tube not in client.watched:
            client.watched.append(command.tube)
        elif command.kind == "ignore" and command.tube in client.watched:
            i = client.watched.index(command.tube)
            client.watched[i] = client.watched[-1]
            client.watched.pop()
