"""Fixtures for the tests over a socket.

`server` runs a test twice, against fastbean and against the real beanstalkd; `fastbean` and `beanstalkd` are one of
them. A server belongs to one test, but for `shared`. Where beanstalkd is not installed its tests are skipped, and say
why; in CI that is a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from . import servers
from .servers import BEANSTALKD, FASTBEAN, KINDS, Server

Starter = Callable[..., Server]


def skip_without(kind: str) -> None:
    """Skips the test where this kind of server is not installed."""
    try:
        servers.find(kind)
    except servers.ServerMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def needs_beanstalkd() -> None:
    """For a test that starts servers by itself, a real beanstalkd among them."""
    skip_without(BEANSTALKD)


@pytest.fixture
def launch() -> Iterator[Starter]:
    """A function that starts servers (kind, flags, unix, program) and stops them all after the test."""
    started: list[Server] = []

    def start(
        kind: str, flags: Sequence[str] = (), unix: Path | None = None, program: Sequence[str] | None = None
    ) -> Server:
        skip_without(kind)
        server = servers.start(kind, flags=flags, unix=unix, program=program)
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
    """A server of each kind in turn that all tests of a module share: for those that leave nothing behind."""
    skip_without(request.param)
    server = servers.start(request.param)
    yield server
    complaint = _stop(server)
    assert not complaint, complaint


@pytest.fixture
def fastbean(launch: Starter) -> Server:
    """A fastbean."""
    return launch(FASTBEAN)


@pytest.fixture
def beanstalkd(launch: Starter) -> Server:
    """A real beanstalkd."""
    return launch(BEANSTALKD)


def _stop(server: Server) -> str:
    """Stops a server; what there is to complain of, or nothing."""
    written = server.stop()
    if server.kind != FASTBEAN:
        return ""
    if server.returncode != 0:
        return f"fastbean ended with {server.returncode}, not 0; it said:\n{written}"
    # A debug build says what it has not freed.
    wrong = "Traceback" in written or "left alive" in written
    return f"fastbean's own error:\n{written}" if wrong else ""
