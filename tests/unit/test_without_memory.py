"""What happens when an allocation fails, whichever: the right answer later, and until then nothing lost.

Each workload is played again and again: with its first allocation refused, with its second one, and so on until none is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocations import FOR_EVER, Allocations
from scarce_world import Step, World

LARGE = b"L" * 20000  # is sent from the job itself
WATCHED = [b"t%d" % number for number in range(8)]

# All commands, by a producer and a worker. "~" is a pause between two pieces of what is sent, "..." any text.
SCRIPT: list[Step] = [
    ("producer", b"put 10 0 60 5\r\nhello\r\n", b"INSERTED {a=}\r\n"),
    ("producer", b"use other\r\n", b"USING other\r\n"),
    ("producer", b"put 5 0 60 20000\r\n%b\r\n" % LARGE, b"INSERTED {large=}\r\n"),
    ("producer", b"put 5 100 60 3\r\nxyz\r\n", b"INSERTED {late=}\r\n"),
    ("producer", b"lis~t-tube-used\r\n", b"USING other\r\n"),
    ("producer", b"put 5 0 60 4\r\nbody!!", b"EXPECTED_CRLF\r\n"),
    ("producer", b"x" * 300 + b"~\r\n", b"BAD_FORMAT\r\n"),
    ("producer", b"put 1 0 60 99999\r\n" + b"x" * 99999 + b"\r\n", b"JOB_TOO_BIG\r\n"),
    ("worker", b"watch other\r\n", b"WATCHING 2\r\n"),
    *(("worker", b"watch %b\r\n" % name, b"WATCHING %d\r\n" % place) for place, name in enumerate(WATCHED, 3)),
    ("worker", b"list-tubes-watched\r\n", b"OK ..."),
    ("worker", b"ignore t0\r\n", b"WATCHING 9\r\n"),
    ("worker", b"ignore t1\r\n", b"WATCHING 8\r\n"),
    ("worker", b"reserve\r\n", b"RESERVED {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"reserve-with-timeout 1\r\n", b"RESERVED {a} 5\r\nhello\r\n"),
    ("worker", b"reserve-job {late}\r\n", b"RESERVED {late} 3\r\nxyz\r\n"),
    ("worker", b"reserve-with-timeout 0\r\n", b"TIMED_OUT\r\n"),
    ("worker", b"stats-job {a}\r\n", b"OK ...state: reserved..."),
    ("worker", b"touch {a}\r\n", b"TOUCHED\r\n"),
    ("worker", b"release {a} 7 0\r\n", b"RELEASED\r\n"),
    ("worker", b"release {late} 7 100\r\n", b"RELEASED\r\n"),
    ("worker", b"bury {large} 3\r\n", b"BURIED\r\n"),
    ("worker", b"use other\r\n", b"USING other\r\n"),
    ("worker", b"peek {a}\r\n", b"FOUND {a} 5\r\nhello\r\n"),
    ("worker", b"peek-delayed\r\n", b"FOUND {late} 3\r\nxyz\r\n"),
    ("worker", b"peek-buried\r\n", b"FOUND {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"kick 5\r\n", b"KICKED 1\r\n"),
    ("worker", b"peek-ready\r\n", b"FOUND {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"kick-job {late}\r\n", b"KICKED\r\n"),
    ("worker", b"pause-tube other 0\r\n", b"PAUSED\r\n"),
    ("worker", b"list-tubes\r\n", b"OK ...- other\n..."),
    ("worker", b"stats-tube other\r\n", b"OK ...oldest-ready-age: 0\n\r\n"),
    ("worker", b"stats\r\n", b"OK ...current-jobs-ready: 3\n..."),
    ("worker", b"reserve\r\n", b"RESERVED {large} 20000\r\n%b\r\n" % LARGE),
    ("worker", b"delete {large}\r\n", b"DELETED\r\n"),
    ("worker", b"delete {late}\r\n", b"DELETED\r\n"),
    ("worker", b"reserve\r\n", b"RESERVED {a} 5\r\nhello\r\n"),
    # It waits, with something behind it, until somebody else puts a job.
    ("waiter", b"watch other\r\n", b"WATCHING 2\r\n"),
    ("waiter", b"reserve\r\n", b""),
    ("waiter", b"list-tube-used\r\n", b""),
    ("producer", b"put 1 0 60 4\r\nlast\r\n", b"INSERTED {last=}\r\n"),
    ("waiter", b"", b"RESERVED {last} 4\r\nlast\r\nUSING default\r\n"),
    ("waiter", b"quit\r\n", b""),
]
BODIES = {"a": b"hello", "large": LARGE, "late": b"xyz", "last": b"last"}


@pytest.fixture
def directories() -> Iterator[Iterator[Path]]:
    """Folders for logs, each new, in memory where the system can have them there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield (_new(Path(folder) / str(number)) for number in range(1, 1000))


def _new(path: Path) -> Path:
    path.mkdir()
    return path


def check_jobs(world: World, unsure: set[str]) -> None:
    """Every job that somebody was told of is there, or was deleted; but for those whose command got no reply."""
    looker = world.client("looker")
    for name in world.ids.keys() - unsure:
        reply = looker.ask(b"peek %d\r\n" % world.ids[name])
        body = BODIES[name]
        found = b"FOUND %d %d\r\n%b\r\n" % (world.ids[name], len(body), body)
        assert reply == (b"NOT_FOUND\r\n" if name in world.gone else found), name


def check_end(world: World) -> None:
    """Everybody leaves, all jobs are deleted: nothing is left, and nothing counted."""
    looker = world.client("looker")
    for name, client in world.clients.items():
        if name != "looker":
            client.socket.close()
    while b"current-connections: 1\n" not in looker.ask(b"stats\r\n"):
        pass
    for id in range(1, 20):
        assert looker.ask(b"delete %d\r\n" % id) in (b"DELETED\r\n", b"NOT_FOUND\r\n")
    stats = looker.ask(b"stats\r\n")
    assert b"memory-jobs: 0\n" in stats
    assert b"current-tubes: 1\n" in stats
    kept = {"tubes", "clients", "connections", "total_jobs"}
    assert {name: count for name, count in world.engine.counters().items() if count and name not in kept} == {}


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["one", "until-noticed"])
def test_every_command_without_memory(allocations: Allocations, count: int) -> None:
    for outage in allocations.in_turn(count):
        with World() as world:
            world.play(SCRIPT, outage)
            check_jobs(world, world.unsure)
            check_end(world)
    assert allocations.calls > 40
    assert world.is_played


@pytest.mark.parametrize("count", [1, FOR_EVER], ids=["one", "until-noticed"])
def test_every_command_with_a_log_without_memory(
    allocations: Allocations, directories: Iterator[Path], count: int
) -> None:
    for outage, directory in zip(allocations.in_turn(count), directories, strict=False):
        with World(directory) as world:
            world.play(SCRIPT, outage)
        with World(directory) as again:
            again.ids, again.gone = world.ids, world.gone
            check_jobs(again, world.unsure)
            check_end(again)
        shutil.rmtree(directory)
    assert allocations.calls > 50
    assert world.is_played
