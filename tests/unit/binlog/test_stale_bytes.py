"""Bytes of another run, of a recycled segment, of an earlier place: none of them is ever taken for a record."""

from pathlib import Path

import pytest

from fastbean.binlog import inspection, segment_files
from fastbean.binlog.record import run_seed
from fastbean.binlog.segment_files import Header
from fastbean.errors import BinlogError
from made_binlogs import HEADER_BYTES, LARGE_SEGMENT_BYTES, RUN, live_log, restored, saved, write_log

OTHER = bytes(range(100, 116))


def log_of(directory: Path, count: int, run: bytes = RUN, **options: int) -> Path:
    """A binlog of one segment with jobs of one size; the jobs alone, without what ends a made binlog."""
    jobs = [saved(id, body=b"x" * 100) for id in range(1, count + 1)]
    (path,) = write_log(directory, jobs, segment_bytes=LARGE_SEGMENT_BYTES, run=run, **options)
    end = inspection.Inspection(directory).ends[0]
    for at, members in inspection.open_segments(directory)[0].scan(options.get("first_lsn", 0)):
        end = at if members and members["type"] == "shed" else end
    data = path.read_bytes()
    path.write_bytes(data[:end] + bytes(len(data) - end))
    return path


def bytes_of(path: Path) -> bytes:
    return path.read_bytes().rstrip(b"\0")


def restored_ids(directory: Path) -> set[int]:
    """What the tools read, and a start restores."""
    found = set(inspection.Inspection(directory).jobs)
    assert restored(directory, LARGE_SEGMENT_BYTES).counters()["jobs"] == len(found)
    return found


@pytest.mark.parametrize(("run", "ids"), [(RUN, 9), (OTHER, 4)], ids=["the same run", "another run"])
def test_records_of_another_run_at_the_same_place(directory, run, ids):
    path = log_of(directory, 4)
    other = log_of(directory.with_name("other"), 9, run)
    used = len(bytes_of(path))
    data = bytes_of(path) + bytes_of(other)[used:]
    path.write_bytes(data.ljust(LARGE_SEGMENT_BYTES, b"\0"))
    assert restored_ids(directory) == set(range(1, ids + 1))


def test_a_segment_of_another_run_does_not_continue_a_binlog(directory):
    log_of(directory, 4)
    end_lsn = inspection.Inspection(directory).end_lsn
    other = log_of(directory.with_name("other"), 4, OTHER, first_number=2, first_lsn=end_lsn)
    other.rename(directory / other.name)
    assert inspection.Inspection(directory).fault.what == "the header says that this belongs to another binlog"
    with pytest.raises(BinlogError, match=r"fastbean-2.log: damaged at offset 0"):
        restored(directory)


def test_what_a_recycled_segment_held_before(directory):
    """Its zeros are lost behind a new header, or with it."""
    first = log_of(directory, 4)
    end_lsn = inspection.Inspection(directory).end_lsn
    stale = bytes_of(first)
    second = directory / "fastbean-2.log"
    header = Header(2, end_lsn, 100, 5, RUN).encode()
    second.write_bytes((header + stale[HEADER_BYTES:]).ljust(LARGE_SEGMENT_BYTES, b"\0"))
    assert restored_ids(directory) == {1, 2, 3, 4}
    second.write_bytes(stale.ljust(LARGE_SEGMENT_BYTES, b"\0"))
    with pytest.raises(BinlogError, match=r"fastbean-2.log: damaged at offset 0"):
        restored(directory)


def test_a_record_of_an_earlier_place_in_the_file(directory):
    path = log_of(directory, 4)
    data = bytes_of(path)
    size = (len(data) - HEADER_BYTES) // 4
    path.write_bytes((data + data[HEADER_BYTES : HEADER_BYTES + size]).ljust(LARGE_SEGMENT_BYTES, b"\0"))
    assert restored_ids(directory) == {1, 2, 3, 4}


def test_the_bytes_of_a_record_do_not_depend_on_the_file(directory):
    """The same records in other pieces: segments are only one way of framing a run."""
    path = log_of(directory, 40)
    data = bytes_of(path)
    ends = [at for at, _ in inspection.open_segments(directory)[0].scan(0)]
    for number, (start, end) in enumerate([(ends[0], ends[7]), (ends[7], ends[8]), (ends[8], len(data))], 1):
        header = Header(number, start - HEADER_BYTES, 100, 1, RUN).encode()
        piece = (header + data[start:end]).ljust(LARGE_SEGMENT_BYTES, b"\0")
        (directory / segment_files.name_of(number)).write_bytes(piece)
    assert restored_ids(directory) == set(range(1, 41))
    assert len(inspection.Inspection(directory).segments) == 3


def test_each_binlog_is_a_run_of_its_own_and_stays_it(directory):
    runs = set()
    for name in ("one", "two"):
        for _ in range(3):
            live_log(directory.with_name(name))  # continues where it ended before
            found = inspection.Inspection(directory.with_name(name))
            assert len({segment.header.run for segment in found.segments}) == 1
            runs.add(found.segments[0].header.run)
    assert len(runs) == 2


@pytest.mark.parametrize("first_bytes", [64, 512])
def test_a_repair_finds_the_run_of_a_binlog_whose_only_header_is_lost(directory, run, first_bytes):
    jobs = [saved(id, body=b"x" * 100) for id in range(1, 21)]
    (path,) = write_log(directory, jobs, segment_bytes=LARGE_SEGMENT_BYTES)
    data = path.read_bytes()
    path.write_bytes(bytes(first_bytes) + data[first_bytes:])
    with pytest.raises(BinlogError, match=r"fastbean-1.log: damaged at offset 0"):
        restored(directory)
    assert run("repair", directory)[0] == 0
    lost = 0 if first_bytes == HEADER_BYTES else 4
    assert set(inspection.Inspection(directory).jobs) == set(range(1 + lost, 21))


def test_a_repair_leaves_out_a_segment_of_another_run(directory, run):
    log_of(directory, 4)
    end_lsn = inspection.Inspection(directory).end_lsn
    for number, name, identity in ((2, "more", RUN), (3, "other", OTHER)):
        path = log_of(directory.with_name(name), 9, identity, first_number=number, first_lsn=end_lsn)
        path.rename(directory / path.name)
    assert run("repair", directory)[0] == 0
    found = inspection.Inspection(directory)
    assert set(found.jobs) == set(range(1, 10))
    assert run_seed(found.segments[0].header.run) not in (run_seed(RUN), run_seed(OTHER))
