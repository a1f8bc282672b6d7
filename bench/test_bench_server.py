"""fastbean beside beanstalkd and the floor, over sockets: the rates, and the ratios of alternating rounds.

The first test fills pytest-benchmark's table, a group for each scenario; the second one the table of ratios, which is
the one to believe.
"""

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from fastbean.benchmark.load import Load, run

from .contestants import BODY_BYTES, KINDS
from .rounds import ROUNDS, SCENARIOS, alternate

OPERATIONS = {1: 4_000, 100: 20_000}  # of a round, by the depth
UNTIMED_DEPTH = 100


def play_untimed(server, steps, operations):
    """Puts the jobs that a round takes, or takes those that it left."""
    run(server.address, steps, depth=UNTIMED_DEPTH, operations=operations, body_bytes=BODY_BYTES)


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "scenario",
    [pytest.param(each, id=each.name, marks=pytest.mark.benchmark(group=each.name)) for each in SCENARIOS],
)
def test_rates(benchmark, contestants, table, scenario, kind):
    if kind in table.missing:
        pytest.skip(table.missing[kind])
    server, operations = contestants[kind], OPERATIONS[scenario.depth]
    with Load(
        server.address, scenario.steps, clients=scenario.clients, depth=scenario.depth, body_bytes=BODY_BYTES
    ) as load:
        result = benchmark.pedantic(
            lambda: load.run(operations),
            setup=lambda: play_untimed(server, "put", operations) if scenario.steps == "take" else None,
            teardown=lambda: play_untimed(server, "take", operations) if scenario.steps == "put" else None,
            rounds=5,
            warmup_rounds=1,
        )
    assert result.operations == operations


@pytest.mark.usefixtures("own_processor")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_alternating_rounds(contestants, table, scenario):
    table.rounds[scenario.name] = alternate(list(contestants.values()), scenario)
    assert {kind: len(rounds) for kind, rounds in table.rounds[scenario.name].items()} == dict.fromkeys(
        contestants, ROUNDS
    )
