"""`fastbean binlog`: what it says of sound, torn and damaged logs, and of what is none."""

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastbean.binlog import beanstalkd, inspection, segment_files, tool
from fastbean.binlog.lock import DirectoryLock
from fastbean.errors import BinlogError
from made_binlogs import (
    HEADER_BYTES,
    LARGE_SEGMENT_BYTES,
    NO_FILES,
    contents,
    damage,
    live_log,
    make_no_file,
    saved,
    write_log,
)  # fmt: skip

# --- check


def test_check_counts_what_is_there(directory, run):
    paths = write_log(directory)
    Path(segment_files.path_of(directory, len(paths) + 1)).write_bytes(bytes(4096))
    status, said, complained = run("check", directory)
    assert (status, complained) == (0, "")
    found = inspection.Inspection(directory)
    size = sum(path.stat().st_size for path in paths)
    assert said == (
        f"{directory}: {len(paths)} segments, 1 spare, 60 jobs, 62 records, {size} bytes, LSN 0 to {found.end_lsn}, "
        f"synced to {found.durable_lsn} or more, ids below 1000\nthe binlog is sound\n"
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
    found = inspection.Inspection(directory)
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
    assert f"damaged: {paths[1]}: missing" in said


def test_a_first_segment_that_followed_others_cannot_be_torn(directory, run):
    live_log(directory)
    *_, (_, path) = segment_files.list_segments(directory)[:3]
    for other in set(directory.iterdir()) - {Path(path)}:
        other.unlink()
    damage(path, 20)
    status, said, _ = run("check", directory)
    assert status == 2
    assert f"damaged: {path}: offset 0: there is no readable header" in said


# --- dump


def test_dump_writes_one_line_a_record(directory, run):
    jobs = [saved(1, body=b"text \xc3\xa4"), saved(2, "buried", burial=7, body=b"\xff\0"), saved(3, body=b"")]
    write_log(directory, jobs)
    status, said, _ = run("dump", directory)
    assert status == 0
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["type"] for line in lines] == ["put", "put", "put", "shed", "durable"]
    assert [line["segment"] for line in lines] == [1] * 5
    assert (lines[0]["offset"], lines[0]["at_lsn"]) == (HEADER_BYTES, 0)
    assert lines[0]["body"] == "text \u00e4"
    assert "body" not in lines[1]
    assert base64.b64decode(lines[1]["body_base64"]) == b"\xff\0"
    assert (lines[1]["state"], lines[1]["burial"], lines[1]["tube"]) == ("buried", 7, "default")
    assert lines[2]["body"] == ""
    assert lines[3]["below"] == 0
    assert lines[4]["lsn"] == lines[4]["at_lsn"]


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


def test_dump_tells_of_missing_segments(directory, run):
    paths = write_log(directory)
    whole = [json.loads(line) for line in run("dump", directory)[1].splitlines()]
    paths[1].unlink()
    status, said, _ = run("dump", directory)
    assert status == 2
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line for line in lines if line["type"] == "missing"] == [{"segment": 2, "type": "missing"}]
    assert [line for line in lines if line["type"] != "missing"] == [line for line in whole if line["segment"] != 2]


def test_dump_of_a_log_with_everything(directory, run):
    live_log(directory)
    status, said, _ = run("dump", directory)
    assert status == 0
    kinds = {json.loads(line)["type"] for line in said.splitlines()}
    assert kinds == {"put", "update", "delete", "durable", "shed"}
    live_log(directory.with_name("large"), LARGE_SEGMENT_BYTES)
    first = json.loads(run("dump", directory.with_name("large"))[1].splitlines()[0])
    assert first["type"] == "next-id"


# --- logs that change


def test_the_look_at_a_changing_directory_is_repeated(directory, monkeypatch):
    paths = write_log(directory)
    looks = []
    real = segment_files.list_segments

    def look(folder):
        looks.append(folder)
        if len(looks) == 2:
            paths[0].unlink()
        return real(folder)

    monkeypatch.setattr(inspection.segment_files, "list_segments", look)
    found = inspection.open_segments(directory)
    assert [Path(segment.path) for segment in found] == paths[1:]
    assert len(looks) == 4


def test_a_directory_that_goes_between_two_looks_is_told(directory, monkeypatch):
    write_log(directory)
    looks = []
    real = segment_files.list_segments

    def look(folder):
        looks.append(folder)
        if len(looks) == 2:
            directory.rename(directory.with_name("elsewhere"))
        return real(folder)

    monkeypatch.setattr(inspection.segment_files, "list_segments", look)
    with pytest.raises(BinlogError, match=f"^{directory}: there is no such directory$"):
        inspection.open_segments(str(directory))


def test_what_is_just_being_written_is_no_torn_tail(directory, monkeypatch):
    path = write_log(directory)[-1]
    whole = path.read_bytes()
    end = inspection.Inspection(directory).ends[-1]
    path.write_bytes(whole[: end - 5] + b"\1" * 5 + whole[end:])
    assert inspection.Inspection(directory).fault is not None

    def wait(_seconds):
        with path.open("r+b") as file:
            file.write(whole)

    monkeypatch.setattr(inspection.time, "sleep", wait)
    found = inspection.Inspection(directory)
    assert found.fault is None
    assert found.ends[-1] == end


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
        (".", "there is no binlog in it"),
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
    assert "; see fastbean binlog" in complained
    assert complained.count("\n") == 1


def test_a_newer_format_is_told(directory, run):
    path = write_log(directory)[0]
    data = bytearray(path.read_bytes())
    data[8] = 2
    data[60:64] = segment_files.checksum(bytes(data[:60])).to_bytes(4, "little")
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
    assert len(lines) == len(segment_files.list_segments(directory)) + 1


def test_elsewhere_there_is_no_bar(directory, run):
    write_log(directory)
    assert run("check", directory)[2] == ""


def test_the_program_runs_as_a_module(directory):
    write_log(directory)
    done = subprocess.run(
        [sys.executable, "-m", "fastbean.binlog", "check", str(directory)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("the binlog is sound\n")


# --- odd directories


ALL_TOOLS = [("check",), ("dump",), ("repair",), ("export", "--beanstalkd", "OTHER"), ("backup", "OTHER")]


def words_of(command, directory, other):
    name, *more = (other if word == "OTHER" else word for word in command)
    return [name, directory, *more]


@pytest.mark.parametrize("command", ALL_TOOLS)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_has_a_segments_name_and_is_no_file_is_refused(directory, run, tmp_path, command, kind):
    odd = Path(segment_files.path_of(directory, len(write_log(directory)) + 1))
    make_no_file(odd, kind)
    status, _, complained = run(*words_of(command, directory, tmp_path / "other"))
    assert status == 10
    assert f"{odd}: has the name of a binlog file, but is not a file; move it into another directory\n" in complained


@pytest.mark.parametrize("command", ALL_TOOLS)
def test_a_segment_under_nearly_its_name_is_refused(directory, run, tmp_path, command):
    path = write_log(directory)[0]
    path.rename(path.with_name("fastbean-0001.log"))
    status, _, complained = run(*words_of(command, directory, tmp_path / "other"))
    assert status == 10
    assert "fastbean-0001.log: no segment has such a name; call it fastbean-1.log again\n" in complained


def test_a_segment_that_goes_meanwhile_is_no_odd_one(directory, monkeypatch):
    paths = write_log(directory)
    real = Path.is_file

    def goes(path):
        if path == paths[0]:
            path.unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(Path, "is_file", goes)
    assert len(segment_files.list_segments(directory)) == len(paths)


@pytest.mark.parametrize("command", ALL_TOOLS)
def test_an_empty_name_is_not_the_directory_that_one_is_in(directory, run, tmp_path, monkeypatch, command):
    write_log(directory)
    monkeypatch.chdir(directory)
    before = contents(directory)
    status, _, complained = run(*words_of(command, "", tmp_path / "other"))
    assert (status, "argument DIR: the name is empty; write . for" in complained) == (5, True)
    if "OTHER" in command:
        status, _, complained = run(*words_of(command, directory, ""))
        assert (status, "the name is empty" in complained) == (5, True)
    assert contents(directory) == before


def test_check_names_the_directory_to_repair(directory, run):
    damage(write_log(directory)[0], 100)
    _, said, _ = run("check", directory)
    assert said.endswith(f"or run: fastbean binlog repair {directory}\n")


@pytest.mark.parametrize(("offset", "status"), [(None, 0), (100, 2)])
def test_with_closed_streams_the_status_is_what_it_is(directory, offset, status):
    paths = write_log(directory)
    if offset is not None:
        damage(paths[0], offset)
    words = [sys.executable, "-m", "fastbean.binlog", "check", str(directory)]
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *words], capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (status, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("command", ["check", "dump"])
def test_an_output_that_takes_nothing_more_is_told(directory, command):
    write_log(directory)
    words = [sys.executable, "-m", "fastbean.binlog", command, str(directory)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b"fastbean binlog: cannot write the result: No space left on device\n"
    assert done.returncode == 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("redirection", ["2>/dev/full", ">/dev/full 2>/dev/full"])
def test_the_status_is_told_to_who_cannot_be_told_why(directory, redirection):
    directory.mkdir()
    words = [sys.executable, "-m", "fastbean.binlog", "check", str(directory)]
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", *words], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (10, b"", b"")


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_no_text_can_be_told(tmp_path, encoding):
    directory = tmp_path / os.fsdecode(b"odd-\xff-\xc3\xa4")
    write_log(directory)
    words = [sys.executable, "-m", "fastbean.binlog", "check", str(directory)]
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONIOENCODING": f"{encoding}:strict"}
    done = subprocess.run(words, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    told = {"utf-8": "odd-\\udcff-ä".encode(), "ascii": rb"odd-\udcff-\xe4"}
    assert b"/" + told[encoding] + b": " in done.stdout
