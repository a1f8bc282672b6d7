"""`make bench`: what it selects, in which order, and the comparison that it prints last."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER_ROWS = 16
RATES = {"rate": [10_000.0, 12_000.0, 11_000.0]}
HALF = {"rate": [5_000.0, 6_000.0, 5_500.0]}


@pytest.fixture
def summary(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    from bench.summary import Summary

    return Summary()


def commands_of(target):
    """The recipe of a target, with the variable that it uses."""
    text = (ROOT / "Makefile").read_text()
    bench = next(line for line in text.splitlines() if line.startswith("BENCH :="))
    recipe = text.partition(f"\n{target}: ")[2].partition("\n\n")[0].partition("\n")[2]
    return recipe.strip().replace("$(BENCH)", bench.partition(":= ")[2])


@pytest.mark.parametrize("target", ["bench", "bench-all"])
def test_a_slow_bench_makes_pytest_dump_no_stack(target):
    assert "-o faulthandler_timeout=0" in commands_of(target)


def test_the_long_benches_run_with_bench_all_only():
    assert "-m 'not long'" in commands_of("bench")
    assert "not long" not in commands_of("bench-all")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load tool needs Linux's epoll")
def test_the_comparison_with_beanstalkd_comes_first_and_the_long_benches_are_left_out():
    command = [sys.executable, "-m", "pytest", "bench", "--collect-only", "-q", "-p", "no:cacheprovider"]
    # Benches do not run in a worker of pytest-xdist, which pytest-benchmark would warn of.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    collected = {}
    for expression in ("not long", "long"):
        done = subprocess.run([*command, "-m", expression], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        collected[expression] = [line for line in done.stdout.splitlines() if "::" in line]
    short = [line.startswith("bench/test_bench_server.py::test_rates") for line in collected["not long"]]
    assert short == sorted(short, reverse=True)
    assert sum(short) in (SERVER_ROWS, 2 * SERVER_ROWS)  # beanstalkd may be missing
    kept_for_later = {line.partition("::")[0] for line in collected["long"]}
    assert {"bench/test_bench_binlog.py", "bench/test_bench_scale.py", "bench/test_bench_parts.py"} <= kept_for_later


def test_the_comparison_shows_both_rates_and_their_ratio(summary):
    summary.rows["`-b -f 0`, 1 client: put"] = {"fastbean": RATES, "beanstalkd": HALF}
    row = next(line for line in summary.lines() if "1 client: put" in line)
    assert row.split() == ["-b", "-f", "0,", "1", "client:", "put", "11,000", "5,500", "2.00", "2.00", "-", "2.00"]
    summary.rows["1 client: take"] = {
        "fastbean": {**RATES, "cpu_us": [3.0] * 3},
        "beanstalkd": {**HALF, "cpu_us": [4.0] * 3},
    }
    assert next(line for line in summary.lines() if "1 client: take" in line).split()[-1] == "0.75"
    assert "fastbean's rate divided by beanstalkd's" in "\n".join(summary.lines())


def test_without_beanstalkd_the_comparison_says_how_to_install_it(summary):
    summary.rows["1 client: put"] = {"fastbean": RATES}
    row = next(line for line in summary.lines() if "1 client: put" in line)
    assert row.split() == ["1", "client:", "put", "11,000", "-"]
    assert "apt-get install beanstalkd" in "\n".join(summary.lines())
