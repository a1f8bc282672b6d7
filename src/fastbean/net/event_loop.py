"""The event loop of one server: has the hub run its iterations, keeps a few timers, and stops.

It knows handlers and not jobs. The hub (compiled) waits for sockets and serves connections, iteration after iteration;
every other descriptor that the poller watches has a callback of one argument, the mask, as its data. The hub returns
when a callback ran, when a timer is due, and once a minute. With nothing to do it sleeps in the kernel.

``stop``, ``wake`` and ``call_soon`` may be called from any thread; a write to ``wake_fd`` also ends the wait, as
``signal.set_wakeup_fd`` needs it. Everything else belongs to the thread that runs the loop.
"""

from __future__ import annotations

import contextlib
import selectors
import time
from _socket import socketpair  # that of `socket` can lose a descriptor when a signal handler raises

from fastbean.base import clock, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from fastbean.net.poller import Poller
    from fastbean.net.selector_poller import SelectorPoller

    class Served(Protocol):
        """The part of a hub that the loop uses."""

        now_ns: int

        def serve(self, until_ns: int, once: bool = False) -> None:
            """Waits and serves until a callback ran, or until ``until_ns``; or for one iteration."""


MEMORY_RETRY_S = 0.1


class Loop:
    """One hub, the poller on which it waits, and a few timers."""

    def __init__(self, poller: Poller | SelectorPoller, hub: Served) -> None:
        self._poller = poller
        self._hub = hub
        self._timers: list[tuple[int, Callable[[], None]]] = []
        self._calls: list[Callable[[], None]] = []
        self._stopped = False
        hub.now_ns = clock.monotonic_ns()
        self._wake_out, self._wake_in = socketpair()
        try:
            self._wake_out.setblocking(False)
            self._wake_in.setblocking(False)
            poller.add(self._wake_out.fileno(), selectors.EVENT_READ, self._woken)
        except BaseException:
            self._wake_out.close()
            self._wake_in.close()
            raise

    @property
    def now_ns(self) -> int:
        """The time of the current iteration, in monotonic nanoseconds."""
        return self._hub.now_ns

    @property
    def wake_fd(self) -> int:
        """A descriptor that ends a wait when it is written to; non-blocking."""
        return self._wake_in.fileno()

    def wake(self) -> None:
        """Ends the wait of the loop, from any thread or signal handler."""
        with contextlib.suppress(OSError):  # full: it is waking anyway; closed: there is no loop left to wake
            self._wake_in.send(b"\0")

    def stop(self) -> None:
        """Makes ``run`` return after the current iteration; before ``run``, at once."""
        self._stopped = True
        self.wake()

    def call_later(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Calls ``callback`` once, ``delay_ns`` nanoseconds after the time of this iteration.

        A callback that raises is called again in the next iteration, if there is one.
        """
        self._timers.append((self.now_ns + delay_ns, callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` once, in the next iteration; from any thread. It must not raise."""
        self._calls.append(callback)
        self.wake()

    def run(self) -> None:
        """Iterates until ``stop``. An iteration that runs out of memory is abandoned, and retried a moment later."""
        while not self._stopped:
            try:
                self._serve(limits.MAX_WAIT_NS)
            except MemoryError:
                time.sleep(MEMORY_RETRY_S)

    def iterate(self, max_wait_ns: int) -> None:
        """One iteration: wait, at most ``max_wait_ns`` nanoseconds; serve; run the timers that are due."""
        self._serve(max_wait_ns, once=True)

    def _serve(self, max_wait_ns: int, *, once: bool = False) -> None:
        until_ns = self.now_ns + min(max_wait_ns, limits.MAX_WAIT_NS)
        for due_ns, _ in self._timers:
            until_ns = min(until_ns, due_ns)
        self._hub.serve(until_ns, once)
        if self._timers:
            self._run_timers()

    def close(self) -> None:
        """Closes the waking descriptors; the poller stays its owner's."""
        self._poller.remove(self._wake_out.fileno())
        self._wake_out.close()
        self._wake_in.close()

    def _woken(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)
        while self._calls:
            self._calls.pop(0)()

    def _run_timers(self) -> None:
        now_ns = self.now_ns
        for timer in [timer for timer in self._timers if timer[0] <= now_ns]:
            timer[1]()
            # Only now: an iteration that runs out of memory here loses no timer.
            self._timers.remove(timer)
