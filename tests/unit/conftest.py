"""Fixtures that unit tests share: a server in memory, listeners, the binlog's program, and failing allocations."""

import pytest

import interpreter_memory as interpreter
from allocations import SOURCE, Allocations
from builds import compile_library
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
    """A function that runs the program and returns its exit status, its output and its errors."""

    def run_tool(*words):
        status = tool.main([str(word) for word in words])
        said, complained = capsys.readouterr()
        return status, said, complained

    return run_tool


@pytest.fixture(scope="session")
def allocations(tmp_path_factory):
    """Makes allocations of the compiled modules fail."""
    return Allocations(compile_library(SOURCE, tmp_path_factory.mktemp("allocations"), "-Wall", "-Werror"))


@pytest.fixture(scope="session")
def interpreter_memory(tmp_path_factory):
    """Makes allocations of the interpreter fail, in one thread."""
    folder = tmp_path_factory.mktemp("interpreter")
    return interpreter.InterpreterMemory(compile_library(interpreter.SOURCE, folder, "-Wall", "-Werror", "-lpthread"))
