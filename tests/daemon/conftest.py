"""Starts ``python -m fastbean`` as a process, on a free port, with its stderr in a file; and stops it."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from patience import PATIENCE_S

STOP_S = 5  # for a server to stop at the end of its test; after that it is killed


def wait_until(condition, what):
    """Waits until ``condition()`` is true, and returns what it returned; fails after a long time."""
    give_up = time.monotonic() + PATIENCE_S
    while not (result := condition()):
        assert time.monotonic() < give_up, f"waited in vain for: {what}"
        time.sleep(0.005)
    return result


class Client:
    """A client with a plain socket: ``ask`` sends a request and returns the first line of the reply."""

    def __init__(self, sock):
        sock.settimeout(PATIENCE_S)
        self.sock = sock
        self.lines = sock.makefile("rb")

    def ask(self, request):
        self.sock.sendall(request)
        return self.lines.readline()

    def stats(self):
        """The statistics of the server, as text by key."""
        size = int(self.ask(b"stats\r\n").split()[1])
        text = self.lines.read(size + 2).decode()
        return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)

    def close(self):
        self.lines.close()
        self.sock.close()


class Daemon:
    """One process; ``log`` is what it has written to stderr so far."""

    def __init__(self, command, log_path, **popen):
        self._log_path = log_path
        self.clients = []
        with log_path.open("wb") as log:
            self.process = subprocess.Popen(command, **{"stderr": log, "stdin": subprocess.DEVNULL, **popen})

    @property
    def log(self):
        return self._log_path.read_text()

    @property
    def pid(self):
        return self.process.pid

    def wait_for_line(self, pattern):
        """Waits for a line of the log in which ``pattern`` is found; returns the match."""

        def found():
            match = re.search(pattern, self.log)
            assert match or self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log}"
            return match

        return wait_until(found, f"{pattern} in the log")

    def wait_until_serving(self):
        self.wait_for_line(r" INFO serving .*\n")
        return self

    @property
    def port(self):
        return int(re.search(r'listening.*address[=": ]+\S+:(\d+)["\n]', self.log)[1])

    def connect(self, host="127.0.0.1"):
        return self._add(socket.create_connection((host, self.port), timeout=PATIENCE_S))

    def connect_unix(self, path):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(str(path))
        except OSError:
            sock.close()
            raise
        return self._add(sock)

    def connect_unix_soon(self, path):
        """Connects as soon as the server listens there."""

        def connected():
            with contextlib.suppress(ConnectionRefusedError, FileNotFoundError):
                return self.connect_unix(path)
            return None

        return wait_until(connected, "a connection")

    def _add(self, sock):
        self.clients.append(Client(sock))
        return self.clients[-1]

    def send_signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        """Waits until it has ended by itself; returns the exit status."""
        return self.process.wait(timeout=PATIENCE_S)

    def stop(self, number=signal.SIGTERM):
        """Stops it with a signal; returns the exit status."""
        self.send_signal(number)
        return self.wait()

    def clean_up(self):
        for client in self.clients:
            client.close()
        # A killed server cannot report which lines have run. The second signal ends it without waiting for clients.
        for number in (signal.SIGTERM, signal.SIGINT):
            if self.process.poll() is None:
                self.process.send_signal(number)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def fastbean_command(*arguments):
    return [sys.executable, "-m", "fastbean", *arguments]


@pytest.fixture
def launch(tmp_path):
    """Starts a command as a daemon; does not wait for anything."""
    daemons = []

    def launch_command(command, **popen):
        popen.setdefault("cwd", tmp_path)
        daemons.append(Daemon(command, tmp_path / f"daemon-{len(daemons)}.log", **popen))
        return daemons[-1]

    yield launch_command
    for daemon in daemons:
        daemon.clean_up()


@pytest.fixture
def start(launch):
    """Starts fastbean with arguments, on 127.0.0.1 and a free port unless they say otherwise, until it serves."""

    def start_fastbean(*arguments, **popen):
        if not any(argument.startswith(("-l", "--listen")) for argument in arguments):
            arguments = ("-l", "127.0.0.1", *arguments)
        return launch(fastbean_command("-p", "0", *arguments), **popen).wait_until_serving()

    return start_fastbean


@pytest.fixture
def run(tmp_path):
    """Runs fastbean until it ends by itself; returns the finished process with its output as text."""

    def run_fastbean(*arguments, **popen):
        return subprocess.run(
            fastbean_command(*arguments),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            cwd=tmp_path,
            check=False,
            stdin=subprocess.DEVNULL,
            **popen,
        )

    return run_fastbean


@pytest.fixture
def beanstalkd():
    """The path of the real beanstalkd; without it the test is skipped."""
    path = shutil.which("beanstalkd", path=f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin")
    if path is None:
        pytest.skip("compares with the real beanstalkd, which is not installed: apt-get install beanstalkd")
    return Path(path)
