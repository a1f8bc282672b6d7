"""What the tests of the log's program share, and those of what happens without memory."""

import pytest

from allocations import Allocations, compile_library
from fastbean.binlog import tool


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
