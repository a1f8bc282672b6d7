"""The servers that are measured side by side: fastbean, beanstalkd, and the floor, compiled from floor.c on the fly.

All run at the same time, on loopback and on one processor, each idle while another one is measured; the load runs on
a second processor where there are two.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FASTBEAN = "fastbean"
BEANSTALKD = "beanstalkd"
FLOOR = "floor"
KINDS = (FASTBEAN, BEANSTALKD, FLOOR)

HOST = "127.0.0.1"
BODY_BYTES = 64
START_LIMIT_S = 20
STOP_LIMIT_S = 20


class MissingError(Exception):
    """A contestant that cannot run here; the text says why and what to do."""


@dataclass
class Contestant:
    """A running server."""

    kind: str
    address: tuple[str, int]
    process: subprocess.Popen

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _two_processors():
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    return (usable[0], usable[1]) if len(usable) > 1 else (None, None)


# None where there is only one, or where a process cannot choose.
SERVER_PROCESSOR, LOAD_PROCESSOR = _two_processors()


@contextmanager
def on_processor(number):
    """Runs this thread, and the processes that it starts, on one processor; on any when the number is None."""
    if number is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {number})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def build_floor(folder: Path) -> Path:
    """Compiles the floor into the folder."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise MissingError("no C compiler is here, so nothing is compared with the floor (Debian: apt-get install gcc)")
    program = folder / FLOOR
    subprocess.run([compiler, "-O2", "-o", program, Path(__file__).with_name("floor.c")], check=True)
    return program


def command(kind: str, port: int, folder: Path) -> list[str]:
    """The words that start a server; raises MissingError."""
    if kind == FLOOR:
        return [str(build_floor(folder)), str(port), str(BODY_BYTES)]
    if kind == FASTBEAN:
        return [sys.executable, "-m", "fastbean", "-l", HOST, "-p", str(port)]
    path = shutil.which("beanstalkd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/bin")
    if path is None:
        raise MissingError(
            "no beanstalkd is installed, so nothing is compared with it (Debian: apt-get install beanstalkd)"
        )
    return [path, "-l", HOST, "-p", str(port)]


def start(kind: str, folder: Path) -> Contestant:
    """Starts a server and waits until it takes connections; its log goes to a file in the folder."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    words = command(kind, port, folder)
    log = folder / f"{kind}.log"
    with log.open("wb") as errors, on_processor(SERVER_PROCESSOR):
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
    contestant = Contestant(kind, (HOST, port), process)
    give_up = time.monotonic() + START_LIMIT_S
    while True:
        try:
            socket.create_connection(contestant.address, 1).close()
        except OSError:
            if process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            contestant.stop()
            raise RuntimeError(f"{kind} did not start:\n{log.read_text(errors='replace')}") from None
        return contestant
