"""The loop of one server: waits for sockets, hands what is ready to the hub, keeps a few timers.

It knows handlers and not jobs: the hub (compiled) serves connections; every other descriptor that is registered with
the selector has a function of one argument, the mask, as its data. One turn reads the clock once, after the wait, and
no wait is longer than a minute, so that no deadline can overflow it. With nothing to do it sleeps in the kernel.

``stop`` and ``wake`` may be called from any thread; a write to ``wake_fd`` also ends the wait, which is
what ``signal.set_wakeup_fd`` wants. Everything else belongs to the thread that runs the loop.
"""

import contextlib
import selectors
import socket
import time

from fastbean import clock, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Served(Protocol):
        """What the loop needs of a hub."""

        def handle(self, events: list[tuple[selectors.SelectorKey, int]], now_ns: int) -> None:
            """Serves what ``select`` gave; a key whose data is a function is called with its mask."""

        def tick(self, now_ns: int) -> int:
            """Does what is due; returns nanoseconds until the next call: 0 at once, -1 nothing is scheduled."""


MEMORY_RETRY_S = 0.1


class Loop:
    """One selector, one hub and their timers.

    ``now_ns`` is the time of the turn that runs. ``clock_ns`` gives monotonic nanoseconds; tests pass their own.
    """

    def __init__(
        self, selector: selectors.BaseSelector, hub: "Served", clock_ns: "Callable[[], int]" = clock.monotonic_ns
    ) -> None:
        self._selector = selector
        self._hub = hub
        self._clock_ns = clock_ns
        self._timers: list[tuple[int, Callable[[], None]]] = []
        self._wait_ns = 0
        self._stopped = False
        self.now_ns = clock_ns()
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        selector.register(self._wake_out, selectors.EVENT_READ, self._woken)

    @property
    def wake_fd(self) -> int:
        """The descriptor whose writing ends a wait; non-blocking."""
        return self._wake_in.fileno()

    def wake(self) -> None:
        """Ends the wait of the loop, from any thread or signal handler."""
        with contextlib.suppress(OSError):  # full: it is waking anyway; closed: there is no loop left to wake
            self._wake_in.send(b"\0")

    def stop(self) -> None:
        """Lets ``run`` return after the turn that runs now; before ``run``, at once."""
        self._stopped = True
        self.wake()

    def call_later(self, delay_ns: int, callback: "Callable[[], None]") -> None:
        """Has ``callback`` called once, ``delay_ns`` nanoseconds after the time of this turn."""
        self._timers.append((self.now_ns + delay_ns, callback))

    def run(self) -> None:
        """Turns until ``stop``. A turn that finds no memory is given up, and the next one comes a moment later."""
        while not self._stopped:
            try:
                self.turn()
            except MemoryError:
                time.sleep(MEMORY_RETRY_S)

    def turn(self, max_wait_ns: int = limits.MAX_WAIT_NS) -> None:
        """One turn: wait, at most ``max_wait_ns`` nanoseconds; serve; run the timers that are due."""
        events = self._selector.select(self._timeout_ns(max_wait_ns) / 1e9)
        self.now_ns = self._clock_ns()
        self._hub.handle(events, self.now_ns)
        self._wait_ns = self._hub.tick(self.now_ns)
        if self._timers:
            self._run_timers()

    def close(self) -> None:
        """Gives the waking descriptors back; the selector stays its owner's."""
        self._selector.unregister(self._wake_out)
        self._wake_out.close()
        self._wake_in.close()

    def _timeout_ns(self, max_wait_ns: int) -> int:
        if self._wait_ns == 0:
            return 0
        wait_ns = max_wait_ns if self._wait_ns < 0 else min(self._wait_ns, max_wait_ns)
        if self._timers:
            wait_ns = min(wait_ns, min(due_ns for due_ns, _ in self._timers) - self.now_ns)
        return max(0, min(wait_ns, limits.MAX_WAIT_NS))

    def _woken(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)

    def _run_timers(self) -> None:
        due = [callback for due_ns, callback in self._timers if due_ns <= self.now_ns]
        self._timers = [timer for timer in self._timers if timer[0] > self.now_ns]
        for callback in due:
            callback()
