"""Whether a binlog is sound, torn or damaged: the rules that a start (``replay``) and the tools (``inspection``) share.

A torn tail is what a power cut may take away. Everything else that is missing had been synced, so its absence is
damage. The evidence:

- Segment numbers are consecutive: new segments are added at the end, old ones are removed at the beginning. A number
  that is missing between two others is a lost segment.
- Before segments are removed, a shed record says so, and the binlog is synced up to that record. Until there is one,
  the binlog begins with LSN 0.
- A mark (a record of the type durable, which says up to where the binlog was synced) beyond the place where reading
  ends.
- A record with a right checksum whose members cannot be: no power cut makes the checksum right.
- A header that is broken though records follow it, or that belongs to another segment or another run: a power cut
  leaves zeros.
"""

from __future__ import annotations

import itertools

from fastbean.binlog import segment_files
from fastbean.binlog.record_reader import is_zero_from
from fastbean.binlog.segment_files import HEADER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastbean.binlog.segment_files import Header


def gap(numbers: Sequence[int]) -> int:
    """The number of the first segment that is missing between others; 0 if none is."""
    return next((number + 1 for number, after in itertools.pairwise(numbers) if after != number + 1), 0)


def lacks_first(number: int, first_lsn: int | None, needed_lsn: int) -> bool:
    """Whether segments before the first one are lost.

    ``number``, ``first_lsn``: of the first one; the LSN is None if the segment has no readable header. ``needed_lsn``:
    the binlog says that it needs no record below this one.
    """
    return number > 1 if first_lsn is None else first_lsn > needed_lsn


def trouble_at_head(
    header: Header | None, number: int, end_lsn: int | None, run: bytes | None, *, after_spare: bool
) -> str | None:
    """Why a segment cannot follow in a binlog of this run that ends at ``end_lsn``; None if it can.

    ``end_lsn`` and ``run`` are None where they are not known yet. ``after_spare``: the segment before it is empty.
    """
    if header is None:
        return "there is no readable header"
    if header.number != number:
        return f"the header says that this is segment {header.number}"
    if run is not None and header.run != run:
        return "the header says that this belongs to another binlog"
    if after_spare or (end_lsn is not None and header.first_lsn != end_lsn):
        return "this does not continue the segment before it: something is missing"
    return None


def is_misplaced(data: bytes, number: int, end_lsn: int, run: bytes | None) -> bool:
    """Whether the head of a segment in trouble proves damage, and not just a torn tail; see `trouble_at_head`."""
    head = data[: HEADER.size]
    header = segment_files.parse_header(head)
    if header is None:
        return any(head) and not is_zero_from(data, HEADER.size)
    return header.number != number or header.first_lsn < end_lsn or (run is not None and header.run != run)
