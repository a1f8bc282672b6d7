"""The layers: a module imports only from lower ones, or beside it along the arrows that are drawn here.

It reads the ``import``, ``from`` and ``cimport`` lines of all modules, the compiled ones too, so that an arrow upwards
fails here and not in someone's head.
"""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fastbean"

# Every module stands in one layer. What is private to a layer's module, a C helper say, stands in the layer too.
LAYERS = {
    0: {
        "_core",
        "_protocol",
        "_buffer",
        "_table",
        "_slab",
        "_record",
        "_socket_calls",
        "_stopwatch",
        "_live",
        "_clock",
        "limits",
        "errors",
        "clock",
    },
    1: {
        "_job",
        "_tube",
        "_client",
        "_journal",
        "_memory",
        "_oldest",
        "_state",
        "_recovery",
        "_work",
        "_engine",
        "_report",
        "_dispatch",
    },
    2: {
        "_binlog",
        "_scan",
        "_segments",
        "_sync",
        "binlog",
        "binlog.__main__",
        "binlog.beanstalkd",
        "binlog.beanstalkd_layout",
        "binlog.job",
        "binlog.lock",
        "binlog.replacement",
        "binlog.replay",
        "binlog.segments",
        "binlog.survey",
        "binlog.takeover",
        "binlog.tool",
        "binlog.verdict",
    },
    3: {"_poller", "_outbox", "_connection", "_hub", "linger", "listener", "loop"},
    4: {
        "config",
        "server",
        "systemd",
        "privileges",
        "logs",
        "health",
        "testing",
        "pytest_plugin",
        "__main__",
        "__init__",
        "_benchmark",
        "_benchmark_clients",
        "_benchmark_histogram",
        "_benchmark_system",
        "_benchmark_wake",
        "benchmark",
        "benchmark.__main__",
        "benchmark.report",
        "benchmark.scenarios",
        "benchmark.server",
        "benchmark.session",
        "benchmark.tool",
    },
}
LAYER = {module: layer for layer, modules in LAYERS.items() for module in modules}

# Who may import whom inside one layer. In the model it is the state that everything stands on, and the engine on top.
BESIDE = {
    ("_connection", "_outbox"),
    ("_hub", "_connection"),
    ("_connection", "_poller"),
    ("_hub", "_outbox"),
    ("_hub", "_poller"),
    ("_client", "_job"),
    ("_client", "_tube"),
    ("_state", "_job"),
    ("_state", "_tube"),
    ("_state", "_client"),
    ("_memory", "_job"),
    ("_oldest", "_job"),
    ("_oldest", "_tube"),
    ("_state", "_memory"),
    ("_state", "_oldest"),
    ("_work", "_job"),
    ("_work", "_tube"),
    ("_work", "_client"),
    ("_work", "_oldest"),
    ("_work", "_recovery"),
    ("_work", "_state"),
    ("_recovery", "_memory"),
    ("_engine", "_memory"),
    ("_engine", "_work"),
    ("_engine", "_job"),
    ("_engine", "_tube"),
    ("_engine", "_client"),
    ("_recovery", "_job"),
    ("_recovery", "_journal"),
    ("_recovery", "_state"),
    ("_recovery", "_tube"),
    ("_engine", "_state"),
    ("_report", "_job"),
    ("_report", "_tube"),
    ("_report", "_client"),
    ("_report", "_state"),
    ("_report", "_engine"),
    ("_dispatch", "_client"),
    ("_dispatch", "_engine"),
    ("_dispatch", "_report"),
    ("_dispatch", "_tube"),
    ("_buffer", "_live"),
    ("_record", "_buffer"),
    ("_state", "_journal"),
    ("_report", "_journal"),
    ("_engine", "_journal"),
    ("_binlog", "_segments"),
    ("_binlog", "_sync"),
    ("binlog", "_binlog"),
    ("binlog", "binlog.lock"),
    ("binlog", "binlog.replay"),
    ("binlog", "binlog.segments"),
    ("binlog", "binlog.takeover"),
    ("binlog.__main__", "binlog.tool"),
    ("binlog.beanstalkd", "binlog.beanstalkd_layout"),
    ("binlog.beanstalkd", "binlog.job"),
    ("binlog.beanstalkd", "binlog.segments"),
    ("binlog.replacement", "_scan"),
    ("binlog.replacement", "binlog.beanstalkd"),
    ("binlog.replacement", "binlog.segments"),
    ("binlog.replay", "_binlog"),
    ("binlog.replay", "_scan"),
    ("binlog.replay", "binlog.replacement"),
    ("binlog.replay", "_segments"),
    ("binlog.replay", "binlog.segments"),
    ("binlog.segments", "_segments"),
    ("binlog.replay", "binlog.verdict"),
    ("binlog.survey", "_scan"),
    ("binlog.survey", "binlog.beanstalkd"),
    ("binlog.survey", "binlog.job"),
    ("binlog.survey", "binlog.replacement"),
    ("binlog.survey", "binlog.segments"),
    ("binlog.survey", "binlog.verdict"),
    ("binlog.takeover", "binlog.beanstalkd"),
    ("binlog.takeover", "binlog.replacement"),
    ("binlog.takeover", "binlog.segments"),
    ("binlog.tool", "binlog.beanstalkd"),
    ("binlog.tool", "binlog.lock"),
    ("binlog.tool", "binlog.replacement"),
    ("binlog.tool", "binlog.segments"),
    ("binlog.tool", "binlog.survey"),
    ("binlog.tool", "binlog.takeover"),
    ("binlog.verdict", "_scan"),
    ("binlog.verdict", "binlog.segments"),
    ("_benchmark", "_benchmark_clients"),
    ("_benchmark", "_benchmark_histogram"),
    ("_benchmark_clients", "_benchmark_histogram"),
    ("_benchmark_clients", "_benchmark_system"),
    ("_benchmark_wake", "_benchmark_clients"),
    ("_benchmark_wake", "_benchmark_histogram"),
    ("benchmark.__main__", "benchmark.tool"),
    ("benchmark.report", "_benchmark_histogram"),
    ("benchmark.server", "_benchmark_clients"),
    ("benchmark.session", "_benchmark"),
    ("benchmark.session", "_benchmark_wake"),
    ("benchmark.session", "benchmark.server"),
    ("benchmark.tool", "_benchmark"),
    ("benchmark.tool", "benchmark.report"),
    ("benchmark.tool", "benchmark.scenarios"),
    ("benchmark.tool", "benchmark.server"),
    ("benchmark.tool", "benchmark.session"),
    ("benchmark.tool", "privileges"),
    ("pytest_plugin", "testing"),
    ("testing", "__main__"),
    ("testing", "systemd"),
    ("server", "config"),
    ("server", "logs"),
    ("__main__", "config"),
    ("__main__", "logs"),
    ("__main__", "privileges"),
    ("__main__", "server"),
    ("__main__", "systemd"),
}
# Of the model the log knows no more than the journal, by which the engine writes and the log asks.
FOR_STORAGE = {"_journal"}
# The package itself holds the version, and loads Config and Server when they are asked for.
ANYBODY = {"__init__"}
LAZY = {("__init__", "config"), ("__init__", "server")}

SOURCES = sorted(
    path
    for folder in (PACKAGE, PACKAGE / "binlog", PACKAGE / "benchmark")
    for path in folder.iterdir()
    if path.suffix in {".py", ".pyx", ".pxd", ".pyi"}
)
IMPORT = re.compile(
    r"""^[ \t]*(?:
        from[ \t]+(?P<from>fastbean(?:\.\w+)*|\.\w*)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)
      | c?import[ \t]+(?P<plain>[\w., \t]+)
    )""",
    re.MULTILINE | re.VERBOSE,
)
TYPING_BLOCK = re.compile(r"^if TYPE_CHECKING:\n(?:[ \t]+[^\n]*\n|\n)+", re.MULTILINE)


def name_of(path: Path) -> str:
    """The module of a source, without the package's own name; of a package in it, the name of its folder."""
    inside = path.relative_to(PACKAGE).with_suffix("")
    return ".".join(inside.parts).removesuffix(".__init__")


def imported(source: str) -> set[str]:
    """The modules of ours that a source imports when it runs; imports for type checkers only do not count."""
    found = set()
    for match in IMPORT.finditer(TYPING_BLOCK.sub("", source)):
        home = match["from"]
        if home is None:
            names = [name.strip().split()[0] for name in match["plain"].split(",") if name.strip()]
            found |= {name.removeprefix("fastbean.") for name in names if name.startswith("fastbean.")}
            found |= {"__init__" for name in names if name == "fastbean"}
        else:
            inside = home.removeprefix("fastbean").removeprefix(".")
            words = match["names"].strip("() \n").replace("\n", " ").split(",")
            names = [f"{inside}.{word.split()[0]}".removeprefix(".") for word in words if word.split()]
            found |= {name if name in LAYER else inside or "__init__" for name in names}
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_module_imports_only_downwards(path):
    module = name_of(path)
    assert module in LAYER, f"{module} stands in no layer: give it one here and in ARCHITECTURE.md"
    for other in imported(path.read_text()) - {module} - ANYBODY:
        below = LAYER[other] < LAYER[module]
        if LAYER[module] == 2 and LAYER[other] == 1:
            below = other in FOR_STORAGE
        allowed = below or (module, other) in BESIDE | LAZY
        assert allowed, f"{path.name} imports {other}, which is not below it"


def test_every_arrow_beside_is_used():
    used = {(name_of(path), other) for path in SOURCES for other in imported(path.read_text())}
    assert used >= BESIDE | LAZY, "take these out, here and in ARCHITECTURE.md"


def test_the_arrows_beside_make_no_circle():
    below = {module: {other for one, other in BESIDE if one == module} for module in LAYER}
    while below:
        free = {module for module, others in below.items() if not others & below.keys()}
        assert free, f"these import each other in a circle: {sorted(below)}"
        below = {module: others for module, others in below.items() if module not in free}


def test_there_is_no_module_of_odds_and_ends():
    assert not {path.stem for path in SOURCES} & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("from fastbean._core cimport Heap, heap_push", {"_core"}),
        ("cimport fastbean._core\nimport os, fastbean.errors as e", {"_core", "errors"}),
        ("from fastbean import limits, logs", {"limits", "logs"}),
        ("from fastbean import (\n    limits,\n    clock,\n)", {"limits", "clock"}),
        ("from fastbean import __version__", {"__init__"}),
        ("    from fastbean._engine import Engine", {"_engine"}),
        ("from fastbean._job cimport (\n    Job,\n)", {"_job"}),
        ("from . import limits", {"limits"}),
        ("from ._core cimport Heap", {"_core"}),
        ("from fastbean.binlog import Log, segments", {"binlog", "binlog.segments"}),
        ("from fastbean.binlog.lock import DirectoryLock", {"binlog.lock"}),
        ("# from fastbean._engine import Engine\nimport os", set()),
        ("if TYPE_CHECKING:\n    from fastbean.server import Server\n\nx = 1\n", set()),
    ],
)
def test_the_reader_of_import_lines(source, modules):
    assert imported(source) == modules
