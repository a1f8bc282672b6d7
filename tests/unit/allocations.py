"""The test's side of allocations.c: lets chosen allocations of the compiled modules fail, in this process."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
FOR_EVER = 1 << 40
SOURCE = Path(__file__).with_name("allocations.c")
MODULES = b"/fastbean/"  # in the path of every compiled module of ours; no other file of the package has code


def attempt(function: Callable[[], Made], *errors: type[Exception]) -> tuple[Made | None, str]:
    """What the function makes, or what the error says that it raises."""
    try:
        return function(), ""
    except errors as error:
        return None, str(error)


class Allocations:
    """The calls of the compiled modules for memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        for name in ("take_over", "calls_so_far", "failed_so_far"):
            getattr(self._library, name).restype = ctypes.c_long

    @property
    def calls(self) -> int:
        """How many there were under the newest rule."""
        return int(self._library.calls_so_far())

    @property
    def failed(self) -> int:
        """How many of these failed."""
        return int(self._library.failed_so_far())

    @contextmanager
    def failing(self, first: int = 1, count: int = FOR_EVER) -> Iterator[None]:
        """Meanwhile `count` allocations fail, from the `first` one on."""
        assert self._library.take_over(MODULES) > 0, "calls can be taken over in ELF files with RELA tables only"
        self._library.set_rule(ctypes.c_long(first), ctypes.c_long(first + count - 1))
        try:
            yield
        finally:
            self._library.end_rule()

    def in_turn(self, count: int = 1) -> Iterator[AbstractContextManager[None]]:
        """Contexts for a loop whose body enters each once, and no other one meanwhile.

        In the first one `count` allocations fail from the first on, in the second one from the second on, and so on;
        after the one in which none has failed there is no other.
        """
        for first in itertools.count(1):
            yield self.failing(first, count)
            if not self.failed:
                return
