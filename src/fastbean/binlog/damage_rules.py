"""Whether a log is sound, torn or damaged: the rules that a start (``replay``) and the tools (``survey``) share.

A torn tail is what a power cut may take away. Everything else that is missing had been synced once, and is damage. What
proves it:

- Numbers follow one another: new segments are made at the end, old ones go from the beginning. A number that is missing
  between two others is a segment that got lost.
- Before a segment goes, the log says so, and is synced up to there: as long as it does not say so, its first segment
  is the one with the number 1.
- A mark of the last sync (a record of the type durable) that lies beyond the place where reading ends.
- A header that is broken though records follow it, or that belongs elsewhere: a power cut leaves zeros.
"""

import itertools

from fastbean.binlog import segment_files
from fastbean.binlog.record_reader import is_zero_from
from fastbean.binlog.segment_files import HEADER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastbean.binlog.segment_files import Header


def gap(numbers: "Sequence[int]") -> int:
    """The number of the first segment that is missing between others; 0 if none is."""
    return next((number + 1 for number, after in itertools.pairwise(numbers) if after != number + 1), 0)


def lacks_first(first: int, needed: int) -> bool:
    """Whether segments before the ``first`` one are lost, when the log says that it needs none below ``needed``."""
    return first > max(needed, 1)


def trouble_at_head(header: "Header | None", number: int, end_lsn: int | None, *, after_spare: bool) -> str | None:
    """Why a segment cannot follow in a log that ends at ``end_lsn`` (None: that has not begun); None if it can.

    ``after_spare``: a segment before it holds nothing.
    """
    if header is None:
        return "no header can be read here"
    if header.number != number:
        return f"by its header this is segment {header.number}"
    if after_spare or (end_lsn is not None and header.first_lsn != end_lsn):
        return "this does not follow what stands before it: something is missing"
    return None


def is_misplaced(data: bytes, number: int, end_lsn: int) -> bool:
    """Whether the head of a segment that is in trouble shows that it was damaged, and not just torn."""
    head = data[: HEADER.size]
    header = segment_files.parse_header(head)
    if header is None:
        return any(head) and not is_zero_from(data, HEADER.size)
    return header.number != number or header.first_lsn < end_lsn
