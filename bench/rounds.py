"""Alternating rounds of the load tool, and the ratios that result.

On a shared machine, times drift. So the servers take turns (fastbean, beanstalkd, floor, and again), and each round
yields one ratio of measurements made right after each other. A ratio is shown as the median of the rounds, with the
lowest and the highest. The CPU time of the server's process is shown too: it hardly depends on what else the machine
does.

The load is fastbean's own load tool, so `python -m fastbean.benchmark --against` measures the same.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastbean.benchmark.scenarios import SCENARIOS as SCENARIOS_OF_THE_TOOL
from fastbean.benchmark.server import Target
from fastbean.benchmark.session import LeftoverError, Session, Settings

from .contestants import BEANSTALKD, BODY_BYTES, FASTBEAN, FLOOR, KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastbean.benchmark.session import Figures

    from .contestants import Contestant

ROUNDS = 5
LEAST_ROUNDS = 3
ROUND_S = 0.3
LEAST_OPERATIONS = 2_000
WARM_UP_GROWTH = 4
MAX_OPERATIONS = 500_000
LIMIT_S = 60.0


@dataclass(frozen=True)
class Scenario:
    """One of the load tool's scenarios, by its name there (`steps`), with its settings. pri None: random."""

    name: str
    steps: str
    clients: int = 50
    depth: int = 1
    body_bytes: int = BODY_BYTES
    tubes: int = 10_000
    pri: int | None = 0
    backlog: int | None = None

    @property
    def settings(self):
        """The settings for the load tool."""
        return Settings(
            clients=self.clients,
            depth=self.depth,
            body_bytes=self.body_bytes,
            tubes=self.tubes,
            pri=self.pri,
            backlog=self.backlog,
            limit_s=LIMIT_S,
        )

    def session(self, contestant):
        """A session of the load tool with one server."""
        target = Target("{}:{}".format(*contestant.address), contestant.process.pid)
        return Session(target, SCENARIOS_OF_THE_TOOL[self.steps], self.settings)


PUT_50 = Scenario("put, 50 clients", "put")
TAKE_50 = Scenario("reserve+delete, 50 clients", "take")
CYCLE_50 = Scenario("put+reserve+delete, 50 clients", "cycle")
PUT_1 = Scenario("put, 1 client", "put", clients=1)
CYCLE_1 = Scenario("put+reserve+delete, 1 client", "cycle", clients=1)
PUT_1_PIPELINED = Scenario("put, 1 client, 100 in flight", "put", clients=1, depth=100)
PUT_16_PIPELINED = Scenario("put, 16 clients, 100 in flight each", "put", clients=16, depth=100)
PUT_64 = Scenario("put, 64 clients", "put", clients=64)
CYCLE_1000 = Scenario("put+reserve+delete, 1,000 clients", "cycle", clients=1000)
SCENARIOS = (PUT_50, TAKE_50, CYCLE_50, PUT_1, CYCLE_1, PUT_1_PIPELINED, PUT_16_PIPELINED)


@dataclass(frozen=True)
class Player:
    """A server that is measured in a row, and the label of its figures."""

    label: str
    contestant: Contestant
    scenario: Scenario


@dataclass
class Table:
    """All rounds: scenario, then server, then one entry per round. missing: why a server is not in it."""

    rounds: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def lines(self):
        """The rows of the table as text."""
        yield f"{'':38}{'fastbean/beanstalkd':^22}{'fastbean/floor':^22}{'server CPU, us an operation':^32}"
        yield f"{'':38}" + 2 * f"{'median (min - max)':^22}" + "".join(f"{kind:>11}" for kind in KINDS)
        for scenario, servers in self.rounds.items():
            cells = [f"{ratio(servers, FASTBEAN, other):^22}" for other in (BEANSTALKD, FLOOR)]
            cells += [f"{cpu(servers.get(kind)):>11}" for kind in KINDS]
            yield f"{scenario:38}" + "".join(cells)
        yield from self.missing.values()


def ratio(servers, one, other):
    """Median, lowest and highest ratio of two servers' rates, round by round."""
    return ratio_of(*([each.rate for each in servers.get(kind, ())] for kind in (one, other)))


def ratio_of(mine, its):
    """Median, lowest and highest ratio of two lists of numbers."""
    return spread(ratios_of(mine, its)) if mine and its else "-"


def ratios_of(mine, its):
    """Round by round, the ratio of two lists of numbers."""
    return [one / other for one, other in zip(mine, its, strict=True)]


def spread(values, form="{:.2f}"):
    """Median, lowest and highest as text."""
    middle, low, high = (form.format(value) for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({low} - {high})"


def cpu(measured):
    """The median of the CPU time per operation."""
    return f"{statistics.median(each.cpu_us for each in measured):.2f}" if measured else "-"


def operations_of_a_round(session, least, round_s):
    """The number of operations that take round_s seconds, `least` or more; measures to find out, which warms up."""
    operations = least
    while True:
        rate = session.measure(operations, None).rate
        if operations >= rate * round_s / WARM_UP_GROWTH:
            return int(min(max(rate * round_s, least), max(MAX_OPERATIONS, least)))
        operations *= WARM_UP_GROWTH


def play_in_turn(
    players: Sequence[Player],
    rounds=ROUNDS,
    least=LEAST_OPERATIONS,
    round_s=ROUND_S,
    *,
    budget_s=None,
    kill_them=False,
):
    """Rounds in turn: for each label a list of Figures. Each round lasts about round_s seconds on every server.

    budget_s: once it is used up, no round begins but the first LEAST_ROUNDS. kill_them: kill the servers at the end;
    to empty them takes long when they are very full.
    """
    measured = {each.label: [] for each in players}
    begun_s = time.monotonic()
    with contextlib.ExitStack() as stack:
        if kill_them:
            stack.enter_context(contextlib.suppress(LeftoverError))
        sessions, operations = {}, {}
        for each in players:
            at_once = each.scenario.clients * each.scenario.depth
            sessions[each.label] = stack.enter_context(each.scenario.session(each.contestant))
            operations[each.label] = operations_of_a_round(sessions[each.label], max(least, at_once), round_s)
        for number in range(rounds):
            if budget_s is not None and number >= LEAST_ROUNDS and time.monotonic() - begun_s > budget_s:
                break
            for label, session in sessions.items():
                measured[label].append(session.measure(operations[label], None))
        if kill_them:
            for each in players:
                each.contestant.kill()
    return measured


def alternate(contestants: Sequence[Contestant], scenario, rounds=ROUNDS, least=LEAST_OPERATIONS):
    """Measures one scenario on all servers: for each kind of server a list of Figures."""
    return play_in_turn([Player(each.kind, each, scenario) for each in contestants], rounds, least)
