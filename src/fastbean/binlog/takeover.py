"""Converts a beanstalkd's binlog into fastbean's, at the first start on its directory.

All live jobs are imported with everything that beanstalkd's binlog says about them: ids, bodies, states, deadlines,
counters, the order of the buried ones. New ids are above the highest one in the old binlog. The old files are moved
into a subfolder, ``beanstalkd-<time>``, and never deleted. Whatever interrupts a takeover, no job is lost or
duplicated; see ``replacement``. The job size that ``-z`` allows does not matter here.

A record that beanstalkd was writing when it was stopped is logged and left out: no client had received a reply that
depends on it. Any other damage refuses the start before anything is changed.

A takeover costs about ten microseconds per job, and a second copy of all jobs in memory; nothing when there is no such
binlog.
"""

from __future__ import annotations

import os
import time

from fastbean.binlog import replacement, segment_files
from fastbean.errors import BinlogError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastbean.binlog.beanstalkd import BeanstalkdBinlog, Damage

PROGRESS_S = 2.0


def prepare(
    directory: str | os.PathLike[str],
    *,
    segment_bytes: int,
    log: Callable[..., None],
    progress: Callable[[str], None],
    despite_damage: bool = False,
) -> int | None:
    """Make the directory contain fastbean's binlog alone; the caller holds its lock.

    Completes an interrupted replacement, and imports a beanstalkd's binlog if there is one.

    - ``segment_bytes``: of the segments that are written.
    - ``log``: called with a level, an event and fields; ``progress`` now and then with a text, if it takes long.
    - ``despite_damage``: import what can be read, instead of refusing a damaged binlog.

    Returns the number of imported jobs, None if there was no such binlog. Raises BinlogError, and changes nothing, if
    the old binlog is damaged, or the directory has a beanstalkd's and fastbean's.
    """
    directory = os.fspath(directory)
    if replacement.finish(directory):
        log("INFO", "binlog-replacement-finished", directory=directory)
    replacement.remove_parts(directory)
    if not any(name.startswith("binlog.") for name in os.listdir(directory)):
        return None
    # Loaded only when there is something to read.
    from fastbean.binlog import beanstalkd

    old = beanstalkd.has_binlog(directory)
    if not old:
        return None
    _refuse_two_binlogs(directory, old)
    for path in old:
        segment_files.refuse_what_is_no_file(os.fspath(path))
    report = _Progress(progress)
    found = beanstalkd.read(directory, on_progress=report.reading)
    _judge_damage(found.damage, directory, log, despite_damage)
    log("INFO", "beanstalkd-binlog-found", jobs=len(found), files=len(old))
    return _take_over(directory, found, segment_bytes, log, report)


def _take_over(
    directory: str, found: BeanstalkdBinlog, segment_bytes: int, log: Callable[..., None], report: _Progress
) -> int:
    folder = replacement.replace(
        directory,
        found.jobs,
        found.files,
        aside="beanstalkd",
        segment_bytes=segment_bytes,
        id_limit=found.highest_id + 1,
        on_jobs=lambda done: report.writing(done, len(found)),
    )
    log("INFO", "beanstalkd-binlog-taken-over", jobs=len(found), old_files=folder)
    return len(found)


def _refuse_two_binlogs(directory: str, old: list[Path]) -> None:
    ours = segment_files.list_segments(directory)
    if ours:
        raise BinlogError(
            f"-b {directory}: contains two binlogs, a beanstalkd's (from {old[0].name}) and fastbean's "
            f"(from {segment_files.name_of(ours[0][0])}); move the files of the outdated one into another directory"
        )


def _judge_damage(damage: list[Damage], directory: str, log: Callable[..., None], despite_damage: bool) -> None:
    """Log what can be left out, and refuse what cannot."""
    serious = [each for each in damage if not each.torn]
    if serious and not despite_damage:
        more = f" (and {len(serious) - 1} more)" if len(serious) > 1 else ""
        raise BinlogError(
            f"{serious[0]}{more}. Nothing was changed. Restore the file from a copy, or take over what can be read: "
            f"fastbean binlog repair {directory}"
        )
    for each in damage:
        what = "was being written when beanstalkd was stopped" if each.torn else each.what
        log("WARNING", "beanstalkd-record-left-out", file=each.path.name, offset=each.offset, what=what)


class _Progress:
    """Reports progress, at most once in PROGRESS_S."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._reported_s = time.monotonic()

    def reading(self, done_bytes: int, all_bytes: int) -> None:
        """Called with the bytes read so far, and those of all files."""
        self._report_now_and_then(f"reading a beanstalkd's binlog: {done_bytes} of {all_bytes} bytes")

    def writing(self, done: int, count: int) -> None:
        """Called with the jobs written so far, and the number of all jobs."""
        self._report_now_and_then(f"taking over a beanstalkd's binlog: {done} of {count} jobs")

    def _report_now_and_then(self, text: str) -> None:
        if time.monotonic() - self._reported_s >= PROGRESS_S:
            self._reported_s = time.monotonic()
            self._report(text)
