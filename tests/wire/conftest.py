"""Fixtures for the tests over a socket.

`server` runs a test twice, against fastbean and against real beanstalkd; `fastbean` and `beanstalkd` are one of them.
Each test has its own server; only `shared` is one server for a whole module. If beanstalkd is not installed, its tests
are skipped with the reason; in CI that is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from . import servers
from .servers import BEANSTALKD, FASTBEAN, KINDS, Server

Starter = Callable[..., Server]

# With real beanstalkd, these still test something of ours: the load tool.
TESTS_OF_OUR_TOOL = "test_benchmark.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the half of each comparison that runs real beanstalkd only."""
    for item in items:
        if item.path.parent != Path(__file__).parent or item.path.name == TESTS_OF_OUR_TOOL:
            continue
        parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
        if BEANSTALKD in parameters:
            item.add_marker("real_beanstalkd")


def skip_without(kind: str) -> None:
    """Skips the test if this kind of server is not installed."""
    try:
        servers.find(kind)
    except servers.ServerMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def needs_beanstalkd() -> None:
    """For a test that starts servers itself, including real beanstalkd."""
    skip_without(BEANSTALKD)


@pytest.fixture
def launch() -> Iterator[Starter]:
    """A function that starts servers (kind, flags, unix) and stops them all after the test."""
    started: list[Server] = []

    def start(kind: str, flags: Sequence[str] = (), unix: Path | None = None) -> Server:
        skip_without(kind)
        server = servers.start(kind, flags=flags, unix=unix)
        started.append(server)
        return server

    yield start
    complaints = [complaint for server in started if (complaint := _stop(server))]
    assert not complaints, "\n".join(complaints)


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, launch: Starter) -> Server:
    """A server of each kind in turn."""
    return launch(request.param)


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server of each kind in turn, shared by the tests of a module: for tests that leave nothing behind."""
    skip_without(request.param)
    server = servers.start(request.param)
    yield server
    complaint = _stop(server)
    assert not complaint, complaint


@pytest.fixture
def fastbean(launch: Starter) -> Server:
    """A running fastbean."""
    return launch(FASTBEAN)


@pytest.fixture
def beanstalkd(launch: Starter) -> Server:
    """A running real beanstalkd."""
    return launch(BEANSTALKD)


def _stop(server: Server) -> str:
    """Stops a server; returns what was wrong with it, or an empty string."""
    written = server.stop()
    if server.kind != FASTBEAN:
        return ""
    if server.returncode != 0:
        return f"fastbean ended with {server.returncode}, not 0; it said:\n{written}"
    # A debug build reports what it has not freed.
    wrong = "Traceback" in written or "left alive" in written
    return f"fastbean's own error:\n{written}" if wrong else ""
