"""How beanstalkd's records lie in a file: versions 7 and 5, each as the C structs of the machine that wrote them.

A record is the length of the tube's name, the name, the struct of the job and its body; when the length is zero the
struct is all. There is no checksum, no length of the record and no mark at its start, so `Layout.parse` holds each
record against what a server can have written, and `Layout.find` tries every byte for the start of the next one.

Parsing costs one to two microseconds a record, looking for the next one about a tenth of that a byte. Nothing here
keeps state or opens files.
"""

import re
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeAlias

    Members: TypeAlias = tuple[int, ...]
    Found: TypeAlias = tuple[int, int, Members]  # where a record ends, where its struct begins, what stands in it

VERSION_BYTES = 4
MAX_NAME_BYTES = 200
MAX_U32 = 0xFFFFFFFF
MAX_TIME_NS = (1 << 63) - 1
ID_LIMIT = 1 << 63
SECOND_NS = 1_000_000_000
CRLF = b"\r\n"

DELETED, READY, RESERVED, BURIED, DELAYED = range(5)

# Places in what `Layout.job` unpacks.
ID, BODY_SIZE, STATE = 0, 4, 12
CREATED_OFFSET = 40  # in the struct of every layout for 64 bits

TUBE_NAME = re.compile(rb"[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]*")


class Layout:
    """How the records of one version lie in a file; for one kind of machine, since they are C structs as they were.

    - ``length_format``: the struct format of the length of the tube's name.
    - ``job_format``: the format of the struct of a job.
    - ``tick_ns``: the unit of its times, in nanoseconds.
    """

    def __init__(self, length_format: str, job_format: str, tick_ns: int) -> None:
        self.length = struct.Struct(length_format)
        self.job = struct.Struct(job_format)
        self.tick_ns = tick_ns
        self.second = SECOND_NS // tick_ns
        self.longest = MAX_U32 * self.second
        self.latest = MAX_TIME_NS // tick_ns
        upper = self.length.size - 1
        self.possible_start = re.compile(
            rb"(?=[\x01-\xc8]\0{%d}[A-Za-z0-9+/;.$_()]|\0{%d}(?!\0{8})[\0-\xff]{7}[\0-\x7f])" % (upper, upper + 1)
        )

    def parse(self, data: bytes, at: int) -> "Found | str":
        """The record at offset ``at``: where it ends, where its job's struct begins, and the members of that struct.

        What cannot have been written by a server is told in words instead.
        """
        try:
            (name_bytes,) = self.length.unpack_from(data, at)
            if name_bytes > MAX_NAME_BYTES:
                return f"{name_bytes} is no length of a tube's name"
            name = at + self.length.size
            start = name + name_bytes
            job = self.job.unpack_from(data, start)
        except struct.error:
            return "the record here reaches past the end of the file"
        if not self._is_possible(job):
            return "here should be a record, and is none" if job[ID] == 0 else f"no server writes this of job {job[ID]}"
        end: int = start + self.job.size
        if name_bytes == 0:
            return end, start, job
        if job[STATE] == DELETED:
            return f"the record that holds the body of job {job[ID]} calls it deleted"
        if not TUBE_NAME.fullmatch(data, name, start):
            return f"the tube of job {job[ID]} has an impossible name"
        end += job[BODY_SIZE]
        if end > len(data):
            return "the record here reaches past the end of the file"
        if data[end - 2 : end] != CRLF:
            return f"the body of job {job[ID]} does not end with CR LF"
        return end, start, job

    def find(self, data: bytes, at: int, end: int) -> int:
        """The offset of the next record that passes, from ``at`` up to ``end``; ``end`` if there is none."""
        for match in self.possible_start.finditer(data, at, end):
            if not isinstance(self.parse(data, match.start()), str):
                return match.start()
        return end

    def is_only_begun(self, data: bytes, at: int, written_end: int) -> bool:
        """Whether a server can have been stopped while it wrote the record at ``at``.

        What is there of it is as it must be, and is not all of it; behind it there are only zeros, from ``written_end``
        on, or nothing. Where that cannot be told from a changed byte the answer is no.
        """
        name = at + self.length.size
        if name > len(data):
            return True
        name_bytes: int = self.length.unpack_from(data, at)[0]
        start = name + name_bytes
        body = start + self.job.size
        if name_bytes > MAX_NAME_BYTES:
            return False
        if written_end <= start:
            return written_end <= name or TUBE_NAME.fullmatch(data, name, written_end) is not None
        if body > len(data) or (name_bytes and written_end <= body):
            return TUBE_NAME.fullmatch(data, name, start) is not None or name_bytes == 0
        if name_bytes == 0:
            return written_end <= start + CREATED_OFFSET  # a whole one goes on: no time of creation is zero
        job: Members = self.job.unpack_from(data, start)
        sound = self._is_possible(job) and job[STATE] != DELETED
        return sound and written_end < body + job[BODY_SIZE] and data[written_end - 2 : written_end] != CRLF

    def _is_possible(self, job: "Members") -> bool:
        """Whether a server can have written these members."""
        id, _, delay, ttr, body_size, created, deadline, _, _, _, _, _, state = job
        second = self.second
        longest = self.longest
        latest = self.latest
        return (
            0 < id < ID_LIMIT
            and 0 <= delay <= longest
            and delay % second == 0
            and second <= ttr <= longest
            and ttr % second == 0
            and body_size >= 2
            and 0 < created <= latest
            and 0 <= deadline <= latest
            and state <= DELAYED
            and (deadline > 0 or state != DELAYED)
        )


VERSION_7 = Layout("<I", "<QI4xqqi4xqq5IB3x", 1)
VERSION_5 = Layout("<Q", "<QI4xqqi4xqq5IB", 1000)
LAYOUTS = {7: VERSION_7, 5: VERSION_5}
# Machines of 32 bits: i386 packs tighter, others only have the shorter length. Theirs of version 7 is the one above.
LAYOUTS_32_BIT = {
    7: (Layout("<I", "<QIqqiqq5IB3x", 1),),
    5: (Layout("<I", "<QIqqiqq5IB", 1000), Layout("<I", "<QI4xqqi4xqq5IB", 1000)),
}


def unchanging(data: bytes, start: int) -> tuple[bytes, bytes]:
    """The members that every record of a job repeats, in the struct of version 7 at ``start``: ttr, size, creation."""
    return data[start + 24 : start + 36], data[start + 40 : start + 48]


def struct_of_version_7(job: "Members", layout: Layout) -> bytes:
    """A job's struct as version 7 writes it, from the members that another layout gave."""
    id, pri, delay, ttr, body_size, created, deadline, *rest = job
    tick = layout.tick_ns
    return VERSION_7.job.pack(id, pri, delay * tick, ttr * tick, body_size, created * tick, deadline * tick, *rest)


def record_of_version_7(data: bytes, at: int, found: "Found", layout: Layout) -> bytes:
    """A full record as version 7 writes it, from one that another layout found at ``at``."""
    end, start, job = found
    tube = data[at + layout.length.size : start]
    body = data[start + layout.job.size : end]
    return VERSION_7.length.pack(len(tube)) + tube + struct_of_version_7(job, layout) + body
