"""Starts the servers that are compared, runs the load on a processor of its own, and prints the tables at the end.

Benches marked `long` run with `make bench-all` only. The others take less than three minutes; the ones over sockets
come first, and the comparison with beanstalkd is printed last.
"""

import pytest

from .binlog_tools import BinlogTable
from .contestants import KINDS, LOAD_PROCESSOR, on_processor, running
from .rounds import Table
from .summary import TITLE, Summary

SUMMARY = pytest.StashKey[Summary]()
TABLE = pytest.StashKey[Table]()
BINLOG_TABLE = pytest.StashKey[BinlogTable]()
FIRST = "test_bench_server.py"


def pytest_configure(config):
    config.addinivalue_line("markers", "long: takes too long for `make bench`; `make bench-all` runs it")
    config.stash[SUMMARY] = Summary()
    config.stash[TABLE] = Table()
    config.stash[BINLOG_TABLE] = BinlogTable()


def pytest_report_header(config):
    short = config.option.markexpr == "not long"
    return "one to three minutes; `make bench-all` runs the long benches too" if short else None


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name != FIRST)


@pytest.fixture(scope="session")
def summary(request):
    """The table that is printed last; test_rates of the servers fills it."""
    return request.config.stash[SUMMARY]


@pytest.fixture(scope="session")
def table(request):
    """A table printed at the end; test_alternating_rounds fills it."""
    return request.config.stash[TABLE]


@pytest.fixture(scope="session")
def binlog_table(request):
    """A table about the binlog, printed at the end."""
    return request.config.stash[BINLOG_TABLE]


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


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's tables
def pytest_terminal_summary(terminalreporter, config):
    tables = {
        "rates: ratios of alternating rounds": config.stash[TABLE],
        "the binlog: ratios of alternating rounds": config.stash[BINLOG_TABLE],
    }
    for title, table in tables.items():
        if table.rounds:
            _write(terminalreporter, title, table)
    if config.stash[SUMMARY].rows:
        _write(terminalreporter, TITLE, config.stash[SUMMARY])


def _write(terminalreporter, title, table):
    terminalreporter.section(title)
    for line in table.lines():
        terminalreporter.write_line(line)
