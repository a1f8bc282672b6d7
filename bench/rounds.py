"""Alternating rounds and what comes of them: ratios with their spread.

Times on a shared machine mean little, and drift; so the servers take turns, fastbean, beanstalkd, floor, and again,
and each round gives one ratio of neighbours in time. A ratio is told as the median of the rounds, with the lowest and
the highest. The CPU time that the server itself used is told too: it hardly depends on what else the machine does.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from fastbean._benchmark import cpu_ns, run

from .contestants import BEANSTALKD, BODY_BYTES, FASTBEAN, FLOOR, KINDS

ROUNDS = 5
ROUND_S = 0.3
WARM_UP_OPERATIONS = 2_000
WARM_UP_GROWTH = 4
MAX_OPERATIONS = 500_000
UNTIMED_DEPTH = 100


@dataclass(frozen=True)
class Scenario:
    """What is measured. commands: requests of one operation. operations: of one round in pytest-benchmark's table."""

    name: str
    steps: str
    clients: int
    depth: int
    operations: int


SCENARIOS = (
    Scenario("put, 50 clients", "put", 50, 1, 10_000),
    Scenario("reserve+delete, 50 clients", "take", 50, 1, 5_000),
    Scenario("put+reserve+delete, 50 clients", "cycle", 50, 1, 4_000),
    Scenario("put, 1 client", "put", 1, 1, 4_000),
    Scenario("put, 1 client, 100 in flight", "put", 1, 100, 20_000),
    Scenario("put, 16 clients, 100 in flight each", "put", 16, 100, 20_000),
)


@dataclass(frozen=True)
class Measured:
    """One round of one server."""

    rate: float
    cpu_us: float


@dataclass
class Table:
    """All rounds: scenario, then server, then one entry a round. missing: why a server is not in it."""

    rounds: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)
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
    if not mine or not its:
        return "-"
    ratios = [one / other for one, other in zip(mine, its, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f})"


def cpu(measured):
    """The median of the CPU time an operation."""
    return f"{statistics.median(each.cpu_us for each in measured):.2f}" if measured else "-"


def prepare(contestant, scenario, operations):
    """Before a round, untimed: the jobs that it takes."""
    if scenario.steps == "take":
        run(contestant.address, "put", depth=UNTIMED_DEPTH, operations=operations, body_bytes=BODY_BYTES)


def tidy(contestant, scenario, operations):
    """After a round, untimed: the jobs that it left, so that every round starts with an empty server."""
    if scenario.steps == "put":
        run(contestant.address, "take", depth=UNTIMED_DEPTH, operations=operations, body_bytes=BODY_BYTES)


def measure(contestant, scenario, operations):
    """One round: how fast, and how much CPU time the server used."""
    prepare(contestant, scenario, operations)
    before_ns = cpu_ns(contestant.process.pid)
    result = run(
        contestant.address,
        scenario.steps,
        clients=scenario.clients,
        depth=scenario.depth,
        operations=operations,
        body_bytes=BODY_BYTES,
    )
    used_ns = cpu_ns(contestant.process.pid) - before_ns
    tidy(contestant, scenario, operations)
    return Measured(result.rate, used_ns / 1000 / operations)


def operations_of_a_round(contestant, scenario, least):
    """How many operations take ROUND_S seconds, and `least` at least; runs them for a while to find out."""
    operations = max(least, scenario.clients * scenario.depth)
    while True:
        rate = measure(contestant, scenario, operations).rate
        if operations >= rate * ROUND_S / WARM_UP_GROWTH:
            return int(min(max(rate * ROUND_S, operations), MAX_OPERATIONS))
        operations *= WARM_UP_GROWTH


def alternate(contestants, scenario, rounds=ROUNDS, least=WARM_UP_OPERATIONS):
    """Rounds in turn: for each server a list of Measured. Each round lasts about ROUND_S seconds on every server."""
    operations = {each.kind: operations_of_a_round(each, scenario, least) for each in contestants}
    measured = {each.kind: [] for each in contestants}
    for _ in range(rounds):
        for each in contestants:
            measured[each.kind].append(measure(each, scenario, operations[each.kind]))
    return measured
