"""A daemon whose system calls are written down by strace, and what is read off its record."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

TEXT_BYTES = 60


@dataclass
class Call:
    """One system call: its name, its arguments as strace writes them, its result (-1 for every error)."""

    name: str
    arguments: str
    result: int

    @property
    def fd(self) -> int:
        """Its first argument; -1 if that is no descriptor."""
        found = re.match(r"\d+", self.arguments)
        return int(found[0]) if found else -1


def strace_or_skip(record: Path) -> list[str]:
    """The words that start a program under strace; skips the test where that cannot be."""
    program = shutil.which("strace")
    complaint = "strace is not installed, so no system calls are counted (Debian: apt-get install strace)"
    if program is not None:
        tried = subprocess.run([program, "-o", str(record), "true"], capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return [program, "-s", str(TEXT_BYTES), "-o", str(record)]
        complaint = f"strace may trace nothing here, so no system calls are counted: {tried.stderr.strip()}"
    pytest.skip(complaint)


def read(record: Path) -> list[Call]:
    """All calls of a record, in order."""
    found = re.findall(r"^(\w+)\((.*)\) += (-?\w+)", record.read_text(encoding="ascii"), re.MULTILINE)
    return [Call(name, arguments, int(result, 0) if result[0].isdigit() else -1) for name, arguments, result in found]


def served(calls: list[Call], port: int) -> list[Call]:
    """What was called for the client with this port, between its acceptance and its end: also the waits for it."""
    accepted = next(
        at for at, call in enumerate(calls) if call.name == "accept4" and f"htons({port})" in call.arguments
    )
    fd = calls[accepted].result
    registered = next(at for at in range(accepted, len(calls)) if calls[at].name == "epoll_ctl")
    found = []
    for call in calls[registered + 1 :]:
        if call.name == "close" and call.fd == fd:
            return found
        if call.name.startswith("epoll"):
            concerned = re.search(rf"[{{ ](?:u32=)?{fd}, ", call.arguments) is not None
        else:
            concerned = call.fd == fd
        if concerned:
            found.append(call)
    raise AssertionError(f"the client with port {port} never left")


def names(calls: list[Call]) -> list[str]:
    """The names of the calls."""
    return [call.name for call in calls]
