"""Random commands for a comparison: every command, well-formed and malformed, on jobs and tubes that exist or not.

Where fastbean differs from real beanstalkd on purpose, the command is left out, with the reason beside it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from .comparison_state import SHORT_S, Client, ComparisonState, Job
from .paired_servers import Command

# The comparison starts its servers with this limit, so that bodies at and above it are cheap.
MAX_JOB_SIZE = 1000
MAX_JOBS = 18
MAX_U32 = 4294967295

_TUBES = (b"default", b"t1", b"t2", b"t3")
_PRIORITIES = (0, 0, 1, 5, 1023, 1024, 70000, MAX_U32)
_TTRS_S = (0, 1, 1, 2, 2, 1000, 1000, 1000, MAX_U32)
_DELAYS_S = (0, 0, 0, 0, 1, 1, 2, 1000)

# `%d` is replaced by the id of some job. A lone CR hangs real beanstalkd, so there is none. reserve-with-timeout with a
# non-number, a negative number or one above 2^31-1 differs between 1.12 and 1.13, so there is none of these.
_MALFORMED: dict[str, tuple[bytes, ...]] = {
    "put": (b"put 0 0 1", b"put -1 0 1 1", b"put 0 0 x 1", b"put 0 4294967296 1 1", b"put 0 0 1 1 x", b"put +1 0 1 1"),
    "use": (b"use ", b"use -x", b"use a b", b"use  a", b"use " + 201 * b"a", b"use a,b", b"use a\0b"),
    "watch": (b"watch ", b"watch -x", b"watch a b", b"watch " + 201 * b"a"),
    "ignore": (b"ignore ", b"ignore -x", b"ignore default ", b"ignore " + 201 * b"a"),
    "reserve": (b"reserve ", b"reserved", b"reserve-with-timeout", b"reserve-job"),
    "reserve-with-timeout": (b"reserve-with-timeout 99999999999999999999",),
    "reserve-job": (b"reserve-job ", b"reserve-job x", b"reserve-job -1", b"reserve-job %d x"),
    "delete": (b"delete ", b"delete x", b"delete %dx", b"delete -1", b"delete 18446744073709551616"),
    "release": (b"release %d", b"release %d 0", b"release %d 0 0 0", b"release %d x 0", b"release %d 0 -1"),
    "bury": (b"bury %d", b"bury %d x", b"bury %d 0 0", b"bury %d 4294967296"),
    "touch": (b"touch ", b"touch %dx", b"touch -%d"),
    "kick": (b"kick ", b"kick x", b"kick 99999999999999999999"),
    "kick-job": (b"kick-job ", b"kick-job x", b"kick-job %d "),
    "peek": (b"peek ", b"peek x", b"peek %d %d"),
    "peek-ready": (b"peek-ready ", b"peek-readyx"),
    "peek-delayed": (b"peek-delayed ", b"peek-delayed 1"),
    "peek-buried": (b"peek-buried ", b"peek-buriedx"),
    "stats": (b"stats ", b"statsfoo", b"stats-job", b"stats-tube"),
    "stats-job": (b"stats-job ", b"stats-job x", b"stats-job %d x"),
    "stats-tube": (b"stats-tube ", b"stats-tube a b", b"stats-tube -x"),
    "list-tubes": (b"list-tubes ", b"list-tubesx"),
    "list-tube-used": (b"list-tube-used x",),
    "list-tubes-watched": (b"list-tubes-watched ", b"list-tubes-watchedx"),
    "pause-tube": (b"pause-tube ", b"pause-tube default", b"pause-tube t1 x", b"pause-tube -x 0", b"pause-tube t1 -1"),
}
_UNKNOWN = (b"", b" ", b"PUT 0 0 1 1", b"peek-", b"delete", b"put", b"touch", b"get x", b" stats", b"\xff\xfe")
# Lengths with CRLF. If a line is one byte longer than a multiple of 224, real beanstalkd reads its CR and LF into two
# buffers and then takes the next line for a part of this one.
_LONG = (224, 226, 300, 447, 448, 450, 700)


MISSING = b"missing"  # the name of a tube that never exists
_BAD = "BAD_FORMAT"
_OF_JOB = ("NOT_FOUND", _BAD)
_WAITED = ("RESERVED after a wait", "DEADLINE_SOON after a wait", "TIMED_OUT after a wait")
# Every kind of reply that can occur here. Replies for lack of memory or disk space, or in drain mode, cannot.
POSSIBLE: dict[str, tuple[str, ...]] = {
    "put": ("INSERTED", "EXPECTED_CRLF", "JOB_TOO_BIG", _BAD),
    "use": ("USING", _BAD),
    "watch": ("WATCHING", _BAD),
    "ignore": ("WATCHING", "NOT_IGNORED", _BAD),
    "reserve": ("RESERVED", "DEADLINE_SOON", *_WAITED, _BAD),
    "reserve-with-timeout": ("RESERVED", "DEADLINE_SOON", "TIMED_OUT", *_WAITED, _BAD),
    "reserve-job": ("RESERVED", *_OF_JOB),
    "delete": ("DELETED", *_OF_JOB),
    "release": ("RELEASED", *_OF_JOB),
    "bury": ("BURIED", *_OF_JOB),
    "touch": ("TOUCHED", *_OF_JOB),
    "kick": ("KICKED", _BAD),
    "kick-job": ("KICKED", *_OF_JOB),
    "peek": ("FOUND", *_OF_JOB),
    "peek-ready": ("FOUND", *_OF_JOB),
    "peek-delayed": ("FOUND", *_OF_JOB),
    "peek-buried": ("FOUND", *_OF_JOB),
    "stats": ("OK", _BAD),
    "stats-job": ("OK", *_OF_JOB),
    "stats-tube": ("OK", *_OF_JOB),
    "list-tubes": ("OK", _BAD),
    "list-tube-used": ("USING", _BAD),
    "list-tubes-watched": ("OK", _BAD),
    "pause-tube": ("PAUSED", *_OF_JOB),
    "(unknown)": ("UNKNOWN_COMMAND",),
    "(long line)": (_BAD,),
    "quit": ("(closed)",),
    "(disconnect)": ("idle", "while it waits", "with reservations", "in mid-line or mid-body"),
    "(half-close)": ("idle", "while it waits", "with reservations", "in mid-line or mid-body"),
    "(time passes)": ("delay", "ttr", "margin", "timeout", "pause"),
}


class Commands:
    """Makes commands. choice: the source of random numbers."""

    def __init__(self, choice: random.Random, state: ComparisonState) -> None:
        self._choice = choice
        self._state = state
        self._fresh = 0
        self._makers = self._table()
        # Behind a waiting reserve no command may wait, set a deadline, or name a job that is known only from the
        # reply to the reserve.
        restless = {"reserve", "reserve-with-timeout", "reserve-job", "delete", "release", "bury", "touch"}
        restless |= {"kick", "kick-job", "pause-tube"}
        self._quiet_makers = {name: maker for name, maker in self._makers.items() if name not in restless}

    def any(self, client: Client) -> Command | None:
        """Any command that this client may send now; None if the one drawn is not possible."""
        return self._make(self._makers, client)

    def quiet(self, client: Client) -> Command | None:
        """Any command that neither waits nor sets a deadline, whenever the server runs it."""
        command = self._make(self._quiet_makers, client)
        return None if command is None or command.starts else command

    def fresh_tube(self) -> bytes:
        """A tube name that was never used before."""
        self._fresh += 1
        return b"fresh-%d" % self._fresh

    def wrong_body(self) -> list[Command]:
        """A put whose body is longer than announced: EXPECTED_CRLF, and the rest is the next line."""
        body = b"%s\r\n" % self._letters(5)
        rest = self._choice.choice((b"\r\n", b"list-tube-used\r\n", b"xyz\r\n"))
        kind = "list-tube-used" if rest[0] == ord("l") else "(unknown)"
        return [Command("put", (b"put 0 0 1000 5\r\n" + body[:5] + b"zz",)), Command(kind, (rest,))]

    def _table(self) -> dict[str, tuple[float, Callable[[Client], Command | None]]]:
        plain = {"stats": 1.0, "list-tubes": 1.0, "list-tube-used": 0.5, "list-tubes-watched": 1.0}
        plain |= {"peek-ready": 1.0, "peek-delayed": 1.0, "peek-buried": 1.0}
        of_job = {"peek": 1.5, "stats-job": 2.0}
        table: dict[str, tuple[float, Callable[[Client], Command | None]]] = {
            name: (weight, self._plain(name)) for name, weight in plain.items()
        }
        table |= {name: (weight, self._of_job(name)) for name, weight in of_job.items()}
        table |= {
            "put": (9.0, self._put),
            "too big": (0.6, self._too_big),
            "use": (1.5, self._use),
            "watch": (2.0, self._watch),
            "ignore": (1.5, self._ignore),
            "reserve": (3.0, self._reserve),
            "reserve-with-timeout": (5.0, self._reserve_with_timeout),
            "reserve-job": (1.5, self._reserve_job),
            "delete": (4.0, self._delete),
            "release": (3.0, self._release),
            "bury": (2.5, self._bury),
            "touch": (1.5, self._touch),
            "kick": (2.0, self._kick),
            "kick-job": (1.5, self._kick_job),
            "pause-tube": (1.5, self._pause),
            "stats-tube": (2.0, self._stats_tube),
            "malformed": (3.5, self._malformed),
            "unknown": (1.0, self._unknown),
            "long": (0.5, self._long),
        }
        return table

    def _make(
        self, makers: dict[str, tuple[float, Callable[[Client], Command | None]]], client: Client
    ) -> Command | None:
        weights = [weight for weight, _ in makers.values()]
        _, maker = self._choice.choices(list(makers.values()), weights)[0]
        return maker(client)

    def _letters(self, count: int) -> bytes:
        return bytes(self._choice.choices(b"abcdefghij", k=count))

    def _tube(self) -> bytes:
        chance = self._choice.random()
        if chance < 0.03:
            return self.fresh_tube()
        if chance < 0.3 and self._fresh:
            return b"fresh-%d" % self._choice.randint(max(1, self._fresh - 3), self._fresh)
        return self._choice.choice(_TUBES) if chance < 0.98 else 200 * b"n"

    def _job(self, wanted: Callable[[Job], bool]) -> int:
        """The id of a job, usually a suitable one; sometimes an id that was never assigned."""
        jobs = list(self._state.jobs.values())
        suitable = [job for job in jobs if wanted(job)]
        if self._choice.random() < 0.85 and suitable:
            return self._choice.choice(suitable).id
        if self._choice.random() < 0.6 and jobs:
            return self._choice.choice(jobs).id
        return self._choice.choice((0, 1000000007, 18446744073709551615))

    def _held(self, client: Client) -> int:
        """Usually a job that this client holds; seldom one with a short ttr, so that some of these expire."""
        spare_short = self._choice.random() < 0.8
        return self._job(lambda job: job.holder == client.number and not (spare_short and job.ttr_s < SHORT_S))

    def _span(self, what: str, seconds: int) -> tuple[tuple[str, int], ...]:
        return ((what, seconds),) if 0 < seconds < SHORT_S else ()

    def _plain(self, name: str) -> Callable[[Client], Command]:
        command = Command(name, (name.encode("ascii") + b"\r\n",))
        return lambda _client: command

    def _of_job(self, name: str) -> Callable[[Client], Command]:
        start = name.encode("ascii") + b" "
        return lambda _client: Command(name, (start, self._job(lambda _job: True), b"\r\n"))

    def _put(self, _client: Client) -> Command | None:
        if len(self._state.jobs) >= MAX_JOBS:
            return None
        pri, ttr_s = self._choice.choice(_PRIORITIES), self._choice.choice(_TTRS_S)
        delay_s = self._choice.choice(_DELAYS_S)
        size = self._choice.choice((0, 1, 5, 20, 40, 300, MAX_JOB_SIZE - 1, MAX_JOB_SIZE))
        body = self._letters(size) if self._choice.random() < 0.9 else (b"\r\n\0 put" * size)[:size]
        line = b"put %d %d %d %d\r\n" % (pri, delay_s, ttr_s, size)
        starts = self._span("delay", delay_s)
        return Command("put", (line, body, b"\r\n"), delay_s=delay_s, ttr_s=ttr_s, starts=starts)

    def _too_big(self, _client: Client) -> Command:
        size = MAX_JOB_SIZE + self._choice.choice((1, 2, 500))
        end = self._choice.choice((b"\r\n", b"zz"))
        return Command("put", (b"put 0 0 1 %d\r\n" % size, self._letters(size), end))

    def _use(self, _client: Client) -> Command:
        tube = self._tube()
        return Command("use", (b"use %s\r\n" % tube,), tube=tube)

    def _watch(self, client: Client) -> Command | None:
        tube = self._tube()
        return Command("watch", (b"watch %s\r\n" % tube,), tube=tube) if len(client.watched) < 5 else None

    def _ignore(self, client: Client) -> Command:
        tube = self._choice.choice(client.watched) if self._choice.random() < 0.7 else self._tube()
        return Command("ignore", (b"ignore %s\r\n" % tube,), tube=tube)

    def _reserve(self, client: Client) -> Command | None:
        return Command("reserve", (b"reserve\r\n",), waits=True) if self._state.may_wait(client) else None

    def _reserve_with_timeout(self, client: Client) -> Command | None:
        limit_s = self._choice.choice((0, 0, 0, 1, 1, 2, 1000, 2147483647))
        if limit_s and not self._state.may_wait(client):
            return None
        text = self._choice.choice((b"%d", b"%d", b"00%d", b" %d", b"%d junk")) % limit_s
        return Command(
            "reserve-with-timeout",
            (b"reserve-with-timeout ", text, b"\r\n"),
            limit_s=limit_s,
            waits=limit_s > 0,
            starts=self._span("timeout", limit_s),
        )

    def _reserve_job(self, _client: Client) -> Command:
        job = self._job(lambda job: job.holder is None)
        return Command("reserve-job", (b"reserve-job ", job, b"\r\n"), job=job)

    def _delete(self, client: Client) -> Command:
        crowded = len(self._state.jobs) > MAX_JOBS // 2
        job = self._job(lambda job: job.holder is None) if crowded else self._held(client)
        return Command("delete", (b"delete ", job, b"\r\n"), job=job)

    def _release(self, client: Client) -> Command:
        job, pri = self._held(client), self._choice.choice(_PRIORITIES)
        delay_s = self._choice.choice(_DELAYS_S)
        pieces = (b"release ", job, b" %d %d\r\n" % (pri, delay_s))
        return Command("release", pieces, job=job, delay_s=delay_s, starts=self._span("delay", delay_s))

    def _bury(self, client: Client) -> Command:
        job = self._held(client)
        return Command("bury", (b"bury ", job, b" %d\r\n" % self._choice.choice(_PRIORITIES)), job=job)

    def _touch(self, client: Client) -> Command:
        job = self._held(client)
        known = self._state.jobs.get(job)
        starts = self._span("ttr", known.ttr_s) if known and known.holder == client.number else ()
        return Command("touch", (b"touch ", job, b"\r\n"), job=job, starts=starts)

    def _kick(self, _client: Client) -> Command:
        bound = self._choice.choice((b"0", b"1", b"1", b"2", b"3", b"10", b"2x", b"-1", b"4294967297", b" 1", b"+1"))
        return Command("kick", (b"kick %s\r\n" % bound,))

    def _kick_job(self, _client: Client) -> Command:
        job = self._job(lambda job: job.state in ("buried", "delayed"))
        return Command("kick-job", (b"kick-job ", job, b"\r\n"), job=job)

    def _pause(self, _client: Client) -> Command:
        tube = self._tube() if self._choice.random() < 0.9 else MISSING
        delay_s = self._choice.choice((0, 0, 0, 1, 1, 1, 2, 1000))
        pieces = (b"pause-tube %s %d\r\n" % (tube, delay_s),)
        return Command("pause-tube", pieces, tube=tube, delay_s=delay_s, starts=self._span("pause", delay_s))

    def _stats_tube(self, _client: Client) -> Command:
        tube = self._tube() if self._choice.random() < 0.85 else MISSING
        return Command("stats-tube", (b"stats-tube %s\r\n" % tube,), tube=tube)

    def _malformed(self, _client: Client) -> Command:
        kind = self._choice.choice(list(_MALFORMED))
        text = self._choice.choice(_MALFORMED[kind])
        pieces: list[bytes | int] = []
        for part in text.split(b"%d"):
            pieces += [part, self._job(lambda _job: True)]
        return Command(kind, (*pieces[:-1], b"\r\n"))

    def _unknown(self, _client: Client) -> Command:
        return Command("(unknown)", (self._choice.choice(_UNKNOWN) + b"\r\n",))

    def _long(self, _client: Client) -> Command:
        length = self._choice.choice(_LONG)
        return Command("(unknown)" if length <= 224 else "(long line)", ((length - 2) * b"z" + b"\r\n",))


# Pairs of a client and the command it sends; None means: let time pass until the client stops waiting.
Scenario = list[tuple[int, Command | None]]


def alone(commands: Commands, choice: random.Random, worker: Client) -> Scenario:
    """A scenario: a client waits on a tube of its own, into which others may put a job."""
    tube = commands.fresh_tube()
    limit_s = choice.choice((1, 1, 2, 1000))
    with_timeout = Command(
        "reserve-with-timeout",
        (b"reserve-with-timeout %d\r\n" % limit_s,),
        limit_s=limit_s,
        waits=True,
        starts=(("timeout", limit_s),) if limit_s < SHORT_S else (),
    )
    reserve = Command("reserve", (b"reserve\r\n",), waits=True)
    return [*_watch_only(tube, worker), (worker.number, choice.choice((reserve, with_timeout, with_timeout)))]


def soon_over(commands: Commands, choice: random.Random, worker: Client, producer: Client) -> Scenario:
    """A scenario: a client waits for another job while its reservation is about to expire."""
    tube = commands.fresh_tube()
    reserve = Command("reserve", (b"reserve\r\n",), waits=True)
    first_reserve = replace(reserve, starts=(("margin", 1), ("ttr", 2)))
    with_timeout = Command("reserve-with-timeout", (b"reserve-with-timeout 1000\r\n",), limit_s=1000, waits=True)
    return [
        *_watch_only(tube, worker),
        (producer.number, Command("use", (b"use %s\r\n" % tube,), tube=tube)),
        (producer.number, Command("put", (b"put 0 0 2 1\r\nx\r\n",), ttr_s=2)),
        (worker.number, first_reserve),
        (worker.number, choice.choice((reserve, with_timeout))),
        (worker.number, None),
    ]


def two_waiters(commands: Commands, choice: random.Random, waiting: Sequence[Client], producer: Client) -> Scenario:
    """A scenario: two clients wait on one new tube, and both get a job, in one of three ways.

    Two clients may wait on one tube only if real beanstalkd serves the first one first, as on a new tube.
    """
    tube = commands.fresh_tube()
    scenario: Scenario = []
    for client in waiting:
        scenario += _watch_only(tube, client)
    scenario.append((producer.number, Command("use", (b"use %s\r\n" % tube,), tube=tube)))
    how = choice.choice(("put", "kick", "pause"))
    delay_s = 1000 if how == "kick" else 0
    puts: Scenario = [
        (producer.number, Command("put", (b"put %d %d 1000 1\r\nx\r\n" % (pri, delay_s),), delay_s=delay_s, ttr_s=1000))
        for pri in (900, 1)
    ]
    waits: Scenario = [(client.number, Command("reserve", (b"reserve\r\n",), waits=True)) for client in waiting]
    if how == "pause":
        pauses: Scenario = [
            (producer.number, Command("pause-tube", (b"pause-tube %s %d\r\n" % (tube, d),), tube=tube, delay_s=d))
            for d in (1000, 0)
        ]
        return [*scenario, pauses[0], *waits, *puts, pauses[1]]
    if how == "kick":
        return [*scenario, *puts, *waits, (producer.number, Command("kick", (b"kick 2\r\n",)))]
    return [*scenario, *waits, *puts]


def _watch_only(tube: bytes, client: Client) -> Scenario:
    others = [Command("ignore", (b"ignore %s\r\n" % other,), tube=other) for other in client.watched]
    return [(client.number, command) for command in (Command("watch", (b"watch %s\r\n" % tube,), tube=tube), *others)]
