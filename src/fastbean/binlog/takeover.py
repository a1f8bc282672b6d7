"""A beanstalkd's log becomes fastbean's, at the first start on its directory.

All live jobs come over with everything that beanstalkd's log says of them: ids, bodies, states, deadlines, counters,
the order of the buried ones. Ids go on above the highest that the old log tells of. The old files are moved into a
subfolder, ``beanstalkd-<time>``, and never removed. Whatever interrupts it, it loses and doubles nothing; see
``replacement``. How large a job ``-z`` allows does not matter here.

A record that a beanstalkd was writing when it was stopped is reported and left out: no client was told of it. Any other
damage refuses the start before anything is changed.

It costs about ten microseconds a job, and memory for all of them once more; nothing when there is no such log.
"""

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
    directory: "str | os.PathLike[str]",
    *,
    segment_bytes: int,
    log: "Callable[..., None]",
    progress: "Callable[[str], None]",
    despite_damage: bool = False,
) -> int | None:
    """Make the directory hold fastbean's log alone; the caller holds its lock.

    Ends what was interrupted before, and takes a beanstalkd's log over if there is one.

    - ``segment_bytes``: of the segments that are written.
    - ``log``: called with a level, an event and fields; ``progress`` now and then with a text, if it takes long.
    - ``despite_damage``: take over what can be read, instead of refusing a damaged log.

    Returns the number of jobs that were taken over, None if there was no such log. Raises BinlogError, and has changed
    nothing then, if the old log is damaged, or there are logs of both.
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
    tell = _Progress(progress)
    found = beanstalkd.read(directory, on_progress=tell.reading)
    _judge_damage(found.damage, directory, log, despite_damage)
    log("INFO", "beanstalkd-binlog-found", jobs=len(found), files=len(old))
    return _take_over(directory, found, segment_bytes, log, tell)


def _take_over(
    directory: str, found: "BeanstalkdBinlog", segment_bytes: int, log: "Callable[..., None]", tell: "_Progress"
) -> int:
    folder = replacement.replace(
        directory,
        found.jobs,
        found.files,
        aside="beanstalkd",
        segment_bytes=segment_bytes,
        id_limit=found.highest_id + 1,
        on_jobs=lambda done: tell.writing(done, len(found)),
    )
    log("INFO", "beanstalkd-binlog-taken-over", jobs=len(found), old_files=folder)
    return len(found)


def _refuse_two_binlogs(directory: str, old: "list[Path]") -> None:
    ours = segment_files.list_segments(directory)
    if ours:
        raise BinlogError(
            f"-b {directory}: holds two logs, a beanstalkd's ({old[0].name} and on) and fastbean's "
            f"({segment_files.name_of(ours[0][0])} and on); move the files of the one that is out of date into another "
            "directory"
        )


def _judge_damage(damage: "list[Damage]", directory: str, log: "Callable[..., None]", despite_damage: bool) -> None:
    """Report what can be left out, and refuse what cannot."""
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
    """Passes on what was done every two seconds."""

    def __init__(self, tell: "Callable[[str], None]") -> None:
        self._tell = tell
        self._told_s = time.monotonic()

    def reading(self, done_bytes: int, all_bytes: int) -> None:
        """So much is read."""
        self._say(f"reading a beanstalkd's log: {done_bytes} of {all_bytes} bytes")

    def writing(self, done: int, count: int) -> None:
        """So many jobs are written."""
        self._say(f"taking over a beanstalkd's log: {done} of {count} jobs")

    def _say(self, text: str) -> None:
        if time.monotonic() - self._told_s >= PROGRESS_S:
            self._told_s = time.monotonic()
            self._tell(text)
