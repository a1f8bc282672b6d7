"""The server under test: its address, its process, and a simple client that inspects it and cleans up.

The client waits for each reply and is as slow as Python; nothing that is timed goes through it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from fastbean.base.limits import DEFAULT_PORT
from fastbean.benchmark.clients import LoadError, connect, cpu_ns
from fastbean.errors import ListenError
from fastbean.net.listener import parse_address

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

RESERVES_AT_ONCE = 500
KICKS_AT_ONCE = 100_000
SETTLE_LIMIT_S = 5.0
SETTLE_STEP_S = 0.02
STATES = ("ready", "reserved", "delayed", "buried")


class Target:
    """A server by its address, HOST, HOST:PORT, [IPV6]:PORT or unix:PATH, and optionally its process id.

    Raises ValueError for a malformed address.
    """

    def __init__(self, text: str, pid: int | None = None) -> None:
        try:
            parsed = parse_address(text, DEFAULT_PORT)
        except ListenError:
            raise ValueError(
                f"{text!r} is no address of a server; write 127.0.0.1:{DEFAULT_PORT}, for example, or unix:/run/x.sock"
            ) from None
        self.address: tuple[str, int] | str = parsed.path or (parsed.host, parsed.port)
        self.name = text
        self.pid = pid

    def cpu_ns(self) -> int:
        """The CPU time that the server has used, in nanoseconds; 0 if its process id is unknown."""
        if self.pid is None:
            return 0
        try:
            return cpu_ns(self.pid)
        except OSError:
            raise self._no_process() from None

    def resident_bytes(self) -> int | None:
        """The server's resident memory in bytes; None if its process id is unknown."""
        if self.pid is None:
            return None
        try:
            with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as lines:
                for line in lines:
                    if line.startswith("VmRSS:"):
                        return int(line.split()[1]) * 1024
        except OSError:
            pass
        raise self._no_process()

    def _no_process(self) -> LoadError:
        return LoadError(f"there is no process {self.pid}; give the process id of {self.name}")


class Client:
    """One connection to a server, to inspect it and clean up. A context manager; raises LoadError when it fails."""

    def __init__(self, target: Target, limit_s: float) -> None:
        self._name = target.name
        try:
            self._socket = connect(target.address, limit_s)
        except OSError as error:
            raise LoadError(f"no connection to {target.name}: {error}; is the server running there?") from error
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._socket.close()

    def statistics(self, tube: str | None = None) -> dict[str, str]:
        """The statistics of the server, or of a tube; empty if there is no such tube."""
        self._send("stats" if tube is None else f"stats-tube {tube}")
        lines = self._text().splitlines()
        pairs = (line.partition(":") for line in lines)
        return {name: value.strip().strip('"') for name, colon, value in pairs if colon}

    def tubes(self, prefix: str) -> list[str]:
        """The tubes whose names start with `prefix`."""
        self._send("list-tubes")
        names = (line[2:].strip('"') for line in self._text().splitlines() if line.startswith("- "))
        return [name for name in names if name.startswith(prefix)]

    def await_waiting(self, tube: str, workers: int, limit_s: float) -> None:
        """Returns once `workers` clients wait for a job of the tube. Raises LoadError after limit_s seconds."""
        give_up_s = time.monotonic() + limit_s
        while int(self.statistics(tube).get("current-waiting", 0)) < workers:
            if time.monotonic() > give_up_s:
                raise LoadError(f"{self._name} does not let {workers} workers wait; does it accept as many clients?")
            time.sleep(SETTLE_STEP_S)

    def empty(self, tube: str) -> int:
        """Deletes the tube's jobs; returns how many it could not delete because other clients have reserved them."""
        self._ask(f"use {tube}", "USING")
        self._ask(f"watch {tube}", "WATCHING")
        self._ask("ignore default", "WATCHING")
        give_up_s = time.monotonic() + SETTLE_LIMIT_S
        while (left := self._jobs_in(tube)) and time.monotonic() < give_up_s:
            while int(self._ask(f"kick {KICKS_AT_ONCE}", "KICKED").split()[1]):
                pass
            if self._delete_some():
                give_up_s = time.monotonic() + SETTLE_LIMIT_S
            else:
                time.sleep(SETTLE_STEP_S)
        # Unwatch the tube, so that the server frees it, and the next one is emptied alone.
        self._ask("watch default", "WATCHING")
        self._ask("use default", "USING")
        self._ask(f"ignore {tube}", "WATCHING")
        return left

    def _jobs_in(self, tube: str) -> int:
        found = self.statistics(tube)
        return sum(int(found.get(f"current-jobs-{state}", 0)) for state in STATES)

    def _delete_some(self) -> int:
        """Deletes up to RESERVES_AT_ONCE ready jobs; returns how many."""
        self._send(*["reserve-with-timeout 0"] * RESERVES_AT_ONCE)
        ids = []
        for _ in range(RESERVES_AT_ONCE):
            words = self._line().split()
            if words[0] == "RESERVED":
                ids.append(words[1])
                self._read(int(words[2]) + 2)
            elif words[0] not in {"TIMED_OUT", "DEADLINE_SOON"}:
                raise self._unexpected(" ".join(words))
        if ids:
            self._send(*[f"delete {job_id}" for job_id in ids])
        for _ in ids:
            self._line()
        return len(ids)

    def _ask(self, command: str, wanted: str) -> str:
        self._send(command)
        line = self._line()
        if not line.startswith(wanted):
            raise self._unexpected(line)
        return line

    def _send(self, *commands: str) -> None:
        try:
            self._socket.sendall("".join(f"{command}\r\n" for command in commands).encode("ascii"))
        except OSError as error:
            raise LoadError(f"the connection to {self._name} failed: {error}") from error

    def _line(self) -> str:
        try:
            line = self._stream.readline(256)
        except OSError as error:
            raise LoadError(f"{self._name} does not answer: {error}; is this a beanstalk server?") from error
        if not line.endswith(b"\r\n"):
            if line:
                raise self._unexpected(line.decode("latin-1"))
            raise LoadError(f"{self._name} closed the connection; is this a beanstalk server?")
        return line.decode("latin-1").rstrip() or " "

    def _text(self) -> str:
        line = self._line()
        if line == "NOT_FOUND":
            return ""
        if not line.startswith("OK "):
            raise self._unexpected(line)
        return self._read(int(line[3:]) + 2).decode("latin-1")

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except OSError as error:
            raise LoadError(f"{self._name} does not answer: {error}") from error

    def _unexpected(self, line: str) -> LoadError:
        return LoadError(f"{self._name} answered {line!r}; is this a beanstalk server?")
