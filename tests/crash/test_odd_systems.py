"""Disks that cannot be read, and file systems that cannot do everything: what a start and the tools make of them.

A call fails as it does there: the shim returns the error in the place of the system.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .all_commands_session import Session
from .expected_state import ExpectedState
from .faults import Faults, Kind
from .process import BEANSTALKD, FASTBEAN, Server, StartError, wait_until
from .replay import started

SEGMENT_BYTES = 8192
REFUSED = 10
TOOLS = ("check", "dump", "backup", "repair", "export")
# What file systems answer that have no such thing: vboxsf, 9p, NFS, vfat, FUSE.
MISSING = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
NO_DIRECTORY_SYNC = (*MISSING, errno.EBADF)


def names(errors: tuple[int, ...]) -> list[str]:
    return [errno.errorcode[error] for error in errors]


@pytest.fixture
def directory(memory_path: Path) -> Path:
    path = memory_path / "log"
    path.mkdir()
    return path


@pytest.fixture
def faults(shim: Path, memory_path: Path, directory: Path) -> Faults:
    return Faults(shim, memory_path, directory, traced=False)


def work(directory: Path, env: dict[str, str] | None = None) -> ExpectedState:
    """Puts some jobs, in several segments, and kills the server."""
    expected = ExpectedState(1)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=env) as server, server.connect() as client:
        session = Session(expected, client)
        for number in range(30):
            assert session.put(f"job{number}", 800).word == "INSERTED"
        for number in range(0, 30, 4):
            session.delete(f"job{number}")
        server.kill()
    return expected


def said_at_start(directory: Path, env: dict[str, str]) -> str:
    """What a server writes to stderr that starts and is stopped again."""
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=env) as server:
        server.kill()
        return server.said()


def refusal(directory: Path, env: dict[str, str]) -> str:
    """The one line with which a server refuses to start."""
    with pytest.raises(StartError) as refused, Server(directory, segment_bytes=SEGMENT_BYTES, env=env):
        pass
    assert refused.value.status == REFUSED, refused.value.said
    lines = [line for line in refused.value.said.splitlines() if line.startswith("fastbean: ")]
    assert len(lines) == 1, refused.value.said
    assert "Traceback" not in refused.value.said
    return lines[0]


# --- a disk that cannot be read


def test_every_read_that_fails_refuses_the_start_with_one_line(directory: Path, faults: Faults) -> None:
    expected = work(directory)
    # The first start makes the spares that the later ones find.
    said_at_start(directory, {})
    said_at_start(directory, faults.env)
    reads = faults.calls(Kind.READ)
    assert reads > 5
    for first in range(1, reads + 1):
        faults.set(Kind.READ, first=first, count=1)
        line = refusal(directory, faults.env)
        assert f"-b {directory}: {directory}/fastbean-" in line
        assert os.strerror(errno.EIO) in line
    with started(directory, SEGMENT_BYTES) as (client, _):
        expected.check(client)


def test_a_takeover_that_cannot_read_changes_nothing(directory: Path, faults: Faults, beanstalkd: str) -> None:
    assert beanstalkd
    with Server(directory, kind=BEANSTALKD, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        client.ask(b"put 0 0 60 4", b"body")
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    faults.set(Kind.READ)
    assert "cannot read" in refusal(directory, faults.env)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    with Server(directory, segment_bytes=SEGMENT_BYTES) as server, server.connect() as client:
        assert client.ask(b"peek 1").body == b"body"


@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_that_cannot_read_says_so_in_one_line(
    directory: Path, memory_path: Path, faults: Faults, tool: str
) -> None:
    work(directory)
    other = {"backup": [str(memory_path / "to")], "export": ["--beanstalkd", str(memory_path / "to")]}
    faults.set(Kind.READ)
    ended = subprocess.run(
        [sys.executable, "-m", "fastbean.binlog", tool, str(directory), *other.get(tool, [])],
        env={**os.environ, **faults.env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == REFUSED
    assert ended.stderr.count("\n") == 1
    assert f"{directory}/fastbean-1.log: cannot read it: {os.strerror(errno.EIO)}" in ended.stderr


# --- a file system that cannot sync directories, or allocate


@pytest.mark.parametrize("error", NO_DIRECTORY_SYNC, ids=names(NO_DIRECTORY_SYNC))
def test_a_directory_that_cannot_be_synced_is_warned_of_once(directory: Path, faults: Faults, error: int) -> None:
    faults.set(Kind.SYNC_FOLDER, error=error)
    expected = work(directory, faults.env)
    assert faults.failed > 5
    said = said_at_start(directory, faults.env)
    assert said.count("directory-not-synced") == 1
    assert [line for line in said.splitlines() if " WARNING " in line or " ERROR " in line] == [
        line for line in said.splitlines() if f"directory-not-synced directory={directory}" in line
    ]
    with started(directory, SEGMENT_BYTES) as (client, warnings):
        expected.check(client)
        assert warnings == []


@pytest.mark.parametrize("policy", [("-f", "0"), ("-f", "50")], ids=["inline", "thread"])
@pytest.mark.parametrize("error", MISSING, ids=names(MISSING))
def test_without_fdatasync_files_are_synced_by_fsync(
    directory: Path, faults: Faults, error: int, policy: tuple[str, ...]
) -> None:
    faults.set(Kind.DATA_SYNC, error=error)
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        session = Session(expected := ExpectedState(1), client)
        for number in range(30):
            assert session.put(f"job{number}", 800).word == "INSERTED"
        wait_until(lambda: faults.failed > 0, "a sync")
        server.kill()
    assert faults.failed == 1, "it is remembered"
    assert faults.calls(Kind.SYNC) > 5
    with started(directory, SEGMENT_BYTES) as (client, warnings):
        expected.check(client)
        assert warnings == []


def test_a_directory_whose_sync_fails_refuses_the_start(directory: Path, faults: Faults) -> None:
    work(directory)
    faults.set(Kind.SYNC_FOLDER, error=errno.EIO)
    assert os.strerror(errno.EIO) in refusal(directory, faults.env)


@pytest.mark.parametrize("policy", [("-f", "0"), ("-f", "50")], ids=["written", "allocated"])
@pytest.mark.parametrize("error", MISSING, ids=names(MISSING))
def test_without_allocation_zeros_are_written(
    directory: Path, faults: Faults, error: int, policy: tuple[str, ...]
) -> None:
    faults.set(Kind.ALLOCATE, error=error)
    with Server(directory, policy, segment_bytes=SEGMENT_BYTES, env=faults.env) as server, server.connect() as client:
        expected = ExpectedState(1)
        session = Session(expected, client)
        for number in range(30):
            assert session.put(f"job{number}", 800).word == "INSERTED"
        assert faults.failed > 1
        # kill, not stop: a signal that comes while the shim has its lock would wait for ever.
        server.kill()
    found = [path.stat() for path in directory.glob("fastbean-*.log")]
    assert all(each.st_blocks * 512 >= each.st_size for each in found)
    # The last one may have been in the making.
    assert sum(each.st_size == SEGMENT_BYTES for each in found) >= len(found) - 1 > 2
    with started(directory, SEGMENT_BYTES) as (client, _):
        expected.check(client)


# --- locks


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EACCES], ids=["EAGAIN", "EACCES"])
def test_only_what_means_it_is_another_server(directory: Path, faults: Faults, error: int) -> None:
    faults.set(Kind.LOCK, error=error)
    assert "another server uses this directory" in refusal(directory, faults.env)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (errno.ENOLCK, "its file system has no locks, or the system has no more of them"),
        (errno.ENOSYS, "its file system has no locks"),
        (errno.EOPNOTSUPP, "its file system has no locks"),
        (errno.EIO, "look at the disk"),
    ],
    ids=["ENOLCK", "ENOSYS", "EOPNOTSUPP", "EIO"],
)
def test_a_lock_that_cannot_be_had_is_named(directory: Path, faults: Faults, error: int, advice: str) -> None:
    faults.set(Kind.LOCK, error=error)
    line = refusal(directory, faults.env)
    assert f"-b {directory}: cannot lock it: {os.strerror(error)}; {advice}" in line
    assert "another server" not in line


@pytest.mark.parametrize("error", MISSING, ids=names(MISSING))
def test_where_there_is_the_older_kind_of_lock_alone_it_is_taken(
    directory: Path, faults: Faults, beanstalkd: str, error: int
) -> None:
    assert beanstalkd
    faults.set(Kind.LOCK, error=error, count=1)
    with Server(directory, segment_bytes=SEGMENT_BYTES, env=faults.env):
        assert faults.failed == 1
        assert not starts(directory, BEANSTALKD)


def starts(directory: Path, kind: str) -> bool:
    """Whether a server starts on the directory."""
    with contextlib.suppress(StartError), Server(directory, kind=kind, segment_bytes=SEGMENT_BYTES):
        return True
    return False


@pytest.mark.parametrize("second", [FASTBEAN, BEANSTALKD])
@pytest.mark.parametrize("first", [FASTBEAN, BEANSTALKD])
def test_two_servers_never_have_one_directory(directory: Path, beanstalkd: str, first: str, second: str) -> None:
    assert beanstalkd
    with Server(directory, kind=first, segment_bytes=SEGMENT_BYTES):
        assert not starts(directory, second)
    assert starts(directory, first)
