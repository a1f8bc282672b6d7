"""Transcripts again, over the standard library's selector instead of the compiled poller (``--event-loop selectors``).

Pipelines and reserves have the most to do with waiting: commands behind others, clients that wait, half-closed sockets.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import servers
from .conftest import Starter
from .servers import FASTBEAN, Server
from .test_transcripts_pipelines import *  # noqa: F403 - pytest finds the tests here, and gives them the server below
from .test_transcripts_reserve import *  # noqa: F403

SELECTORS = ["--event-loop", "selectors"]


@pytest.fixture
def server(launch: Starter) -> Server:
    """A fastbean that waits with the standard library's selector."""
    return launch(FASTBEAN, flags=SELECTORS)


@pytest.fixture
def fastbean(server: Server) -> Server:
    """The same."""
    return server


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """The same, for tests that leave nothing behind."""
    server = servers.start(FASTBEAN, flags=SELECTORS)
    yield server
    server.stop()
    assert server.returncode == 0
