"""Daemons for the tests of scale, and enough descriptors for the clients of one test."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator

import pytest

from .daemon import Daemon

Starter = Callable[..., Daemon]


@pytest.fixture
def start() -> Iterator[Starter]:
    """A function that starts daemons (see `Daemon`); they are stopped after the test, and must not have failed."""
    running: list[Daemon] = []

    def starter(**wanted: object) -> Daemon:
        running.append(Daemon(**wanted))  # type: ignore[arg-type]
        return running[-1]

    yield starter
    ended = [(daemon.stop(), daemon.log()) for daemon in running]
    for daemon in running:
        daemon.errors.close()
    for status, log in ended:
        assert status == 0, f"fastbean ended with {status}:\n{log}"
        assert "Traceback" not in log, log


@pytest.fixture
def daemon(start: Starter) -> Daemon:
    """A fastbean on a port."""
    return start()


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Raises the limit on this process's descriptors as far as it goes for the time of one test; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
