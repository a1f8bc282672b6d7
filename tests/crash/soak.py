"""The soak test: every kind of load at once, for a limited time; at the end it accounts for every job ever put.

Run ``make soak SECONDS=60``, or ``python -m crash.soak --seconds 60`` in the folder ``tests``. It has two halves on one
binlog:

- rounds of a few seconds with writers, whose every command is predicted, and random clients, which are not predictable
  and disconnect at any time; a round ends with kill -9 or with a drain and a stop, and the next round checks everything
  that was acknowledged;
- one long run with random clients only, during which the server's memory and descriptors must not grow.

Then a last server hands out all remaining jobs. The program prints totals. It exits with status 1 and the reason if a
job met no end or two, anything else was wrong, or the process grew.
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
from collections.abc import Callable
from pathlib import Path

from .exactly_once import ExactlyOnceCheck, is_random_client_job
from .expected_state import ExpectedState
from .process import Client, Server, segment_numbers, wait_until
from .random_clients import LARGEST, RandomClient, drain_tubes
from .writers import Load

WRITERS = 3
RANDOM_CLIENTS = 6
UNANSWERED = 500  # most puts that may be on their way when the server dies; ids above the highest known one
LONGEST_ROUND_S = 6.0
POLICIES = (("-f", "0"), ("-f", "50"), ("-F",))
ENDED_BY_SIGUSR2 = 0.7  # of the drains
SAMPLES = 40  # of memory, in the long run
SEGMENTS = "fastbean-.log"  # their names without their numbers
GROWTH_BYTES = 12 << 20  # by which the allocator may vary under the same load


class Soak:
    """One soak in ``directory``; `run` raises for the first fault."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self.samples: list[int] = []
        self._directory = directory
        self._rng = random.Random(seed)
        self._error: Exception | None = None  # of the thread that ends a round
        self._exactly_once = ExactlyOnceCheck()
        self._expected = ExpectedState(WRITERS)
        self._load = Load(self._expected, random.Random(self._rng.random()), largest=65535)

    def run(self, seconds: float, is_enough: Callable[[], bool] = lambda: True) -> None:
        """Runs everything; takes about ``seconds`` and a few more.

        is_enough: on a slow machine, rounds go on until this is true.
        """
        half = time.monotonic() + seconds / 2
        while (left := half - time.monotonic()) > 0 or not is_enough():
            longest = LONGEST_ROUND_S if left <= 0 else min(left, LONGEST_ROUND_S)
            self._round(self._rng.uniform(min(0.5, longest), longest))
        self._long_run(seconds / 2)
        self._end()

    @property
    def acknowledged(self) -> int:
        """How many commands of the writers had the expected reply."""
        return self._expected.acknowledged

    def report(self) -> str:
        """The totals, one a line."""
        grown = [f"{each / (1 << 20):.1f}" for each in self.samples]
        lines = [f"{count:>9,}  {what}" for what, count in self.counts.items()]
        return "\n".join([*lines, f"resident MiB in the long run: {' '.join(grown)}"])

    def _server(self, *extra: str) -> Server:
        return Server(self._directory, self._rng.choice(POLICIES), extra=("-z", str(LARGEST), *extra))

    def _start_random_clients(self, server: Server, stop: threading.Event) -> list[RandomClient]:
        seeds = [self._rng.random() for _ in range(RANDOM_CLIENTS)]
        random_clients = [RandomClient(server, self._exactly_once, random.Random(seed), stop) for seed in seeds]
        for each in random_clients:
            each.start()
        return random_clients

    def _join(self, random_clients: list[RandomClient]) -> None:
        for each in random_clients:
            each.join()
            self.counts.update(each.counts)
        for each in random_clients:
            if each.error is not None:
                raise each.error

    def _round(self, seconds: float) -> None:
        """Writers and random clients together, until the server is killed, or drained and stopped."""
        stop = threading.Event()
        kills = self._rng.random() < 0.6
        with self._server() as server:
            with server.connect() as client:
                self._check(client)
                self._expected.restarted(client)
            random_clients = self._start_random_clients(server, stop)
            ender = threading.Timer(seconds, self._kill if kills else self._stop, (server,))
            ender.start()
            try:
                self._load.run(server, lambda: False)
            finally:
                stop.set()
                ender.join()
            status = server.wait()
            self._join(random_clients)
            if self._error is not None:
                raise self._error
            assert status == (-signal.SIGKILL if kills else 0), f"it ended with {status}:\n{server.said()}"
            assert "Traceback" not in server.said(), server.said()

    def _check(self, client: Client) -> None:
        highest_id = max(self._exactly_once.highest_id, self._expected.highest_id) + UNANSWERED
        self._expected.check(client, is_random_client_job, highest_id)

    def _kill(self, server: Server) -> None:
        self.counts["kill -9"] += 1
        server.process.kill()

    def _stop(self, server: Server) -> None:
        """Drains the server under load, sometimes ends the drain and drains again; then stops the server."""
        self.counts["drains and clean stops"] += 1
        try:
            self._drain(server)
            if self._rng.random() < ENDED_BY_SIGUSR2:
                self.counts["drains ended by SIGUSR2"] += 1
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
        """Sends a signal, and waits until the server's statistics show its effect."""
        server.process.send_signal(number)
        with server.connect() as client:
            wait_until(lambda: client.stats()["draining"] == draining, f"{number.name} to be heard")

    def _long_run(self, seconds: float) -> None:
        """Random clients only: the load stays the same, and so must the memory."""
        stop = threading.Event()
        with self._server() as server:
            with server.connect() as client:
                self._check(client)
            wait_until(lambda: connections(server) == 1, "the check's client to be gone")
            idle = descriptors(server)
            random_clients = self._start_random_clients(server, stop)
            for _ in range(SAMPLES):
                time.sleep(seconds / SAMPLES)
                self.samples.append(resident_bytes(server))
            stop.set()
            self._join(random_clients)
            assert server.process.poll() is None, server.said()
            with server.connect() as client:
                self.counts["reservations that ran out in the long run"] = int(client.stats()["job-timeouts"])
            wait_until(lambda: connections(server) == 1, "the random clients' connections to be gone")
            wait_until(
                lambda: not self._more_than(idle, server), f"descriptors as before, {idle}: {descriptors(server)}"
            )
            assert server.stop() == 0, server.said()
        quarter = SAMPLES // 4
        before, after = sorted(self.samples[quarter : 2 * quarter]), sorted(self.samples[-quarter:])
        grown = after[quarter // 2] - before[quarter // 2]
        assert grown < GROWTH_BYTES, f"the process grew by {grown} bytes: {self.samples}"

    def _more_than(self, idle: Counter[str], server: Server) -> Counter[str]:
        """Descriptors that are new since ``idle``; for the binlog, those above one per segment."""
        more = descriptors(server) - idle
        more[_without_numbers(self._directory / SEGMENTS)] -= len(segment_numbers(self._directory))
        return +more

    def _end(self) -> None:
        """A last server hands out all remaining jobs, and every job must have met exactly one end."""
        with self._server() as server, server.connect() as client:
            self._check(client)
            taken = drain_tubes(client, self._exactly_once)
            self._expected.check_nothing_else(client)
            assert server.stop() == 0, server.said()
        self.counts["commands of the writers, as predicted"] = self.acknowledged
        self.counts["the writers' jobs at the end"] = len(self._expected.jobs)
        totals = self._exactly_once.totals()
        assert taken == sum(count for what, count in totals.items() if what.startswith("still there"))
        assert sum(totals.values()) == len(self._exactly_once.by_token)
        for what in sorted(totals):
            self.counts[f"jobs of the random clients: {what}"] = totals[what]


def connections(server: Server) -> int:
    """How many clients the server has, including the one that asks."""
    with server.connect() as client:
        return int(client.stats()["current-connections"])


def resident_bytes(server: Server) -> int:
    """The anonymous resident memory of the process, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"^RssAnon:\s+(\d+)", status, re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def descriptors(server: Server) -> Counter[str]:
    """The open descriptors of the process, counted by kind: sockets, pipes, names of files without their numbers."""
    found: Counter[str] = Counter()
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[_without_numbers(each.readlink())] += 1
    return found


def _without_numbers(path: Path) -> str:
    return re.sub(r"[\d\[\]]+", "", str(path))


def main() -> int:
    """Runs the program; returns its exit status, 0 if there was no fault."""
    parser = argparse.ArgumentParser(
        prog="python -m crash.soak", description="Run every kind of load at once, and account for every job."
    )
    parser.add_argument("--seconds", type=float, default=600, help="how long to run; default 600")
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32), help="seed of the random numbers"
    )
    arguments = parser.parse_args()
    sys.stdout.write(f"soak of {arguments.seconds:g} seconds, seed {arguments.seed}\n")
    with tempfile.TemporaryDirectory(prefix="fastbean-soak-") as directory:
        soak = Soak(Path(directory), arguments.seed)
        try:
            soak.run(arguments.seconds)
        except AssertionError as error:
            sys.stdout.write(f"{soak.report()}\nFAILED: {error}\n")
            return 1
        sys.stdout.write(f"{soak.report()}\nevery job met exactly one end\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
