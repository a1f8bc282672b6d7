"""The Dockerfile: its statements, and, slowly, what its commands build without a docker."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from fastbean import config
from fastbean.daemon import command_line, health

ROOT = Path(__file__).parents[2]
PREFIX = "/opt/fastbean"


def statements():
    """The statements: (name, rest), with continued lines joined and without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return [tuple(line.split(" ", 1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def stage(number):
    """The statements of one stage, from its FROM on."""
    starts = [at for at, (name, _) in enumerate(statements()) if name == "FROM"]
    return statements()[slice(starts[number], (*starts, None)[number + 1])]


def rest_of(name, number=1):
    (found,) = [rest for each, rest in stage(number) if each == name]
    return found


def test_the_image_has_no_compiler_and_no_source():
    assert [name for name, _ in statements() if name == "FROM"] == ["FROM"] * 2
    assert rest_of("COPY") == f"--from=build {PREFIX} {PREFIX}"
    assert "apt-get" not in rest_of("RUN")
    assert "pip" not in rest_of("RUN")


def test_it_does_not_run_as_root():
    names = [name for name, _ in stage(1)]
    assert rest_of("USER") == "fastbean"
    assert "RUN" not in names[names.index("USER") :]
    assert "-o fastbean" in rest_of("RUN")


def test_the_log_is_on_the_volume():
    program, command = json.loads(rest_of("ENTRYPOINT")), json.loads(rest_of("CMD"))
    assert program == ["fastbean"]
    wanted = command_line.parse_command_line(command).config
    assert wanted == config.Config(binlog_dir=rest_of("VOLUME"))
    assert f" {rest_of('VOLUME')}" in rest_of("RUN").split("install -d")[1]
    assert rest_of("EXPOSE") == str(wanted.port)


def test_a_stop_is_a_clean_one():
    assert rest_of("STOPSIGNAL") == "SIGTERM"


def test_the_health_check_asks_the_server():
    flags, command = re.fullmatch(r"(.*\S) +CMD (\[.*\])", rest_of("HEALTHCHECK")).groups()
    assert json.loads(command) == ["fastbean", "health", f"127.0.0.1:{rest_of('EXPOSE')}"]
    timeout_s = int(re.search(r"--timeout=(\d+)s", flags)[1])
    assert timeout_s >= health.PATIENCE_S


def test_the_flags_are_those_of_a_wheel():
    found = dict(word.split("=", 1) for word in shlex.split(rest_of("ENV", 0)))
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["linux"]["environment"]
    assert found == configured


def context(folder):
    """Copies to ``folder`` what .dockerignore lets through: a list of what is let in, and then of what is not."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    for line in lines[1:]:
        if line.startswith("!"):
            source = ROOT / line[1:]
            copy, target = (shutil.copytree, folder / line[1:]) if source.is_dir() else (shutil.copy, folder)
            copy(source, target)
    for pattern in (line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")):
        for path in sorted(folder.rglob("*")):
            if fnmatch.fnmatch(path.name, pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def test_all_that_the_build_reads_is_let_through(tmp_path):
    folder = context(tmp_path)
    assert {path.name for path in folder.iterdir()} >= {"setup.py", "pyproject.toml", "README.md", "LICENSE", "src"}
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    for patterns in project["tool"]["setuptools"]["data-files"].values():
        assert all(list(folder.glob(pattern)) for pattern in patterns)
    assert not list(folder.rglob("*.so"))


@pytest.mark.slow
def test_its_commands_build_a_server_that_is_healthy(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    context(source)
    (_, install) = [rest for name, rest in stage(0) if name == "RUN"]
    prefix = tmp_path / "fastbean"
    command = install.replace(PREFIX, str(prefix)).replace("/source", str(source))
    pip = f"{sys.executable} -m pip"
    command = command.replace(" pip ", f" {pip} ").replace("python -m venv", f"{sys.executable} -m venv")
    subprocess.run(["sh", "-ec", command], check=True, cwd=tmp_path, env=os.environ | {"CFLAGS": "-O0"})
    environment = {**os.environ, "PATH": f"{prefix}/bin:{os.environ['PATH']}"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path / "log"
    log.mkdir()
    command = [*json.loads(rest_of("ENTRYPOINT")), "-b", str(log), "-l", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        check = json.loads(rest_of("HEALTHCHECK").split("CMD ", 1)[1].replace("11300", str(port)))
        give_up = time.monotonic() + 60
        while subprocess.run(check, cwd=tmp_path, env=environment, check=False).returncode != 0:
            assert time.monotonic() < give_up
            assert process.poll() is None
        process.send_signal(signal.Signals[rest_of("STOPSIGNAL")])
        assert process.wait(60) == 0
