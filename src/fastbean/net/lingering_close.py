"""The end of a server: how long it waits for replies to arrive, and how it closes sockets that are still sent to.

**When a stop waits.** A reply is delivered once the client's system has acknowledged all of it, and it can still be
delivered as long as that system goes on acknowledging, however slowly, and while it waits for the binlog. A client that
has acknowledged nothing for PATIENCE (a fifth of ``--stop-timeout``) is taken for one that does not read, and is not
waited for any longer. ``--stop-timeout`` bounds the whole. A command that was sent in part is owed nothing.

**How a socket is closed.** A socket that is closed while something lies in it unread, or that is sent to afterwards, is
reset by the kernel, and replies on their way to the client are thrown away. So where the client may still be sending,
what comes is read and dropped while replies are on their way, or for as long as it keeps coming.

Only Linux is asked what was acknowledged. Elsewhere a stop waits for every client that does not read its replies, and
for PATIENCE for one that was in the midst of sending.
"""

from __future__ import annotations

import os
import selectors
import sys

from fastbean.base import clock, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

PATIENCE = 1 / 5  # of --stop-timeout
DROPPED_AT_ONCE_BYTES = 1 << 18
# How often it is looked at what was acknowledged, and how long a client has to be silent to be done with sending.
LOOK_EVERY_NS = 50_000_000
# Linux counts the end of the stream, which is sent behind the last reply, as one byte.
END_OF_STREAM_BYTES = 1
UNKNOWN_BYTES = 1


def unacknowledged_bytes(fd: int) -> int | None:
    """How much was sent into a socket and not acknowledged by the client's system; None if this system cannot say."""
    if sys.platform != "linux":
        return None
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return None


class Delivery:
    """Whether replies still arrive: some bytes have, within the last ``patience_ns`` nanoseconds.

    ``now_ns`` is the monotonic time at which the wait begins.
    """

    def __init__(self, patience_ns: int, now_ns: int) -> None:
        self._patience_ns = patience_ns
        self._arrived_ns = now_ns
        self._left_bytes = 0

    def goes_on(self, left_bytes: int, now_ns: int) -> bool:
        """To be called again and again with what has not arrived yet, in bytes, and the monotonic time."""
        if left_bytes < self._left_bytes:
            self._arrived_ns = now_ns
        self._left_bytes = left_bytes
        return now_ns - self._arrived_ns < self._patience_ns


def undelivered_bytes(sockets: Collection[tuple[int, int]]) -> int | None:
    """What has not arrived of the replies to these (descriptor, bytes that are not sent yet); None: nobody knows."""
    total = 0
    for fd, size in sockets:
        on_the_way = unacknowledged_bytes(fd)
        if on_the_way is None:
            return None
        total += size + on_the_way
    return total


class _Sender:
    """One socket that is read until its client has closed it, or nothing more can be gained by reading."""

    def __init__(self, fd: int, patience_ns: int, now_ns: int) -> None:
        self.fd = fd
        self._delivery = Delivery(patience_ns, now_ns)
        self._heard_ns = now_ns - LOOK_EVERY_NS

    def is_open_after_reading(self, now_ns: int) -> bool:
        """Reads some of what has come, and drops it. Whether the client is still there."""
        try:
            data = os.read(self.fd, DROPPED_AT_ONCE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard_ns = now_ns
        return data != b""

    def is_waited_for(self, now_ns: int) -> bool:
        """Whether it is sending, or replies are on their way to it."""
        if now_ns - self._heard_ns < LOOK_EVERY_NS:
            return True
        on_the_way = unacknowledged_bytes(self.fd)
        if on_the_way is None:
            return self._delivery.goes_on(UNKNOWN_BYTES, now_ns)
        return on_the_way > END_OF_STREAM_BYTES and self._delivery.goes_on(on_the_way, now_ns)


def linger(descriptors: Collection[int], left_ns: Callable[[], int], patience_ns: int) -> None:
    """Reads and drops what comes from these half-closed, non-blocking sockets while that helps, and closes them.

    It gives one up after ``patience_ns`` nanoseconds in which no reply has arrived, and all of them after
    ``limits.LINGER_NS``, or as soon as ``left_ns`` returns nothing above 0.
    """
    if not descriptors:
        return
    now_ns = clock.monotonic_ns()
    give_up_ns = now_ns + limits.LINGER_NS
    senders = {fd: _Sender(fd, patience_ns, now_ns) for fd in descriptors}
    try:
        with selectors.DefaultSelector() as selector:
            for sender in senders.values():
                selector.register(sender.fd, selectors.EVENT_READ, sender)
            _read_on(selector, senders, lambda: left_ns() > 0 and clock.monotonic_ns() < give_up_ns)
    finally:
        for fd in senders:
            os.close(fd)


def _read_on(selector: selectors.BaseSelector, senders: dict[int, _Sender], is_in_time: Callable[[], bool]) -> None:
    """Reads from the senders until none is left. Those that are done with are closed and taken out."""
    wait_ns = 0
    while is_in_time():
        ready = selector.select(wait_ns / 1e9)
        now_ns = clock.monotonic_ns()
        gone = [key.fd for key, _ in ready if not key.data.is_open_after_reading(now_ns)]
        gone += [fd for fd, sender in senders.items() if fd not in gone and not sender.is_waited_for(now_ns)]
        for fd in gone:
            selector.unregister(fd)
            del senders[fd]
            os.close(fd)
        if not senders:
            return
        wait_ns = LOOK_EVERY_NS
