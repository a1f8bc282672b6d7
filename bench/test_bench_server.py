"""fastbean beside beanstalkd over sockets: the rows that people ask for, and, marked long, all of them with the floor.

The servers of a row run at the same time and are measured in turn. pytest-benchmark gets the times that the load tool
measured, one operation's average for each round, so its tables and files have both servers.
"""

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from dataclasses import replace

from .connection_rows import SERVER_ROWS
from .contestants import is_installed
from .rounds import ROUNDS, SCENARIOS, alternate
from .rows import PAIR, Run

MOST_ROUNDS = 9
ROUND_S = 0.25
BUDGET_S = 6.0  # for a row, which has at least three rounds
LEAST_OPERATIONS = 100  # of a round: a busy machine takes its time for each
NAMES = (
    "put-1",
    "cycle-1",
    "put-50",
    "take-50",
    "cycle-50",
    "cycle-1000",
    "put-1x100",
    "put-16x100",
    "put-60k",
    "put-60k-growing",
    "visits",
    "visits-burst",
    "workers-visits",
    "binlog-cycle-50",
    "sync-put-1",
    "sync-put-64",
)
ROWS = {row.name: row for row in SERVER_ROWS}
HERE = [kind for kind in PAIR if is_installed(kind)]


class LoadClock:
    """The clock that pytest-benchmark reads here: it shows the seconds that the load tool has measured."""

    def __init__(self):
        self._seconds = 0.0

    def __call__(self):
        return self._seconds

    def advance(self, seconds):
        self._seconds += seconds


CLOCK = LoadClock()


@pytest.fixture(scope="module")
def series_of(tmp_path_factory, summary):
    """Measures a row on all servers when it is first asked for; returns its series."""
    measured = {}

    def measure(row):
        if row.name not in measured:
            run = Run(tmp_path_factory.mktemp(row.name), MOST_ROUNDS, ROUND_S, budget_s=BUDGET_S)
            measured[row.name] = replace(row.measure, kinds=tuple(HERE), rounds=1, least=LEAST_OPERATIONS)(run)
            summary.rows[row.title] = measured[row.name]
        return measured[row.name]

    return measure


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(
            ROWS[name],
            kind,
            id=f"{name}-{kind}",
            marks=pytest.mark.benchmark(group=ROWS[name].title.replace("`", ""), timer=CLOCK),
        )
        for name in NAMES
        for kind in HERE
    ],
)
def test_rates(benchmark, series_of, row, kind):
    rates = series_of(row)[kind]["rate"]
    seconds = iter([1 / rate for rate in rates])
    benchmark.pedantic(lambda: CLOCK.advance(next(seconds)), rounds=len(rates))
    assert min(rates) > 0


@pytest.mark.long
@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_alternating_rounds(contestants, table, scenario):
    table.rounds[scenario.name] = alternate(list(contestants.values()), scenario)
    assert {kind: len(rounds) for kind, rounds in table.rounds[scenario.name].items()} == dict.fromkeys(
        contestants, ROUNDS
    )
