"""A naive model of the server: plain lists, linear scans, made-up time.

It takes bytes and returns bytes: its replies are those of the server, byte for byte, and it is easy to verify by
reading. Nearly every command scans everything, so keep the numbers small. Values that only a real process knows (pid,
version, processor time, host) are shown as 0.

This module has the commands. ``reference_state`` has jobs, tubes and clients, and describes what always holds.
"""

from __future__ import annotations

import re

from .reference_state import SECOND_NS, Client, Job, State, Tube, take_out

LONGEST_LINE_BYTES = 224
URGENT_PRI = 1024
U31 = 2**31 - 1
U32 = 2**32 - 1
U64 = 2**64 - 1

# The first matching prefix decides; then the rest of the line must match, and each number must be small enough.
_NAME = rb"([A-Za-z0-9+/;.$_()][-A-Za-z0-9+/;.$_()]{0,199})"
_ID = rb" *(\d+)"
_GRAMMAR: tuple[tuple[bytes, bytes, tuple[int, ...]], ...] = (
    (b"put ", rb" *(\d+) +(\d+) +(\d+) +(\d+)(.*)", (U32, U32, U32, U32)),
    (b"peek ", _ID, (U64,)),
    (b"peek-ready", b"", ()),
    (b"peek-delayed", b"", ()),
    (b"peek-buried", b"", ()),
    (b"reserve-with-timeout ", rb" *(\d+).*", (U31,)),
    (b"reserve-job ", _ID, (U64,)),
    (b"reserve", b"", ()),
    (b"delete ", _ID, (U64,)),
    (b"release ", rb" *(\d+) +(\d+) +(\d+)", (U64, U32, U32)),
    (b"bury ", rb" *(\d+) +(\d+)", (U64, U32)),
    (b"kick ", rb"[ \t]*([+-]?\d+).*", ()),
    (b"kick-job ", _ID, (U64,)),
    (b"touch ", _ID, (U64,)),
    (b"stats-job ", _ID, (U64,)),
    (b"stats-tube ", _NAME, ()),
    (b"stats", b"", ()),
    (b"use ", _NAME, ()),
    (b"watch ", _NAME, ()),
    (b"ignore ", _NAME, ()),
    (b"list-tubes-watched", b"", ()),
    (b"list-tube-used", b"", ()),
    (b"list-tubes", b"", ()),
    (b"quit", b".*", ()),
    (b"pause-tube", rb" *([-A-Za-z0-9+/;.$_()]+) +(\d+)", ()),
)
_COUNTED = (
    "put", "peek", "peek-ready", "peek-delayed", "peek-buried", "reserve", "reserve-with-timeout", "delete", "release",
    "use", "watch", "ignore", "bury", "kick", "touch", "stats", "stats-job", "stats-tube", "list-tubes",
    "list-tube-used", "list-tubes-watched", "pause-tube",
)  # fmt: skip


class Model(State):
    """The whole server. ``max_job_size`` is in bytes, ``now_ns`` the time of the start."""

    def __init__(self, *, max_job_size: int = 65535, now_ns: int = 0) -> None:
        super().__init__(now_ns)
        self.max_job_size = max_job_size
        self.started_ns = now_ns
        self.draining = False

    # What happens from outside.

    def connect(self) -> int:
        """Open a connection and return its number, which is also its place in ``clients``."""
        client = Client(len(self.clients), self.client_ranks.take(), self.default, [self.default])
        self.clients.append(client)
        return client.number

    def send(self, number: int, data: bytes) -> None:
        """Bytes arrive from a client: its complete commands run, unless it waits."""
        client = self.clients[number]
        client.inbox += data
        self._run(client)

    def half_close(self, number: int) -> None:
        """The client half-closes: its complete commands get replies, nothing waits, then the connection is closed."""
        client = self.clients[number]
        client.half_closed = True
        if client.waiting:
            self.answer_waiting(client, b"TIMED_OUT\r\n")
        else:
            self._run(client)

    def close(self, number: int) -> None:
        """The client disconnects."""
        self.hang_up(self.clients[number])

    def taken(self, number: int) -> bytes:
        """Return the replies to a client since the last call."""
        client = self.clients[number]
        output = b"".join(client.replies)
        client.replies.clear()
        return output

    def advance(self, now_ns: int) -> None:
        """Set the clock. Clients that got a reply continue, then all that is due happens, until nothing is left."""
        self.now_ns = now_ns
        while True:
            going_on, self.runnable = self.runnable, []
            for client in going_on:
                self._run(client)
            due = self.soonest()
            while due is not None and due[0][0] <= now_ns:
                self.happen(due[1])
                due = self.soonest()
            if not self.runnable:
                return

    # Clients and their bytes.

    def _run(self, client: Client) -> None:
        # A client that got its reply while it waited continues in the next iteration.
        while not client.waiting and not client.closed and client not in self.runnable:
            if not self._step(client):
                if client.half_closed:
                    self.hang_up(client)
                return

    def _step(self, client: Client) -> bool:
        if client.skip_bytes:
            return self._skip(client)
        if client.incoming is not None:
            return self._end_put(client, client.incoming)
        line, crlf, rest = client.inbox.partition(b"\r\n")
        if not crlf:
            return False
        client.inbox = rest
        reply = self._command(client, line)
        if reply:
            client.replies.append(reply)
        return True

    def _skip(self, client: Client) -> bool:
        skipped = min(client.skip_bytes, len(client.inbox))
        client.inbox = client.inbox[skipped:]
        client.skip_bytes -= skipped
        if not client.skip_bytes:
            client.replies.append(b"JOB_TOO_BIG\r\n")
        return not client.skip_bytes

    def _end_put(self, client: Client, job: Job) -> bool:
        size = client.incoming_bytes
        if len(client.inbox) < size + 2:
            return False
        job.body, end, client.inbox = client.inbox[:size], client.inbox[size : size + 2], client.inbox[size + 2 :]
        client.incoming = None
        if end != b"\r\n":
            client.replies.append(b"EXPECTED_CRLF\r\n")
        elif self.draining:
            client.replies.append(b"DRAINING\r\n")
        else:
            client.replies.append(b"INSERTED %d\r\n" % job.id)
            self.jobs.append(job)
            self.counts["jobs"] += 1
            job.tube.total_jobs += 1
            self.make_ready_or_delayed(job)
        return True

    # Commands: each returns its reply, or nothing if the reply comes later.

    def _command(self, client: Client, line: bytes) -> bytes:
        if len(line) + 2 > LONGEST_LINE_BYTES or b"\0" in line:
            return b"BAD_FORMAT\r\n"
        rule = next((rule for rule in _GRAMMAR if line.startswith(rule[0])), None)
        if rule is None:
            return b"UNKNOWN_COMMAND\r\n"
        prefix, pattern, limits = rule
        match = re.fullmatch(pattern, line[len(prefix) :], re.DOTALL)
        if match is None:
            return b"BAD_FORMAT\r\n"
        numbers = [int(digits) for digits in match.groups()[: len(limits)]]
        if any(number > limit for number, limit in zip(numbers, limits, strict=True)):
            return b"BAD_FORMAT\r\n"
        name = prefix.decode().strip()
        call = getattr(self, "_do_" + name.replace("-", "_"))
        arguments = [*numbers, *match.groups()[len(limits) :]]
        reply: bytes | None = call(client, *arguments)
        if reply is None:
            return b"BAD_FORMAT\r\n"
        return reply

    def _do_put(self, client: Client, pri: int, delay_s: int, ttr_s: int, size: int, rest: bytes) -> bytes | None:
        self.counts["put"] += 1
        if size > self.max_job_size:
            client.skip_bytes = size + 2
            return b""
        if rest:
            return None
        client.producer = True
        self.counts["ids"] += 1
        job_id = self.counts["ids"]
        client.incoming = Job(job_id, client.used, pri, delay_s, max(ttr_s, 1), b"", self.now_ns)
        client.incoming_bytes = size
        return b""

    def _do_reserve(self, client: Client, timeout_s: int | None = None) -> bytes:
        self.counts["reserve" if timeout_s is None else "reserve-with-timeout"] += 1
        client.worker = True
        for job in self.expired(client):
            self.put_back(job)
        ready = [job for job in self.of_state("ready") if job.tube in client.watched and job.tube.unpause_ns is None]
        if ready:
            return self.reserve(client, ready[0])
        if self.in_margin(client):
            return b"DEADLINE_SOON\r\n"
        if timeout_s == 0:
            return b"TIMED_OUT\r\n"
        if client.half_closed:
            self.answer_waiting(client, b"TIMED_OUT\r\n")
            return b""
        self.counts["waits"] += 1
        client.waiting = self.counts["waits"]
        client.give_up_ns = None if timeout_s is None else self.now_ns + timeout_s * SECOND_NS
        return b""

    _do_reserve_with_timeout = _do_reserve

    def _do_reserve_job(self, client: Client, job_id: int) -> bytes:
        job = self.find_job(job_id)
        if job is None or job.state == "reserved":
            return b"NOT_FOUND\r\n"
        client.worker = True
        return self.reserve(client, job)

    def _do_delete(self, client: Client, job_id: int) -> bytes:
        self.counts["delete"] += 1
        job = self.find_job(job_id)
        if job is None or job.owner not in (None, client):
            return b"NOT_FOUND\r\n"
        self.jobs.remove(job)
        job.tube.deletes += 1
        job.tube.finished += job.state == "reserved"
        self.forget_unused(job.tube)
        return b"DELETED\r\n"

    def _do_release(self, client: Client, job_id: int, pri: int, delay_s: int) -> bytes:
        self.counts["release"] += 1
        job = self.find_job(job_id)
        if job is None or job.owner is not client:
            return b"NOT_FOUND\r\n"
        job.pri = pri
        job.delay_s = delay_s
        job.releases += 1
        self.make_ready_or_delayed(job)
        return b"RELEASED\r\n"

    def _do_bury(self, client: Client, job_id: int, pri: int) -> bytes:
        self.counts["bury"] += 1
        job = self.find_job(job_id)
        if job is None or job.owner is not client:
            return b"NOT_FOUND\r\n"
        self.counts["burials"] += 1
        job.state = "buried"
        job.owner = None
        job.pri = pri
        job.burial = self.counts["burials"]
        job.buries += 1
        return b"BURIED\r\n"

    def _do_touch(self, client: Client, job_id: int) -> bytes:
        self.counts["touch"] += 1
        job = self.find_job(job_id)
        if job is None or job.owner is not client:
            return b"NOT_FOUND\r\n"
        job.deadline_ns = self.deadline_after(job.ttr_s)
        return b"TOUCHED\r\n"

    def _do_kick(self, client: Client, bound: bytes) -> bytes | None:
        if abs(int(bound)) > U64:
            return None
        self.counts["kick"] += 1
        jobs = self.of_state("buried", client.used) or self.of_state("delayed", client.used)
        jobs = jobs[: int(bound) & U32]
        for job in jobs:
            self.kick(job)
        return b"KICKED %d\r\n" % len(jobs)

    def _do_kick_job(self, client: Client, job_id: int) -> bytes:
        job = self.find_job(job_id)
        if job is None or job.state not in ("buried", "delayed"):
            return b"NOT_FOUND\r\n"
        self.kick(job)
        return b"KICKED\r\n"

    def _do_peek(self, client: Client, job_id: int) -> bytes:
        self.counts["peek"] += 1
        return _found([job for job in self.jobs if job.id == job_id])

    def _do_peek_ready(self, client: Client) -> bytes:
        self.counts["peek-ready"] += 1
        return _found(self.of_state("ready", client.used))

    def _do_peek_delayed(self, client: Client) -> bytes:
        self.counts["peek-delayed"] += 1
        return _found(self.of_state("delayed", client.used))

    def _do_peek_buried(self, client: Client) -> bytes:
        self.counts["peek-buried"] += 1
        return _found(self.of_state("buried", client.used))

    def _do_use(self, client: Client, name: bytes) -> bytes:
        self.counts["use"] += 1
        before, client.used = client.used, self.tube_made(name)
        self.forget_unused(before)
        return b"USING %s\r\n" % name

    def _do_watch(self, client: Client, name: bytes) -> bytes:
        self.counts["watch"] += 1
        tube = self.tube_made(name)
        if tube not in client.watched:
            client.watched.append(tube)
        return b"WATCHING %d\r\n" % len(client.watched)

    def _do_ignore(self, client: Client, name: bytes) -> bytes:
        self.counts["ignore"] += 1
        tube = self.find_tube(name)
        if tube is not None and tube in client.watched:
            if len(client.watched) == 1:
                return b"NOT_IGNORED\r\n"
            take_out(client.watched, tube)
            self.forget_unused(tube)
        return b"WATCHING %d\r\n" % len(client.watched)

    def _do_quit(self, client: Client) -> bytes:
        self.hang_up(client)
        return b""

    def _do_pause_tube(self, client: Client, name: bytes, digits: bytes) -> bytes | None:
        delay_s = int(digits)
        if delay_s > U32:
            return None
        self.counts["pause-tube"] += 1
        if re.fullmatch(_NAME, name) is None:
            return None
        tube = self.find_tube(name)
        if tube is None:
            return b"NOT_FOUND\r\n"
        tube.pauses += 1
        tube.pause_s = delay_s
        tube.unpause_ns = self.now_ns + delay_s * SECOND_NS
        if delay_s == 0:
            self.unpause(tube)
        return b"PAUSED\r\n"

    # Lists and statistics.

    def _do_list_tubes(self, client: Client) -> bytes:
        self.counts["list-tubes"] += 1
        return _ok([b"- " + tube.name for tube in self.tubes])

    def _do_list_tubes_watched(self, client: Client) -> bytes:
        self.counts["list-tubes-watched"] += 1
        return _ok([b"- " + tube.name for tube in client.watched])

    def _do_list_tube_used(self, client: Client) -> bytes:
        self.counts["list-tube-used"] += 1
        return b"USING %s\r\n" % client.used.name

    def _do_stats_job(self, client: Client, job_id: int) -> bytes:
        self.counts["stats-job"] += 1
        job = self.find_job(job_id)
        if job is None:
            return b"NOT_FOUND\r\n"
        left_ns = job.deadline_ns - self.now_ns if job.state in ("delayed", "reserved") else 0
        return _statistics(
            [
                ("id", job.id),
                ("tube", _quoted(job.tube.name)),
                ("state", job.state),
                ("pri", job.pri),
                ("age", _whole_seconds(self.now_ns - job.created_ns)),
                ("delay", job.delay_s),
                ("ttr", job.ttr_s),
                ("time-left", _whole_seconds(left_ns)),
                ("file", 0),
                ("reserves", job.reserves),
                ("timeouts", job.timeouts),
                ("releases", job.releases),
                ("buries", job.buries),
                ("kicks", job.kicks),
            ]
        )

    def _do_stats_tube(self, client: Client, name: bytes) -> bytes:
        self.counts["stats-tube"] += 1
        tube = self.find_tube(name)
        if tube is None:
            return b"NOT_FOUND\r\n"
        left_ns = 0 if tube.unpause_ns is None else tube.unpause_ns - self.now_ns
        first = min(self.of_state("ready", tube), key=lambda job: job.id, default=None)
        return _statistics(
            [
                ("name", _quoted(tube.name)),
                *self._job_counts(tube),
                ("total-jobs", tube.total_jobs),
                ("current-using", sum(client.used is tube for client in self.open_clients())),
                ("current-watching", len(self.watchers(tube))),
                ("current-waiting", sum(bool(client.waiting) for client in self.watchers(tube))),
                ("cmd-delete", tube.deletes),
                ("cmd-pause-tube", tube.pauses),
                ("pause", tube.pause_s),
                ("pause-time-left", _whole_seconds(left_ns)),
                ("total-enqueued", tube.enqueued),
                ("total-finished", tube.finished),
                ("current-bytes", sum(len(job.body) for job in self.jobs if job.tube is tube)),
                ("oldest-ready-age", _whole_seconds(self.now_ns - first.created_ns if first else 0)),
            ]
        )

    def _job_counts(self, tube: Tube | None) -> list[tuple[str, object]]:
        urgent = [job for job in self.of_state("ready", tube) if job.pri < URGENT_PRI]
        states = ("ready", "reserved", "delayed", "buried")
        return [
            ("current-jobs-urgent", len(urgent)),
            *((f"current-jobs-{state}", len(self.of_state(state, tube))) for state in states),
        ]

    def _do_stats(self, client: Client) -> bytes:
        self.counts["stats"] += 1
        connected = self.open_clients()
        return _statistics(
            [
                *self._job_counts(None),
                *((f"cmd-{name}", self.counts[name]) for name in _COUNTED),
                ("job-timeouts", self.counts["timeouts"]),
                ("total-jobs", self.counts["jobs"]),
                ("max-job-size", self.max_job_size),
                ("current-tubes", len(self.tubes)),
                ("current-connections", len(connected)),
                ("current-producers", sum(client.producer for client in connected)),
                ("current-workers", sum(client.worker for client in connected)),
                ("current-waiting", len(self.waiting_clients())),
                ("total-connections", len(self.clients)),
                ("pid", 0),
                ("version", '"0"'),
                ("rusage-utime", "0.000000"),
                ("rusage-stime", "0.000000"),
                ("uptime", _whole_seconds(self.now_ns - self.started_ns)),
                ("binlog-oldest-index", 0),
                ("binlog-current-index", 0),
                ("binlog-records-migrated", 0),
                ("binlog-records-written", 0),
                ("binlog-max-size", 10485760),
                ("draining", "true" if self.draining else "false"),
                ("id", "0"),
                ("hostname", '"0"'),
                ("os", '"0"'),
                ("platform", '"0"'),
            ]
        )


def _whole_seconds(duration_ns: int) -> int:
    seconds = abs(duration_ns) // SECOND_NS
    return seconds if duration_ns >= 0 else -seconds


def _quoted(name: bytes) -> str:
    return f'"{name.decode()}"'


def _found(jobs: list[Job]) -> bytes:
    if not jobs:
        return b"NOT_FOUND\r\n"
    return b"FOUND %d %d\r\n%s\r\n" % (jobs[0].id, len(jobs[0].body), jobs[0].body)


def _statistics(pairs: list[tuple[str, object]]) -> bytes:
    return _ok([f"{key}: {value}".encode() for key, value in pairs])


def _ok(lines: list[bytes]) -> bytes:
    text = b"".join(line + b"\n" for line in [b"---", *lines])
    return b"OK %d\r\n%s\r\n" % (len(text), text)
