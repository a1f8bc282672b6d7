"""Compiles the modules that exist for measuring only, against the .pxd files of this tree: most are not installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .contestants import MissingError

HERE = Path(__file__).parent
FLAGS = "-O3 -g0"  # as those of fastbean's own modules
SCRIPT = """\
from Cython.Build import cythonize
from setuptools import setup
import sys
setup(script_args=["-q", "build_ext", "--inplace"], ext_modules=cythonize(
    sys.argv[1], include_path=[sys.argv[2]], quiet=True,
    compiler_directives={"language_level": 3, "boundscheck": False, "wraparound": False, "cdivision": True}))
"""


def load_compiled(name: str, folder: Path):
    """Imports the module `name`.pyx of this package, compiled in `folder` unless it is there already.

    Raises MissingError without a compiler.
    """
    if not list(folder.glob(f"{name}.*.so")):
        _compile(name, folder)
    (path,) = folder.glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _compile(name, folder):
    if not (shutil.which("cc") and shutil.which("c++")):
        raise MissingError("no C++ compiler is here, so nothing compiled is compared (Debian: apt-get install g++)")
    shutil.copy(HERE / f"{name}.pyx", folder)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"{name}.pyx", str(HERE.parent / "src")],
        cwd=folder,
        env={**os.environ, "CFLAGS": FLAGS, "CXXFLAGS": FLAGS},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name}.pyx does not compile:\n{done.stdout}\n{done.stderr}")
