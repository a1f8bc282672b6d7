"""`python -m fastbean.binlog`: what it says of sound, torn and damaged logs, and what it makes of them."""

import base64
import io
import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

import fastbean
from fastbean.binlog import beanstalkd, replacement, segments, survey, tool
from fastbean.binlog.job import SavedJob
from fastbean.binlog.lock import DirectoryLock

CREATED = 1_700_000_000_123_456_789
SEGMENT_BYTES = 4096
LARGE_SEGMENT_BYTES = 1 << 20
HEADER_BYTES = 64


def saved(id, state="ready", **members):
    return replace(SavedJob(id, 10, 0, 60, CREATED, 0, state, 0, 0, 0, 0, 0, 0, b"default", b"body"), **members)


def many_jobs(count=60):
    """Enough for a few segments."""
    chance = random.Random(1)
    jobs = []
    for id in range(1, count + 1):
        state = chance.choice(["ready", "delayed", "buried"])
        deadline_ns = CREATED * 2 if state == "delayed" else 0
        burial = chance.randrange(1, 1000) if state == "buried" else 0
        counters = [chance.randrange(1, 9) for _ in range(5)]
        numbers = [chance.randrange(2**32) for _ in range(2)]
        body = chance.randbytes(chance.randrange(300))
        jobs.append(
            SavedJob(id, *numbers, 60, CREATED, deadline_ns, state, burial, *counters, b"tube%d" % (id % 3), body)
        )
    return jobs


def write_log(directory, jobs=None, **options):
    """A log of fastbean's with these jobs."""
    directory.mkdir(exist_ok=True)
    jobs = many_jobs() if jobs is None else jobs
    writer = replacement.PartWriter(
        directory, **{"segment_bytes": SEGMENT_BYTES, "first_number": 1, "first_lsn": 0, "id_limit": 1000, **options}
    )
    for job in jobs:
        writer.add(job)
    writer.finish()
    for number in writer.numbers:
        replacement.part_of(directory, number).rename(segments.path_of(directory, number))
    return [segments.path_of(directory, number) for number in writer.numbers]


def live_log(directory, segment_bytes=SEGMENT_BYTES, count=200, seed=1):
    """A log that a server wrote and did not close: with updates and deletes, and compacted if segments are small."""
    directory.mkdir(exist_ok=True)
    copied = directory.with_name("copied")
    config = fastbean.Config(
        listen=["127.0.0.1"], port=0, binlog_dir=str(directory), binlog_size=segment_bytes, fsync_ms=0
    )
    chance = random.Random(seed)
    with fastbean.Server(config) as server:
        client = io_client(server.port)
        for number in range(1, count):
            client(b"put %d 0 60 100\r\n%s\r\n" % (number, chance.randbytes(100)))
            if number % 3 == 0:
                client(b"reserve-job %d\r\n" % number, bodies=1)
                client(b"bury %d 5\r\n" % number)
            elif number % 5:
                client(b"delete %d\r\n" % number)
        shutil.copytree(directory, copied)
        client(b"", close=True)
    shutil.rmtree(directory)
    copied.rename(directory)


def io_client(port):
    """A function that sends a command and reads its reply."""
    import socket

    sock = socket.create_connection(("127.0.0.1", port), timeout=60)
    file = sock.makefile("rb")

    def ask(command, bodies=0, close=False):
        if close:
            file.close()
            sock.close()
            return b""
        sock.sendall(command)
        line = file.readline()
        return line + (file.read(int(line.split()[-1]) + 2) if bodies else b"")

    return ask


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "log"


@pytest.fixture
def run(capsys):
    """A function that runs the program: (status, what it said, what it complained)."""

    def run_tool(*words):
        status = tool.main([str(word) for word in words])
        said, complained = capsys.readouterr()
        return status, said, complained

    return run_tool


def damage(path, offset=100, bits=0xFF):
    data = bytearray(path.read_bytes())
    data[offset] ^= bits
    path.write_bytes(data)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


# --- check


def test_check_counts_what_is_there(directory, run):
    paths = write_log(directory)
    segments.path_of(directory, 50).write_bytes(bytes(4096))
    status, said, complained = run("check", directory)
    assert (status, complained) == (0, "")
    found = survey.Survey(directory)
    size = sum(path.stat().st_size for path in paths)
    assert said == (
        f"{directory}: {len(paths)} segments, 1 spare, 60 jobs, 61 records, {size} bytes, LSN 0 to {found.end_lsn}, "
        f"synced to {found.durable_lsn} or more, ids below 1000\nthe log is sound\n"
    )


def test_check_of_what_a_server_left(directory, run):
    live_log(directory)
    before = contents(directory)
    status, said, _ = run("check", directory)
    assert status == 0
    assert int(re.search(r"(\d+) jobs", said)[1]) == sum(1 for n in range(1, 200) if n % 3 == 0 or n % 5 == 0)
    assert contents(directory) == before


def test_check_of_a_torn_tail(directory, run):
    path = write_log(directory)[-1]
    found = survey.Survey(directory)
    with path.open("r+b") as file:
        file.seek(found.ends[-1])
        file.write(b"torn")
    before = contents(directory)
    status, said, _ = run("check", directory)
    assert status == 1
    assert f"torn tail: {path}: offset {found.ends[-1]}: " in said
    assert contents(directory) == before


@pytest.mark.parametrize("place", [0, 1, -1])
@pytest.mark.parametrize("offset", [0, 30, 100])
def test_check_of_damage(directory, run, place, offset):
    path = write_log(directory)[place]
    damage(path, offset)
    status, said, _ = run("check", directory)
    assert status == 2
    assert re.search(f"damaged: {path}: offset \\d+: ", said)


def test_check_of_a_missing_segment(directory, run):
    paths = write_log(directory)
    paths[1].unlink()
    status, said, _ = run("check", directory)
    assert status == 2
    assert f"damaged: {paths[2]}: offset 0: this does not follow" in said


def test_a_first_segment_that_followed_others_cannot_be_torn(directory, run):
    live_log(directory)
    *_, (_, path) = segments.list_segments(directory)[:3]
    for other in set(directory.iterdir()) - {path}:
        other.unlink()
    damage(path, 20)
    status, said, _ = run("check", directory)
    assert status == 2
    assert f"damaged: {path}: offset 0: no header can be read here" in said


# --- dump


def test_dump_writes_one_line_a_record(directory, run):
    jobs = [saved(1, body=b"text \xc3\xa4"), saved(2, "buried", burial=7, body=b"\xff\0"), saved(3, body=b"")]
    write_log(directory, jobs)
    status, said, _ = run("dump", directory)
    assert status == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["type"] for line in lines] == ["put", "put", "put", "durable"]
    assert [line["segment"] for line in lines] == [1] * 4
    assert (lines[0]["offset"], lines[0]["at_lsn"]) == (HEADER_BYTES, 0)
    assert lines[0]["body"] == "text \u00e4"
    assert "body" not in lines[1]
    assert base64.b64decode(lines[1]["body_base64"]) == b"\xff\0"
    assert (lines[1]["state"], lines[1]["burial"], lines[1]["tube"]) == ("buried", 7, "default")
    assert lines[2]["body"] == ""
    assert lines[3]["lsn"] == lines[3]["at_lsn"]


def test_dump_goes_on_behind_damage(directory, run):
    paths = write_log(directory)
    whole = [json.loads(line) for line in run("dump", directory)[1].splitlines()]
    damage(paths[0], 100)
    damage(paths[1], 20)
    status, said, _ = run("dump", directory)
    assert status == 2
    lines = [json.loads(line) for line in said.splitlines()]
    broken = [line for line in lines if line["type"] == "unreadable"]
    assert [(line["segment"], line["offset"]) for line in broken] == [(1, 64), (2, 0)]
    assert [line for line in lines if line not in broken] == whole[1:]


def test_dump_of_a_log_with_everything(directory, run):
    live_log(directory, LARGE_SEGMENT_BYTES)
    status, said, _ = run("dump", directory)
    assert status == 0
    kinds = {json.loads(line)["type"] for line in said.splitlines()}
    assert kinds == {"put", "update", "delete", "durable", "next-id"}


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
    assert "a torn tail; the next start cuts it" in said
    assert contents(directory) == {**before, "lock": b""}


def repaired(directory, run):
    """Repairs it; returns what was said and the jobs that are there then. All old files must be kept."""
    before = contents(directory)
    status, said, complained = run("repair", directory)
    assert (status, complained) == (0, "")
    (aside,) = (path for path in directory.iterdir() if path.is_dir())
    assert contents(aside) == {name: data for name, data in before.items() if name != "lock"}
    found = survey.Survey(directory)
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
    assert f"lost: {paths[place]}: offset 64: no record can be read here" in said
    assert "59 jobs are in the repaired log" in said
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
    assert said.startswith(f"lost: {paths[place]}: offset 0: no header can be read here")


def test_repair_with_a_missing_segment(directory, run):
    paths = write_log(directory)
    alone = directory.with_name("alone")
    shutil.copytree(directory, alone)
    for path in alone.iterdir():
        if path.name != paths[1].name:
            path.unlink()
    paths[1].unlink()
    said, found = repaired(directory, run)
    gone = set(survey.Survey(alone).jobs)
    assert gone
    assert set(found.jobs) == {job.id for job in many_jobs()} - gone
    assert f"lost: {paths[2]}: offset 0: this does not follow" in said


def test_repair_tells_of_jobs_that_are_known_by_changes_only(directory, run):
    live_log(directory, LARGE_SEGMENT_BYTES)
    wanted = survey.Survey(directory).jobs
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
    assert "left out of a beanstalkd's log file=binlog.1 offset=4" in said
    assert len(survey.Survey(directory).jobs) == 59


def test_repair_finishes_what_was_interrupted(directory, run):
    paths = write_log(directory)
    damage(paths[0], 100)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replacement, "finish", lambda _directory: False)
        run("repair", directory)
    assert run("check", directory)[0] == 10
    status, said, _ = run("repair", directory)
    assert status == 0
    assert said.startswith("what was interrupted is finished")
    assert len(survey.Survey(directory).jobs) == 59


def test_a_server_starts_on_what_was_repaired(directory, run):
    live_log(directory)
    wanted = survey.Survey(directory).jobs
    damage(segments.list_segments(directory)[0][1], 100)
    repaired(directory, run)
    left = survey.Survey(directory).jobs
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
    assert said == f"60 jobs written into {tmp_path / 'old'}, in 1 files\n"
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
        assert f"python -m fastbean.binlog repair {directory}" in complained
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
    one, other = survey.Survey(directory), survey.Survey(tmp_path / "copy")
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
    assert survey.Survey(tmp_path / "copy").fault is None


def test_the_look_at_a_changing_directory_is_repeated(directory, monkeypatch):
    paths = write_log(directory)
    looks = []
    real = segments.list_segments

    def look(folder):
        looks.append(folder)
        if len(looks) == 2:
            paths[0].unlink()
        return real(folder)

    monkeypatch.setattr(survey.segments, "list_segments", look)
    found = survey.open_segments(directory)
    assert [segment.path for segment in found] == paths[1:]
    assert len(looks) == 4


def test_what_is_just_being_written_is_no_torn_tail(directory, monkeypatch):
    path = write_log(directory)[-1]
    whole = path.read_bytes()
    end = survey.Survey(directory).ends[-1]
    last = max(at for at, _ in records_of(directory))
    path.write_bytes(whole[: end - 5] + b"\1" * 5 + whole[end:])
    assert survey.Survey(directory).fault is not None

    def wait(_seconds):
        with path.open("r+b") as file:
            file.write(whole)

    monkeypatch.setattr(survey.time, "sleep", wait)
    found = survey.Survey(directory)
    assert found.fault is None
    assert found.ends[-1] == last


def records_of(directory):
    segment = survey.Survey(directory).segments[-1]
    return [(at, members) for at, members in segment.scan(segment.header.first_lsn) if members]


# --- directories that cannot be used, arguments that are wrong


def test_the_lock_of_a_server_keeps_repair_and_export_away(directory, tmp_path, run):
    write_log(directory)
    code = (
        "import sys; from pathlib import Path; from fastbean.binlog.lock import DirectoryLock; "
        "lock = DirectoryLock(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"locked\n"
        for words in (("repair", directory), ("export", directory, "--beanstalkd", tmp_path / "old")):
            status, said, complained = run(*words)
            assert (status, said) == (10, "")
            assert "another server uses this directory" in complained
        assert run("check", directory)[0] == 0
        assert run("backup", directory, tmp_path / "copy")[0] == 0
        holder.stdin.close()


def test_the_lock_is_given_back(directory, run):
    write_log(directory)
    run("repair", directory)
    DirectoryLock(directory).release()


@pytest.mark.parametrize("command", ["check", "dump"])
def test_directories_without_a_log(tmp_path, run, command):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "old").mkdir()
    beanstalkd.write(tmp_path / "old", [saved(1)])
    for name, text in (
        ("missing", "there is no such directory"),
        ("file", "Not a directory"),
        (".", "there is no log in it"),
        ("old", "start fastbean with -b on it to take it over"),
    ):
        status, said, complained = run(command, tmp_path / name)
        assert (status, said) == (10, "")
        assert text in complained
        assert complained.count("\n") == 1


@pytest.mark.parametrize(
    "words", [(), ("tidy", "x"), ("check",), ("export", "x"), ("backup", "x"), ("check", "x", "y")]
)
def test_wrong_arguments_end_with_the_status_of_wrong_arguments(run, words):
    status, said, complained = run(*words)
    assert (status, said) == (5, "")
    assert "--help tells more" in complained
    assert complained.count("\n") == 1


def test_a_newer_format_is_told(directory, run):
    path = write_log(directory)[0]
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[60:64] = segments.checksum(bytes(data[:60])).to_bytes(4, "little")
    path.write_bytes(data)
    status, _, complained = run("check", directory)
    assert status == 10
    assert "use a newer fastbean" in complained


# --- the progress bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar(directory, monkeypatch):
    write_log(directory)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert tool.main(["check", str(directory)]) == 0
    lines = terminal.getvalue().split("\r")
    assert lines[0] == ""
    assert lines[-1] == f"[{'#' * 40}] 100%\n"
    assert len(lines) == len(segments.list_segments(directory)) + 1


def test_elsewhere_there_is_no_bar(directory, run):
    write_log(directory)
    assert run("check", directory)[2] == ""


def test_the_program_runs_as_a_module(directory):
    write_log(directory)
    done = subprocess.run(
        [sys.executable, "-m", "fastbean.binlog", "check", str(directory)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the log is sound\n")
    assert threading.active_count() == 1
