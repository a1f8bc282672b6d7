"""systemd: the service file of Debian's beanstalkd, sockets handed over, readiness and the watchdog."""

import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from .conftest import PATIENCE_S, Client, fastbean_command

DEBIAN = "exec {program} -l ${{BEANSTALKD_LISTEN_ADDR}} -p ${{BEANSTALKD_LISTEN_PORT}} $BEANSTALKD_EXTRA"


@pytest.mark.parametrize("extra", ["", "-V", "-z 100 -VV -f0", " -V  -F "])
def test_debians_service_file_starts_it_with_only_the_path_changed(launch, extra):
    program = " ".join(fastbean_command())
    environment = {
        **os.environ,
        "BEANSTALKD_LISTEN_ADDR": "127.0.0.1",
        "BEANSTALKD_LISTEN_PORT": "0",
        "BEANSTALKD_EXTRA": extra,
    }
    daemon = launch(["/bin/sh", "-c", DEBIAN.format(program=program)], env=environment).wait_until_serving()
    assert daemon.connect().stats()["max-job-size"] == ("100" if "-z" in extra else "65535")
    assert daemon.stop() == 0


def test_the_installed_script_is_the_same_program(launch):
    script = Path(sys.executable).with_name("fastbean")
    daemon = launch([script, "-l", "127.0.0.1", "-p", "0"]).wait_until_serving()
    assert daemon.connect().ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    """A service manager's socket, and its name for NOTIFY_SOCKET."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@fastbean-{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name[1:] if name[0] == "@" else name)
        sock.settimeout(PATIENCE_S)
        yield sock, {**os.environ, "NOTIFY_SOCKET": name}


def test_readiness_status_and_stopping_are_told(start, manager):
    sock, environment = manager
    daemon = start(env=environment)
    assert sock.recv(4096).decode().split("\n") == ["READY=1", f"STATUS=serving 127.0.0.1:{daemon.port}"]
    daemon.send_signal(signal.SIGUSR1)
    assert sock.recv(4096).decode() == "STATUS=draining: new jobs are refused"
    daemon.send_signal(signal.SIGUSR2)
    assert sock.recv(4096).decode() == f"STATUS=serving 127.0.0.1:{daemon.port}"
    assert daemon.stop() == 0
    assert sock.recv(4096).decode().split("\n") == ["STOPPING=1", "STATUS=stopping"]


def test_the_watchdog_is_told_again_and_again(start, manager):
    sock, environment = manager
    daemon = start(env={**environment, "WATCHDOG_USEC": "100000"})
    assert sock.recv(4096).startswith(b"READY=1")
    assert [sock.recv(4096) for _ in range(4)] == [b"WATCHDOG=1"] * 4
    assert daemon.stop() == 0


def test_a_watchdog_for_another_process_is_not_told(start, manager):
    sock, environment = manager
    daemon = start(env={**environment, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    assert sock.recv(4096).startswith(b"READY=1")
    assert daemon.stop() == 0
    assert sock.recv(4096).startswith(b"STOPPING=1")


def test_a_manager_that_is_gone_is_no_error(start, tmp_path):
    daemon = start(env={**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "1000"})
    assert daemon.connect().ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0


# What systemd does between fork and exec: the sockets become 3, 4, ... and the variables name this very process.
HANDOVER = """
import os, sys
given, pid, command = [int(fd) for fd in sys.argv[1].split(",")], sys.argv[2], sys.argv[3:]
moved = [os.dup(fd) for fd in given]
high = [os.dup2(fd, 100 + n) for n, fd in enumerate(moved)]
for n, fd in enumerate(high):
    os.dup2(fd, 3 + n, inheritable=True)
os.environ.update(LISTEN_FDS=str(len(given)), LISTEN_PID=pid or str(os.getpid()))
os.execv(command[0], command)
"""


@pytest.fixture
def hand_over(launch):
    """Starts fastbean with arguments and open sockets, as systemd does."""

    def launch_with(sockets, *arguments, pid=""):
        fds = [sock.fileno() for sock in sockets]
        command = [sys.executable, "-c", HANDOVER, ",".join(map(str, fds)), pid, *fastbean_command(*arguments)]
        return launch(command, pass_fds=fds)

    return launch_with


@pytest.fixture
def listening(tmp_path):
    """A Unix and a TCP socket that listen, as of a .socket unit with two ListenStream= lines."""
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("127.0.0.1", 0)) as tcp:
        unix.bind(str(tmp_path / "activated"))
        unix.listen()
        yield unix, tcp


def test_all_sockets_that_are_handed_over_are_served_and_stay(hand_over, listening, tmp_path):
    _, tcp = listening
    daemon = hand_over(listening).wait_until_serving()
    port = tcp.getsockname()[1]
    assert re.findall(r"listening address=(\S+)\n", daemon.log) == [f"unix:{tmp_path}/activated", f"127.0.0.1:{port}"]
    assert "WARNING" not in daemon.log
    for client in (daemon.connect_unix(tmp_path / "activated"), Client(socket.create_connection(("127.0.0.1", port)))):
        assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
        client.close()
    assert daemon.stop() == 0
    assert (tmp_path / "activated").is_socket()


def test_sockets_that_are_handed_over_override_the_flags_with_a_warning(hand_over, listening):
    daemon = hand_over(listening, "-l", "192.0.2.1", "-p", "1").wait_until_serving()
    assert " WARNING flag-note text='-l and -p are not used: systemd handed over the sockets' sockets=2\n" in daemon.log
    assert "192.0.2.1" not in daemon.log
    assert daemon.stop() == 0


def test_a_flag_that_names_the_default_port_is_warned_of_too(hand_over, listening):
    daemon = hand_over(listening, "-p", "11300").wait_until_serving()
    assert daemon.log.count(" WARNING flag-note text='-l and -p are not used: ") == 1
    assert daemon.stop() == 0


def test_clients_that_came_before_the_start_are_served(hand_over, listening, tmp_path):
    early = socket.socket(socket.AF_UNIX)
    early.connect(str(tmp_path / "activated"))
    client = Client(early)
    client.sock.sendall(b"list-tube-used\r\n")
    daemon = hand_over(listening).wait_until_serving()
    assert client.lines.readline() == b"USING default\r\n"
    client.close()
    assert daemon.stop() == 0


def test_sockets_for_another_process_are_not_touched(hand_over, listening):
    daemon = hand_over(listening, "-l", "127.0.0.1", "-p", "0", pid="1").wait_until_serving()
    assert daemon.port != listening[1].getsockname()[1]
    assert daemon.stop() == 0


def test_what_is_no_listening_socket_is_refused(hand_over):
    with socket.socket() as sock:
        daemon = hand_over([sock])
        assert daemon.wait() == 111
    assert re.fullmatch(r"fastbean: descriptor 3 of LISTEN_FDS: not a listening .*; use ListenStream=.*\n", daemon.log)


def test_sockets_that_are_handed_over_are_for_this_process_only(hand_over, listening):
    daemon = hand_over(listening).wait_until_serving()
    for fd in (3, 4):
        flags = re.search(r"flags:\s+(\d+)", Path(f"/proc/{daemon.pid}/fdinfo/{fd}").read_text())[1]
        assert int(flags, 8) & os.O_CLOEXEC
    assert daemon.stop() == 0
