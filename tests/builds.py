"""Which build of fastbean the tests run on, for the tests that depend on it; and how to compile their own libraries.

``tests/fuzz/sanitizers.py`` and ``make coverage`` set the variables.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

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
