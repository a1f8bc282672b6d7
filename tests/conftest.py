"""Rules for all tests: in CI none is skipped, in a debug build none leaves live objects behind, some cannot run under a
sanitizer, and the processes that tests start ignore no signal."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from builds import IS_SANITIZED
from fastbean.base import debug_counters

# On a busy machine or under a sanitizer, the duration of an example means nothing.
hypothesis.settings.register_profile("without deadlines", deadline=None)
hypothesis.settings.load_profile("without deadlines")

# The beginnings of node ids. All other tests run under the sanitizers, too.
NOT_UNDER_SANITIZERS = {
    "tests/daemon/test_faults.py::test_memory_goes_back_to_the_system_when_the_jobs_are_gone": (
        "malloc_trim works only with glibc's allocator, which a sanitizer replaces"
    ),
    "tests/daemon/test_faults.py::test_a_queue_that_fills_again_at_once_finds_its_memory_there": (
        "a sanitizer does not reuse freed memory at once"
    ),
    "tests/unit/test_embedding.py::test_a_large_log_does_not_make_the_process_keep_all_that_it_frees": (
        "the sanitizer decides how much memory a process keeps"
    ),
    "tests/unit/test_embedding.py::test_only_the_daemon_changes_the_heap_of_its_process": (
        "mallopt and malloc_trim are glibc's, whose allocator a sanitizer replaces"
    ),
    "tests/unit/test_bench.py": "collects the benches; runs no code of ours",
    "tests/unit/test_pytest_plugin.py": "starts pytest many times; runs no other code of ours than the rest",
    "tests/cimport": "compiles an example without a sanitizer",
    "tests/unit/engine/test_tables_from_inside.py": "the same",
    "tests/model/test_replicas.py": "the same",
    "tests/unit/net/test_transport.py": "the same",
    "tests/unit/test_without_interpreter_memory.py": (
        "after some of its failed allocations the state of the ended server stays alive, which is not explained yet"
    ),
    "tests/scale/test_memory.py": "the sanitizer changes how much memory a process uses",
    "tests/unit/test_core.py::test_memory_is_flat_over_many_cycles": "the same",
    "tests/unit/base/test_slab.py::test_a_chunk_costs_the_pages_that_are_used": "the same",
    "tests/unit/base/test_slab.py::test_jobs_of_another_size_do_not_come_on_top_of_what_is_free": "the same",
    "tests/unit/base/test_slab.py::test_a_chunk_between_two_that_live_is_used_again": "the same",
    "tests/unit/base/test_slab.py::test_a_slab_that_ends_leaves_no_pages_between_the_chunks_of_another": "the same",
    "tests/unit/base/test_slab.py::test_small_jobs_do_not_stay_on_top_of_the_gaps_that_large_ones_leave": "the same",
    "tests/quality/test_valgrind.py": "valgrind and a sanitizer cannot run together",
}

# Tests with these fixtures preload a library that is called before the sanitizer's library is ready.
PRELOADED = {"wall_clock"}

# Tests with this fixture mount a file system, which a container may forbid even to root.
MAY_BE_SKIPPED = "small_disk"

_failed = pytest.StashKey[bool]()
LOOKED_AT = "looked at", True  # a property of a report, because reports travel between processes


def pytest_configure() -> None:
    """Replace ignored signals with a handler that does nothing: child processes inherit only the former.

    Under nohup, or as a background job of a shell, this process ignores some signals.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda _number, _frame: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what cannot run under the sanitizers; `pytest_terminal_summary` lists it."""
    if not IS_SANITIZED:
        return
    names = tuple(NOT_UNDER_SANITIZERS)
    out = [each for each in items if each.nodeid.startswith(names) or PRELOADED & {*getattr(each, "fixturenames", ())}]
    items[:] = [item for item in items if item not in out]
    config.hook.pytest_deselected(items=out)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """In CI a skip is a failure. Remember which tests failed: a traceback keeps the objects of its test alive."""
    report = yield
    must_run = os.environ.get("CI") and MAY_BE_SKIPPED not in getattr(item, "fixturenames", ())
    if must_run and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, which CI does not allow: {report.longrepr[2]}"
    item.stash[_failed] = report.failed or item.stash.get(_failed, False)
    return report


@pytest.fixture(autouse=True)
def _nothing_stays_alive(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """In a debug build: no job, tube, client, connection or buffer is alive after a test."""
    yield
    counts = debug_counters.counts()
    if counts is None or request.node.stash.get(_failed, False):
        return
    if any(counts.values()):
        # All other fixtures of the test have ended, but pytest still keeps their values, and what was logged: the
        # traceback of a logged error has the frames of the test.
        request.node.funcargs.clear()
        for when in ("setup", "call", "teardown"):
            caplog.get_records(when).clear()
        gc.collect()
        counts = debug_counters.counts()
    left = {kind: count for kind, count in counts.items() if count}
    assert not left, f"left alive: {left}"
    request.node.user_properties.append(LOOKED_AT)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what was deselected, and after how many tests no object was alive."""
    looked_at = sum(LOOKED_AT in report.user_properties for report in terminalreporter.getreports(""))
    if looked_at:
        terminalreporter.write_line(f"live objects of every kind: 0 after each of {looked_at} tests")
    if IS_SANITIZED:
        for name, reason in NOT_UNDER_SANITIZERS.items():
            terminalreporter.write_line(f"deselected under the sanitizers: {name}: {reason}")
        fixtures = ", ".join(sorted(PRELOADED))
        terminalreporter.write_line(f"deselected under the sanitizers: tests that preload a library: {fixtures}")
