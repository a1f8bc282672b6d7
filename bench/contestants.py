"""The servers that are compared: fastbean, beanstalkd, and the floor, which is compiled from floor.c when needed.

All run at the same time, on loopback and on one processor, each idle while another one is measured; the load runs on
a second processor where there are two. A server with a binlog gets the flags for it. To imitate a slower disk,
slow_sync.c is compiled and preloaded into it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FASTBEAN = "fastbean"
BEANSTALKD = "beanstalkd"
FLOOR = "floor"
KINDS = (FASTBEAN, BEANSTALKD, FLOOR)

HOST = "127.0.0.1"
OTHER_HOST = "127.0.0.2"  # a client from the same address might be given the server's port, and reach itself
BODY_BYTES = 64
START_LIMIT_S = 20
STOP_LIMIT_S = 20


class MissingError(Exception):
    """A server that cannot run here; the text says why and what to do."""


@dataclass
class Contestant:
    """A running server."""

    kind: str
    address: tuple[str, int]
    process: subprocess.Popen

    def kill(self):
        """Kills the server, as a crash would."""
        self.process.kill()
        self.process.wait()

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


@contextlib.contextmanager
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


def compile_c(name: str, folder: Path, *options: str, use: str) -> Path:
    """Compiles a C file of this package into the folder, unless it is there. `use`: ends the message without one."""
    source = Path(__file__).with_name(name)
    compiled = folder / source.stem
    if compiled.exists():
        return compiled
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise MissingError(f"no C compiler is here, so {use} (Debian: apt-get install gcc)")
    subprocess.run([compiler, "-O2", *options, "-o", compiled, source], check=True)
    return compiled


def build_floor(folder: Path) -> Path:
    """Compiles the floor into the folder."""
    return compile_c("floor.c", folder, use="nothing is compared with the floor")


def slow_sync(folder: Path, microseconds: int) -> dict[str, str]:
    """The environment of a server whose syncs each take `microseconds` or longer; raises MissingError."""
    library = compile_c("slow_sync.c", folder, "-shared", "-fPIC", use="no slower disk is tried")
    return {"LD_PRELOAD": str(library), "SLOW_SYNC_US": str(microseconds)}


def command(kind: str, port: int, folder: Path) -> list[str]:
    """The command line of a server; raises MissingError."""
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


def is_installed(kind: str) -> bool:
    """Whether a server of that kind can be started here. Not for the floor, which is compiled when it is needed."""
    try:
        command(kind, 0, Path())
    except MissingError:
        return False
    return True


def free_port() -> int:
    """A port that no other program uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def spawn(
    kind: str, folder: Path, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Contestant:
    """Starts a server and does not wait for it; its stderr goes to a file in the folder.

    flags: more arguments, such as those for a binlog. environment: variables added to those of this process.
    """
    port = free_port()
    words = [*command(kind, port, folder), *flags]
    with (folder / f"{kind}.log").open("wb") as errors, on_processor(SERVER_PROCESSOR):
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
    return Contestant(kind, (HOST, port), process)


def connect_to(contestant: Contestant, folder: Path, pause_s: float = 0.01) -> socket.socket:
    """Connects to a server, which may still be starting; stops it if it accepts no connection."""
    give_up = time.monotonic() + START_LIMIT_S
    while True:
        try:
            return socket.create_connection(contestant.address, START_LIMIT_S, (OTHER_HOST, 0))
        except OSError:
            if contestant.process.poll() is None and time.monotonic() < give_up:
                time.sleep(pause_s)
                continue
            contestant.stop()
            said = (folder / f"{contestant.kind}.log").read_text(errors="replace")
            raise RuntimeError(f"{contestant.kind} did not start:\n{said}") from None


@contextlib.contextmanager
def running(
    kinds: Sequence[str],
    folder: Path,
    missing: dict[str, str],
    flags_of: Callable[[str], Sequence[str]] = lambda _: (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[dict[str, Contestant]]:
    """Runs the servers that can run here, by kind, until the end; `missing` gets the reasons why others cannot.

    flags_of: more arguments for a server of that kind. environment: as for `spawn`.
    """
    started: dict[str, Contestant] = {}
    try:
        for kind in kinds:
            try:
                started[kind] = start(kind, folder, flags_of(kind), environment)
            except MissingError as error:
                missing[kind] = str(error)
        yield started
    finally:
        for each in started.values():
            each.stop()


def start(
    kind: str, folder: Path, flags: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Contestant:
    """Starts a server, as `spawn` does, and waits until it accepts connections."""
    contestant = spawn(kind, folder, flags, environment)
    connect_to(contestant, folder).close()
    return contestant
