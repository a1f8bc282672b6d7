from collections.abc import Callable
from typing import Self, final

from fastbean.engine.journal import Journal

@final
class Room:
    sync_before_removal: int
    def __new__(
        cls,
        journal: Journal,
        *,
        has_files: bool,
        segment_bytes: int,
        max_bytes: int = 0,
        ask_for_segment: Callable[[int], None],
        ask_to_recycle: Callable[[int, int], None] | None = None,
        ask_to_remove: Callable[[int, int], None] | None = None,
    ) -> Self: ...
    def make_requests(self) -> None: ...
    def add_spare(self, number: int, fd: int, size: int, recycled: bool = False) -> None: ...
    def refuse_spare(self) -> None: ...
    def removed(self, size: int) -> None: ...
    @property
    def segment_size(self) -> int: ...
    @property
    def next_segment(self) -> int: ...
