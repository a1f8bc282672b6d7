"""What a start loads, and how the process gets on when it is short of things: no stderr, no descriptors, no work."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import PATIENCE_S, fastbean_command, wait_until

# Each would take a good part of the 60 ms that a start may cost, and nothing at the start needs it.
HEAVY = {
    "argparse", "ast", "asyncio", "concurrent", "dataclasses", "datetime", "decimal", "email", "fnmatch", "glob",
    "hashlib", "heapq", "http", "inspect", "ipaddress", "json", "locale", "logging", "multiprocessing", "pathlib",
    "pickle", "platform", "queue", "random", "re", "secrets", "shutil", "ssl", "subprocess", "tempfile", "threading",
    "traceback", "typing", "urllib", "uuid", "xml", "yaml", "zipfile",
}  # fmt: skip
OF_THE_SETTINGS = "import argparse, dataclasses; argparse.ArgumentParser()"
OF_THE_LOG = {"threading"}  # which has two threads


def imported_modules(stderr):
    return {line.split("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:")}


def modules_of_a_run(launch, *flags, id):
    """What a daemon loads from its start to its end, beside what Python and the settings need.

    ``id`` is that of the job it is given.
    """
    traced = [sys.executable, "-X", "importtime"]
    plain = subprocess.run([*traced, "-c", OF_THE_SETTINGS], capture_output=True, text=True, check=True)
    daemon = launch([*traced, "-m", "fastbean", "-l", "127.0.0.1", "-p", "0", *flags]).wait_until_serving()
    assert daemon.connect().ask(b"put 0 0 1 1\r\nx\r\n") == b"INSERTED %d\r\n" % id
    assert daemon.stop() == 0
    added = imported_modules(daemon.log) - imported_modules(plain.stderr)
    assert "fastbean.net.connection" in added
    return added


def heavy_ones(modules):
    return {module.split(".")[0] for module in modules} & HEAVY


def test_a_start_loads_nothing_heavy(launch):
    modules = modules_of_a_run(launch, id=1)
    assert heavy_ones(modules) == set()
    assert "fastbean.binlog" not in modules


@pytest.mark.parametrize("policy", [("-f", "0"), ("-F",)], ids=" ".join)
def test_a_start_with_a_log_loads_nothing_heavy_either(launch, tmp_path, policy):
    for id in (1, 2):  # on an empty folder, and on the log of one job
        modules = modules_of_a_run(launch, "-b", str(tmp_path), *policy, id=id)
        assert "fastbean.binlog.replay" in modules
        assert heavy_ones(modules) == OF_THE_LOG


def modules_of(*arguments):
    command = [sys.executable, "-X", "importtime", "-m", "fastbean", *arguments]
    return imported_modules(subprocess.run(command, capture_output=True, text=True, check=False).stderr)


@pytest.mark.parametrize("flag", ["--help", "--version", "--wrong"])
def test_what_is_answered_at_once_loads_no_server_and_no_settings(flag):
    modules = modules_of(flag)
    assert "fastbean.daemon.command_line" in modules
    assert not modules & {"fastbean.server", "fastbean.config", "fastbean._core", "dataclasses", "socket", "tomllib"}


def test_a_tool_does_not_load_the_daemon():
    modules = modules_of("health", "--help")
    assert "fastbean.daemon.tools" in modules
    assert not modules & {"fastbean.server", "fastbean.config", "fastbean.daemon.command_line", "argparse"}


def soft_limit(number, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))


def limits_of(pid):
    limits = Path(f"/proc/{pid}/limits").read_text()
    return re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()


def test_the_soft_limit_on_descriptors_is_raised_to_the_hard_one(start):
    daemon = start(preexec_fn=soft_limit(64, 200))
    assert limits_of(daemon.pid) == ("200", "200")
    assert " open_files_limit=200\n" in daemon.log


def test_clients_beyond_the_limit_are_served_when_others_have_gone(start):
    daemon = start(preexec_fn=soft_limit(40, 40))
    clients = [daemon.connect() for _ in range(60)]
    daemon.wait_for_line("WARNING not-accepting reason='Too many open files' connections=")
    for client in clients:
        client.sock.sendall(b"list-tube-used\r\n")
    assert [client.lines.readline() for client in clients[:20]] == [b"USING default\r\n"] * 20
    for client in clients[:35]:
        client.close()
    assert [client.lines.readline() for client in clients[35:]] == [b"USING default\r\n"] * 25
    assert daemon.log.count("not-accepting") == 1
    assert daemon.stop() == 0


@pytest.mark.parametrize(("number", "flags", "status"), [(6, (), 71), (11, ("-b", "."), 10)], ids=["bare", "log"])
def test_a_start_without_descriptors_says_what_to_do(run, number, flags, status):
    done = run("-l", "127.0.0.1", "-p", "0", *flags, preexec_fn=soft_limit(number, number))
    assert done.returncode == status
    (line,) = done.stderr.splitlines()[-1:]
    assert line.startswith("fastbean: ")
    assert line.endswith("raise ulimit -n (LimitNOFILE=)")
    assert "Traceback" not in done.stderr


def test_an_idle_server_sleeps(start):
    daemon = start()
    client = daemon.connect()
    assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"

    def switches():
        status = Path(f"/proc/{daemon.pid}/status").read_text()
        return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)[1])

    before = switches()
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(timeout=1)
    assert switches() - before <= 2


def test_a_closed_stderr_is_no_trouble_and_no_client_gets_the_log(start, launch, tmp_path):
    path = tmp_path / "socket"
    command = fastbean_command("-VV", "-l", f"unix:{path}")
    daemon = launch(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command])
    wait_until(path.is_socket, "the socket")
    clients = [daemon.connect_unix_soon(path) for _ in range(3)]
    for client in clients:
        assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert Path(f"/proc/{daemon.pid}/fd/2").readlink() == Path(os.devnull)
    assert daemon.stop() == 0
    assert clients[0].lines.read() == b""


def test_a_broken_stderr_is_no_trouble(launch, tmp_path):
    path = tmp_path / "socket"
    out, into = os.pipe()
    daemon = launch(fastbean_command("-VV", "-l", f"unix:{path}"), stderr=into)
    os.close(into)
    wait_until(path.is_socket, "the socket")
    client = daemon.connect_unix_soon(path)
    os.close(out)
    for _ in range(10):
        assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0


def test_help_into_a_closed_pipe_is_quiet(tmp_path):
    out, into = os.pipe()
    os.close(out)
    command = fastbean_command("--help")
    done = subprocess.run(command, stdout=into, stderr=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    os.close(into)
    assert (done.returncode, done.stderr) == (0, b"")
