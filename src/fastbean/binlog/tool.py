"""The tool for binlogs: ``fastbean binlog COMMAND DIR``.

``check`` and ``dump`` only read; ``backup`` copies the binlog of a running server; ``repair`` and ``export`` need the
server stopped, and take the lock. Nothing is ever deleted.

Exit statuses: 0 sound or done, 1 a torn tail, 2 damage; 5 a wrong argument, 10 an unusable directory or output.

The progress bar is a few lines of our own: a bar is all that is needed, and the tool has to run on a machine in
trouble, where its operator may be unable to install another package first.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fastbean.base.limits import DEFAULT_BINLOG_SIZE_BYTES
from fastbean.binlog import inspection, replacement, segment_files, takeover
from fastbean.binlog.lock import DirectoryLock
from fastbean.errors import BinlogError, FastbeanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, NoReturn, TextIO

    from fastbean.binlog.beanstalkd import Oversized

FINE, TORN, DAMAGED = 0, 1, 2
INTERRUPTED = 130
BAR_CELLS = 40
COMMANDS = {
    "check": "report what is in DIR; exit status 0: sound, 1: a torn tail, 2: damaged",
    "dump": "write one JSON line for each record of DIR",
    "repair": "make a damaged DIR usable; the old files are moved into a subfolder, none is deleted",
    "export": "write the live jobs of DIR as a beanstalkd binlog",
    "backup": "copy DIR, whose server may be running, into a new or empty directory",
}
UNREADABLE_IDS = 1 << 20  # ids that unreadable records may have assigned
IDS_SHOWN = 20


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    _prepare_streams()
    try:
        arguments = _parser().parse_args(argv)
        with _many_descriptors():
            status: int = arguments.run(arguments)
        _write("", now=True)
    except FastbeanError as error:
        _print_error(str(error))
        return error.exit_status
    except OSError as error:
        _print_error(f"{error.filename or 'the binlog'}: {error.strerror}")
        return BinlogError.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def _prepare_streams() -> None:
    """Replace closed streams by the null device, and escape characters that standard output cannot encode.

    A caller that closed the streams wants only the exit status.
    """
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115 - open until the process ends
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115 - likewise
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # The name of a directory may not be valid text; stderr escapes such a name as well.
        sys.stdout.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def _many_descriptors() -> Iterator[None]:
    """As many descriptors as the system allows: each segment takes one while a binlog is read."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # fewer may do
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def check(arguments: argparse.Namespace) -> int:
    """Report what is in a binlog, and whether it is sound."""
    found = _inspect(arguments.directory)
    _print(
        f"{arguments.directory}: {_counted(len(found.segments), 'segment')}, {found.spares} spare, "
        f"{_counted(len(found.jobs), 'job')}, {_counted(found.records, 'record')}, {found.bytes_on_disk} bytes, "
        f"LSN {found.first_lsn} to {found.end_lsn}, synced to {found.durable_lsn} or more, ids below {found.id_limit}"
    )
    fault = found.fault
    if fault is None:
        _print("the binlog is sound")
        return FINE
    if fault.torn:
        _print(f"torn tail: {fault}; nothing that was synced is missing; the next start cuts it off and keeps a copy")
        return TORN
    repair_it = f"fastbean binlog repair {arguments.directory}"
    _print(f"damaged: {fault}; restore the file from a copy, or run: {repair_it}")
    return DAMAGED


def dump(arguments: argparse.Namespace) -> int:
    """Write each record as one line of JSON; an unreadable place is a line of the type "unreadable"."""
    status = FINE
    end_lsn = 0
    next_number = 0
    for segment in inspection.open_segments(arguments.directory):
        for number in range(next_number, segment.number if next_number else 0):
            status = DAMAGED
            _write_line({"segment": number, "type": "missing"})
        next_number = segment.number + 1
        if segment.spare:
            continue
        first_lsn = end_lsn if segment.header is None else segment.header.first_lsn
        if segment.header is None:
            status = DAMAGED
            _write_line({"segment": segment.number, "offset": 0, "type": "unreadable"})
        for at, members in segment.scan(first_lsn):
            end_lsn = first_lsn + at - segment_files.HEADER.size
            if members is None:
                status = DAMAGED
                _write_line({"segment": segment.number, "offset": at, "type": "unreadable"})
            elif members:
                _write_line({"segment": segment.number, "offset": at, "at_lsn": end_lsn, **_printable(members)})
    return status


def _printable(members: dict[str, Any]) -> dict[str, Any]:
    if "tube" in members:
        members["tube"] = members["tube"].decode("latin-1")
    if "body" not in members:
        return members
    body = members.pop("body")
    try:
        members["body"] = body.decode("utf-8")
    except UnicodeDecodeError:
        members["body_base64"] = base64.b64encode(body).decode()
    return members


def repair(arguments: argparse.Namespace) -> int:
    """Make a damaged binlog usable again, with everything that can be read; keep the old files."""
    directory: str = arguments.directory
    with _locked(directory):
        taken_over = takeover.prepare(
            directory,
            segment_bytes=DEFAULT_BINLOG_SIZE_BYTES,
            log=_print_event,
            progress=_print,
            despite_damage=True,
        )
        if taken_over is not None:
            return FINE
        found = _inspect(directory)
        if found.fault is None:
            _print(f"{directory}: nothing is damaged")
            return FINE
        if found.fault.torn:
            _print(f"{found.fault}: a torn tail; the next start cuts it off and keeps a copy; nothing was changed")
            return FINE
        _replace_damaged(directory)
    return FINE


def _replace_damaged(directory: str) -> None:
    found = _inspect(directory, salvage=True)
    old = segment_files.list_segments(directory)
    folder = replacement.replace(
        directory,
        found.jobs.values(),
        [path for _, path in old],
        aside="damaged",
        segment_bytes=DEFAULT_BINLOG_SIZE_BYTES,
        id_limit=found.id_limit + UNREADABLE_IDS,
        first_number=old[-1][0] + 1,
        first_lsn=found.end_lsn,
        tubes=found.tubes.values(),
    )
    for gap in found.gaps:
        _print(f"lost: {gap}: jobs that were put there may be gone, and jobs that were deleted there may be back")
    if found.unknown:
        some = sorted(found.unknown)[:IDS_SHOWN]
        more = ", ..." if len(found.unknown) > IDS_SHOWN else ""
        _print(f"lost: {len(found.unknown)} jobs of which only later changes could be read: {str(some)[1:-1]}{more}")
    kept = os.path.join(directory, folder)
    _print(f"{len(found.jobs)} jobs are in the repaired binlog; all files of the damaged one are in {kept}")


def export(arguments: argparse.Namespace) -> int:
    """Write the live jobs as a beanstalkd's binlog into another directory."""
    from fastbean.binlog import beanstalkd

    with _locked(arguments.directory):
        found = _inspect(arguments.directory)
        _refuse_damage(found.fault, arguments.directory)
        try:
            written = beanstalkd.write(arguments.beanstalkd, found.jobs.values(), highest_id=found.id_limit - 1)
        except ValueError as error:
            raise BinlogError(f"{error}; delete it and export again") from error
    jobs, files = _counted(written.jobs, "job"), _counted(len(written.files), "file")
    _print(f"{jobs} written into {arguments.beanstalkd}, in {files}")
    if found.tubes:
        _print(f"left out, which beanstalkd does not keep: {_counted(len(found.tubes), 'pause')}")
    if found.fault is not None:
        _print(f"left out, a torn tail: {found.fault}")
    return _report_oversized(written.oversized)


def _report_oversized(oversized: list[Oversized]) -> int:
    """Report the jobs that are too large for a beanstalkd without a larger -z; returns the exit status."""
    for job in oversized:
        if job.max_job_size is None:
            _print(f"job {job.id} is too large for every beanstalkd, and will be missing there")
        else:
            _print(f"job {job.id} is only read by a beanstalkd with -z {job.max_job_size} or more")
    needed = max((job.max_job_size or 0 for job in oversized), default=0)
    if needed:
        _print(f"start beanstalkd with -z {needed}")
    return DAMAGED if any(job.max_job_size is None for job in oversized) else FINE


def backup(arguments: argparse.Namespace) -> int:
    """Copy a binlog, whose server may be running, into a new or empty directory."""
    target = Path(arguments.to)
    found = _inspect(arguments.directory, keep_jobs=False)
    _refuse_damage(found.fault, arguments.directory)
    target.mkdir(mode=0o700, exist_ok=True)
    if any(target.iterdir()):
        raise BinlogError(f"{target}: not empty; a backup needs a directory of its own")
    size = 0
    # There are fewer ends than segments if the tail is torn.
    for segment, end in zip(found.segments, found.ends, strict=False):
        replacement.write_file(os.path.join(target, os.path.basename(segment.path)), memoryview(segment.read())[:end])
        size += end
    segment_files.sync_directory(str(target))
    segment_files.sync_directory(str(target.absolute().parent))
    _print(f"{_counted(len(found.ends), 'segment')} with {size} bytes copied, up to LSN {found.end_lsn}")
    if found.fault is not None:
        _print(f"left out, a torn tail: {found.fault}")
    return FINE


def _refuse_damage(fault: inspection.Fault | None, directory: str) -> None:
    if fault is not None and not fault.torn:
        raise DamagedError(f"{fault}; first restore it, or run: fastbean binlog repair {directory}")


class OutputError(FastbeanError):
    """Standard output cannot be written."""

    exit_status = BinlogError.exit_status


class DamagedError(BinlogError):
    """The binlog is damaged, and the command needs a sound one."""

    exit_status = DAMAGED


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep servers from using the directory meanwhile."""
    lock = DirectoryLock(directory)
    try:
        yield
    finally:
        lock.release()


def _inspect(directory: str, *, keep_jobs: bool = True, salvage: bool = False) -> inspection.Inspection:
    return inspection.Inspection(directory, keep_jobs=keep_jobs, salvage=salvage, on_bytes=_Bar())


class _Bar:
    """A progress bar on stderr, if that is a terminal; called with the amount done, and the total."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, done: int, whole: int) -> None:
        if self._shown:
            cells = BAR_CELLS * done // whole
            end = "\n" if done == whole else ""
            sys.stderr.write(f"\r[{'#' * cells}{'.' * (BAR_CELLS - cells)}] {100 * done // whole}%{end}")
            sys.stderr.flush()


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _print(text: str) -> None:
    _write(text + "\n")


def _write(text: str, *, now: bool = False) -> None:
    """Write to standard output; ``now``: flush it too."""
    try:
        sys.stdout.write(text)
        if now:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        raise OutputError(f"cannot write the result: {error.strerror}") from error


def _discard(stream: TextIO) -> None:
    """Discard what the stream has buffered: Python would write it again at exit, and print an error of its own."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def _print_event(_level: str, event: str, **fields: object) -> None:
    _print(event.replace("-", " ") + "".join(f" {name}={value}" for name, value in fields.items()))


def _write_line(members: dict[str, Any]) -> None:
    _write(json.dumps(members, separators=(",", ":")) + "\n")


def _print_error(text: str) -> None:
    try:
        sys.stderr.write(f"fastbean binlog: {text}\n")
        sys.stderr.flush()
    except OSError:
        # The exit status still reports the failure.
        _discard(sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Exits with the status of a wrong argument: argparse's own status means damage here."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def _directory(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("the name is empty; write . for the current directory")
    return text


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastbean binlog", description="Look after the binlog that fastbean -b DIR keeps.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for run in (check, dump, repair, export, backup):
        words = COMMANDS[run.__name__]
        command = commands.add_parser(run.__name__, help=words, description=words)
        command.add_argument("directory", type=_directory, metavar="DIR", help="the directory given to -b")
        command.set_defaults(run=run)
        if run is export:
            command.add_argument("--beanstalkd", type=_directory, required=True, metavar="DIR2", help="new or empty")
        elif run is backup:
            command.add_argument("to", type=_directory, metavar="DIR2", help="new or empty")
    return parser
