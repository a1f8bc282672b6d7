"""Starts the servers that are compared, keeps the load on a processor of its own, prints the table of ratios."""

import pytest

from .contestants import KINDS, LOAD_PROCESSOR, MissingError, on_processor, start
from .rounds import Table

TABLE = pytest.StashKey[Table]()


def pytest_configure(config):
    config.stash[TABLE] = Table()


@pytest.fixture(scope="session")
def table(request):
    """What the end of the run prints; test_alternating_rounds fills it."""
    return request.config.stash[TABLE]


@pytest.fixture(scope="session")
def contestants(tmp_path_factory, table):
    """The servers that can run here, by kind; table.missing says why others cannot."""
    folder = tmp_path_factory.mktemp("servers")
    running = {}
    try:
        for kind in KINDS:
            try:
                running[kind] = start(kind, folder)
            except MissingError as missing:
                table.missing[kind] = str(missing)
        yield running
    finally:
        for each in running.values():
            each.stop()


@pytest.fixture
def own_processor():
    """The load runs on a processor of its own, where there are two."""
    with on_processor(LOAD_PROCESSOR):
        yield


def pytest_terminal_summary(terminalreporter, config):
    table = config.stash[TABLE]
    if not table.rounds:
        return
    terminalreporter.section("rates: ratios of alternating rounds")
    for line in table.lines():
        terminalreporter.write_line(line)
    if LOAD_PROCESSOR is None:
        terminalreporter.write_line("server and load share the processors: these ratios say little")
