"""`fastbean binlog`: what it makes of a log: repaired, exported, backed up."""

import json
import os
import re
import shutil
from dataclasses import replace

import pytest

import fastbean
from fastbean.binlog import beanstalkd, inspection, replacement, segment_files
from made_binlogs import (
    LARGE_SEGMENT_BYTES,
    SEGMENT_BYTES,
    contents,
    damage,
    io_client,
    live_log,
    many_jobs,
    records_of,
    saved,
    write_log,
)

# --- repair


def test_repair_of_a_sound_log_changes_nothing(directory, run):
    write_log(directory)
    before = contents(directory)
    status, said, _ = run("repair", directory)
    assert (status, said) == (0, f"{directory}: nothing is damaged\n")
    assert contents(directory) == {**before, "lock": b""}


def test_repair_of_a_torn_tail_leaves_it_to_the_start(directory, run):
    path = write_log(directory)[-1]
    with path.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"torn")
    before = contents(directory)
    status, said, _ = run("repair", directory)
    assert status == 0
    assert "a torn tail; the next start cuts it off" in said
    assert contents(directory) == {**before, "lock": b""}


def repaired(directory, run):
    """Repairs it; returns what was said and the jobs that are there then. All old files must be kept."""
    before = contents(directory)
    status, said, complained = run("repair", directory)
    assert (status, complained) == (0, "")
    (aside,) = (path for path in directory.iterdir() if path.is_dir())
    assert contents(aside) == {name: data for name, data in before.items() if name != "lock"}
    found = inspection.Inspection(directory)
    assert found.fault is None
    assert run("check", directory)[0] == 0
    return said, found


@pytest.mark.parametrize("place", [0, 1, -1])
def test_repair_keeps_all_that_can_be_read(directory, run, place):
    paths = write_log(directory)
    damage(paths[place], 100)
    lost = next(job["id"] for job in dumped(run, directory, paths[place]) if job["type"] == "unreadable_put")
    said, found = repaired(directory, run)
    assert list(found.jobs.values()) == [job for job in many_jobs() if job.id != lost]
    assert f"lost: {paths[place]}: offset 64: there is no readable record here" in said
    assert "59 jobs are in the repaired binlog" in said
    assert found.segments[0].number == int(re.search(r"\d+", paths[-1].name)[0]) + 1
    assert found.id_limit == 1000 + (1 << 20)


def dumped(run, directory, path):
    """The put records of all segments, the first one of `path` as lost."""
    ids = [json.loads(line) for line in run("dump", directory)[1].splitlines()]
    seen = {line["id"] for line in ids if line["type"] == "put"}
    return [{"type": "unreadable_put", "id": id} for id in range(1, 61) if id not in seen]


@pytest.mark.parametrize("place", [0, 1, -1])
def test_repair_with_a_damaged_header_loses_no_job(directory, run, place):
    paths = write_log(directory)
    damage(paths[place], 20)
    said, found = repaired(directory, run)
    assert list(found.jobs.values()) == many_jobs()
    assert said.startswith(f"lost: {paths[place]}: offset 0: there is no readable header")


def test_repair_with_a_missing_segment(directory, run):
    paths = write_log(directory)
    alone = directory.with_name("alone")
    shutil.copytree(directory, alone)
    for path in alone.iterdir():
        if path.name != paths[1].name:
            path.unlink()
    paths[1].unlink()
    said, found = repaired(directory, run)
    gone = set(inspection.Inspection(alone).jobs)
    assert gone
    assert set(found.jobs) == {job.id for job in many_jobs()} - gone
    assert f"lost: {paths[2]}: offset 0: this does not continue" in said


def test_repair_tells_of_jobs_that_are_known_by_changes_only(directory, run):
    live_log(directory, LARGE_SEGMENT_BYTES)
    wanted = inspection.Inspection(directory).jobs
    for at, members in records_of(directory):
        if members["type"] == "put" and members["id"] in (3, 9, 11):  # two that are buried, one that is deleted
            damage(directory / "fastbean-1.log", at + 30)
    said, found = repaired(directory, run)
    assert "lost: 2 jobs of which only later changes could be read: 3, 9\n" in said
    assert found.jobs == {id: job for id, job in wanted.items() if id not in (3, 9)}


def test_repair_takes_over_a_damaged_log_of_beanstalkd(directory, run):
    beanstalkd.write(directory, many_jobs())
    path = directory / "binlog.1"
    path.chmod(0o600)
    damage(path, 4 + 4 + 5 + 76)
    status, said, _ = run("repair", directory)
    assert status == 0
    assert "beanstalkd record left out file=binlog.1 offset=4" in said
    assert len(inspection.Inspection(directory).jobs) == 59


def test_repair_tells_of_a_log_of_beanstalkd_without_a_readable_job(directory, run):
    directory.mkdir()
    (directory / "binlog.1").write_bytes(b"\7\0\0\0" + b"x" * 500)
    status, said, _ = run("repair", directory)
    assert status == 0
    assert "beanstalkd record left out file=binlog.1 offset=4" in said
    assert "beanstalkd binlog taken over jobs=0" in said
    assert "nothing is damaged" not in said


def test_repair_finishes_what_was_interrupted(directory, run):
    paths = write_log(directory)
    damage(paths[0], 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacement, "finish", lambda _directory: False)
        run("repair", directory)
    assert run("check", directory)[0] == 10
    status, said, _ = run("repair", directory)
    assert status == 0
    assert said.startswith("binlog replacement finished")
    assert len(inspection.Inspection(directory).jobs) == 59


def test_a_server_starts_on_what_was_repaired(directory, run):
    live_log(directory)
    wanted = inspection.Inspection(directory).jobs
    damage(segment_files.list_segments(directory)[0][1], 100)
    repaired(directory, run)
    left = inspection.Inspection(directory).jobs
    assert len(left) >= len(wanted) - 3
    config = fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory), binlog_size=SEGMENT_BYTES)
    with fastbean.Server(config) as server:
        client = io_client(server.port)
        for id, job in left.items():
            assert client(b"peek %d\r\n" % id, bodies=1) == b"FOUND %d %d\r\n%s\r\n" % (id, len(job.body), job.body)
        inserted = client(b"put 0 0 1 0\r\n\r\n")
        client(b"", close=True)
    assert int(inserted.split()[1]) > 1 << 20


# --- export


def test_export_writes_every_job(directory, tmp_path, run):
    write_log(directory)
    status, said, complained = run("export", directory, "--beanstalkd", tmp_path / "old")
    assert (status, complained) == (0, "")
    assert said == f"60 jobs written into {tmp_path / 'old'}, in 1 file\n"
    read = beanstalkd.read(tmp_path / "old")
    assert read.damage == []
    assert read.highest_id == 999
    jobs = {job.id: job for job in many_jobs()}
    back = {job.id: replace(job, burial=0, buries=job.buries + (job.state == "buried")) for job in read.jobs}
    assert back == {id: replace(job, burial=0) for id, job in jobs.items()}
    order = sorted((job for job in jobs.values() if job.burial), key=lambda job: (job.burial, job.id))
    found = sorted((job for job in read.jobs if job.burial), key=lambda job: job.burial)
    assert [job.id for job in found] == [job.id for job in order]


def test_export_tells_which_jobs_need_a_larger_z(directory, tmp_path, run):
    write_log(directory, [saved(1), saved(2, body=bytes(65534)), saved(3, body=bytes(70000))])
    status, said, _ = run("export", directory, "--beanstalkd", tmp_path / "old")
    assert status == 0
    assert said.splitlines()[1:] == [
        "job 2 is only read by a beanstalkd with -z 65536 or more",
        "job 3 is only read by a beanstalkd with -z 70002 or more",
        "start beanstalkd with -z 70002",
    ]


def test_export_tells_of_jobs_that_no_beanstalkd_takes(directory, tmp_path, run, monkeypatch):
    monkeypatch.setattr(beanstalkd, "LARGEST_MAX_JOB_SIZE", 69999)
    write_log(directory, [saved(1), saved(2, body=bytes(70000))])
    status, said, _ = run("export", directory, "--beanstalkd", tmp_path / "old")
    assert status == 2
    assert "job 2 is too large for every beanstalkd, and will be missing there" in said


def test_export_leaves_a_torn_tail_out_and_says_so(directory, tmp_path, run):
    path = write_log(directory)[-1]
    with path.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"torn")
    status, said, _ = run("export", directory, "--beanstalkd", tmp_path / "old")
    assert status == 0
    assert f"left out, a torn tail: {path}" in said
    assert len(beanstalkd.read(tmp_path / "old")) == 60


def test_export_and_backup_refuse_a_damaged_log(directory, tmp_path, run):
    damage(write_log(directory)[1], 200)
    for words in (("export", directory, "--beanstalkd", tmp_path / "new"), ("backup", directory, tmp_path / "new")):
        status, said, complained = run(*words)
        assert (status, said) == (2, "")
        assert "offset " in complained
        assert f"fastbean binlog repair {directory}" in complained
        assert not (tmp_path / "new").exists()


def test_export_tells_of_a_job_that_the_format_cannot_hold(directory, tmp_path, run):
    write_log(directory, [saved(1, created_ns=-5)])
    status, _, complained = run("export", directory, "--beanstalkd", tmp_path / "old")
    assert status == 10
    assert "job 1 cannot be written" in complained
    assert "delete it and export again" in complained


def test_export_and_backup_want_an_empty_directory(directory, tmp_path, run):
    write_log(directory)
    for words in (("export", directory, "--beanstalkd", tmp_path), ("backup", directory, tmp_path)):
        status, _, complained = run(*words)
        assert status == 10
        assert "not empty" in complained


# --- backup


def test_a_backup_has_every_job_and_no_spare(directory, tmp_path, run):
    live_log(directory)
    before = contents(directory)
    status, said, complained = run("backup", directory, tmp_path / "copy")
    assert (status, complained) == (0, "")
    assert contents(directory) == before
    one, other = inspection.Inspection(directory), inspection.Inspection(tmp_path / "copy")
    assert other.jobs == one.jobs
    assert (other.first_lsn, other.end_lsn, other.id_limit) == (one.first_lsn, one.end_lsn, one.id_limit)
    assert other.spares == 0
    assert said == f"{len(one.segments)} segments with {sum(one.ends)} bytes copied, up to LSN {one.end_lsn}\n"


def test_a_backup_leaves_a_torn_tail_out_and_says_so(directory, tmp_path, run):
    path = write_log(directory)[-1]
    with path.open("r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(b"torn")
    status, said, _ = run("backup", directory, tmp_path / "copy")
    assert status == 0
    assert f"left out, a torn tail: {path}" in said
    assert inspection.Inspection(tmp_path / "copy").fault is None
