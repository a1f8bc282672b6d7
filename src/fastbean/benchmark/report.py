"""The results as text and as JSON: those of one server, or of two with the ratios between neighbouring rounds."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastbean import __version__
from fastbean.benchmark.histogram import RELATIVE_ERROR

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from fastbean.benchmark.server import Target
    from fastbean.benchmark.session import Figures, Settings

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
NAME_CELLS, CELLS = 13, 10
WITH_DECIMALS = 10_000  # above this, decimals would only widen the columns
MIB = 1 << 20


def latencies_us(figures: Figures) -> dict[str, float]:
    """The latencies by name, in microseconds."""
    found = {name: figures.latencies.quantile_ns(fraction) / 1000 for name, fraction in QUANTILES.items()}
    return {**found, "max": figures.latencies.max_ns / 1000, "mean": figures.latencies.mean_ns / 1000}


# What two servers are compared by. A ratio above 1 means that the first server's value is higher.
COMPARED: dict[str, Callable[[Figures], float | None]] = {
    "rate": lambda figures: figures.rate,
    "p99": lambda figures: latencies_us(figures)["p99"],
    "cpu": lambda figures: figures.cpu_us,
    "memory": lambda figures: figures.resident_bytes,
}


def ratios(first: Sequence[Figures], second: Sequence[Figures]) -> dict[str, dict[str, float]]:
    """The median, lowest and highest ratio of the first server's values to the second's, round by round."""
    found = {}
    for name, figure in COMPARED.items():
        pairs = [(figure(one), figure(other)) for one, other in zip(first, second, strict=True)]
        each = [one / other for one, other in pairs if one is not None and other]
        if each:
            found[name] = {"median": statistics.median(each), "min": min(each), "max": max(each)}
    return found


def title(settings: Settings) -> str:
    """How the scenarios are run, in one line."""
    parts = [
        _count(settings.clients, "client"),
        f"{_count(settings.depth, 'request')} at a time",
        f"bodies of {_count(settings.body_bytes, 'byte')}",
        f"open loop at {settings.rate:,.10g} operations a second" if settings.rate else "closed loop",
    ]
    if settings.idle:
        parts.append(f"{_count(settings.idle, 'idle connection')}")
    if settings.backlog:
        parts.append(f"{_count(settings.backlog, 'job')} as a backlog")
    return ", ".join(parts)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}" + ("" if number == 1 else "s")


def heading() -> str:
    """The column headings."""
    names = ["op/s", *(f"{name} us" for name in [*QUANTILES, "max"]), "CPU us/op", "memory MiB"]
    return _columns("", names)


def row(name: str, rounds: Sequence[Figures]) -> str:
    """The medians over the rounds, in columns."""
    found = [latencies_us(each) for each in rounds]
    cells = [f"{statistics.median(each.rate for each in rounds):,.0f}"]
    cells += [_median([each[kind] for each in found], 1, 1) for kind in [*QUANTILES, "max"]]
    cells.append(_median([each.cpu_us for each in rounds], 1, 2))
    cells.append(_median([each.resident_bytes for each in rounds], MIB, 1))
    return _columns(name, cells)


def _columns(name: str, cells: Iterable[str]) -> str:
    return " ".join([f"{name:{NAME_CELLS}}", *(f"{cell:>{CELLS}}" for cell in cells)])


def _median(values: Iterable[float | None], unit: int, digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    value = statistics.median(known) / unit
    return f"{value:,.{digits if value < WITH_DECIMALS else 0}f}"


def ratio_line(first: Sequence[Figures], second: Sequence[Figures]) -> str:
    """The ratios of two servers, in one line."""
    parts = (
        f"{name} {each['median']:.2f} ({each['min']:.2f} - {each['max']:.2f})"
        for name, each in ratios(first, second).items()
    )
    return f"{'  A/B':{NAME_CELLS}} " + "   ".join(parts)


def document(
    settings: Settings,
    servers: dict[str, tuple[Target, str]],
    scenarios: dict[str, dict[str, list[Figures]]],
) -> dict[str, Any]:
    """All results, for JSON. servers: by letter, with the version each one reports. scenarios: the rounds of each."""
    return {
        "fastbean": __version__,
        "histogram_relative_error": RELATIVE_ERROR,
        "settings": asdict(settings),
        "servers": {
            letter: {"address": target.name, "version": version, "pid": target.pid}
            for letter, (target, version) in servers.items()
        },
        "scenarios": {
            name: {
                "rounds": {letter: [_figures(each) for each in rounds] for letter, rounds in found.items()},
                "ratios": ratios(found["A"], found["B"]) if "B" in found else {},
            }
            for name, found in scenarios.items()
        },
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "operations": figures.operations,
        "seconds": figures.seconds,
        "operations_per_second": figures.rate,
        "latency_us": latencies_us(figures),
        "latencies": figures.latencies.count,
        "server_cpu_us_per_operation": figures.cpu_us,
        "server_resident_bytes": figures.resident_bytes,
    }
