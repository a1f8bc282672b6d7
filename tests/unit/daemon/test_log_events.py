"""docs/operations.md lists the events of the log, with their levels: all that the code tells, and nothing else."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCES = sorted(path for path in (ROOT / "src" / "fastbean").rglob("*.py") if "benchmark" not in path.parts)
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR"}
ROW = re.compile(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| ([A-Z]+) \| \S", re.MULTILINE)


def told_by(source):
    """The events that a source tells, with their levels: calls in which a level and a text follow each other."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            words = [argument.value if isinstance(argument, ast.Constant) else None for argument in node.args]
            found |= {pair for pair in zip(words[1:], words, strict=False) if pair[1] in LEVELS}
    return found


def listed():
    """The rows of the table."""
    text = (ROOT / "docs" / "operations.md").read_text().partition("## What the log says")[2].partition("\n## ")[0]
    return [(event, level) for events, level in ROW.findall(text) for event in re.findall(r"[a-z-]+", events)]


def test_the_table_of_events_and_the_code_tell_the_same():
    told = {pair for path in SOURCES for pair in told_by(path.read_text())}
    assert len(told) > 20
    assert set(listed()) == told


def test_each_event_has_one_level_and_one_row():
    events = [event for event, _ in listed()]
    assert len(events) == len(set(events))


def test_a_level_is_never_computed():
    """Else the table could not be held."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            is_log = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "_log"
            if is_log:
                assert [type(each) for each in node.args] == [ast.Constant] * 2, f"{path.name}:{node.lineno}"


def test_the_operations_page_lists_all_flags():
    from fastbean.daemon.command_line import OPTIONS

    table = (ROOT / "docs" / "operations.md").read_text().partition("\n## Flags\n")[2].partition("\n## ")[0]
    for option in OPTIONS:
        assert f"`--{option.long}" in table or f"`-{option.short}`" in table, option.long or option.short
