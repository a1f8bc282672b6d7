"""The layout of beanstalkd's records in a file: versions 7 and 5, each the C structs of the machine that wrote them.

A record is the length of the tube's name, the name, the struct of the job and its body; when the length is zero, the
record is only the struct. There is no checksum, no record length and no start marker, so `Layout.parse` checks each
record against what a server can have written, and `Layout.find` tries every byte for the start of the next one.

Parsing costs one to two microseconds per record, searching for the next one about a tenth of that per byte. Nothing
here keeps state or opens files.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TypeAlias

    Members: TypeAlias = tuple[int, ...]
    Found: TypeAlias = tuple[int, int, Members]  # where a record ends, where its struct begins, its members

VERSION_BYTES = 4
MAX_NAME_BYTES = 200
MAX_U32 = 0xFFFFFFFF
MAX_TIME_NS = (1 << 63) - 1
ID_LIMIT = 1 << 63
SECOND_NS = 1_000_000_000
CRLF = b"\r\n"

DELETED, READY, RESERVED, BURIED, DELAYED = range(5)

# Indexes into what `Layout.job` unpacks.
ID, BODY_SIZE, STATE = 0, 4, 12
CREATED_OFFSET = 40  # in the struct of every layout for 64 bits

TUBE_NAME = re.compile(rb"[A-Za-z0-9+/;.$_()][A-Za-z0-9+/;.$_()-]*")


class Layout:
    """The layout of one version's records on one kind of machine, since they are dumped C structs.

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

    def parse(self, data: bytes, at: int) -> Found | str:
        """Parse the record at offset ``at``: where it ends, where its job's struct begins, and that struct's members.

        If no server can have written it, returns the reason instead.
        """
        try:
            (name_bytes,) = self.length.unpack_from(data, at)
            if name_bytes > MAX_NAME_BYTES:
                return f"{name_bytes} is not a valid length of a tube's name"
            name = at + self.length.size
            start = name + name_bytes
            job = self.job.unpack_from(data, start)
        except struct.error:
            return "this record reaches past the end of the file"
        if not self._is_possible(job):
            return "there is no record here" if job[ID] == 0 else f"no server writes this about job {job[ID]}"
        end: int = start + self.job.size
        if name_bytes == 0:
            return end, start, job
        if job[STATE] == DELETED:
            return f"the record with the body of job {job[ID]} says that it is deleted"
        if not TUBE_NAME.fullmatch(data, name, start):
            return f"the tube of job {job[ID]} has an impossible name"
        end += job[BODY_SIZE]
        if end > len(data):
            return "this record reaches past the end of the file"
        if data[end - 2 : end] != CRLF:
            return f"the body of job {job[ID]} does not end with CR LF"
        return end, start, job

    def find(self, data: bytes, at: int, end: int) -> int:
        """The offset of the next valid record between ``at`` and ``end``; ``end`` if there is none."""
        for match in self.possible_start.finditer(data, at, end):
            if not isinstance(self.parse(data, match.start()), str):
                return match.start()
        return end

    def is_only_begun(self, data: bytes, at: int, written_end: int) -> bool:
        """Whether a server can have been stopped while it wrote the record at ``at``.

        That is so if what is there of the record is valid but incomplete, and from ``written_end`` there are only
        zeros, or nothing. Where this cannot be distinguished from a changed byte, the answer is no.
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
            return written_end <= start + CREATED_OFFSET  # a complete record is longer: no creation time is zero
        job: Members = self.job.unpack_from(data, start)
        sound = self._is_possible(job) and job[STATE] != DELETED
        return sound and written_end < body + job[BODY_SIZE] and data[written_end - 2 : written_end] != CRLF

    def _is_possible(self, job: Members) -> bool:
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
# 32-bit machines: i386 packs tighter, others only have the shorter length. Their version 7 is the one above.
LAYOUTS_32_BIT = {
    7: (Layout("<I", "<QIqqiqq5IB3x", 1),),
    5: (Layout("<I", "<QIqqiqq5IB", 1000), Layout("<I", "<QI4xqqi4xqq5IB", 1000)),
}


def unchanging(data: bytes, start: int) -> tuple[bytes, bytes]:
    """The members that are the same in every record of a job: ttr, size, creation. ``start``: of a version 7 struct."""
    return data[start + 24 : start + 36], data[start + 40 : start + 48]


def struct_of_version_7(job: Members, layout: Layout) -> bytes:
    """A job's struct as version 7 writes it, from members in another layout."""
    id, pri, delay, ttr, body_size, created, deadline, *rest = job
    tick = layout.tick_ns
    return VERSION_7.job.pack(id, pri, delay * tick, ttr * tick, body_size, created * tick, deadline * tick, *rest)


def record_of_version_7(data: bytes, at: int, found: Found, layout: Layout) -> bytes:
    """A full record as version 7 writes it, from the record that another layout found at ``at``."""
    end, start, job = found
    tube = data[at + layout.length.size : start]
    body = data[start + layout.job.size : end]
    return VERSION_7.length.pack(len(tube)) + tube + struct_of_version_7(job, layout) + body
