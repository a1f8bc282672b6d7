"""Builds the compiled half of fastbean.

Every ``src/fastbean/*.pyx`` becomes the extension ``fastbean.<name>``. What all of them share - the Cython directives,
the flags of the C compiler - is here and nowhere else. Environment variables choose another build, each with a
build folder of its own, so that builds never mix:

- ``FASTBEAN_DEBUG=1``: bounds checks, the checks on our own code (macro ``FASTBEAN_DEBUG``), ``-O0 -g``.
- ``FASTBEAN_SANITIZE=1``: the debug build under AddressSanitizer and UndefinedBehaviorSanitizer, which also tells a
  fuzzer where it came along. Needs ``CC=clang``.
- ``FASTBEAN_COVERAGE=1``: says at the end of each process which lines of the .pyx files it ran, in gcc's way: in every
  thread, in children, with and without the interpreter's lock.
"""

import multiprocessing
import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

MODE = "debug" if os.environ.get("FASTBEAN_DEBUG") == "1" else "release"
if os.environ.get("FASTBEAN_SANITIZE") == "1":
    MODE = "sanitize"
if os.environ.get("FASTBEAN_COVERAGE") == "1":
    MODE = "coverage"
CHECKED = MODE in {"debug", "sanitize"}
BUILD_DIR = "build" if MODE == "release" else f"build/{MODE}"
# To measure coverage, the C that is released is compiled in another way.
CYTHON_DIR = "build/cython" if MODE in {"release", "coverage"} else f"{BUILD_DIR}/cython"
JOBS = min(2, os.cpu_count() or 1)


def can_share() -> bool:
    """Whether processes can have a lock in common: a container without a writable /dev/shm cannot."""
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": False,
    "initializedcheck": CHECKED,
    "cdivision": True,
    "embedsignature": True,  # help() shows the arguments of compiled functions
}
MACROS = {
    "release": [],
    "debug": [("FASTBEAN_DEBUG", "1")],
    "sanitize": [("FASTBEAN_DEBUG", "1")],
    "coverage": [],
}
# The fuzzer's way of counting is restricted to our own code, and comparisons are not traced: both made it half as fast.
SANITIZERS = [
    "-fsanitize=address,undefined,fuzzer-no-link",
    "-fno-sanitize-coverage=trace-cmp",
    "-fsanitize-coverage-allowlist=tests/fuzz/coverage-allow.txt",
]
# -g0 comes last and so takes away the -g that Python's own flags bring.
UNIX_FLAGS = {
    "release": ["-O3", "-fno-plt", "-fno-semantic-interposition", "-g0"],
    "debug": ["-O0", "-g", "-UNDEBUG"],
    "sanitize": ["-O1", "-g1", "-UNDEBUG", "-fno-omit-frame-pointer", *SANITIZERS],
    "coverage": ["-O0", "-g0", "--coverage"],
}
LINK_FLAGS = {"sanitize": [*SANITIZERS, "-shared-libasan"], "coverage": ["--coverage"]}.get(MODE, [])


def extensions() -> list[Extension]:
    """One extension for each .pyx file of the package."""
    flags = UNIX_FLAGS[MODE] if os.name == "posix" else []
    return [
        Extension(
            ".".join(source.with_suffix("").parts[1:]),
            [source.as_posix()],
            extra_compile_args=flags,
            extra_link_args=LINK_FLAGS,
            define_macros=MACROS[MODE],
        )
        for source in sorted(Path("src/fastbean").rglob("*.pyx"))
    ]


if __name__ == "__main__":  # the workers of a parallel cythonize may read this file again
    setup(
        ext_modules=cythonize(
            extensions(),
            include_path=["src"],
            build_dir=CYTHON_DIR,
            compiler_directives=DIRECTIVES,
            nthreads=JOBS if can_share() else 0,
        ),
        options={"build": {"build_base": BUILD_DIR}, "build_ext": {"parallel": JOBS}},
    )
