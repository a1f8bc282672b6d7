"""Shows at the end of a run in how many steps the engine was compared with its model."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up what tests recorded as ``steps of ...`` and print it."""
    totals: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            totals.update({name: value for name, value in report.user_properties if name.startswith("steps of")})
    for name, total in totals.items():
        terminalreporter.write_line(f"{name}: {total:,}")
