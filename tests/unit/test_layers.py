"""The layers: each folder is one layer, and the table says which others it may import.

The tests read the imports and cimports of all modules, also of the compiled ones; an import of a higher layer fails.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fastbean"

# What each folder may import besides its own modules. A module at the top of the package is listed by its own name.
MAY_IMPORT = {
    "errors": set(),
    "_core": set(),
    "heap": {"_core"},
    "base": set(),
    "protocol": set(),
    "engine": {"_core", "base", "protocol"},
    "binlog": {"base", "engine", "errors"},
    "replication": {"binlog", "engine", "errors"},
    "net": {"base", "engine", "errors", "protocol"},
    "config": {"base", "errors", "net"},
    "daemon": {"base", "config", "errors", "net"},
    "server": {"base", "binlog", "config", "daemon", "engine", "net"},
    "replicated_server": {"base", "config", "daemon", "engine", "errors", "net", "replication", "server"},
    "benchmark": {"base", "daemon", "errors", "net"},
    "cluster": {"replication"},
    "health": {"daemon"},
    "__main__": {"base", "daemon", "engine", "errors", "replicated_server", "server"},
    "testing": {"__main__", "daemon"},
    "pytest_plugin": {"testing"},
    "__init__": {"config", "server"},  # loaded when they are asked for
}
# Where a layer may use only a part of another one.
ONLY = {("binlog", "engine"): {"engine.journal"}}
# The package itself holds the version.
OPEN_TO_ALL = {"__init__"}

SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd", ".pyi"})
# For the compiled modules, which the standard library cannot parse.
CYTHON_IMPORT = re.compile(
    r"""^[ \t]*(?:
        from[ \t]+(?P<home>\.*[\w.]*)[ \t]+c?import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)
      | c?import[ \t]+(?P<modules>[^\n#]+)
    )""",
    re.MULTILINE | re.VERBOSE,
)
TYPING = re.compile(r"^([ \t]*)if[ \t]+(?:typing\.)?TYPE_CHECKING:[^\n]*\n(?:\1[ \t]+[^\n]*\n|[ \t]*\n)*", re.MULTILINE)


def name_of(path: Path) -> str:
    """The module of a source, without the package's own name; of a package in it, the name of its folder."""
    inside = path.relative_to(PACKAGE).with_suffix("")
    return ".".join(inside.parts).removesuffix(".__init__")


MODULES = {name_of(path) for path in SOURCES}


def layer_of(module: str) -> str:
    """The folder of a module, or the module itself if it is at the top."""
    return module.partition(".")[0]


def python_imports(tree: ast.AST) -> Iterator[tuple[str, list[str] | None]]:
    """All imports that are executed: a module and the names taken from it, or a module alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, at, "") for at in ("id", "attr")):
            yield from python_imports(ast.Module(node.orelse))
        else:
            yield from python_imports(node)


def cython_imports(source: str) -> Iterator[tuple[str, list[str] | None]]:
    """The same for a compiled module."""
    for match in CYTHON_IMPORT.finditer(TYPING.sub("", source.replace("\\\n", " "))):
        names = re.sub(r"#[^\n]*", "", match["names"] or match["modules"]).strip("() \n").split(",")
        words = [name.split()[0] for name in names if name.split()]
        if match["home"] is None:
            yield from ((word, None) for word in words)
        else:
            yield match["home"], words


def absolute(module: str, home: str) -> str:
    """A module's full name; ``home`` is the package of the module that imports it, for names that begin with dots."""
    name = module.lstrip(".")
    level = len(module) - len(name)
    if level == 0:
        return name
    parts = home.split(".")
    return ".".join([*parts[: len(parts) - level + 1], *filter(None, [name])])


def imported(path: Path, source: str) -> set[str]:
    """The modules of ours that a source imports when it runs; imports for type checkers only do not count."""
    home = ".".join(["fastbean", *path.relative_to(PACKAGE).parts[:-1]])
    imports = python_imports(ast.parse(source)) if path.suffix in {".py", ".pyi"} else cython_imports(source)
    found = set()
    for module, names in imports:
        full = absolute(module, home)
        if full.partition(".")[0] != "fastbean":
            continue
        inside = full.removeprefix("fastbean").removeprefix(".")
        for name in names or [""]:
            deeper = f"{inside}.{name}".strip(".")
            found.add(deeper if deeper in MODULES else inside or "__init__")
    return found


IMPORTED = {path: imported(path, path.read_text()) - {name_of(path)} - OPEN_TO_ALL for path in SOURCES}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_what_its_layer_may(path):
    layer = layer_of(name_of(path))
    assert layer in MAY_IMPORT, f"{layer} is in no layer: add it to the table here and to ARCHITECTURE.md"
    for module in IMPORTED[path]:
        other = layer_of(module)
        assert other == layer or other in MAY_IMPORT[layer], f"{path.name} imports {module}: {layer} may not"
        assert module in ONLY.get((layer, other), {module}), f"{path.name} imports {module}: only a part is allowed"


def test_every_entry_of_the_table_is_used():
    used = {layer: set() for layer in MAY_IMPORT}
    for path, modules in IMPORTED.items():
        layer = layer_of(name_of(path))
        used[layer] |= {layer_of(module) for module in modules} - {layer}
    assert used == MAY_IMPORT


def assert_no_circle(below: dict[str, set[str]]) -> None:
    """Fail if anything depends on itself through others."""
    while below:
        free = {one for one, others in below.items() if not others & below.keys()}
        assert free, f"these import each other in a circle: {sorted(below)}"
        below = {one: others for one, others in below.items() if one not in free}


def test_the_layers_make_no_circle():
    assert_no_circle(MAY_IMPORT)


def test_the_modules_of_a_layer_make_no_circle():
    below = {module: set() for module in MODULES}
    for path, modules in IMPORTED.items():
        module = name_of(path)
        below[module] |= {other for other in modules if layer_of(other) == layer_of(module)} - {module}
    assert_no_circle(below)


@pytest.mark.parametrize("phase", ["receive", "send", "outbox"])
def test_receiving_and_sending_touch_no_memory_of_the_engine_but_bodies(phase):
    for suffix in (".pyx", ".pxd"):
        modules = IMPORTED[PACKAGE / "net" / f"{phase}{suffix}"]
        assert {module for module in modules if layer_of(module) == "engine"} <= {"engine.job"}


@pytest.mark.parametrize("phase", ["run", "reply"])
def test_running_commands_touches_no_socket(phase):
    for suffix in (".pyx", ".pxd"):
        modules = IMPORTED[PACKAGE / "net" / f"{phase}{suffix}"]
        assert not modules & {"net.socket_calls", "net.receive", "net.send", "net.service", "net.poller"}


def test_packages_import_nothing():
    """Importing one module of a folder does not load the others."""
    for folder in {path.parent for path in SOURCES} - {PACKAGE}:
        assert IMPORTED[folder / "__init__.py"] == set()


def test_there_is_no_module_of_odds_and_ends():
    assert not {path.stem for path in SOURCES} & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize("file", ["net/reader.py", "net/reader.pyx"])
@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("import os, fastbean.errors as e", {"errors"}),
        ("import fastbean.base.clock as c", {"base.clock"}),
        ("import fastbean", {"__init__"}),
        ("import fastbean.base", {"base"}),
        ("from fastbean import __version__", {"__init__"}),
        ("from fastbean import errors, __version__", {"errors", "__init__"}),
        ("from fastbean.base import limits, clock as c", {"base.limits", "base.clock"}),
        ("from fastbean.base import (  # both\n    limits,  # one\n    clock,\n)", {"base.limits", "base.clock"}),
        ("from fastbean.base import \\\n    limits", {"base.limits"}),
        ("from fastbean.binlog.lock import DirectoryLock", {"binlog.lock"}),
        ("def f():\n    from fastbean.binlog.lock import DirectoryLock", {"binlog.lock"}),
        ("from . import listener", {"net.listener"}),
        ("from .listener import Acceptor", {"net.listener"}),
        ("from .. import errors", {"errors"}),
        ("from ..base import clock", {"base.clock"}),
        ("from ..base.clock import monotonic_ns", {"base.clock"}),
        ("from ..errors import ListenError as E", {"errors"}),
        ("# from fastbean.engine.job import Job\nimport os", set()),
        ("import fastbeanstalk\nfrom fastbeans import x", set()),
        ("if TYPE_CHECKING:\n    from fastbean.server import Server\n\nx = 1\n", set()),
        ("if typing.TYPE_CHECKING:\n    import fastbean.server as s\n", set()),
        (
            "TYPE_CHECKING = False\nif TYPE_CHECKING:\n    from ..server import Server\nimport fastbean.errors",
            {"errors"},
        ),
        ("if TYPE_CHECKING:\n    import os\nelse:\n    from fastbean import errors\n", {"errors"}),
        ("class A:\n    if TYPE_CHECKING:\n        import fastbean.server\n    import fastbean.errors\n", {"errors"}),
    ],
)
def test_the_reader_of_imports(file, source, modules):
    assert imported(PACKAGE / file, source) == modules


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("from fastbean._core cimport Heap, heap_push", {"_core"}),
        ("cimport fastbean._core as core\nimport os, fastbean.errors as e", {"_core", "errors"}),
        ("    from fastbean.base.slab cimport Slab", {"base.slab"}),
        ("from fastbean.base.slab cimport (\n    Slab,\n)", {"base.slab"}),
        ("from ..base.slab cimport Slab", {"base.slab"}),
        ("from ..base cimport slab", {"base.slab"}),
        ("from .hub cimport Hub", {"net.hub"}),
    ],
)
def test_the_reader_of_cimports(source, modules):
    assert imported(PACKAGE / "net" / "reader.pyx", source) == modules
