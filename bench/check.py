"""`python -m bench.check`: measures a few rows again and compares them with docs/performance.json; for CI.

It fails if a ratio is worse than recorded by more than a fifth, and must not fail on noise: a row that looks worse is
measured again, up to ATTEMPTS times in all, and the best median counts; if the rounds of a rate differ by more than
TOO_NOISY, the CPU time per operation is judged instead. With one processor nothing can be judged.

Ratios depend on the kind of processor: with 10,000 tubes, fastbean made 67 times beanstalkd's rate on one kind and 22
times on another. So on another kind than the recorded one, a ratio need be no better than the row's claim.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass, replace

from fastbean.daemon.privileges import raise_descriptor_limit

from .contestants import BEANSTALKD, FASTBEAN, FLOOR, LOAD_PROCESSOR, on_processor
from .heaps import HEAPQ, PRIORITY_HEAP
from .other_rows import heaps, times_as_fast
from .performance import RESULTS, ROWS, say, scratch_folder
from .results import Results, cpu, processor, rate
from .rows import Run

ROUNDS = 5
ROUND_S = 0.25
ATTEMPTS = 3
WORST = 0.8  # of the ratio that is recorded
TOO_NOISY = 2.0
NAMES = ("put-50", "take-50", "cycle-50", "put-16x100", "tubes-10000", "slow-sync-put-64", "heap-python")
HEAP = "heap-python"


@dataclass(frozen=True)
class Judged:
    """One ratio: its words, the ratio relative to the expected one (1: as good), and both ratios."""

    words: str
    kept: float
    expected: float
    found: float


def judge(series, recorded, claims, other):
    """The ratio to another server: of rates, or of CPU times if the rates are too noisy. None: not measured."""
    claim = rate(other)
    values = claim.values(series)
    if values and max(values) > TOO_NOISY * min(values):
        claim = cpu(other)
        values = claim.values(series)
    claim = next((each for each in claims if (each.measure, each.to) == (claim.measure, claim.to)), claim)
    return _compare(claim, values, claim.values(recorded), lower_is_better=claim.measure == "cpu_us")


def judge_heap(series, recorded, claims):
    """The ratio of the heap's speed to heapq's."""
    claim = times_as_fast(PRIORITY_HEAP, HEAPQ)
    claim = next((each for each in claims if each.of == HEAPQ), claim)
    return _compare(claim, claim.values(series), claim.values(recorded), lower_is_better=False)


def _compare(claim, values, recorded, lower_is_better):
    if not values or not recorded:
        return None
    found, expected = statistics.median(values), statistics.median(recorded)
    if lower_is_better:
        expected = max(expected, claim.at_most or 0)
        return Judged(claim.words, expected / found, expected, found)
    expected = min(expected, claim.at_least or expected)
    return Judged(claim.words, found / expected, expected, found)


def attempt(name, recorded, claims, missing):
    """Measures a row once; returns its ratios by the server it is compared with."""
    measure = heaps((PRIORITY_HEAP, HEAPQ), remove=False) if name == HEAP else replace(ROWS[name].measure, rounds=1)
    with scratch_folder() as folder:
        series = measure(Run(folder, ROUNDS, ROUND_S, missing))
    if name == HEAP:
        return {HEAPQ: judge_heap(series, recorded, claims)}
    return {
        other: judge(series, recorded, claims, other)
        for other in (FLOOR, BEANSTALKD)
        if other in series and FASTBEAN in series and other in recorded
    }


def check_row(name, recorded, claims, missing):
    """Whether the best attempt is as good as recorded, or as one of ``claims`` demands; prints what was measured."""
    best = {}
    for number in range(1, ATTEMPTS + 1):
        for other, judged in attempt(name, recorded, claims, missing).items():
            if judged is not None and (other not in best or judged.kept > best[other].kept):
                best[other] = judged
        if all(each.kept >= WORST for each in best.values()):
            break
        say(f"  {name}: attempt {number} of {ATTEMPTS} looks worse than expected")
    for judged in best.values():
        verdict = "ok" if judged.kept >= WORST else f"WORSE by {1 - judged.kept:.0%}"
        say(f"  {name:18}{judged.words:20}{judged.found:8.2f}   expected {judged.expected:8.2f}   {verdict}")
    return all(each.kept >= WORST for each in best.values())


def main():
    if LOAD_PROCESSOR is None:
        say("bench-check: with one processor, which server and load share, nothing can be judged: passed")
        return 0
    results = Results.load(RESULTS)
    unknown = [name for name in NAMES if name not in results.rows]
    if unknown:
        say(f"bench-check: {RESULTS.name} has no {', '.join(unknown)}; `make performance ARGS=--missing` measures them")
        return 1
    raise_descriptor_limit()
    missing = {}
    say(f"bench-check: ratios compared with {RESULTS.name}; worse by more than a fifth is a failure")
    foreign = results.machine["processor"] != processor()
    if foreign:
        say(f"  measured on another processor, {results.machine['processor']}: the claims of the rows are enough")
    with on_processor(LOAD_PROCESSOR):
        worse = [
            name
            for name in NAMES
            if not check_row(name, results.rows[name].series, ROWS[name].claims if foreign else (), missing)
        ]
    for why in missing.values():
        say(f"  {why}")
    if worse:
        say(f"bench-check: worse than expected: {', '.join(worse)}")
    return 1 if worse or (missing and os.environ.get("CI")) else 0


if __name__ == "__main__":
    sys.exit(main())
