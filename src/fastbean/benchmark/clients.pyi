import socket
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from fastbean.benchmark.histogram import Histogram
from fastbean.errors import FastbeanError

__all__ = ["Clients", "LoadError", "Result", "check", "connect", "cpu_ns", "name_of"]

HINTS: Final[dict[str, str]]
OTHER_HINT: Final[str]

class LoadError(FastbeanError): ...

@dataclass(frozen=True)
class Result:
    operations: int
    seconds: float
    latencies: Histogram
    @property
    def rate(self) -> float: ...

class Clients:
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def close(self) -> None: ...
    def run(
        self,
        operations: int | None = None,
        *,
        seconds: float | None = None,
        rate: float = 0.0,
        progress: Callable[[int], None] | None = None,
    ) -> Result: ...

def check(name: str, value: float, lowest: float, highest: float) -> float: ...
def connect(address: tuple[str, int] | str, limit_s: float) -> socket.socket: ...
def name_of(address: tuple[str, int] | str) -> str: ...
def cpu_ns(pid: int) -> int: ...
