"""``fastbean benchmark``, ``fastbean-benchmark`` or ``python -m fastbean.benchmark``: the load tool; see ``tool``."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from fastbean.benchmark import tool

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the tool with the arguments ``argv`` (None: the command line's); returns its exit status.

    A signal to stop is handled like Ctrl-C, so that no jobs are left behind.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    return tool.main(argv)


if __name__ == "__main__":
    sys.exit(main())
