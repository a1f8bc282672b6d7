"""The soak: everything at once, for a bounded time, and at the end an account of every job that was ever put.

`python -m crash.soak --seconds 60` from the folder of the tests; `make soak SECONDS=60`. It has two halves on one log:

- rounds of a few seconds with a ledger's writers, whose every command is predicted, and roamers, who do as they please
  and die; a round ends with kill -9, or drains and stops, and the next one checks all that was promised;
- one long run with roamers only, in which the server's memory and descriptors must stay flat.

Then a last server hands out all that is left. It prints its totals, and ends with status 1 and the reason if a job has
no fate or two, something else was wrong, or the process has grown.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from .fates import Fates, is_free
from .ledger import Ledger
from .process import Client, Server, segment_numbers, wait_until
from .roamers import LARGEST, Roamer, empty
from .writers import Load

WRITERS = 3
ROAMERS = 6
UNANSWERED = 500  # ids beyond those that anybody was told, at most: puts on their way when the server died
LONGEST_ROUND_S = 6.0
POLICIES = (("-f", "0"), ("-f", "50"), ("-F",))
TAKEN_BACK = 0.7  # of the drains
SAMPLES = 40  # of memory, in the long run
SEGMENTS = "fastbean-.log"  # their names without their numbers
GROWTH_BYTES = 12 << 20  # what an allocator's ups and downs may make of the same load


class Soak:
    """One soak in `directory`; `run` raises for the first thing that is wrong."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.samples: list[int] = []
        self._directory = directory
        self._rng = random.Random(seed)
        self._error: Exception | None = None  # of the thread that ends a round
        self._fates = Fates()
        self._ledger = Ledger(WRITERS)
        self._load = Load(self._ledger, random.Random(self._rng.random()), largest=65535)

    def run(self, seconds: float) -> None:
        """Everything, in about so many seconds and a few more."""
        half = time.monotonic() + seconds / 2
        while (left := half - time.monotonic()) > 0:
            self._round(min(left, self._rng.uniform(0.5, LONGEST_ROUND_S)))
        self._long_run(seconds / 2)
        self._end()

    def report(self) -> str:
        """The totals, one a line."""
        grown = [f"{each / (1 << 20):.1f}" for each in self.samples]
        lines = [f"{count:>9,}  {what}" for what, count in self.counts.items()]
        return "\n".join([*lines, f"resident MiB in the long run: {' '.join(grown)}"])

    def _server(self, *extra: str) -> Server:
        return Server(self._directory, self._rng.choice(POLICIES), extra=("-z", str(LARGEST), *extra))

    def _roam(self, server: Server, stop: threading.Event) -> list[Roamer]:
        seeds = [self._rng.random() for _ in range(ROAMERS)]
        roamers = [Roamer(server, self._fates, random.Random(seed), stop) for seed in seeds]
        for roamer in roamers:
            roamer.start()
        return roamers

    def _join(self, roamers: list[Roamer]) -> None:
        for roamer in roamers:
            roamer.join()
            self.counts.update(roamer.counts)
        for roamer in roamers:
            if roamer.error is not None:
                raise roamer.error

    def _round(self, seconds: float) -> None:
        """Writers and roamers together, until the server is killed, or drained and stopped."""
        stop = threading.Event()
        kills = self._rng.random() < 0.6
        with self._server() as server:
            with server.connect() as client:
                self._check(client)
                self._ledger.restarted(client)
            roamers = self._roam(server, stop)
            ender = threading.Timer(seconds, self._kill if kills else self._stop, (server,))
            ender.start()
            try:
                self._load.run(server, lambda: False)
            finally:
                stop.set()
                ender.join()
            status = server.wait()
            self._join(roamers)
            if self._error is not None:
                raise self._error
            assert status == (-signal.SIGKILL if kills else 0), f"it ended with {status}:\n{server.said()}"
            assert "Traceback" not in server.said(), server.said()

    def _check(self, client: Client) -> None:
        highest_id = max(self._fates.highest_id, self._ledger.highest_id) + UNANSWERED
        self._ledger.check(client, is_free, highest_id)

    def _kill(self, server: Server) -> None:
        self.counts["kill -9"] += 1
        server.process.kill()

    def _stop(self, server: Server) -> None:
        """Drains, and at times takes the drain back, in the midst of all; then drains and stops."""
        self.counts["drains and clean stops"] += 1
        try:
            self._drain(server)
            if self._rng.random() < TAKEN_BACK:
                self.counts["drains taken back"] += 1
                self._signal(server, signal.SIGUSR2, "false")
                time.sleep(0.2)
                self._drain(server)
        except (AssertionError, EOFError, OSError) as error:
            self._error = error
        finally:
            server.process.send_signal(signal.SIGTERM)

    def _drain(self, server: Server) -> None:
        self._signal(server, signal.SIGUSR1, "true")
        time.sleep(0.2)

    def _signal(self, server: Server, number: signal.Signals, draining: str) -> None:
        """Sends it, and waits until the server's statistics say so."""
        server.process.send_signal(number)
        with server.connect() as client:
            wait_until(lambda: client.stats()["draining"] == draining, f"{number.name} to be heard")

    def _long_run(self, seconds: float) -> None:
        """Roamers only: the same load for all the time, and so the same memory."""
        stop = threading.Event()
        with self._server() as server:
            with server.connect() as client:
                self._check(client)
            wait_until(lambda: connections(server) == 1, "the check's client to be gone")
            idle = descriptors(server)
            roamers = self._roam(server, stop)
            for _ in range(SAMPLES):
                time.sleep(seconds / SAMPLES)
                self.samples.append(resident_bytes(server))
            stop.set()
            self._join(roamers)
            assert server.process.poll() is None, server.said()
            with server.connect() as client:
                self.counts["reservations that ran out in the long run"] = int(client.stats()["job-timeouts"])
            wait_until(lambda: connections(server) == 1, "the roamers' connections to be gone")
            wait_until(
                lambda: not self._more_than(idle, server), f"descriptors as before, {idle}: {descriptors(server)}"
            )
            assert server.stop() == 0, server.said()
        quarter = SAMPLES // 4
        before, after = sorted(self.samples[quarter : 2 * quarter]), sorted(self.samples[-quarter:])
        grown = after[quarter // 2] - before[quarter // 2]
        assert grown < GROWTH_BYTES, f"the process grew by {grown} bytes: {self.samples}"

    def _more_than(self, idle: Counter[str], server: Server) -> Counter[str]:
        """Descriptors that there were not before; of the log, more than one for each file."""
        more = descriptors(server) - idle
        more[_without_numbers(self._directory / SEGMENTS)] -= len(segment_numbers(self._directory))
        return +more

    def _end(self) -> None:
        """A last server hands out what there is, and every job must have its fate."""
        with self._server() as server, server.connect() as client:
            self._check(client)
            taken = empty(client, self._fates)
            self._ledger.check_nothing_else(client)
            assert server.stop() == 0, server.said()
        self.counts["commands of the ledger's writers, as predicted"] = self._ledger.acknowledged
        self.counts["the ledger's jobs at the end"] = len(self._ledger.jobs)
        fates = self._fates.totals()
        assert taken == sum(count for what, count in fates.items() if what.startswith("still there"))
        assert sum(fates.values()) == len(self._fates.by_token)
        for what in sorted(fates):
            self.counts[f"jobs of the roamers: {what}"] = fates[what]


def connections(server: Server) -> int:
    """How many clients it has, this one too."""
    with server.connect() as client:
        return int(client.stats()["current-connections"])


def resident_bytes(server: Server) -> int:
    """The memory of the process that is not shared with files."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def descriptors(server: Server) -> Counter[str]:
    """What the process has open, by kind: sockets, pipes, and the names of files without their numbers."""
    found: Counter[str] = Counter()
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[_without_numbers(each.readlink())] += 1
    return found


def _without_numbers(path: Path) -> str:
    return re.sub(r"[\d\[\]]+", "", str(path))


def main() -> int:
    """The program; its exit status is 0 when all was well."""
    parser = argparse.ArgumentParser(prog="python -m crash.soak", description="Everything at once, and an account.")
    parser.add_argument("--seconds", type=float, default=600, help="for how long; default 600")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32), help="of all that is random")
    arguments = parser.parse_args()
    sys.stdout.write(f"soak of {arguments.seconds:g} seconds, seed {arguments.seed}\n")
    with tempfile.TemporaryDirectory(prefix="fastbean-soak-") as directory:
        soak = Soak(Path(directory), arguments.seed)
        try:
            soak.run(arguments.seconds)
        except AssertionError as error:
            sys.stdout.write(f"{soak.report()}\nFAILED: {error}\n")
            return 1
        sys.stdout.write(f"{soak.report()}\nevery job has exactly one fate\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
