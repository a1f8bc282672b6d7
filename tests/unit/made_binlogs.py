"""Logs of fastbean's for the tests of its tools: written without a server, or by one; and ways to damage them."""

import os
import random
import select
import shutil
import socket
import struct
from dataclasses import replace
from pathlib import Path

import fastbean
from fastbean.binlog import inspection, replacement, segment_files
from fastbean.binlog.binlog import Binlog
from fastbean.binlog.record import checksum
from fastbean.binlog.saved_job import SavedJob
from fastbean.daemon import stderr_log
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from patience import PATIENCE_S

CREATED = 1_700_000_000_123_456_789
SEGMENT_BYTES = 4096
LARGE_SEGMENT_BYTES = 1 << 20
HEADER_BYTES = 64
RUN = bytes(range(1, 17))  # the identity of the run
NO_FILES = ("folder", "pipe", "link to nothing", "link to itself")
COPIES = 10  # at most, of a directory in use


def saved(id, state="ready", **members):
    return replace(SavedJob(id, 10, 0, 60, CREATED, 0, state, 0, 0, 0, 0, 0, 0, b"default", b"body"), **members)


def make_no_file(path, kind):
    """Something of NO_FILES where a file should be."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("nowhere" if kind == "link to nothing" else path.name)


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


def write_log(directory, jobs=None, tubes=(), **options):
    """A log of fastbean's with these jobs, and these settings of tubes after them."""
    directory.mkdir(exist_ok=True)
    jobs = many_jobs() if jobs is None else jobs
    writer = replacement.PartWriter(
        directory,
        **{"segment_bytes": SEGMENT_BYTES, "first_number": 1, "first_lsn": 0, "id_limit": 1000, "run": RUN, **options},
    )
    for job in jobs:
        writer.add(job)
    for tube in tubes:
        writer.add_tube(tube)
    writer.finish()
    for number in writer.numbers:
        Path(replacement.part_of(directory, number)).rename(segment_files.path_of(directory, number))
    return [Path(segment_files.path_of(directory, number)) for number in writer.numbers]


def restored(directory, segment_bytes=1 << 22):
    """An engine with the jobs of this directory."""
    engine = State()
    binlog = Binlog(directory, EngineJobs(engine), segment_bytes=segment_bytes, fsync_ms=None, log=stderr_log.silent)
    binlog.open(lambda _text: None)
    binlog.close()
    return engine


def copy_running(directory, copied):
    """Copies the directory of a server that runs: when a segment goes meanwhile, once more."""
    for _ in range(COPIES):
        try:
            return shutil.copytree(directory, copied)
        except shutil.Error:
            shutil.rmtree(copied)
    raise AssertionError(f"{directory} changed under each of {COPIES} copies")


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
        copy_running(directory, copied)
        client(b"", close=True)
    shutil.rmtree(directory)
    copied.rename(directory)


def io_client(port):
    """A function that sends a command and reads its reply."""
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


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def record_of(members, run, lsn):
    """A record of these bytes, type first."""
    rest = varint(len(members)) + members
    return struct.pack("<I", checksum(run + struct.pack("<Q", lsn) + rest)) + rest


def damage(path, offset=100, bits=0xFF):
    data = bytearray(Path(path).read_bytes())
    data[offset] ^= bits
    Path(path).write_bytes(data)


def records_of(directory):
    """The records of the last segment, each with its offset."""
    segment = inspection.Inspection(directory).segments[-1]
    return [(at, members) for at, members in segment.scan(segment.header.first_lsn) if members]


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def results_of(segment_worker):
    """The results that are there, each taken."""
    while (result := segment_worker.first_result()) is not None:
        segment_worker.drop_first_result()
        yield result


def take_segment(binlog):
    """What a loop does for a segment that was asked for: wait until it is there, and take it."""
    pipe = binlog._wake_pipe.reading
    assert select.select([pipe], [], [], PATIENCE_S)[0], "no segment was asked for, or made"
    binlog._take_results(0)
