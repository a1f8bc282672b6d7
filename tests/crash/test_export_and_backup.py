"""Logs that leave their server: copied while it works, written for a real beanstalkd, taken over from one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from fastbean.binlog import beanstalkd as old_log
from fastbean.binlog import inspection
from fastbean.binlog.saved_job import SavedJob

from .expected_state import ExpectedState
from .faults import Faults
from .powercut import Disk, read_image, write_image
from .process import BEANSTALKD, Client, Server, StartError, parse_stats, segment_numbers, wait_until
from .replay import started
from .writers import Load

SEGMENT_BYTES = 16384
KEYS = ("tube", "state", "pri", "delay", "ttr", "reserves", "timeouts", "releases", "buries", "kicks")
FAR_S = 100_000
MOST_S = 0.5  # between a moment and what is asked then
BODIES = (b"", b"\r\n", b"\0\xff\r\n\r\n", bytes(65533), b"x" * 300)

Told = Mapping[int, tuple[bytes, ...]]


def tool(*words: str | Path) -> str:
    """Runs the program that looks after logs; returns what it said."""
    command = [sys.executable, "-m", "fastbean.binlog", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), f"{words}: {done.stdout}{done.stderr}"
    return done.stdout


def read_jobs(client: Client, ids: Iterable[int]) -> Told:
    """What a client is told of these jobs: body, what stays the same of stats-job, when it was put and comes due."""
    told = {}
    for id in ids:
        body = client.ask(b"peek %d" % id).body
        if body is not None:
            now_s, stats = stats_in_time(client, id)
            born, due = round(now_s - int(stats["age"])), round(now_s + int(stats["time-left"]))
            late = str(due) if stats["state"] == "delayed" else ""
            told[id] = (body, *(stats[key].encode() for key in KEYS), str(born).encode(), late.encode())
    return told


def stats_in_time(client: Client, id: int) -> tuple[float, dict[str, str]]:
    """A moment, and the statistics of a job at most half a second before it: tries again after a pause."""
    while True:
        before_s = time.time()
        reply = client.ask(b"stats-job %d" % id)
        now_s = time.time()
        if now_s - before_s < MOST_S:
            assert reply.body is not None
            return now_s, parse_stats(reply.body)


def assert_same(told: Told, before: Told) -> None:
    """The same jobs; whole seconds of clocks that were asked at different times differ by two at most."""
    assert told.keys() == before.keys()
    for id, one in told.items():
        other = before[id]
        assert one[:-2] == other[:-2], f"job {id}"
        for mine, theirs in zip(one[-2:], other[-2:], strict=True):
            assert bool(mine) == bool(theirs), f"job {id}"
            assert abs(int(mine or 0) - int(theirs or 0)) <= 2, f"job {id}"


def buried_order(client: Client) -> dict[str, list[int]]:
    """The buried jobs of each tube in the order in which they are kicked; this kicks them."""
    listed = client.ask(b"list-tubes").body
    assert listed is not None
    order = {}
    for tube in (line.removeprefix("- ") for line in listed.decode().splitlines()[1:]):
        client.ask(b"use " + tube.encode())
        order[tube] = []
        while (first := client.ask(b"peek-buried")).word == "FOUND":
            order[tube].append(first.number)
            assert client.ask(b"kick 1").line == b"KICKED 1"
    return {tube: ids for tube, ids in order.items() if ids}


def work(client: Client, rng: random.Random) -> int:
    """Leaves jobs of every state that all servers log; returns the highest id."""
    highest = 0
    for number in range(150):
        tube = rng.choice([b"default", b"t" * 200, b"A-+/;.$_()9"])
        client.ask(b"use " + tube)
        body = BODIES[number % 40] if number % 40 < len(BODIES) else rng.randbytes(rng.randrange(400))
        delay = rng.choice([0, 0, FAR_S, 2**32 - 1])
        reply = client.ask(
            b"put %d %d %d %d" % (rng.randrange(2**32), delay, rng.randrange(60, 2**32), len(body)), body
        )
        highest = reply.number
        id = rng.randrange(1, highest + 1)
        kind = rng.randrange(6)
        if kind == 0:
            client.ask(b"delete %d" % id)
        elif kind == 1:
            client.ask(b"kick-job %d" % id)
        elif kind == 2:
            client.ask(b"kick 1")
        elif client.ask(b"reserve-job %d" % id).word == "RESERVED":
            # A release without a delay is the one thing that a real beanstalkd does not log.
            word = b"bury %d %d" % (id, kind) if kind == 3 else b"release %d %d %d" % (id, kind, FAR_S)
            assert client.ask(word).word in ("BURIED", "RELEASED")
    return highest


# --- the log of a server that works


@pytest.mark.parametrize("policy", [("-f", "0"), ("-f", "50"), ("-F",)], ids=["synced", "within-50-ms", "never-synced"])
def test_a_backup_under_load_has_everything_that_was_acknowledged_before_it(
    tmp_path: Path, policy: tuple[str, ...]
) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    expected = ExpectedState(4)
    load = Load(expected, random.Random(6), largest=3000)
    copies: list[tuple[Path, int]] = []
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES) as server:
        first = segment_numbers(directory)[0]
        taking = Copies(directory, tmp_path, copies)
        load.run(server, taking.take_next)
        wait_until(taking.is_done, "the last backup")
        assert segment_numbers(directory)[0] > first, "no segment was removed while backups were taken"
        server.kill()
    whole = inspection.Inspection(directory)
    assert whole.fault is None
    ends = []
    for copy, written_lsn in copies:
        found = inspection.Inspection(copy)
        assert found.fault is None
        assert written_lsn <= found.end_lsn <= whole.end_lsn, "the copy lacks what was there before it was begun"
        assert found.first_lsn <= whole.first_lsn
        ends.append(found.end_lsn)
        with started(copy, SEGMENT_BYTES) as (client, warnings):
            assert warnings == []
            told = read_jobs(client, found.jobs)
            assert {id: body for id, (body, *_) in told.items()} == {id: job.body for id, job in found.jobs.items()}
            stats = client.stats()
            assert len(told) == sum(int(stats[f"current-jobs-{state}"]) for state in ("ready", "delayed", "buried"))
    assert ends == sorted(ends)
    assert ends[0] < ends[-1], "nothing was written between the backups"


class Copies:
    """Takes backups in processes of their own, one after the other, while the load goes on."""

    COUNT = 6

    def __init__(self, directory: Path, parent: Path, copies: list[tuple[Path, int]]) -> None:
        self._directory = directory
        self._parent = parent
        self._copies = copies
        self._running: subprocess.Popen[str] | None = None

    def is_done(self) -> bool:
        """The one that runs has ended; fails if it failed."""
        if self._running is None or self._running.poll() is None:
            return self._running is None
        said = self._running.stdout.read() if self._running.stdout else ""
        self._running.wait()
        if self._running.stdout:
            self._running.stdout.close()
        assert self._running.returncode == 0, said
        self._running = None
        return True

    def take_next(self) -> bool:
        """Begins another if none runs; true when all are taken."""
        if not self.is_done():
            return False
        if len(self._copies) == self.COUNT:
            return True
        copy = self._parent / f"copy-{len(self._copies)}"
        seen = inspection.Inspection(self._directory)
        assert seen.fault is None, "what is just being written was taken for damage"
        self._copies.append((copy, seen.end_lsn))
        self._running = subprocess.Popen(
            [sys.executable, "-m", "fastbean.binlog", "backup", str(self._directory), str(copy)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return False


def test_a_restored_backup_has_every_job_as_it_was(tmp_path: Path) -> None:
    directory, copy = tmp_path / "log", tmp_path / "copy"
    directory.mkdir()
    with Server(directory, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        highest = work(client, random.Random(3))
        told = read_jobs(client, range(1, highest + 1))
        tool("backup", directory, copy)
        order = buried_order(client)
    with Server(copy, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        assert_same(read_jobs(client, range(1, highest + 1)), told)
        assert order
        assert buried_order(client) == order
        assert client.ask(b"put 0 0 1 0", b"").number > highest


# --- to a real beanstalkd, and from it


@pytest.mark.usefixtures("beanstalkd")
def test_an_exported_log_is_read_by_the_real_one_with_every_job_equal(tmp_path: Path) -> None:
    directory, exported = tmp_path / "log", tmp_path / "old"
    directory.mkdir()
    with Server(directory, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        highest = work(client, random.Random(4))
        told = read_jobs(client, range(1, highest + 1))
        server.kill()
    said = tool("export", directory, "--beanstalkd", exported)
    assert said.startswith(f"{len(told)} jobs written")
    with Server(directory, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        order = buried_order(client)
        server.kill()
    with Server(exported, kind=BEANSTALKD) as server, server.connect() as client:
        assert server.said() == ""
        assert_same(read_jobs(client, range(1, highest + 1)), told)
        assert order
        assert buried_order(client) == order
        assert client.ask(b"put 0 0 1 0", b"").number > highest


@pytest.mark.usefixtures("beanstalkd")
def test_exported_large_jobs_are_read_with_the_z_that_was_told(tmp_path: Path) -> None:
    directory, exported = tmp_path / "log", tmp_path / "old"
    directory.mkdir()
    bodies = {1: b"small", 2: bytes(65534), 3: bytes(65535), 4: bytes(200_000), 5: b"last"}
    with Server(directory, extra=("-z", "200000")) as server, server.connect() as client:
        for id, body in bodies.items():
            assert client.ask(b"put 0 0 60 %d" % len(body), body).number == id
        assert server.stop() == 0
    said = tool("export", directory, "--beanstalkd", exported)
    assert [line.split()[1] for line in said.splitlines() if line.startswith("job ")] == ["2", "3", "4"]
    needed = said.splitlines()[-1].removeprefix("start beanstalkd with -z ")
    with Server(exported, kind=BEANSTALKD, extra=("-z", needed)) as server, server.connect() as client:
        assert {id: told[0] for id, told in read_jobs(client, bodies).items()} == bodies


@pytest.mark.usefixtures("beanstalkd")
@pytest.mark.parametrize("stopped", ["killed", "terminated"])
def test_the_log_of_the_real_one_is_taken_over_with_every_job_equal(tmp_path: Path, stopped: str) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    with Server(directory, kind=BEANSTALKD, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        highest = work(client, random.Random(5))
        told = read_jobs(client, range(1, highest + 1))
        server.kill() if stopped == "killed" else server.stop()
    old = {path.name: path.read_bytes() for path in old_log.has_binlog(directory)}
    assert len(old) > 3
    for start in range(3):
        with Server(directory, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
            assert_same(read_jobs(client, range(1, highest + 1)), told)
            assert int(client.stats()["current-jobs-buried"]) > 0
            if start == 2:
                order = buried_order(client)
                assert client.ask(b"put 0 0 1 0", b"").number > highest
            server.kill()
    (aside,) = (path for path in directory.iterdir() if path.is_dir())
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == old
    buried = [job for job in old_log.read(aside).jobs if job.state == "buried"]
    assert order == by_tube(sorted(buried, key=lambda job: job.burial))


def by_tube(jobs: Iterable[SavedJob]) -> dict[str, list[int]]:
    """Ids by tube, in the given order."""
    found: dict[str, list[int]] = {}
    for job in jobs:
        found.setdefault(job.tube.decode(), []).append(job.id)
    return found


@pytest.mark.usefixtures("beanstalkd")
def test_there_and_back_again(tmp_path: Path) -> None:
    directory, back = tmp_path / "log", tmp_path / "back"
    directory.mkdir()
    with Server(directory, kind=BEANSTALKD, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        highest = work(client, random.Random(7))
        told = read_jobs(client, range(1, highest + 1))
        server.kill()
    with Server(directory) as server:
        server.kill()
    tool("export", directory, "--beanstalkd", back)
    with Server(back, kind=BEANSTALKD) as server, server.connect() as client:
        assert_same(read_jobs(client, range(1, highest + 1)), told)


def test_a_damaged_old_log_refuses_the_start_until_it_is_repaired(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    old_log.write(directory, plain_jobs(50))
    path = directory / "binlog.1"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[2000:2300] = bytes(300)
    path.write_bytes(data)
    before = read_image(directory)
    with pytest.raises(StartError) as refused:
        Server(directory)
    assert refused.value.status == 10
    assert f"{path}: offset " in refused.value.said
    assert "repair" in refused.value.said
    assert {**before, "lock": b""} == read_image(directory)
    tool("repair", directory)
    with Server(directory) as server, server.connect() as client:
        assert 45 <= len(read_jobs(client, range(1, 51))) < 50


def test_a_power_cut_during_the_takeover_loses_nothing(shim: Path, tmp_path: Path, memory_path: Path) -> None:
    directory, after = tmp_path / "log", memory_path / "after"
    directory.mkdir()
    after.mkdir()
    jobs = plain_jobs(60)
    old_log.write(directory, jobs, file_bytes=4096, highest_id=500)
    image = read_image(directory)
    faults = Faults(shim, tmp_path, directory)
    with Server(directory, segment_bytes=4096, env=faults.env) as server:
        server.kill()
    disk, rng = Disk(directory, image), random.Random(8)
    wanted = {job.id: job.body for job in jobs}
    for event in faults.events():
        disk.step(event)
        for cut in (disk.synced(), disk.everything(), disk.torn(rng), disk.holes(rng, 512), disk.late_names(rng)):
            write_image(cut, after)
            with started(after, 4096) as (client, _):
                place = f"power cut after {event.kind.name} {event.path}"
                assert {id: told[0] for id, told in read_jobs(client, range(1, 501)).items()} == wanted, place
                assert int(client.stats()["current-jobs-ready"]) == len(jobs), place
            kept = {path.name for path in after.glob("beanstalkd-*/binlog.*")}
            assert kept == set(image), f"old files are gone after a {place}"


def plain_jobs(count: int) -> list[SavedJob]:
    """Ready jobs."""
    created_ns = time.time_ns()
    return [
        SavedJob(id, 10, 0, 60, created_ns, 0, "ready", 0, 0, 0, 0, 0, 0, b"default", b"body %d" % id * 20)
        for id in range(1, count + 1)
    ]


@pytest.mark.slow
def test_a_million_jobs_are_taken_over_and_exported(tmp_path: Path) -> None:
    directory, exported = tmp_path / "old", tmp_path / "exported"
    old_log.write(directory, plain_jobs(1_000_000))
    with Server(directory, ("-F",)) as server:
        server.kill()
    began_s = os.times().children_user
    said = tool("export", directory, "--beanstalkd", exported)
    assert said.startswith("1000000 jobs written")
    print(f"{os.times().children_user - began_s:.0f} s of processor time")  # noqa: T201
