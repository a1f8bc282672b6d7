"""Prints how many lines of each compiled module have run; ``make coverage`` builds, runs tests, and calls it.

In the coverage build, gcc counts how often each line of the generated C runs, and Cython's comments say which line of
the source each piece of C belongs to. This counts threads, code without the GIL, and the servers that tests start.
(Cython's own tracing counts none of these, and crashes when two threads run one function.) A server that is killed
reports nothing. A line counts as run if any of its C has run.

    python tests/quality/coverage_of_lines.py FOLDER LEAST_PERCENT [--missing]
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

# Cython's comment before a piece of C, and the end of the piece: the next comment, or the end of the function.
MARK = re.compile(r'\s*/\* "(fastbean/[\w/]+\.p(?:yx|xd|xi))":(\d+)$')
END = re.compile(r"\}|\s*/\* function exit code \*/")


def sources_of(generated: Path) -> Iterator[tuple[int, tuple[str, int]]]:
    """Yields each line of C that belongs to a line of a source: its number, and the source's name and line."""
    source = None
    for number, text in enumerate(generated.read_text(errors="replace").splitlines(), 1):
        if mark := MARK.match(text):
            source = mark[1], int(mark[2])
        elif END.match(text):
            source = None
        if source:
            yield number, source


def lines_run(folder: Path) -> dict[str, dict[int, int]]:
    """How often each line was run, by file."""
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for data in sorted(folder.rglob("*.gcda")):
        said = subprocess.run(["gcov", "--json-format", "--stdout", data], capture_output=True, check=True).stdout
        for file in json.loads(said)["files"]:
            if not file["file"].endswith(".c"):
                continue
            counts: dict[int, int] = {}
            for line in file["lines"]:
                counts[line["line_number"]] = max(line["count"], counts.get(line["line_number"], 0))
            for number, (name, source) in sources_of(Path(file["file"])):
                if number in counts:
                    found[name][source] = max(found[name].get(source, 0), counts[number])
    return found


def main(folder: str, least: str, *options: str) -> int:
    """Print the table; returns 1 if less than ``least`` percent of all lines have run."""
    found = lines_run(Path(folder))
    all_lines = all_run = 0
    print(f"{'module':34}{'lines':>7}{'run':>7}{'%':>7}")
    for name, runs in sorted(found.items()):
        run = sum(count > 0 for count in runs.values())
        all_lines += len(runs)
        all_run += run
        print(f"{name:34}{len(runs):7}{run:7}{100 * run / len(runs):7.1f}")
        missing = [number for number, count in sorted(runs.items()) if not count]
        if missing and "--missing" in options:
            print("    not run:", *missing)
    percent = 100 * all_run / max(all_lines, 1)
    print(f"{'all':34}{all_lines:7}{all_run:7}{percent:7.1f}")
    if percent < float(least):
        print(f"fewer than {least} lines of 100 were run")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
