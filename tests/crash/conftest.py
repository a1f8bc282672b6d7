"""Fixtures for the crash tests: the compiled shim, fast folders, a wall clock, real beanstalkd."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .faults import compile_shim
from .process import WallClock, find_beanstalkd

# `make test` is for every few minutes: it runs these. `make test-all` runs everything.
QUICK_FILES = (
    "test_kill.py",
    "test_kept.py",
    "test_order.py",
    "test_expected_state.py",
    "test_clock.py",
    "test_soak.py",
    "test_odd_systems.py",
    "test_slow_disk.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all other files as slow."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name not in QUICK_FILES:
            item.add_marker("slow")


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library compiled from faults.c."""
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder in memory if the system has one: for binlogs that are written thousands of times."""
    shared_memory = Path("/dev/shm")
    parent = shared_memory if os.access(shared_memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="fastbean-", dir=parent))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def wall_clock(tmp_path: Path) -> WallClock:
    """A wall clock that can be set for one server."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("sets the clock, which needs libfaketime: apt-get install faketime")
    return WallClock(libraries[0], tmp_path / "clock")


@pytest.fixture
def beanstalkd() -> str:
    """The path of real beanstalkd, for tests of the harness itself."""
    path = find_beanstalkd()
    if path is None:
        pytest.skip("tries the harness on the real beanstalkd, which is not installed: apt-get install beanstalkd")
    return path
