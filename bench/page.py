"""Writes docs/performance.md out of the results: the tables, and the plots beside it."""

from __future__ import annotations

import statistics

from .contestants import KINDS
from .other_rows import HEAP_ROWS, OTHER_ROWS
from .plots import draw_all
from .rounds import ROUNDS
from .rows import PLAYED_ROWS

FULL_ROUND_S = 0.3

INTRODUCTION = """\
# Performance

`make performance` measures everything on this page and writes it, plots included, in about ten minutes;
[performance.json](performance.json) has every round. Do not edit the page: it is made by `bench/page.py`.
"""

HOW = """\
## How the numbers are made

- **Ratios, not rates.** On a shared machine times drift by a factor of two within minutes. So the servers take turns,
  fastbean, beanstalkd, floor, and again, for half a second each; every round gives one ratio of neighbours in time.
  Told are the median of the rounds, and the lowest and the highest in brackets.
- **Processors of their own.** All servers run on one core, the load on another one.
- **The load** is the tool that ships, [`python -m fastbean.benchmark`](benchmark.md), in a closed loop, with bodies of
  64 bytes unless a row says otherwise. Before each row it plays for a while unmeasured; jobs that are put before or
  deleted afterwards are not timed. A *cycle* is put, reserve and delete.
- **beanstalkd** is the one that is installed, Debian's build; it has the same flags as fastbean.
- **The floor** is `bench/floor.c`: a bare epoll server in C that finds the lines, steps over the bodies, answers canned
  lines and keeps nothing. No correct server can cost less.
- **CPU** is what the server's process used, user and system, for each operation. It hardly depends on what else the
  machine does: where a rate's brackets are wide, look there.
- **The fastest C fork known** is antikirra's fork of beanstalkd. Its numbers were measured elsewhere in the same way
  and are ratios to beanstalkd; nothing of it runs here.
- With a log, both servers write to the same disk, on empty directories. Disks that others use too make rounds differ
  much, so rows with `-f 0` take three times as many. In the row "each sync made to take 1 ms" a library loaded into
  both makes fsync and fdatasync return after a millisecond at the soonest, like a slower disk's. The faster the syncs
  of a disk, the less there is to be won by sharing them: what the floor makes of beanstalkd's rate with 64 clients is
  what a server would make whose syncs, log and jobs cost nothing at all.
- A **restart** is that of a server that was killed, from its start to its first reply, with the log in the page cache.
- **Memory** is the resident set of the whole process.
- A **longest wait** is that of a client in a closed loop of put, reserve and delete while the long command runs. It
  contains every moment in which the machine gave the processor to somebody else; what that makes on a server with
  nothing else to do stands beside it.

`make performance ARGS='--row put-50 --row idle'` measures these rows again and keeps the others, `ARGS=--missing` goes
on with a run that was stopped, `ARGS=--help` tells the rest. `make bench-check` is the short run of continuous
integration, see below.
"""

REACHED = """\
Numbers are fastbean's divided by those of the server that is named. Rows in bold may not miss; the others may by a
tenth.
"""

HEAP = """\
`fastbean._core`, see [cimport.md](cimport.md), beside heapq with (priority, counter, item) tuples, sortedcontainers,
pqdict (a heapdict) and C++'s std::priority_queue, of which only sortedcontainers and pqdict can remove from the middle.
Numbers are their time divided by the heap's.
"""

FIGURES = """\
Medians of the rounds: operations a second, CPU time of the server for an operation, and the 99th percentile of the
requests' latencies. Compare within a row only.
"""

CHECK = """\
## The short run

`make bench-check` takes less than two minutes. It measures some rows again and compares their ratios with the ones that
performance.json has, and fails when one is more than a fifth worse. For a noisy machine with two cores:

- a row that looks worse is measured again, up to three times, and the best median counts;
- a rate whose rounds differ by more than a factor of two tells nothing; there the CPU time for an operation is judged;
- on a machine with one core it says that it cannot judge, and passes.
"""


def write_page(results):
    """Writes the page and the plots beside the results' file; returns the page's path."""
    plots = draw_all(results)
    path = results.path.with_suffix(".md")
    parts = [INTRODUCTION, *_short_run(results), *_machine(results), _what_is_reached(results), *plots, HOW]
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
            f"{min(row.round_s for row in short):g} s) made {len(short)} of the {len(results.rows)} rows: it shows "
            "that everything works; its numbers say little.\n"
        )
    if missing:
        yield f"**Not measured yet:** {', '.join(missing)}.\n"


def _rows():
    return (*PLAYED_ROWS, *OTHER_ROWS, *HEAP_ROWS)


def _machine(results):
    dates = sorted({row.date for row in results.rows.values()})
    yield "## The machine\n"
    yield _table(["", ""], results.machine.items())
    yield f"Measured on {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else "") + ".\n"


def _what_is_reached(results):
    head = ["scenario", "", "to reach", "measured: median (lowest - highest)", "", "rounds", "the fastest C fork known"]
    server = [line for row in (*PLAYED_ROWS, *OTHER_ROWS) for line in _claims(row, results)]
    heap = [line[:-1] for row in HEAP_ROWS for line in _claims(row, results)]
    return "\n".join(
        [
            "## What is reached\n",
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
            claim.told(series),
            verdict,
            str(measured.taken) if first and measured is not None else "",
            row.fork if first else "",
        )


def _figures(results):
    """What each server made, in absolute numbers."""
    head = ["scenario", *(f"{kind}: op/s" for kind in KINDS), *(f"{kind}: CPU µs" for kind in KINDS)]
    head += [f"{kind}: p99 µs" for kind in KINDS]
    lines = []
    for row in PLAYED_ROWS:
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
