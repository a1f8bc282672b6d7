"""``python -m fastbean.benchmark``: the load tool; see ``tool``."""

import signal
import sys

from fastbean.benchmark import tool


def main() -> int:
    """Runs the program. SIGTERM and SIGHUP work like Ctrl-C, so that no jobs are left behind."""
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    return tool.main()


if __name__ == "__main__":
    sys.exit(main())
