"""``fastbean binlog``, or ``python -m fastbean.binlog``: the tool for directories with binlogs; see ``tool``."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from fastbean.binlog import tool

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool with the arguments ``argv`` (None: the command line's); returns its exit status."""
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ``dump DIR | head`` ends quietly
    return tool.main(argv)


if __name__ == "__main__":
    sys.exit(main())
