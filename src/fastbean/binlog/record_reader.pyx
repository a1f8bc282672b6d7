"""Reads and writes single records of a binlog file, for the tools and for the inspection of damage.

Everything here works on the bytes of one file and knows neither engine nor server; a running binlog does not need it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from fastbean.base.buffer cimport Buffer, buffer_free
from fastbean.engine.journal cimport STATE_BURIED, STATE_DELAYED, JobImage, TubeImage
from fastbean.binlog.record cimport (
    FAULT_END, FAULT_IMPOSSIBLE, FAULT_NEWER, FAULT_NONE, FLAG_MEMBERS, MAX_NAME_BYTES, MAX_RECORD_HEAD_BYTES,
    MAX_TUBE_BYTES, MAX_UPDATE_BYTES, RECORD_CLEARED, RECORD_DELETE, RECORD_DURABLE, RECORD_END, RECORD_NEXT_ID,
    RECORD_PUT, RECORD_SHED, RECORD_TUBE, RECORD_UPDATE, SEGMENT_HEADER_BYTES, Fault, Record, append_cleared,
    append_number, append_put, append_tube, get_varint, is_zero, read_record, record_bytes, seed_of_record,
)

cdef enum:
    MARK_LENGTH_AT = 4              # the offset of the length in a record of one number
    SMALLEST_MARK = 7
    SMALLEST_RECORD = 6             # of a type that a later version may add
    LONGEST_MARK = 11
    SEED_RECORD_BYTES = 4096        # a judgement: most jobs are smaller

# The bytes of which a search computes checksums before it leaves out long records of unknown form: a judgement. It is
# seconds of work, which only megabytes of noise need: there, at one offset in five, something looks like such a record.
cdef uint64_t SEARCH_BYTES = <uint64_t>1 << 34


def records(const uint8_t[::1] data not None, uint32_t seed, uint64_t first_lsn):
    """Read the records of one segment, without restoring anything.

    Args:
        data: the whole file.
        seed: of the run, see `fastbean.binlog.record.run_seed`.
        first_lsn: the LSN of its first record.

    Yields:
        For each record its offset in the file and a dict of its members; finally the offset where reading ended, and
        "end", "broken", "newer" (a record with something that only a newer fastbean knows) or "impossible" (a record
        with a right checksum and wrong members).
    """
    cdef size_t at = SEGMENT_HEADER_BYTES
    cdef Record record
    cdef Fault fault = FAULT_NONE
    while True:
        fault = read_record(
            <const char *>&data[0] + at, data.shape[0] - at, seed, first_lsn + at - SEGMENT_HEADER_BYTES, &record
        )
        if fault != FAULT_NONE:
            yield at, how_it_ends(fault)
            return
        yield at, members(&record)
        at += record.size


cdef str how_it_ends(Fault fault):
    if fault == FAULT_IMPOSSIBLE:
        return "impossible"
    return "end" if fault == FAULT_END else "newer" if fault == FAULT_NEWER else "broken"


cdef dict members(Record *record):
    cdef JobImage *job = &record.job
    cdef TubeImage *tube = &record.tube
    if record.type == RECORD_DELETE:
        return {"type": "delete", "id": record.number}
    if record.type == RECORD_DURABLE:
        return {"type": "durable", "lsn": record.number}
    if record.type == RECORD_NEXT_ID:
        return {"type": "next-id", "id": record.number}
    if record.type == RECORD_SHED:
        return {"type": "shed", "below": record.number}
    if record.type == RECORD_CLEARED:
        return {"type": "cleared", "tube": tube.name[:tube.name_bytes], "below": record.number}
    if record.type == RECORD_TUBE:
        found = {"type": "tube", "tube": tube.name[:tube.name_bytes], "pause": tube.pause_s}
        return {**found, "pause_end_ns": tube.pause_end_ns} if tube.pause_s else found
    if record.type > RECORD_CLEARED:
        return {"type": f"unknown-{<int>record.type}"}
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


def highest_mark(const uint8_t[::1] data not None, uint32_t seed, uint64_t first_lsn, str kind="durable") -> int:
    """Search a damaged segment for what it says about the last sync, the ids, or the segments that are needed.

    Every offset is tried, since one unreadable record hides where the next one begins.

    Args:
        data: the whole file.
        seed: of the run, see `fastbean.binlog.record.run_seed`.
        first_lsn: the LSN of its first record.
        kind: "durable" looks for the LSN up to which the binlog was synced, "next-id" for the limit of the ids, "shed"
            for the LSN of the first record that is needed.

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
            and read_record(start + at, size - at, seed, first_lsn + at - SEGMENT_HEADER_BYTES, &record) == FAULT_NONE
        ):
            highest = max(highest, record.number)
        at += 1
    return highest


def encode_put(job, uint32_t seed, uint64_t lsn) -> bytes:
    """Encode the record of a job, as a put or its copy by compaction writes it.

    Args:
        job: a `fastbean.binlog.saved_job.SavedJob`; only the ranges of its values are checked.
        seed: of the run.
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
    append_put(&buffer, &image, seed, lsn)
    return take_bytes(&buffer)


def encode_tube(tube, uint32_t seed, uint64_t lsn) -> bytes:
    """Encode the record of a tube's settings, a `fastbean.binlog.saved_job.SavedTube`; likewise.

    Raises:
        MemoryError, OverflowError, ValueError: as `encode_put`.
    """
    cdef TubeImage image
    cdef Buffer buffer
    cdef bytes name = checked_name(tube.name)
    image.name = name
    image.name_bytes = len(name)
    image.pause_s = tube.pause_s
    image.pause_end_ns = tube.pause_end_ns
    memset(&buffer, 0, sizeof(Buffer))
    append_tube(&buffer, &image, seed, lsn)
    return take_bytes(&buffer)


def encode_cleared(bytes name not None, uint64_t below, uint32_t seed, uint64_t lsn) -> bytes:
    """Encode the record that all jobs of the tube `name` that were put below the LSN `below` have ended; likewise.

    Raises:
        MemoryError, ValueError: as `encode_put`.
    """
    cdef Buffer buffer
    memset(&buffer, 0, sizeof(Buffer))
    append_cleared(&buffer, checked_name(name), len(name), below, seed, lsn)
    return take_bytes(&buffer)


cdef bytes checked_name(bytes name):
    if len(name) > MAX_NAME_BYTES:
        raise ValueError(f"the name of a tube is longer than {MAX_NAME_BYTES} bytes")
    return name


def encode_mark(uint64_t durable_lsn, uint32_t seed, uint64_t lsn) -> bytes:
    """Encode the mark that the binlog is synced up to `durable_lsn`; it begins at `lsn`, in the run of this `seed`.

    Raises:
        MemoryError: there is no memory for it.
    """
    cdef Buffer buffer
    memset(&buffer, 0, sizeof(Buffer))
    append_number(&buffer, RECORD_DURABLE, durable_lsn, seed, lsn)
    return take_bytes(&buffer)


def encode_shed(uint64_t below, uint32_t seed, uint64_t lsn) -> bytes:
    """Encode the record that records below the LSN `below` are not needed; it begins at `lsn`, likewise.

    Raises:
        MemoryError: there is no memory for it.
    """
    cdef Buffer buffer
    memset(&buffer, 0, sizeof(Buffer))
    append_number(&buffer, RECORD_SHED, below, seed, lsn)
    return take_bytes(&buffer)


cdef bytes take_bytes(Buffer *buffer):
    """The content of the buffer, which is freed."""
    if buffer.failed:
        buffer_free(buffer)
        raise MemoryError("no memory for a record")
    found = buffer.data[:buffer.len]
    buffer_free(buffer)
    return found


def find_record(const uint8_t[::1] data not None, uint32_t seed, uint64_t first_lsn, size_t at) -> int:
    """Search for the next record after damage.

    Args:
        data: the whole file.
        seed: of the run, see `fastbean.binlog.record.run_seed`.
        first_lsn: the LSN of its first record.
        at: the offset at which to begin.

    Returns:
        The offset of the first record at or after `at`; the size of the file if there is none.
    """
    cdef size_t size = data.shape[0]
    cdef const char *start = <const char *>&data[0] if size else NULL
    cdef Record record
    cdef Fault fault
    cdef uint64_t searched = 0
    cdef uint64_t longest = size
    while at + SMALLEST_RECORD <= size:
        if is_plausible(start + at + MARK_LENGTH_AT, size - at - MARK_LENGTH_AT, longest):
            searched += record_bytes(start + at, size - at)
            if searched > SEARCH_BYTES:
                longest = MAX_TUBE_BYTES
            fault = read_record(start + at, size - at, seed, first_lsn + at - SEGMENT_HEADER_BYTES, &record)
            if fault == FAULT_NONE or fault == FAULT_NEWER:
                return at
        at += 1
    return size


cdef bint is_plausible(const char *head, size_t size, uint64_t longest) noexcept nogil:
    """Whether a record can begin like this: computing a checksum at each offset of a file would take too long.

    Args:
        head: its length, and what follows.
        size: of that, up to the end of the file.
        longest: the length up to which a record may be one of a later version, whose form is not known.
    """
    cdef const char *at
    cdef const char *end = head + size
    cdef uint64_t length, flags, id
    cdef uint8_t type
    at = get_varint(head, end, &length)
    if at is NULL or at == end or length > <uint64_t>(end - at):
        return False
    type = <uint8_t>at[0]
    if RECORD_DELETE <= type <= RECORD_SHED:
        return length <= LONGEST_MARK
    if type == RECORD_END:
        return False
    if type > RECORD_CLEARED:
        return length <= longest
    at = get_varint(at + 1, end, &flags)
    if at is NULL:
        return False
    if flags > FLAG_MEMBERS:
        return length <= longest
    # With optional members, a record is as long as they like.
    if type == RECORD_TUBE or type == RECORD_CLEARED:
        return flags or length <= MAX_TUBE_BYTES
    at = get_varint(at, end, &id)
    if at is NULL or at == end or <uint8_t>at[0] > STATE_BURIED:
        return False
    return type == RECORD_PUT or flags or length <= MAX_UPDATE_BYTES


def find_seed(const uint8_t[::1] data not None, uint64_t first_lsn) -> int:
    """Compute the seed of a run from its records, in a file whose header is lost.

    A record's checksum and bytes determine the seed that they need, because each step of a CRC can be undone. It is the
    right one if the next record has the same. Only records of up to SEED_RECORD_BYTES are tried, so that this takes no
    more than seconds in a file of noise.

    Args:
        data: the whole file.
        first_lsn: the LSN of its first record.

    Returns:
        The seed; 0 if there are no two records one after the other.
    """
    cdef size_t size = data.shape[0]
    cdef const char *start = <const char *>&data[0] if size else NULL
    cdef size_t at = SEGMENT_HEADER_BYTES
    cdef uint64_t lsn, bytes
    cdef uint32_t seed
    cdef Record record
    while at + SMALLEST_RECORD <= size:
        lsn = first_lsn + at - SEGMENT_HEADER_BYTES
        bytes = record_bytes(start + at, min(size - at, <size_t>MAX_RECORD_HEAD_BYTES))
        if is_plausible(start + at + MARK_LENGTH_AT, size - at - MARK_LENGTH_AT, MAX_TUBE_BYTES) and (
            0 < bytes <= min(size - at, <size_t>SEED_RECORD_BYTES)
        ):
            seed = seed_of_record(start + at, bytes, lsn)
            if read_record(start + at + bytes, size - at - bytes, seed, lsn + bytes, &record) == FAULT_NONE:
                return seed
        at += 1
    return 0
