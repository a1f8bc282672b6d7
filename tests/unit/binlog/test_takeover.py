"""A beanstalkd's log becomes fastbean's: every job once, whatever interrupts it, and no old file is ever removed."""

import errno
import itertools
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fastbean.binlog import beanstalkd, inspection, replacement, segment_files, takeover
from fastbean.binlog.saved_job import SavedJob
from fastbean.errors import BinlogError
from made_binlogs import NO_FILES, make_no_file

SECOND = 10**9
CREATED = 1_700_000_000_123_456_789
SEGMENT_BYTES = 4096
# What changes files, and what makes the changes safe. Closing is no step: a killed process closes everything.
STEPS = ("open", "write", "fsync", "posix_fallocate", "rename", "mkdir", "unlink")


def saved(id, state="ready", **members):
    return replace(SavedJob(id, 10, 0, 60, CREATED, 0, state, 0, 0, 0, 0, 0, 0, b"default", b"body"), **members)


JOBS = [
    saved(3, pri=2**32 - 1, ttr_s=2**32 - 1, reserves=1, timeouts=2, releases=3, buries=4, kicks=5, body=b""),
    saved(4, "delayed", delay_s=77, deadline_ns=CREATED + 77 * SECOND, tube=b"t" * 200, body=b"\r\n\0\xff" * 700),
    saved(6, "buried", burial=9, buries=1),
    saved(7, "delayed", delay_s=1, deadline_ns=1, body=b"x" * 3900),
    saved(8, "buried", burial=2, buries=7, tube=b"other"),
    saved(9, body=b"larger than a segment" * 400),
    saved(2**40, body=b"last"),
]
HIGHEST_ID = 2**40 + 5


def write_old(directory, jobs=JOBS, highest_id=HIGHEST_ID):
    """A beanstalkd's log of these jobs; returns its files."""
    directory.mkdir(parents=True, exist_ok=True)
    beanstalkd.write(directory, jobs, file_bytes=4096, highest_id=highest_id)
    return {path.name: path.read_bytes() for path in beanstalkd.has_binlog(directory)}


class Told:
    """Keeps what was logged."""

    def __init__(self):
        self.lines = []

    def __call__(self, level, event, **fields):
        self.lines.append((level, event, fields))

    @property
    def warnings(self):
        return [fields for level, _, fields in self.lines if level == "WARNING"]


def prepare(directory, told=None, **options):
    return takeover.prepare(
        directory, segment_bytes=SEGMENT_BYTES, log=told or Told(), progress=lambda _text: None, **options
    )


def by_burial(jobs):
    return [job.id for job in sorted(jobs, key=lambda job: job.burial) if job.burial]


def assert_taken_over(directory, old, jobs=JOBS, highest_id=HIGHEST_ID):
    """The new log holds each job once, and every old file lies in one subfolder as it was."""
    found = inspection.Inspection(directory)
    assert found.fault is None
    assert found.spares == 0
    assert found.records == len(jobs) + 2  # marks; so no job is there twice
    # For a real beanstalkd, which counts one at its replay, the old log was written with a burial less.
    buries = {job.id: job.buries - (job.state == "buried") for job in jobs}
    assert [replace(job, burial=0) for job in found.jobs.values()] == [
        replace(job, burial=0, buries=buries[job.id]) for job in jobs
    ]
    assert by_burial(found.jobs.values()) == by_burial(jobs)
    assert found.id_limit == highest_id + 1
    assert found.durable_lsn > 0
    (aside,) = (path for path in directory.iterdir() if path.is_dir())
    assert aside.name.startswith("beanstalkd-")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == old
    names = {path.name for path in directory.iterdir()} - {aside.name, "lock"}
    assert names == {Path(segment.path).name for segment in found.segments}


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "log"


# --- what comes over


def test_every_job_comes_over(directory):
    old = write_old(directory)
    assert len(old) > 2
    told = Told()
    assert prepare(directory, told) == len(JOBS)
    assert_taken_over(directory, old)
    assert told.warnings == []
    assert inspection.Inspection(directory).jobs[4] == JOBS[1]
    assert len(segment_files.list_segments(directory)) > 2


def test_the_segments_are_good_to_go_on_in(directory):
    write_old(directory)
    prepare(directory)
    found = inspection.Inspection(directory).segments
    assert [segment.number for segment in found] == list(range(1, len(found) + 1))
    assert found[-1].size == SEGMENT_BYTES
    assert all(Path(segment.path).stat().st_mode & 0o777 == 0o600 for segment in found)
    floors = [segment.header.floor for segment in found]
    assert floors == sorted(floors)
    assert floors[0] == 1


def test_an_empty_log_only_hands_on_its_ids(directory):
    old = write_old(directory, [], highest_id=88)
    assert prepare(directory) == 0
    assert_taken_over(directory, old, [], highest_id=88)


def test_a_log_that_was_hardly_begun_is_put_aside(directory):
    directory.mkdir()
    (directory / "binlog.1").write_bytes(bytes(8192))
    told = Told()
    prepare(directory, told)
    assert_taken_over(directory, {"binlog.1": bytes(8192)}, [], highest_id=0)
    assert len(told.warnings) == 1


@pytest.mark.parametrize("name", ["binlog.x", "binlog.01", "binlog.1.gz", "other"])
def test_other_files_are_none_of_its_business(directory, name):
    directory.mkdir()
    (directory / name).write_bytes(b"something")
    assert prepare(directory) is None
    assert [path.name for path in directory.iterdir()] == [name]


def test_a_second_time_there_is_nothing_to_do(directory):
    old = write_old(directory)
    prepare(directory)
    told = Told()
    assert prepare(directory, told) is None
    assert told.lines == []
    assert_taken_over(directory, old)


def test_two_old_logs_one_after_the_other_lie_in_two_folders(directory):
    write_old(directory)
    prepare(directory)
    first = {path for path in directory.iterdir() if path.is_dir()}
    for path in directory.glob("fastbean-*"):
        path.unlink()
    (directory / "binlog.1").write_bytes(b"\7\0\0\0" + bytes(5000))
    prepare(directory)
    assert len({path for path in directory.iterdir() if path.is_dir()} - first) == 1


def test_progress_is_told(directory, monkeypatch):
    write_old(directory)
    monkeypatch.setattr(takeover, "PROGRESS_S", 0)
    texts = []
    takeover.prepare(directory, segment_bytes=SEGMENT_BYTES, log=Told(), progress=texts.append)
    assert any(text.startswith("reading a beanstalkd's binlog: ") for text in texts)
    assert f"taking over a beanstalkd's binlog: 0 of {len(JOBS)} jobs" in texts


# --- what is refused, and what is left out


def flip_state(directory):
    """Damages the first record of the first file; returns its path."""
    path = directory / "binlog.1"
    path.chmod(0o600)
    data = bytearray(path.read_bytes())
    data[4 + 4 + 7 + 76] = 77
    path.write_bytes(data)
    return path


def test_damage_refuses_the_start_and_changes_nothing(directory):
    write_old(directory)
    path = flip_state(directory)
    before = sorted(directory.iterdir())
    with pytest.raises(BinlogError) as refusal:
        prepare(directory)
    text = str(refusal.value)
    assert f"{path}: offset 4: " in text
    assert f"fastbean binlog repair {directory}" in text
    assert "\n" not in text
    assert sorted(directory.iterdir()) == before


def test_despite_damage_all_others_come_over(directory):
    old = write_old(directory)
    old["binlog.1"] = flip_state(directory).read_bytes()
    told = Told()
    prepare(directory, told, despite_damage=True)
    assert_taken_over(directory, old, JOBS[1:])
    assert [(fields["file"], fields["offset"]) for fields in told.warnings] == [("binlog.1", 4)]


def test_a_torn_tail_is_reported_and_left_out(directory):
    write_old(directory, JOBS[:2], highest_id=0)
    path = beanstalkd.has_binlog(directory)[-1]
    path.chmod(0o600)
    data = path.read_bytes()
    path.write_bytes(data[:-50] + bytes(4000))
    told = Told()
    prepare(directory, told)
    assert len(told.warnings) == 1
    assert told.warnings[0]["file"] == path.name
    assert list(inspection.Inspection(directory).jobs) == [3]


def test_two_logs_are_refused(directory):
    write_old(directory)
    Path(segment_files.path_of(directory, 5)).write_bytes(b"")
    with pytest.raises(BinlogError, match=r"two binlogs, .*\(from binlog.1\).*\(from fastbean-5.log\)"):
        prepare(directory)
    assert len(beanstalkd.has_binlog(directory)) > 2


# --- interrupted at any point


class Killed(BaseException):
    """The process is no more."""


class Interruption:
    """Ends the calls at the step of this number: with an error once, or for good."""

    def __init__(self, monkeypatch, at, error=None):
        self.at = at
        self.error = error
        self.steps = 0
        for name in STEPS:
            monkeypatch.setattr(os, name, self._wrapped(getattr(os, name)))

    def _wrapped(self, function):
        def step(*args, **kwargs):
            if function.__name__ == "open" and not args[1] & os.O_CREAT:
                return function(*args, **kwargs)
            self.steps += 1
            if self.error is not None and self.steps == self.at:
                raise OSError(self.error, os.strerror(self.error), args[0] if isinstance(args[0], Path) else None)
            if self.error is None and self.steps >= self.at:
                raise Killed
            # No power goes here, and a sync takes its time.
            return None if function.__name__ == "fsync" else function(*args, **kwargs)

        return step


def killed(directory, at):
    """Whether a start was killed at this step, or had come to its end before."""
    with pytest.MonkeyPatch.context() as patch:
        Interruption(patch, at)
        try:
            prepare(directory)
        except Killed:
            return True
    return False


def test_killed_at_every_step_and_started_again(tmp_path):
    seen_marker = 0
    for at in itertools.count(1):
        directory = tmp_path / str(at)
        old = write_old(directory)
        if not killed(directory, at):
            break
        seen_marker += (directory / replacement.MARKER).exists()
        prepare(directory)
        assert_taken_over(directory, old)
    assert at > 30
    assert seen_marker > 5


def test_killed_at_every_step_of_the_second_start_too(tmp_path):
    old = write_old(tmp_path / "old", JOBS[:2])
    first, second, cases = 1, 1, 0
    while True:
        directory = tmp_path / f"{first}-{second}"
        shutil.copytree(tmp_path / "old", directory)
        if not killed(directory, first):
            break
        first, second = (first, second + 1) if killed(directory, second) else (first + 1, 1)
        cases += 1
        prepare(directory)
        assert_taken_over(directory, old, JOBS[:2])
    assert cases > 100


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["disk-full", "io-error"])
def test_an_error_at_every_step_loses_nothing(tmp_path, error):
    for at in itertools.count(1):
        directory = tmp_path / str(at)
        old = write_old(directory)
        with pytest.MonkeyPatch.context() as patch:
            interruption = Interruption(patch, at, error)
            failure = None
            try:
                prepare(directory)
            except (BinlogError, OSError) as raised:
                failure = raised
        if failure is None:
            assert interruption.steps < at
            break
        assert os.strerror(error) in str(failure)
        if isinstance(failure, BinlogError):
            assert {path.name for path in directory.iterdir()} == set(old), "the disk did not get its room back"
        prepare(directory)
        assert_taken_over(directory, old)
    assert at > 30


def interrupted_after_the_marker(directory):
    """An old log whose takeover was ended when it was just decided."""
    old = write_old(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacement, "finish", lambda _directory: False)
        prepare(directory)
    assert (directory / replacement.MARKER).exists()
    return old


def test_what_was_decided_does_not_read_the_old_log_again(directory):
    old = interrupted_after_the_marker(directory)
    for name in old:
        (directory / name).chmod(0o600)
        (directory / name).write_bytes(b"whatever")
    prepare(directory)
    assert_taken_over(directory, dict.fromkeys(old, b"whatever"))


def test_a_beanstalkd_that_has_run_in_between_is_noticed(directory):
    old = interrupted_after_the_marker(directory)
    late = directory / f"binlog.{len(old) + 1}"
    late.write_bytes(b"\7\0\0\0")
    before = {path.name for path in directory.iterdir()}
    with pytest.raises(BinlogError, match=f"{late}: a beanstalkd has run here"):
        prepare(directory)
    assert {path.name for path in directory.iterdir()} == before
    late.unlink()
    prepare(directory)
    assert_taken_over(directory, old)


def test_a_beanstalkd_that_has_run_when_all_was_moved_is_noticed(directory):
    interrupted_after_the_marker(directory)
    marker = (directory / replacement.MARKER).read_bytes()
    prepare(directory)
    (directory / replacement.MARKER).write_bytes(marker)
    (directory / "binlog.1").write_bytes(b"\7\0\0\0")
    with pytest.raises(BinlogError, match=r"binlog.1: a beanstalkd has run here"):
        prepare(directory)


def test_a_missing_new_file_is_noticed(directory):
    interrupted_after_the_marker(directory)
    Path(replacement.part_of(directory, 2)).unlink()
    with pytest.raises(BinlogError, match=f"{segment_files.path_of(directory, 2)}: missing"):
        prepare(directory)
    assert (directory / "binlog.1").exists()


@pytest.mark.parametrize("text", [b"", b"{}", b"[]", b"\0" * 30, b'{"aside": 1, "old": 2, "new": 3}'])
def test_an_unreadable_marker_is_an_error_of_its_own(directory, text):
    write_old(directory)
    (directory / replacement.MARKER).write_bytes(text)
    with pytest.raises(BinlogError, match="replacing: cannot be read"):
        prepare(directory)


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_has_the_name_of_an_old_file_and_is_none_is_refused(tmp_path, kind):
    write_old(tmp_path)
    odd = tmp_path / "binlog.1000"
    make_no_file(odd, kind)
    for despite_damage in (False, True):
        with pytest.raises(BinlogError, match=r"binlog\.1000: has the name of a binlog file, but is not a file"):
            prepare(tmp_path, despite_damage=despite_damage)
    assert beanstalkd.has_binlog(tmp_path)
