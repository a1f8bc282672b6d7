from typing import Final

WORDS: Final[dict[int, str]]

def parse(line: bytes) -> tuple[str, str, dict[str, int | bytes]]: ...
