"""The log's records, byte by byte: a second encoder written from docs/binlog.md, and everything that is no record."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastbean.binlog.record import checksum, checksum_by_tables, run_seed
from fastbean.binlog.record_reader import (
    encode_cleared,
    encode_mark,
    encode_put,
    encode_shed,
    encode_tube,
    find_record,
    find_seed,
    highest_mark,
    records,
)
from fastbean.binlog.saved_job import SavedJob, SavedTube
from made_binlogs import record_of, varint

HEADER = bytes(64)  # the reader of records does not look at it
RUN = bytes(range(16))
SEED, LSN = run_seed(RUN), 1 << 40
MAX_U32, MAX_U64 = (1 << 32) - 1, (1 << 64) - 1
STATES = ("ready", "delayed", "buried")
PUT, UPDATE, DELETE, DURABLE, NEXT_ID, SHED, TUBE, CLEARED = range(1, 9)
MEMBERS = 1  # a flag: optional members follow
SKIPPABLE = 128  # unknown types at or above it are skipped

PLAIN = SavedJob(1, 2, 3, 4, 5, 0, "ready", 0, 6, 7, 8, 9, 10, b"default", b"body")
FULL = SavedJob(
    MAX_U64,
    MAX_U32,
    MAX_U32,
    MAX_U32,
    2**63 - 1,
    0,
    "buried",
    MAX_U64,
    MAX_U32,
    MAX_U32,
    MAX_U32,
    MAX_U32,
    MAX_U32,
    b"t" * 200,
    b"\r\n\0" * 1000,
)
LATE = replace(PLAIN, state="delayed", deadline_ns=2**63 - 1)

u32s = st.integers(0, MAX_U32)
times = st.integers(-(2**63), 2**63 - 1)


@st.composite
def jobs(draw):
    state = draw(st.sampled_from(STATES))
    return SavedJob(
        draw(st.integers(0, MAX_U64)),
        *(draw(u32s) for _ in range(3)),
        draw(times),
        draw(times) if state == "delayed" else 0,
        state,
        draw(st.integers(0, MAX_U64)) if state == "buried" else 0,
        *(draw(u32s) for _ in range(5)),
        draw(st.binary(max_size=200)),
        draw(st.binary(max_size=300)),
    )


def test_a_checksum_that_others_reckon_too():
    assert checksum(b"123456789") == checksum_by_tables(b"123456789") == 0xE3069283


@given(st.binary(max_size=100))
def test_checksums_are_the_same_without_the_processors_help(data):
    assert checksum(data) == checksum_by_tables(data)


def framed(members, run=RUN, lsn=LSN):
    """A record of these bytes, type first."""
    return record_of(members, run, lsn)


def changing(job, flags=0):
    numbers = (job.pri, job.delay_s, job.reserves, job.timeouts, job.releases, job.buries, job.kicks)
    out = varint(flags) + varint(job.id) + bytes([STATES.index(job.state)]) + b"".join(map(varint, numbers))
    if job.state == "delayed":
        out += struct.pack("<q", job.deadline_ns)
    elif job.state == "buried":
        out += varint(job.burial)
    return out


def put_members(job, flags=0):
    head = bytes([PUT]) + changing(job, flags) + varint(job.ttr_s) + struct.pack("<q", job.created_ns)
    return head + varint(len(job.tube)) + job.tube + varint(len(job.body)) + job.body


def tube_members(tube, flags=0):
    end = struct.pack("<q", tube.pause_end_ns) if tube.pause_s else b""
    return bytes([TUBE]) + varint(flags) + varint(len(tube.name)) + tube.name + varint(tube.pause_s) + end


def cleared_members(name, below, flags=0):
    return bytes([CLEARED]) + varint(flags) + varint(len(name)) + name + varint(below)


def member(kind, value):
    """An optional member; odd kinds are required."""
    return varint(kind) + varint(len(value)) + value


def read(data, seed=SEED, lsn=LSN):
    """The records of these bytes, without offsets, and how they end."""
    *found, (_, end) = records(HEADER + data, seed, lsn)
    return [members for _, members in found], end


def expected(job):
    found = {
        "type": "put",
        "id": job.id,
        "state": job.state,
        "pri": job.pri,
        "delay": job.delay_s,
        "reserves": job.reserves,
        "timeouts": job.timeouts,
        "releases": job.releases,
        "buries": job.buries,
        "kicks": job.kicks,
        "ttr": job.ttr_s,
        "created_ns": job.created_ns,
        "tube": job.tube,
        "body": job.body,
    }
    if job.state == "delayed":
        found["deadline_ns"] = job.deadline_ns
    elif job.state == "buried":
        found["burial"] = job.burial
    return found


# --- the checksum


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),  # this and the next ones: RFC 3720, B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_the_checksum_is_crc32c(data, crc):
    assert checksum(data) == crc


@given(st.binary(max_size=100))
def test_the_checksum_is_that_of_the_slow_way(data):
    crc = MAX_U32
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    assert checksum(data) == crc ^ MAX_U32


# --- records there and back


@pytest.mark.parametrize("job", [PLAIN, FULL, LATE], ids=["plain", "full", "late"])
def test_a_put_is_as_documented(job):
    assert encode_put(job, SEED, LSN) == framed(put_members(job))


@given(jobs())
def test_every_job_comes_back_from_its_put(job):
    data = encode_put(job, SEED, LSN)
    assert data == framed(put_members(job))
    assert read(data) == ([expected(job)], "end")


@given(jobs())
def test_updates_tell_what_can_change(job):
    wanted = {key: value for key, value in expected(job).items() if key not in ("ttr", "created_ns", "tube", "body")}
    assert read(framed(bytes([UPDATE]) + changing(job))) == ([{**wanted, "type": "update"}], "end")


@given(st.integers(0, MAX_U64))
def test_records_of_one_number(number):
    for kind, wanted in (
        (DELETE, {"type": "delete", "id": number}),
        (DURABLE, {"type": "durable", "lsn": number}),
        (NEXT_ID, {"type": "next-id", "id": number}),
    ):
        assert read(framed(bytes([kind]) + varint(number))) == ([wanted], "end")
    assert encode_mark(number, SEED, LSN) == framed(bytes([DURABLE]) + varint(number))
    assert encode_shed(number, SEED, LSN) == framed(bytes([SHED]) + varint(number))


@pytest.mark.parametrize("below", [0, 1, LSN - 1, LSN, LSN + 1, 127, 128, MAX_U32, MAX_U64])
def test_no_record_calls_itself_needless(below):
    data = framed(bytes([SHED]) + varint(below))
    sound = below <= LSN
    assert read(data) == (([{"type": "shed", "below": below}], "end") if sound else ([], "impossible"))
    assert highest_mark(HEADER + data, SEED, LSN, "shed") == (below if sound else 0)


def test_each_record_knows_where_it_stands():
    first = encode_put(PLAIN, SEED, LSN)
    second = encode_put(LATE, SEED, LSN + len(first))
    found = list(records(HEADER + first + second + bytes(20), SEED, LSN))
    assert found == [
        (64, expected(PLAIN)),
        (64 + len(first), expected(LATE)),
        (64 + len(first + second), "end"),
    ]
    assert read(second + first) == ([], "broken")


# --- records of tubes

PAUSED = SavedTube(b"tube", 300, 2**62)


@given(st.binary(max_size=200), u32s, times)
def test_settings_of_a_tube(name, pause_s, end_ns):
    tube = SavedTube(name, pause_s, end_ns)
    wanted = {"type": "tube", "tube": name, "pause": pause_s}
    data = encode_tube(tube, SEED, LSN)
    assert data == framed(tube_members(tube))
    assert read(data) == ([{**wanted, "pause_end_ns": end_ns} if pause_s else wanted], "end")


@given(st.binary(max_size=200), st.integers(0, LSN))
def test_a_tube_that_was_cleared(name, below):
    data = encode_cleared(name, below, SEED, LSN)
    assert data == framed(cleared_members(name, below))
    assert read(data) == ([{"type": "cleared", "tube": name, "below": below}], "end")


@pytest.mark.parametrize("added", [None, b"", member(2, b"x")])
def test_nothing_that_comes_later_is_cleared(added):
    flags = 0 if added is None else MEMBERS
    assert read(framed(cleared_members(b"tube", LSN + 1, flags) + (added or b""))) == ([], "impossible")


# --- what later versions may add

RECORDS = {
    "put": lambda flags: put_members(PLAIN, flags),
    "update": lambda flags: bytes([UPDATE]) + changing(LATE, flags),
    "tube": lambda flags: tube_members(PAUSED, flags),
    "cleared": lambda flags: cleared_members(b"tube", 5, flags),
}
# What an older reader takes for an LSN above the record's own.
OF_ANOTHER_FORM = {**RECORDS, "cleared later": lambda flags: cleared_members(b"tube", LSN + 1, flags)}


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize(
    "added", [b"", member(2, b""), member(0, b"x"), member(1 << 40, b"\1" * 300), member(2, b"a") + member(4, b"b")]
)
def test_an_unknown_optional_member_is_skipped(kind, added):
    plain, *_ = read(framed(RECORDS[kind](0)))
    data = framed(RECORDS[kind](MEMBERS) + added)
    assert read(data) == (plain, "end")
    assert find_record(HEADER + data, SEED, LSN, 64) == 64


@pytest.mark.parametrize("kind", OF_ANOTHER_FORM)
@pytest.mark.parametrize(
    "added", [member(1, b""), member(2, b"a") + member(3, b"b") + member(4, b"c"), member(3, b"q" * 300)]
)
def test_an_unknown_required_member_is_not_skipped(kind, added):
    data = framed(OF_ANOTHER_FORM[kind](MEMBERS) + added)
    assert read(data) == ([], "newer")
    assert find_record(HEADER + data, SEED, LSN, 64) == 64


@pytest.mark.parametrize("kind", OF_ANOTHER_FORM)
@pytest.mark.parametrize("flags", [2, 3, 128, MAX_U64])
@pytest.mark.parametrize("added", [b"", b"\xff" * 300, bytes(1 << 20)], ids=["", "300", "1 MiB"])
def test_an_unknown_flag_is_not_skipped(kind, flags, added):
    data = framed(OF_ANOTHER_FORM[kind](flags) + added)
    assert read(data) == ([], "newer")
    assert find_record(HEADER + data, SEED, LSN, 64) == 64


def test_unknown_flags_may_change_the_form_of_the_rest():
    for type_ in (PUT, UPDATE, TUBE, CLEARED):
        data = framed(bytes([type_, 2]) + b"\xff" * 50)
        assert read(data) == ([], "newer")
        assert find_record(HEADER + data, SEED, LSN, 64) == 64


@pytest.mark.parametrize("type_", [9, 64, SKIPPABLE - 1])
@pytest.mark.parametrize("content", [b"anything", b"z" * 300, bytes(1 << 20)], ids=["short", "300", "1 MiB"])
def test_a_record_of_an_unknown_type_is_not_skipped(type_, content):
    data = framed(bytes([type_]) + content)
    assert read(data) == ([], "newer")
    assert find_record(HEADER + data, SEED, LSN, 64) == 64


@pytest.mark.parametrize("type_", [SKIPPABLE, 255])
def test_a_record_of_a_type_that_may_be_skipped(type_):
    for rest in (b"", b"anything"):
        data = framed(bytes([type_]) + rest)
        assert find_record(HEADER + data, SEED, LSN, 64) == 64
        second = encode_put(PLAIN, SEED, LSN + len(data))
        assert read(data + second) == ([{"type": f"unknown-{type_}"}, expected(PLAIN)], "end")


# --- what cannot be written


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"pri": 2**32}, OverflowError),
        ({"kicks": -1}, OverflowError),
        ({"id": 2**64}, OverflowError),
        ({"deadline_ns": 2**63}, OverflowError),
        ({"tube": b"t" * 201}, ValueError),
        ({"body": "text"}, TypeError),
    ],
)
def test_a_job_that_is_out_of_range_is_refused(wrong, error):
    with pytest.raises(error):
        encode_put(replace(PLAIN, **wrong), SEED, LSN)


# --- what is no record


@pytest.mark.parametrize("place", [(SEED + 1, LSN), (SEED, LSN + 1), (SEED, 0)])
def test_bytes_of_another_place_are_no_record(place):
    assert read(encode_put(PLAIN, SEED, LSN), *place) == ([], "broken")


@pytest.mark.parametrize("job", [PLAIN, LATE, replace(PLAIN, body=bytes(300))], ids=["plain", "late", "long"])
def test_no_flipped_bit_goes_unnoticed(job):
    data = encode_put(job, SEED, LSN)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        assert read(bytes(flipped)) == ([], "broken"), f"bit {bit}"


def test_a_cut_record_is_broken_and_nothing_is_the_end():
    data = encode_put(FULL, SEED, LSN)
    for size in range(1, len(data)):
        assert read(data[:size]) == ([], "broken"), size
        assert read(data[:size] + b"\1" * 50)[0] == [], size
    assert read(b"") == ([], "end")


@pytest.mark.parametrize("count", range(20))
def test_zeros_are_the_end(count):
    assert read(bytes(count)) == ([], "end")


@pytest.mark.parametrize(
    "members",
    [
        b"",
        b"\0",
        b"\x06",
        b"\x06\x01\0",
        bytes([DELETE]),
        bytes([DELETE]) + varint(1) + b"\0",
        bytes([DELETE]) + b"\x80" * 10,
        bytes([DELETE]) + b"\xff" * 10 + b"\x01",
        bytes([DELETE]) + b"\xff" * 9 + b"\x02",
        bytes([DELETE]) + b"\x80" * 9 + b"\x7f",
        bytes([UPDATE]) + changing(PLAIN) + b"\0",
        bytes([UPDATE]) + changing(PLAIN)[:-1],
        bytes([UPDATE, 0]) + varint(1) + b"\x03" + bytes(8),
        bytes([UPDATE, 0]) + varint(1) + b"\0" + varint(1 << 32) + bytes(6),
        bytes([UPDATE]) + changing(LATE)[:-1],
        put_members(PLAIN)[:20],
        put_members(replace(PLAIN, tube=b"t" * 201)),
        put_members(replace(PLAIN, tube=b"tube", body=b""))[:-1],
        put_members(replace(PLAIN, ttr_s=1 << 32)),
        put_members(PLAIN)[:-1],
        put_members(PLAIN) + b"\0",
        put_members(PLAIN, MEMBERS) + b"\2",
        put_members(PLAIN, MEMBERS) + b"\2\2x",
        put_members(PLAIN, MEMBERS) + b"\2" + b"\xff" * 10,
        bytes([UPDATE]),
        bytes([TUBE]),
        tube_members(SavedTube(b"t" * 201, 0, 0)),
        tube_members(SavedTube(b"tube", 1 << 32, 5)),
        tube_members(SavedTube(b"tube", 5, 5))[:-1],
        tube_members(SavedTube(b"tube", 0, 0)) + b"\0",
        cleared_members(b"tube", 5)[:-1],
        cleared_members(b"tube", 5) + b"\0",
    ],
    ids=lambda members: members[:24].hex(),
)
def test_a_right_checksum_does_not_make_a_record(members):
    data = framed(members)
    assert read(data) == ([], "impossible")
    assert find_record(HEADER + data, SEED, LSN, 64) == 64 + len(data)


# --- behind damage


def test_records_show_the_run_that_they_belong_to():
    first = encode_put(PLAIN, SEED, LSN)
    second = encode_put(LATE, SEED, LSN + len(first))
    data = bytearray(HEADER + first + second + bytes(20))
    assert find_seed(bytes(data), LSN) == SEED
    data[66] ^= 1
    assert find_seed(bytes(data), LSN) == 0
    assert find_seed(b"", LSN) == 0


def test_the_next_record_is_found_behind_damage():
    first = encode_put(PLAIN, SEED, LSN)
    mark = encode_mark(5, SEED, LSN + len(first))
    update = framed(bytes([UPDATE]) + changing(FULL), lsn=LSN + len(first + mark))
    second = encode_put(FULL, SEED, LSN + len(first + mark + update))
    data = HEADER + first + mark + update + second + bytes(30)
    starts = [64, 64 + len(first), 64 + len(first + mark), 64 + len(first + mark + update)]
    for at in range(64, len(data)):
        wanted = next((start for start in starts if start >= at), len(data))
        assert find_record(data, SEED, LSN, at) == wanted
    assert highest_mark(data, SEED, LSN) == 5
    damaged = bytearray(data)
    damaged[70] ^= 1
    assert highest_mark(bytes(damaged), SEED, LSN) == 5
    assert find_record(bytes(damaged), SEED, LSN, 64) == 64 + len(first)


@given(st.binary(max_size=2000))
def test_noise_is_no_record(noise):
    data = HEADER + noise
    assert find_record(data, SEED, LSN, 64) == len(data)
    assert highest_mark(data, SEED, LSN) == 0


def test_each_kind_of_mark_is_found_for_itself():
    kinds = {"durable": DURABLE, "next-id": NEXT_ID, "shed": SHED}
    data = HEADER
    for number, kind in enumerate(("shed", "durable", "next-id", "shed", "durable", "next-id"), 1):
        data += framed(bytes([kinds[kind]]) + varint(number), lsn=LSN + len(data) - len(HEADER))
    assert [highest_mark(data, SEED, LSN, kind) for kind in ("shed", "durable", "next-id")] == [4, 5, 6]
