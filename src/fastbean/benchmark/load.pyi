from collections.abc import Iterator
from typing import Final

from fastbean.benchmark.clients import Clients, LoadError, Result, cpu_ns
from fastbean.benchmark.histogram import Histogram

__all__ = ["SCENARIOS", "Histogram", "Jobs", "Load", "LoadError", "Result", "cpu_ns", "run"]

SCENARIOS: Final[dict[str, tuple[str, ...]]]

class Jobs:
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[int]: ...
    def clear(self) -> None: ...

class Load(Clients):
    def __init__(
        self,
        address: tuple[str, int] | str,
        scenario: str,
        *,
        clients: int = 1,
        depth: int = 1,
        body_bytes: int = 64,
        limit_s: float = 10.0,
        tube: str | None = None,
        tubes: int = 1,
        pri: int | None = 0,
        delayed: bool = False,
        jobs: Jobs | None = None,
    ) -> None: ...

def run(
    address: tuple[str, int] | str,
    scenario: str,
    *,
    clients: int = 1,
    depth: int = 1,
    operations: int = 100_000,
    body_bytes: int = 64,
    limit_s: float = 10.0,
) -> Result: ...
