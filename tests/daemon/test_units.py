"""The units of packaging/systemd: what systemd says to them, and what the server does inside of what they allow."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fastbean import config, errors
from fastbean.daemon import command_line

from .conftest import Client, fastbean_command
from .test_systemd import HANDOVER

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SERVICE, SOCKET = UNITS / "fastbean.service", UNITS / "fastbean.socket"
TENTHS_OF_EXPOSURE = 20


def find(program, package):
    """The path of a program; without it the test is skipped."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}, which is not installed: apt-get install {package}")
    return path


def settings(unit):
    """The settings of a unit: the values of each name, in their order."""
    found = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def start_flags():
    """What the unit gives to the server, its log being in /var/lib/fastbean and its options being empty."""
    (line,) = settings(SERVICE)["ExecStart"]
    program, *flags = shlex.split(line.replace("%S", "/var/lib").replace("$FASTBEAN_OPTIONS", ""))
    assert program == "/usr/local/bin/fastbean"
    return flags


def test_systemd_takes_the_units(tmp_path):
    for unit in (SERVICE, SOCKET):
        text = unit.read_text().replace("/usr/local/bin/fastbean", str(Path(sys.executable).with_name("fastbean")))
        (tmp_path / unit.name).write_text(text.replace("Documentation=man:fastbean(1)\n", ""))
    command = [find("systemd-analyze", "systemd"), "verify", *sorted(map(str, tmp_path.glob("fastbean.*")))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "fastbean" in line]) == (0, []), done.stderr


def test_the_service_is_in_the_green():
    command = [find("systemd-analyze", "systemd"), "security", "--offline=true", "--no-pager"]
    done = subprocess.run([*command, f"--threshold={TENTHS_OF_EXPOSURE}", SERVICE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    exposure = re.search(r"Overall exposure level for fastbean.service: ([\d.]+)", done.stdout)
    assert float(exposure[1]) * 10 <= TENTHS_OF_EXPOSURE


def test_the_flags_of_the_unit_are_flags_of_the_server():
    wanted = command_line.parse_command_line(start_flags())
    assert wanted.config == config.Config(binlog_dir="/var/lib/fastbean")
    assert settings(SERVICE)["StateDirectory"] == ["fastbean"]


def test_no_restart_where_a_human_has_to_look():
    statuses = set(map(int, settings(SERVICE)["RestartPreventExitStatus"][0].split()))
    human = [
        errors.UsageError,
        errors.BinlogError,
        errors.BinlogFailedError,
        errors.NoSuchUserError,
        errors.PrivilegeError,
    ]
    assert statuses == {each.exit_status for each in human}


def test_the_socket_unit_listens_where_a_server_without_flags_would_but_for_strangers():
    assert settings(SOCKET)["ListenStream"] == [f"127.0.0.1:{config.Config().port}"]


def calls_of_set(name):
    """The system calls of one of systemd's sets, those of the sets in it too."""
    text = subprocess.run(
        [find("systemd-analyze", "systemd"), "syscall-filter", "--no-pager", name], check=True, capture_output=True,
        text=True,
    ).stdout  # fmt: skip
    found = set()
    for line in text.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= calls_of_set(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def play_a_session(port):
    client = Client(socket.create_connection(("127.0.0.1", port)))
    assert client.ask(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
    assert client.ask(b"reserve\r\n") == b"RESERVED 1 1\r\n"
    assert client.lines.readline() == b"a\r\n"
    assert client.stats()["current-jobs-reserved"] == "1"
    client.close()


def test_the_server_calls_only_what_the_unit_allows(launch, tmp_path):
    allowed = set()
    for value in settings(SERVICE)["SystemCallFilter"]:
        calls = set().union(*(calls_of_set(name) for name in value.lstrip("~").split()))
        allowed = allowed - calls if value.startswith("~") else allowed | calls
    assert {"read", "accept4", "epoll_wait", "fdatasync"} <= allowed
    trace, log = tmp_path / "trace", tmp_path / "log"
    log.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = [sys.executable, "-c", HANDOVER, str(listener.fileno()), "", *fastbean_command("-b", str(log), "-f0")]
        command = [find("strace", "strace"), "-f", "-qq", "-o", str(trace), *server]
        environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "10000"}
        daemon = launch(command, env=environment, pass_fds=[listener.fileno()]).wait_until_serving()
    (traced,) = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    try:
        play_a_session(port)
    finally:
        os.kill(int(traced), signal.SIGTERM)
        assert daemon.wait() == 0
    served = trace.read_text().rpartition("execve(")[2]
    called = set(re.findall(r"^\d+ +(\w+)\(", served, re.MULTILINE))
    assert {"accept4", "epoll_wait", "fdatasync"} <= called
    assert called - allowed == set()
    assert set(re.findall(r"socket\((\w+)", served)) <= {"AF_UNIX"}
