"""Manual pages and shell completions: written from the flags of the programs, and taken by man and the shells."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastbean import __main__ as program
from fastbean import errors
from fastbean.binlog.tool import COMMANDS
from fastbean.daemon.command_line import OPTIONS
from fastbean.daemon.tools import TOOLS
from fastbean.engine.statistics_tables import tables

PACKAGING = Path(__file__).parents[2] / "packaging"
SHARE = PACKAGING / "share"
BASH = SHARE / "bash-completion" / "completions"
ZSH = SHARE / "zsh" / "site-functions"
FISH = SHARE / "fish" / "vendor_completions.d"
PROGRAMS = ["fastbean", *(f"fastbean-{word}" for word in TOOLS)]


def make_pages():
    spec = importlib.util.spec_from_file_location("make_pages", PACKAGING / "make_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find(program):
    """The path of a program; without it the test is skipped."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}, which is not installed: apt-get install {program}")
    return path


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_files_in_the_tree_are_what_is_written_from_the_flags():
    wanted = dict(make_pages().pages())
    found = {path.relative_to(SHARE).as_posix(): path.read_text() for path in SHARE.rglob("*") if path.is_file()}
    assert found == wanted, "call `make pages`"


def test_the_page_of_statistics_is_what_is_written_from_the_tables():
    assert make_pages().STATISTICS_PAGE.read_text() == make_pages().statistics(), "call `make pages`"


def test_the_page_of_commands_is_what_is_written_from_the_table():
    page = make_pages().COMMANDS_PAGE.read_text()
    assert page == make_pages().commands(), "call `make pages`"
    assert "| `release <id> <pri> <delay>` | an own reservation | yes | worker |" in page
    assert "| `put <pri> <delay> <ttr> <bytes>` | a tube | yes | producer |" in page


def test_they_are_made_by_a_process_that_has_loaded_nothing_else():
    program = f"import runpy; runpy.run_path({str(PACKAGING / 'make_pages.py')!r})['statistics']()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_of_statistics_has_every_row():
    page = make_pages().STATISTICS_PAGE.read_text()
    assert "<!--" not in page
    for rows in tables().values():
        for row in rows:
            assert f"| `{row['key']}` | {row['kind']} | {row['unit']} | {row['origin']} | {row['help']} |" in page


@pytest.mark.parametrize("path", [f"man/man1/{p}.1" for p in PROGRAMS], ids=str)
def test_no_mark_is_left_in_a_page(path):
    assert not re.search("FLAGS|TOOLS$", (SHARE / path).read_text().replace(".SH TOOLS", ""), re.MULTILINE)
    assert "@" not in (SHARE / path).read_text()


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.long or option.short)
def test_every_flag_of_the_server_is_told_everywhere(option):
    page = (SHARE / "man/man1/fastbean.1").read_text().replace("\\-", "-")
    for name in filter(None, (option.short and f"-{option.short}", option.long and f"--{option.long}")):
        assert f"\\fB{name}\\fR" in page
        assert re.search(rf"^{name}$|'{name}$|^{name}'", (BASH / "fastbean").read_text(), re.MULTILINE)
        assert re.search(rf"[{{,'}}]{name}[=+]?[,}}'\[]", (ZSH / "_fastbean").read_text())
        assert f"-{'l' if name[:2] == '--' else 's'} {name.lstrip('-')} " in (FISH / "fastbean.fish").read_text()


@pytest.mark.parametrize("word", TOOLS)
def test_every_tool_is_described_everywhere(word):
    page = (SHARE / "man/man1/fastbean.1").read_text()
    assert f".B fastbean {word}\n" in page
    assert f".BR fastbean\\-{word} (1)" in page
    for completions in (BASH / "fastbean", ZSH / "_fastbean", FISH / "fastbean.fish"):
        assert re.search(rf"\b{word}\b", completions.read_text())


def test_the_page_tells_every_exit_status():
    page = (SHARE / "man/man1/fastbean.1").read_text().split(".SH EXIT STATUS")[1].split(".SH ENVIRONMENT")[0]
    statuses = {each.exit_status for each in vars(errors).values() if isinstance(each, type)} - {1}
    assert {int(number) for number in re.findall(r"\b\d+\b", page)} == statuses | {0}


def test_the_page_tells_every_signal():
    page = (SHARE / "man/man1/fastbean.1").read_text().split(".SH SIGNALS")[1].split(".SH EXIT STATUS")[0]
    assert set(re.findall(r"SIG[A-Z0-9]+", page)) == set(re.findall(r"SIG[A-Z0-9]+", program.__doc__))


@pytest.mark.parametrize("page", sorted(SHARE.glob("man/man1/*")), ids=lambda path: path.name)
def test_the_pages_are_sound(page):
    done = subprocess.run([find("mandoc"), "-T", "lint", "-W", "error", page], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    assert "<h1" in output(find("mandoc"), "-T", "html", page)


def completed_by_bash(*words):
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"source '{BASH}/{words[0]}'; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; "
    script += f"_{words[0].replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    return output("bash", "--norc", "-c", script).split()


def test_bash_completes_flags_and_values(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "file").touch()
    assert completed_by_bash("fastbean", "--por") == ["--port"]
    assert completed_by_bash("fastbean", "-p", "") == []
    assert completed_by_bash("fastbean", "-b", f"{tmp_path}/") == [f"{tmp_path}/one"]
    assert completed_by_bash("fastbean", "--binlog-dir", "=", f"{tmp_path}/") == [f"{tmp_path}/one"]
    assert f"{tmp_path}/one" in completed_by_bash("fastbean", "-b", f"{tmp_path}/o")
    assert "root" in completed_by_bash("fastbean", "--user", "=")
    assert completed_by_bash("fastbean", "--config", f"{tmp_path}/f") == [f"{tmp_path}/file"]
    assert completed_by_bash("fastbean", "--event-loop", "s") == ["selectors"]
    assert completed_by_bash("fastbean-benchmark", "-t", "pu") == ["put"]


def test_bash_completes_the_tools(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "file").touch()
    assert completed_by_bash("fastbean", "") == list(TOOLS)
    assert completed_by_bash("fastbean", "bi") == ["binlog"]
    assert completed_by_bash("fastbean", "-V", "b") == []
    assert completed_by_bash("fastbean", "binlog", "") == list(COMMANDS)
    assert completed_by_bash("fastbean", "binlog", "check", f"{tmp_path}/") == [f"{tmp_path}/one"]
    assert completed_by_bash("fastbean", "benchmark", "-t", "pu") == ["put"]
    assert completed_by_bash("fastbean", "health", "-") == []
    assert completed_by_bash("fastbean", "cluster", "") == ["init", "status", "check"]
    assert completed_by_bash("fastbean", "cluster", "init", "") == []


def test_zsh_finds_the_completions():
    script = f"fpath=('{ZSH}' $fpath); autoload -U compinit; compinit -D -u; print $_comps[fastbean] "
    script += "$_comps[fastbean-benchmark]"
    assert output(find("zsh"), "-f", "-c", script).split() == ["_fastbean", "_fastbean-benchmark"]


# Types a line and a tab into a zsh on a terminal of its own, and prints what is on the line then.
ZSH_TYPES = """
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell "PROMPT=; fpath=('$1' \\$fpath); autoload -U compinit; compinit -D -u; stty -echo; print REA''DY"
zpty -r -m shell line '*READY*'
zpty -w -n shell "$2"$'\\t'
zpty -r -m shell line "*$3*"
print -r -- "$line"
zpty -d shell
"""


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("fastbean --por", "--port"),
        ("fastbean -V --event-loop sel", "selectors"),
        ("fastbean bin", "binlog"),
        ("fastbean binlog rep", "repair"),
        ("fastbean cluster sta", "status"),
        ("fastbean benchmark -t prio", "priorities"),
        ("fastbean-benchmark -t prio", "priorities"),
    ],
)
def test_zsh_completes(typed, wanted):
    assert wanted in output(find("zsh"), "-f", "-c", ZSH_TYPES, "zsh", str(ZSH), typed, wanted)


def test_fish_completes():
    def completed(program, line):
        return output(find("fish"), "--no-config", "-c", f"source '{FISH}/{program}.fish'; complete -C '{line}'")

    assert completed("fastbean", "fastbean --por").startswith("--port")
    assert "root" in completed("fastbean", "fastbean -u roo")
    assert completed("fastbean", "fastbean bin").startswith("binlog")
    assert completed("fastbean", "fastbean binlog rep").startswith("repair")
    assert completed("fastbean", "fastbean cluster che").startswith("check")
    assert completed("fastbean", "fastbean benchmark -t prio").split("\t")[0] == "priorities"
    assert "--port" not in completed("fastbean", "fastbean benchmark --")
    assert "--rounds" not in completed("fastbean", "fastbean --")
    assert completed("fastbean-benchmark", "fastbean-benchmark -t prio").split("\t")[0] == "priorities"


def test_they_are_installed_where_they_are_looked_for():
    installed = Path(sys.prefix) / "share"
    for path in SHARE.rglob("*"):
        if path.is_file():
            assert (installed / path.relative_to(SHARE)).read_text() == path.read_text()
