"""The records of the binlog: encodes the state of a job or a tube into bytes, and decodes it.

A record is: its CRC32C (4 bytes, little-endian), the length of what follows as a varint, a type, and the members of
that type. Numbers are varints (seven bits per byte, the lowest first; the highest bit says that more follow). The
checksum also covers the identity of the run and the record's LSN, so that bytes from another place or time are never
taken for a record, while the bytes of a record do not depend on the file that they are in. Records of jobs and of tubes
may have optional members, which a later version can add. docs/binlog.md describes each byte.

The identity is the first thing that each checksum covers. So it is computed once, into a *seed*: the register of the
CRC after those bytes.

Encoding and decoding cost O(bytes) and allocate only the buffer's own memory.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from fastbean.base.buffer cimport Buffer, buffer_reserve
from fastbean.engine.journal cimport STATE_BURIED, JobImage, RecordState, TubeImage

import sys

# Numbers are copied between memory and file as they are, and the file is little-endian.
if sys.byteorder != "little":
    raise ImportError(
        "fastbean's binlog is written on little-endian machines only, and this one is big-endian: start without -b"
    )

cdef enum:
    CRC_BYTES = 4
    POLYNOMIAL = 0x82F63B78             # CRC32C (Castagnoli), reflected
    SLICES = 8
    FORMAT_VERSION = 1
    RUN_AT = 40
    HEADER_CRC_AT = 60
    MEMBER_IS_REQUIRED = 1              # this bit of a member's type: a reader that does not know it must refuse it

cdef extern from *:
    """
    /* The processor's own instruction, where it has one: x86-64 since 2008. */
    #if defined(__x86_64__) && defined(__GNUC__)
    #include <nmmintrin.h>
    #include <string.h>

    static int fastbean_has_crc32c(void) { return __builtin_cpu_supports("sse4.2") != 0; }

    __attribute__((target("sse4.2")))
    static uint32_t fastbean_crc32c_from(uint64_t state, const char *data, size_t size) {
        uint64_t word;
        uint32_t half;
        int at;
        for (; size >= 32; data += 32, size -= 32)
            for (at = 0; at < 32; at += 8) {
                memcpy(&word, data + at, 8);
                state = _mm_crc32_u64(state, word);
            }
        for (; size >= 8; data += 8, size -= 8) {
            memcpy(&word, data, 8);
            state = _mm_crc32_u64(state, word);
        }
        if (size >= 4) {
            memcpy(&half, data, 4);
            state = _mm_crc32_u32((uint32_t)state, half);
            data += 4;
            size -= 4;
        }
        for (; size; data++, size--)
            state = _mm_crc32_u8((uint32_t)state, (uint8_t)*data);
        return ~(uint32_t)state;
    }

    __attribute__((target("sse4.2")))
    static uint32_t fastbean_crc32c(uint32_t crc, const char *data, size_t size) {
        return fastbean_crc32c_from((uint32_t)~crc, data, size);
    }

    __attribute__((target("sse4.2")))
    static uint32_t fastbean_record_crc(uint32_t seed, uint64_t lsn, const char *data, size_t size) {
        return fastbean_crc32c_from(_mm_crc32_u64(seed, lsn), data, size);
    }
    #else
    static int fastbean_has_crc32c(void) { return 0; }
    static uint32_t fastbean_crc32c(uint32_t crc, const char *data, size_t size) {
        (void)data; (void)size; return crc;
    }
    static uint32_t fastbean_record_crc(uint32_t seed, uint64_t lsn, const char *data, size_t size) {
        (void)lsn; (void)data; (void)size; return seed;
    }
    #endif
    """
    bint fastbean_has_crc32c() noexcept nogil
    uint32_t fastbean_crc32c(uint32_t crc, const char *data, size_t size) noexcept nogil
    uint32_t fastbean_record_crc(uint32_t seed, uint64_t lsn, const char *data, size_t size) noexcept nogil

cdef uint32_t[8][256] crc_tables
cdef bint has_instruction = fastbean_has_crc32c()


cdef void make_crc_tables() noexcept nogil:
    """Slicing by eight (Kounavis and Berry 2005): table k advances a byte over k more bytes."""
    cdef uint32_t byte, _bit, crc
    cdef int table
    for byte in range(256):
        crc = byte
        for _bit in range(8):
            crc = (crc >> 1) ^ (<uint32_t>POLYNOMIAL if crc & 1 else 0)
        crc_tables[0][byte] = crc
    for byte in range(256):
        for table in range(1, SLICES):
            crc = crc_tables[table - 1][byte]
            crc_tables[table][byte] = (crc >> 8) ^ crc_tables[0][crc & 0xFF]


make_crc_tables()


cdef uint32_t crc32c(uint32_t crc, const char *data, size_t size) noexcept nogil:
    """CRC32C (RFC 3720, appendix B.4) of `size` bytes, continued from `crc`; start with 0."""
    return fastbean_crc32c(crc, data, size) if has_instruction else crc32c_by_tables(crc, data, size)


cdef uint32_t crc32c_by_tables(uint32_t crc, const char *data, size_t size) noexcept nogil:
    """The same without the processor's instruction."""
    cdef uint64_t word
    crc = ~crc
    while size >= 8:
        memcpy(&word, data, 8)          # little-endian, as the whole binlog
        word ^= crc
        crc = (
            crc_tables[7][word & 0xFF] ^ crc_tables[6][(word >> 8) & 0xFF] ^ crc_tables[5][(word >> 16) & 0xFF]
            ^ crc_tables[4][(word >> 24) & 0xFF] ^ crc_tables[3][(word >> 32) & 0xFF]
            ^ crc_tables[2][(word >> 40) & 0xFF] ^ crc_tables[1][(word >> 48) & 0xFF] ^ crc_tables[0][word >> 56]
        )
        data += 8
        size -= 8
    while size:
        crc = (crc >> 8) ^ crc_tables[0][(crc ^ <uint8_t>data[0]) & 0xFF]
        data += 1
        size -= 1
    return ~crc


cdef inline uint32_t record_crc(uint32_t seed, uint64_t lsn, const char *data, size_t size) noexcept nogil:
    if has_instruction:
        return fastbean_record_crc(seed, lsn, data, size)
    return crc32c_by_tables(crc32c_by_tables(~seed, <const char *>&lsn, 8), data, size)


# Writing

cdef void fill_segment_header(
    char *header, uint32_t number, uint64_t first_lsn, uint64_t id_limit, uint64_t floor, const char *run
) noexcept nogil:
    """Write the SEGMENT_HEADER_BYTES before a segment's records."""
    cdef uint32_t version = FORMAT_VERSION
    cdef uint32_t crc
    memset(header, 0, SEGMENT_HEADER_BYTES)
    memcpy(header, b"fastbean", 8)
    memcpy(header + 8, &version, 4)
    memcpy(header + 12, &number, 4)
    memcpy(header + 16, &first_lsn, 8)
    memcpy(header + 24, &id_limit, 8)
    memcpy(header + 32, &floor, 8)
    memcpy(header + RUN_AT, run, RUN_BYTES)
    crc = crc32c(0, header, HEADER_CRC_AT)
    memcpy(header + HEADER_CRC_AT, &crc, 4)


cdef inline char *put_fixed(char *at, uint64_t number) noexcept nogil:
    memcpy(at, &number, 8)
    return at + 8


cdef char *put_changing(char *at, JobImage *job) noexcept nogil:
    """Write the flags, and the members that a put and an update share."""
    at[0] = 0
    at = put_varint(at + 1, job.id)
    at[0] = <char>job.state
    at = put_varint(at + 1, job.pri)
    at = put_varint(at, job.delay_s)
    at = put_varint(at, job.reserves)
    at = put_varint(at, job.timeouts)
    at = put_varint(at, job.releases)
    at = put_varint(at, job.buries)
    at = put_varint(at, job.kicks)
    if job.state == STATE_DELAYED:
        return put_fixed(at, <uint64_t>job.deadline_ns)
    if job.state == STATE_BURIED:
        return put_varint(at, job.burial)
    return at


cdef void append_record(
    Buffer *buffer, const char *head, size_t head_bytes, const char *body, size_t body_bytes, uint32_t seed,
    uint64_t lsn,
) noexcept nogil:
    """Append the record with the members `head`, followed by `body`. Without memory it sets the buffer's ``failed``."""
    cdef size_t start = buffer.len
    cdef uint32_t crc
    cdef char *at
    if buffer.failed or buffer_reserve(buffer, CRC_BYTES + MAX_VARINT_BYTES + head_bytes + body_bytes) < 0:
        return
    at = put_varint(buffer.data + start + CRC_BYTES, head_bytes + body_bytes)
    memcpy(at, head, head_bytes)
    if body_bytes:
        memcpy(at + head_bytes, body, body_bytes)
    buffer.len = at + head_bytes + body_bytes - buffer.data
    crc = record_crc(seed, lsn, buffer.data + start + CRC_BYTES, buffer.len - start - CRC_BYTES)
    memcpy(buffer.data + start, &crc, CRC_BYTES)


cdef void append_put(Buffer *buffer, JobImage *job, uint32_t seed, uint64_t lsn) noexcept nogil:
    """Append a put: everything about a job. `seed`: of the run; `lsn`: where the record begins."""
    cdef char[MAX_RECORD_OVERHEAD] head
    cdef char *at = head
    at[0] = <char>RECORD_PUT
    at = put_changing(at + 1, job)
    at = put_varint(at, job.ttr_s)
    at = put_fixed(at, <uint64_t>job.created_ns)
    at = put_varint(at, job.name_bytes)
    memcpy(at, job.name, job.name_bytes)
    at = put_varint(at + job.name_bytes, job.body_bytes)
    append_record(buffer, head, at - head, job.body, job.body_bytes, seed, lsn)


cdef void append_update(Buffer *buffer, JobImage *job, uint32_t seed, uint64_t lsn) noexcept nogil:
    """Append an update: what can change in a job."""
    cdef char[MAX_RECORD_OVERHEAD] head
    cdef char *at = head
    at[0] = <char>RECORD_UPDATE
    at = put_changing(at + 1, job)
    append_record(buffer, head, at - head, NULL, 0, seed, lsn)


cdef void append_delete(Buffer *buffer, uint64_t id, uint32_t seed, uint64_t lsn) noexcept nogil:
    append_number(buffer, RECORD_DELETE, id, seed, lsn)


cdef void append_number(
    Buffer *buffer, RecordType type, uint64_t number, uint32_t seed, uint64_t lsn,
) noexcept nogil:
    """Append a record of one number."""
    cdef char[1 + MAX_VARINT_BYTES] head
    cdef char *at = head
    at[0] = <char>type
    at = put_varint(at + 1, number)
    append_record(buffer, head, at - head, NULL, 0, seed, lsn)


cdef char *put_tube_head(char *at, RecordType type, const char *name, uint32_t name_bytes) noexcept nogil:
    """Write the type, the flags and the name that a record of a tube begins with."""
    at[0] = <char>type
    at[1] = 0
    at = put_varint(at + 2, name_bytes)
    memcpy(at, name, name_bytes)
    return at + name_bytes


cdef void append_tube(Buffer *buffer, TubeImage *tube, uint32_t seed, uint64_t lsn) noexcept nogil:
    """Append all settings of a tube."""
    cdef char[MAX_TUBE_BYTES] head
    cdef char *at = put_varint(put_tube_head(head, RECORD_TUBE, tube.name, tube.name_bytes), tube.pause_s)
    if tube.pause_s:
        at = put_fixed(at, <uint64_t>tube.pause_end_ns)
    append_record(buffer, head, at - head, NULL, 0, seed, lsn)


cdef void append_cleared(
    Buffer *buffer, const char *name, uint32_t name_bytes, uint64_t below, uint32_t seed, uint64_t lsn,
) noexcept nogil:
    """Append that all jobs of a tube whose put record is below the LSN `below` have ended.

    The server does not write such records yet; it reads them, for the sake of a later command that will.
    """
    cdef char[MAX_TUBE_BYTES] head
    cdef char *at = put_varint(put_tube_head(head, RECORD_CLEARED, name, name_bytes), below)
    append_record(buffer, head, at - head, NULL, 0, seed, lsn)


# Reading

cdef const char *get_varint(const char *at, const char *end, uint64_t *number) noexcept nogil:
    """Read what `put_varint` wrote. Returns where it ends, or NULL if it is cut, too long or above 64 bits."""
    cdef uint32_t shift = 0
    cdef uint8_t byte
    number[0] = 0
    while at < end and shift < 63:
        byte = <uint8_t>at[0]
        at += 1
        number[0] |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return at
        shift += 7
    # Of a tenth byte, only the lowest bit is left.
    if at == end or <uint8_t>at[0] > 1:
        return NULL
    number[0] |= <uint64_t>at[0] << 63
    return at + 1


cdef uint64_t record_bytes(const char *head, size_t size) noexcept nogil:
    """The size in the file that a record claims, of which `size` bytes are at `head`; 0 if it needs more of them."""
    cdef uint64_t length
    cdef const char *members
    if size <= CRC_BYTES:
        return 0
    members = get_varint(head + CRC_BYTES, head + size, &length)
    if members is NULL:
        return 0
    return min(length, UINT64_MAX - MAX_RECORD_HEAD_BYTES) + <uint64_t>(members - head)


cdef struct Reader:                     # the rest of a record
    const char *at
    const char *end
    bint broken                         # it ended too early, or a number was out of its range


cdef inline uint64_t take_varint(Reader *reader, uint64_t limit) noexcept nogil:
    """Take the next number; one above `limit`, which has at least seven bits, makes the record a broken one."""
    cdef const char *at = reader.at
    cdef uint64_t number = 0
    if at < reader.end and <uint8_t>at[0] < 0x80:
        reader.at = at + 1
        return <uint8_t>at[0]
    # No pointer to the reader leaves this function, so the compiler keeps it in registers.
    reader.at = get_varint(at, reader.end, &number)
    if reader.at is NULL or number > limit:
        reader.at = reader.end
        reader.broken = True
    return number


cdef inline uint32_t take_u32(Reader *reader) noexcept nogil:
    return <uint32_t>take_varint(reader, <uint32_t>-1)


cdef inline int64_t take_fixed(Reader *reader) noexcept nogil:
    cdef int64_t number = 0
    if reader.end - reader.at < 8:
        reader.broken = True
        return 0
    memcpy(&number, reader.at, 8)
    reader.at += 8
    return number


cdef inline uint8_t take_byte(Reader *reader) noexcept nogil:
    if reader.at == reader.end:
        reader.broken = True
        return 0
    reader.at += 1
    return <uint8_t>(reader.at - 1)[0]


cdef inline bint take_zeros(Reader *reader, JobImage *job) noexcept nogil:
    """Take the delay and the counters of a fresh job, if all of them are zero; otherwise take nothing.

    Most jobs of a binlog are like that; reading their zeros one by one took a twelfth of the instructions of a start.
    """
    cdef uint64_t bytes
    if reader.end - reader.at < 8:
        return False
    memcpy(&bytes, reader.at, 8)        # little-endian, like the whole binlog
    if bytes & <uint64_t>0xFFFFFFFFFFFF:
        return False
    reader.at += 6
    job.delay_s = 0
    job.reserves = 0
    job.timeouts = 0
    job.releases = 0
    job.buries = 0
    job.kicks = 0
    return True


cdef inline void take_changing(Reader *reader, JobImage *job) noexcept nogil:
    cdef uint8_t state
    job.id = take_varint(reader, <uint64_t>-1)
    state = take_byte(reader)
    if state > STATE_BURIED:
        reader.broken = True
        return
    job.state = <RecordState>state
    job.pri = take_u32(reader)
    if not take_zeros(reader, job):
        job.delay_s = take_u32(reader)
        job.reserves = take_u32(reader)
        job.timeouts = take_u32(reader)
        job.releases = take_u32(reader)
        job.buries = take_u32(reader)
        job.kicks = take_u32(reader)
    if state == STATE_DELAYED:
        job.deadline_ns = take_fixed(reader)
    elif state == STATE_BURIED:
        job.burial = take_varint(reader, <uint64_t>-1)


cdef inline const char *take_name(Reader *reader, uint32_t *name_bytes) noexcept nogil:
    cdef const char *name
    name_bytes[0] = <uint32_t>take_varint(reader, MAX_NAME_BYTES)
    name = reader.at
    if reader.broken or reader.end - name < name_bytes[0]:
        reader.broken = True
    else:
        reader.at = name + name_bytes[0]
    return name


cdef inline void take_rest_of_put(Reader *reader, JobImage *job) noexcept nogil:
    job.ttr_s = take_u32(reader)
    job.created_ns = take_fixed(reader)
    job.name = take_name(reader, &job.name_bytes)
    job.body_bytes = take_u32(reader)
    if reader.broken or <uint64_t>(reader.end - reader.at) < job.body_bytes:
        reader.broken = True
        return
    job.body = reader.at
    reader.at += job.body_bytes


cdef void take_tube(Reader *reader, Record *record) noexcept nogil:
    """Take the members of a record of a tube, after its flags."""
    record.tube.name = take_name(reader, &record.tube.name_bytes)
    if record.type == RECORD_CLEARED:
        record.number = take_varint(reader, <uint64_t>-1)
        return
    record.tube.pause_s = take_u32(reader)
    record.tube.pause_end_ns = take_fixed(reader) if record.tube.pause_s else 0


cdef Fault skip_members(Reader *reader, uint64_t flags) noexcept nogil:
    """Take the optional members, of which this version knows none; or refuse flags that it does not know.

    Such flags may change the form of the rest: whether that could be read does not matter then.
    """
    cdef uint64_t type, length
    if flags > FLAG_MEMBERS:
        return FAULT_NEWER
    while reader.at != reader.end:
        type = take_varint(reader, <uint64_t>-1)
        length = take_varint(reader, <uint64_t>-1)
        if reader.broken or length > <uint64_t>(reader.end - reader.at):
            return FAULT_IMPOSSIBLE
        if type & MEMBER_IS_REQUIRED:
            return FAULT_NEWER
        reader.at += length
    return FAULT_IMPOSSIBLE if reader.broken else FAULT_NONE


cdef Fault read_record(const char *data, size_t size, uint32_t seed, uint64_t lsn, Record *record) noexcept nogil:
    """Read the record at `data`, where there are `size` bytes, and which should be at `lsn` in the run of this `seed`.

    Returns FAULT_NONE with the record filled in; FAULT_END when there are only zeros in place of its head, or nothing;
    FAULT_NEWER for a sound record with something unknown in it that must not be skipped; FAULT_IMPOSSIBLE for one with
    a right checksum and wrong members; FAULT_BROKEN for anything else, including a truncated record. A record of an
    unknown type may be skipped if its type is SKIPPABLE_TYPES or more.
    """
    cdef Reader reader
    cdef uint64_t length
    cdef uint64_t flags = 0
    cdef uint32_t crc
    cdef Fault fault = FAULT_NONE
    cdef const char *start = data + CRC_BYTES
    if size <= CRC_BYTES:
        return FAULT_END if is_zero(data, size) else FAULT_BROKEN
    reader.at = start
    reader.end = data + size
    reader.broken = False
    length = take_varint(&reader, <uint64_t>-1)
    memcpy(&crc, data, CRC_BYTES)
    if length == 0 and crc == 0 and not reader.broken:
        return FAULT_END
    if reader.broken or length > <uint64_t>(reader.end - reader.at):
        return FAULT_BROKEN
    reader.end = reader.at + length
    if record_crc(seed, lsn, start, reader.end - start) != crc:
        return FAULT_BROKEN
    record.size = reader.end - data
    record.type = <RecordType>take_byte(&reader)
    if record.type == RECORD_PUT or record.type == RECORD_UPDATE:
        flags = take_varint(&reader, <uint64_t>-1)
        take_changing(&reader, &record.job)
        if record.type == RECORD_PUT:
            take_rest_of_put(&reader, &record.job)
    elif RECORD_DELETE <= record.type <= RECORD_SHED:
        record.number = take_varint(&reader, <uint64_t>-1)
    elif record.type == RECORD_TUBE or record.type == RECORD_CLEARED:
        flags = take_varint(&reader, <uint64_t>-1)
        take_tube(&reader, record)
    elif record.type >= SKIPPABLE_TYPES:
        return FAULT_NONE
    else:
        return FAULT_IMPOSSIBLE if record.type == RECORD_END else FAULT_NEWER
    # First of all the flags: what an unknown one makes of the members is not known.
    if flags:
        fault = skip_members(&reader, flags)
    elif reader.broken or reader.at != reader.end:
        return FAULT_IMPOSSIBLE
    # A record cannot declare itself unneeded: a binlog that accepted it would have no segment to continue in. Nor can
    # it clear a tube of jobs that come later.
    if (record.type == RECORD_SHED or record.type == RECORD_CLEARED) and fault == FAULT_NONE and record.number > lsn:
        return FAULT_IMPOSSIBLE
    return fault


cdef uint32_t step_back(uint32_t crc, const char *data, size_t size) noexcept nogil:
    """What the register of a CRC was before it took in these bytes."""
    cdef uint8_t[256] entries           # of the table by their highest byte, which is different in each
    cdef uint32_t entry
    for entry in range(256):
        entries[crc_tables[0][entry] >> 24] = <uint8_t>entry
    while size:
        size -= 1
        entry = entries[crc >> 24]
        crc = (crc ^ crc_tables[0][entry]) << 8 | (entry ^ <uint8_t>data[size])
    return crc


cdef uint32_t seed_of_record(const char *data, size_t size, uint64_t lsn) noexcept nogil:
    """The seed with which the checksum of the record of `size` bytes at `data` is right."""
    cdef uint32_t crc
    memcpy(&crc, data, CRC_BYTES)
    return step_back(step_back(~crc, data + CRC_BYTES, size - CRC_BYTES), <const char *>&lsn, 8)


cdef bint is_zero(const char *data, size_t size) noexcept nogil:
    """Whether there are only zeros."""
    # The first byte is zero, and each byte equals the one before it.
    return size == 0 or (data[0] == 0 and memcmp(data, data + 1, size - 1) == 0)


ctypedef uint32_t (*Crc)(uint32_t crc, const char *data, size_t size) noexcept nogil


cdef object crc_of(data, Crc compute):
    cdef Py_buffer view
    PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
    crc = compute(0, <const char *>view.buf, view.len)
    PyBuffer_Release(&view)
    return crc


def run_seed(bytes run not None) -> int:
    """The seed of the checksums of a run's records, from the RUN_BYTES of its identity."""
    return <uint32_t>~crc32c(0, run, len(run))


def checksum(data) -> int:
    """CRC32C (RFC 3720) of `data`, as in the headers of segments."""
    return crc_of(data, crc32c)


def checksum_by_tables(data) -> int:
    """The same, computed as on a processor without an instruction for it; for tests."""
    return crc_of(data, crc32c_by_tables)
