"""A server in a thread of this process, one of whose allocations fails; its clients; and what may become of them.

A test has clients of a `WatchedServer` send something while the outage is in force. Each client has to get the right
replies. It may instead get OUT_OF_MEMORY, or find its connection closed; the server is then `disturbed`, and a client
whose reply depended on that one may wait for ever. Everything else that goes wrong is a `ProblemError`: an unserved
client, a wrong reply, a busy loop, a connection, job, descriptor or byte that stays, a full segment without its sync.
"""

from __future__ import annotations

import gc
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

import fastbean
from oom_world import replies_in
from thread_watch import LOOK_S, ThreadWatch

LIMIT_S = 40.0  # shorter than the longest wait of the loop, after which it might find what it had forgotten
# More than any iteration here needs by far. CPU time does not pass while the machine does other things.
MOST_CPU_NS = 3_000_000_000
SPIN_WINDOW_S = 0.005
SPIN_WINDOWS = 40
PROBES = 500  # requests of the observer, each of which is an iteration, until what was closed must be gone
LARGEST_ID = 40_000
KEPT_FIGURES = re.compile(rb"^((?:current|memory)-[a-z-]+): (\d+)$", re.MULTILINE)


class ProblemError(AssertionError):
    """What must not happen, whatever allocation failed."""


class Client:
    """One connection to the server; ``got`` is received data that was not looked at yet."""

    def __init__(self, port: int, sock: socket.socket | None = None) -> None:
        self.got = b""
        self.closed = False
        self.silent = False  # it does not read
        self._unsent = b""
        self.socket = sock or socket.socket()
        self.socket.connect(("127.0.0.1", port))
        self.socket.setblocking(False)

    def send(self, data: bytes) -> None:
        """Sends this, now or as soon as the server accepts it."""
        self._unsent += data
        self.pump()

    def pump(self) -> None:
        """Sends and receives what is possible at once."""
        try:
            while self._unsent and not self.closed:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._unsent = b""  # what was received before is still there
        try:
            while not self.closed and not self.silent:
                data = self.socket.recv(1 << 20)
                self.got += data
                self.closed = not data
        except BlockingIOError:
            pass
        except ConnectionResetError:
            self.closed = True

    def hang_up(self) -> None:
        """Closes the connection."""
        self.closed = True
        self.socket.close()


class WatchedServer:
    """A server with these settings, and an observer: a client that is connected before anything fails."""

    def __init__(self, **settings: object) -> None:
        gc.collect()  # so that nothing in the server's thread collects the remains of another test
        self.disturbed = False
        self.hidden: list[str] = []  # errors that could not be raised
        self.clients: list[Client] = []
        self._ended_by: BaseException | None = None
        self._descriptors = len(list(Path("/proc/self/fd").iterdir()))
        self._config = fastbean.Config(listen=["127.0.0.1"], port=0, stop_timeout_s=2, **settings)  # type: ignore[arg-type]
        self._server = fastbean.Server(self._config, log=lambda *_words, **_fields: None)
        self._server.start()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._hook, sys.unraisablehook = sys.unraisablehook, lambda found: self.hidden.append(repr(found.object))
        self._thread.start()
        assert self._thread.native_id is not None
        self._watch = ThreadWatch(os.getpid(), self._thread.native_id)
        self._began_ns = self._watch.cpu_ns()
        self._observer = self.client()
        self.ask(b"list-tube-used\r\n")
        self._began_ns = self._watch.cpu_ns()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        for client in self.clients:
            client.hang_up()
        self._thread.join(LIMIT_S)
        self._watch.close()
        sys.unraisablehook = self._hook

    def _run(self) -> None:
        try:
            self._server.run()
        except BaseException as error:  # noqa: BLE001 - whatever ends the server is reported
            self._ended_by = error

    @property
    def ident(self) -> int:
        """The ident of the thread that runs the server."""
        assert self._thread.ident is not None
        return self._thread.ident

    @property
    def port(self) -> int:
        return self._server.port

    def client(self, sock: socket.socket | None = None) -> Client:
        """Connects a client; whether the server accepts it shows later."""
        try:
            client = Client(self.port, sock)
        except ConnectionRefusedError:
            self._thread.join(1)
            raise ProblemError(f"the server is gone: {self._ended_by!r}") from None
        self.clients.append(client)
        return client

    def accepted(self) -> Client:
        """Connects a client that is served already."""
        client = self.client()
        client.send(b"list-tube-used\r\n")
        self.expect(client, b"USING default\r\n")
        return client

    def wait(self, is_done: Callable[[], bool], what: str, *, depends: bool = False) -> None:
        """Has all clients send and receive until it is done. depends: on a client that may have been disturbed."""
        give_up_s = time.monotonic() + LIMIT_S
        self._watch.begin()
        while not is_done():
            poll = select.poll()
            for client in self.clients:
                if not (client.closed or client.silent):
                    poll.register(client.socket, select.POLLIN)
            poll.poll(LOOK_S * 1000)
            for client in self.clients:
                client.pump()
            if is_done():
                return
            try:
                sleeps_on = self._watch.sleeps_on()
                used_ns = self._watch.cpu_ns() - self._began_ns
            except ProcessLookupError:
                raise ProblemError(f"the server ended while a client waited for {what}: {self._ended_by!r}") from None
            if depends and self.disturbed and sleeps_on:
                return
            if sleeps_on or time.monotonic() > give_up_s:
                raise ProblemError(f"waited in vain for {what}")
            if used_ns > MOST_CPU_NS:
                raise ProblemError(f"the server is busy, and a client waits in vain for {what}")

    def expect(self, client: Client, *replies: bytes, depends: bool = False) -> None:
        """Waits for these replies, in which "..." is any text, or for what may come instead."""
        what = b" ".join(replies)[:60].decode()
        self.wait(lambda: client.closed or len(replies_in(client.got)) >= len(replies), what, depends=depends)
        found = replies_in(client.got)[: len(replies)]
        client.got = client.got[len(b"".join(found)) :]
        for reply, wanted in zip(found, replies, strict=False):
            pattern = re.escape(wanted).replace(re.escape(b"..."), b".*")
            if reply == b"OUT_OF_MEMORY\r\n":
                self.disturbed = True
            elif not re.fullmatch(pattern, reply, re.DOTALL) and not self.disturbed:
                raise ProblemError(f"the reply is {reply[:60]!r}, and should be {wanted[:60]!r}")
        self.disturbed |= client.closed

    def expect_end(self, client: Client) -> None:
        """Waits until the server closes the connection."""
        self.wait(lambda: client.closed, "the end of the connection")

    def ask(self, request: bytes) -> bytes:
        """The observer asks; nothing fails meanwhile."""
        if self._observer.closed:
            self.disturbed = True
            self._observer = self.client()
        self._observer.send(request)
        self.wait(lambda: self._observer.closed or bool(replies_in(self._observer.got)), f"a reply to {request[:30]!r}")
        found = replies_in(self._observer.got)
        self._observer.got = b""
        return found[0] if found else self.ask(request)

    def check_end(self, folder: Path | None, is_dirty: Callable[[int], bool]) -> dict[bytes, int]:
        """Checks what must hold once the outage is over. Returns the figures of `stats` with nothing left."""
        self._check_that_it_sleeps()
        newcomer = self.client()
        newcomer.send(b"list-tube-used\r\n")
        self.wait(lambda: newcomer.got == b"USING default\r\n", "a reply to a client that came later")
        if folder is not None and self._config.fsync_ms is not None:
            self.wait(lambda: not any(map(is_dirty, full_segments(folder))), "the sync of a full segment")
        for client in self.clients:
            if client is not self._observer:
                client.hang_up()
        self._until(lambda: b"current-connections: 1\n" in self.ask(b"stats\r\n"), "connections that were closed stay")
        self._delete_all()
        figures = {name: int(value) for name, value in KEPT_FIGURES.findall(self.ask(b"stats\r\n"))}
        self._check_that_it_sleeps()
        return figures

    def check_stop(self) -> None:
        """Checks, once the server has been told to stop, that it has, and that no descriptor is left."""
        if self._thread.is_alive():
            raise ProblemError("the server does not stop")
        if self._ended_by is not None:
            raise ProblemError(f"the server ended with {self._ended_by!r}")
        left = len(list(Path("/proc/self/fd").iterdir())) - self._descriptors
        if left:
            raise ProblemError(f"{left} descriptors are still open")

    def _delete_all(self) -> None:
        reply = self.ask(b"put 0 0 60 1\r\nx\r\n")
        if not reply.startswith(b"INSERTED"):
            raise ProblemError(f"a put is answered {reply!r}, although there is memory again")
        last = int(reply.split()[1])
        assert last <= LARGEST_ID
        self._observer.send(b"".join(b"delete %d\r\n" % number for number in range(1, last + 1)))
        self.wait(lambda: self._observer.got.count(b"\n") == last, f"{last} deletes")
        self._observer.got = b""
        self._until(lambda: b"\nmemory-jobs: 0\n" in self.ask(b"stats\r\n"), "jobs stay")

    def _until(self, holds: Callable[[], bool], problem: str) -> None:
        if not any(holds() for _ in range(PROBES)):
            raise ProblemError(problem)

    def _check_that_it_sleeps(self) -> None:
        try:
            for _ in range(SPIN_WINDOWS):
                before_ns = self._watch.cpu_ns()
                time.sleep(SPIN_WINDOW_S)
                if self._watch.cpu_ns() - before_ns < SPIN_WINDOW_S * 1e9 / 2:
                    return
        except ProcessLookupError:
            raise ProblemError(f"the server has ended: {self._ended_by!r}") from None
        raise ProblemError("the server is busy, and has nothing to do")


def full_segments(folder: Path) -> list[int]:
    """The inodes of all segments but the last one in use and the spares, whose headers are still zero."""
    found = {}
    for path in folder.glob("fastbean-*.log"):
        with suppress(FileNotFoundError), path.open("rb") as file:
            if any(file.read(8)):
                found[int(path.stem.partition("-")[2])] = os.fstat(file.fileno()).st_ino
    return [inode for number, inode in found.items() if number != max(found)]
