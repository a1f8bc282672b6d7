"""The expected state: what each job must look like after a crash, derived from the replies that clients received.

Each writer is one connection, and the server runs its commands in order. So of the commands that a writer has sent
without receiving a reply, the first few happened and the rest did not: `ExpectedState.check` looks for a number of them
that explains what the server shows now, for all jobs of the writer at once. Everything that was acknowledged must be
there.

For each job it knows the body, tube, priority, ttr and delay; when it was created and when its delay ends (an interval,
from sending the command to receiving the reply); its state, its place among the buried jobs, and its counters. The
binlog does not record reservations, so the number of reserves has a lower bound (its value at the last command that
wrote the job's record) and an upper bound.

A job is identified by its token, the first word of its body; this also recognises a put whose reply never arrived.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from .process import Client, Reply, parse_stats

ALL = 1_000_000
UNOWNED = -1
SHARED = "shared"  # the one tube that all writers reserve from; its ready jobs have no owner
NEVER = 1 << 62  # a place in a trace that is never reached
SECOND_S = 1.0  # statistics show whole seconds, rounded down or up


class UnexpectedStateError(AssertionError):
    """Something that was acknowledged is not there, or something is there that should not be."""


@dataclass(frozen=True)
class Job:
    """What is known about a job. Times are (earliest, latest), in seconds of the monotonic clock."""

    token: bytes
    owner: int
    tube: str
    body: bytes
    pri: int
    delay: int
    ttr: int
    id: int | None = None
    state: str = "ready"
    made: tuple[float, float] = (0.0, 0.0)
    due: tuple[float, float] = (0.0, 0.0)
    burial: int = 0
    reserves: int = 0
    kept_reserves: int = 0
    releases: int = 0
    buries: int = 0
    kicks: int = 0


@dataclass
class Op:
    """A command: the bytes that are sent, and what it does.

    job: of a put. token: of a command for one job. tube, count: of a kick. pri, delay: the new ones.
    """

    kind: str
    wire: bytes
    token: bytes = b""
    tube: str = ""
    count: int = 0
    pri: int = 0
    delay: int = 0
    job: Job | None = None
    number: int = 0
    sent: float = 0.0
    answered: float = math.inf
    sent_at: int = 0  # place in a trace, as is the next
    answered_at: int = NEVER
    taken: bool = False  # a put whose job was handed to a client before the reply to the put arrived


Jobs = Mapping[bytes, Job]
Changes = dict[bytes, Job | None]


def effects(op: Op, jobs: Jobs) -> Changes:
    """How a command changes the jobs: the new state of each job by token, None for a job that is gone."""
    if op.kind == "put":
        assert op.job is not None
        if op.taken:
            return {}
        due = (op.sent + op.job.delay, op.answered + op.job.delay)
        state = "delayed" if op.job.delay else "ready"
        return {op.token: replace(op.job, state=state, made=(op.sent, op.answered), due=due)}
    if op.kind == "kick":
        return {job.token: _kicked(job) for job in to_kick(op.tube, op.count, jobs)}
    job = jobs.get(op.token)
    if job is None:
        return {}
    if op.kind == "delete":
        return {op.token: None}
    kept = replace(job, kept_reserves=job.reserves)
    if op.kind == "release":
        due = (op.sent + op.delay, op.answered + op.delay)
        state = "delayed" if op.delay else "ready"
        changed = replace(kept, state=state, pri=op.pri, delay=op.delay, due=due, releases=job.releases + 1)
        return {op.token: changed}
    if op.kind == "bury":
        return {op.token: replace(kept, state="buried", pri=op.pri, buries=job.buries + 1, burial=op.number)}
    if op.kind == "kick-job":
        return {op.token: _kicked(job)}
    if op.kind == "reserve-job":
        reserves = job.reserves + 1
        gates = job.state == "buried" or (job.state == "delayed" and job.due[0] > op.answered)
        kept_reserves = reserves if gates else job.kept_reserves
        return {op.token: replace(job, state="reserved", reserves=reserves, kept_reserves=kept_reserves)}
    if op.kind == "reserve":
        return {op.token: replace(job, state="reserved", reserves=job.reserves + 1)}
    return {}


def _kicked(job: Job) -> Job:
    return replace(job, state="ready", kicks=job.kicks + 1, kept_reserves=job.reserves)


def to_kick(tube: str, count: int, jobs: Jobs) -> list[Job]:
    """The jobs that ``kick`` takes, in order: the longest buried, or else those whose delays end first."""
    here = [job for job in jobs.values() if job.tube == tube]
    buried = sorted((job for job in here if job.state == "buried"), key=lambda job: job.burial)
    delayed = sorted((job for job in here if job.state == "delayed"), key=lambda job: job.due)
    return buried[:count] or delayed[:count]


EXPECTED = {"delete": "DELETED", "release": "RELEASED", "bury": "BURIED", "kick-job": "KICKED", "kick": "KICKED"}
EXPECTED |= {"touch": "TOUCHED", "use": "USING", "watch": "WATCHING", "pause-tube": "PAUSED", "put": "INSERTED"}
EXPECTED |= {"reserve": "RESERVED", "reserve-job": "RESERVED"}
OTHERWISE = {("put", "OUT_OF_MEMORY"), ("put", "DRAINING"), ("reserve", "TIMED_OUT"), ("pause-tube", "NOT_FOUND")}
OTHERWISE |= {("pause-tube", "OUT_OF_MEMORY")}  # a first pause needs room, as a put does


@dataclass(frozen=True)
class Seen:
    """A job as the server shows it. asked: the interval from sending the question to receiving the reply."""

    body: bytes
    stats: Mapping[str, str]
    asked: tuple[float, float]


def look(client: Client, ids: Iterable[int], at_once: int = 200) -> dict[int, Seen | None]:
    """What the server shows for each of these ids; None where there is no such job."""
    wanted = list(ids)
    seen: dict[int, Seen | None] = {}
    for start in range(0, len(wanted), at_once):
        batch = wanted[start : start + at_once]
        before = time.monotonic()
        client.send(b"".join(b"peek %d\r\nstats-job %d\r\n" % (id, id) for id in batch))
        replies = [(client.reply(), client.reply()) for _ in batch]
        asked = (before, time.monotonic())
        for id, (peeked, stats) in zip(batch, replies, strict=True):
            if peeked.body is None or stats.body is None:
                assert peeked.line == stats.line == b"NOT_FOUND", f"job {id}: {peeked.line!r}, {stats.line!r}"
                seen[id] = None
            else:
                seen[id] = Seen(peeked.body, parse_stats(stats.body), asked)
    return seen


def differences(job: Job, seen: Seen | None, more_reserves: int = 0) -> list[str]:
    """How the job that the server shows after a restart differs from the expected one."""
    if seen is None:
        return [f"it is gone; it was {job.state}"]
    stats = seen.stats
    wrong = [
        f"{key} is {stats[key]!r}, not {wanted}"
        for key, wanted in (
            ("tube", job.tube), ("pri", job.pri), ("ttr", job.ttr), ("delay", job.delay), ("releases", job.releases),
            ("buries", job.buries), ("kicks", job.kicks), ("timeouts", 0),
        )
        if stats[key] != str(wanted)
    ]  # fmt: skip
    if seen.body != job.body:
        wrong.append(f"the body differs: {seen.body[:60]!r} ({len(seen.body)} bytes), not {job.body[:60]!r}")
    if not job.kept_reserves <= int(stats["reserves"]) <= job.reserves + more_reserves:
        wrong.append(f"reserves is {stats['reserves']}, not in {job.kept_reserves}..{job.reserves + more_reserves}")
    age = (seen.asked[0] - job.made[1] - SECOND_S, seen.asked[1] - job.made[0] + SECOND_S)
    if not age[0] <= int(stats["age"]) <= age[1]:
        wrong.append(f"age is {stats['age']}, not in {age[0]:.1f}..{age[1]:.1f}")
    return wrong + _wrong_state(job, seen)


def _wrong_state(job: Job, seen: Seen) -> list[str]:
    state = seen.stats["state"]
    if job.state != "delayed":
        wanted = "ready" if job.state == "reserved" else job.state
        return [] if state == wanted else [f"it is {state}, not {wanted} (it was {job.state})"]
    left = (job.due[0] - seen.asked[1] - SECOND_S, job.due[1] - seen.asked[0] + SECOND_S)
    if state == "ready":
        return [] if left[0] <= 0 else [f"it is ready, {left[0]:.1f} seconds too early"]
    if state != "delayed":
        return [f"it is {state}, not delayed"]
    if not left[0] <= int(seen.stats["time-left"]) <= max(left[1], 0):
        return [f"its delay ends in {seen.stats['time-left']} seconds, not in {left[0]:.1f}..{left[1]:.1f}"]
    return []


@dataclass
class Writer:
    """One connection: its commands without a reply, and the jobs as they will be after these commands."""

    pending: deque[Op] = field(default_factory=deque)
    future: dict[bytes, Job] = field(default_factory=dict)
    at_least: int = 0  # how many of the pending commands are known to have happened


class ExpectedState:
    """All jobs of a directory over any number of restarts.

    writers: the number of connections. strict_ids: no id may be assigned twice, not even across restarts.
    """

    def __init__(self, writers: int, *, strict_ids: bool = True) -> None:
        self.jobs: dict[bytes, Job] = {}
        self.writers = [Writer() for _ in range(writers)]
        self.acknowledged = 0
        self.highest_id = 0
        self._strict_ids = strict_ids
        self._first_new_id = 1
        self._new_ids: set[int] = set()
        self._gone: dict[int, str] = {}  # ids that must not be there, since the last check
        self._numbers = itertools.count(1)

    # What the clients do

    def send(self, writer: int, op: Op, *, sent_at: int = 0) -> bytes:
        """Records that a command is sent; returns its bytes."""
        op.number = next(self._numbers)
        op.sent = time.monotonic()
        op.sent_at = sent_at
        each = self.writers[writer]
        each.pending.append(op)
        _apply(each.future, effects(op, each.future))
        return op.wire

    def answer(self, writer: int, reply: Reply) -> Op:
        """Records the reply to the writer's oldest command. Raises UnexpectedStateError if the reply is wrong."""
        each = self.writers[writer]
        op = each.pending[0]
        op.answered = time.monotonic()
        self._judge(op, reply)
        each.pending.popleft()
        each.at_least = max(0, each.at_least - 1)
        if op.kind == "put":
            if reply.word != "INSERTED":
                each.future.pop(op.token, None)
                op.kind, op.job = "refused", None
                return op
            self._name(op, reply.number)
        elif op.kind == "reserve":
            self._hand_out(writer, op, reply)
        self.settle(op)
        if op.token in self.jobs and op.token in each.future and op.kind in ("put", "reserve"):
            each.future[op.token] = replace(each.future[op.token], id=self.jobs[op.token].id)
        return op

    def settle(self, op: Op) -> None:
        """Applies a command that has certainly happened."""
        self.acknowledged += 1
        changes = effects(op, self.jobs)
        for token, job in changes.items():
            if job is None and (id := self.jobs[token].id) is not None:
                self._gone[id] = f"{token!r} was deleted"
        _apply(self.jobs, changes)

    def do(self, client: Client, writer: int, op: Op) -> Reply:
        """Sends one command and waits for its reply."""
        client.send(self.send(writer, op))
        reply = client.reply()
        self.answer(writer, reply)
        return reply

    def _judge(self, op: Op, reply: Reply) -> None:
        wanted = EXPECTED[op.kind]
        if reply.word == wanted:
            if op.kind == "kick" and reply.number != len(to_kick(op.tube, op.count, self.jobs)):
                raise UnexpectedStateError(f"{op.wire!r} was answered with {reply.line!r}: {self._of_tube(op.tube)}")
            if op.kind == "reserve-job" and reply.body != self.jobs[op.token].body:
                raise UnexpectedStateError(f"{op.wire!r} gave the body {reply.body!r}")
            return
        if (op.kind, reply.word) in OTHERWISE:
            return
        raise UnexpectedStateError(f"{op.wire[:100]!r} was answered with {reply.line!r}, not {wanted}")

    def _of_tube(self, tube: str) -> str:
        return ", ".join(f"{job.id} {job.state}" for job in self.jobs.values() if job.tube == tube)

    def _name(self, op: Op, id: int) -> None:
        assert op.job is not None
        if op.job.id is not None and op.job.id != id:
            raise UnexpectedStateError(f"{op.token!r} was handed out as job {op.job.id}, but put as {id}")
        if op.job.id is None and not self._is_new(id):
            raise UnexpectedStateError(f"the id {id} of {op.token!r} was assigned before")
        op.job = replace(op.job, id=id)
        self._new_ids.add(id)
        self.highest_id = max(self.highest_id, id)
        self._gone.pop(id, None)

    def _is_new(self, id: int) -> bool:
        if not self._strict_ids:
            return all(job.id != id for job in self.jobs.values())
        return id >= self._first_new_id and id not in self._new_ids

    def _hand_out(self, writer: int, op: Op, reply: Reply) -> None:
        """Records which job a reserve returned; the reply to the put of this job may still be on its way."""
        mine = [job for job in self.jobs.values() if job.owner == writer and job.tube == op.tube]
        ready = [(job.pri, job.id or 0) for job in mine if job.state == "ready"]
        if reply.body is None:
            if ready:
                raise UnexpectedStateError(f"a reserve found nothing, but {len(ready)} jobs are ready in {op.tube}")
            return
        op.token = reply.body.partition(b"|")[0]
        if op.token not in self.jobs:
            self._take_from_a_put(op.token, reply.number)
        job = self.jobs[op.token]
        if (reply.number, reply.body) != (job.id, job.body):
            raise UnexpectedStateError(f"{reply.line!r} with {reply.body[:60]!r} is not job {job.id}")
        if job.tube == op.tube and ready and (job.pri, job.id or 0) > min(ready):
            raise UnexpectedStateError(f"job {job.id} of priority {job.pri} was handed out before {min(ready)}")
        self.jobs[op.token] = replace(job, owner=writer)
        self.writers[writer].future[op.token] = replace(job, owner=writer, state="reserved", reserves=job.reserves + 1)

    def _take_from_a_put(self, token: bytes, id: int) -> None:
        for each in self.writers:
            for place, op in enumerate(each.pending):
                if op.kind == "put" and op.token == token:
                    self._name(op, id)
                    _apply(self.jobs, effects(op, self.jobs))
                    op.taken = True
                    each.at_least = max(each.at_least, place + 1)
                    return
        raise UnexpectedStateError(f"a job was handed out that no client put, or that was deleted: {id}, {token!r}")

    # What is there after a restart

    def check(
        self, client: Client, is_others: Callable[[bytes], bool] | None = None, their_highest_id: int = 0
    ) -> None:
        """Compares everything with a server that was just restarted. Raises UnexpectedStateError for any difference.

        is_others: whether a job with this body belongs to another check; None if there are no such jobs.
        their_highest_id: no job of another check, and no put without a reply, has a higher id. Afterwards the expected
        state is what the server has, and no command is pending.
        """
        unanswered = sum(op.kind == "put" for each in self.writers for op in each.pending)
        highest = max(self.highest_id, self._first_new_id - 1) + unanswered
        unknown = set(range(self._first_new_id, max(highest, their_highest_id) + 1))
        known = {job.id for job in self.jobs.values() if job.id is not None}
        seen = look(client, sorted(known | unknown | self._gone.keys()))
        if is_others:
            seen = {id: found for id, found in seen.items() if not (found and is_others(found.body))}
        gone, self._gone = self._gone, {}
        complaints = self._recognise(seen, known | gone.keys())
        complaints += [f"job {id} is back: {why}" for id, why in gone.items() if seen.get(id)]
        complaints += self.complaints(seen)
        if complaints:
            raise UnexpectedStateError(
                f"{len(complaints)} faults, the first of them:\n  " + "\n  ".join(complaints[:10])
            )
        if not is_others:
            self.check_nothing_else(client)

    def check_nothing_else(self, client: Client) -> None:
        """Raises UnexpectedStateError if the server has more or fewer jobs than expected."""
        counts = client.stats()
        there = sum(int(counts[f"current-jobs-{state}"]) for state in ("ready", "delayed", "buried", "reserved"))
        if there != len(self.jobs):
            raise UnexpectedStateError(f"the server has {there} jobs, {len(self.jobs)} are expected")

    def restarted(self, client: Client) -> None:
        """Puts one job, to learn where the ids of this run begin."""
        self._new_ids.clear()
        self.highest_id = self.highest_id if self._strict_ids else 0
        self._first_new_id = self.highest_id + 1
        token = b"first%d" % next(self._numbers)
        job = Job(token, UNOWNED, "probe", token + b"|", 5, 0, 1000)
        self.do(client, 0, Op("use", b"use probe\r\n"))
        self.do(client, 0, put(job))
        self._first_new_id = self.highest_id

    def _recognise(self, seen: Mapping[int, Seen | None], known: set[int]) -> list[str]:
        """Sets the ids of jobs whose puts have no reply."""
        puts = {op.token: op for each in self.writers for op in each.pending if op.kind == "put" and not op.taken}
        complaints = []
        for id, found in seen.items():
            if found is None or id in known:
                continue
            op = puts.get(found.body.partition(b"|")[0])
            if op is None:
                complaints.append(f"job {id} was never put: {found.body[:60]!r}")
            elif op.job is not None:
                op.job = replace(op.job, id=id)
                self.highest_id = max(self.highest_id, id)
        return complaints

    def complaints(self, seen: Mapping[int, Seen | None], *, adopt: bool = True) -> list[str]:
        """What is wrong. adopt: replace the expected state with what the server has."""
        found = []
        judge = _Judge(seen, sum(op.kind == "reserve" for each in self.writers for op in each.pending))
        touched: set[bytes] = set()
        for number, each in enumerate(self.writers):
            right, wrong, tokens = _explain(each, self.jobs, judge)
            touched |= tokens
            if right is None:
                found.append(f"writer {number}: {len(each.pending)} unanswered commands explain nothing: {wrong[:3]}")
            elif adopt:
                self._adopt(right)
                each.pending.clear()
                each.at_least = 0
        for token, job in self.jobs.items():
            found += [] if token in touched else judge.faults(token, job)
        if adopt and not found:
            self._adopt({token: _as_seen(job, seen) for token, job in self.jobs.items()})
        return found

    def wrong_jobs(self, seen: Mapping[int, Seen | None]) -> list[str]:
        """Jobs in a state that they never had. For an fsync policy that promises no more: jobs may be missing."""
        judge = _Judge(seen, 0)
        looks: dict[bytes, list[Job]] = {}
        for each in self.writers:
            for _, changes in _steps(each, self.jobs):
                for token, job in changes.items():
                    looks.setdefault(token, []).extend([job] if job else [])
        found = []
        for id, shown in seen.items():
            token = shown.body.partition(b"|")[0] if shown else b""
            faults = [judge.faults(token, job) for job in looks.get(token, [])]
            if shown and [] not in faults:
                found.append(f"job {id} never looked like that: {min(faults, key=len, default=['no client put it'])}")
        return found

    def _adopt(self, changes: Mapping[bytes, Job | None]) -> None:
        for token, job in changes.items():
            if job is None and token in self.jobs and (id := self.jobs[token].id) is not None:
                self._gone[id] = f"{token!r} was deleted"
        _apply(self.jobs, changes)
        for number, each in enumerate(self.writers):
            each.future = {token: job for token, job in self.jobs.items() if job.owner == number}


def _apply(jobs: dict[bytes, Job], changes: Mapping[bytes, Job | None]) -> None:
    for token, job in changes.items():
        if job is None:
            jobs.pop(token, None)
        else:
            jobs[token] = job


class _Judge:
    """Compares single jobs with what the server shows. more_reserves: the number of reserves without a reply."""

    def __init__(self, seen: Mapping[int, Seen | None], more_reserves: int) -> None:
        self._seen = seen
        self._more_reserves = more_reserves
        self._ids = {shown.body.partition(b"|")[0]: id for id, shown in seen.items() if shown}

    def faults(self, token: bytes, job: Job | None) -> list[str]:
        """What is wrong with this job, which is None if it should not be there."""
        if job is None:
            return [f"{token!r} is there, as job {self._ids[token]}"] if token in self._ids else []
        shown = None if job.id is None else self._seen.get(job.id)
        return [f"job {job.id}: {what}" for what in differences(job, shown, self._more_reserves)]


def _steps(writer: Writer, jobs: Jobs) -> Iterable[tuple[int, Changes]]:
    """The changes of each pending command in order, each with the number of commands done by then.

    A kick writes one record per job, so it may have kicked some of the jobs and not the others.
    """
    now = dict(jobs)
    for place, op in enumerate(writer.pending):
        changes = list(effects(op, now).items())
        for token, job in changes[:-1]:
            _apply(now, {token: job})
            yield place, {token: job}
        _apply(now, dict(changes[-1:]))
        yield place + 1, dict(changes[-1:])


def _explain(writer: Writer, jobs: Jobs, judge: _Judge) -> tuple[Changes | None, list[str], set[bytes]]:
    """Looks for a number of pending commands after which everything is as the server shows it.

    Returns the jobs that these commands changed (None if no number fits), the complaints for the number that fits best,
    and the tokens of all jobs that any pending command changes.
    """
    steps = [(0, {}), *_steps(writer, jobs)]
    now: Changes = {token: jobs.get(token) for _, changes in steps for token in changes}
    faults = {token: judge.faults(token, job) for token, job in now.items()}
    right: Changes | None = None
    best: list[str] | None = None
    for done, changes in steps:
        now.update(changes)
        faults.update({token: judge.faults(token, job) for token, job in changes.items()})
        if done < writer.at_least:
            continue
        wrong = [fault for each in faults.values() for fault in each]
        if not wrong:
            right = dict(now)
        if best is None or len(wrong) < len(best):
            best = wrong
    return right, best or [], set(now)


def _as_seen(job: Job, seen: Mapping[int, Seen | None]) -> Job:
    found = seen[job.id] if job.id is not None else None
    assert found is not None
    state, reserves = found.stats["state"], int(found.stats["reserves"])
    owner = UNOWNED if job.tube == SHARED and state == "ready" else job.owner
    return replace(job, owner=owner, state=state, reserves=reserves, kept_reserves=reserves)


def put(job: Job) -> Op:
    """A put of this job into the used tube."""
    line = b"put %d %d %d %d\r\n" % (job.pri, job.delay, job.ttr, len(job.body))
    return Op("put", line + job.body + b"\r\n", job.token, job=job)
