"""The test's side of interpreter_memory.c: lets chosen allocations of the interpreter fail, in one thread.

It also knows which files the compiled modules have written and not synced since.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allocations import MODULES

SOURCE = Path(__file__).with_name("interpreter_memory.c")


class InterpreterMemory:
    """The interpreter's allocations, in all its domains."""

    def __init__(self, path: Path) -> None:
        # With PyDLL the functions are called with the GIL, which the interpreter's own functions need.
        self._library = ctypes.PyDLL(str(path))
        for name in ("take_over", "calls_so_far", "failed_so_far"):
            getattr(self._library, name).restype = ctypes.c_long

    def prepare(self) -> None:
        """Takes over what is loaded by now. No server may be running."""
        assert self._library.take_over(MODULES) > 0, "calls can be taken over in ELF files with RELA tables only"
        self._library.forget_files()

    @property
    def calls(self) -> int:
        """How many allocations there were under the newest rule."""
        return int(self._library.calls_so_far())

    @property
    def failed(self) -> int:
        """How many of these failed."""
        return int(self._library.failed_so_far())

    @contextmanager
    def failing(self, thread: int, number: int) -> Iterator[None]:
        """Meanwhile the allocation with this number fails, counted from 1; ``thread`` is the ident of whose."""
        self._library.set_rule(ctypes.c_ulong(thread), ctypes.c_long(number))
        try:
            yield
        finally:
            self._library.end_rule()

    def numbers(self) -> Iterator[int]:
        """1, 2, ... for the body of a loop in which the allocation with this number fails; ends once none has."""
        for number in itertools.count(1):
            yield number
            if not self.failed:
                return

    def is_dirty(self, inode: int) -> bool:
        """Whether the file was written since ``prepare`` and not synced afterwards."""
        return bool(self._library.is_dirty(ctypes.c_ulong(inode)))
