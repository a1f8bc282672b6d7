"""Runs the fuzz targets in parallel, each for a time or a number of executions, whichever takes longer.

    python tests/fuzz/run.py                           all targets, as CI does
    python tests/fuzz/run.py --seconds 3600 binlog     one target, for an hour
    python tests/fuzz/run.py --repeat FILE binlog      one input again, with the full report of the sanitizers

The first inputs are in seeds/TARGET; new ones are kept in build/sanitize/corpus. An input that fails is kept in
build/sanitize/failed, and the command that repeats it is printed.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sanitizers

HERE = Path(__file__).parent
FAILED = sanitizers.BUILD / "failed"
CORPUS = sanitizers.BUILD / "corpus"
LIBRARY = sanitizers.BUILD / "libfuzzer.so"

# The length of the longest input, in bytes. Short inputs run fast; long sequences come from many steps, not long ones.
TARGETS = {"connection": 48, "binlog": 64, "tokenizer": 240}
PATIENCE_S = 3600
PROGRAM = """
import importlib, sys
import driver
driver.fuzz(importlib.import_module(sys.argv[1]).TARGET, [word.encode() for word in sys.argv[1:]])
"""


def build_library() -> None:
    """Builds libFuzzer as a library that can be preloaded."""
    if not LIBRARY.exists():
        archive = sanitizers.runtime("fuzzer_no_main")
        whole = ["-Wl,--whole-archive", str(archive), "-Wl,--no-whole-archive"]
        subprocess.run([f"{sanitizers.CLANG}++", "-shared", "-o", LIBRARY, *whole, "-lpthread", "-ldl"], check=True)


def start(target: str, *words: str, stacks: bool = False, each_object: bool = True) -> subprocess.CompletedProcess[str]:
    """Run libFuzzer on a target, with more arguments.

    stacks: have reports tell where memory was allocated and freed, which takes a third of the time. each_object: have
    the sanitizer watch each small object of Python's, and not only what we allocate; that takes a third as well.
    """
    FAILED.mkdir(parents=True, exist_ok=True)
    (CORPUS / target).mkdir(parents=True, exist_ok=True)
    always = [f"-artifact_prefix={FAILED}/{target}-", "-print_final_stats=1", "-timeout=60"]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, target, *always, *words],
        env=sanitizers.environment(fuzzer=LIBRARY, stacks=stacks, each_object=each_object), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", check=False, timeout=PATIENCE_S,
    )  # fmt: skip


def number_of(pattern: str, text: str) -> int:
    """The last number that follows the pattern; 0 if there is none."""
    found = re.findall(rf"{pattern}\s*(\d+)", text)
    return int(found[-1]) if found else 0


def fuzz(target: str, seconds: int, executions: int) -> tuple[bool, str]:
    """Fuzz one target. Returns whether it passed, and the line to print."""
    began = time.monotonic()
    done = 0
    limit, each_object = f"-max_total_time={seconds}", True
    # -entropic=0 and -reduce_inputs=0: these features would take three quarters of the time and bring little.
    fast = ["-entropic=0", "-reduce_inputs=0", f"-max_len={TARGETS[target]}", f"-dict={HERE / 'words.dict'}"]
    while True:
        folders = str(CORPUS / target), str(HERE / "seeds" / target)
        result = start(target, *fast, limit, *folders, each_object=each_object)
        done += number_of("stat::number_of_executed_units:", result.stdout)
        if result.returncode != 0:
            said = f"{result.stdout[-8000:]}\n{repetition(target, result.stdout)}"
            return False, f"{target}: failed after {done:,} executions\n{said}"
        if done >= executions:
            break
        # The executions that are still missing run faster.
        limit, each_object = f"-runs={executions - done}", False
    edges = number_of(r"\bcov:", result.stdout)
    taken = time.monotonic() - began
    kept = len(list((CORPUS / target).iterdir()))
    return True, f"{target}: {done:,} executions in {taken:.0f} s, {edges:,} edges reached, {kept:,} inputs kept"


def repetition(target: str, said: str) -> str:
    """The command that repeats a failure."""
    found = re.findall(r"Test unit written to (\S+)", said)
    path = os.path.relpath(found[-1], sanitizers.ROOT) if found else "FILE"
    return (
        f"to repeat it: {os.path.relpath(sys.executable, sanitizers.ROOT)} tests/fuzz/run.py --repeat {path} {target}"
    )


def main() -> int:
    """Read the command line and fuzz; returns the exit status."""
    parser = argparse.ArgumentParser(description="Fuzz the sanitized build; make fuzz builds it.")
    parser.add_argument("--seconds", type=int, default=60, help="fuzz each target for so long (default %(default)s)")
    parser.add_argument("--executions", type=int, default=1_000_000, help="and so often (default %(default)s)")
    parser.add_argument("--repeat", metavar="FILE", help="run a target on this input only, once")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all if none is named")
    wanted = parser.parse_args()
    targets = wanted.targets or list(TARGETS)
    build_library()
    if wanted.repeat:
        result = start(targets[0], str(Path(wanted.repeat).resolve()), stacks=True)
        print(result.stdout)
        return result.returncode
    with ThreadPoolExecutor(len(targets)) as pool:
        results = list(pool.map(lambda target: fuzz(target, wanted.seconds, wanted.executions), targets))
    for _, text in results:
        print(text)
    return 0 if all(well for well, _ in results) else 1


if __name__ == "__main__":
    sys.exit(main())
