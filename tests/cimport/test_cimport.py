"""Foreign modules are compiled against the installed package, as docs/cimport.md describes."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import fastbean
from fastbean import _core

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "src" / "fastbean"
DOC = HERE.parents[1] / "docs" / "cimport.md"
INSTALLED = Path(fastbean.__file__).parent


def build(folder, *sources, python_path=None):
    """Copy sources to a folder and compile them there."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in sources:
        shutil.copy(HERE / source, folder)
    done = compile_in(folder, python_path)
    assert done.returncode == 0, f"the foreign project does not build:\n{done.stdout}\n{done.stderr}"
    return folder


def compile_in(folder, python_path=None):
    """Run the foreign project's setup.py in a folder; returns the completed process."""
    shutil.copy(HERE / "foreign" / "setup.py", folder)
    env = {**os.environ, "CFLAGS": "-O0"}
    if python_path is not None:
        env["PYTHONPATH"] = str(python_path)
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def load(folder, name):
    (path,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return build(tmp_path_factory.mktemp("foreign"), "foreign/foreign.pyx", "surface/surface.pyx")


@pytest.fixture(scope="module")
def surface(built):
    return load(built, "surface")


def test_pxd_files_are_installed():
    assert (INSTALLED / "__init__.pxd").is_file()
    assert (INSTALLED / "_core.pxd").is_file()


def test_a_foreign_module_cannot_cimport_what_is_internal(tmp_path):
    internal = {path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.pxd")}
    internal = {".".join(path.parts) for path in internal if path.name != "__init__" and path.parts != ("_core",)}
    assert {"engine.job", "engine.state", "net.connection", "binlog.writer"} <= internal
    lines = [f"cimport fastbean.{name} as module{number}" for number, name in enumerate(sorted(internal))]
    (tmp_path / "curious.pyx").write_text("\n".join(["from fastbean.engine.job cimport Job", *lines]) + "\n")
    done = compile_in(tmp_path)
    assert done.returncode != 0
    assert list(tmp_path.glob("curious.*.so")) == []
    refused = set(re.findall(r"'fastbean/([\w/]+)\.pxd' not found", done.stdout + done.stderr))
    assert internal <= {name.replace("/", ".") for name in refused}


def test_example_runs(built):
    foreign = load(built, "foreign")
    assert foreign.expired([50, 10, 99, 10, 30], 50) == [1, 3, 4, 0]
    assert foreign.expired([], 50) == []


@pytest.mark.parametrize("name", ["foreign.pyx", "setup.py", "pyproject.toml"])
def test_doc_shows_the_example_that_is_built(name):
    blocks = re.findall(r"^```\w+\n(.*?)^```$", DOC.read_text(), re.DOTALL | re.MULTILINE)
    assert (HERE / "foreign" / name).read_text() in blocks


def test_doc_names_every_function_of_the_surface():
    declared = set(re.findall(r"\b(heap_\w+)\(", (INSTALLED / "_core.pxd").read_text())) - {"heap_abi"}
    assert "heap_build" in declared
    assert set(re.findall(r"^\| `(heap_\w+)\(", DOC.read_text(), re.MULTILINE)) == declared


def test_doc_states_the_abi():
    assert f"The ABI number is {_core.ABI}." in DOC.read_text()


def test_wrong_abi_is_an_import_error(tmp_path):
    other = tmp_path / "other" / "fastbean"
    other.mkdir(parents=True)
    for file in (*INSTALLED.glob("*.pxd"), INSTALLED / "__init__.py"):
        shutil.copy(file, other)
    pxd = other / "_core.pxd"
    text, changed = re.subn(r"HEAP_ABI = \d+", "HEAP_ABI = 999", pxd.read_text())
    pxd.write_text(text)
    assert changed == 1
    folder = build(tmp_path / "foreign", "foreign/foreign.pyx", python_path=other.parent)
    done = subprocess.run([sys.executable, "-c", "import foreign"], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: this module was compiled for heap ABI 999 of fastbean._core, but the installed fastbean has heap "
        f"ABI {_core.ABI}: rebuild the module against the installed fastbean"
    )


@pytest.mark.parametrize("mask", [7, 2**64 - 1], ids=["few keys", "many keys"])
@pytest.mark.parametrize("seed", [1, 88172645463325252])
def test_random_calls_keep_the_heap_in_order(surface, seed, mask):
    faults, longest = surface.random_calls(seed, 5_000, mask)
    assert faults == 0
    assert longest > 100


@pytest.mark.parametrize("mask", [7, 2**64 - 1], ids=["few keys", "many keys"])
@pytest.mark.parametrize("before", [0, 1, 4, 5, 20, 21, 22, 85, 200])
def test_appended_entries_are_in_order_once_the_heap_is_built(surface, before, mask):
    for count in (*range(25), 64, 85, 86, 300):
        for seed in (1, 88172645463325252):
            assert surface.built(seed, before, count, mask) == (0, before + count)


@pytest.mark.parametrize("count", [0, 1, 2, 6, 500])
def test_building_orders_slots_with_new_keys(surface, count):
    assert surface.rebuilt(88172645463325252, count) == 0


def test_exchanging_in_an_empty_heap_changes_nothing(surface):
    assert surface.exchanged_in_an_empty_heap() == (True, True, True, True)


def test_order_is_key_then_tie(surface):
    top = 2**64 - 1
    keys = [(top, top), (0, top), (top, 0), (1, 0), (0, 0), (2**63, 5), (2**63 - 1, 6), (2**63, 4)]
    assert surface.ordered(keys) == sorted(keys)


def test_empty_heap(surface):
    assert surface.empty() == (True, True, 0)


@pytest.mark.parametrize("extra", [0, 1, 4, 5, 100])
def test_reserved_room_is_enough(surface, extra):
    assert surface.reserved(extra)


def test_reserving_too_much_changes_nothing(surface):
    assert surface.reserved_beyond_the_limit() == (-1, True)


def test_array_doubles_and_halves(surface):
    seen = surface.caps(500)
    assert max(cap for _, cap in seen) == 512
    assert seen[-1] == (0, 4)
    assert all(cap in (before, 2 * before, before // 2) for (_, before), (_, cap) in pairwise(seen))
    assert all(length <= cap for length, cap in seen)
    popping = seen[500:]
    assert all(4 * length > cap or cap == 4 for length, cap in popping)
    assert all(cap - length >= 2 for length, cap in popping if 2 * length <= cap)


def test_free_leaves_an_empty_heap_and_does_not_touch_nodes(surface):
    assert surface.freed() == (0, 0, True, 1)


def test_sizes_are_those_promised(surface):
    assert surface.sizes() == (4, 24)
