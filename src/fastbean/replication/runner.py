"""Runs a node in an asyncio loop: gives it the time, and has the stream and the host do what it asks for."""

from __future__ import annotations

import asyncio
from time import monotonic_ns, time_ns

from fastbean.replication.requests import (
    Append,
    AskInfo,
    Purge,
    ReadMessage,
    Reconnect,
    Subscribe,
    Unsubscribe,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from fastbean.replication.jetstream import JetStream
    from fastbean.replication.node import Node
    from fastbean.replication.requests import Request

NS_IN_S = 1_000_000_000
_FOR_THE_STREAM = (Append, AskInfo, Purge, ReadMessage, Reconnect, Subscribe, Unsubscribe)


class Runner:
    """Joins a node, its stream and its host.

    ``to_host`` is called with each request that is not for the stream, in order; it must not call `post`.

    Attributes:
        node: set before the first `post`.
        stream: the same.
    """

    def __init__(self, to_host: Callable[[Request], None]) -> None:
        self.node: Node
        self.stream: JetStream
        self._to_host = to_host
        self._timer: asyncio.TimerHandle | None = None

    def post(self, event: Callable[[Node, int], None]) -> None:
        """Have something happen to the node; ``event`` is called with it and the time."""
        node = self.node
        now_ns = monotonic_ns()
        node.wall_offset_ns = time_ns() - now_ns
        event(node, now_ns)
        while requests := node.take():
            for request in requests:
                if isinstance(request, _FOR_THE_STREAM):
                    self.stream.do(request)
                else:
                    self._to_host(request)
        self._set_timer(now_ns)

    def _set_timer(self, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_ns = self.node.wake_ns
        if wake_ns is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(wake_ns - now_ns, 0) / NS_IN_S, self.post, _tick)

    def close(self) -> None:
        """Let nothing more happen by itself."""
        if self._timer is not None:
            self._timer.cancel()


def _tick(node: Node, now_ns: int) -> None:
    node.tick(now_ns)
