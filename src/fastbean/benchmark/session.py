"""Runs one scenario against one server, any number of times, and leaves the server as it was.

A session uses one tube of its own, or many, all with the same random prefix. Only the scenario itself is timed: jobs
that it takes are put before, jobs that it leaves are deleted afterwards, over other connections. With a limit in
seconds, scenarios that leave or take jobs run in slices of SLICE_JOBS, so that the server never holds more jobs; the
latencies and the times of all slices are added up. Closing the session, whatever happened in it, deletes every job in
its tubes; if that fails, LeftoverError says where to look.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastbean.benchmark.load import Histogram, Jobs, Load, LoadError
from fastbean.benchmark.server import Client
from fastbean.benchmark.wake import Wake

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from fastbean.benchmark.load import Result
    from fastbean.benchmark.scenarios import Scenario
    from fastbean.benchmark.server import Target

SLICE_JOBS = 100_000
PEEKED_JOBS = 1_000
UNTIMED_DEPTH = 500
UNTIMED_BYTES = 4 << 20
LEAST_S = 0.001


class LeftoverError(LoadError):
    """Some jobs may still be on the server."""


@dataclass(frozen=True)
class Settings:
    """How every scenario is run. It ends after `operations` or `seconds`, whichever comes first; None: no such limit.

    rate: operations per second of an open loop; 0: closed loop. pri: None: random. backlog: None: as many jobs as the
    scenario needs.
    """

    clients: int = 50
    depth: int = 1
    body_bytes: int = 64
    operations: int | None = 100_000
    seconds: float | None = None
    rate: float = 0.0
    tubes: int = 10_000
    pri: int | None = 0
    backlog: int | None = None
    idle: int = 0
    limit_s: float = 10.0


@dataclass
class Figures:
    """What was measured. cpu_us: the server's CPU time per operation. resident_bytes: its memory at the end."""

    operations: int = 0
    seconds: float = 0.0
    latencies: Histogram = field(default_factory=Histogram)
    cpu_us: float | None = None
    resident_bytes: int | None = None

    @property
    def rate(self) -> float:
        """Operations per second."""
        return self.operations / self.seconds


class Session:
    """One scenario against one server. A context manager.

    Raises LoadError when the server fails or answers wrongly. Leaving the session raises LeftoverError; if another
    exception is already being raised, it adds a note to that instead.
    """

    def __init__(self, target: Target, scenario: Scenario, settings: Settings) -> None:
        self._target = target
        self._scenario = scenario
        self._settings = settings
        self._prefix = f"fastbean-benchmark-{secrets.token_hex(4)}"
        self._tube = f"{self._prefix}-main"
        self._jobs = Jobs()
        self._standing = Jobs()
        self._loads: list[Load | Wake] = []
        self._touched = False  # whether the session may have put jobs
        self._spare = 0  # jobs to take that an earlier slice left
        self._pri = None if scenario.random_pri else settings.pri
        backlog = settings.backlog
        if backlog is None:
            backlog = PEEKED_JOBS if scenario.looks_at_jobs else 0
        self._backlog = backlog

    def __enter__(self) -> Self:
        try:
            self._prepare()
        except BaseException as error:
            self._clean_up_after(error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._clean_up()
        else:
            self._clean_up_after(error)

    def measure(
        self,
        operations: int | None,
        seconds: float | None,
        rate: float = 0.0,
        progress: Callable[[int], None] | None = None,
    ) -> Figures:
        """Runs the scenario as `Settings` describes; calls `progress` with the number of operations done."""
        figures = Figures()
        used_ns = 0
        self._touched = True
        while True:
            left = None if operations is None else operations - figures.operations
            left_s = None if seconds is None else seconds - figures.seconds
            if figures.operations and (left == 0 or (left_s is not None and left_s < LEAST_S)):
                break
            wanted = self._slice(left, left_s, rate)
            used_ns -= self._target.cpu_ns()
            result = self._load.run(
                wanted,
                seconds=left_s,
                rate=rate,
                progress=None if progress is None else _counting_from(figures.operations, progress),
            )
            used_ns += self._target.cpu_ns()
            figures.resident_bytes = self._target.resident_bytes()
            figures.operations += result.operations
            figures.seconds += result.seconds
            figures.latencies.add(result.latencies)
            self._after_slice(result)
            if result.operations == 0:
                break
        figures.cpu_us = None if self._target.pid is None else used_ns / 1000 / max(figures.operations, 1)
        return figures

    def _slice(self, left: int | None, left_s: float | None, rate: float) -> int | None:
        """Puts the jobs that the next slice takes; returns the number of its operations."""
        if not (self._scenario.leaves_jobs or self._scenario.takes_jobs):
            return left
        wanted = left
        if left_s is not None:
            wanted = SLICE_JOBS if left is None else min(left, SLICE_JOBS)
            if rate:
                wanted = max(1, min(wanted, round(rate * left_s)))
        if self._scenario.takes_jobs and wanted is not None and wanted > self._spare:
            self._put("put", wanted - self._spare, self._jobs)
            self._spare = wanted
        return wanted

    def _after_slice(self, result: Result) -> None:
        if self._scenario.leaves_jobs:
            self._discard(self._jobs)
        elif self._scenario.takes_jobs:
            self._spare -= result.operations
            if self._spare == 0 and not self._backlog:
                self._jobs.clear()

    def _prepare(self) -> None:
        settings = self._settings
        if settings.idle:
            self._loads.append(self._connect("stats", clients=settings.idle))
        if self._scenario.in_many_tubes:
            self._put("fill", settings.tubes, self._standing)
        if self._backlog:
            self._put("put", self._backlog, self._standing)
        if self._scenario.core:
            jobs = self._jobs if self._scenario.leaves_jobs or self._backlog else None
            self._load: Load | Wake = self._connect(
                self._scenario.core,
                clients=settings.clients,
                depth=settings.depth,
                jobs=self._standing if self._scenario.looks_at_jobs else jobs,
            )
        else:
            # An open loop needs as many jobs in flight as there are workers; a closed one has `depth`.
            self._load = Wake(
                self._target.address,
                workers=settings.clients,
                depth=settings.clients if settings.rate else settings.depth,
                body_bytes=settings.body_bytes,
                limit_s=settings.limit_s,
                tube=self._tube,
            )
            self._loads.append(self._load)
            with Client(self._target, settings.limit_s) as client:
                client.await_waiting(self._tube, settings.clients, settings.limit_s)
            return
        self._loads.append(self._load)

    def _connect(self, core: str, *, clients: int = 1, depth: int = 1, jobs: Jobs | None = None) -> Load:
        return Load(
            self._target.address,
            core,
            clients=clients,
            depth=depth,
            body_bytes=self._settings.body_bytes,
            limit_s=self._settings.limit_s,
            tube=self._tube,
            tubes=self._settings.tubes,
            pri=self._pri,
            delayed=self._scenario.delayed,
            jobs=jobs,
        )

    def _put(self, core: str, count: int, jobs: Jobs) -> None:
        depth = max(1, min(UNTIMED_DEPTH, UNTIMED_BYTES // (self._settings.body_bytes + 1)))
        with self._connect(core, depth=depth, jobs=jobs) as load:
            self._touched = True
            load.run(count)

    def _discard(self, jobs: Jobs) -> None:
        if jobs:
            with self._connect("discard", depth=UNTIMED_DEPTH, jobs=jobs) as load:
                load.run(len(jobs))
            jobs.clear()

    def _clean_up(self) -> None:
        """Closes the connections, which releases their reserved jobs, and deletes every job of the session."""
        for load in self._loads:
            load.close()
        if not self._touched:
            return
        try:
            self._discard(self._jobs)
            self._discard(self._standing)
            with Client(self._target, self._settings.limit_s) as client:
                held = sum(client.empty(tube) for tube in client.tubes(self._prefix))
        except (LoadError, KeyboardInterrupt) as error:
            raise self._leftover(str(error) or "interrupted") from error
        if held:
            raise self._leftover(f"{held} are still reserved")

    def _clean_up_after(self, error: BaseException) -> None:
        """Like _clean_up, but adds what fails as a note to `error`, which is already being raised."""
        try:
            self._clean_up()
        except LeftoverError as leftover:
            error.add_note(str(leftover))

    def _leftover(self, why: str) -> LeftoverError:
        return LeftoverError(f"jobs may be left at {self._target.name} in tubes named {self._prefix}-*: {why}")


def _counting_from(before: int, progress: Callable[[int], None]) -> Callable[[int], None]:
    """Adds the operations of earlier slices to the progress."""
    return lambda done: progress(before + done)
