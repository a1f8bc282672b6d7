"""The layers: one folder is one layer, and the table says which folders each may import.

It reads the ``import``, ``from`` and ``cimport`` lines of all modules, the compiled ones too, so that an import upwards
fails here.
"""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "fastbean"

# What each folder may import besides its own modules. A module at the top of the package is listed by its own name.
MAY_IMPORT = {
    "errors": set(),
    "_core": set(),
    "base": set(),
    "protocol": set(),
    "engine": {"_core", "base", "protocol"},
    "binlog": {"base", "engine", "errors"},
    "net": {"base", "engine", "errors", "protocol"},
    "config": {"base", "errors", "net"},
    "daemon": {"base", "config", "errors", "net"},
    "server": {"base", "binlog", "config", "daemon", "engine", "net"},
    "benchmark": {"base", "daemon", "errors", "net"},
    "health": {"daemon"},
    "__main__": {"base", "daemon", "engine", "errors", "server"},
    "testing": {"__main__", "daemon"},
    "pytest_plugin": {"testing"},
    "__init__": {"config", "server"},  # loaded when they are asked for
}
# Where a layer may use only a part of another one.
ONLY = {("binlog", "engine"): {"engine.journal"}}
# The package itself holds the version.
OPEN_TO_ALL = {"__init__"}

SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd", ".pyi"})
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


MODULES = {name_of(path) for path in SOURCES}


def layer_of(module: str) -> str:
    """The folder of a module, or the module itself if it lies at the top."""
    return module.partition(".")[0]


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
            found |= {name if name in MODULES else inside or "__init__" for name in names}
    return found


IMPORTED = {path: imported(path.read_text()) - {name_of(path)} - OPEN_TO_ALL for path in SOURCES}


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


def test_packages_import_nothing():
    """Whoever wants one module of a folder does not load the others."""
    for folder in {path.parent for path in SOURCES} - {PACKAGE}:
        assert imported((folder / "__init__.py").read_text()) == set()


def test_there_is_no_module_of_odds_and_ends():
    assert not {path.stem for path in SOURCES} & {"utils", "util", "helpers", "common", "misc"}


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("from fastbean._core cimport Heap, heap_push", {"_core"}),
        ("cimport fastbean._core\nimport os, fastbean.errors as e", {"_core", "errors"}),
        ("from fastbean.base import limits, clock", {"base.limits", "base.clock"}),
        ("from fastbean.base import (\n    limits,\n    clock,\n)", {"base.limits", "base.clock"}),
        ("from fastbean import __version__", {"__init__"}),
        ("    from fastbean.engine.job import Job", {"engine.job"}),
        ("from fastbean.engine.job cimport (\n    Job,\n)", {"engine.job"}),
        ("from . import errors", {"errors"}),
        ("from ._core cimport Heap", {"_core"}),
        ("from fastbean.binlog.lock import DirectoryLock", {"binlog.lock"}),
        ("# from fastbean.engine.job import Job\nimport os", set()),
        ("if TYPE_CHECKING:\n    from fastbean.server import Server\n\nx = 1\n", set()),
    ],
)
def test_the_reader_of_import_lines(source, modules):
    assert imported(source) == modules
