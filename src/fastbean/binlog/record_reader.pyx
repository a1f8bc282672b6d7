"""Reads and writes single records of a binlog file, for the tools and for the inspection of damage.

Everything here works on the bytes of one file and knows neither engine nor server; a running binlog does not need it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastbean.base.buffer cimport Buffer, buffer_free
from fastbean.engine.journal cimport STATE_BURIED, STATE_DELAYED, JobImage
from fastbean.binlog.record cimport (
    FAULT_END, FAULT_NONE, MAX_NAME_BYTES, MAX_UPDATE_BYTES, RECORD_DELETE, RECORD_DURABLE, RECORD_NEXT_ID, RECORD_PUT,
    RECORD_SHED, RECORD_UPDATE, SEGMENT_HEADER_BYTES, Fault, Record, append_number, append_put, is_zero, read_record,
)

cdef enum:
    MARK_LENGTH_AT = 4              # the offset of the length in a record of one number
    SMALLEST_MARK = 7
    LONGEST_MARK = 11


def records(const uint8_t[::1] data not None, uint32_t number, uint64_t first_lsn):
    """Read the records of one segment, without restoring anything.

    Args:
        data: the whole file.
        number: the segment's number.
        first_lsn: the LSN of its first record.

    Yields:
        For each record its offset in the file and a dict of its members; finally the offset where reading ended, and
        "end" or "broken".
    """
    cdef size_t at = SEGMENT_HEADER_BYTES
    cdef Record record
    cdef Fault fault = FAULT_NONE
    while True:
        fault = read_record(
            <const char *>&data[0] + at, data.shape[0] - at, number, first_lsn + at - SEGMENT_HEADER_BYTES, &record
        )
        if fault != FAULT_NONE:
            yield at, "end" if fault == FAULT_END else "broken"
            return
        yield at, members(&record)
        at += record.size


cdef dict members(Record *record):
    cdef JobImage *job = &record.job
    if record.type == RECORD_DELETE:
        return {"type": "delete", "id": record.number}
    if record.type == RECORD_DURABLE:
        return {"type": "durable", "lsn": record.number}
    if record.type == RECORD_NEXT_ID:
        return {"type": "next-id", "id": record.number}
    if record.type == RECORD_SHED:
        return {"type": "shed", "below": record.number}
    found = {
        "type": "update" if record.type == RECORD_UPDATE else "put", "id": job.id,
        "state": ("ready", "delayed", "buried")[<int>job.state], "pri": job.pri, "delay": job.delay_s,
        "reserves": job.reserves, "timeouts": job.timeouts, "releases": job.releases, "buries": job.buries,
        "kicks": job.kicks,
    }
    if job.state == STATE_DELAYED:
        found["deadline_ns"] = job.deadline_ns
    elif job.state == STATE_BURIED:
        found["burial"] = job.burial
    if record.type == RECORD_PUT:
        found["ttr"] = job.ttr_s
        found["created_ns"] = job.created_ns
        found["tube"] = job.name[:job.name_bytes]
        found["body"] = job.body[:job.body_bytes]
    return found


def is_zero_from(const uint8_t[::1] data not None, size_t offset=0) -> bool:
    """Whether ``data`` contains only zeros from ``offset``, in bytes."""
    cdef size_t size = data.shape[0]
    return offset >= size or is_zero(<const char *>&data[0] + offset, size - offset)


def highest_mark(const uint8_t[::1] data not None, uint32_t number, uint64_t first_lsn, str kind="durable") -> int:
    """Search a damaged segment for what it says about the last sync, the ids, or the segments that are needed.

    Every offset is tried, since one unreadable record hides where the next one begins.

    Args:
        data: the whole file.
        number: the segment's number.
        first_lsn: the LSN of its first record.
        kind: "durable" looks for the LSN up to which the binlog was synced, "next-id" for the limit of the ids, "shed"
            for the number of the first segment that is needed.

    Returns:
        The highest such number, 0 if no readable record has one.
    """
    cdef size_t at = SEGMENT_HEADER_BYTES
    cdef size_t size = data.shape[0]
    cdef const char *start = <const char *>&data[0] if size else NULL
    cdef uint64_t highest = 0
    cdef int wanted = {"durable": RECORD_DURABLE, "next-id": RECORD_NEXT_ID, "shed": RECORD_SHED}[kind]
    cdef Record record
    while at + SMALLEST_MARK <= size:
        # Only what looks like such a record is checked: computing a checksum at each offset would take too long.
        if (
            data[at + MARK_LENGTH_AT] <= LONGEST_MARK and data[at + MARK_LENGTH_AT + 1] == wanted
            and read_record(start + at, size - at, number, first_lsn + at - SEGMENT_HEADER_BYTES, &record) == FAULT_NONE
        ):
            highest = max(highest, record.number)
        at += 1
    return highest


def encode_put(job, uint32_t number, uint64_t lsn) -> bytes:
    """Encode the record of a job, as a put or its copy by compaction writes it.

    Args:
        job: a `fastbean.binlog.saved_job.SavedJob`; only the ranges of its values are checked.
        number: of the segment.
        lsn: where in the binlog the record begins.

    Raises:
        MemoryError: there is no memory for it.
        OverflowError: a number is out of its range.
        ValueError: the name of the tube is too long.
    """
    cdef JobImage image
    cdef Buffer buffer
    cdef bytes tube = job.tube
    cdef bytes body = job.body
    if len(tube) > MAX_NAME_BYTES:
        raise ValueError(f"job {job.id}: the name of its tube is longer than {MAX_NAME_BYTES} bytes")
    memset(&image, 0, sizeof(JobImage))      # ready
    image.id = job.id
    image.created_ns = job.created_ns
    image.deadline_ns = job.deadline_ns
    image.burial = job.burial
    image.pri = job.pri
    image.delay_s = job.delay_s
    image.ttr_s = job.ttr_s
    image.reserves = job.reserves
    image.timeouts = job.timeouts
    image.releases = job.releases
    image.buries = job.buries
    image.kicks = job.kicks
    if job.state == "delayed":
        image.state = STATE_DELAYED
    elif job.state == "buried":
        image.state = STATE_BURIED
    image.name = tube
    image.name_bytes = len(tube)
    image.body = body
    image.body_bytes = len(body)
    memset(&buffer, 0, sizeof(Buffer))
    append_put(&buffer, &image, number, lsn)
    return take_bytes(&buffer)


def encode_mark(uint64_t durable_lsn, uint32_t number, uint64_t lsn) -> bytes:
    """Encode the mark that the binlog is synced up to `durable_lsn`; it begins at `lsn`, in segment `number`.

    Raises:
        MemoryError: there is no memory for it.
    """
    cdef Buffer buffer
    memset(&buffer, 0, sizeof(Buffer))
    append_number(&buffer, RECORD_DURABLE, durable_lsn, number, lsn)
    return take_bytes(&buffer)


def encode_shed(uint32_t below, uint32_t number, uint64_t lsn) -> bytes:
    """Encode the record that segments below `below` are not needed; it begins at `lsn`, in segment `number`.

    Raises:
        MemoryError: there is no memory for it.
    """
    cdef Buffer buffer
    memset(&buffer, 0, sizeof(Buffer))
    append_number(&buffer, RECORD_SHED, below, number, lsn)
    return take_bytes(&buffer)


cdef bytes take_bytes(Buffer *buffer):
    """The content of the buffer, which is freed."""
    if buffer.failed:
        buffer_free(buffer)
        raise MemoryError("no memory for a record")
    found = buffer.data[:buffer.len]
    buffer_free(buffer)
    return found


def find_record(const uint8_t[::1] data not None, uint32_t number, uint64_t first_lsn, size_t at) -> int:
    """Search for the next record after damage.

    Args:
        data: the whole file.
        number: the segment's number.
        first_lsn: the LSN of its first record.
        at: the offset at which to begin.

    Returns:
        The offset of the first record at or after `at`; the size of the file if there is none.
    """
    cdef size_t size = data.shape[0]
    cdef const char *start = <const char *>&data[0] if size else NULL
    cdef Record record
    while at + SMALLEST_MARK <= size:
        if is_plausible(start + at + MARK_LENGTH_AT, size - at - MARK_LENGTH_AT) and read_record(
            start + at, size - at, number, first_lsn + at - SEGMENT_HEADER_BYTES, &record
        ) == FAULT_NONE:
            return at
        at += 1
    return size


cdef bint is_plausible(const char *head, size_t size) noexcept nogil:
    """Whether a record can begin like this: computing a checksum at each offset of a file would take too long."""
    cdef const uint8_t *at = <const uint8_t *>head
    cdef const uint8_t *end = at + min(size, 24)
    cdef uint64_t length = 0
    cdef uint32_t shift = 0
    cdef uint8_t type
    while at < end and at[0] >= 0x80 and shift < 35:
        length |= <uint64_t>(at[0] & 0x7F) << shift
        shift += 7
        at += 1
    if end - at < 3:
        return False
    length |= <uint64_t>at[0] << shift
    type = at[1]
    at += 2
    if RECORD_DELETE <= type <= RECORD_SHED:
        return length <= LONGEST_MARK
    if type != RECORD_PUT and (type != RECORD_UPDATE or length > MAX_UPDATE_BYTES):
        return False
    while at < end and at[0] >= 0x80:       # the id
        at += 1
    return end - at >= 2 and at[1] <= STATE_BURIED
