"""The binlogs of format_1.txt, written by hand: this version and every later one reads them as it is said here."""

import subprocess
import sys
from pathlib import Path

import pytest

import fastbean
from fastbean.binlog import inspection
from fastbean.errors import BinlogError
from made_binlogs import io_client

TEXT = Path(__file__).with_name("format_1.txt")
FILE_BYTES = 4096
FAR_NS = 4102444800 * 10**9
CREATED_NS = 1_700_000_000_123_456_789


def write(directory: Path, name: str) -> Path:
    """Write the files of the binlog of this name."""
    directory.mkdir()
    files: dict[str, bytearray] = {}
    current = bytearray()
    for line in TEXT.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            current = files.setdefault(line.strip("[]"), bytearray())
        else:
            current += bytes.fromhex(line.partition("#")[0])
    for path, content in files.items():
        folder, _, file = path.partition("/")
        if folder == name:
            (directory / file).write_bytes(content.ljust(FILE_BYTES, b"\0"))
    return directory


def job_as_read(found: inspection.Inspection, id: int) -> tuple[object, ...]:
    job = found.jobs[id]
    counters = (job.reserves, job.timeouts, job.releases, job.buries, job.kicks)
    return job.tube, job.body, job.state, job.pri, job.delay_s, job.ttr_s, job.deadline_ns, job.burial, counters


def test_the_tools_read_it(directory: Path) -> None:
    found = inspection.Inspection(write(directory, "sound"))
    assert found.fault is None
    none = (0, 0, 0, 0, 0)
    assert {id: job_as_read(found, id) for id in sorted(found.jobs)} == {
        1: (b"default", b"first", "ready", 0, 0, 60, 0, 0, (300, 2, 3, 4, 5)),
        2: (b"emails", b"second", "delayed", 10, 4294967295, 60, FAR_NS, 0, none),
        3: (b"a", b"", "buried", 5, 0, 1, 0, 7, (1, 0, 0, 1, 0)),
        6: (b"old", b"stays", "ready", 0, 0, 60, 0, 0, none),
        7: (b"default", b"seventh", "ready", 9, 0, 60, 0, 0, (1, 0, 1, 0, 0)),
    }
    assert {job.created_ns for job in found.jobs.values()} == {CREATED_NS}
    assert {name: (tube.pause_s, tube.pause_end_ns) for name, tube in found.tubes.items()} == {
        b"emails": (4294967295, FAR_NS),
        b"a": (100, 978307200 * 10**9),
        b"c": (50000, FAR_NS),
    }
    assert (found.first_lsn, found.id_limit, found.records) == (0, 65537, 22)
    assert found.segments[0].header.run == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert (found.segments[1].header.first_lsn, found.durable_lsn) == (360, 520)


def test_a_server_reads_it(directory: Path) -> None:
    config = fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(write(directory, "sound")), binlog_size=4096)
    with fastbean.Server(config) as server:
        client = io_client(server.port)

        def stats(command: bytes) -> dict[bytes, bytes]:
            text = client(command + b"\r\n", bodies=1)
            return dict(line.replace(b'"', b"").split(b": ") for line in text.splitlines() if b": " in line)

        keys = (b"tube", b"state", b"pri", b"ttr", b"reserves", b"timeouts", b"releases", b"buries", b"kicks")
        seen = {id: [stats(b"stats-job %d" % id)[key] for key in keys] for id in (1, 2, 3, 6, 7)}
        bodies = [client(b"peek %d\r\n" % id, bodies=1).splitlines()[1] for id in (1, 2, 3, 6, 7)]
        gone = [client(b"peek %d\r\n" % id) for id in (4, 5)]
        pauses = {tube: int(stats(b"stats-tube " + tube)[b"pause"]) for tube in (b"emails", b"a", b"c")}
        left = int(stats(b"stats-tube c")[b"pause-time-left"])
        other = client(b"stats-tube b\r\n")
        next_id = client(b"put 0 0 60 0\r\n\r\n")
        client(b"", close=True)
    assert seen == {
        1: [b"default", b"ready", b"0", b"60", b"300", b"2", b"3", b"4", b"5"],
        2: [b"emails", b"delayed", b"10", b"60", b"0", b"0", b"0", b"0", b"0"],
        3: [b"a", b"buried", b"5", b"1", b"1", b"0", b"0", b"1", b"0"],
        6: [b"old", b"ready", b"0", b"60", b"0", b"0", b"0", b"0", b"0"],
        7: [b"default", b"ready", b"9", b"60", b"1", b"0", b"1", b"0", b"0"],
    }
    assert bodies == [b"first", b"second", b"", b"stays", b"seventh"]
    assert gone == [b"NOT_FOUND\r\n"] * 2
    assert pauses == {b"emails": 4294967295, b"a": 0, b"c": 50000}
    assert 0 < left <= 50000
    assert other == b"NOT_FOUND\r\n"
    assert next_id == b"INSERTED 65537\r\n"


NEWER = ["required-member", "required-flag", "required-member-of-a-tube", "required-type"]


@pytest.mark.parametrize("name", NEWER)
def test_what_is_required_and_unknown_refuses_the_start(directory: Path, name: str) -> None:
    before = {path.name: path.read_bytes() for path in write(directory, name).iterdir()}
    config = fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory), binlog_size=4096)
    with pytest.raises(BinlogError) as refusal, fastbean.Server(config):
        pass
    where = 64 if name == "required-member" else 103
    assert str(refusal.value) == (
        f"{directory}/fastbean-1.log: at offset {where} there is a record that only a newer fastbean can read: use a "
        "newer fastbean"
    )
    assert refusal.value.exit_status == 10
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"} == before


@pytest.mark.parametrize("name", NEWER)
def test_the_program_ends_with_one_line_and_status_10(directory: Path, name: str) -> None:
    write(directory, name)
    words = [sys.executable, "-m", "fastbean", "-l", "127.0.0.1", "-p", "0", "-b", str(directory)]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 10
    (complaint,) = [line for line in ended.stderr.splitlines() if " INFO " not in line]
    assert complaint.startswith(f"fastbean: {directory}/fastbean-1.log: at offset ")
    assert complaint.endswith("there is a record that only a newer fastbean can read: use a newer fastbean")


@pytest.mark.parametrize("command", ["check", "dump", "repair"])
@pytest.mark.parametrize("name", NEWER)
def test_the_tools_refuse_it_too(directory: Path, run, name: str, command: str) -> None:
    before = {path.name: path.read_bytes() for path in write(directory, name).iterdir()}
    status, _, complained = run(command, directory)
    assert status == 10
    assert complained.count("\n") == 1
    assert "there is a record that only a newer fastbean can read" in complained
    assert {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "lock"} == before
