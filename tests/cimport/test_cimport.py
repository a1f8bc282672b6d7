"""Foreign modules are compiled against the installed package, as docs/cimport.md tells their authors to."""

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
DOC = HERE.parents[1] / "docs" / "cimport.md"
INSTALLED = Path(fastbean.__file__).parent


def build(folder, *sources, python_path=None):
    """Copy sources and the foreign project's setup.py to a folder and compile there, as a stranger would."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in (*sources, "foreign/setup.py"):
        shutil.copy(HERE / source, folder)
    env = {**os.environ, "CFLAGS": "-O0"}
    if python_path is not None:
        env["PYTHONPATH"] = str(python_path)
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"the foreign project does not build:\n{done.stdout}\n{done.stderr}"
    return folder


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


def test_example_runs(built):
    foreign = load(built, "foreign")
    assert foreign.expired([50, 10, 99, 10, 30], 50) == [1, 3, 4, 0]
    assert foreign.expired([], 50) == []


@pytest.mark.parametrize("name", ["foreign.pyx", "setup.py", "pyproject.toml"])
def test_doc_shows_the_example_that_is_built(name):
    blocks = re.findall(r"^```\w+\n(.*?)^```$", DOC.read_text(), re.DOTALL | re.MULTILINE)
    assert (HERE / "foreign" / name).read_text() in blocks


def test_doc_tells_the_abi():
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
