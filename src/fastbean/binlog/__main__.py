"""``python -m fastbean.binlog``: the program that works on binlog directories; see ``tool``."""

import signal
import sys

from fastbean.binlog import tool

if __name__ == "__main__":
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # ``dump DIR | head`` ends quietly
    sys.exit(tool.main())
