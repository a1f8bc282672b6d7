"""``python -m fastbean.cluster``, which is ``fastbean cluster``; see ``fastbean.replication.tool``."""

import sys

from fastbean.replication.tool import main

if __name__ == "__main__":
    sys.exit(main())
