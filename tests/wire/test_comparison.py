"""The random comparison of fastbean with real beanstalkd, and the tests of the comparison itself.

Two real beanstalkds must agree with each other: the comparison finds no false differences. And it must find whatever is
falsified on one side.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from builds import fewer_if_slow

from .comparison import Comparison, Outcome
from .paired_servers import DifferenceError
from .servers import BEANSTALKD, FASTBEAN

SEEDS = (1, 2, 3)
MORE_SEEDS = range(101, 110)
FEW_STEPS = fewer_if_slow(3000, 1000)
MANY_STEPS = 20000

pytestmark = pytest.mark.usefixtures("needs_beanstalkd")


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_fastbean_answers_as_beanstalkd_does(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Comparison((BEANSTALKD, FASTBEAN), seed).run(MANY_STEPS)
    with capsys.disabled():
        sys.stdout.write(f"\nseed {seed}:\n{outcome.table()}\n")
    assert outcome.steps == MANY_STEPS
    assert outcome.never() == []


def test_fastbean_answers_as_beanstalkd_does_in_fewer_steps(capsys: pytest.CaptureFixture[str]) -> None:
    whole = Outcome()
    # So few steps may miss something rare; then there are a few more.
    for seed in (*SEEDS, *MORE_SEEDS):
        if seed in MORE_SEEDS and not whole.never():
            break
        outcome = Comparison((BEANSTALKD, FASTBEAN), seed).run(FEW_STEPS)
        whole.steps += outcome.steps
        whole.stalls += outcome.stalls
        whole.counts += outcome.counts
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(whole.table().splitlines()[-2:]) + "\n")
    assert whole.steps >= FEW_STEPS * len(SEEDS)
    assert whole.never() == []


@pytest.mark.real_beanstalkd
def test_two_beanstalkds_agree() -> None:
    outcome = Comparison((BEANSTALKD, BEANSTALKD), seed=4).run(2000)
    assert outcome.steps == 2000
    assert sum(outcome.counts.values()) > 2000


def _other(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda said: said.replace(old, new)


FALSE = {
    "a word": _other(b"TOUCHED", b"NOT_FOUND"),
    "a count": _other(b"KICKED 1", b"KICKED 2"),
    "a rare word": _other(b"DEADLINE_SOON", b"TIMED_OUT"),
    "an id": _other(b"RESERVED 7 ", b"RESERVED 8 "),
    "a body": _other(b"aa", b"ab"),
    "a figure of a job": _other(b"\ntimeouts: 1\n", b"\ntimeouts: 0\n"),
    "a figure of a tube": _other(b"\npause: 1\n", b"\npause: 0\n"),
    "a figure of the server": _other(b"\ncurrent-waiting: 1\n", b"\ncurrent-waiting: 0\n"),
    "the name of a key": _other(b"job-timeouts", b"jobs-timeouts"),
    "the order of tubes": _other(b"- default\n- t1\n", b"- t1\n- default\n"),
}


@pytest.mark.real_beanstalkd
@pytest.mark.parametrize("what", list(FALSE))
def test_what_one_side_says_wrongly_is_found(what: str) -> None:
    comparison = Comparison((BEANSTALKD, BEANSTALKD), seed=5, alter=FALSE[what])
    with pytest.raises(DifferenceError, match="The steps before it"):
        comparison.run(MANY_STEPS)


@pytest.mark.real_beanstalkd
def test_a_server_that_behaves_otherwise_is_found() -> None:
    comparison = Comparison((BEANSTALKD, BEANSTALKD), seed=6, right_flags=["-z", "900"])
    with pytest.raises(DifferenceError, match="The steps before it"):
        comparison.run(MANY_STEPS)
