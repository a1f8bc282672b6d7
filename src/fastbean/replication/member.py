"""A node in a thread of its own, beside the event loop of a server.

The thread runs the node and its connection to the stream. What the node wants of the engine is done by the server's
loop, in order; the loop is woken by a pipe.
"""

from __future__ import annotations

import asyncio
import os
import queue
import random
import threading
from time import monotonic_ns, time_ns

from fastbean.binlog.descriptors import Pipe
from fastbean.replication.jetstream import JetStream
from fastbean.replication.messages import INSTANCE_BYTES, KEY_BYTES, RUN_BYTES
from fastbean.replication.node import Node, State
from fastbean.replication.requests import Apply, Log, Safe, Stopped
from fastbean.replication.runner import Runner
from fastbean.replication.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from fastbean.replication.engine_host import EngineHost
    from fastbean.replication.requests import Request
    from fastbean.replication.stream_url import StreamURL

# READ_AHEAD_BYTES: of records that the engine has not applied yet. More would only take memory: an engine applies
# faster than a network delivers. LARGEST_MESSAGE_BYTES: a batch that is larger goes in parts, between which nothing
# else becomes safe. SMALLEST_MESSAGE_BYTES: with less, each message would be mostly its own headers. Judgements.
READ_AHEAD_BYTES = 8 << 20
LARGEST_MESSAGE_BYTES = 512 << 10
SMALLEST_MESSAGE_BYTES = 4 << 10
STATUS_FAILED = 70  # EX_SOFTWARE of sysexits.h


class Member:
    """One node of a cluster; ``log`` is called in any thread with a level, an event and fields.

    Attributes:
        name: of the node.
        request_pipe: the server's loop watches its reading end, and calls `take` then.
    """

    def __init__(
        self,
        url: StreamURL,
        options: Mapping[str, object],
        *,
        name: str,
        address: str,
        version: str,
        lease_ns: int,
        stall_ns: int,
        never_lead: bool,
        log: Callable[..., None],
    ) -> None:
        self.name = name
        self.request_pipe = Pipe()
        self._log = log
        self._settings = Settings(
            name=name,
            instance=os.urandom(INSTANCE_BYTES),
            address=address,
            key=os.urandom(KEY_BYTES),
            version=version,
            run=os.urandom(RUN_BYTES),
            lease_ns=lease_ns,
            stall_ns=stall_ns,
            message_bytes=LARGEST_MESSAGE_BYTES,
            never_lead=never_lead,
        )
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._unapplied_bytes = 0  # of the requests in the queue, in this thread and that of the loop
        self._count_lock = threading.Lock()
        self._host: EngineHost | None = None
        self._trimmed_lsn = 0
        self._thread: threading.Thread | None = None
        self._loop = asyncio.new_event_loop()
        self._runner = Runner(self._for_the_host)
        self._stream = JetStream(url.servers, url.name, self._runner.post, trouble=self._trouble, options=options)
        self._runner.stream = self._stream
        # It exists before there is a connection, so that it can be stopped.
        jitter = random.Random()  # noqa: S311 - it only keeps nodes from claiming at the same time
        self._runner.node = Node(self._settings, jitter, time_ns() - monotonic_ns())
        self._last_trouble = ""
        self._ended = threading.Event()

    # The server's thread

    def start(self, host: EngineHost) -> None:
        """Begin, with an engine without jobs."""
        self._host = host
        self._thread = threading.Thread(target=self._run, name="fastbean-node", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether it was started, and not stopped."""
        return self._thread is not None

    def take(self) -> list[Request]:
        """What the node wants of the engine, in order."""
        os.read(self.request_pipe.reading, 65536)
        requests = []
        while not self._requests.empty():
            requests.append(self._requests.get())
        return requests

    def applied(self, size: int) -> None:
        """The engine has applied records of ``size`` bytes."""
        with self._count_lock:
            self._unapplied_bytes -= size
            may_read = self._unapplied_bytes <= READ_AHEAD_BYTES
        if may_read:
            self._call(self._stream.may_read.set)

    def post(self, event: Callable[[Node, int], None]) -> None:
        """Have something happen to the node, from any thread."""
        self._call(self._runner.post, event)

    def leave_engine(self) -> None:
        """The engine is about to be closed: touch it no more. Returns once that is so."""
        has_left = threading.Event()
        self._call(self._leave_engine, has_left)
        while self._thread is not None and self._thread.is_alive() and not has_left.wait(1):
            pass

    def use_engine(self, host: EngineHost) -> None:
        """The engine before was dropped; this one has no jobs."""
        self._call(self._use_engine, host)

    def end_sink(self, host: EngineHost, after_s: float) -> None:
        """Let the loop wait no longer than ``after_s`` for a batch of this engine."""
        self._call(lambda: self._loop.call_later(after_s, host.sink.end))

    def stop(self, patience_s: float) -> bool:
        """Release the lead, end the thread; returns whether the node has ended within ``patience_s``."""
        if self._thread is None:
            self._loop.close()
            self.request_pipe.close()
            return True
        self.post(lambda node, now_ns: node.stop(now_ns))
        is_clean = self._ended.wait(patience_s)
        self._call(self._loop.stop)
        self._thread.join()
        self._thread = None
        self.request_pipe.close()
        return is_clean

    def _call(self, function: Callable[..., object], *values: object) -> None:
        if self._thread is not None and self._thread.is_alive() and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *values)

    # The node's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_exception_handler(self._failed)
        try:
            begin = self._loop.create_task(self._begin())
            self._loop.run_forever()
            begin.cancel()
            # What fails from here on fails because it ends.
            self._loop.set_exception_handler(lambda _loop, _context: None)
            self._loop.run_until_complete(self._end())
        finally:
            self._ended.set()
            self._loop.close()

    async def _begin(self) -> None:
        assert self._host is not None
        self._use_pipe(self._host)
        self._stream.connect()
        await self._stream.wait_connected()
        largest = min(self._stream.message_bytes, LARGEST_MESSAGE_BYTES)
        self._runner.node.settings = self._settings._replace(message_bytes=max(largest, SMALLEST_MESSAGE_BYTES))
        if self._runner.node.state is not State.STOPPED:
            self._runner.post(lambda node, now_ns: node.start(now_ns))

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Something has raised: what the node believes may be wrong, so it must not go on."""
        error = context.get("exception")
        text = f"{context['message']}: {error!r}"
        self._log("ERROR", "node-failed", reason=text)
        self._for_the_host(Stopped(STATUS_FAILED, text))

    async def _end(self) -> None:
        self._runner.close()
        await self._stream.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    def _trouble(self, text: str) -> None:
        """A server refuses something; the same text is logged once."""
        if text != self._last_trouble:
            self._last_trouble = text
            self._log("WARNING", "stream-trouble", text=text)

    def _for_the_host(self, request: Request) -> None:
        if isinstance(request, Log):
            report = self._log
            report(request.level, request.event, **request.fields)
            return
        if isinstance(request, Safe):
            if self._host is not None:
                self._host.sink.appended()
            return
        if isinstance(request, Apply):
            with self._count_lock:
                self._unapplied_bytes += len(request.records)
                must_wait = self._unapplied_bytes > READ_AHEAD_BYTES
            if must_wait:
                self._stream.may_read.clear()
        self._requests.put(request)
        os.write(self.request_pipe.writing, b"\0")
        if isinstance(request, Stopped):
            self._ended.set()

    def _leave_engine(self, has_left: threading.Event) -> None:
        if self._host is not None:
            self._loop.remove_reader(self._host.wake_pipe.reading)
        self._host = None
        has_left.set()

    def _use_engine(self, host: EngineHost) -> None:
        self._host = host
        self._use_pipe(host)
        self._runner.post(lambda node, now_ns: node.engine_ready(now_ns))

    def _use_pipe(self, host: EngineHost) -> None:
        self._trimmed_lsn = 0
        self._loop.add_reader(host.wake_pipe.reading, self._woken, host)

    def _woken(self, host: EngineHost) -> None:
        """The engine has a batch, or something to trim."""
        os.read(host.wake_pipe.reading, 4096)
        batch = host.sink.take()
        if batch is not None:
            first_lsn, records = batch
            self._runner.post(lambda node, now_ns: node.batch(first_lsn, records, now_ns))
        if host.sink.trimmed != self._trimmed_lsn:
            self._trimmed_lsn = lsn = host.sink.trimmed
            self._runner.post(lambda node, _now_ns: node.trim(lsn))
