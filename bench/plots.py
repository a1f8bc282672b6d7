"""The plots of docs/performance.md, and the picture of the README, as SVG."""

from __future__ import annotations

import statistics

import matplotlib as mpl
from matplotlib.figure import Figure

from .contestants import BEANSTALKD, FASTBEAN, FLOOR, KINDS
from .other_rows import HEAP_ROWS
from .rows import PLAYED_ROWS

COLOURS = {FASTBEAN: "#0072b2", BEANSTALKD: "#e69f00", FLOOR: "#999999"}  # distinct for the colour-blind too
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, and they can be searched
    "svg.hashsalt": "fastbean",  # the same numbers give the same file
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
}
SHAPES = {FASTBEAN: "o", BEANSTALKD: "s", FLOOR: "D"}
WIDTH, ROW_HEIGHT, REST_HEIGHT = 8, 0.3, 1.1
MIB = 1 << 20


def draw_all(results):
    """Draws everything that was measured, into the folder of the results. Returns the Markdown of the page's plots."""
    mpl.rcParams.update(STYLE)
    lines = []
    for name, title, draw in (
        ("rates", "Rates, divided by beanstalkd's", draw_rates),
        ("cpu", "CPU time of the server per operation", draw_cpu),
        ("memory", "Resident memory with a million jobs, and after they are deleted", draw_memory),
        ("heap", "The heap: how many times as fast as other libraries", draw_heap),
    ):
        figure = draw(results.rows)
        if figure is not None:
            path = results.path.with_name(f"{results.path.stem}-{name}.svg")
            figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
            _strip(path)
            lines.append(f"![{title}]({path.name})\n")
    return lines


def _strip(path):
    """Removes the blanks that the library leaves at the ends of lines."""
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def _axes(rows, title):
    figure = Figure(figsize=(WIDTH, rows * ROW_HEIGHT + REST_HEIGHT))
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    return figure, axes


def _label_rows(axes, labels):
    axes.set_yticks(range(len(labels)), [label.replace("`", "") for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.tick_params(axis="y", length=0)


def _dots(axes, found, colour, label):
    """Medians as dots, with a line from the lowest to the highest."""
    for place, values in enumerate(found):
        axes.plot([min(values), max(values)], [place, place], color=colour, linewidth=2, alpha=0.45)
    axes.plot([statistics.median(each) for each in found], range(len(found)), "o", color=colour, label=label)


def _ratio_axis(axes):
    axes.set_xscale("log")
    ticks = [0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 40]
    low, high = axes.get_xlim()
    shown = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.axvline(1, color="#444444", linewidth=0.8)


def _legend(axes):
    axes.legend(loc="upper center", bbox_to_anchor=(0.3, -0.06), ncols=4, frameon=False, fontsize=8)


def draw_rates(rows):
    """Each row's rate as a ratio to beanstalkd's, its target, the floor, and the fork."""
    shown = []
    for row in PLAYED_ROWS:
        claim = next((each for each in row.claims if each.to == BEANSTALKD), None)
        values = claim.values(rows[row.name].series) if claim and row.name in rows else []
        if values:
            shown.append((row, claim, values))
    if not shown:
        return None
    figure, axes = _axes(len(shown), "operations per second, divided by beanstalkd's")
    _dots(axes, [values for _, _, values in shown], COLOURS[FASTBEAN], "fastbean: median, lowest to highest")
    bounds = [(claim.at_least, place) for place, (_, claim, _) in enumerate(shown) if claim.at_least is not None]
    axes.plot(*zip(*bounds, strict=True), "|", color="#d55e00", markersize=11, markeredgewidth=2, label="target")
    floors = [
        (statistics.median(series[FLOOR]["rate"]) / statistics.median(series[BEANSTALKD]["rate"]), place)
        for place, (row, _, _) in enumerate(shown)
        if FLOOR in (series := rows[row.name].series)
    ]
    if floors:
        axes.plot(*zip(*floors, strict=True), "D", color=COLOURS[FLOOR], markersize=4, label="floor")
    forks = [(number, place) for place, (row, _, _) in enumerate(shown) for number in row.fork_range or ()]
    axes.plot(*zip(*forks, strict=True), "x", color="#009e73", markersize=5, label="fastest C fork known")
    _label_rows(axes, [row.title for row, _, _ in shown])
    _ratio_axis(axes)
    _legend(axes)
    return figure


def draw_cpu(rows):
    """CPU time per operation of each server."""
    shown = [row for row in PLAYED_ROWS if row.name in rows and FASTBEAN in rows[row.name].series]
    if not shown:
        return None
    figure, axes = _axes(len(shown), "CPU time of the server per operation, µs")
    for kind in KINDS:
        found = [
            (statistics.median(series[kind]["cpu_us"]), place)
            for place, row in enumerate(shown)
            if kind in (series := rows[row.name].series)
        ]
        if found:
            axes.plot(*zip(*found, strict=True), SHAPES[kind], color=COLOURS[kind], label=kind)
    _label_rows(axes, [row.title for row in shown])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    _legend(axes)
    return figure


def draw_memory(rows):
    """Memory with many jobs, and after they are deleted."""
    if "memory" not in rows:
        return None
    series = rows["memory"].series
    figure, axes = _axes(2 * len(series) + 1, "resident memory with 1,000,000 jobs of 64 bytes, MiB")
    labels = []
    for kind in series:
        for measure, words in (("peak_bytes", "with them"), ("left_bytes", "after they are deleted")):
            value = statistics.median(series[kind][measure]) / MIB
            axes.barh(len(labels), value, 0.6, color=COLOURS[kind], alpha=1 if measure == "peak_bytes" else 0.6)
            axes.annotate(f" {value:.0f}", (value, len(labels)), va="center", fontsize=8)
            labels.append(f"{kind}: {words}")
    _label_rows(axes, labels)
    return figure


def draw_heap(rows):
    """How many times as fast as other libraries the heap is."""
    shown = [
        # The ratio of two times has the other library above the line, that of two rates below it.
        (f"{row.title}: {claim.of if claim.measure == 's' else claim.to}", values)
        for row in HEAP_ROWS
        if row.name in rows
        for claim in row.claims
        if (values := claim.values(rows[row.name].series))
    ]
    if not shown:
        return None
    figure, axes = _axes(len(shown), "the heap: how many times as fast as")
    _dots(axes, [values for _, values in shown], COLOURS[FASTBEAN], "")
    _label_rows(axes, [label for label, _ in shown])
    _ratio_axis(axes)
    return figure
