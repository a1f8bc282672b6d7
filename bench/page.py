"""Writes docs/performance.md from the results: the tables, and the plots beside it."""

from __future__ import annotations

import statistics

from .connection_rows import PROGRAM_ROWS, SERVER_ROWS
from .contestants import KINDS
from .other_rows import HEAP_ROWS, OTHER_ROWS
from .plots import draw_all
from .rounds import ROUNDS

FULL_ROUND_S = 0.3

INTRODUCTION = """\
# Performance

`make performance` measures everything on this page in about fifteen minutes and writes the page and its plots;
[performance.json](performance.json) has every round. Do not edit the page: `bench/page.py` generates it. To compare
fastbean with beanstalkd on your own machine in less than three minutes, run `make bench`.
"""

HOW = """\
## How the numbers are measured

- **Ratios, not rates.** On a shared machine, times drift by a factor of two within minutes. So the servers take turns
  (fastbean, beanstalkd, floor, and again) for half a second each, and every round yields one ratio of measurements made
  right after each other. The tables show the median of the rounds, with the lowest and the highest in brackets.
- **Separate cores.** All servers run on one core, and the load tool on another.
- **The load** comes from the tool that is part of fastbean, [`fastbean benchmark`](benchmark.md), in a closed
  loop. Bodies have 64 bytes unless the row says otherwise. Each row begins with an unmeasured warm-up. Jobs that are
  put beforehand or deleted afterwards are not timed.
- **Short connections** come from `bench/clients.c`. Each client connects, uses a tube, puts a job, quits and waits for
  the end of its connection, one request after the other. The kernel makes the client pay as much for a connection as
  the server, so the rate is as much the client's: trust the CPU time. In the row "at once" the server is stopped while
  the clients connect and send all their requests, and only the time after it continues counts: that is the server's.
- **Into a new server**: each round starts one, so every body takes memory that the server did not have before.
- **A program that computes**: `bench/embedded.py`, an embedded server on the same processor as the computing thread,
  or as another process that computes the same.
- **A client that asks** beside slow syncs sends `list-tube-used` every half a millisecond for three seconds; its
  longest wait counts. Meanwhile another client has 500 puts in flight.
- **beanstalkd** is Debian's build, as installed, with the same flags as fastbean.
- **The floor** is `bench/floor.c`: a bare epoll server in C that finds the lines, skips the bodies, sends canned
  replies and stores nothing. No correct server can cost less.
- **CPU** is the user and system time that the server's process used for each operation. It hardly depends on what else
  the machine does: where the brackets of a rate are wide, trust the CPU time.
- **The fastest C fork known** is antikirra's fork of beanstalkd. Its numbers were measured elsewhere in the same way,
  as ratios to beanstalkd; this measurement does not run it.
- With a binlog, both servers write to the same disk, into empty directories. Disks that others use too make the rounds
  differ widely, so rows with `-f 0` have three times as many. In the row "each sync takes 1 ms or more", a library
  preloaded into both servers makes fsync and fdatasync take at least a millisecond, as on a slower disk. The faster a
  disk syncs, the less a server gains by sharing syncs; the row "floor without a binlog / beanstalkd" shows the ratio of
  a server whose syncs, binlog and jobs cost nothing at all.
- A **restart** is timed from the start of the process to its first reply. The server was killed before, and its binlog
  is in the page cache.
- **Memory** is the resident set of the whole process.
- A **longest wait** is that of one client that puts, reserves and deletes in a closed loop while the long command runs.
  It includes every moment in which the machine gave the core to another process; the row below it shows how long that
  is on a server that has nothing else to do.

`make performance ARGS='--row put-50 --row idle'` measures those rows again and keeps the others, `ARGS=--missing`
resumes an interrupted run, and `ARGS=--help` lists all options. `make bench-check` is the short run of continuous
integration, described below.
"""

REACHED = """\
Each number is fastbean's, divided by that of the server named in the second column. Rows in bold must reach their
target; the others may miss it by a tenth.
"""

HEAP = """\
`fastbean.heap` ([cimport.md](cimport.md)) compared with heapq on (priority, counter, item) tuples, sortedcontainers,
pqdict (a heapdict) and C++'s std::priority_queue. Of these only sortedcontainers and pqdict can remove from the middle.
Each number is the other library's time divided by the heap's.
"""

FIGURES = """\
Medians of the rounds: operations per second, CPU time of the server per operation, and the 99th percentile of the
latency of a request. Compare numbers within a row only.
"""

CHECK = """\
## The short run

`make bench-check` takes less than two minutes. It measures a few rows again, compares their ratios with those in
performance.json, and fails if one is worse by more than a fifth. It allows for a noisy machine with two cores:

- A row that looks worse is measured again, up to three times in all, and the best median counts.
- If the rounds of a rate differ by more than a factor of two, the CPU time per operation is compared instead.
- Ratios depend on the kind of processor. On another kind than the one above, no more than the claim of a row is
  expected.
- On a machine with one core nothing can be compared: the check says so, and passes.
"""


def write_page(results):
    """Writes the page and the plots beside the results' file; returns the page's path."""
    plots = draw_all(results)
    path = results.path.with_suffix(".md")
    parts = [INTRODUCTION, *_short_run(results), *_machine(results), _targets_and_results(results), *plots, HOW]
    parts += [_figures(results), CHECK]
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _short_run(results):
    short = [row for row in results.rows.values() if row.rounds < ROUNDS or row.round_s < FULL_ROUND_S]
    missing = [row.name for row in _rows() if row.name not in results.rows]
    if short:
        dates = ", ".join(sorted({row.date for row in short}))
        yield (
            f"**A short run** ({dates}; from {min(row.rounds for row in short)} rounds of "
            f"{min(row.round_s for row in short):g} s) measured {len(short)} of the {len(results.rows)} rows: it shows "
            "that everything works, and its numbers say little.\n"
        )
    if missing:
        yield f"**Not measured yet:** {', '.join(missing)}.\n"


def _rows():
    return (*SERVER_ROWS, *OTHER_ROWS, *PROGRAM_ROWS, *HEAP_ROWS)


def _machine(results):
    dates = sorted({row.date for row in results.rows.values()})
    yield "## The machine\n"
    yield _table(["", ""], results.machine.items())
    yield f"Measured on {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "") + ".\n"


def _targets_and_results(results):
    head = ["scenario", "", "target", "measured: median (lowest - highest)", "", "rounds", "the fastest C fork known"]
    server = [line for row in (*SERVER_ROWS, *OTHER_ROWS, *PROGRAM_ROWS) for line in _claims(row, results)]
    heap = [line[:-1] for row in HEAP_ROWS for line in _claims(row, results)]
    return "\n".join(
        [
            "## Results\n",
            REACHED,
            _table(head, server),
            "## The heap as a library\n",
            HEAP,
            _table(head[:-1], heap),
        ]
    )


def _claims(row, results):
    """The row's lines of the table: one for each claim."""
    measured = results.rows.get(row.name)
    title = f"**{row.title}**" if row.required else row.title
    if measured is not None and measured.notes:
        title += f" ({', '.join(measured.notes)})"
    for place, claim in enumerate(row.claims):
        series = measured.series if measured is not None else {}
        verdict = {True: "✓", False: "✗", None: ""}[claim.reached(series)]
        first = place == 0
        yield (
            title if first else "",
            claim.words,
            claim.bound(),
            claim.text(series),
            verdict,
            str(measured.taken) if first and measured is not None else "",
            row.fork if first else "",
        )


def _figures(results):
    """The absolute numbers of each server."""
    head = ["scenario", *(f"{kind}: op/s" for kind in KINDS), *(f"{kind}: CPU µs" for kind in KINDS)]
    head += [f"{kind}: p99 µs" for kind in KINDS]
    lines = []
    for row in SERVER_ROWS:
        measured = results.rows.get(row.name)
        if measured is None or KINDS[0] not in measured.series:
            continue
        cells = [row.title]
        for measure, form in (("rate", "{:,.0f}"), ("cpu_us", "{:.2f}"), ("p99_us", "{:,.0f}")):
            for kind in KINDS:
                values = measured.series.get(kind, {}).get(measure)
                cells.append(form.format(statistics.median(values)) if values else "")
        lines.append(cells)
    return "\n".join(
        [
            "## Rates and CPU time\n",
            FIGURES,
            _table(head, lines),
        ]
    )


def _table(head, lines):
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows) + "\n"
