"""The pytest plugin: fixtures that give a test suite a fresh server in a process of its own.

pytest finds it by its entry point wherever fastbean is installed beside pytest. Nothing else imports it, and until a
fixture is used it imports nothing of fastbean but the empty package. ``-p no:fastbean`` turns it off.

Fixtures: ``fastbean_server``, one per test; ``fastbean_session_server``, one for all tests (one per worker of
pytest-xdist); ``start_fastbean(*flags, unix=..., binlog_dir=...)``, as many as a test needs. Each returns a
:class:`fastbean.testing.ServerProcess`. What a server wrote to stderr during a test is shown if the test fails; a
server that ends with an error by itself is an error of the test.
"""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from typing import Any

    from fastbean.testing import ServerProcess

LINES_SHOWN = 100
MARKER = "fastbean_flags(*flags): flags of this test's fastbean_server, after those of the configuration"
_SERVERS = pytest.StashKey["dict[ServerProcess, int]"]()  # running servers; for each, its log size at the test's start


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds ``--fastbean-flags`` and the other options, each with an ini setting for its default."""
    group = parser.getgroup("fastbean", "fastbean, the work queue server")
    group.addoption("--fastbean-flags", metavar="FLAGS", help="flags of each server, in one string: '-V -z 1000'")
    group.addoption("--fastbean-socket", choices=["tcp", "unix"], help="where servers listen (default: tcp)")
    group.addoption(
        "--fastbean-binlog-dir",
        metavar="DIR",
        help="each server keeps a binlog, in a new folder of its own below DIR, which is not removed",
    )
    parser.addini("fastbean_flags", "flags of each fastbean server", default="")
    parser.addini("fastbean_socket", "where fastbean servers listen: tcp or unix", default="tcp")
    parser.addini("fastbean_binlog_dir", "folder below which each fastbean server keeps its binlog", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker."""
    config.addinivalue_line("markers", MARKER)
    config.stash[_SERVERS] = {}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Notes how much each running server has logged so far: that output does not belong to this test."""
    servers = item.config.stash[_SERVERS]
    for server in servers:
        servers[server] = server.log_size


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the output of the servers to the report of a failed test."""
    report = yield
    if report.failed:
        for server, start in item.config.stash[_SERVERS].items():
            text = _last_lines(server.log(start))
            if text:
                report.sections.append((f"fastbean stderr {_name(server)}", text))
    return report


@pytest.fixture
def fastbean_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """A fresh fastbean for this test: ``.address``, ``.log()``, ``.restart()``, ``.kill()``; see ServerProcess."""
    flags = [flag for mark in reversed(list(request.node.iter_markers("fastbean_flags"))) for flag in mark.args]
    yield from _serve(request, flags)


@pytest.fixture(scope="session")
def fastbean_session_server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    """One fastbean for all tests; each test should use tubes of its own."""
    yield from _serve(request, [])


@pytest.fixture
def start_fastbean(request: pytest.FixtureRequest) -> Iterator[Callable[..., ServerProcess]]:
    """A function ``(*flags, unix=None, binlog_dir=None)`` that starts one more fastbean for this test."""
    running = []

    def start(*flags: str, unix: bool | None = None, binlog_dir: Any = None) -> ServerProcess:
        serving = _serve(request, flags, unix, binlog_dir)
        server = next(serving)
        running.append(serving)
        return server

    yield start
    errors = []
    for serving in reversed(running):
        try:
            next(serving, None)
        except RuntimeError as error:
            errors.append(str(error))
    if errors:
        raise RuntimeError("\n".join(errors))


def _serve(
    request: pytest.FixtureRequest, flags: Any, unix: bool | None = None, binlog_dir: Any = None
) -> Iterator[ServerProcess]:
    """Starts a server, yields it, and stops it. Raises RuntimeError if the server ended with an error by itself."""
    from fastbean.testing import ServerProcess

    config = request.config
    if unix is None:
        kind = _setting(config, "fastbean_socket")
        if kind not in ("tcp", "unix"):
            raise pytest.UsageError(f"fastbean_socket is {kind!r}; it must be tcp or unix")
        unix = kind == "unix"
    if binlog_dir is None and _setting(config, "fastbean_binlog_dir"):
        binlog_dir = _new_folder(_binlog_parent(config), request.node.name)
    flags = [*shlex.split(_setting(config, "fastbean_flags")), *flags]
    servers = config.stash[_SERVERS]
    with ServerProcess(*flags, unix=unix, binlog_dir=binlog_dir) as server:
        servers[server] = 0
        try:
            yield server
        finally:
            del servers[server]
        status = server.stop() if server.started else 0
        if status:
            raise RuntimeError(
                f"fastbean {_name(server)} ended with status {status} "
                f"(a test that expects that calls .kill()):\n{_last_lines(server.log())}"
            )


def _setting(config: pytest.Config, name: str) -> str:
    """The option ``name`` if it was given, otherwise the ini setting of that name."""
    chosen = config.getoption(name)
    return str(config.getini(name) if chosen is None else chosen)


def _binlog_parent(config: pytest.Config) -> str:
    """The folder for binlogs. An option is relative to where pytest was started, an ini setting to the ini file."""
    home = config.invocation_params.dir
    if config.getoption("fastbean_binlog_dir") is None:
        home = config.rootpath if config.inipath is None else config.inipath.parent
    return str(home / _setting(config, "fastbean_binlog_dir"))


def _new_folder(parent: str, name: str) -> str:
    """Creates a folder below ``parent``, named after the test; returns its path."""
    import tempfile

    os.makedirs(parent, exist_ok=True)
    prefix = re.sub(r"[^\w.]+", "-", name)[:60] or "session"
    return tempfile.mkdtemp(prefix=f"{prefix}-", dir=parent)


def _name(server: ServerProcess) -> str:
    address = server.address
    return address if isinstance(address, str) else f"{address[0]}:{address[1]}"


def _last_lines(text: str) -> str:
    lines = text.splitlines(keepends=True)
    left_out = len(lines) - LINES_SHOWN
    return f"... {left_out} lines before\n{''.join(lines[-LINES_SHOWN:])}" if left_out > 0 else text
