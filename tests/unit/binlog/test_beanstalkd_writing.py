"""Logs that are written for a beanstalkd: read again they give the same jobs, and they are safe when they are done."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanstalkd_binlogs import HEADER, by_burial, ids_of, read_alone, saved
from fastbean.binlog import beanstalkd
from fastbean.binlog.beanstalkd import Oversized, read, write
from fastbean.binlog.saved_job import SavedJob
from fastbean.errors import BinlogError

NAMES = st.text("abcXYZ019-+/;.$_()", min_size=1, max_size=200).filter(lambda name: name[0] != "-").map(str.encode)
U32 = st.integers(0, 2**32 - 1)
TIMES = st.integers(1, 2**63 - 1)


@st.composite
def saved_jobs(draw, id):
    state = draw(st.sampled_from(["ready", "delayed", "buried"]))
    return SavedJob(
        id,
        draw(U32),
        draw(U32),
        draw(st.integers(1, 2**32 - 1)),
        draw(TIMES),
        draw(TIMES) if state == "delayed" else 0,
        state,
        draw(st.integers(1, 2**64)) if state == "buried" else 0,
        *(draw(U32) for _ in range(5)),
        draw(NAMES),
        draw(st.binary(max_size=300)),
    )


@st.composite
def lists_of_jobs(draw):
    ids = draw(st.lists(st.integers(1, 2**63 - 1), unique=True, max_size=8))
    jobs = [draw(saved_jobs(id)) for id in ids]
    burials = draw(st.permutations(range(1, len(jobs) + 1)))
    return [replace(job, burial=n) if job.state == "buried" else job for job, n in zip(jobs, burials, strict=True)]


def as_read(jobs):
    """What reading gives for written jobs: one burial less, which a beanstalkd adds; burials have other numbers."""
    jobs = [replace(job, burial=0, buries=(job.buries - (job.state == "buried")) % 2**32) for job in jobs]
    return sorted(jobs, key=lambda job: job.id)


@given(jobs=lists_of_jobs())
def test_what_was_written_is_read(tmp_path_factory, jobs):
    directory = tmp_path_factory.mktemp("log")
    written = write(directory, iter(jobs), file_bytes=4096)
    found = read(directory)
    assert found.damage == []
    assert [replace(job, burial=0) for job in found.jobs] == as_read(jobs)
    assert by_burial(found) == [j.id for j in sorted(jobs, key=lambda job: job.burial) if j.state == "buried"]
    assert written.jobs == len(jobs)
    assert written.files == found.files


def test_an_empty_log_is_a_log(tmp_path):
    written = write(tmp_path / "new", [])
    assert [path.read_bytes() for path in written.files] == [HEADER[7]]
    assert len(read(tmp_path / "new")) == 0


def test_files_are_rotated_and_private(tmp_path):
    jobs = [saved(id, body=bytes(1000)) for id in range(1, 13)]
    written = write(tmp_path, jobs, file_bytes=4096)
    assert [path.name for path in written.files] == [f"binlog.{n}" for n in range(1, 5)]
    assert [len(read_alone(path.read_bytes())) for path in written.files] == [3, 3, 3, 3]
    assert all(path.stat().st_size <= 4096 and path.stat().st_mode & 0o777 == 0o600 for path in written.files)


def test_a_job_too_large_for_the_other_server_is_told_and_stands_alone(tmp_path):
    sizes = {1: 10, 2: 65533, 3: 65534, 4: 65535, 5: 10, 6: 100_000}
    written = write(tmp_path, [saved(id, body=bytes(size)) for id, size in sizes.items()])
    assert written.oversized == [Oversized(3, 65536), Oversized(4, 65537), Oversized(6, 100_002)]
    assert [ids_of(read_alone(path.read_bytes())) for path in written.files] == [[1, 2], [3], [4], [5], [6]]


def test_a_job_too_large_for_every_server_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(beanstalkd, "LARGEST_MAX_JOB_SIZE", 1000)
    written = write(tmp_path, [saved(1, body=bytes(998)), saved(2, body=bytes(999))], max_job_size=100)
    assert written.oversized == [Oversized(1, 1000), Oversized(2, None)]


def test_a_larger_job_size_is_taken_into_account(tmp_path):
    written = write(tmp_path, [saved(1, body=bytes(65535))], max_job_size=65537)
    assert written.oversized == []


def test_the_highest_id_is_used_up(tmp_path):
    write(tmp_path, [saved(3)], highest_id=70)
    found = read(tmp_path)
    assert (ids_of(found), found.highest_id, found.damage) == ([3], 70, [])


def test_a_lower_highest_id_says_nothing(tmp_path):
    write(tmp_path, [saved(3)], highest_id=3)
    assert (read(tmp_path).highest_id, read(tmp_path).records) == (3, 1)


def test_counters_stay_in_their_range(tmp_path):
    write(tmp_path, [saved(1, reserves=2**40, buries=2**40)])
    [job] = read(tmp_path).jobs
    assert (job.reserves, job.buries) == (2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize(
    "members",
    [
        {"tube": b""},
        {"tube": b"x" * 201},
        {"tube": b"a b"},
        {"id": 0},
        {"id": 1 << 64},
        {"ttr_s": 0},
        {"ttr_s": 2**32},
        {"pri": 2**32},
        {"created_ns": 0},
        {"state": "delayed"},
        {"state": "reserved"},
    ],
)
def test_a_job_that_the_format_cannot_hold_is_refused(tmp_path, members):
    bad = replace(saved(5), **members)
    with pytest.raises(ValueError, match=rf"job {bad.id} cannot be written: "):
        write(tmp_path, [saved(1), bad])
    assert list(tmp_path.iterdir()) == []


def test_files_too_small_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a binlog file of 4095 bytes is too small: give at least 4096"):
        write(tmp_path, [], file_bytes=4095)


def test_only_a_new_or_empty_directory_is_written_into(tmp_path):
    (tmp_path / "lock").write_bytes(b"")
    with pytest.raises(BinlogError, match=r"is not empty: a binlog is only written into a new or empty directory"):
        write(tmp_path, [])
    with pytest.raises(BinlogError, match=r"lock is not a directory: name a new one"):
        write(tmp_path / "lock", [])
    with pytest.raises(BinlogError, match=r"cannot write a binlog into .*missing/new: No such file"):
        write(tmp_path / "missing" / "new", [])
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = []

    def fail_third(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(beanstalkd.os, "fsync", fail_third)
    with pytest.raises(BinlogError, match=r"No space left on device; fix that, or name another directory"):
        write(tmp_path, [saved(id, body=bytes(3000)) for id in range(1, 9)], file_bytes=4096)
    assert list(tmp_path.iterdir()) == []


def test_files_and_directories_are_synced(tmp_path, monkeypatch):
    synced = []
    fsync = os.fsync

    def note(descriptor):
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(beanstalkd.os, "fsync", note)
    new = tmp_path / "new"
    written = write(new, [saved(1, body=bytes(3000)), saved(2, body=bytes(3000))], file_bytes=4096)
    assert synced == [tmp_path, *written.files, new]
