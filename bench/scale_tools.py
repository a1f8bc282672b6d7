"""What the benches of scale share: many connections, floods of commands, memory of a process, the findings."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
from dataclasses import dataclass, field
from pathlib import Path

LIMIT_S = 60
BATCH = 5_000


@dataclass
class Findings:
    """The lines printed at the end of the run; a pytest plugin, so that it can print them."""

    lines: list[str] = field(default_factory=list)

    def add(self, what, value):
        self.lines.append(f"{what:66}{value}")

    def pytest_terminal_summary(self, terminalreporter):
        if self.lines:
            terminalreporter.section("scale: what many connections, tubes and jobs cost")
            for line in self.lines:
                terminalreporter.write_line(line)


def connect(address):
    """A blocking client."""
    sock = socket.create_connection(address, LIMIT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def ask(sock, request):
    """One request with a reply of one line."""
    sock.sendall(request)
    reply = b""
    while not reply.endswith(b"\r\n"):
        reply += sock.recv(65536)
    return reply


@contextlib.contextmanager
def many_descriptors():
    """Raises the limit of descriptors as far as allowed; yields it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextlib.contextmanager
def idle_connections(address, count):
    """Holds `count` connections, all accepted, that do nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(address))
        with connect(address) as last:
            ask(last, b"list-tube-used\r\n")
        yield


@contextlib.contextmanager
def clients_that_never_read(address, count, request):
    """Holds `count` clients that sent `request` until the server took no more, and read nothing."""
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(connect(address)) for _ in range(count)]
        batch = request * 500
        sent = dict.fromkeys(socks, 0)
        for sock in socks:
            sock.setblocking(False)
        while ready := select.select([], socks, [], 0.5)[1]:
            for sock in ready:
                with contextlib.suppress(BlockingIOError):
                    sent[sock] += sock.send(batch[sent[sock] % len(batch) :])
        yield


def flood(sock, commands, lines_each=1):
    """Sends many commands; only counts their replies of `lines_each` lines."""
    for start in range(0, len(commands), BATCH):
        batch = commands[start : start + BATCH]
        sock.sendall(b"".join(batch))
        missing = len(batch) * lines_each
        while missing > 0:
            missing -= sock.recv(1 << 18).count(b"\n")


def anonymous_bytes(pid):
    """The resident memory of a process that belongs to no file."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} does not report its memory")
