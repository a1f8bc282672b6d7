from typing import Final

ARGUMENTS: Final[dict[int, tuple[str, ...]]]
