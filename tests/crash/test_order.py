"""By a trace of the real process: what is told was written before, and synced before that.

A strace sees every call begin and end. So "record written, then synced, then its reply sent" is a question of line
numbers; and so is "copied and synced before the old segment was unlinked".
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastbean.binlog import segment_files
from fastbean.binlog.record import run_seed
from fastbean.binlog.record_reader import highest_mark

from .all_commands_session import Session, all_commands_once
from .expected_state import ExpectedState
from .process import Client, Server, segment_numbers, wait_until
from .systrace import Call, command, read_calls

GATING = {"put", "release", "bury", "kick", "kick-job", "delete"}
SLOW_SYNC = ("-e", "inject=fdatasync,fsync:delay_enter=100000")  # microseconds, so that commands come meanwhile


@pytest.fixture
def traced(tmp_path: Path) -> Callable[..., list[Call]]:
    """Runs a server under strace while a function works on it; returns the calls that it made."""
    missing = "it is not installed (Debian: apt-get install strace)"
    if shutil.which("strace"):
        attempt = ["strace", "-o", str(tmp_path / "try"), "true"]
        tried = subprocess.run(attempt, capture_output=True, text=True, check=False)
        missing = tried.stderr.strip() if tried.returncode else ""
    if missing:
        pytest.skip(f"looks at system calls by strace, which does not work: {missing}")
    directory = tmp_path / "log"
    directory.mkdir()

    def run(
        work: Callable[[Server], None],
        policy: Sequence[str] = ("-f", "0"),
        segment_bytes: int = 65536,
        extra: Sequence[str] = (),
        flags: Sequence[str] = (),
    ) -> list[Call]:
        trace = tmp_path / "strace"
        before = command(trace, extra)
        with Server(directory, policy, segment_bytes=segment_bytes, before=before, extra=flags) as server:
            try:
                work(server)
            finally:
                stop_traced(server)
        return read_calls(trace)

    return run


def stop_traced(server: Server) -> None:
    """Stops the server, which is the child of strace."""
    with server.connect() as client:
        pid = int(client.stats()["pid"])
    os.kill(pid, signal.SIGTERM)
    server.wait()


def synced_after(calls: Sequence[Call], write: Call) -> int:
    """The line at which the first sync of the file that began after this write had ended; -1 if there is none."""
    ends = [call.end for call in calls if call.is_sync and call.file == write.file and call.begin > write.end]
    return min(ends, default=-1)


def assert_told_after_its_sync(calls: Sequence[Call], logged: str, told: str) -> None:
    """The send that contains `told` began after the sync of the write that contains `logged`."""
    writes = [call for call in calls if call.is_write and logged in call.text]
    sends = [call for call in calls if call.is_send and told in call.text]
    assert writes, f"{logged} was not written"
    assert sends, f"{told} was not sent"
    synced = synced_after(calls, writes[0])
    assert synced >= 0, f"{logged} was not synced"
    assert sends[0].begin > synced, f"{told} was sent at line {sends[0].begin}, but synced only at line {synced}"


def test_each_reply_is_sent_after_its_record_was_written_and_synced(traced: Callable[..., list[Call]]) -> None:
    kinds: list[str] = []

    def work(server: Server) -> None:
        with server.connect() as client:
            session = Session(ExpectedState(1), client)
            for _ in all_commands_once(session):
                pass
            kinds.extend(note.op.kind for note in session.notes)

    calls = traced(work)
    sends = [call for call in calls if call.is_send]
    assert len(kinds) < len(sends), "each command has one reply; those of the last client come behind"
    before = 0
    for kind, send in zip(kinds, sends, strict=False):
        if kind in GATING:
            writes = [call for call in calls if call.is_write and before < call.begin and call.end < send.begin]
            assert writes, f"{kind}: nothing was written before its reply {send.text!r}"
            synced = synced_after(calls, writes[-1])
            assert 0 <= synced < send.begin, f"{kind}: the reply {send.text!r} was sent before its record was synced"
        before = send.end


def test_nobody_is_told_of_a_job_before_it_is_synced(traced: Callable[..., list[Call]]) -> None:
    def work(server: Server) -> None:
        with server.connect() as first, server.connect() as waiting, server.connect() as curious:
            waiting.send(b"watch other\r\nreserve\r\n")
            assert waiting.reply().word == "WATCHING"
            first.send(b"use other\r\nput 0 0 60 12\r\nto-be-handed\r\nuse third\r\nput 0 0 60 12\r\nto-be-peeked\r\n")
            curious.send(b"use third\r\npeek-ready\r\n")
            assert [first.reply().word for _ in range(4)] == ["USING", "INSERTED", "USING", "INSERTED"]
            assert waiting.reply().body == b"to-be-handed"
            curious.reply()
            curious.reply()
            for look in (b"peek 2", b"stats-job 2", b"peek-ready"):
                ask_during_a_sync(first, curious, look)

    calls = traced(work, extra=SLOW_SYNC)
    assert_told_after_its_sync(calls, "to-be-handed", "INSERTED 1")
    assert_told_after_its_sync(calls, "to-be-handed", "RESERVED 1")
    assert_told_after_its_sync(calls, "to-be-peeked", "to-be-peeked\\r\\n")
    found = [call for call in calls if call.is_send and "FOUND 3 9" in call.text]
    assert found, "the job that was put during a sync was not seen"
    assert_told_after_its_sync(calls, "unsynced1", "FOUND 3 9")


def ask_during_a_sync(first: Client, curious: Client, look: bytes) -> None:
    """One client puts and deletes; another one looks while that is being synced."""
    first.send(b"use third\r\nput 0 0 60 9\r\nunsynced1\r\n")
    curious.send(b"peek 3\r\n" + look + b"\r\n")
    assert [first.reply().word for _ in range(2)] == ["USING", "INSERTED"]
    curious.reply()
    curious.reply()


def test_nobody_is_told_that_a_job_is_gone_before_its_delete_is_synced(traced: Callable[..., list[Call]]) -> None:
    def work(server: Server) -> None:
        with server.connect() as first, server.connect() as curious:
            assert first.ask(b"put 0 0 60 3", b"abc").word == "INSERTED"
            assert first.ask(b"put 0 0 60 3", b"def").word == "INSERTED"
            first.send(b"delete 1\r\n")
            curious.send(b"peek 1\r\nreserve-job 1\r\n")
            assert first.reply().word == "DELETED"
            told.extend(curious.reply().word for _ in range(2))

    told: list[str] = []
    calls = traced(work, extra=SLOW_SYNC)
    inserted = [call for call in calls if call.is_send and "INSERTED 2" in call.text]
    gone = [call for call in calls if call.is_send and "NOT_FOUND" in call.text]
    deleted = next(call for call in calls if call.is_write and call.begin > inserted[0].end)
    assert "NOT_FOUND" in told
    assert gone[0].begin > synced_after(calls, deleted) > 0


POLICIES = pytest.mark.parametrize(
    "policy", [("-f", "0"), ("-f", "50"), ("-F",)], ids=["synced", "within-50-ms", "never-synced"]
)


@POLICIES
def test_a_copy_is_synced_before_its_segment_is_unlinked(
    traced: Callable[..., list[Call]], policy: Sequence[str]
) -> None:
    oldest = [f"oldest{number}" for number in range(5)]

    def work(server: Server) -> None:
        with server.connect() as client:
            session = Session(ExpectedState(1), client)
            for token in oldest:
                session.put(token, 200)
            for number in range(60):
                session.put(f"short-lived{number}", 1000)
                session.delete(f"short-lived{number}")
            wait_until(lambda: segment_numbers(server.directory)[0] > 1, "the first segment to go")

    calls = traced(work, policy, segment_bytes=8192)
    removals = [call for call in calls if call.removed]
    assert removals, "no segment was unlinked"
    gone: set[str] = set()
    for removal in removals:
        gone.add(removal.removed)
        for token in oldest:
            copies = [
                call for call in calls
                if call.is_write and f"{token}|" in call.text and Path(call.file).name not in gone
                and 0 <= synced_after(calls, call) < removal.begin
            ]  # fmt: skip
            assert copies, f"{removal.removed} was unlinked while no other segment held {token}, synced"


@dataclass
class Write:
    """A write of records: to which segment (and its first LSN), at which line it was synced (-1: never), and what the
    log says then: no record below an LSN is needed."""

    number: int
    synced: int
    needed_lsn: int
    first_lsn: int


def number_of(file: str) -> int:
    """The number in the name of a segment's file."""
    return int(Path(file).name.removeprefix("fastbean-").removesuffix(".log"))


def writes_of(calls: Sequence[Call]) -> list[Write]:
    """All writes of records, in order."""
    files: dict[int, bytearray] = {}
    found, needed_lsn = [], 0
    for call in calls:
        if not call.is_write:
            continue
        number = number_of(call.file)
        offset, data = call.written
        content = files.setdefault(number, bytearray())
        content.extend(bytes(max(0, offset + len(data) - len(content))))
        content[offset : offset + len(data)] = data
        header = segment_files.parse_header(bytes(content[: segment_files.HEADER.size]))
        assert header is not None, f"{call.file} is written to before its header"
        seed = run_seed(header.run)
        needed_lsn = max(needed_lsn, highest_mark(bytes(content), seed, header.first_lsn, "shed"))
        found.append(Write(number, synced_after(calls, call), needed_lsn, header.first_lsn))
    return found


def assert_told_before_each_removal(calls: Sequence[Call]) -> list[Call]:
    """Before a segment goes, what is synced says that it is not needed, and can be read up to there."""
    removals = [call for call in calls if call.removed]
    assert removals, "no segment went"
    writes = writes_of(calls)
    for removal in removals:
        number = number_of(removal.removed)
        end_lsn = next(write.first_lsn for write in writes if write.number == number + 1)
        telling = next((place for place, write in enumerate(writes) if write.needed_lsn >= end_lsn), None)
        assert telling is not None, f"{removal.removed} went, and the log does not say so"
        for write in writes[: telling + 1]:
            assert write.number <= number or 0 <= write.synced < removal.begin, (
                f"{removal.removed} went before all up to the word of it was synced: segment {write.number}"
            )
    return removals


@POLICIES
def test_the_log_says_that_a_segment_is_not_needed_before_it_goes(
    traced: Callable[..., list[Call]], policy: Sequence[str]
) -> None:
    def work(server: Server) -> None:
        with server.connect() as client:
            session = Session(ExpectedState(1), client)
            for number in range(150):
                session.put(f"job{number}", 1000)
                if number % 10:
                    session.delete(f"job{number}")
            wait_until(lambda: segment_numbers(server.directory)[0] > 3, "some segments to go")

    assert_told_before_each_removal(traced(work, policy, segment_bytes=8192))


@POLICIES
def test_the_log_says_so_before_a_segment_becomes_a_spare(
    traced: Callable[..., list[Call]], policy: Sequence[str]
) -> None:
    def work(server: Server) -> None:
        with server.connect() as client:
            session = Session(ExpectedState(1), client)
            for number in range(200):
                if session.put(f"job{number}", 500).word == "OUT_OF_MEMORY":
                    break
            for number in range(300):
                session.reserve_job("job0")
                session.release("job0", number)
            wait_until(lambda: segment_numbers(server.directory)[0] > 3, "some segments to go")

    calls = traced(work, policy, segment_bytes=8192, flags=("--binlog-max-bytes", str(12 * 8192)))
    removals = assert_told_before_each_removal(calls)
    recycled = [call for call in removals if call.name.startswith("rename")]
    assert recycled, "no segment was taken up again"
    for call in recycled:
        part = call.text.split('"')[-2]
        cleared = next(each for each in calls if each.begin > call.end and each.is_of_zeros and each.file == part)
        named = next(
            each for each in calls if each.name.startswith("rename") and each.text.count(f'"{part}"') and each != call
        )
        synced = [each for each in calls if "sync" in each.name and cleared.end < each.begin and each.end < named.begin]
        assert any(each.file == part for each in synced), f"{part} got its new name before it was cleared, safely"
