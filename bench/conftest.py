"""Starts the servers that are compared, keeps the load on a processor of its own, prints the table of ratios."""

import pytest

from .binlog_tools import LogTable
from .contestants import KINDS, LOAD_PROCESSOR, on_processor, running
from .rounds import Table

TABLE = pytest.StashKey[Table]()
LOG_TABLE = pytest.StashKey[LogTable]()


def pytest_configure(config):
    config.stash[TABLE] = Table()
    config.stash[LOG_TABLE] = LogTable()


@pytest.fixture(scope="session")
def table(request):
    """What the end of the run prints; test_alternating_rounds fills it."""
    return request.config.stash[TABLE]


@pytest.fixture(scope="session")
def log_table(request):
    """What the end of the run prints of the log on disk."""
    return request.config.stash[LOG_TABLE]


@pytest.fixture(scope="session")
def contestants(tmp_path_factory, table):
    """The servers that can run here, by kind; table.missing says why others cannot."""
    with running(KINDS, tmp_path_factory.mktemp("servers"), table.missing) as servers:
        yield servers


@pytest.fixture
def own_processor():
    """The load runs on a processor of its own, where there are two."""
    with on_processor(LOAD_PROCESSOR):
        yield


def pytest_terminal_summary(terminalreporter, config):
    tables = {
        "rates: ratios of alternating rounds": config.stash[TABLE],
        "the log on disk: ratios of alternating rounds": config.stash[LOG_TABLE],
    }
    for title, table in tables.items():
        if not table.rounds:
            continue
        terminalreporter.section(title)
        for line in table.lines():
            terminalreporter.write_line(line)
        if LOAD_PROCESSOR is None:
            terminalreporter.write_line("server and load share the processors: these ratios say little")
