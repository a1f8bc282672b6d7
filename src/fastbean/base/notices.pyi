from typing import final

@final
class Notices:
    dropped: int
    def take(self) -> tuple[list[tuple[int, tuple[int, ...], bytes]], int]: ...
