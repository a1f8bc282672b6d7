"""What tests share: a server in memory, listeners, the log's program, and a want of memory."""

import pytest

from allocations import Allocations, compile_library
from fastbean.binlog import tool
from fastbean.net.listener import Options, bind_all
from memory_client import MemoryClient, MemoryServer


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def client(server: MemoryServer) -> MemoryClient:
    return server.client()


@pytest.fixture
def bind():
    """Binds addresses; closes the listeners at the end."""
    bound = []

    def bind_them(*addresses, options=None):
        listeners = bind_all(addresses, options or Options())
        bound.extend(listeners)
        return listeners

    yield bind_them
    for listener in bound:
        listener.close()


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def run(capsys):
    """A function that runs the program: (status, what it said, what it complained)."""

    def run_tool(*words):
        status = tool.main([str(word) for word in words])
        said, complained = capsys.readouterr()
        return status, said, complained

    return run_tool


@pytest.fixture(scope="session")
def allocations(tmp_path_factory):
    """Lets the compiled modules have no memory."""
    return Allocations(compile_library(tmp_path_factory.mktemp("allocations")))
