"""``python -m fastbean.health``, which is ``fastbean health``; see ``fastbean.daemon.health``."""

import sys

from fastbean.daemon.health import main

if __name__ == "__main__":
    sys.exit(main())
