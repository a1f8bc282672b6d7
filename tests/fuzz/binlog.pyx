"""Fuzzes the reader of the binlog: whatever bytes a segment holds, reading it neither crashes nor invents a job.

Random bytes would never pass a checksum. So an input is a sequence of steps that write a segment: records with any
payload and a valid checksum, real records of jobs, records with one byte changed afterwards, and at the end any bytes.
These checks must hold:

- reading stops at the first damaged record or before it, and restores the jobs of the records before that place;
- the three readers (the one of the server, `records`, `find_record`) agree on where the records are;
- the counts of the restored state are consistent, and a server can continue with the binlog.

The readers have the file in memory of exactly its size, so that the AddressSanitizer sees a look behind its end.
"""

import os

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from fastbean.binlog.writer cimport BinlogWriter
from fastbean.base.buffer cimport Buffer, buffer_append, buffer_free
from fastbean.engine.restore cimport EngineJobs
from fastbean.engine.state cimport State
from fastbean.engine.timers cimport expire
from fastbean.base.debug_counters cimport LIVE_KINDS, live
from fastbean.engine.journal cimport JobImage, RecordState, TubeImage
from fastbean.binlog.record cimport (
    RECORD_DURABLE, RECORD_PUT, SEGMENT_HEADER_BYTES, Record, RecordType, append_cleared, append_delete,
    append_number, append_put, append_tube, append_update, crc32c, fill_segment_header, read_record,
)

from fastbean.binlog.file_sink import FileSink
from fastbean.binlog.loader import Loader
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import find_record, find_seed, highest_mark, records
from fastbean.binlog.segment_files import Header

from check cimport as_capsule, at_most, equal

cdef enum:
    NUMBER = 7                      # of the segment
    CRC_BYTES = 4
    BODY_BYTES = 24

cdef int FILE = os.memfd_create("segment")
cdef uint64_t FIRST_LSN = 1000000
cdef bytes RUN = bytes(range(16))
cdef uint32_t SEED = run_seed(RUN)
cdef int64_t SECOND_NS = 1000000000
cdef char[BODY_BYTES] filler
memset(filler, c'b', BODY_BYTES)


cdef uint32_t right_crc(const char *data, size_t size, uint64_t lsn) noexcept:
    return crc32c(crc32c(crc32c(0, RUN, len(RUN)), <const char *>&lsn, 8), data, size)


cdef void add_payload(Buffer *file, const uint8_t *data, size_t size) noexcept:
    """A record with these bytes after its length, and their checksum."""
    cdef uint64_t lsn = FIRST_LSN + file.len - SEGMENT_HEADER_BYTES
    cdef size_t start = file.len
    cdef uint32_t crc = 0
    cdef uint8_t length = <uint8_t>size
    buffer_append(file, <char *>&crc, CRC_BYTES)
    buffer_append(file, <char *>&length, 1)
    buffer_append(file, <const char *>data, size)
    crc = right_crc(file.data + start + CRC_BYTES, 1 + size, lsn)
    memcpy(file.data + start, &crc, CRC_BYTES)


cdef void add_record(Buffer *file, uint8_t kind, uint8_t byte) noexcept:
    """A record as the server writes it, made from one byte."""
    cdef uint64_t lsn = FIRST_LSN + file.len - SEGMENT_HEADER_BYTES
    cdef JobImage job
    cdef TubeImage tube
    memset(&job, 0, sizeof(job))
    job.id = 1 + (byte & 7)
    job.created_ns = SECOND_NS * byte
    job.deadline_ns = SECOND_NS * byte
    job.burial = byte >> 4
    job.pri = byte
    job.ttr_s = byte >> 3
    job.state = <RecordState>((byte >> 6) % 3)
    job.name = b"tube" if byte & 8 else b"default"
    job.name_bytes = 4 if byte & 8 else 7
    job.body = filler
    job.body_bytes = byte & 15
    if kind == 0:
        append_put(file, &job, SEED, lsn)
    elif kind == 1:
        append_update(file, &job, SEED, lsn)
    elif kind == 2:
        append_delete(file, job.id, SEED, lsn)
    elif byte < 128:
        append_number(file, <RecordType>(RECORD_DURABLE + byte % 3), byte, SEED, lsn)
    elif byte < 192:
        tube.name = job.name
        tube.name_bytes = job.name_bytes
        tube.pause_s = byte & 7
        tube.pause_end_ns = SECOND_NS * byte
        append_tube(file, &tube, SEED, lsn)
    else:
        append_cleared(file, job.name, job.name_bytes, lsn - min(lsn, <uint64_t>(byte & 7) * 30), SEED, lsn)


cdef size_t step(Buffer *file, size_t *sound, const uint8_t *data, size_t size) noexcept:
    """Write one more record; `sound` is the place of the first damaged byte. Returns how many bytes it used."""
    cdef size_t start = file.len
    cdef size_t length
    cdef uint8_t action = data[0] & 7
    if action < 5 and size > 1:
        add_record(file, action, data[1])
        length = 2
    elif action < 7 and size > 1:
        length = min(<size_t>(data[0] >> 3) + 1, size - 1)
        add_payload(file, data + 1, length)
        length += 1
    else:
        # Any bytes: these are no record, except by rare chance.
        length = min(<size_t>(data[0] >> 3) + 1, size)
        buffer_append(file, <const char *>data, length)
        return length
    if data[0] & 128 and action < 5:
        file.data[start + (data[0] >> 3 & 15) % (file.len - start)] ^= <char>(1 << (data[0] & 7))
        sound[0] = min(sound[0], start)
    return length


cdef int check_scan(const uint8_t[::1] view, size_t end) except -1:
    """Checks that the tools find the same records as the server, up to where the server stopped reading."""
    cdef size_t last = SEGMENT_HEADER_BYTES
    for at, what in records(view, SEED, FIRST_LSN):
        if isinstance(what, str):
            equal("where the tools stop reading", at >= end, True)
        elif at < end:
            last = at
            equal("the next record", find_record(view, SEED, FIRST_LSN, at), at)
    at_most("the last record", last, end)
    at_most("where a record is found", find_record(view, SEED, FIRST_LSN, SEGMENT_HEADER_BYTES), view.shape[0])
    for kind in ("durable", "next-id", "shed"):
        highest_mark(view, SEED, FIRST_LSN, kind)
    find_seed(view, FIRST_LSN)
    return 0


cdef uint64_t puts_before(const char *data, size_t size, size_t end) noexcept:
    """The largest number of jobs that the records before `end` can have created."""
    cdef Record record
    cdef size_t at = SEGMENT_HEADER_BYTES
    cdef uint64_t count = 0
    while at < end:
        equal("a record that was read", read_record(data + at, size - at, SEED,
                                                    FIRST_LSN + at - SEGMENT_HEADER_BYTES, &record), 0)
        count += record.type == RECORD_PUT
        at += record.size
    return count


cdef uint32_t paused(State state) noexcept:
    """The number of paused tubes, which exist without jobs."""
    cdef uint32_t place, count = 0
    for place in range(state.tubes.count):
        count += state.tubes.listed[place].pause_ns > 0
    return count


cdef int check_engine(State state, uint64_t most) except -1:
    at_most("jobs", state.jobs.count, most)
    equal("jobs", state.jobs.count, state.counts.ready + state.counts.delayed + state.counts.buried)
    at_most("tubes", state.tubes.count, state.jobs.count + 1 + paused(state))
    return 0


cdef int read(const char *data, size_t size, size_t sound) except -1:
    cdef const uint8_t[::1] view = <const uint8_t[:size]><const uint8_t *>data
    cdef State state = State(now_ns=SECOND_NS)
    cdef BinlogWriter log = BinlogWriter(
        EngineJobs(state), FileSink(syncs=False, pipes=(-1,) * 6), segment_bytes=4096, sync_every_ns=-1,
        ask_for_segment=None,
    )
    cdef size_t end
    cdef int64_t now_ns
    os.ftruncate(FILE, 0)
    os.pwrite(FILE, view, 0)
    outcome, end = Loader(log).load(Header(NUMBER, FIRST_LSN, 1 << 40, 1, RUN), FILE, size)
    equal("a known outcome", outcome in ("end", "broken", "newer", "impossible", "unknown"), True)
    at_most("where reading ended", end, min(size, sound))
    check_engine(state, puts_before(data, size, end))
    check_scan(view, end)
    equal("jobs counted by the binlog", log.room.live_jobs, state.jobs.count)
    for now_ns in (SECOND_NS, 1 << 62):
        while expire(state, now_ns):
            pass
        equal("timers", state.timers.len, state.tubes.count)
        check_engine(state, state.jobs.count)
    # Writer and room refer to each other: without this, both would stay until Python looks for such cycles.
    log.room.journal = None
    return 0


cdef int play(const uint8_t *data, size_t size) except -1:
    cdef char[SEGMENT_HEADER_BYTES] header
    cdef Buffer file
    cdef size_t at = 0, sound = <size_t>-1, length
    cdef char *exact
    memset(&file, 0, sizeof(file))
    fill_segment_header(header, NUMBER, FIRST_LSN, 1 << 40, 1, RUN)
    buffer_append(&file, header, SEGMENT_HEADER_BYTES)
    while at < size:
        at += step(&file, &sound, data + at, size - at)
    length = file.len
    exact = <char *>PyMem_RawMalloc(length)
    memcpy(exact, file.data, length)
    buffer_free(&file)
    try:
        read(exact, length, sound)
    finally:
        PyMem_RawFree(exact)
    return 0


cdef int one(const uint8_t *data, size_t size) noexcept:
    cdef int kind
    try:
        play(data, size)
    except BaseException as error:
        print(repr(error))
        equal("no error", 1, 0)
    for kind in range(LIVE_KINDS):
        equal("objects alive at the end", live[kind], 0)
    return 0


TARGET = as_capsule(one)


def run(bytes data not None):
    """Run one input, without a fuzzer."""
    one(<const uint8_t *><char *>data, len(data))
