"""ENOSPC and EIO at every call of a short run: nothing acknowledged is lost, and the server does what it promises.

A write or a sync of the log that fails ends the process with one clear line and a status of its own, before anybody is
told what is not safe. Where no new segment can be had, puts answer OUT_OF_MEMORY and everything else goes on.
The quick tests take some of the calls, the slow ones all.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .all_commands_session import Session
from .expected_state import ExpectedState, UnexpectedStateError
from .faults import FOR_EVER, Event, Faults, Kind
from .powercut import Disk, Story, complaints, write_image
from .process import Server, StartError, files_bytes, segment_numbers, wait_until
from .replay import replay, started
from .writers import Load, Note

WRITERS = 2
COMMANDS = 500
SEGMENT_BYTES = 8192
LOG_FAILED = 74
STATUSES_IN_USE = (0, 1, 5, 10, 33, 34, 111)
HALF = 0  # in place of an errno: the write is cut in half, which is no failure
NEW_SEGMENT = (Kind.CREATE, Kind.ALLOCATE)
DISK_FULL, IO_ERROR = errno.ENOSPC, errno.EIO


@dataclass
class Run:
    """A run with a fault: how the server ended (None: it did not), what it said, and what was done."""

    expected: ExpectedState
    load: Load
    status: int | None = None
    served: bool = True
    said: str = ""
    failed: int = 0
    later: list[Note] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def hit_the_log(self) -> bool:
        """Whether the call that failed was for a file that already held records."""
        names: dict[int, str] = {}
        written = set()
        for event in self.events:
            if event.kind in (Kind.CREATE, Kind.OPEN):
                names[event.fd] = event.path
            elif event.kind in (Kind.WRITE, Kind.SYNC) and event.result < 0:
                return not event.is_of_zeros if event.kind == Kind.WRITE else names[event.fd] in written
            elif event.kind == Kind.WRITE and not event.is_of_zeros:
                written.add(names[event.fd])
        return False


def run_with_fault(shim: Path, folder: Path, kind: Kind, error: int, first: int, count: int = 1) -> Run:
    """Works on a new log until the run is done or the server has ended; a server that still runs is killed."""
    folder.mkdir()
    directory = folder / "log"
    directory.mkdir()
    faults = Faults(shim, folder, directory)
    faults.set(kind, error=error, first=first, count=count)
    expected = ExpectedState(WRITERS)
    run = Run(
        expected, Load(expected, random.Random(first), largest=900, jobs=12, shared=False, place=lambda: faults.records)
    )
    try:
        with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server:
            work(run, server)
            run.events = faults.events()
            if run.status is None and run.hit_the_log():
                run.status = server.wait()
            if run.status is None and count == FOR_EVER:
                run.failed = faults.failed
                faults.clear()
                with server.connect() as client:
                    session = Session(expected, client, lambda: faults.records)
                    put_until_it_is_taken(session)
                    run.later = session.notes
            run.said = server.said()
    except StartError as refused:
        run.served, run.status, run.said = False, refused.status, refused.said
    run.failed = run.failed or faults.failed
    run.events = faults.events()
    return run


def work(run: Run, server: Server) -> None:
    """All commands, or as many as the server takes before it ends."""
    try:
        run.load.run(server, lambda: is_enough(run.expected, server))
    except ConnectionRefusedError:
        run.status = server.wait()
    if any(each.pending for each in run.expected.writers):
        run.status = server.wait()


def is_enough(expected: ExpectedState, server: Server) -> bool:
    """Some hundreds of commands, and more until a segment was not needed any more."""
    done = expected.acknowledged
    return done >= COMMANDS and (done >= 4 * COMMANDS or segment_numbers(server.directory)[0] > 1)


def put_until_it_is_taken(session: Session) -> None:
    """There is room again: puts work again, soon."""
    numbers = itertools.count()
    wait_until(lambda: session.put(f"again{next(numbers)}").word == "INSERTED", "a put to work again")


def judge(run: Run, folder: Path) -> None:
    """Starts again without faults: all that was acknowledged is there, and was already safe when it was told."""
    notes = run.load.notes() + run.later
    with started(folder / "log", SEGMENT_BYTES) as (client, _):
        run.expected.check(client)
    disk = Disk(folder / "log")
    for event in run.events:
        disk.step(event)
    story = Story(notes, run.events, WRITERS)
    safe = folder / "safe"
    safe.mkdir()
    write_image(disk.synced(), safe)
    replayed = replay(safe, story.ids, SEGMENT_BYTES)
    wrong = complaints(story.expected_at(len(run.events)), replayed.seen, replayed.there)
    if wrong:
        raise UnexpectedStateError("told before it was safe:\n  " + "\n  ".join(wrong[:10]))


def judge_end(run: Run, error: int) -> None:
    """The process ended by itself, and said why in one line."""
    assert run.status is not None
    assert run.status > 0, f"it ended with {run.status}:\n{run.said}"
    assert "Traceback" not in run.said, run.said
    if run.served:
        assert run.status not in STATUSES_IN_USE, f"it ended with {run.status}:\n{run.said}"
    last_words = (line for line in run.said.splitlines() if line.startswith("fastbean: "))
    reasons = [line for line in last_words if os.strerror(error) in line]
    assert len(reasons) == 1, f"not one line that says why:\n{run.said}"


def at_calls(shim: Path, folder: Path, kind: Kind, error: int, step: int, count: int = 1) -> Iterator[Run]:
    """Runs with a fault at every `step`-th call of a kind, until a run has no more of them; each is judged."""
    for first in itertools.count(1, step):
        here = folder / f"{kind.name}-{error}-{first}"
        run = run_with_fault(shim, here, kind, error, first, count)
        try:
            judge(run, here)
            yield run
        except AssertionError as wrong:
            what = "HALF" if error == HALF else errno.errorcode[error]
            raise AssertionError(f"{what} at {kind.name} number {first}: {wrong}\n{run.said}") from wrong
        if not run.failed:
            assert first > 1, f"the run has no call of the kind {kind.name}"
            return


def check_write_or_sync(shim: Path, folder: Path, kind: Kind, error: int, step: int) -> None:
    ended = 0
    for run in at_calls(shim, folder, kind, error, step):
        if run.status is not None:
            judge_end(run, error)
            ended += 1
        else:
            assert not run.hit_the_log(), "the log could not be written, and the server went on"
    assert ended > 2


@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
def test_a_write_that_fails_ends_the_process(shim: Path, memory_path: Path, error: int) -> None:
    check_write_or_sync(shim, memory_path, Kind.WRITE, error, step=23)


@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
def test_a_sync_that_fails_ends_the_process(shim: Path, memory_path: Path, error: int) -> None:
    check_write_or_sync(shim, memory_path, Kind.SYNC, error, step=29)


@pytest.mark.slow
@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", [Kind.WRITE, Kind.SYNC], ids=["write", "sync"])
def test_every_write_and_sync_that_fails_ends_the_process(
    shim: Path, memory_path: Path, kind: Kind, error: int
) -> None:
    check_write_or_sync(shim, memory_path, kind, error, step=1)


def test_a_sync_that_fails_when_nobody_waits_for_it_ends_the_process(shim: Path, memory_path: Path) -> None:
    directory = memory_path / "log"
    directory.mkdir()
    faults = Faults(shim, memory_path, directory, traced=False)
    expected = ExpectedState(1)
    run = Run(expected, Load(expected, random.Random(1)))
    with Server(directory, ("-f", "50"), env=faults.env) as server, server.connect() as client:
        session = Session(expected, client)
        session.put("before")
        wait_until(lambda: faults.calls(Kind.SYNC) > 1, "a sync")
        faults.set(Kind.SYNC)
        session.put("after")
        run.status = server.wait()
        run.said = server.said()
    judge_end(run, IO_ERROR)
    with started(directory, SEGMENT_BYTES) as (client, _):
        expected.check(client)


def test_a_sync_before_a_removal_that_fails_ends_the_process(shim: Path, memory_path: Path) -> None:
    """Under -F nothing else is synced: but a segment goes only when what stays is safe."""
    directory = memory_path / "log"
    directory.mkdir()
    faults = Faults(shim, memory_path, directory, traced=False)
    expected = ExpectedState(1)
    run = Run(expected, Load(expected, random.Random(1)))
    with Server(directory, ("-F",), segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        session = Session(expected, client)
        session.put("first")
        faults.set(Kind.SYNC)
        with contextlib.suppress(EOFError, ConnectionError):
            for number in range(10_000):
                # Nor can there be a new spare: soon no put is taken.
                if session.put(f"job{number}", 800).word == "INSERTED":
                    session.delete(f"job{number}")
                else:
                    session.reserve_job("first")
                    session.release("first", number)
        run.status = server.wait()
        run.said = server.said()
    judge_end(run, IO_ERROR)
    assert run.status == LOG_FAILED
    assert "cannot sync fastbean-" in run.said
    with started(directory, SEGMENT_BYTES) as (client, _):
        expected.check(client)


def fresh_directory(here: Path, shim: Path) -> tuple[Path, Faults]:
    """An empty directory for a binlog below ``here``, which is created, and the faults of its server."""
    directory = here / "log"
    directory.mkdir(parents=True)
    return directory, Faults(shim, here, directory, traced=False)


@pytest.mark.parametrize("limit", [(), ("--binlog-max-bytes", str(8 * SEGMENT_BYTES))], ids=["removed", "recycled"])
def test_a_directory_sync_that_fails_ends_the_process(shim: Path, memory_path: Path, limit: tuple[str, ...]) -> None:
    """It fails once: a retry would succeed, and the names might be lost all the same."""
    for first in range(1, 8):
        directory, faults = fresh_directory(memory_path / f"{first}", shim)
        expected = ExpectedState(WRITERS)
        load = Load(expected, random.Random(first), largest=900, jobs=60, shared=False)
        run = Run(expected, load)
        with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env, extra=limit) as server:
            faults.set(Kind.SYNC_FOLDER, first=first, count=1)
            with contextlib.suppress(ConnectionRefusedError):
                load.run(server, lambda faults=faults: faults.failed > 0)
            run.status = server.wait()
            run.said = server.said()
        judge_end(run, IO_ERROR)
        assert run.status == LOG_FAILED
        assert f"cannot sync the directory {directory}" in run.said
        with started(directory, SEGMENT_BYTES) as (client, _):
            expected.check(client)


def check_going_on(shim: Path, folder: Path, kind: Kind, error: int, step: int, count: int = 1) -> None:
    for run in at_calls(shim, folder, kind, error, step, count):
        if run.served:
            assert run.status is None, f"it ended with {run.status}"
        else:
            judge_end(run, error)


def test_a_write_that_is_cut_short_is_finished(shim: Path, memory_path: Path) -> None:
    check_going_on(shim, memory_path, Kind.WRITE, HALF, step=23)


@pytest.mark.slow
def test_every_write_that_is_cut_short_is_finished(shim: Path, memory_path: Path) -> None:
    check_going_on(shim, memory_path, Kind.WRITE, HALF, step=1)


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["once", "from-then-on"])
@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", [Kind.CREATE, Kind.ALLOCATE], ids=["create", "allocate"])
def test_without_a_new_segment_only_what_needs_room_is_refused(
    shim: Path, memory_path: Path, kind: Kind, error: int, count: int
) -> None:
    check_going_on(shim, memory_path, kind, error, step=3, count=count)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["once", "from-then-on"])
@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", [Kind.CREATE, Kind.ALLOCATE], ids=["create", "allocate"])
def test_without_any_new_segment_only_what_needs_room_is_refused(
    shim: Path, memory_path: Path, kind: Kind, error: int, count: int
) -> None:
    check_going_on(shim, memory_path, kind, error, step=1, count=count)


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["once", "from-then-on"])
@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
def test_a_segment_that_cannot_be_removed_harms_nothing(shim: Path, memory_path: Path, error: int, count: int) -> None:
    check_going_on(shim, memory_path, Kind.UNLINK, error, step=2, count=count)


@pytest.mark.parametrize("kind", [Kind.RENAME, Kind.UNLINK], ids=lambda kind: kind.name.lower())
def test_a_segment_that_cannot_be_taken_up_again_harms_nothing(shim: Path, memory_path: Path, kind: Kind) -> None:
    """The log is at its limit, so that old segments become new ones; each call of that fails once."""
    for first in range(1, 20):
        directory, faults = fresh_directory(memory_path / f"{first}", shim)
        expected = ExpectedState(WRITERS)
        load = Load(expected, random.Random(first), largest=900, jobs=60, shared=False)
        limit = ("--binlog-max-bytes", str(8 * SEGMENT_BYTES))
        with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env, extra=limit) as server:
            faults.set(kind, first=first, count=1)
            load.run(server, lambda expected=expected: expected.acknowledged > 2000)
            assert files_bytes(directory) <= 8 * SEGMENT_BYTES
            server.kill()
        with started(directory, SEGMENT_BYTES) as (client, _):
            expected.check(client)
        if not faults.failed:
            break
    assert first > 1


@pytest.mark.parametrize("error", [IO_ERROR, DISK_FULL], ids=["EIO", "ENOSPC"])
def test_a_folder_that_cannot_be_synced_loses_nothing(shim: Path, memory_path: Path, error: int) -> None:
    for run in at_calls(shim, memory_path, Kind.SYNC_FOLDER, error, step=2):
        if run.status is not None:
            judge_end(run, error)


def fill(session: Session) -> None:
    """Some puts, and more until one is refused."""
    for number in range(10_000):
        if session.put(f"fill{number}", 800).word == "OUT_OF_MEMORY":
            return
    raise AssertionError("the disk is full, and puts are taken for ever")


def test_a_refused_put_changes_nothing_and_leaks_nothing(shim: Path, memory_path: Path) -> None:
    directory = memory_path / "log"
    directory.mkdir()
    faults = Faults(shim, memory_path, directory, traced=False)
    expected = ExpectedState(1)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        session = Session(expected, client)
        for number in range(20):
            assert session.put(f"before{number}", 800).word == "INSERTED"
        faults.set(*NEW_SEGMENT, error=DISK_FULL)
        fill(session)
        before, tube_before = client.stats(), client.stats(b"stats-tube tube")
        for number in range(50):
            assert session.put(f"refused{number}", 800).word == "OUT_OF_MEMORY"
        after, tube_after = client.stats(), client.stats(b"stats-tube tube")
        for id in range(expected.highest_id + 1, expected.highest_id + 100):
            assert client.ask(b"peek %d" % id).word == "NOT_FOUND"
    assert tube_after == tube_before
    counted = [key for key in before if key.startswith(("current-", "total-jobs", "binlog-current", "binlog-oldest"))]
    assert {key: after[key] for key in counted} == {key: before[key] for key in counted}
    with started(directory, SEGMENT_BYTES) as (client, _):
        expected.check(client)


def test_a_full_disk_does_not_stop_a_start(shim: Path, memory_path: Path) -> None:
    directory = memory_path / "log"
    directory.mkdir()
    faults = Faults(shim, memory_path, directory, traced=False)
    expected = ExpectedState(1)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        session = Session(expected, client)
        for number in range(20):
            assert session.put(f"before{number}", 800).word == "INSERTED"
        faults.set(*NEW_SEGMENT, error=DISK_FULL)
        fill(session)
        server.kill()
    faults.set(*NEW_SEGMENT, Kind.MKDIR, error=DISK_FULL)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        expected.check(client)
        session = Session(expected, client)
        for job in list(expected.jobs.values()):
            session.delete(job.token.decode())
        faults.clear()
        put_until_it_is_taken(session)
        server.kill()
    with started(directory, SEGMENT_BYTES) as (client, _):
        expected.check(client)
