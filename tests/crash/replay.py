"""Starts a server on a folder in this process, which takes a few milliseconds: for checks by the thousand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fastbean

from .expected_state import Seen, look
from .process import HOST, Client


@dataclass
class Replayed:
    """What a server made of a folder: its jobs by id, how many there are, the next id, what it logged above INFO."""

    seen: dict[int, Seen | None]
    there: int
    next_id: int
    warnings: list[str]


@contextmanager
def started(folder: Path, segment_bytes: int) -> Iterator[tuple[Client, list[str]]]:
    """A client of a server on this folder, and its warnings. Raises BinlogError where the start is refused."""
    warnings: list[str] = []

    def log(level: str, event: str, **fields: object) -> None:
        if level != "INFO":
            warnings.append(f"{event} {fields}")

    config = fastbean.Config(
        listen=[HOST], port=0, binlog_dir=str(folder), binlog_size=segment_bytes, fsync_ms=None, max_job_size=1 << 20
    )
    with fastbean.Server(config, log=log) as server, Client(server.port) as client:
        yield client, warnings


def replay(folder: Path, ids: Iterable[int], segment_bytes: int) -> Replayed:
    """What a server makes of a folder."""
    with started(folder, segment_bytes) as (client, warnings):
        seen = look(client, ids)
        there = count_jobs(client)
        return Replayed(seen, there, client.ask(b"put 0 0 1 0", b"").number, warnings)


def count_jobs(client: Client) -> int:
    """All jobs that the server has."""
    stats = client.stats()
    return sum(int(stats[f"current-jobs-{state}"]) for state in ("ready", "delayed", "buried", "reserved"))
