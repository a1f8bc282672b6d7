"""The pytest plugin for the test suites of others, run as they run it: by a pytest in a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastbean.testing import ServerProcess
from patience import PATIENCE_S

pytest_plugins = ["pytester"]
# Other plugins that are installed for this suite only take time to load.
QUIET = ["-p", "no:cacheprovider", "-p", "no:hypothesispytest", "-p", "no:benchmark"]

ASK = """
import os, socket

def ask(server, request=b"list-tube-used\\r\\n"):
    address = server.address
    with socket.socket(socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX) as sock:
        sock.settimeout(120)
        sock.connect(address)
        sock.sendall(request)
        return sock.makefile("rb").readline()
"""


@pytest.fixture
def suite(pytester):
    """Runs a test suite with this text and these arguments, warnings being errors; returns what came of it."""

    def run(text, *arguments, ini=""):
        pytester.makeini(f"[pytest]\nfilterwarnings = error\n{ini}")
        pytester.makepyfile(ASK + text)
        return pytester.runpytest_subprocess(*QUIET, *arguments, timeout=600)

    return run


def runs(pid):
    """Whether a process is there and no zombie: who adopts one may be slow to bury it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pid):
    give_up = time.monotonic() + PATIENCE_S
    while runs(pid):
        assert time.monotonic() < give_up, f"process {pid} is still there"
        time.sleep(0.02)


def test_each_test_gets_a_fresh_server_that_is_stopped_after_it(suite):
    text = """
seen = []

def test_one(fastbean_server):
    seen.append(fastbean_server.pid)
    assert ask(fastbean_server, b"put 0 0 9 1\\r\\na\\r\\n") == b"INSERTED 1\\r\\n"

def test_two(fastbean_server):
    assert not os.path.exists(f"/proc/{seen[0]}")
    assert ask(fastbean_server, b"put 0 0 9 1\\r\\na\\r\\n") == b"INSERTED 1\\r\\n"
    assert fastbean_server.host == "127.0.0.1" and fastbean_server.port > 0
"""
    suite(text).assert_outcomes(passed=2)


def test_a_session_shares_one_server_and_a_fresh_one_is_another(suite):
    text = """
seen = set()

def test_one(fastbean_session_server, fastbean_server):
    seen.add(fastbean_session_server.pid)
    assert fastbean_server.pid not in seen
    assert ask(fastbean_session_server, b"put 0 0 9 1\\r\\na\\r\\n") == b"INSERTED 1\\r\\n"

def test_two(fastbean_session_server):
    assert fastbean_session_server.pid in seen
    assert ask(fastbean_session_server, b"put 0 0 9 1\\r\\na\\r\\n") == b"INSERTED 2\\r\\n"
"""
    suite(text).assert_outcomes(passed=2)


def test_a_test_starts_as_many_as_it_wants(suite):
    text = """
def test_one(start_fastbean, tmp_path):
    small, logged = start_fastbean("-z", "1"), start_fastbean(unix=True, binlog_dir=tmp_path)
    assert ask(small, b"put 0 0 9 2\\r\\nab\\r\\n") == b"JOB_TOO_BIG\\r\\n"
    assert ask(logged, b"put 0 0 9 2\\r\\nab\\r\\n") == b"INSERTED 1\\r\\n"
    assert os.path.exists(logged.path)
    logged.restart()
    assert ask(logged, b"peek 1\\r\\n") == b"FOUND 1 2\\r\\n"
    small.kill()
"""
    suite(text).assert_outcomes(passed=1)


def test_flags_come_from_the_ini_the_command_line_and_a_marker(suite):
    text = """
import pytest

def size(server):
    replies = [ask(server, b"put 0 0 9 %d\\r\\n%s\\r\\n" % (n, b"x" * n))[:8] for n in (0, 1, 2)]
    return replies.count(b"INSERTED")

def test_default(fastbean_server):
    assert size(fastbean_server) == int(os.environ["WANTED"])

@pytest.mark.fastbean_flags("-z", "0")
def test_marker(fastbean_server):
    assert size(fastbean_server) == 1
"""
    os.environ["WANTED"] = "2"
    try:
        suite(text, "--strict-markers", ini="fastbean_flags = -V -z 1").assert_outcomes(passed=2)
        os.environ["WANTED"] = "3"
        suite(text, "--fastbean-flags=-z2", ini="fastbean_flags = -V -z 1").assert_outcomes(passed=2)
    finally:
        del os.environ["WANTED"]


def test_logs_on_disk_stay_in_folders_of_their_own(suite, pytester):
    text = """
def test_one(fastbean_server):
    ask(fastbean_server, b"put 0 0 9 1\\r\\na\\r\\n")

def test_two(fastbean_server):
    assert ask(fastbean_server, b"put 0 0 9 1\\r\\na\\r\\n") == b"INSERTED 1\\r\\n"
"""
    suite(text, ini="fastbean_binlog_dir = logs").assert_outcomes(passed=2)
    folders = sorted(path.name for path in (pytester.path / "logs").iterdir())
    assert [name.rsplit("-", 1)[0] for name in folders] == ["test_one", "test_two"]
    suite(text, "--fastbean-binlog-dir", "others").assert_outcomes(passed=2)
    assert all(any(path.glob("*.log")) for path in (pytester.path / "others").iterdir())


def test_unix_sockets_by_configuration(suite):
    text = "def test_one(fastbean_server):\n    assert os.path.exists(fastbean_server.path) and ask(fastbean_server)\n"
    suite(text, "--fastbean-socket=unix").assert_outcomes(passed=1)
    suite(text, ini="fastbean_socket = unix").assert_outcomes(passed=1)
    found = suite(text, ini="fastbean_socket = pipe")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*fastbean_socket is 'pipe'; it must be tcp or unix*"])


def test_what_the_server_wrote_stands_with_the_failure_and_only_there(suite):
    text = """
def test_good(fastbean_session_server):
    ask(fastbean_session_server, b"use good\\r\\n")

def test_bad(fastbean_session_server):
    ask(fastbean_session_server, b"use bad\\r\\n")
    assert False
"""
    found = suite(text, "--fastbean-flags=-VV")
    found.assert_outcomes(passed=1, failed=1)
    found.stdout.re_match_lines([r"-+ fastbean stderr 127\.0\.0\.1:\d+ -+", ".*use bad.*"])
    assert "use good" not in found.stdout.str()


def test_a_server_that_does_not_start_tells_why(suite):
    found = suite("def test_one(fastbean_server):\n    pass\n", "--fastbean-flags=--wrong")
    found.assert_outcomes(errors=1)
    found.stdout.fnmatch_lines(["*fastbean ended with status 5 before it served:*", "*unknown flag: --wrong*"])


def test_a_server_that_crashes_is_an_error_of_its_test(suite):
    text = """
import signal

def test_one(fastbean_server):
    os.kill(fastbean_server.pid, signal.SIGKILL)

def test_two(start_fastbean):
    os.kill(start_fastbean().pid, signal.SIGKILL)

def test_three(fastbean_server):
    fastbean_server.kill()

def test_four(fastbean_server):
    fastbean_server.close()
    assert False
"""
    found = suite(text)
    found.assert_outcomes(passed=3, failed=1, errors=2)
    found.stdout.fnmatch_lines(["*RuntimeError: fastbean 127.0.0.1:* ended with status -9 *"])


def test_workers_of_xdist_have_servers_of_their_own(suite):
    text = """
import pytest

@pytest.mark.parametrize("n", range(4))
def test_one(n, fastbean_server, fastbean_session_server):
    assert ask(fastbean_server, b"put 0 0 9 1\\r\\na\\r\\n") == b"INSERTED 1\\r\\n"
    assert ask(fastbean_session_server) == b"USING default\\r\\n"
"""
    suite(text, "-n", "2").assert_outcomes(passed=4)


def test_the_servers_end_when_pytest_is_killed(pytester):
    pytester.makepyfile(
        "import time\n\ndef test_one(fastbean_server, fastbean_session_server):\n"
        "    print('pids', fastbean_server.pid, fastbean_session_server.pid, flush=True)\n    time.sleep(300)\n"
    )
    command = [sys.executable, "-m", "pytest", "-s", *QUIET]
    with subprocess.Popen(command, cwd=pytester.path, stdout=subprocess.PIPE, text=True) as process:
        pids = next(match for line in process.stdout if (match := re.search(r"pids (\d+) (\d+)", line)))
        process.send_signal(signal.SIGKILL)
    for pid in pids.groups():
        wait_until_gone(pid)


def test_the_plugin_is_found_by_its_entry_point_imports_nothing_and_can_be_turned_off(suite):
    text = """
import sys

def test_one(pytestconfig):
    assert pytestconfig.pluginmanager.has_plugin("fastbean")
    assert {name for name in sys.modules if name.startswith("fastbean")} == {"fastbean", "fastbean.pytest_plugin"}
"""
    suite(text).assert_outcomes(passed=1)
    suite(text, "-p", "no:fastbean").assert_outcomes(failed=1)


def test_this_suite_runs_without_the_plugin(pytestconfig):
    assert not pytestconfig.pluginmanager.has_plugin("fastbean")


class TestServerProcess:
    """The class below the fixtures, for test suites without pytest."""

    @pytest.mark.parametrize("unix", [False, True])
    def test_it_serves_stops_and_serves_again_at_the_same_address(self, unix, tmp_path):
        with ServerProcess("-V", unix=unix, binlog_dir=tmp_path / "log") as server:
            first, pid = server.address, server.pid
            with socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
                sock.connect(server.address)
                sock.sendall(b"put 0 0 9 1\r\na\r\nstats\r\n")
                lines = sock.makefile("rb")
                assert lines.readline() == b"INSERTED 1\r\n"
            server.restart()
            assert server.address == first
            assert server.pid != pid
            assert server.stop() == 0
            assert not server.started
        wait_until_gone(pid)

    def test_a_fresh_server_has_counted_nothing(self):
        with ServerProcess() as server, socket.create_connection(server.address) as sock:
            sock.sendall(b"stats\r\n")
            text = sock.makefile("rb").read1().decode()
        assert "cmd-list-tube-used: 0\n" in text
        assert "total-connections: 1\n" in text

    def test_wrong_use_says_what_to_do(self):
        server = ServerProcess()
        with pytest.raises(RuntimeError, match="was not started; use it in a with"):
            _ = server.address
        with pytest.raises(RuntimeError, match="is not running"):
            server.stop()
        with server:
            with pytest.raises(RuntimeError, match="listens on TCP"):
                _ = server.path
            with pytest.raises(RuntimeError, match="running already"):
                server.start()
        with ServerProcess(unix=True) as server, pytest.raises(RuntimeError, match=r"its address is \.path"):
            _ = server.port

    def test_what_a_service_manager_told_the_tests_is_not_told_the_server(self, monkeypatch):
        monkeypatch.setenv("NOTIFY_SOCKET", "/nonexistent")
        monkeypatch.setenv("LISTEN_FDS", "7")
        monkeypatch.setenv("WATCHDOG_USEC", "1")
        with ServerProcess() as server:
            assert server.stop() == 0

    def test_a_closed_one_can_be_closed_again(self):
        with ServerProcess() as server:
            assert " INFO serving " in server.log()
            server.close()
        server.close()
        assert server.log() == ""

    def test_a_server_that_hangs_is_killed(self):
        with ServerProcess() as server:
            os.kill(server.pid, signal.SIGSTOP)
            assert server.stop(timeout_s=0.05) == -signal.SIGKILL
