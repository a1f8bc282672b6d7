"""Which build of fastbean the tests run on, for the tests that depend on it; and how to compile their own libraries.

``tests/fuzz/sanitizers.py`` and ``make coverage`` set the variables.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
modules = cythonize([Extension({name!r}, [{name!r} + ".pyx"])], include_path=[{src!r}], language_level=3)
setup(name={name!r}, ext_modules=modules, script_args=["-q", "build_ext", "--inplace"])
"""

IS_SANITIZED = "FASTBEAN_SANITIZED" in os.environ
IS_COVERAGE = "FASTBEAN_COVERAGE" in os.environ


def fewer_if_slow(number: int, few: int) -> int:
    """``number`` in a usual build; ``few`` in a slow one, where it matters which lines run, not how often.

    Only for what runs the same lines either way: `make test` uses the whole number.
    """
    return few if IS_SANITIZED or IS_COVERAGE else number


def compile_library(source: Path, folder: Path, *flags: str) -> Path:
    """Compiles a C file into a shared library in ``folder``, with the compiler of ``$CC``; returns its path."""
    library = folder / f"{source.stem}.so"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, "-O1", "-shared", "-fPIC", "-o", str(library), str(source), *flags], check=True)
    return library


def compile_module(source: Path, folder: Path) -> None:
    """Compiles a Cython module that cimports ours into ``folder``, from where it can be imported."""
    (folder / source.name).write_bytes(source.read_bytes())
    (folder / "setup.py").write_text(SETUP.format(name=source.stem, src=str(ROOT / "src")))
    subprocess.run([sys.executable, "setup.py"], cwd=folder, check=True, capture_output=True)
