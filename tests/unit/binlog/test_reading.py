"""Reading a binlog at the start and by the tools: records of any size, files that change, disks that fail."""

import errno
import os
import random
import struct
import subprocess
import sys

import pytest

import fastbean
from fastbean.binlog import inspection, segment_files
from fastbean.binlog.record import checksum, run_seed
from fastbean.binlog.record_reader import find_record
from fastbean.errors import BinlogError
from made_binlogs import HEADER_BYTES, RUN, io_client, restored, saved, write_log

WINDOW_BYTES = 131072


def bodies_of(directory, ids):
    """The bodies of these jobs, as a server answers them."""
    config = fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory), max_job_size=1 << 24)
    with fastbean.Server(config) as server:
        client = io_client(server.port)
        found = [client(b"peek %d\r\n" % id, bodies=1).partition(b"\r\n")[2][:-2] for id in ids]
        client(b"", close=True)
    return found


def test_records_of_any_size_are_restored(directory):
    chance = random.Random(1)
    sizes = [chance.choice([0, 1, 100, 5000, 60_000, WINDOW_BYTES, 400_000, 1 << 20]) for _ in range(60)]
    jobs = [saved(id, body=chance.randbytes(size)) for id, size in enumerate(sizes, 1)]
    write_log(directory, jobs, segment_bytes=1 << 22)
    assert bodies_of(directory, [job.id for job in jobs]) == [job.body for job in jobs]


@pytest.mark.parametrize("beside", range(-20, 21))
def test_a_record_that_ends_beside_the_end_of_what_is_read_at_once(directory, beside):
    first = saved(1, body=b"")
    write_log(directory, [first], segment_bytes=1 << 20)
    overhead = inspection.Inspection(directory).end_lsn
    for path in directory.iterdir():
        path.unlink()
    body = bytes(WINDOW_BYTES - HEADER_BYTES - overhead + beside)
    write_log(directory, [saved(1, body=body), saved(2), saved(3)], segment_bytes=1 << 20)
    assert restored(directory, 1 << 20).counters()["jobs"] == 3


def test_a_segment_that_ends_in_the_middle_of_a_large_record(directory):
    paths = write_log(directory, [saved(1), saved(2, body=b"x" * 500_000)], segment_bytes=1 << 20)
    for size in (200_000, 400_000):
        os.truncate(paths[-1], size)
        assert inspection.Inspection(directory).jobs.keys() == {1}
    # What is missing had been synced, but the mark that says so is missing, too.
    assert restored(directory, 1 << 20).counters()["jobs"] == 1


def test_a_file_that_becomes_shorter_under_a_tool_is_a_fault_and_no_signal(directory):
    path = write_log(directory, [saved(id, body=b"x" * 1000) for id in range(1, 200)], segment_bytes=1 << 20)[0]
    code = (
        "import os, sys; from fastbean.binlog import inspection\n"
        "segment = inspection.open_segments(sys.argv[1])[0]\n"
        "os.truncate(sys.argv[2], 50000)\n"
        "print(*[found for _, found in segment.scan(0)][-1:], len(segment.read()))"
    )
    program = [sys.executable, "-c", code, str(directory), str(path)]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "None 50000\n")


def test_a_segment_that_its_server_removes_can_be_read_to_its_end(directory):
    path = write_log(directory)[0]
    whole = path.read_bytes()
    segment = inspection.open_segments(directory)[0]
    path.unlink()
    assert segment.read() == whole


def test_segments_are_closed_when_nobody_looks_at_them_any_more(directory):
    write_log(directory)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    found = inspection.Inspection(directory)
    assert len(found.segments) > 1
    del found
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_the_tools_may_have_as_many_segments_as_descriptors(directory):
    write_log(directory, [saved(id, body=b"x" * 3000) for id in range(1, 80)])
    code = (
        "import resource, sys; from fastbean.binlog import tool\n"
        "limits = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (30, limits[1]))\n"
        "status = tool.main(['check', sys.argv[1]])\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 30\n"
        "sys.exit(status)"
    )
    assert len(segment_files.list_segments(directory)) > 60
    program = [sys.executable, "-c", code, str(directory)]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_a_read_that_fails_names_the_file(directory, monkeypatch):
    path = write_log(directory)[0]

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", fail)
    with pytest.raises(BinlogError, match=f"{path}: Input/output error; look at the disk"):
        restored(directory)


def test_a_big_endian_machine_is_refused_at_import():
    code = "import sys; sys.byteorder = 'big'; import fastbean.binlog.record"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("ImportError: fastbean's binlog is written on little-endian")


def test_the_next_id_is_above_the_live_ones(directory):
    write_log(directory, [saved(1), saved(70_000), saved(2)], id_limit=1)
    path = directory / "fastbean-1.log"
    found = inspection.Inspection(directory)
    record = encode_next_id(2, found.end_lsn)
    with path.open("r+b") as file:
        file.seek(HEADER_BYTES + found.end_lsn)
        file.write(record)
    assert inspection.Inspection(directory).id_limit == 70_001
    config = fastbean.Config(listen=["127.0.0.1"], port=0, binlog_dir=str(directory))
    with fastbean.Server(config) as server:
        client = io_client(server.port)
        assert client(b"put 0 0 60 0\r\n\r\n") == b"INSERTED 70001\r\n"
        client(b"", close=True)


def encode_next_id(id, lsn):
    rest = bytes([2, 5, id])
    return struct.pack("<I", checksum(RUN + struct.pack("<Q", lsn) + rest)) + rest


def test_a_search_in_noise_ends(directory):
    """At one offset in five, something looks like a long record of a later version."""
    noise = bytes(64) + random.Random(1).randbytes(1 << 20)
    assert find_record(noise, run_seed(RUN), 0, 64) == len(noise)
