"""Which build of fastbean the tests run on, for those tests that look at it.

``tests/fuzz/sanitizers.py`` and ``make coverage`` set the variables.
"""

from __future__ import annotations

import os

IS_SANITIZED = "FASTBEAN_SANITIZED" in os.environ
IS_COVERAGE = "FASTBEAN_COVERAGE" in os.environ


def fewer_if_slow(number: int, few: int) -> int:
    """``number`` in a usual build; ``few`` in one that is slow, where the lines that run count, not how often.

    Only for what runs the same lines either way: `make test` has shown the whole number before.
    """
    return few if IS_SANITIZED or IS_COVERAGE else number
