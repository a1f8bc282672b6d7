from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from fastbean.errors import FastbeanError

__all__ = ["SCENARIOS", "Histogram", "Load", "LoadError", "Result", "cpu_ns", "run"]

SCENARIOS: Final[dict[str, tuple[str, ...]]]

class LoadError(FastbeanError): ...

class Histogram:
    @property
    def count(self) -> int: ...
    @property
    def max_ns(self) -> int: ...
    @property
    def mean_ns(self) -> float: ...
    def record(self, value_ns: int, times: int = 1) -> None: ...
    def quantile_ns(self, fraction: float) -> int: ...

@dataclass(frozen=True)
class Result:
    operations: int
    seconds: float
    latencies: Histogram
    @property
    def rate(self) -> float: ...

class Load:
    def __init__(
        self,
        address: tuple[str, int] | str,
        scenario: str,
        *,
        clients: int = 1,
        depth: int = 1,
        body_bytes: int = 64,
        limit_s: float = 10.0,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def close(self) -> None: ...
    def run(self, operations: int) -> Result: ...

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
def cpu_ns(pid: int) -> int: ...
