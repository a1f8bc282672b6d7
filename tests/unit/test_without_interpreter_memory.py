"""What happens when an allocation of the interpreter fails in the server's thread: no client pays for it.

Compiled code has Python objects around it: for the log, for timers, for accepting clients, for files. Each scenario is
played again and again: with the first allocation of its iterations failing, with the second one, until none fails.
Each time all clients are served and can go, nothing is left, the server sleeps, and all full segments are synced. (The
allocations of the compiled modules themselves are those of test_without_memory.py.)
"""

from __future__ import annotations

import resource
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from interpreter_memory import InterpreterMemory
from watched_server import ProblemError, WatchedServer, full_segments

if not sys.platform.startswith("linux"):
    pytest.skip("looks at threads in Linux's /proc", allow_module_level=True)

MOST_DESCRIPTORS = 4096
MOST_PROBLEMS = 3  # of one scenario: each may take its time
PUT = b"put 0 0 60 1\r\nx\r\n"
LARGE = b"L" * 60_000
BODY = b"b" * 2_000  # two or three of them fill a segment
PUT_BODY = b"put 0 0 60 2000\r\n%b\r\n" % BODY
SEGMENT_BYTES = 8192
MOST_BINLOG_BUFFERS_BYTES = 100_000
INSERTED = b"INSERTED ...\r\n"
USING = b"USING default\r\n"


def plain_commands(server: WatchedServer) -> Iterator[None]:
    """Each command alone in its iterations."""
    client = server.accepted()
    yield
    for request, reply in (
        (b"use a\r\n", b"USING a\r\n"),
        (b"put 0 0 60 4\r\nbody\r\n", INSERTED),
        (b"watch a\r\n", b"WATCHING 2\r\n"),
        (b"reserve\r\n", b"RESERVED 1 4\r\nbody\r\n"),
        (b"touch 1\r\n", b"TOUCHED\r\n"),
        (b"stats-job 1\r\n", b"OK ..."),
        (b"release 1 0 0\r\n", b"RELEASED\r\n"),
        (b"reserve-job 1\r\n", b"RESERVED 1 4\r\nbody\r\n"),
        (b"bury 1 0\r\n", b"BURIED\r\n"),
        (b"peek-buried\r\n", b"FOUND 1 4\r\nbody\r\n"),
        (b"kick 1\r\n", b"KICKED 1\r\n"),
        (b"list-tubes\r\n", b"OK ..."),
        (b"list-tubes-watched\r\n", b"OK ..."),
        (b"stats-tube a\r\n", b"OK ..."),
        (b"stats\r\n", b"OK ..."),
        (b"pause-tube a 0\r\n", b"PAUSED\r\n"),
        (b"delete 1\r\n", b"DELETED\r\n"),
        (b"ignore a\r\n", b"WATCHING 1\r\n"),
        (b"nonsense\r\n", b"UNKNOWN_COMMAND\r\n"),
    ):
        client.send(request)
        server.expect(client, reply)


def postponed_pipelines(server: WatchedServer) -> Iterator[None]:
    """More commands than the budget of an iteration allows."""
    clients = [server.accepted() for _ in range(4)]
    yield
    for client in clients:
        client.send(b"list-tube-used\r\n" * 12_000)
    for client in clients:
        server.wait(lambda client=client: client.closed or len(client.got) == 12_000 * len(USING), "12,000 replies")  # type: ignore[misc]
        client.got = b""


def a_worker_is_woken(server: WatchedServer) -> Iterator[None]:
    worker, producer = server.accepted(), server.accepted()
    worker.send(b"reserve\r\nlist-tube-used\r\n")
    server.wait(lambda: b"current-waiting: 1\n" in server.ask(b"stats\r\n"), "a waiting worker")
    yield
    producer.send(PUT)
    server.expect(producer, INSERTED)
    server.expect(worker, b"RESERVED 1 1\r\nx\r\n", USING, depends=True)


def timeouts(server: WatchedServer) -> Iterator[None]:
    """The end of a delay, a reservation, a wait and a pause, a second later."""
    producer, holder, waiter, patient = (server.accepted() for _ in range(4))
    producer.send(b"put 0 0 1 4\r\nheld\r\n")
    server.expect(producer, b"INSERTED 1\r\n")
    holder.send(b"reserve\r\n")
    server.expect(holder, b"RESERVED 1 4\r\nheld\r\n")
    patient.send(
        b"watch paused\r\nignore default\r\nuse paused\r\nput 0 0 60 6\r\npaused\r\npause-tube paused 1\r\nreserve\r\n"
    )
    server.expect(patient, b"WATCHING 2\r\n", b"WATCHING 1\r\n", b"USING paused\r\n", b"INSERTED 2\r\n", b"PAUSED\r\n")
    producer.send(b"use late\r\nput 0 1 60 4\r\nlate\r\n")
    server.expect(producer, b"USING late\r\n", b"INSERTED 3\r\n")
    waiter.send(b"watch none\r\nignore default\r\nreserve-with-timeout 1\r\n")
    server.expect(waiter, b"WATCHING 2\r\n", b"WATCHING 1\r\n")
    yield
    server.expect(patient, b"RESERVED 2 6\r\npaused\r\n")
    server.expect(waiter, b"TIMED_OUT\r\n")
    producer.send(b"watch late\r\nreserve\r\nreserve\r\n")
    server.expect(producer, b"WATCHING 2\r\n", b"RESERVED ...", b"RESERVED ...")


def a_large_body(server: WatchedServer) -> Iterator[None]:
    client = server.accepted()
    yield
    client.send(b"put 0 0 60 %d\r\n" % len(LARGE))
    for piece in range(0, len(LARGE), 20_000):
        client.send(LARGE[piece : piece + 20_000])
    client.send(b"\r\n")
    server.expect(client, INSERTED)
    client.send(b"reserve\r\n")
    server.expect(client, b"RESERVED 1 %d\r\n%b\r\n" % (len(LARGE), LARGE))


def a_client_that_does_not_read(server: WatchedServer) -> Iterator[None]:
    """More replies than the sockets hold; later it reads them all."""
    client, other = server.accepted(), server.accepted()
    client.send(b"put 0 0 60 %d\r\n%b\r\n" % (len(LARGE), LARGE))
    server.expect(client, b"INSERTED 1\r\n")
    client.silent = True
    yield
    client.send(b"peek 1\r\n" * 200)
    other.send(b"list-tube-used\r\n")
    server.expect(other, USING)
    client.silent = False
    whole = len(b"FOUND 1 %d\r\n\r\n" % len(LARGE)) + len(LARGE)
    server.wait(lambda: client.closed or len(client.got) == 200 * whole, "200 bodies")
    client.got = b""


def accepting(server: WatchedServer) -> Iterator[None]:
    yield
    clients = [server.client() for _ in range(3)]
    for client in clients:
        client.send(b"list-tube-used\r\n")
    for client in clients:
        server.expect(client, USING)


def refusing(server: WatchedServer) -> Iterator[None]:
    """There are as many clients as the settings allow: one more is refused."""
    others = [server.accepted() for _ in range(3)]
    yield
    refused = server.client()
    server.expect_end(refused)
    others[0].hang_up()
    others[1].send(b"list-tube-used\r\n")
    server.expect(others[1], USING)


def closing(server: WatchedServer) -> Iterator[None]:
    """Workers hang up: their jobs go to another worker."""
    producer, waiter = server.accepted(), server.accepted()
    workers = [server.accepted() for _ in range(3)]
    for worker in workers:
        producer.send(PUT)
        server.expect(producer, INSERTED)
        worker.send(b"reserve\r\n")
        server.expect(worker, b"RESERVED ...")
    waiter.send(b"reserve\r\n")
    server.wait(lambda: b"current-waiting: 1\n" in server.ask(b"stats\r\n"), "a waiting worker")
    yield
    for worker in workers:
        worker.hang_up()
    server.expect(waiter, b"RESERVED ...")
    producer.send(b"quit\r\n")
    server.expect_end(producer)


def half_closing(server: WatchedServer) -> Iterator[None]:
    """Clients that send no more get what they are owed, and the end of the connection."""
    asker, worker = server.accepted(), server.accepted()
    yield
    asker.send(b"list-tube-used\r\n" * 3)
    asker.socket.shutdown(socket.SHUT_WR)
    server.expect(asker, USING, USING, USING)
    worker.send(b"reserve\r\n")
    worker.socket.shutdown(socket.SHUT_WR)
    server.expect_end(asker)
    server.expect_end(worker)


def a_full_segment(server: WatchedServer) -> Iterator[None]:
    """Puts fill several segments, faster than new ones come: some of the puts are held meanwhile."""
    clients = [server.accepted() for _ in range(2)]
    yield
    for client in clients:
        client.send(PUT_BODY * 8)
    for client in clients:
        server.expect(client, *[INSERTED] * 8)
    clients[0].send(PUT_BODY)
    server.expect(clients[0], INSERTED)


def compaction(server: WatchedServer) -> Iterator[None]:
    """All jobs but the first go, so their segments go too, and the first job is copied."""
    client = server.accepted()
    client.send(PUT_BODY * 24)
    server.expect(client, *[INSERTED] * 24)
    yield
    client.send(b"".join(b"delete %d\r\n" % number for number in range(2, 25)))
    server.expect(client, *[b"DELETED\r\n"] * 23)
    client.send(PUT_BODY * 2)
    server.expect(client, *[INSERTED] * 2)
    client.send(b"peek 1\r\n")
    server.expect(client, b"FOUND 1 2000\r\n%b\r\n" % BODY)


def held_puts(server: WatchedServer) -> Iterator[None]:
    """Each job needs more than a segment has: every put waits for a new one."""
    clients = [server.accepted() for _ in range(3)]
    yield
    for client in clients:
        client.send(b"put 0 0 60 20000\r\n%b\r\nlist-tube-used\r\n" % LARGE[:20_000])
    for client in clients:
        server.expect(client, INSERTED, USING)


def long_commands(server: WatchedServer) -> Iterator[None]:
    """They take several slices: a kick, lists of tubes, a disconnect with many watched tubes."""
    kicker, lister, leaver = (server.accepted() for _ in range(3))
    kicker.send(b"put 0 1000 60 1\r\nx\r\n" * 3_000)
    server.expect(kicker, *[INSERTED] * 3_000)
    leaver.send(b"".join(b"watch t%d\r\n" % number for number in range(3_000)))
    server.expect(leaver, *[b"WATCHING ...\r\n"] * 3_000)
    yield
    kicker.send(b"kick 3000\r\nlist-tube-used\r\n")
    lister.send(b"list-tubes\r\nlist-tube-used\r\n")
    leaver.send(b"list-tubes-watched\r\nlist-tube-used\r\n")
    for client, first in ((kicker, b"KICKED 3000\r\n"), (lister, b"OK ..."), (leaver, b"OK ...")):
        server.expect(client, first, USING)
    leaver.hang_up()
    lister.send(b"list-tubes\r\n")
    server.expect(lister, b"OK ...")


def logged_traffic(server: WatchedServer) -> Iterator[None]:
    yield
    client = server.client()
    client.send(PUT)
    server.expect(client, INSERTED)
    client.send(b"reserve\r\ndelete 1\r\n")
    server.expect(client, b"RESERVED ...", b"DELETED\r\n")
    client.hang_up()


def slow_iterations(server: WatchedServer) -> Iterator[None]:
    """So many commands that the iteration is reported as a slow one."""
    client, other = server.accepted(), server.accepted()
    yield
    client.send(b"stats\r\n" * 5_000)
    other.send(b"list-tube-used\r\n")
    server.expect(other, USING)
    server.wait(lambda: client.closed or client.got.count(b"\nhostname:") == 5_000, "5,000 replies")
    client.got = b""


def a_full_poller(server: WatchedServer) -> Iterator[None]:
    """More sockets are ready at once than one wait of the poller reports."""
    clients = [server.accepted() for _ in range(1_100)]
    yield
    for client in clients:
        client.send(b"list-tube-used\r\n")
    for client in clients:
        server.expect(client, USING)


def no_descriptors(server: WatchedServer) -> Iterator[None]:
    """The process has none left, so accepting pauses; a client leaves, and accepting resumes."""
    first = server.accepted()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    sockets = [socket.socket() for _ in range(3)]
    free = socket.socket()
    limit = free.fileno() + 1
    free.close()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        yield
        clients = [server.client(sock) for sock in sockets]
        for client in clients:
            client.send(b"list-tube-used\r\n")
        server.wait(lambda: any(client.got or client.closed for client in clients), "the one that has room")
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        first.hang_up()
        for client in clients:
            server.expect(client, USING)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


Play = Callable[[WatchedServer], Iterator[None]]


@dataclass(frozen=True)
class Scenario:
    """What clients do; before the yield of ``play`` nothing fails. with_binlog: the settings name a directory."""

    name: str
    play: Play
    settings: dict[str, object] = field(default_factory=dict)
    with_binlog: bool = False


def _with_binlog(play: Play) -> Iterator[Scenario]:
    for fsync_ms, flag in ((0, "f0"), (50, "f50"), (None, "F")):
        settings = {"binlog_size": SEGMENT_BYTES, "fsync_ms": fsync_ms}
        yield Scenario(f"{play.__name__}-{flag}", play, settings, with_binlog=True)


SCENARIOS = [
    *(
        Scenario(play.__name__, play)
        for play in (
            plain_commands,
            postponed_pipelines,
            a_worker_is_woken,
            timeouts,
            a_large_body,
            a_client_that_does_not_read,
            accepting,
            closing,
            half_closing,
            long_commands,
            a_full_poller,
            no_descriptors,
        )
    ),
    Scenario("refusing", refusing, {"max_connections": 4}),
    Scenario("logged_traffic", logged_traffic, {"verbosity": 2}),
    Scenario("slow_iterations", slow_iterations, {"slow_iteration_ms": 1}),
    *(
        scenario
        for play in (plain_commands, a_worker_is_woken, a_full_segment, compaction, held_puts, closing)
        for scenario in _with_binlog(play)
    ),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory if the system has one: no client shall wait for a disk."""
    shared_memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="fastbean-", dir=shared_memory if shared_memory.is_dir() else None))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    """This process has both ends of all connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def play_once(
    scenario: Scenario, memory: InterpreterMemory, folder: Path, number: int
) -> tuple[dict[bytes, int], list[str]]:
    """Plays the scenario while one allocation fails. Returns the figures at its end, and errors that were hidden."""
    settings = dict(scenario.settings)
    log = folder / f"log-{number}" if scenario.with_binlog else None
    if log is not None:
        log.mkdir()
        settings["binlog_dir"] = str(log)
    server = WatchedServer(**settings)
    memory.prepare()
    try:
        with server:
            playing = scenario.play(server)
            next(playing)
            with memory.failing(server.ident, number):
                next(playing, None)
            figures = server.check_end(log, memory.is_dirty)
        server.check_stop()
    except ProblemError as problem:
        problem.add_note(f"hidden errors: {server.hidden}")
        raise
    finally:
        if log is not None:
            shutil.rmtree(log)
    return figures, server.hidden


def check_figures(scenario: Scenario, figures: dict[bytes, int], calm: dict[bytes, int]) -> None:
    """Compares what is left at the end with what is left when nothing has failed."""
    if scenario.with_binlog:
        # How large the binlog's own buffers have become depends on the disk.
        more_bytes = figures.pop(b"memory-buffers") - calm[b"memory-buffers"]
        calm = {name: value for name, value in calm.items() if name != b"memory-buffers"}
        if more_bytes > MOST_BINLOG_BUFFERS_BYTES:
            raise ProblemError(f"{more_bytes} bytes of buffers are left")
    if figures != calm:
        raise ProblemError(f"left over: {dict(figures.items() - calm.items())}, should be {calm}")


@pytest.mark.usefixtures("_many_descriptors")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=[scenario.name for scenario in SCENARIOS])
def test_no_client_pays_for_a_failed_allocation(
    interpreter_memory: InterpreterMemory, folder: Path, scenario: Scenario
) -> None:
    calm, _ = play_once(scenario, interpreter_memory, folder, 0)
    problems = []
    for number in interpreter_memory.numbers():
        try:
            figures, _ = play_once(scenario, interpreter_memory, folder, number)
            check_figures(scenario, figures, calm)
        except ProblemError as problem:
            problems.append(f"allocation {number}: {problem}; {' '.join(getattr(problem, '__notes__', []))}")
        if len(problems) >= MOST_PROBLEMS:
            break
    assert not problems, "\n".join(problems)


def test_the_harness_sees_which_full_segments_are_synced(interpreter_memory: InterpreterMemory, folder: Path) -> None:
    for fsync_ms in (0, None):
        log = folder / str(fsync_ms)
        log.mkdir()
        server = WatchedServer(binlog_dir=str(log), binlog_size=SEGMENT_BYTES, fsync_ms=fsync_ms)
        interpreter_memory.prepare()
        with server:
            client = server.accepted()
            client.send(PUT_BODY * 16)
            server.expect(client, *[INSERTED] * 16)
            dirty = [interpreter_memory.is_dirty(inode) for inode in full_segments(log)]
        server.check_stop()
        assert len(dirty) > 2
        assert any(dirty) == (fsync_ms is None)


def test_the_harness_fails_the_chosen_allocation_of_the_chosen_thread(interpreter_memory: InterpreterMemory) -> None:
    interpreter_memory.prepare()
    here = threading.get_ident()
    with pytest.raises(MemoryError), interpreter_memory.failing(here, 1):
        bytearray(1000)
    assert interpreter_memory.failed == 1
    with interpreter_memory.failing(here + 1, 1):
        bytearray(1000)
    assert (interpreter_memory.calls, interpreter_memory.failed) == (0, 0)
