"""The results as JSON: rows, their figures round by round, and the machine they were measured on.

A row has series: for each label (a server or another thing that is compared) and each measure, a list with one number
per round. A claim is a ratio of two labels, or one label's number, perhaps with a target; the median of the rounds is
judged.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .binlog_tools import sync_times_us
from .contestants import BEANSTALKD, BODY_BYTES, FASTBEAN, SERVER_PROCESSOR, MissingError, command
from .rounds import ratios_of, spread

Series = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Claim:
    """`measure` of one label, divided by that of another one (None: not divided), is at least or at most a bound.

    words: its name in the table. scale and form: how a number that is not a ratio is printed. Without a bound the
    number is only printed.
    """

    words: str
    measure: str
    of: str
    to: str | None
    at_least: float | None = None
    at_most: float | None = None
    scale: float = 1.0
    form: str = "{:.2f}"

    def values(self, series: Series):
        """Round by round; empty if one of the two was not measured."""
        mine = series.get(self.of, {}).get(self.measure, [])
        if self.to is None:
            return [each * self.scale for each in mine]
        its = series.get(self.to, {}).get(self.measure, [])
        return ratios_of(mine, its) if mine and its else []

    def text(self, series: Series):
        """Median, lowest and highest as text, "-" if it was not measured."""
        values = self.values(series)
        return spread(values, self.form) if values else "-"

    def bound(self):
        """The bound as text."""
        if self.at_least is not None:
            return "≥ " + self.form.format(self.at_least)
        return "" if self.at_most is None else "≤ " + self.form.format(self.at_most)

    def reached(self, series: Series):
        """Whether the median keeps the bound; None without a bound or values."""
        values = self.values(series)
        if not values or (self.at_least is None and self.at_most is None):
            return None
        median = statistics.median(values)
        return median >= self.at_least if self.at_least is not None else median <= self.at_most


@dataclass
class Measured:
    """One row's figures. rounds and round_s: as requested. notes: printed after the row's title."""

    date: str
    rounds: int
    round_s: float
    series: Series
    notes: list[str] = field(default_factory=list)

    @property
    def taken(self):
        """The number of rounds: some rows have more than requested, or fewer."""
        return max((len(values) for found in self.series.values() for values in found.values()), default=0)


def today():
    """The date, in ISO format."""
    return datetime.datetime.now(datetime.UTC).date().isoformat()


@dataclass
class Results:
    """All rows that were measured, by name; saved after each one."""

    path: Path
    machine: dict[str, str] = field(default_factory=dict)
    rows: dict[str, Measured] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path):
        """Reads a file; without one there are no rows."""
        if not path.exists():
            return cls(path)
        found = json.loads(path.read_text(encoding="utf-8"))
        return cls(path, found["machine"], {name: Measured(**row) for name, row in found["rows"].items()})

    def keep(self, name, measured):
        """Adds or replaces a row, and writes the file."""
        self.rows[name] = measured
        rounded = {key: asdict(row) for key, row in self.rows.items()}
        for row in rounded.values():
            row["series"] = {
                label: {measure: [float(f"{value:.5g}") for value in values] for measure, values in measures.items()}
                for label, measures in row["series"].items()
            }
        text = _compact(json.dumps({"machine": self.machine, "rows": rounded}, indent=1, ensure_ascii=False))
        whole = self.path.with_suffix(".tmp")
        whole.write_text(text + "\n", encoding="utf-8")
        whole.replace(self.path)


def _compact(text):
    """Puts each list of numbers on one line; json.dumps gives every number a line of its own."""
    lines, held = [], None
    for line in text.splitlines():
        if held is not None:
            held += line.strip() + (" " if line.endswith(",") else "")
            if line.strip() in {"]", "],"}:
                lines.append(held)
                held = None
        elif line.endswith("["):
            held = line
        else:
            lines.append(line)
    return "\n".join(each.rstrip() for each in lines)


def machine(folder: Path) -> dict[str, str]:
    """What the numbers depend on, by the names used on the page."""
    sync_us = sync_times_us(folder, BODY_BYTES)
    return {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0))) + ("" if SERVER_PROCESSOR is not None else ", shared by all"),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "beanstalkd": _beanstalkd_version(folder),
        "sync of the disk": f"{spread(sync_us, '{:.0f}')} µs",
    }


def processor() -> str:
    """The name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _beanstalkd_version(folder):
    try:
        path = command(BEANSTALKD, 0, folder)[0]
    except MissingError:
        return "not installed"
    return subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stdout.strip()


def of_figures(measured) -> Series:
    """The series of the load tool's figures, label by label."""
    return {
        label: {
            "rate": [each.rate for each in rounds],
            "cpu_us": [each.cpu_us for each in rounds],
            "p50_us": [each.latencies.quantile_ns(0.5) / 1000 for each in rounds],
            "p99_us": [each.latencies.quantile_ns(0.99) / 1000 for each in rounds],
        }
        for label, rounds in measured.items()
    }


def rate(other, at_least=None):
    """The claim about fastbean's rate divided by that of another server."""
    return Claim(f"rate / {other}", "rate", FASTBEAN, other, at_least=at_least)


def cpu(other, at_most=None):
    """The claim about fastbean's CPU time per operation divided by that of another server."""
    return Claim(f"CPU / {other}", "cpu_us", FASTBEAN, other, at_most=at_most)
