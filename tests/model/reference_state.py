"""The state of the naive model: jobs, tubes and clients in plain lists, and how they move.

Times are in nanoseconds and come from outside. These rules always hold: a job is in exactly one state; no tube that is
not paused has both a ready job and a waiting client; a tube other than ``default`` exists as long as it is paused, has
a job, or a client uses or watches it.

What is due happens one by one, ordered by due time. At the same time, tubes come before clients, and among tubes and
among clients the smaller number comes first. The number that was freed last is assigned first. In a tube, delayed jobs
come before the end of the pause. A client whose time has come first releases its expired reservations, and then gets
DEADLINE_SOON or TIMED_OUT.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

SECOND_NS = 1_000_000_000
MARGIN_NS = SECOND_NS


@dataclass(eq=False)
class Job:
    """One job. ``state`` is ready, delayed, reserved or buried; ``deadline_ns`` counts for delayed and reserved."""

    id: int
    tube: Tube
    pri: int
    delay_s: int
    ttr_s: int
    body: bytes
    created_ns: int
    state: str = ""
    deadline_ns: int = 0
    owner: Client | None = None
    reservation_seq: int = 0
    burial: int = 0
    reserves: int = 0
    timeouts: int = 0
    releases: int = 0
    buries: int = 0
    kicks: int = 0


@dataclass(eq=False)
class Tube:
    """One tube. ``pause_s`` is what stats-tube shows, ``unpause_ns`` is None while the tube is not paused."""

    name: bytes
    number: int
    unpause_ns: int | None = None
    pause_s: int = 0
    total_jobs: int = 0
    enqueued: int = 0
    finished: int = 0
    deletes: int = 0
    pauses: int = 0


@dataclass(eq=False)
class Client:
    """One connection: its unprocessed bytes, its replies, the tubes it uses and watches."""

    number: int
    rank: int
    used: Tube
    watched: list[Tube]
    inbox: bytes = b""
    replies: list[bytes] = field(default_factory=list)
    incoming: Job | None = None
    incoming_bytes: int = 0
    skip_bytes: int = 0
    waiting: int = 0
    give_up_ns: int | None = None
    producer: bool = False
    worker: bool = False
    half_closed: bool = False
    closed: bool = False


class Numbers:
    """Numbers from 0; a freed number is assigned before a new one, the last freed first."""

    def __init__(self) -> None:
        self.free: list[int] = []
        self.given = 0

    def take(self) -> int:
        """Return a number that is not in use."""
        if self.free:
            return self.free.pop()
        self.given += 1
        return self.given - 1


class State:
    """Jobs, tubes and clients, and how they move; ``now_ns`` is the time of the start."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.begun_ns = -1
        self.jobs: list[Job] = []
        self.tubes: list[Tube] = []
        self.clients: list[Client] = []
        self.runnable: list[Client] = []
        self.counts: Counter[str] = Counter()
        self.tube_numbers = Numbers()
        self.client_ranks = Numbers()
        self.default = self.tube_made(b"default")

    # What is there.

    def open_clients(self) -> list[Client]:
        """Return the connected clients, the oldest first."""
        return [client for client in self.clients if not client.closed]

    def waiting_clients(self) -> list[Client]:
        """Return the clients that wait in a reserve, the longest-waiting first."""
        return sorted((client for client in self.clients if client.waiting), key=lambda client: client.waiting)

    def of_state(self, state: str, tube: Tube | None = None) -> list[Job]:
        """Return the jobs of a state (of a tube), in the order of the state."""
        jobs = [job for job in self.jobs if job.state == state and tube in (None, job.tube)]
        if state == "ready":
            return sorted(jobs, key=lambda job: (job.pri, job.id))
        if state == "buried":
            return sorted(jobs, key=lambda job: job.burial)
        return sorted(jobs, key=lambda job: (job.deadline_ns, job.id))

    def reserved_by(self, client: Client) -> list[Job]:
        """Return a client's reservations, the first to end first."""
        return [job for job in self.of_state("reserved") if job.owner is client]

    def find_job(self, job_id: int) -> Job | None:
        """Return a job by its id."""
        return next((job for job in self.jobs if job.id == job_id), None)

    def find_tube(self, name: bytes) -> Tube | None:
        """Return a tube by its name."""
        return next((tube for tube in self.tubes if tube.name == name), None)

    def watchers(self, tube: Tube) -> list[Client]:
        """Return the clients that watch a tube."""
        return [client for client in self.open_clients() if tube in client.watched]

    def next_deadline_ns(self) -> int:
        """Return when something happens by itself next, or -1."""
        soonest = self.soonest()
        return -1 if soonest is None else soonest[0][0]

    # What happens by itself.

    def soonest(self) -> tuple[tuple[int, ...], Job | Tube | Client] | None:
        """Return the next thing to happen: its place in the order, which begins with the time, and to what."""
        events: list[tuple[tuple[int, ...], Job | Tube | Client]] = []
        for job in self.of_state("delayed"):
            events += [((job.deadline_ns, 0, job.tube.number, 0, job.id), job)]
        for tube in self.tubes:
            if tube.unpause_ns is not None:
                events += [((tube.unpause_ns, 0, tube.number, 1, 0), tube)]
        for client in self.open_clients():
            events += [((due_ns, 1, client.rank), client) for due_ns in self.due_times(client)]
        return min(events, key=lambda event: event[0], default=None)

    def due_times(self, client: Client) -> list[int]:
        """Return when a client is due next: for its reservations (less the margin while it waits) or its timeout."""
        margin_ns = MARGIN_NS if client.waiting else 0
        due = [job.deadline_ns - margin_ns for job in self.jobs if job.owner is client]
        if client.give_up_ns is not None:
            due.append(client.give_up_ns)
        return due

    def happen(self, what: Job | Tube | Client) -> None:
        """End a job's delay, a tube's pause, or whatever of a client is due."""
        if isinstance(what, Job):
            self.make_ready(what)
        elif isinstance(what, Tube):
            self.unpause(what)
        elif self.expired(what):
            self.put_back(self.expired(what)[0])
        elif self.in_margin(what):
            self.answer_waiting(what, b"DEADLINE_SOON\r\n")
        else:
            self.answer_waiting(what, b"TIMED_OUT\r\n")

    def unpause(self, tube: Tube) -> None:
        """End a pause: best job to longest-waiting client, until one runs out."""
        tube.unpause_ns = None
        tube.pause_s = 0
        ready = self.of_state("ready", tube)
        waiters = [client for client in self.waiting_clients() if tube in client.watched]
        for job, client in zip(ready, waiters, strict=False):
            self.answer_waiting(client, self.reserve(client, job))
        self.forget_unused(tube)

    def expired(self, client: Client) -> list[Job]:
        """Return the reservations of a client that have run out, the first to end first."""
        return [job for job in self.reserved_by(client) if job.deadline_ns <= self.now_ns]

    def put_back(self, job: Job) -> None:
        """Make a job ready again whose reservation has run out."""
        job.timeouts += 1
        self.counts["timeouts"] += 1
        self.make_ready(job)

    def in_margin(self, client: Client) -> bool:
        """Return whether a reservation of the client is in its last second."""
        now_ns = max(self.now_ns, self.begun_ns)
        return any(job.deadline_ns - MARGIN_NS <= now_ns for job in self.reserved_by(client))

    # Moving jobs.

    def deadline_after(self, seconds: int) -> int:
        """Return when a delay or a ttr ends that begins now; no two begin at the same nanosecond."""
        self.begun_ns = max(self.begun_ns + 1, self.now_ns)
        return self.begun_ns + seconds * SECOND_NS

    def make_ready(self, job: Job) -> None:
        """Make a job ready, or hand it at once to the client that has waited longest for its tube."""
        job.state = "ready"
        job.owner = None
        job.tube.enqueued += 1
        waiters = [client for client in self.waiting_clients() if job.tube in client.watched]
        if waiters and job.tube.unpause_ns is None:
            self.answer_waiting(waiters[0], self.reserve(waiters[0], job))

    def make_ready_or_delayed(self, job: Job) -> None:
        """Make a new or released job ready or delayed, depending on its delay."""
        if not job.delay_s:
            self.make_ready(job)
            return
        job.state = "delayed"
        job.owner = None
        job.deadline_ns = self.deadline_after(job.delay_s)

    def reserve(self, client: Client, job: Job) -> bytes:
        """Reserve a job for a client, and return the reply."""
        job.state = "reserved"
        job.owner = client
        self.counts["reservations"] += 1
        job.reservation_seq = self.counts["reservations"]
        job.deadline_ns = self.deadline_after(job.ttr_s)
        job.reserves += 1
        return b"RESERVED %d %d\r\n%s\r\n" % (job.id, len(job.body), job.body)

    def answer_waiting(self, client: Client, reply: bytes) -> None:
        """End a client's waiting with a reply; its queued commands run later."""
        client.waiting = 0
        client.give_up_ns = None
        client.replies.append(reply)
        self.runnable.append(client)

    def kick(self, job: Job) -> None:
        """Kick a buried or delayed job."""
        job.kicks += 1
        self.make_ready(job)

    # Tubes are listed in an array; removing one moves the last tube into its place.

    def tube_made(self, name: bytes) -> Tube:
        """Return a tube by its name, made if there was none."""
        tube = self.find_tube(name)
        if tube is None:
            tube = Tube(name, self.tube_numbers.take())
            self.tubes.append(tube)
        return tube

    def forget_unused(self, tube: Tube) -> None:
        """Drop a tube without jobs and clients, unless it is paused."""
        used = any(tube is client.used or tube in client.watched for client in self.open_clients())
        used = used or tube.unpause_ns is not None
        if not used and tube is not self.default and not any(job.tube is tube for job in self.jobs):
            take_out(self.tubes, tube)
            self.tube_numbers.free.append(tube.number)

    def hang_up(self, client: Client) -> None:
        """Close a connection: its reservations end, and its tubes may be dropped."""
        if client.closed:
            return
        client.waiting = 0
        client.give_up_ns = None
        for job in sorted(self.reserved_by(client), key=lambda job: job.reservation_seq):
            self.make_ready(job)
        while client.watched:
            tube = client.watched[0]
            take_out(client.watched, tube)
            self.forget_unused(tube)
        client.closed = True
        self.forget_unused(client.used)
        self.client_ranks.free.append(client.rank)


def take_out(array: list[Tube], tube: Tube) -> None:
    """Take a tube out of an array by moving the last one into its place."""
    place = array.index(tube)
    last = array.pop()
    if last is not tube:
        array[place] = last
