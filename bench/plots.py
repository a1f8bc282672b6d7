"""The plots of docs/performance.md, and the picture of the README, as SVG."""

from __future__ import annotations

import statistics

import matplotlib as mpl
from matplotlib.figure import Figure

from .connection_rows import SERVER_ROWS
from .contestants import BEANSTALKD, FASTBEAN, FLOOR, KINDS
from .other_rows import HEAP_ROWS
from .results import rate

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


PICTURE = "rates.svg"
PICTURE_ROWS = {
    "cycle-1": "1 client: put, reserve, delete",
    "cycle-50": "50 clients: put, reserve, delete",
    "binlog-cycle-50": "50 clients: the same with a binlog (-b)",
    "cycle-1000": "1,000 clients: put, reserve, delete",
    "sync-put-64": "64 clients: put, each one synced (-b -f 0)",
    "put-1x100": "1 client: 100 puts in flight",
    "put-16x100": "16 clients: 100 puts in flight each",
    "tubes-10000": "50 clients: put into 10,000 tubes",
}
PICTURE_STYLE = """\
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; fill: #6e7781; }
.strong { font-weight: 600; }
.small { font-size: 12px; }
@media (prefers-color-scheme: light) { text { fill: #24292f; } .small { fill: #57606a; } }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .small { fill: #9198a1; } }"""
LEFT, SCALE, LONGEST, PICTURE_WIDTH = 330, 18, 21, 780  # of the bars, in pixels; LONGEST is a ratio
TOP, BAR_ROW, BAR, THIN_BAR = 44, 34, 13, 5


def draw_all(results):
    """Draws everything that was measured, into the folder of the results. Returns the Markdown of the page's plots."""
    mpl.rcParams.update(STYLE)
    draw_picture(results)
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


def draw_picture(results):
    """Writes the picture of the README: a bar for each row's ratio to beanstalkd, readable in light and dark pages."""
    ratios = {
        words: statistics.median(values)
        for name, words in PICTURE_ROWS.items()
        if name in results.rows and (values := rate(BEANSTALKD).values(results.rows[name].series))
    }
    machine = results.machine
    processor = machine["processor"].replace("(R)", "")
    footer = f"Measured on {processor}, {machine['cores']} cores, with {machine['beanstalkd']}."
    bottom = TOP + len(ratios) * BAR_ROW
    width, height = PICTURE_WIDTH, bottom + 26
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" role="img"',
        f' width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        "<title>Operations per second of fastbean, as a multiple of beanstalkd's</title>",
        f"<style>\n{PICTURE_STYLE}\n</style>",
        '<text class="strong" x="0" y="18">Operations per second; beanstalkd = 1</text>',
        f'<rect x="{LEFT}" y="6" width="{BAR}" height="{BAR}" fill="{COLOURS[FASTBEAN]}"/>',
        f'<text x="{LEFT + 20}" y="18">fastbean</text>',
        f'<rect x="{LEFT + 110}" y="6" width="{BAR}" height="{BAR}" fill="{COLOURS[BEANSTALKD]}"/>',
        f'<text x="{LEFT + 130}" y="18">beanstalkd</text>',
    ]
    for place, (words, ratio) in enumerate(ratios.items()):
        parts += _bar(TOP + place * BAR_ROW, words, ratio)
    parts += [f'<text class="small" x="0" y="{bottom + 16}">{footer}</text>', "</svg>"]
    results.path.with_name(PICTURE).write_text("\n".join(parts) + "\n", encoding="utf-8")


def _bar(y, words, ratio):
    """One row of the picture; a bar that would be too long is cut, and shows it."""
    end = LEFT + SCALE * min(ratio, LONGEST)
    yield f'<text x="0" y="{y + BAR}">{words}</text>'
    yield f'<rect x="{LEFT}" y="{y}" width="{end - LEFT:.1f}" height="{BAR}" fill="{COLOURS[FASTBEAN]}"/>'
    if ratio > LONGEST:
        points = f"{end + 4},{y + BAR} {end + 9},{y} {end + 17},{y} {end + 12},{y + BAR}"
        yield f'<polygon points="{points}" fill="{COLOURS[FASTBEAN]}"/>'
        end += 17
    yield f'<rect x="{LEFT}" y="{y + BAR + 2}" width="{SCALE}" height="{THIN_BAR}" fill="{COLOURS[BEANSTALKD]}"/>'
    number = f"{ratio:.1f}" if ratio < LONGEST else f"{ratio:.0f}"
    yield f'<text class="strong" x="{end + 8:.1f}" y="{y + BAR - 1}">{number}&#215;</text>'


def draw_rates(rows):
    """Each row's rate as a ratio to beanstalkd's, its target, the floor, and the fork."""
    shown = []
    for row in SERVER_ROWS:
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
    shown = [row for row in SERVER_ROWS if row.name in rows and FASTBEAN in rows[row.name].series]
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
