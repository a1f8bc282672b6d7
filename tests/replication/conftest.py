"""A cluster of three real nats-servers for all tests of a module, with a new stream for each test."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from nats_servers import NatsCluster, NatsMissingError

from .nodes import create_stream

_numbers = itertools.count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all tests here as slow: they take servers of their own, and leases of real seconds."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("slow")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    folder: Path = tmp_path_factory.mktemp("nats")
    try:
        made = NatsCluster(folder)
    except NatsMissingError as missing:
        pytest.skip(str(missing))
    try:
        made.start_all()
        yield made
    finally:
        made.close()


@pytest.fixture
def stream(cluster: NatsCluster) -> str:
    """The name of a stream that is empty."""
    name = f"stream{next(_numbers)}"
    asyncio.run(create_stream(cluster.urls, name))
    return name
