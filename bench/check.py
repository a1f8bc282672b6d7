"""`python -m bench.check`: a few rows again, against the ratios that docs/performance.json has; for CI.

A ratio that is more than a fifth worse than recorded is a failure. It must not fail on noise: a row that looks worse is
measured again, up to ATTEMPTS times, and the best median counts; where the rounds of a rate differ by more than
TOO_NOISY, the CPU time for an operation is judged instead. With one processor nothing can be judged.
"""

from __future__ import annotations

import os
import statistics
import sys
from dataclasses import dataclass, replace

from fastbean.daemon.privileges import raise_descriptor_limit

from .contestants import BEANSTALKD, FASTBEAN, FLOOR, LOAD_PROCESSOR, on_processor
from .heaps import HEAPQ, PRIORITY_HEAP
from .other_rows import HEAP_ROWS, heaps
from .performance import RESULTS, ROWS, say, scratch_folder
from .results import Results, cpu, rate
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
    """One ratio: its words, the share of the recorded one that was kept (1: as good), and what it was judged by."""

    words: str
    kept: float
    recorded: float
    found: float


def judge(series, recorded, other):
    """The ratio to another server, by the rate, or by CPU time where the rate is too noisy; None: not measured."""
    claim = rate(other)
    values = claim.values(series)
    if values and max(values) > TOO_NOISY * min(values):
        claim = cpu(other)
        values = claim.values(series)
    return _compare(claim, values, claim.values(recorded), lower_is_better=claim.measure == "cpu_us")


def judge_heap(series, recorded):
    """The heap's speed beside heapq's."""
    claim = next(each for row in HEAP_ROWS if row.name == HEAP for each in row.claims if each.of == HEAPQ)
    return _compare(claim, claim.values(series), claim.values(recorded), lower_is_better=False)


def _compare(claim, values, recorded, lower_is_better):
    if not values or not recorded:
        return None
    found, before = statistics.median(values), statistics.median(recorded)
    return Judged(claim.words, before / found if lower_is_better else found / before, before, found)


def attempt(name, recorded, missing):
    """Measures a row once; its judged ratios by the server that it is compared with."""
    measure = heaps((PRIORITY_HEAP, HEAPQ), remove=False) if name == HEAP else replace(ROWS[name].measure, rounds=1)
    with scratch_folder() as folder:
        series = measure(Run(folder, ROUNDS, ROUND_S, missing))
    if name == HEAP:
        return {HEAPQ: judge_heap(series, recorded)}
    return {
        other: judge(series, recorded, other)
        for other in (FLOOR, BEANSTALKD)
        if other in series and FASTBEAN in series and other in recorded
    }


def check_row(name, recorded, missing):
    """Whether the row is as good as recorded, by the best of some attempts; says what was found."""
    best = {}
    for number in range(1, ATTEMPTS + 1):
        for other, judged in attempt(name, recorded, missing).items():
            if judged is not None and (other not in best or judged.kept > best[other].kept):
                best[other] = judged
        if all(each.kept >= WORST for each in best.values()):
            break
        say(f"  {name}: attempt {number} of {ATTEMPTS} looks worse than recorded")
    for judged in best.values():
        verdict = "ok" if judged.kept >= WORST else f"WORSE by {1 - judged.kept:.0%}"
        say(f"  {name:18}{judged.words:20}{judged.found:8.2f}   recorded {judged.recorded:8.2f}   {verdict}")
    return all(each.kept >= WORST for each in best.values())


def main():
    if LOAD_PROCESSOR is None:
        say("bench-check: with one processor, server and load take it from each other: nothing can be judged, passed")
        return 0
    results = Results.load(RESULTS)
    unknown = [name for name in NAMES if name not in results.rows]
    if unknown:
        say(f"bench-check: {RESULTS.name} has no {', '.join(unknown)}; `make performance ARGS=--missing` measures them")
        return 1
    raise_descriptor_limit()
    missing = {}
    say(f"bench-check: ratios beside those of {RESULTS.name}; more than a fifth worse is a failure")
    with on_processor(LOAD_PROCESSOR):
        worse = [name for name in NAMES if not check_row(name, results.rows[name].series, missing)]
    for why in missing.values():
        say(f"  {why}")
    if worse:
        say(f"bench-check: worse than recorded: {', '.join(worse)}")
    return 1 if worse or (missing and os.environ.get("CI")) else 0


if __name__ == "__main__":
    sys.exit(main())
