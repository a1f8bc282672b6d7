"""A full disk (a real one of 4 MB), or a log at its limit: used on for long, restarted, and roomy again at the end.

Bodies are of all sizes up to a third of a segment. Somebody else may take every block that comes free, at any moment.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from .all_commands_session import Session
from .expected_state import ExpectedState
from .process import Client, Server, files_bytes, wait_until
from .writers import Load

DISK = "size=4m"
SEGMENT_BYTES = 65536
LARGEST = 20000
ROUNDS = 1500
POLICIES = {"synced": ("-f", "0"), "within-50-ms": ("-f", "50"), "never-synced": ("-F",)}
LIMIT = 24 * SEGMENT_BYTES


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", DISK, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no `mount` here to make a small file system with")
    if done.returncode != 0:
        pytest.skip(f"this machine lets nobody mount a small file system: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


TOKENS = itertools.count()


class Full:
    """Work on a disk that has no room: everything but puts must go on."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._expected = session.expected
        self._rng = random.Random(len(session.expected.jobs))

    def fill(self) -> int:
        """Puts until even a small one is refused; returns how many were taken."""
        taken = 0
        for largest in (LARGEST, 4000, 100):
            while self._put(self._rng.randrange(largest)):
                taken += 1
        return taken

    def _put(self, size: int) -> bool:
        return self._session.put(f"job{next(TOKENS)}", size).word == "INSERTED"

    def use_on(self, rounds: int) -> None:
        """Releases with other priorities, buries, kicks and touches; the expected state checks each reply."""
        for number in range(rounds):
            self._session.reserve()
            token = next(job.token for job in self._expected.jobs.values() if job.state == "reserved").decode()
            if number % 3 == 0:
                self._session.bury(token, pri=number % 1000)
                self._session.kick(1)
            elif number % 3 == 1:
                self._session.release(token, pri=number % 1000)
            else:
                self._session.touch(token)
                self._session.release(token, pri=number % 1000, delay=5000)
                self._session.kick_job(token)

    def delete_half(self) -> None:
        """Every other job."""
        for job in list(self._expected.jobs.values())[::2]:
            self._session.delete(job.token.decode())

    def put_again(self) -> None:
        """There is room now: sooner or later a put is taken again."""
        wait_until(lambda: self._put(10), "a put to work again")
        wait_until(lambda: self._put(LARGEST), "a large put to work again")


class Thief:
    """Takes every block of a disk that comes free, until it is stopped."""

    def __init__(self, disk: Path) -> None:
        self._path = disk / "stolen"
        self._disk = disk
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._steal)
        self._thread.start()

    def _steal(self) -> None:
        with self._path.open("wb", buffering=0) as file:
            while not self._stopping.wait(0.0005):
                for size in (65536, 4096, 512):
                    try:
                        while not self._stopping.is_set():
                            file.write(bytes(size))
                    except OSError:
                        continue

    def has_all(self) -> None:
        """Waits until nothing is left."""
        wait_until(lambda: os.statvfs(self._disk).f_bavail == 0, "the disk to be full")

    def stop(self) -> None:
        """No more; what was taken stays so."""
        self._stopping.set()
        self._thread.join()


class Watch:
    """Looks all the time at what the log takes: its files, and what the statistics say."""

    def __init__(self, server: Server) -> None:
        self.most = 0
        self._server = server
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        with self._server.connect() as client:
            while not self._stopping.wait(0.005):
                self.most = max(self.most, files_bytes(self._server.directory), told_bytes(client))

    def stop(self) -> int:
        """The most that was seen."""
        self._stopping.set()
        self._thread.join()
        return self.most


def told_bytes(client: Client) -> int:
    return int(client.stats()["binlog-bytes-on-disk"])


def go_through(
    directory: Path, policy: Sequence[str], extra: Sequence[str], rounds: int, begin_to_steal: Callable[[], None]
) -> None:
    """Fills up, uses on, restarts while full, by a kill and by a stop, uses on, makes room, puts again."""
    directory.mkdir()
    expected = ExpectedState(1)
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        full = Full(Session(expected, client))
        assert full.fill() > 100
        full.use_on(rounds)
        begin_to_steal()
        full.use_on(rounds)
        server.kill()
    for end in (Server.kill, Server.stop):
        with Server(directory, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
            expected.check(client)
            expected.restarted(client)
            Full(Session(expected, client)).use_on(rounds)
            end(server)
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        expected.check(client)
        expected.restarted(client)
        full = Full(Session(expected, client))
        full.use_on(rounds)
        full.delete_half()
        full.put_again()
        full.use_on(100)
        assert server.stop() == 0
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        expected.check(client)


def pipelined(
    directory: Path, policy: Sequence[str], extra: Sequence[str], commands: int, begin_to_steal: Callable[[], None]
) -> None:
    """Several writers, each with a few commands on their way at a time; killed, restarted, and used on."""
    expected = ExpectedState(4)
    load = Load(expected, random.Random(7), largest=LARGEST, jobs=60, shared=False)
    for round_number in range(3):
        with Server(directory, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server:
            with server.connect() as client:
                expected.check(client)
                expected.restarted(client)
            watch = Watch(server)
            wanted = commands * (round_number + 1)
            try:
                load.run(server, lambda wanted=wanted: expected.acknowledged > wanted)
            finally:
                most = watch.stop()
            if "--binlog-max-bytes" in extra:
                assert most <= LIMIT
            if round_number == 0:
                begin_to_steal()
            server.kill()
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        expected.check(client)


@pytest.fixture
def thieves(small_disk: Path) -> Iterator[Callable[[], None]]:
    """A function that sets a thief on the small disk, and returns when that has taken all."""
    found: list[Thief] = []

    def begin() -> None:
        found.append(Thief(small_disk))
        found[-1].has_all()

    yield begin
    for thief in found:
        thief.stop()


ROUNDS_OR_MANY = pytest.mark.parametrize("rounds", [ROUNDS, pytest.param(10 * ROUNDS, marks=pytest.mark.slow)])
EACH_POLICY = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)


@ROUNDS_OR_MANY
@EACH_POLICY
def test_a_full_disk_refuses_puts_and_nothing_else(
    small_disk: Path, thieves: Callable[[], None], policy: Sequence[str], rounds: int
) -> None:
    go_through(small_disk / "log", policy, (), rounds, thieves)


@ROUNDS_OR_MANY
@EACH_POLICY
def test_a_log_at_its_limit_refuses_puts_and_nothing_else(
    memory_path: Path, policy: Sequence[str], rounds: int
) -> None:
    def is_below() -> None:
        assert files_bytes(memory_path / "log") <= LIMIT

    go_through(memory_path / "log", policy, ("--binlog-max-bytes", str(LIMIT)), rounds, is_below)
    is_below()


@ROUNDS_OR_MANY
@EACH_POLICY
def test_several_clients_at_once_on_a_full_disk(
    small_disk: Path, thieves: Callable[[], None], policy: Sequence[str], rounds: int
) -> None:
    directory = small_disk / "log"
    directory.mkdir()
    (small_disk / "other").write_bytes(bytes(2 << 20))
    pipelined(directory, policy, (), 4 * rounds, thieves)


@ROUNDS_OR_MANY
@EACH_POLICY
def test_several_clients_at_once_at_the_limit(memory_path: Path, policy: Sequence[str], rounds: int) -> None:
    def is_below() -> None:
        assert files_bytes(memory_path) <= LIMIT

    pipelined(memory_path, policy, ("--binlog-max-bytes", str(LIMIT)), 4 * rounds, is_below)
