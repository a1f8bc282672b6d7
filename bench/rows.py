"""The rows of docs/performance.md that the load tool measures, with their targets.

A row's `measure` takes a Run and returns its series. Each row starts its own servers and stops them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from .binlog_tools import servers
from .contestants import BEANSTALKD, FASTBEAN, FLOOR, KINDS, running, start
from .results import Claim, cpu, of_figures, rate
from .rounds import (
    CYCLE_1,
    CYCLE_50,
    CYCLE_1000,
    LEAST_OPERATIONS,
    PUT_1,
    PUT_1_PIPELINED,
    PUT_16_PIPELINED,
    PUT_50,
    PUT_64,
    TAKE_50,
    Player,
    Scenario,
    play_in_turn,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .results import Series

PAIR = (FASTBEAN, BEANSTALKD)
SYNC_ROUNDS = 3  # times as many rounds: those of a disk that others use too differ widely
SYNC_LEAST = 128
JOBS = 1_000_000
LARGE_BODY_BYTES = 60_000
LARGE_OPERATIONS = 1_000
FEW_TUBES, MANY_TUBES = 10, 100_000
LABEL_FEW, LABEL_MANY = "10 tubes", "100,000 tubes"


@dataclass
class Run:
    """How much is measured: rounds, and seconds of each. missing: why a server cannot take part.

    budget_s: seconds for one row, as for play_in_turn.
    """

    folder: Path
    rounds: int
    round_s: float
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    budget_s: float | None = None


@dataclass(frozen=True)
class Row:
    """One row. name: on the command line and in the file. fork: the ratio of the fastest C fork known, as text.

    fork_range: the same as numbers, for the plot. required: it must reach its target. everywhere: it needs all
    processors, not only the load's.
    """

    name: str
    title: str
    measure: Callable[[Run], Series]
    claims: tuple[Claim, ...]
    fork: str = ""
    fork_range: tuple[float, float] | None = None
    required: bool = False
    everywhere: bool = False


@dataclass(frozen=True)
class Played:
    """Measures a scenario of the load tool. flags: for servers with a binlog; None: without one.

    sync_us: the shortest time of a sync. least: the fewest operations of a round. rounds: a factor on the rounds.
    kill_them: as for play_in_turn.
    """

    scenario: Scenario
    kinds: tuple[str, ...] = KINDS
    flags: tuple[str, ...] | None = None
    sync_us: int = 0
    least: int = LEAST_OPERATIONS
    rounds: int = 1
    kill_them: bool = False

    def __call__(self, run):
        with self._servers(run) as started:
            players = [Player(kind, each, self.scenario) for kind, each in started.items()]
            rounds = run.rounds * self.rounds
            return of_figures(
                play_in_turn(
                    players,
                    rounds,
                    least=self.least,
                    round_s=run.round_s,
                    budget_s=run.budget_s,
                    kill_them=self.kill_them,
                )
            )

    def _servers(self, run):
        if self.flags is None:
            return running(self.kinds, run.folder, run.missing)
        return servers(run.folder, run.missing, self.flags, self.sync_us, self.kinds)


def compare_numbers_of_tubes(run):
    """Measures the same operation on a server with few tubes and on one with many."""
    with contextlib.ExitStack() as stack:
        players = []
        for label, tubes in ((LABEL_FEW, FEW_TUBES), (LABEL_MANY, MANY_TUBES)):
            server = start(FASTBEAN, run.folder)
            stack.callback(server.stop)
            players.append(Player(label, server, replace(TUBES, tubes=tubes)))
        series = of_figures(play_in_turn(players, run.rounds, round_s=run.round_s))
    for figures in series.values():
        figures["us"] = [1e6 / each for each in figures["rate"]]
    return series


TUBES = Scenario("use+put in 10,000 tubes", "tubes")
PRIORITIES = Scenario("take from 1,000,000", "priorities", pri=None, backlog=JOBS)
LARGE_PUT = Scenario("put 60 KB", "put", body_bytes=LARGE_BODY_BYTES)
LARGE_TAKE = Scenario("take 60 KB", "take", body_bytes=LARGE_BODY_BYTES)
STATS = Scenario("stats", "stats")

CLOSED = (rate(FLOOR, 0.90), rate(BEANSTALKD, 1.28), cpu(FLOOR, 1.15))
SYNC = {"flags": ("-f", "0"), "least": SYNC_LEAST, "rounds": SYNC_ROUNDS}

PLAYED_ROWS = (
    Row("put-50", "50 clients: put", Played(PUT_50), CLOSED, "1.20", (1.20, 1.20), required=True),
    Row("take-50", "50 clients: reserve, delete", Played(TAKE_50), CLOSED, "1.19 - 1.37", (1.19, 1.37), required=True),
    Row(
        "cycle-50",
        "50 clients: put, reserve, delete",
        Played(CYCLE_50),
        CLOSED,
        "1.34 - 1.43",
        (1.34, 1.43),
        required=True,
    ),
    Row("put-1", "1 client: put", Played(PUT_1), (rate(BEANSTALKD, 0.97),), "1.13", (1.13, 1.13)),
    Row("cycle-1", "1 client: put, reserve, delete", Played(CYCLE_1), (rate(BEANSTALKD, 0.97),), "1.13", (1.13, 1.13)),
    Row(
        "put-1x100",
        "1 client, 100 puts in flight",
        Played(PUT_1_PIPELINED),
        (rate(BEANSTALKD, 7.5), rate(FLOOR)),
        "1.5",
        (1.5, 1.5),
        required=True,
    ),
    Row(
        "put-16x100",
        "16 clients, 100 puts in flight each",
        Played(PUT_16_PIPELINED),
        (rate(BEANSTALKD, 15), rate(FLOOR)),
        "1.6",
        (1.6, 1.6),
        required=True,
    ),
    Row(
        "cycle-1000",
        "1,000 clients: put, reserve, delete",
        Played(CYCLE_1000, least=10_000),
        (rate(BEANSTALKD, 1.28), rate(FLOOR)),
        "1.46",
        (1.46, 1.46),
    ),
    Row(
        "sync-put-64",
        "`-b -f 0`, 64 clients: put",
        Played(PUT_64, **SYNC),
        (rate(BEANSTALKD, 12), Claim("floor without a binlog / beanstalkd", "rate", FLOOR, BEANSTALKD)),
        "11.4",
        (11.4, 11.4),
        required=True,
    ),
    Row(
        "sync-put-1",
        "`-b -f 0`, 1 client: put",
        Played(PUT_1, PAIR, **SYNC),
        (rate(BEANSTALKD, 0.97),),
        "1.04",
        (1.04, 1.04),
        required=True,
    ),
    Row(
        "slow-sync-put-64",
        "`-b -f 0`, 64 clients: put, each sync takes 1 ms or more",
        Played(PUT_64, PAIR, ("-f", "0"), sync_us=1000, least=SYNC_LEAST),
        (rate(BEANSTALKD),),
    ),
    Row(
        "binlog-cycle-50",
        "`-b -f 50`, 50 clients: put, reserve, delete",
        Played(CYCLE_50, PAIR, ("-f", "50")),
        (rate(BEANSTALKD, 1.3),),
        "1.49",
        (1.49, 1.49),
    ),
    Row(
        "binlog-put-16x100",
        "`-b -f 50`, 16 clients, 100 puts in flight each",
        Played(PUT_16_PIPELINED, PAIR, ("-f", "50")),
        (rate(BEANSTALKD, 10),),
        "1.7",
        (1.7, 1.7),
    ),
    Row(
        "tubes-10000",
        "50 clients: use one of 10,000 tubes, put",
        Played(TUBES, PAIR),
        (rate(BEANSTALKD, 10),),
        "12.3",
        (12.3, 12.3),
        required=True,
    ),
    Row(
        "tubes-100000",
        "50 clients: use one of 100,000 tubes, put; compared with 10 tubes",
        compare_numbers_of_tubes,
        (
            Claim("time, 100,000 / 10 tubes", "us", LABEL_MANY, LABEL_FEW, at_most=1.3),
            Claim("CPU, 100,000 / 10 tubes", "cpu_us", LABEL_MANY, LABEL_FEW, at_most=1.3),
        ),
        required=True,
    ),
    Row(
        "priorities-1m",
        "50 clients: reserve, delete, from 1,000,000 jobs of random priority",
        Played(PRIORITIES, PAIR, least=20_000, kill_them=True),
        (rate(BEANSTALKD, 1.25),),
        "1.2",
        (1.2, 1.2),
    ),
    Row(
        "put-60k",
        "50 clients: put, bodies of 60 KB",
        Played(LARGE_PUT, PAIR, least=LARGE_OPERATIONS),
        (rate(BEANSTALKD, 1.3),),
        "1.06",
        (1.06, 1.06),
    ),
    Row(
        "take-60k",
        "50 clients: reserve, delete, bodies of 60 KB",
        Played(LARGE_TAKE, PAIR, least=LARGE_OPERATIONS),
        (rate(BEANSTALKD, 1.1),),
        "1.06",
        (1.06, 1.06),
    ),
    Row("stats", "50 clients: stats", Played(STATS, PAIR), (rate(BEANSTALKD, 2),), "2.3 - 2.8", (2.3, 2.8)),
)
