"""Whether a binlog is sound, torn or damaged: the rules that a start (``replay``) and the tools (``inspection``) share.

A torn tail is what a power cut may take away. Everything else that is missing had been synced, so its absence is
damage. The evidence:

- Segment numbers are consecutive: new segments are added at the end, old ones are removed at the beginning. A number
  that is missing between two others is a lost segment.
- Before segments are removed, a shed record says so, and the binlog is synced up to that record. Until there is one,
  the first segment is number 1.
- A mark (a record of the type durable, which says up to where the binlog was synced) beyond the place where reading
  ends.
- A header that is broken though records follow it, or that belongs to another segment: a power cut leaves zeros.
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


def lacks_first(first: int, needed: int) -> bool:
    """Whether segments before ``first`` are lost, when the binlog says that it needs none below ``needed``."""
    return first > max(needed, 1)


def trouble_at_head(header: Header | None, number: int, end_lsn: int | None, *, after_spare: bool) -> str | None:
    """Why a segment cannot follow in a binlog that ends at ``end_lsn`` (None: not known yet); None if it can.

    ``after_spare``: the segment before it is empty.
    """
    if header is None:
        return "there is no readable header"
    if header.number != number:
        return f"the header says that this is segment {header.number}"
    if after_spare or (end_lsn is not None and header.first_lsn != end_lsn):
        return "this does not continue the segment before it: something is missing"
    return None


def is_misplaced(data: bytes, number: int, end_lsn: int) -> bool:
    """Whether the head of a segment in trouble proves damage, and not just a torn tail."""
    head = data[: HEADER.size]
    header = segment_files.parse_header(head)
    if header is None:
        return any(head) and not is_zero_from(data, HEADER.size)
    return header.number != number or header.first_lsn < end_lsn
