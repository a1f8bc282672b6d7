"""Counts the instructions of each command under valgrind's callgrind, which do not depend on what else a machine does.

    python -m bench.instructions [--python OTHER] [NAME ...]

Each session runs in memory, without sockets: once with FEW rounds and once with MANY, and the difference is what the
rounds cost. With ``--python`` the fastbean of another interpreter is counted too, for a ratio: a change of the hot path
should stay within 1 %. Needs valgrind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

FEW, MANY = 200, 1200
PUT = b"put 5 0 60 20\r\n01234567890123456789\r\n"
COLLECTED = re.compile(r"Collected : (\d+)")
SEGMENT_BYTES = 1 << 22


class Session:
    """A client in memory, with or without a binlog, that waits for each reply."""

    def __init__(self, directory: str | None) -> None:
        from fastbean.engine.state import State
        from fastbean.net.hub import Hub

        engine = State(hash_key=bytes(16))
        self._hub = Hub(engine, None)
        if directory is not None:
            self._keep_binlog(engine, directory)
        self.client, self.waiting = self._hub.connect(), self._hub.connect()
        self.ask(PUT)

    def _keep_binlog(self, engine, directory):
        from fastbean.binlog.binlog import Binlog
        from fastbean.engine.restore import EngineJobs

        self._binlog = Binlog(
            directory,
            EngineJobs(engine),
            segment_bytes=SEGMENT_BYTES,
            fsync_ms=None,
            log=lambda *_words, **_fields: None,
        )
        self._binlog.open(lambda _text: None)
        # No loop watches the pipe by which a spare segment is reported, and no put is accepted before there is one.
        self._hub.end_iteration(1)
        time.sleep(1)
        self._binlog._take_results(0)

    def ask(self, request: bytes, client=None) -> bytes:
        """Sends a request and returns its reply."""
        client = client or self.client
        client.feed(request, 1)
        return self.reply(client)

    def reply(self, client) -> bytes:
        """The next reply to ``client``; one that waits for the binlog is there an iteration later."""
        for _ in range(3):
            self._hub.end_iteration(1)
            reply = client.take_output()
            if reply:
                return reply
        raise AssertionError("no reply")

    def reserve(self) -> bytes:
        """Reserves a job and returns its id."""
        return self.ask(b"reserve\r\n").split()[1]


def put(session: Session) -> None:
    """One put."""
    session.ask(PUT)


def cycle(session: Session) -> None:
    """put, reserve, delete."""
    session.ask(PUT)
    session.ask(b"delete %s\r\n" % session.reserve())


def wake(session: Session) -> None:
    """A reserve that waits, the put that wakes it, delete."""
    session.ask(b"delete %s\r\n" % session.reserve())
    session.waiting.feed(b"reserve\r\n", 1)
    session.ask(PUT)
    session.ask(b"release %s 5 0\r\n" % session.reply(session.waiting).split()[1], session.waiting)


def bury(session: Session) -> None:
    """reserve, bury, kick."""
    session.ask(b"bury %s 3\r\n" % session.reserve())
    session.ask(b"kick 1\r\n")


def release(session: Session) -> None:
    """reserve, touch, release."""
    id = session.reserve()
    session.ask(b"touch %s\r\n" % id)
    session.ask(b"release %s 3 0\r\n" % id)


def use(session: Session) -> None:
    """One use."""
    session.ask(b"use tube-a\r\n")


ROUNDS: dict[str, Callable[[Session], None]] = {each.__name__: each for each in (put, cycle, wake, bury, release, use)}


def play(name: str, rounds: int, directory: str | None) -> None:
    """What callgrind counts: a session of ``rounds`` rounds."""
    session = Session(directory)
    for _ in range(rounds):
        ROUNDS[name](session)


def instructions(python: str, name: str, *, with_binlog: bool) -> float:
    """Instructions of one round."""
    counts = []
    for rounds in (FEW, MANY):
        with tempfile.TemporaryDirectory() as folder:
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", python, __file__]
            command += ["--play", name, str(rounds), *([folder] if with_binlog else [])]
            environment = {**os.environ, "PYTHONHASHSEED": "0"}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            found = COLLECTED.search(done.stderr)
            if done.returncode or not found:
                raise SystemExit(f"{name}: {done.stderr}")
            counts.append(int(found[1]))
    return (counts[1] - counts[0]) / (MANY - FEW)


def main() -> None:
    """Prints a row for each session, without and with a binlog."""
    parser = argparse.ArgumentParser(description="Count the instructions of each command.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ROUNDS)}; default: all")
    parser.add_argument("--python", help="another interpreter, whose fastbean is counted too")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        raise SystemExit("valgrind is not installed (Debian: apt-get install valgrind)")
    print(f"{'session':34}{'binlog':>8}{'instructions':>14}{'other':>10}{'ratio':>8}")
    for name in arguments.names or ROUNDS:
        for with_binlog in (False, True):
            row = f"{ROUNDS[name].__doc__:34.34}{'yes' if with_binlog else 'no':>8}"
            ours = instructions(sys.executable, name, with_binlog=with_binlog)
            row += f"{ours:14,.0f}"
            if arguments.python:
                other = instructions(arguments.python, name, with_binlog=with_binlog)
                row += f"{other:10,.0f}{ours / other:8.3f}"
            print(row, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--play"]:
        sys.path.remove(str(Path(__file__).parent))
        play(sys.argv[2], int(sys.argv[3]), *(sys.argv[4:] or [None]))
    else:
        main()
