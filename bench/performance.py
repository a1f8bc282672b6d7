"""`python -m bench.performance`: measures everything in docs/performance.md, and writes that page and its plots.

Each row is saved in the JSON file as soon as it is measured, so --missing resumes an interrupted run, and --row
measures one row again. Rows of different machines do not belong on one page: on another machine, measure all rows.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

from fastbean.daemon.privileges import raise_descriptor_limit

from .connection_rows import PROGRAM_ROWS, SERVER_ROWS
from .contestants import LOAD_PROCESSOR, on_processor
from .other_rows import HEAP_ROWS, OTHER_ROWS
from .results import Measured, Results, machine, today
from .rounds import ROUNDS
from .rows import Run

ROWS = {row.name: row for row in (*SERVER_ROWS, *OTHER_ROWS, *PROGRAM_ROWS, *HEAP_ROWS)}
ROUND_S = 0.5
DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "performance.json"
SCRATCH = Path(__file__).parents[1] / "build"
SAME_MACHINE = ("processor", "cores", "memory")


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


@contextlib.contextmanager
def scratch_folder():
    """A folder for servers and binlogs, on the disk of this checkout: the temporary folder may be in memory."""
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="performance-", dir=SCRATCH) as folder:
        yield Path(folder)


def measure(row, folder, rounds, round_s):
    """Measures one row; prints why servers are missing."""
    run = Run(folder, rounds, round_s)
    with on_processor(None if row.everywhere else LOAD_PROCESSOR):
        series = row.measure(run)
    for why in run.missing.values():
        say(f"  {why}")
    return Measured(today(), rounds, round_s, series, run.notes)


def measure_all(rows, results, folder, rounds, round_s):
    """Measures the rows one after the other; saves each at once."""
    for number, row in enumerate(rows, 1):
        say(f"{number}/{len(rows)}  {row.name}: {row.title}")
        begun_s = time.monotonic()
        results.keep(row.name, measure(row, folder, rounds, round_s))
        found = results.rows[row.name].series
        for claim in row.claims:
            verdict = {True: "reached", False: "missed", None: ""}[claim.reached(found)]
            say(f"  {claim.words:42}{claim.text(found):26}{claim.bound():10}{verdict}".rstrip())
        say(f"  {time.monotonic() - begun_s:.0f} s")


def chosen(arguments, results):
    """The rows to measure, and the results to add them to: empty ones if all rows are measured."""
    here = _machine_here()
    if arguments.page:
        return [], results
    if not (arguments.row or arguments.missing):
        return list(ROWS.values()), Results(results.path, here)
    if results.rows and any(results.machine[name] != here[name] for name in SAME_MACHINE):
        raise SystemExit(
            f"{results.path.name} was measured on another machine ({results.machine['processor']}); "
            "measure all rows here (no --row, no --missing), or name another file with --results"
        )
    results.machine = here
    if arguments.row:
        return [ROWS[name] for name in arguments.row], results
    return [row for row in ROWS.values() if row.name not in results.rows], results


def _machine_here():
    with scratch_folder() as folder:
        return machine(folder)


def read_arguments(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench.performance",
        description="Measure the rows of docs/performance.md, and write it. Servers are started and stopped.",
        epilog="rows:\n" + "\n".join(f"  {row.name:20}{row.title}" for row in ROWS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--row", action="append", choices=list(ROWS), metavar="NAME", help="this row alone; repeatable")
    which.add_argument("--missing", action="store_true", help="the rows that are not in the file yet")
    which.add_argument("--page", action="store_true", help="measure nothing, write the page from the file")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"alternating rounds of a row; default {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=ROUND_S, help=f"of a round; default {ROUND_S}")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="the JSON file; the page is written to the same folder"
    )
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or arguments.seconds <= 0:
        parser.error("--rounds is at least 1, and --seconds above 0")
    return arguments


def main(argv=None):
    from .page import write_page  # needs matplotlib, which `make` installs for the benches only

    arguments = read_arguments(argv)
    raise_descriptor_limit()
    rows, results = chosen(arguments, Results.load(arguments.results))
    try:
        with scratch_folder() as folder:
            measure_all(rows, results, folder, arguments.rounds, arguments.seconds)
    except KeyboardInterrupt:
        say("\nstopped; --missing measures the rows that are still missing")
        return 130
    finally:
        if results.rows:
            say(f"wrote {write_page(results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
