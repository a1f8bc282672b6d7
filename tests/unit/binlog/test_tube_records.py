"""Records of tubes: what a start and the tools make of settings, and of a tube that was cleared."""

import struct
import time

import pytest

from fastbean.binlog import inspection, segment_files
from fastbean.binlog.binlog import Binlog
from fastbean.binlog.record import checksum, run_seed
from fastbean.binlog.record_reader import encode_cleared, encode_mark, encode_put, encode_tube
from fastbean.binlog.saved_job import SavedTube
from fastbean.binlog.segment_files import Header
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from fastbean.errors import BinlogError
from made_binlogs import LARGE_SEGMENT_BYTES, RUN, contents, damage, restored, saved, write_log
from memory_client import SECOND_NS, MemoryServer

FAR_NS = 4102444800 * 10**9
SEED = run_seed(RUN)


class Segments:
    """Writes records into segments, one after the other; ``lsn`` is where the next record begins."""

    def __init__(self, directory):
        directory.mkdir()
        self.directory = directory
        self.lsn = 0
        self._files = []
        self.rotate()

    def rotate(self):
        """Begin another segment."""
        self._files.append(bytearray(Header(len(self._files) + 1, self.lsn, 1 << 20, 1, RUN).encode()))

    def put(self, id, state="ready", tube=b"cleared", **members):
        self._append(encode_put(saved(id, state, tube=tube, **members), SEED, self.lsn))

    def clear(self, below=None, tube=b"cleared"):
        self._append(encode_cleared(tube, self.lsn if below is None else below, SEED, self.lsn))

    def settings(self, name, pause_s, end_ns=FAR_NS):
        self._append(encode_tube(SavedTube(name, pause_s, end_ns), SEED, self.lsn))

    def newer(self, added=b""):
        """A cleared record with an unknown flag, in which an older reader sees an LSN above its own."""
        members = b"\x08\x02\x04tube\xff\xff\xff\x7f" + added
        rest = bytes([len(members) & 0x7F | 0x80, len(members) >> 7]) + members
        self._append(struct.pack("<I", checksum(RUN + struct.pack("<Q", self.lsn) + rest)) + rest)

    def mark(self):
        """All before is synced."""
        self._append(encode_mark(self.lsn, SEED, self.lsn))

    def _append(self, record):
        self._files[-1] += record
        self.lsn += len(record)

    def end(self):
        for number, data in enumerate(self._files, 1):
            path = self.directory / segment_files.name_of(number)
            path.write_bytes(data.ljust(LARGE_SEGMENT_BYTES, b"\0"))


class Restored(MemoryServer):
    """A server in memory that has restored the jobs of a directory, as a context."""

    def __init__(self, directory):
        super().__init__()
        self._binlog = Binlog(
            directory, EngineJobs(self.engine), segment_bytes=LARGE_SEGMENT_BYTES, fsync_ms=None, log=stderr_log.silent
        )
        self._binlog.open(lambda _text: None)
        self.now_ns = time.monotonic_ns()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._binlog.close()


def ids_in(directory, highest=2000):
    """The jobs that a start restores, which must be those that the tools read."""
    with Restored(directory) as server:
        client = server.client()
        found = {id for id in range(1, highest) if client(b"peek %d\r\n" % id) != b"NOT_FOUND\r\n"}
    assert found == set(inspection.Inspection(directory).jobs)
    return found


def pause_in(directory, name):
    """Length and rest of a tube's pause after a start, in seconds; None if there is no such tube."""
    with Restored(directory) as server:
        client = server.client()
        if client(b"stats-tube %s\r\n" % name) == b"NOT_FOUND\r\n":
            return None
        stats = client.stats(b"stats-tube " + name)
    return int(stats["pause"]), int(stats["pause-time-left"])


STATES = [{}, {"state": "delayed", "deadline_ns": FAR_NS, "delay_s": 4294967295}, {"state": "buried", "burial": 5}]


@pytest.fixture
def log(directory):
    return Segments(directory)


# --- a tube that was cleared


@pytest.mark.parametrize("members", STATES, ids=["ready", "delayed", "buried"])
@pytest.mark.parametrize("jobs", [0, 1, 2, 3, 50, 1000])
def test_all_jobs_of_a_tube_are_cleared_and_no_others(directory, log, members, jobs):
    for id in range(1, jobs + 1):
        log.put(id, pri=id * 7919 % 101, **members)
    log.put(1500, tube=b"other", **members)
    log.clear()
    log.put(1600, **members)
    log.end()
    assert ids_in(directory) == {1500, 1600}


@pytest.mark.parametrize("cleared", range(0, 31, 3))
@pytest.mark.parametrize("rotate_at", [0, 1, 10, 15, 30])
def test_a_tube_is_cleared_up_to_any_place(directory, log, cleared, rotate_at):
    """Priorities run against the ids, so that what stays is everywhere in the heaps."""
    below = 0
    for id in range(1, 31):
        if id == rotate_at + 1:
            log.rotate()
        log.put(id, pri=id * 37 % 31, **STATES[id % 3])
        below = log.lsn if id == cleared else below
    log.clear(below)
    log.end()
    assert ids_in(directory) == set(range(cleared + 1, 31))


def test_the_copy_of_a_job_counts_and_not_its_first_put(directory, log):
    log.put(1)
    log.put(2)
    below = log.lsn
    log.rotate()
    log.put(1)
    log.clear(below)
    log.end()
    assert ids_in(directory) == {1}


def test_a_tube_can_be_cleared_again_and_again(directory, log):
    for id in range(1, 100):
        log.put(id, tube=b"a" if id % 2 else b"b")
        if id % 10 == 0:
            log.clear(tube=b"a")
    log.end()
    assert ids_in(directory) == {*range(2, 100, 2), *range(91, 100, 2)}


def test_a_tube_that_does_not_exist_may_be_cleared(directory, log):
    log.put(1, tube=b"other")
    log.clear()
    log.end()
    assert ids_in(directory) == {1}


def test_what_was_cleared_counts_as_dead(directory, log):
    """Without its jobs, the first segment is not needed any more."""
    for id in range(1, 100):
        log.put(id)
    log.rotate()
    log.clear()
    log.put(100)
    log.end()
    engine = restored(directory, LARGE_SEGMENT_BYTES)
    assert engine.counters()["jobs"] == 1
    assert inspection.Inspection(directory).records == 101 + 2  # the first ids, and the next id at the stop


def refusal_of(directory):
    """Why a start is refused; it must change nothing."""
    before = contents(directory)
    with pytest.raises(BinlogError) as refusal:
        restored(directory, LARGE_SEGMENT_BYTES)
    assert refusal.value.exit_status == 10
    assert {**contents(directory), "lock": b""} == {**before, "lock": b""}
    return str(refusal.value)


def test_a_newer_cleared_record_is_refused_whatever_its_lsn_seems_to_be(directory, log, run):
    log.put(1)
    log.newer()
    log.put(2)
    log.end()
    assert "a record that only a newer fastbean can read" in refusal_of(directory)
    assert run("check", directory)[0] == run("repair", directory)[0] == 10


def test_a_repair_refuses_a_long_newer_record_behind_damage(directory, log, run):
    log.put(1)
    log.newer(b"q" * 300)
    log.mark()
    log.end()
    damage(segment_files.path_of(directory, 1))
    before = contents(directory)
    status, _, complained = run("repair", directory)
    assert status == 10
    assert "there is a record that only a newer fastbean can read" in complained
    assert {**contents(directory), "lock": b""} == {**before, "lock": b""}


def test_a_right_checksum_over_wrong_members_is_damage(directory, log, run):
    log.put(1)
    offset = 64 + log.lsn
    log.clear(1 << 20)
    log.put(2)
    log.end()
    assert refusal_of(directory).startswith(f"{directory}/fastbean-1.log: damaged at offset {offset}: the checksum")
    assert run("check", directory)[0] == 2
    status, said, _ = run("repair", directory)
    assert status == 0
    assert f"lost: {directory}/fastbean-1.log: offset {offset}: " in said
    assert ids_in(directory) == {1, 2}


# --- settings


def test_the_last_settings_of_a_tube_hold(directory, log):
    log.settings(b"a", 100)
    log.settings(b"b", 100)
    log.settings(b"a", 5000)
    log.rotate()
    log.settings(b"b", 0)
    log.settings(b"c", 0)
    log.end()
    pause_s, left_s = pause_in(directory, b"a")
    assert pause_s == 5000
    assert 4900 < left_s <= 5000
    assert pause_in(directory, b"b") is None
    assert pause_in(directory, b"c") is None
    assert {name: tube.pause_s for name, tube in inspection.Inspection(directory).tubes.items()} == {b"a": 5000}


@pytest.mark.parametrize("end_s", [-(2**33), -1, 0])
def test_a_pause_that_has_ended_is_none(directory, log, end_s):
    log.put(1, tube=b"jobs")
    log.settings(b"jobs", 1000)
    log.settings(b"jobs", 1000, time.time_ns() + end_s * SECOND_NS)
    log.settings(b"empty", 1000, time.time_ns() + end_s * SECOND_NS)
    log.end()
    assert pause_in(directory, b"jobs") == (0, 0)
    assert pause_in(directory, b"empty") is None


def test_a_pause_ends_when_it_was_to_end(directory, log):
    log.settings(b"a", 1000, time.time_ns() + 500 * SECOND_NS)
    log.end()
    pause_s, left_s = pause_in(directory, b"a")
    assert pause_s == 1000
    assert 400 < left_s <= 500
    with Restored(directory) as server:
        server.advance(501)
        assert server.client()(b"stats-tube a\r\n") == b"NOT_FOUND\r\n"


@pytest.mark.parametrize("pause_s", [1, 4294967295])
def test_no_pause_is_longer_than_it_was_set(directory, log, pause_s):
    log.settings(b"a", pause_s)
    log.settings(b"b", pause_s, 2**63 - 1)
    log.end()
    for name in (b"a", b"b"):
        assert pause_in(directory, name)[1] <= pause_s


def test_default_can_be_paused_too(directory, log):
    log.settings(b"default", 1000)
    log.end()
    assert pause_in(directory, b"default")[0] == 1000


# --- the tools


def test_a_repair_keeps_pauses(directory, run):
    tubes = [SavedTube(b"a", 1000, FAR_NS), SavedTube(b"t" * 200, 4294967295, FAR_NS)]
    write_log(directory, [saved(id) for id in range(1, 50)], tubes)
    damage(segment_files.path_of(directory, 1))
    assert run("repair", directory)[0] == 0
    assert list(inspection.Inspection(directory).tubes.values()) == tubes
    assert pause_in(directory, b"a")[0] == 1000


def test_an_export_reports_the_pauses_that_it_leaves_out(directory, run):
    write_log(directory, [saved(1)], [SavedTube(b"a", 1000, FAR_NS)])
    status, said, _ = run("export", directory, "--beanstalkd", directory.with_name("exported"))
    assert status == 0
    assert "left out, which beanstalkd does not keep: 1 pause\n" in said


def test_a_dump_shows_records_of_tubes(directory, log, run):
    log.settings(b"a", 1000)
    log.settings(b"a", 0)
    log.clear(0, b"b")
    log.end()
    _, said, _ = run("dump", directory)
    assert [line.partition('"type":')[2].rstrip("}") for line in said.splitlines()] == [
        f'"tube","tube":"a","pause":1000,"pause_end_ns":{FAR_NS}',
        '"tube","tube":"a","pause":0',
        '"cleared","tube":"b","below":0',
    ]
