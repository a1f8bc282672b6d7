"""The name of the process: the daemon's is "fastbean"; a tool and a program that embeds a server keep their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastbean.daemon.process_name import set_process_name

from .conftest import fastbean_command

SCRIPT = Path(sys.executable).with_name("fastbean")
NAMES = "from pathlib import Path; print([Path('/proc/self', each).read_bytes() for each in ('comm', 'cmdline')]); "


def name_of(pid):
    return Path(f"/proc/{pid}/comm").read_text().strip()


def arguments_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")


@pytest.mark.parametrize("program", [[sys.executable, "-m", "fastbean"], [SCRIPT]], ids=["module", "script"])
def test_the_daemon_is_named_fastbean(launch, program):
    flags = ["-l", "127.0.0.1", "-p", "0", "-VV"]
    daemon = launch([*program, *flags]).wait_until_serving()
    assert name_of(daemon.pid) == "fastbean"
    assert arguments_of(daemon.pid) == ["fastbean", *flags]  # the first one is what pidof compares
    assert daemon.connect().ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0


def test_flags_without_a_server_change_no_name(run):
    done = subprocess.run(
        [sys.executable, "-c", f"from fastbean.__main__ import main; main(['--help']); {NAMES}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "fastbean" not in done.stdout.splitlines()[-1].split(",")[0]


def test_a_tool_keeps_its_name():
    code = f"from fastbean.__main__ import main; {NAMES} main(['health', '127.0.0.1:1']); {NAMES}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = done.stdout.splitlines()
    assert before == after


def test_an_embedding_program_keeps_its_name():
    before = name_of("self"), arguments_of("self")
    import fastbean

    with fastbean.Server(fastbean.Config(listen=["127.0.0.1"], port=0)):
        assert (name_of("self"), arguments_of("self")) == before
    assert (name_of("self"), arguments_of("self")) == before


def test_arguments_that_are_not_those_of_the_process_are_left_alone():
    code = "from fastbean.daemon.process_name import set_process_name as name; name('x' * 9, ['-l', 'other']); " + NAMES
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[b'xxxxxxxxx\\n', ")
    assert sys.executable in done.stdout


def test_the_environment_is_left_alone(launch):
    command = fastbean_command("-l", "127.0.0.1", "-p", "0")
    daemon = launch(command, env={**os.environ, "FASTBEAN_TEST": "whole"}).wait_until_serving()
    assert b"\0FASTBEAN_TEST=whole\0" in b"\0" + Path(f"/proc/{daemon.pid}/environ").read_bytes()


def test_where_it_is_not_possible_the_name_stays(monkeypatch):
    before = name_of("self"), arguments_of("self")

    def refuse(*_arguments, **_keywords):
        raise PermissionError

    monkeypatch.setattr("builtins.open", refuse)
    set_process_name("other", [])
    monkeypatch.undo()
    assert (name_of("self"), arguments_of("self")) == before
