"""Builds the sdist, a wheel out of it, repairs that, installs it into an empty environment, and tries it there.

``python .ci/check_wheels.py [--pythons default|newest|all] [--tests none|short|whole]``, in an environment with the
dependency group ``wheel``; ``make wheel-check`` and ``make test-pythons`` call it. Everything happens in
``build/check``, and what it made is in ``dist`` afterwards.

- ``--pythons``: ``default`` is the Python that runs this; ``newest`` the newest one of this machine; ``all`` one of
  each minor version from 3.11 on. Only those with headers count; what was found, and what was left out, is printed.
- ``--tests``: which of the project's tests run against each installed wheel: ``short`` are unit and daemon tests
  without the slow ones, and only on other versions than the one that runs this, which CI tests anyway; ``whole`` are
  all.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "check"
DIST = ROOT / "dist"
OLDEST = (3, 11)
# Prints version, whether extensions can be built, and whether it is a build with the GIL.
PROBE = """
import os, sys, sysconfig
headers = os.path.exists(sysconfig.get_path("include") + "/Python.h")
gil = not sysconfig.get_config_var("Py_GIL_DISABLED")
print(*sys.version_info[:2], headers, gil, sys.implementation.name, os.path.realpath(sys.executable))
"""
PARALLEL = ["-n", "2", "--dist", "worksteal"]
TESTS = {"short": [*PARALLEL, "-m", "not slow", "tests/unit", "tests/daemon"], "whole": [*PARALLEL, "tests"]}
IDENTIFIERS = {
    f"cp3{minor}-{libc}_{machine}"
    for minor in (11, 12, 13, 14)
    for libc in ("manylinux", "musllinux")
    for machine in ("x86_64", "aarch64")
}


def main() -> None:
    """Checks the configuration, and a wheel for each Python that is asked for."""
    parser = argparse.ArgumentParser(description="Build, repair, install and try the wheel and the sdist.")
    parser.add_argument("--pythons", choices=["default", "newest", "all"], default="default")
    parser.add_argument("--tests", choices=["none", *TESTS], default="none")
    arguments = parser.parse_args()
    check_configuration()
    found = find_pythons()
    own = sys.version_info[:2]
    chosen = {"default": [own], "newest": [max(found)], "all": sorted(found)}[arguments.pythons]
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    sdist = make_sdist()
    done = []
    for version in chosen:
        tests = arguments.tests
        if tests == "short" and version == own:
            tests = "none"
        check(found[version], version, sdist, tests)
        done.append(f"{version[0]}.{version[1]} ({'smoke test' if tests == 'none' else f'{tests} tests'})")
    say(f"wheels built, repaired, installed and tried on Python {', '.join(done)}")


def say(text: str) -> None:
    """Prints a line at once, in between what the tools print."""
    sys.stdout.write(f"check_wheels: {text}\n")
    sys.stdout.flush()


def run(*command: "str | os.PathLike[str]", **options: object) -> None:
    """Runs a command, which must end with status 0."""
    done = subprocess.run(command, check=False, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise SystemExit(f"check_wheels: {' '.join(map(str, command))} ended with {done.returncode}")


def check_configuration() -> None:
    """The tool cibuildwheel reads its configuration as it is meant."""
    command = [sys.executable, "-m", "cibuildwheel", "--platform", "linux", "--print-build-identifiers", str(ROOT)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    if set(lines) != IDENTIFIERS:
        raise SystemExit(f"check_wheels: cibuildwheel would build {sorted(set(lines) ^ IDENTIFIERS)} otherwise")
    say(f"cibuildwheel would build {len(lines)} wheels")


def find_pythons() -> "dict[tuple[int, int], str]":
    """One interpreter for each minor version from 3.11 on; the one that runs this comes first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    candidates = [Path(sys.executable), *sorted(pyenv.glob("versions/*/bin/python"))]
    for folder in folders:
        candidates += sorted(
            path for path in Path(folder).glob("python3.*") if re.fullmatch(r"[.\d]+t?", path.name[6:])
        )
    found: dict[tuple[int, int], str] = {}
    seen = set()
    for candidate in candidates:
        probe = subprocess.run([candidate, "-c", PROBE], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            continue  # pyenv has such files for versions that are not chosen
        major, minor, headers, gil, name, real = probe.stdout.rstrip("\n").split(" ", 5)
        version = (int(major), int(minor))
        if version < OLDEST or version in found or real in seen:
            continue
        seen.add(real)
        if headers == "True" and gil == "True" and name == "cpython":
            found[version] = str(candidate)
        else:
            say(f"left out: {candidate}: no CPython with a GIL, or its headers are missing")
    say(f"found Python {', '.join(f'{major}.{minor}' for major, minor in sorted(found))}")
    return found


def make_sdist() -> Path:
    """The sdist."""
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", WORK, ROOT, stdout=subprocess.DEVNULL)
    (sdist,) = WORK.glob("*.tar.gz")
    DIST.mkdir(exist_ok=True)
    shutil.copy(sdist, DIST)
    return sdist


def check(python: str, version: "tuple[int, int]", sdist: Path, tests: str) -> None:
    """Builds the wheel of one Python, and tries it."""
    say(f"Python {version[0]}.{version[1]}: {python}")
    work = WORK / f"{version[0]}.{version[1]}"
    raw, repaired = work / "raw", work / "repaired"
    builder = make_environment(python, work / "builder")
    run(builder, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps", "--wheel-dir", raw, sdist,
        env=build_environment(work), cwd=work)  # fmt: skip
    if (work / "git-was-called").exists():
        raise SystemExit("check_wheels: the build of the sdist called git; it has to do without")
    (wheel,) = raw.glob("*.whl")
    run(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", repaired, wheel,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"})  # fmt: skip
    (wheel,) = repaired.glob("*manylinux*.whl")
    check_hardening(wheel, work / "unpacked")
    shutil.copy(wheel, DIST)
    user = make_environment(python, work / "user")
    smoke = ROOT / ".ci" / "smoke.py"
    run(user, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", wheel)
    run(user, smoke, cwd=work)
    group = ("--group", f"{ROOT / 'pyproject.toml'}:{'build' if tests == 'none' else 'test'}")
    run(user, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1")
    run(user, "-m", "pip", "install", "--quiet", *group)
    run(user, smoke, "--cimport", cwd=work)
    check_example(builder, user, wheel)
    if tests != "none":
        run(user, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS[tests], cwd=ROOT)
    say(f"{wheel.name}: {wheel.stat().st_size} bytes")


def check_example(builder: Path, user: Path, wheel: Path) -> None:
    """Builds the project of docs/cimport.md as pip builds every project, in an environment with what it asks for only.

    No index is asked for fastbean: one by that name there would not be this one.
    """
    tools, project = wheel.parent / "tools", wheel.parent / "example"
    shutil.copytree(ROOT / "tests" / "cimport" / "foreign", project)
    pip = (builder, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "download", "--quiet", "--no-deps", "--dest", tools, "setuptools>=77", "cython>=3.1")
    local = ("--no-index", "--find-links", tools, "--find-links", wheel.parent)
    run(*pip, "wheel", "--quiet", *local, "--no-deps", "--wheel-dir", tools, project)
    run(user, "-m", "pip", "install", "--quiet", *local, "foreign")
    run(user, "-c", "import foreign; assert foreign.expired([50, 10, 99], 50) == [1, 0]", cwd=wheel.parent)


def make_environment(python: str, folder: Path) -> Path:
    """An empty virtual environment; returns its Python."""
    run("sh", ROOT / ".ci" / "make-venv", folder, env={**os.environ, "PYTHON": python})
    return folder / "bin" / "python"


def build_environment(work: Path) -> "dict[str, str]":
    """The variables of a build: the flags that cibuildwheel sets, and a git that only tells that it was called."""
    tools = work / "tools"
    tools.mkdir()
    git = tools / "git"
    git.write_text(f"#!/bin/sh\n: >'{work}/git-was-called'\nexit 1\n")
    git.chmod(0o755)
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]["linux"]["environment"]
    return {**os.environ, **configured, "PATH": f"{tools}:{os.environ['PATH']}"}


def check_hardening(wheel: Path, folder: Path) -> None:
    """Every compiled module has what the flags of a wheel promise."""
    shutil.unpack_archive(wheel, folder, "zip")
    modules = sorted(folder.glob("fastbean/**/*.so"))
    if len(modules) != len(list((ROOT / "src" / "fastbean").rglob("*.pyx"))):
        raise SystemExit(f"check_wheels: {wheel.name} has {len(modules)} compiled modules")
    for module in modules:
        text = subprocess.run(["readelf", "-Wdl", module], check=True, capture_output=True, text=True).stdout
        stack = re.search(r"GNU_STACK .* (\S+)\s+0x", text)
        if "GNU_RELRO" not in text or not re.search(r"BIND_NOW|\bNOW\b", text) or stack is None or "E" in stack[1]:
            raise SystemExit(f"check_wheels: {module.name} lacks relro, bind-now, or has an executable stack:\n{text}")
    sections = subprocess.run(["readelf", "-WS", *modules], check=True, capture_output=True, text=True).stdout
    if ".debug_info" in sections:
        raise SystemExit(f"check_wheels: {wheel.name} has debug information; a wheel should not")


if __name__ == "__main__":
    main()
