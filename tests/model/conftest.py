"""Compiles the sink in memory; shows at the end of a run in how many steps the engine was compared with its model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
SETUP = """
from Cython.Build import cythonize
from setuptools import Extension, setup
modules = cythonize([Extension("memory_sink", ["memory_sink.pyx"])], include_path=[{src!r}], language_level=3)
setup(name="memory_sink", ext_modules=modules, script_args=["-q", "build_ext", "--inplace"])
"""


@pytest.fixture(scope="session")
def module(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Return ``memory_sink``, compiled; no other test imports it."""
    folder = tmp_path_factory.mktemp("memory_sink")
    (folder / "memory_sink.pyx").write_bytes((ROOT / "tests/model/memory_sink.pyx").read_bytes())
    (folder / "setup.py").write_text(SETUP.format(src=str(ROOT / "src")))
    # Compiling it would take longer than optimization saves.
    environment = os.environ | {"CFLAGS": "-O0"}
    subprocess.run([sys.executable, "setup.py"], cwd=folder, check=True, capture_output=True, env=environment)
    (path,) = folder.glob("memory_sink.*.so")
    spec = importlib.util.spec_from_file_location("memory_sink", path)
    assert spec is not None
    assert spec.loader is not None
    compiled = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compiled)
    return compiled


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add up what tests recorded as ``steps of ...`` and print it."""
    totals: Counter[str] = Counter()
    for outcome in ("passed", "failed"):
        for report in terminalreporter.getreports(outcome):
            totals.update({name: value for name, value in report.user_properties if name.startswith("steps of")})
    for name, total in totals.items():
        terminalreporter.write_line(f"{name}: {total:,}")
