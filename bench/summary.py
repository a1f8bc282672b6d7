"""The last table of `make bench`: how fastbean compares with beanstalkd, in plain words."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass, field

from .contestants import BEANSTALKD, FASTBEAN, LOAD_PROCESSOR
from .results import cpu, rate

TITLE = "fastbean compared with beanstalkd"
INSTALL = (
    "beanstalkd is not installed, so fastbean was measured alone. Install it and run `make bench` again",
    "(Debian, Ubuntu: apt-get install beanstalkd; Fedora: dnf install beanstalkd).",
)
HEAD = (
    f"{'operations a second (medians)':52}{'fastbean':>12}{'beanstalkd':>12}{'ratio':>9}   lowest - highest   CPU ratio"
)
WORDS = (
    "The ratio is fastbean's rate divided by beanstalkd's: above 1, fastbean is faster. The servers are measured in",
    "turn; the ratio is the median of the rounds. Rates depend on this machine and its load: compare the ratios.",
    "The CPU ratio compares the servers' CPU time for one operation: below 1, fastbean uses less.",
    "-b -f 50 syncs the binlog to the disk every 50 ms, -b -f 0 before every reply.",
)


@dataclass
class Summary:
    """The series of each row, by the row's title."""

    rows: dict[str, dict[str, dict[str, list[float]]]] = field(default_factory=dict)

    def lines(self):
        """The table as text, and how to read it."""
        yield HEAD
        for title, series in self.rows.items():
            cells = "".join(f"{_median(series.get(kind, {}).get('rate')):>12}" for kind in (FASTBEAN, BEANSTALKD))
            yield f"{title.replace('`', ''):52}{cells}{_ratio(rate(BEANSTALKD).values(series))}{_cpu(series)}"
        yield ""
        yield from WORDS if any(BEANSTALKD in series for series in self.rows.values()) else INSTALL
        yield from _warnings()


def _median(values):
    return f"{statistics.median(values):,.0f}" if values else "-"


def _ratio(values):
    return f"{statistics.median(values):9.2f}   {min(values):.2f} - {max(values):.2f}" if values else ""


def _cpu(series):
    values = cpu(BEANSTALKD).values(series)
    return f"{statistics.median(values):12.2f}" if values else ""


def _warnings():
    load, processors = os.getloadavg()[0], os.cpu_count() or 1
    if load > processors + 2:  # the servers and the load tool keep up to two busy
        yield f"This machine was busy (load average {load:.1f}, {processors} processors): the rates are too low."
    if LOAD_PROCESSOR is None:
        yield "The servers and the load tool share one processor here: the ratios say little."
