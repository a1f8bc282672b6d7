from typing import Final

WORDS: Final[dict[int, str]]
TARGETS: Final[dict[int, str]]
RIGHTS: Final[dict[int, str]]

def table() -> list[dict[str, object]]: ...
def parse(line: bytes) -> tuple[str, str, dict[str, int | bytes]]: ...
