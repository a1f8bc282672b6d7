"""What beanstalkd loses or changes without a word at a restart, case by case: here it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from .all_commands_session import Session
from .expected_state import ExpectedState
from .faults import Faults, Kind
from .process import BEANSTALKD, Client, Server, StartError

SEGMENT_BYTES = 16384
Work = Callable[[Session], object]


def kept(directory: Path, work: Work, extra: tuple[str, ...] = (), then: tuple[str, ...] = ()) -> dict[str, str]:
    """Does the work, kills the server, restarts it and compares; returns the first job's statistics."""
    expected = ExpectedState(1)
    with Server(directory, segment_bytes=SEGMENT_BYTES, extra=extra) as server, server.connect() as client:
        work(Session(expected, client))
        server.kill()
    with Server(directory, segment_bytes=SEGMENT_BYTES, extra=then or extra) as server, server.connect() as client:
        expected.check(client)
        return client.stats(b"stats-job 1")


def test_jobs_of_the_largest_size(tmp_path: Path) -> None:
    def work(session: Session) -> None:
        for size in (65535, 65534, 65533):
            assert session.put(f"size{size}", size).word == "INSERTED"

    kept(tmp_path, work)


def test_jobs_larger_than_a_segment(tmp_path: Path) -> None:
    def work(session: Session) -> None:
        for number in range(5):
            assert session.put(f"large{number}", 50_000).word == "INSERTED"
        session.delete("large1")

    kept(tmp_path, work, ("-z", "100000"))


def test_jobs_that_a_lower_limit_would_refuse_now(tmp_path: Path) -> None:
    kept(tmp_path, lambda session: session.put("large", 50_000), ("-z", "100000"), ("-z", "100"))


def test_the_priority_of_a_release(tmp_path: Path) -> None:
    def work(session: Session) -> None:
        session.put("a", pri=100)
        session.reserve()
        session.release("a", pri=3)

    assert kept(tmp_path, work)["pri"] == "3"


def test_after_the_limit_was_lowered_old_jobs_work_and_new_ones_are_refused(tmp_path: Path) -> None:
    with Server(tmp_path, extra=("-z", "100000")) as server, server.connect() as client:
        assert client.ask(b"put 0 0 60 50000", b"x" * 50_000).number == 1
        server.kill()
    for stop in (Server.kill, Server.stop):
        with Server(tmp_path, extra=("-z", "100")) as server, server.connect() as client:
            assert client.ask(b"put 0 0 60 101", b"y" * 101).word == "JOB_TOO_BIG"
            assert client.ask(b"reserve-job 1").body == b"x" * 50_000
            assert client.ask(b"release 1 5 0").word == "RELEASED"
            assert client.ask(b"reserve-job 1").number == 1
            assert client.ask(b"bury 1 5").word == "BURIED"
            assert client.ask(b"kick-job 1").word == "KICKED"
            stop(server)
    with Server(tmp_path, extra=("-z", "100")) as server, server.connect() as client:
        assert client.ask(b"peek 1").body == b"x" * 50_000
        assert client.ask(b"delete 1").word == "DELETED"


@pytest.mark.parametrize("state", ["buried", "delayed"])
def test_the_state_after_reserve_job_and_release(tmp_path: Path, state: str) -> None:
    def work(session: Session) -> None:
        session.put("a", delay=5000 if state == "delayed" else 0)
        if state == "buried":
            session.reserve()
            session.bury("a")
        session.reserve_job("a")
        session.release("a")

    assert kept(tmp_path, work)["state"] == "ready"


@pytest.mark.parametrize("state", ["buried", "delayed"])
def test_a_job_that_is_still_reserved_by_its_id_comes_back_ready(tmp_path: Path, state: str) -> None:
    def work(session: Session) -> None:
        session.put("a", delay=5000 if state == "delayed" else 0)
        if state == "buried":
            session.reserve()
            session.bury("a")
        session.reserve_job("a")

    assert kept(tmp_path, work)["state"] == "ready"


def test_how_often_a_job_was_buried(tmp_path: Path) -> None:
    def work(session: Session) -> None:
        session.put("a")
        session.reserve()
        session.bury("a")

    assert kept(tmp_path, work)["buries"] == "1"


def test_the_order_of_burials(tmp_path: Path) -> None:
    expected = ExpectedState(1)
    names = ["c", "a", "d", "b"]
    with Server(tmp_path, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        session = Session(expected, client)
        for name in sorted(names):
            session.put(name)
        for name in names:
            session.reserve_job(name)
            session.bury(name)
        for number in range(100):  # so that compaction copies them, in whatever order
            session.put(f"short{number}", 1000)
            session.delete(f"short{number}")
        assert int(client.stats()["binlog-oldest-index"]) > 1
        server.kill()
    with Server(tmp_path, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        assert client.ask(b"use tube").word == "USING"
        assert [first_buried(client) for _ in names] == names


def first_buried(client: Client) -> str:
    """The first of the buried jobs, by its body; it is kicked and deleted."""
    body = client.ask(b"peek-buried").body or b""
    assert client.ask(b"kick 1").line == b"KICKED 1"
    assert client.ask(b"delete %d" % client.ask(b"peek-ready").number).word == "DELETED"
    return body.partition(b"|")[0].decode()


def test_ids_go_on_though_the_queue_was_empty(tmp_path: Path) -> None:
    told = []
    for _ in range(4):
        with Server(tmp_path) as server, server.connect() as client:
            for _ in range(3):
                told.append(client.ask(b"put 0 0 60 1", b"x").number)
                assert client.ask(b"delete %d" % told[-1]).word == "DELETED"
    assert told == sorted(set(told))


@pytest.mark.parametrize("policy", [("-f", "0"), ("-f", "50"), ("-F",)], ids=["synced", "within-50-ms", "never-synced"])
def test_a_clean_stop_keeps_everything(tmp_path: Path, policy: tuple[str, ...]) -> None:
    expected = ExpectedState(1)
    with Server(tmp_path, policy) as server, server.connect() as client:
        session = Session(expected, client)
        for number in range(50):
            session.put(f"a{number}", delay=number % 2 * 5000)
        session.reserve()
        assert server.stop() == 0
    with Server(tmp_path, policy) as server, server.connect() as client:
        expected.check(client)
        assert "torn" not in server.said()


def test_a_log_of_a_newer_version_is_neither_read_nor_removed(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.connect() as client:
        client.ask(b"put 0 0 60 1", b"x")
        assert server.stop() == 0
    segment = next(tmp_path.glob("fastbean-*.log"))
    content = bytearray(segment.read_bytes())
    content[8] = 99
    segment.write_bytes(content)
    with pytest.raises(StartError) as refused, Server(tmp_path):
        pass
    assert refused.value.status == 10
    assert segment.name in refused.value.said
    assert "Traceback" not in refused.value.said
    assert segment.read_bytes() == content


@pytest.mark.parametrize("kind", ["fastbean", BEANSTALKD])
def test_a_directory_that_is_in_use_is_refused(tmp_path: Path, beanstalkd: str, kind: str) -> None:
    with Server(tmp_path, kind=kind), pytest.raises(StartError) as refused, Server(tmp_path):
        pass
    assert refused.value.status == 10
    assert str(tmp_path) in refused.value.said
    assert "another server" in refused.value.said


def test_a_burial_that_cannot_be_written_is_not_told(shim: Path, memory_path: Path) -> None:
    directory = memory_path / "log"
    directory.mkdir()
    faults = Faults(shim, memory_path, directory, traced=False)
    expected = ExpectedState(1)
    with Server(directory, env=faults.env) as server, server.connect() as client:
        session = Session(expected, client)
        session.put("a")
        session.reserve()
        faults.set(Kind.WRITE)
        with pytest.raises(EOFError):
            session.bury("a")
        assert server.wait() > 0
    with Server(directory) as server, server.connect() as client:
        expected.check(client)
