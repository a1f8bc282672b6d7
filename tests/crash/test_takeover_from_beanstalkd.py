"""Logs against the real beanstalkd: what it wrote is read as its clients saw it, what is written it starts from."""

from __future__ import annotations

import random
import re
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fastbean.binlog.beanstalkd import BeanstalkdBinlog, Oversized, read, write
from fastbean.binlog.saved_job import SavedJob

from .process import BEANSTALKD, Client, Server

FILE_BYTES = 8192
COUNTERS = ("reserves", "timeouts", "releases", "buries", "kicks")
FAR_S = 100_000


@dataclass(frozen=True)
class Told:
    """What a client was told of a job, and between which times of the wall clock."""

    stats: dict[str, str]
    body: bytes
    asked_ns: int
    answered_ns: int

    def number(self, key: str) -> int:
        """A number of stats-job."""
        return int(self.stats[key])

    @property
    def tube(self) -> bytes:
        """Its tube."""
        return self.stats["tube"].encode()

    def is_past(self, time_ns: int, key: str) -> bool:
        """Whether that was so many whole seconds ago."""
        ago_ns = self.number(key) * 10**9
        return self.asked_ns - ago_ns - 10**9 <= time_ns <= self.answered_ns - ago_ns

    def is_future(self, time_ns: int, key: str) -> bool:
        """Whether that is so many whole seconds from then."""
        left_ns = self.number(key) * 10**9
        return self.asked_ns + left_ns <= time_ns <= self.answered_ns + left_ns + 10**9


def start(directory: Path, *flags: str) -> Server:
    directory.mkdir(exist_ok=True)
    return Server(directory, kind=BEANSTALKD, segment_bytes=FILE_BYTES, extra=flags)


def read_jobs(client: Client, ids: Iterable[int]) -> dict[int, Told]:
    """What stats-job and peek say of these jobs; a missing one is left out."""
    told = {}
    for id in ids:
        peeked = client.ask(b"peek %d" % id)
        if peeked.word == "NOT_FOUND":
            continue
        assert peeked.body is not None
        asked_ns = time.time_ns()
        stats = client.stats(b"stats-job %d" % id)
        told[id] = Told(stats, peeked.body, asked_ns, time.time_ns())
    return told


def buried_order(client: Client, tube: bytes) -> list[int]:
    """The buried jobs of a tube in the order in which they are kicked; this kicks them."""
    client.ask(b"use " + tube)
    order = []
    while (first := client.ask(b"peek-buried")).word == "FOUND":
        order.append(first.number)
        assert client.ask(b"kick 1").line == b"KICKED 1"
    return order


def burials_of(jobs: Iterable[SavedJob], tube: bytes) -> list[int]:
    buried = [job for job in jobs if job.state == "buried" and job.tube == tube]
    return [job.id for job in sorted(buried, key=lambda job: job.burial)]


def assert_same(
    job: SavedJob, told: Told, *, state: str | None = None, reserves_more: int = 0, buries_more: int = 0
) -> None:
    """A job is as a client was told, but for counters that the one server counts and does not log."""
    more = {"reserves": reserves_more, "buries": buries_more}
    assert (job.tube, job.body) == (told.tube, told.body)
    assert (job.pri, job.delay_s, job.ttr_s) == tuple(told.number(key) for key in ("pri", "delay", "ttr"))
    assert job.state == (state or told.stats["state"])
    assert {key: getattr(job, key) + more.get(key, 0) for key in COUNTERS} == {
        key: told.number(key) for key in COUNTERS
    }
    assert told.is_past(job.created_ns, "age")
    assert told.is_future(job.deadline_ns, "time-left") if job.state == "delayed" else job.deadline_ns == 0


def assert_sound(log: BeanstalkdBinlog) -> None:
    assert [str(damage) for damage in log.damage] == []


def put(client: Client, body: bytes = b"body", *, pri: int = 10, delay: int = 0, ttr: int = 60) -> int:
    reply = client.ask(b"put %d %d %d %d" % (pri, delay, ttr, len(body)), body)
    assert reply.word == "INSERTED", reply
    return reply.number


def do(client: Client, line: str, word: str) -> None:
    assert client.ask(line.encode()).word == word, line


def bury(client: Client, id: int, pri: int) -> None:
    do(client, f"reserve-job {id}", "RESERVED")
    do(client, f"bury {id} {pri}", "BURIED")


# --- reading what it wrote


@pytest.mark.usefixtures("beanstalkd")
def test_every_state_is_read_as_its_clients_saw_it(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with start(directory, "-z", "70000") as server, server.connect() as client:
        bodies = [
            b"",
            b"\r\n",
            b"a\r\n\r\n\0\xff",
            struct.pack("<i", 7) * 50,
            bytes(65533),
            bytes(65534),
            b"\r\n" * 34999,
        ]
        ids = [put(client, body, pri=2**32 - 1 - n, ttr=n) for n, body in enumerate(bodies)]
        for tube in (b"t" * 200, b"A-+/;.$_()9"):
            client.ask(b"use " + tube)
            ids += [
                put(client),
                put(client, delay=FAR_S),
                put(client, delay=2**32 - 1, ttr=2**32 - 1),
                put(client, pri=0),
            ]
            do(client, f"kick-job {ids[-2]}", "KICKED")
            bury(client, ids[-1], pri=5)
            bury(client, ids[-4], pri=2**32 - 1)
        for id in ids[:3]:
            do(client, f"reserve-job {id}", "RESERVED")
            do(client, f"release {id} 77 {FAR_S + id}", "RELEASED")
        do(client, f"kick-job {ids[1]}", "KICKED")
        do(client, f"delete {ids[3]}", "DELETED")
        do(client, f"delete {ids[2]}", "DELETED")
        told = read_jobs(client, ids)
        server.kill()
    log = read(directory)
    assert_sound(log)
    jobs = {job.id: job for job in log.jobs}
    assert jobs.keys() == told.keys() == set(ids) - {ids[2], ids[3]}
    for id, job in jobs.items():
        assert_same(job, told[id])
    assert log.highest_id == ids[-1]
    assert len(log.files) > 2


@pytest.mark.usefixtures("beanstalkd")
def test_buried_jobs_are_read_in_the_order_of_their_burials(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    with start(directory) as server, server.connect() as client:
        ids = [put(client) for _ in range(8)]
        for place in (6, 1, 4, 0, 3):
            bury(client, ids[place], pri=place)
        do(client, f"kick-job {ids[4]}", "KICKED")
        bury(client, ids[4], pri=4)
        bury(client, ids[1], pri=4)  # it was buried all the time, as far as the log knows
        do(client, f"delete {ids[0]}", "DELETED")
        server.kill()
    log = read(directory)
    assert_sound(log)
    assert burials_of(log.jobs, b"default") == [ids[place] for place in (6, 3, 4, 1)]


@dataclass
class Workload:
    """Random commands that beanstalkd logs, and what is buried in which order."""

    client: Client
    chance: random.Random
    buried: list[int]
    live: list[int]
    reserved: list[int]

    def step(self) -> None:
        """One of them."""
        kind = self.chance.random()
        if kind < 0.4 or len(self.live) < 5:
            self.client.ask(b"use tube%d" % self.chance.randrange(3))
            delay = self.chance.choice([0, 0, FAR_S])
            self.live.append(put(self.client, self.chance.randbytes(self.chance.randrange(400)), delay=delay))
            return
        id = self.chance.choice(self.live)
        if kind < 0.75:
            do(self.client, f"delete {id}", "DELETED")
            self.live.remove(id)
            self._dig_up(id)
        elif kind < 0.85:
            bury(self.client, id, pri=self.chance.randrange(100))
            self._dig_up(id)
            self.buried.append(id)
        elif kind < 0.95:
            do(self.client, f"reserve-job {id}", "RESERVED")
            do(self.client, f"release {id} {self.chance.randrange(100)} {FAR_S}", "RELEASED")
            self._dig_up(id)
        elif self.client.ask(b"kick-job %d" % id).word == "KICKED":
            self._dig_up(id)

    def reserve_some(self) -> None:
        """Reserves ready jobs and keeps them; that is not logged."""
        for tube in range(3):
            self.client.ask(b"watch tube%d" % tube)
        for _ in range(3):
            reply = self.client.ask(b"reserve-with-timeout 0")
            if reply.word == "RESERVED":
                self.reserved.append(reply.number)

    def _dig_up(self, id: int) -> None:
        if id in self.buried:
            self.buried.remove(id)


@pytest.mark.usefixtures("beanstalkd")
@pytest.mark.parametrize("seed", range(4))
def test_a_rotated_and_compacted_log_is_read_as_its_clients_saw_it(tmp_path: Path, seed: int) -> None:
    directory = tmp_path / "log"
    with start(directory) as server, server.connect() as client:
        work = Workload(client, random.Random(seed), [], [], [])
        for _ in range(700):
            work.step()
        work.reserve_some()
        told = read_jobs(client, work.live)
        stats = client.stats()
        server.kill()
    assert int(stats["binlog-records-migrated"]) > 0
    assert int(stats["binlog-oldest-index"]) > 1
    log = read(directory)
    assert_sound(log)
    jobs = {job.id: job for job in log.jobs}
    assert jobs.keys() == told.keys()
    for id, job in jobs.items():
        if id in work.reserved:
            # A copy that compaction writes knows of the reservation; other records do not.
            assert_same(job, told[id], state="ready", reserves_more=told[id].number("reserves") - job.reserves)
            assert told[id].number("reserves") - job.reserves in (0, 1)
        else:
            assert_same(job, told[id])
    # A shed file takes the record of a burial with it; then the job stands where its copy was written.
    stayed = [id for id in work.buried if has_burial(log, id)]
    assert len(stayed) > 1
    by_burial = sorted((job for job in log.jobs if job.state == "buried"), key=lambda job: job.burial)
    assert {job.id for job in by_burial} == set(work.buried)
    assert [job.id for job in by_burial if job.id in stayed] == stayed


def has_burial(log: BeanstalkdBinlog, id: int) -> bool:
    """Whether the record of a burial of this job is still in the log, not only in a copy of the job."""
    short = re.compile(re.escape(struct.pack("<IQ", 0, id)) + rb".{68}\x03", re.DOTALL)
    return any(short.search(path.read_bytes()) for path in log.files)


@pytest.mark.usefixtures("beanstalkd")
def test_what_beanstalkd_does_not_log_is_read_as_it_was_logged(tmp_path: Path) -> None:
    """The complete list: none of it can come back, for it is on no disk."""
    directory = tmp_path / "log"
    with start(directory) as server, server.connect() as client:
        released = put(client, pri=5)
        do(client, f"reserve-job {released}", "RESERVED")
        do(client, f"release {released} 1 0", "RELEASED")  # without a delay: priority and counters are lost
        reserved = put(client, ttr=FAR_S)
        do(client, f"reserve-job {reserved}", "RESERVED")
        do(client, f"touch {reserved}", "TOUCHED")
        dug_up = put(client)
        bury(client, dug_up, pri=3)
        do(client, f"reserve-job {dug_up}", "RESERVED")  # the release brings it back as ready; the log says buried
        do(client, f"release {dug_up} 9 0", "RELEASED")
        hurried = put(client, delay=FAR_S)
        do(client, f"reserve-job {hurried}", "RESERVED")  # and here delayed
        do(client, f"release {hurried} 9 0", "RELEASED")
        expired = put(client, delay=1)  # its deadline stays in the log when it has become ready
        timed_out = put(client, ttr=1)
        do(client, f"reserve-job {timed_out}", "RESERVED")
        do(client, "pause-tube default 1000", "PAUSED")
        client.ask(b"watch nothing")
        client.ask(b"ignore default")
        while client.stats(b"stats-job %d" % timed_out)["timeouts"] == "0":
            client.ask(b"reserve-with-timeout 1")
        assert client.stats(b"stats-job %d" % expired)["state"] == "ready"
        told = read_jobs(client, [released, reserved, dug_up, hurried, expired, timed_out])
        server.kill()
    log = read(directory)
    assert_sound(log)
    jobs = {job.id: job for job in log.jobs}
    seen = {
        id: (job.state, job.pri, told[id].stats["state"], told[id].number("pri"), [getattr(job, c) for c in COUNTERS])
        for id, job in jobs.items()
    }
    assert seen == {
        released: ("ready", 5, "ready", 1, [0, 0, 0, 0, 0]),
        reserved: ("ready", 10, "reserved", 10, [0, 0, 0, 0, 0]),
        dug_up: ("buried", 3, "ready", 9, [1, 0, 0, 1, 0]),
        hurried: ("delayed", 10, "ready", 9, [0, 0, 0, 0, 0]),
        expired: ("delayed", 10, "ready", 10, [0, 0, 0, 0, 0]),
        timed_out: ("ready", 10, "ready", 10, [0, 0, 0, 0, 0]),
    }
    assert jobs[expired].deadline_ns < time.time_ns()


@pytest.mark.usefixtures("beanstalkd")
def test_a_log_is_read_after_many_kills(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    ids: list[int] = []
    for _ in range(5):
        with start(directory) as server, server.connect() as client:
            new = [put(client, bytes(300)) for _ in range(20)]
            for id in new[::3]:
                do(client, f"delete {id}", "DELETED")
            bury(client, new[1], pri=1)
            ids += new
            told = read_jobs(client, ids)
            server.kill()
    log = read(directory)
    assert_sound(log)
    jobs = {job.id: job for job in log.jobs}
    assert jobs.keys() == told.keys() == set(ids) - {id for n, id in enumerate(ids) if n % 20 % 3 == 0}
    for id, job in jobs.items():
        # A replay counts a burial more, which is on disk only once compaction has copied the job.
        more = told[id].number("buries") - job.buries
        assert more in ((0, 1) if job.state == "buried" else (0,))
        assert_same(job, told[id], buries_more=more)


# --- starting it on what was written


def many_jobs() -> list[SavedJob]:
    """Jobs of every state with everything that can be said of them."""
    now_ns = time.time_ns()
    chance = random.Random(3)
    jobs = []
    for id in range(3, 150):
        state = chance.choice(["ready", "ready", "delayed", "buried"])
        tube = chance.choice([b"default", b"t" * 200, b"A-+/;.$_()9"])
        body = chance.choice([b"", b"\r\n", chance.randbytes(300), bytes(chance.randrange(2000)), bytes(65533)])
        deadline_ns = now_ns + chance.randrange(FAR_S, 10 * FAR_S) * 10**9 if state == "delayed" else 0
        buries = chance.randrange(1, 5) if state == "buried" else chance.randrange(5)
        counters = [chance.randrange(2**32), chance.randrange(9), chance.randrange(9), buries, chance.randrange(9)]
        burial = chance.randrange(1, 10**9) if state == "buried" else 0
        created_ns = now_ns - chance.randrange(FAR_S * 10**9)
        numbers = [chance.randrange(2**32), chance.randrange(2**32), chance.randrange(1, 2**32)]
        jobs.append(SavedJob(id, *numbers, created_ns, deadline_ns, state, burial, *counters, tube, body))
    chance.shuffle(jobs)
    return jobs


@pytest.mark.usefixtures("beanstalkd")
def test_beanstalkd_starts_from_what_was_written_with_every_job(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    jobs = many_jobs()
    written = write(directory, jobs, file_bytes=FILE_BYTES, highest_id=5000)
    assert (written.jobs, written.oversized) == (len(jobs), [])
    with start(directory) as server, server.connect() as client:
        assert server.said() == ""
        told = read_jobs(client, range(1, 5001))
        assert told.keys() == {job.id for job in jobs}
        for job in jobs:
            assert_same(job, told[job.id])
        for tube in {job.tube for job in jobs}:
            assert buried_order(client, tube) == burials_of(jobs, tube)
        assert put(client) == 5001


@pytest.mark.usefixtures("beanstalkd")
def test_a_deadline_that_has_passed_makes_a_job_ready(tmp_path: Path) -> None:
    passed = replace(plain(1), state="delayed", delay_s=5, deadline_ns=time.time_ns() - 10**9)
    write(tmp_path / "log", [passed, plain(2)])
    with start(tmp_path / "log") as server, server.connect() as client:
        states = {id: told.stats["state"] for id, told in read_jobs(client, [1, 2]).items()}
        assert states == {1: "ready", 2: "ready"}


def plain(id: int, body: bytes = b"body") -> SavedJob:
    return SavedJob(id, 10, 0, 60, time.time_ns(), 0, "ready", 0, 0, 0, 0, 0, 0, b"default", body)


@pytest.mark.usefixtures("beanstalkd")
def test_large_jobs_are_there_with_the_z_that_was_told_and_harm_no_others_without(tmp_path: Path) -> None:
    jobs = [plain(id, bytes(size)) for id, size in enumerate([10, 65533, 65534, 65535, 20000, 30], start=1)]
    jobs[4] = replace(jobs[4], state="buried", burial=1, buries=1)
    write(tmp_path / "without", jobs)
    with start(tmp_path / "without") as server, server.connect() as client:
        assert read_jobs(client, range(1, 7)).keys() == {1, 2, 5, 6}
    written = write(tmp_path / "with", jobs)
    assert written.oversized == [Oversized(3, 65536), Oversized(4, 65537)]
    needed = max(job.max_job_size or 0 for job in written.oversized)
    for less, missing in ((0, set()), (1, {4})):
        write(tmp_path / f"with{less}", jobs)
        with start(tmp_path / f"with{less}", "-z", str(needed - less)) as server, server.connect() as client:
            assert read_jobs(client, range(1, 7)).keys() == {1, 2, 3, 4, 5, 6} - missing


@pytest.mark.usefixtures("beanstalkd")
def test_there_and_back_every_job_is_the_same(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    jobs = {job.id: job for job in many_jobs()}
    write(directory, jobs.values(), file_bytes=FILE_BYTES)
    with start(directory) as server, server.connect() as client:
        touched = [id for id, job in jobs.items() if job.state != "buried"][:5]
        for id in touched:
            do(client, f"delete {id}", "DELETED")
        server.kill()
    log = read(directory)
    assert_sound(log)
    back = {job.id: replace(job, burial=0, buries=job.buries + (job.state == "buried")) for job in log.jobs}
    assert back == {id: replace(job, burial=0) for id, job in jobs.items() if id not in touched}


# --- version 5, which nobody writes any more, but the real one still reads


def version_5(records: Sequence[tuple[bytes, tuple[int, ...], bytes]]) -> bytes:
    """A file of version 5: tube (none: a short record), what stands in the struct, body."""
    packed = [
        struct.pack("<Q", len(tube)) + tube + struct.pack("<QI4xQQi4xQQIIIIIB", *members) + body
        for tube, members, body in records
    ]
    return struct.pack("<i", 5) + b"".join(packed) + bytes(5000)


@pytest.mark.usefixtures("beanstalkd")
def test_version_5_is_read_as_the_real_one_reads_it(tmp_path: Path) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    now_us = time.time_ns() // 1000
    created = now_us - 50 * 10**6
    deadline = now_us + FAR_S * 10**6
    long = (60 * 10**6, 8, created, 0, 1, 2, 3, 4, 5)
    delayed = (60 * 10**6, 6, created, deadline, 0, 0, 0, 0, 0)
    data = version_5(
        [
            (b"default", (1, 7, 0, *long, 1), b"body\r\n\r\n"),
            (b"other", (2, 8, FAR_S * 10**6, *delayed, 4), b"body\r\n"),
            (b"default", (3, 9, 0, *long, 1), b"\r\n\0\xff66\r\n"),
            (b"default", (4, 9, 0, *long, 1), b"deleted!"[:6] + b"\r\n"),
            (b"", (4, 9, 0, *long, 0), b""),
            (b"", (3, 5, 0, *long, 3), b""),
        ]
    )
    (directory / "binlog.1").write_bytes(data)
    log = read(directory)
    assert_sound(log)
    with start(directory) as server, server.connect() as client:
        told = read_jobs(client, range(1, 10))
        server.kill()
    jobs = {job.id: job for job in log.jobs}
    assert jobs.keys() == told.keys() == {1, 2, 3}
    for id, job in jobs.items():
        assert_same(job, told[id], buries_more=int(job.state == "buried"))  # its replay counts one more
    assert list(read(directory).jobs) == list(log.jobs)
