"""Logs of beanstalkd made by hand: every state, both versions, all kinds of damage."""

import errno
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beanstalkd_binlogs import CREATED, HEADER, by_burial, ids_of, read_alone, saved
from fastbean.binlog import beanstalkd
from fastbean.binlog.beanstalkd import has_binlog, read
from fastbean.binlog.saved_job import SavedJob
from fastbean.errors import BinlogError

SECOND = 10**9
DEADLINE = CREATED + 77 * SECOND
DELETED, READY, RESERVED, BURIED, DELAYED = range(5)
LENGTH = {7: "<i", 5: "<Q"}
STRUCT = {7: "<QIIqqiIqqIIIIIB3s", 5: "<QIIQQiIQQIIIIIB"}
TICK = {7: 1, 5: 1000}


def job_struct(
    id, state, *, version=7, pri=10, delay=0, ttr=60, size=2, created=CREATED, deadline=0, counts=(0,) * 5, rubbish=0
):
    tick = TICK[version]
    times = (delay * SECOND // tick, ttr * SECOND // tick)
    members = (id, pri, rubbish, *times, size, rubbish, created // tick, deadline // tick, *counts, state)
    return struct.pack(STRUCT[version], *members, *([bytes([rubbish & 0xFF] * 3)] if version == 7 else []))


def full(id, state=READY, *, tube=b"default", body=b"body", version=7, **members):
    head = struct.pack(LENGTH[version], len(tube)) + tube
    return head + job_struct(id, state, version=version, size=len(body) + 2, **members) + body + b"\r\n"


def short(id, state, *, body=b"body", version=7, **members):
    return struct.pack(LENGTH[version], 0) + job_struct(id, state, version=version, size=len(body) + 2, **members)


@pytest.fixture
def log(tmp_path):
    """A function that reads a log of these files: bytes by number, or the records of one file of version 7."""

    def read_files(*records, **files):
        for old in tmp_path.iterdir():
            old.unlink()
        if records:
            files["binlog.1"] = HEADER[7] + b"".join(records)
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        return read(tmp_path)

    return read_files


def files(*contents, first=1):
    return {f"binlog.{number}": data for number, data in enumerate(contents, first)}


def jobs_of(log):
    return list(log.jobs)


def whats(log):
    return [damage.what for damage in log.damage]


# --- what a sound log says


@pytest.mark.parametrize("version", [7, 5])
def test_every_member_of_every_state_comes_back(log, version):
    counts = (1, 2, 3, 4, 5)
    records = [
        full(1, READY, version=version, pri=0, ttr=1, tube=b"a", body=b""),
        full(2, DELAYED, version=version, delay=77, deadline=DEADLINE, tube=b"-b"[1:] * 200, body=b"\r\n\0\r\n"),
        full(
            3,
            BURIED,
            version=version,
            pri=2**32 - 1,
            ttr=2**32 - 1,
            delay=2**32 - 1,
            counts=counts,
            deadline=5000,
            rubbish=2**32 - 1,
        ),
        full(4, RESERVED, version=version, deadline=DEADLINE, body=b"x" * 70000),
    ]
    found = log(**files(HEADER[version] + b"".join(records)))
    assert found.damage == []
    assert jobs_of(found) == [
        saved(1, pri=0, ttr_s=1, tube=b"a", body=b""),
        saved(2, "delayed", delay_s=77, deadline_ns=DEADLINE, tube=b"b" * 200, body=b"\r\n\0\r\n"),
        SavedJob(3, 2**32 - 1, 2**32 - 1, 2**32 - 1, CREATED, 0, "buried", 3, *counts, b"default", b"body"),
        saved(4, body=b"x" * 70000),
    ]
    assert (len(found), found.highest_id, found.records) == (4, 4, 4)


@pytest.mark.parametrize("version", [7, 5])
def test_short_records_change_and_delete(log, version):
    records = [
        *(full(id, version=version) for id in (1, 2, 3, 4)),
        short(1, DELETED, version=version),
        short(2, DELAYED, version=version, pri=99, delay=77, deadline=DEADLINE, counts=(1, 0, 1, 0, 0)),
        short(3, BURIED, version=version, pri=7, counts=(2, 0, 0, 1, 0)),
        short(4, BURIED, version=version, counts=(1, 0, 0, 1, 0)),
        short(4, READY, version=version, counts=(1, 0, 0, 1, 1)),
    ]
    found = log(**files(HEADER[version] + b"".join(records) + bytes(5000)))
    assert found.damage == []
    assert jobs_of(found) == [
        saved(2, "delayed", pri=99, delay_s=77, deadline_ns=DEADLINE, reserves=1, releases=1),
        saved(3, "buried", pri=7, burial=7, reserves=2, buries=1),
        saved(4, reserves=1, buries=1, kicks=1),
    ]


def test_a_log_of_version_5_goes_on_in_version_7(log):
    old = HEADER[5] + full(1, version=5) + full(2, version=5)
    new = HEADER[7] + short(1, DELAYED, delay=77, deadline=DEADLINE) + full(2, tube=b"default") + full(3)
    found = log(**files(old, new))
    assert found.damage == []
    assert jobs_of(found) == [saved(1, "delayed", delay_s=77, deadline_ns=DEADLINE), saved(2), saved(3)]


def test_the_copy_of_a_job_tells_its_state_anew(log):
    found = log(
        full(1), short(1, BURIED), full(1, RESERVED, pri=3), full(2), short(2, DELAYED, delay=1, deadline=5), full(2)
    )
    assert found.damage == []
    assert jobs_of(found) == [saved(1, pri=3), saved(2)]


def test_a_job_that_was_deleted_after_it_was_copied_is_gone(log):
    found = log(full(1), full(1), short(1, DELETED))
    assert (jobs_of(found), found.damage, found.highest_id) == ([], [], 1)


def test_buried_jobs_stand_in_the_order_of_their_burials(log):
    found = log(
        *(full(id) for id in range(1, 7)),
        *(short(id, BURIED) for id in (5, 2, 6, 1, 3)),
        short(6, READY),  # kicked, and buried again: now the last
        short(6, BURIED),
        short(5, BURIED),  # reserved by its id, which is not logged, and buried again
        full(1, BURIED),  # a copy does not change the order
        full(4, BURIED),
    )
    assert by_burial(found) == [2, 1, 3, 6, 5, 4]
    assert found.damage == []


def test_a_burial_before_the_copy_counts_where_the_first_record_was_shed(log):
    found = log(
        *(short(id, BURIED) for id in (3, 1, 2)),
        short(4, BURIED),
        short(4, READY),
        full(2, BURIED),
        full(1, BURIED),
        full(5, BURIED),
        full(4),
        full(3, BURIED),
        short(4, BURIED),
    )
    assert by_burial(found) == [3, 1, 2, 5, 4]
    assert found.damage == []


def test_files_are_read_in_the_order_of_their_numbers(log):
    contents = {f"binlog.{n}": HEADER[7] + full(n) + short(n - 1, DELETED) for n in (9, 10, 11)}
    others = {"binlog": b"?", "binlog.": b"?", "binlog.x": b"?", "binlog.012": b"?", "xbinlog.3": b"?", "lock": b""}
    found = log(**contents, **others)
    assert [path.name for path in found.files] == ["binlog.9", "binlog.10", "binlog.11"]
    assert (ids_of(found), found.damage) == ([11], [])


def test_updates_of_jobs_of_shed_files_are_passed_over(log):
    found = log(
        **files(
            HEADER[7] + short(1, DELETED) + short(2, BURIED) + short(3, READY) + full(4) + full(2) + short(3, DELETED),
            first=8,
        )
    )
    assert (ids_of(found), found.damage, found.highest_id) == ([2, 4], [], 4)


def test_ids_of_jobs_of_shed_files_were_given_out_too(log):
    assert log(short(9, DELETED), full(4)).highest_id == 9


def test_a_directory_without_a_log(log, tmp_path):
    assert jobs_of(log()) == []
    assert has_binlog(tmp_path / "missing") == []
    (tmp_path / "file").write_bytes(b"")
    assert has_binlog(tmp_path / "file") == []


def test_progress_is_told_after_each_file(log, tmp_path):
    contents = files(HEADER[7] + full(1), HEADER[7], HEADER[7] + full(2))
    log(**contents)
    told = []
    read(tmp_path, on_progress=lambda done, total: told.append((done, total)))
    sizes = [len(data) for data in contents.values()]
    assert told == [(sizes[0], sum(sizes)), (sum(sizes[:2]), sum(sizes)), (sum(sizes), sum(sizes))]


def test_reading_changes_nothing(log, tmp_path):
    log(full(1), b"rubbish", full(2)[:-4])
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()}
    read(tmp_path)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.iterdir()} == before


# --- damage


def small_log(version):
    """A log in which everything happens once, as a list of its records."""
    options = {"version": version}
    return [
        full(1, tube=b"tube", body=b"first\r\nline", **options),
        full(2, DELAYED, delay=5, deadline=DEADLINE, **options),
        full(3, **options),
        short(1, BURIED, body=b"first\r\nline", counts=(1, 0, 0, 1, 0), **options),
        full(4, body=b"", **options),
        short(3, DELETED, **options),
        short(1, READY, body=b"first\r\nline", counts=(1, 0, 0, 1, 1), **options),
        full(5, body=bytes(40), **options),
    ]


@pytest.mark.parametrize("zeros", [0, 3, 5000])
@pytest.mark.parametrize("version", [7, 5])
def test_cut_anywhere_a_log_gives_the_jobs_of_its_whole_records(version, zeros):
    records = small_log(version)
    data = HEADER[version] + b"".join(records)
    ends = [len(HEADER[version])]
    for record in records:
        ends.append(ends[-1] + len(record))
    whole = {end: jobs_of(read_alone(data[:end])) for end in ends}
    for cut in range(len(data) + 1):
        found = read_alone(data[:cut] + bytes(zeros))
        assert len(found.damage) <= 1, cut
        last = max((end for end in ends if end <= cut), default=None)
        if last is None:
            assert jobs_of(found) == [], cut
            continue
        if zeros and is_begun_update(version, data[last:cut]):
            assert found.damage if jobs_of(found) == whole[last] else len(jobs_of(found)) == len(whole[last]) - 1
            continue
        record = records[ends.index(last)] if cut < len(data) else b""
        is_whole = len(record) <= cut - last + zeros and not record[cut - last :].strip(b"\0")
        assert jobs_of(found) == whole[last + len(record) * is_whole], cut
        if data[last:cut].strip(b"\0") and not is_whole:
            [damage] = found.damage
            assert (damage.offset, damage.end) == (last, cut + zeros)
            # A body cut behind a CR LF of its own looks like one with a wrong size.
            assert damage.torn == (data[:cut].rstrip(b"\0")[-2:] != b"\r\n"), cut


def is_begun_update(version, begun):
    """Whether zeros can make a short record of this begun one: its state is the last byte, and zero means deleted."""
    width = struct.calcsize(LENGTH[version])
    return not begun[:width].strip(b"\0") and width + 40 < len(begun) <= width + 76


def checked_places(version):
    """The bytes of the small log of which no bit can change unseen, as (offset, name)."""
    width = struct.calcsize(LENGTH[version])
    at = len(HEADER[version])
    for record in small_log(version):
        name_bytes = record[0]
        begin = at + width + name_bytes
        spans = {
            "length": (at, at + width),
            "delay and ttr": (begin + 16, begin + 32),
            "size": (begin + 32, begin + 36),
        }
        if name_bytes:
            spans["CR LF"] = (at + len(record) - 2, at + len(record))
        else:
            spans["time of creation"] = (begin + 40, begin + 48)
        for name, (first, end) in spans.items():
            yield from ((place, name) for place in range(first, end))
        at += len(record)


@pytest.mark.parametrize("version", [7, 5])
def test_a_flipped_bit_is_told_or_changes_one_job_in_what_nothing_can_check(version):
    data = HEADER[version] + b"".join(small_log(version))
    intact = {job.id: job for job in read_alone(data).jobs}
    checked = dict(checked_places(version))
    for place in range(len(HEADER[version]), len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            found = read_alone(bytes(flipped))
            if found.damage:
                continue
            assert place not in checked, (place, bit, checked[place])
            jobs = {job.id: job for job in found.jobs}
            assert len([id for id in intact if jobs.get(id) != intact[id]]) <= 1, (place, bit)
            assert {(job.delay_s, job.ttr_s) for job in jobs.values()} <= {(0, 60), (5, 60)}, (place, bit)


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        (struct.pack("<i", 201) + full(2)[4:], "201 is not a valid length"),
        (struct.pack("<i", -1) + full(2)[4:], "is not a valid length"),
        (full(2, tube=b"de fault"), "impossible name"),
        (full(2, tube=b"-default"), "impossible name"),
        (full(2, 5), "no server writes this about job 2"),
        (full(2, DELETED), "says that it is deleted"),
        (full(2, DELAYED, delay=5), "no server writes this about job 2"),
        (full(2, created=0), "no server writes this about job 2"),
        (full(2, ttr=0), "no server writes this about job 2"),
        (full(2, deadline=-1), "no server writes this about job 2"),
        (full(2)[:-2] + b"\0\0", "the body of job 2 does not end with CR LF"),
        (full(2)[:-6] + bytes(6), "the body of job 2 does not end with CR LF"),
        (full(2)[:30], ""),
        (full(2)[:4], ""),
        (bytes(4096), "there is no record here"),
        (struct.pack("<i", 0) + job_struct(2, 5, size=6), "no server writes this about job 2"),
        (struct.pack("<i", 7) + b"default" + bytes(80), "there is no record here"),
        (b"\xaa" * 999, ""),
    ],
)
def test_behind_damage_reading_goes_on(log, broken, what):
    found = log(full(1), broken, full(3), short(1, DELETED), bytes(100))
    assert ids_of(found) == [3]
    [damage] = found.damage
    assert what in damage.what
    assert not damage.torn
    first = len(HEADER[7] + full(1))
    assert (damage.path.name, damage.offset, damage.end) == ("binlog.1", first, first + len(broken))
    assert str(damage).startswith(f"{damage.path}: offset {first}: ")


def test_a_body_that_holds_a_record_is_a_body(log):
    found = log(full(1, body=full(9) + short(1, DELETED)), full(2))
    assert (ids_of(found), found.damage) == ([1, 2], [])


def test_a_record_about_another_job_is_not_followed(log):
    found = log(
        full(1), short(1, DELETED, body=b"another size"), short(1, BURIED, ttr=61), short(1, DELETED, created=1)
    )
    assert jobs_of(found) == [saved(1)]
    assert len(found.damage) == 3
    assert all("job 1 has another ttr, size or creation time" in what for what in whats(found))
    assert all(damage.end == damage.offset for damage in found.damage)


@pytest.mark.parametrize(
    "members", [{"tube": b"other"}, {"body": b"corp"}, {"body": b"longer"}, {"ttr": 61}, {"created": CREATED + 1000}]
)
def test_a_copy_that_is_not_like_its_job_is_told(log, members):
    found = log(full(1), full(1, **members))
    [what] = whats(found)
    assert "the copy of job 1 differs" in what
    assert len(found) == 1


def test_an_update_of_a_job_that_is_nowhere_is_told(log):
    found = log(**files(HEADER[7] + short(7, BURIED) + full(8), HEADER[7] + full(9), first=4))
    [damage] = found.damage
    assert (damage.path.name, damage.offset) == ("binlog.4", 4)
    assert "job 7" in damage.what
    assert "lost" in damage.what
    assert found.highest_id == 9


def test_missing_files_are_told(log):
    contents = {f"binlog.{number}": HEADER[7] + full(number) for number in (2, 4, 7)}
    found = log(**contents)
    assert ids_of(found) == [2, 4, 7]
    assert [damage.path.name for damage in found.damage] == ["binlog.4", "binlog.7"]
    assert "binlog.3, which" in whats(found)[0]
    assert "binlog.5 to binlog.6, which" in whats(found)[1]


@pytest.mark.parametrize(
    ("data", "torn"), [(b"", True), (bytes(8192), True), (HEADER[7][:1], True), (HEADER[5][:3], True)]
)
def test_a_file_that_was_hardly_begun_is_told(log, data, torn):
    found = log(**files(HEADER[7] + full(1), data))
    assert ids_of(found) == [1]
    assert [damage.torn for damage in found.damage] == [torn]


@pytest.mark.parametrize("version", [0, 1, 4, 6, 8, 1 << 31])
def test_a_file_of_an_unknown_version_is_told(log, version):
    unknown = version.to_bytes(4, "little") + full(1)
    found = log(**files(unknown, HEADER[7] + full(2)))
    assert ids_of(found) == [2]
    [damage] = found.damage
    assert (damage.path.name, damage.end, damage.torn) == ("binlog.1", len(unknown), False)
    assert f"version {version}" in damage.what


def i386_record(version):
    times = (0, 60 * SECOND // TICK[version], 6, CREATED // TICK[version], 0)
    packed = struct.pack("<QI" + ("qqiqq" if version == 7 else "QQiQQ") + "IIIIIB", 1, 10, *times, 0, 0, 0, 0, 0, READY)
    return struct.pack("<i", 7) + b"default" + packed + (b"\0\0\0" if version == 7 else b"") + b"body\r\n"


@pytest.mark.parametrize(
    ("data", "machine"),
    [
        (struct.pack(">i", 7) + bytes(100), "big-endian"),
        (struct.pack(">i", 5) + b"?", "big-endian"),
        (HEADER[7] + i386_record(7), "32-bit"),
        (HEADER[5] + i386_record(5), "32-bit"),
        (HEADER[5] + struct.pack("<i", 7) + full(1, version=5)[8:], "32-bit"),
    ],
)
def test_the_logs_of_other_machines_are_refused(log, data, machine):
    with pytest.raises(BinlogError, match=rf"binlog\.1 was written on a {machine} machine .* move the jobs with"):
        log(**files(data))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "binlog.3").mkdir()
    with pytest.raises(BinlogError, match=r"cannot read .*binlog\.3: Is a directory; nothing was changed"):
        read(tmp_path)


def test_a_directory_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(beanstalkd.os, "listdir", refuse)
    with pytest.raises(BinlogError, match=r"Permission denied; let this user read it"):
        has_binlog(tmp_path)


LOG_PIECES = st.one_of(
    st.binary(max_size=40),
    st.builds(bytes, st.integers(0, 300)),
    st.builds(full, st.integers(1, 4), st.sampled_from([READY, RESERVED, BURIED]), body=st.binary(max_size=6)),
    st.builds(short, st.integers(1, 4), st.sampled_from([DELETED, READY, BURIED])),
    st.builds(lambda record, cut: record[:cut], st.just(full(3, body=b"x" * 30)), st.integers(0, 140)),
)


@given(pieces=st.lists(LOG_PIECES, max_size=12), version=st.sampled_from([7, 5]))
def test_whatever_stands_in_a_file_is_a_job_or_damage_or_nothing(tmp_path_factory, pieces, version):
    directory = tmp_path_factory.mktemp("log")
    data = HEADER[version] + b"".join(pieces)
    (directory / "binlog.1").write_bytes(data)
    found = read(directory)
    for job in found.jobs:
        assert job.id > 0
        assert job.body + b"\r\n" in data
        assert (job.burial > 0) == (job.state == "buried")
    assert all(0 < damage.offset <= damage.end <= len(data) for damage in found.damage)
