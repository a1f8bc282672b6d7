"""Runs a command with the sanitizers' libraries preloaded and the sanitized fastbean first on the path.

    python tests/fuzz/sanitizers.py [--stacks] python -m pytest tests/unit

The environment passes the same to child processes. A finding of a sanitizer ends its process and is written to
build/sanitize/findings; this program then exits with a status other than 0, whatever the command's status. With
--stacks, a finding also shows where its memory was allocated and freed; recording this takes a sixth of the time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "sanitize"
FINDINGS = BUILD / "findings"
FRAMES = 5
STACKS = "--stacks"
CLANG = os.environ.get("CLANG", "clang")


def runtime(name: str) -> Path:
    """The path of a library of clang's: ``asan`` or ``fuzzer_no_main``. If it is missing, exits with advice."""
    kind = "so" if name == "asan" else "a"
    for file in (
        f"libclang_rt.{name}-x86_64.{kind}",
        f"libclang_rt.{name}.{kind}",
        f"libclang_rt.{name}-aarch64.{kind}",
    ):
        if shutil.which(CLANG):
            said = subprocess.run([CLANG, f"-print-file-name={file}"], capture_output=True, text=True, check=True)
            if (path := Path(said.stdout.strip())).is_absolute():
                return path
    sys.exit(
        "the sanitizers need clang and its libraries; on Debian: apt-get install clang "
        "libclang-rt-NN-dev, where NN is the version that clang --version tells"
    )


def environment(*, fuzzer: Path | None = None, stacks: bool = False, each_object: bool = True) -> dict[str, str]:
    """The environment in which the sanitized build can be imported.

    fuzzer: a library to preload as well. stacks: whether reports tell where memory was allocated and freed, by a few
    frames. each_object: whether each object of Python's, ours among them, has memory of its own, which is watched; or
    comes out of Python's pools.
    """
    options = {
        "ASAN_OPTIONS": [
            "detect_leaks=0",
            "quarantine_size_mb=4",
            "verify_asan_link_order=0",
            f"malloc_context_size={FRAMES if stacks else 0}",
        ],
        "UBSAN_OPTIONS": ["halt_on_error=1", "print_stacktrace=1"],
    }
    if fuzzer is None:
        FINDINGS.mkdir(parents=True, exist_ok=True)
        options["ASAN_OPTIONS"].append(f"log_path={FINDINGS}/found")
        options["UBSAN_OPTIONS"].append(f"log_path={FINDINGS}/found")
    # The fuzzer comes first: its coverage callbacks must replace those of the sanitizer, which do nothing.
    preload = [str(fuzzer)] if fuzzer else []
    return {
        **os.environ,
        **{name: ":".join(values) for name, values in options.items()},
        "LD_PRELOAD": ":".join([*preload, str(runtime("asan"))]),
        "PYTHONPATH": os.pathsep.join([str(BUILD / "lib"), str(BUILD / "targets")]),
        "PYTHONMALLOC": "malloc" if each_object else "pymalloc",
        "PYTHONDONTWRITEBYTECODE": "1",
        "FASTBEAN_SANITIZED": "1",
    }


def main(words: list[str]) -> int:
    """Run the command; returns its status, or 1 if there were findings."""
    stacks = words[0] == STACKS
    shutil.rmtree(FINDINGS, ignore_errors=True)
    status = subprocess.run(words[stacks:], env=environment(stacks=stacks), check=False).returncode
    findings = sorted(FINDINGS.iterdir())
    for path in findings:
        print(f"\n{path}:\n{path.read_text(errors='replace')}", file=sys.stderr)
    if findings and not stacks:
        print(f"for where the memory came from: make sanitize STACKS={STACKS} T=the-test", file=sys.stderr)
    return 1 if findings else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
