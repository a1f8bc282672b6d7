from typing import Final

AWAITED: Final[dict[int, str]]

def table() -> list[dict[str, str]]: ...
