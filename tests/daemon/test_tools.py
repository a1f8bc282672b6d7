"""``fastbean WORD ...``: the tools, by their words and by their old names."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastbean.daemon.tools import TOOLS

from .conftest import PATIENCE_S

SCRIPTS = Path(sys.executable).parent
HELPS = {
    "binlog": "usage: fastbean binlog ",
    "benchmark": "usage: fastbean benchmark ",
    "cluster": "usage: fastbean cluster ",
    "health": "Use: fastbean health ",
}


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("word", TOOLS)
def test_each_tool_has_a_help_of_its_own(word):
    helps = [
        output(SCRIPTS / "fastbean", word, "--help"),
        output(SCRIPTS / "fastbean", "help", word),
        output(sys.executable, "-m", "fastbean", word, "-h"),
        output(sys.executable, "-m", f"fastbean.{word}", "--help"),
    ]
    assert helps[0][0] == 0
    assert helps[0][1].startswith(HELPS[word])
    assert helps == [helps[0]] * len(helps)


def test_help_as_a_word_is_the_help_of_the_program(run):
    assert run("help").stdout == run("--help").stdout
    assert run("help").returncode == 0


@pytest.mark.parametrize("arguments", [["binlogs"], ["help", "binlogs"], ["binlogs", "--help"], ["console", "-p", "0"]])
def test_an_unknown_word_names_those_that_exist(run, arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (5, "")
    known = "binlog, benchmark, cluster, health"
    assert re.fullmatch(rf"fastbean: unknown word: \w+; use one of {known}, .*\n", done.stderr)


def test_a_word_after_a_flag_is_a_wrong_argument(run):
    done = run("-p", "0", "binlog")
    assert (done.returncode, done.stderr.split(";")[0]) == (5, "fastbean: unknown argument: binlog")


@pytest.mark.parametrize(
    "program",
    [["fastbean", "binlog"], ["python", "-m", "fastbean", "binlog"], ["python", "-m", "fastbean.binlog"]],
    ids=" ".join,
)
def test_the_binlog_tool(start, tmp_path, program):
    start("-b", str(tmp_path)).stop()
    command = [SCRIPTS / program[0], *program[1:]]
    status, said, _ = output(*command, "check", tmp_path)
    assert (status, said.splitlines()[-1]) == (0, "the binlog is sound")
    status, _, complained = output(*command, "check", tmp_path / "none")
    assert status == 10
    assert complained.startswith("fastbean binlog: ")
    status, _, complained = output(*command)
    assert status == 5
    assert complained.count("\n") == 1


@pytest.mark.parametrize(
    "program",
    [
        ["fastbean", "health"],
        ["python", "-m", "fastbean", "health"],
        ["python", "-m", "fastbean.health"],
        ["python", "-m", "fastbean.daemon.health"],
    ],
    ids=" ".join,
)
def test_the_health_tool(start, program):
    daemon = start()
    command = [SCRIPTS / program[0], *program[1:]]
    assert output(*command, f"127.0.0.1:{daemon.port}") == (0, "", "")
    assert daemon.stop() == 0
    status, said, complained = output(*command, f"127.0.0.1:{daemon.port}")
    assert (status, said) == (1, "")
    assert complained.startswith("fastbean health: 127.0.0.1:")


@pytest.mark.parametrize(
    "program",
    [["fastbean", "benchmark"], ["fastbean-benchmark"], ["python", "-m", "fastbean.benchmark"]],
    ids=" ".join,
)
def test_the_benchmark_tool(start, program):
    command = [SCRIPTS / program[0], *program[1:]]
    status, said, _ = output(*command, f"127.0.0.1:{start().port}", "-t", "put", "-n", "10", "-c", "1")
    assert status == 0
    assert "put" in said
    assert output(*command, "--wrong")[0] == 2
