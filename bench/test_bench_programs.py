"""A server in a busy program, and on a slow disk: the rows of docs/performance.md that compare fastbean with itself."""

import sys

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

from .connection_rows import PROGRAM_ROWS
from .rounds import ROUNDS
from .rows import Run
from .scale_tools import Findings

ROUND_S = 0.5

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("own_processor")]


@pytest.fixture(scope="module")
def findings(request):
    collected = Findings()
    request.config.pluginmanager.register(collected)
    return collected


@pytest.mark.parametrize("row", PROGRAM_ROWS, ids=lambda row: row.name)
def test_rows(tmp_path, findings, row):
    series = row.measure(Run(tmp_path, ROUNDS, ROUND_S))
    for claim in row.claims:
        assert claim.values(series)
        findings.add(f"{row.name}: {claim.words}", f"{claim.text(series)} {claim.bound()}".strip())
