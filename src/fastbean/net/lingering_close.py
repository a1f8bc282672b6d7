"""The end of a server: how long it waits for replies to arrive, and how it closes sockets whose clients still send.

**When a stop waits.** A reply is delivered once the client's system has acknowledged all of it, and it can still be
delivered while it waits for the binlog, or while that system keeps acknowledging, however slowly. If a client has
acknowledged nothing for PATIENCE (a fifth of ``--stop-timeout``), the server assumes that it does not read, and stops
waiting for it. ``--stop-timeout`` limits the whole wait. A command that was received in part gets no reply.

**How a socket is closed.** If a socket is closed with unread bytes in it, or receives bytes afterwards, the kernel
resets the connection and discards the replies on their way to the client. So if the client may still be sending, its
bytes are read and dropped while replies are on their way, or until no more bytes come.

Only Linux reports what was acknowledged. Elsewhere a stop waits the full time for clients that do not read their
replies, and for PATIENCE for a client that was still sending.
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
# How often acknowledgements are checked, and how long a client must be silent to count as finished with sending.
LOOK_EVERY_NS = 50_000_000
# Linux counts the end of the stream, which is sent after the last reply, as one byte.
END_OF_STREAM_BYTES = 1
UNKNOWN_BYTES = 1


def unacknowledged_bytes(fd: int) -> int | None:
    """The number of sent bytes that the client's system has not acknowledged; None if this system cannot say."""
    if sys.platform != "linux":
        return None
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return None


class Delivery:
    """Whether replies are still arriving: some bytes did within the last ``patience_ns`` nanoseconds.

    ``now_ns`` is the monotonic time at which the wait begins.
    """

    def __init__(self, patience_ns: int, now_ns: int) -> None:
        self._patience_ns = patience_ns
        self._arrived_ns = now_ns
        self._left_bytes = 0

    def goes_on(self, left_bytes: int, now_ns: int) -> bool:
        """Call it repeatedly, with the number of bytes that have not arrived yet and the monotonic time."""
        if left_bytes < self._left_bytes:
            self._arrived_ns = now_ns
        self._left_bytes = left_bytes
        return now_ns - self._arrived_ns < self._patience_ns


def undelivered_bytes(sockets: Collection[tuple[int, int]]) -> int | None:
    """The undelivered bytes of these (descriptor, bytes that are not sent yet); None if this system cannot say."""
    total = 0
    for fd, size in sockets:
        on_the_way = unacknowledged_bytes(fd)
        if on_the_way is None:
            return None
        total += size + on_the_way
    return total


class _Sender:
    """One socket that is read until its client has closed it, or until reading no longer helps."""

    def __init__(self, fd: int, patience_ns: int, now_ns: int) -> None:
        self.fd = fd
        self._delivery = Delivery(patience_ns, now_ns)
        self._heard_ns = now_ns - LOOK_EVERY_NS

    def is_open_after_reading(self, now_ns: int) -> bool:
        """Reads and drops some received bytes. Returns whether the client is still connected."""
        try:
            data = os.read(self.fd, DROPPED_AT_ONCE_BYTES)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._heard_ns = now_ns
        return data != b""

    def is_waited_for(self, now_ns: int) -> bool:
        """Whether the client is sending, or replies are on their way to it."""
        if now_ns - self._heard_ns < LOOK_EVERY_NS:
            return True
        on_the_way = unacknowledged_bytes(self.fd)
        if on_the_way is None:
            return self._delivery.goes_on(UNKNOWN_BYTES, now_ns)
        return on_the_way > END_OF_STREAM_BYTES and self._delivery.goes_on(on_the_way, now_ns)


def linger(descriptors: Collection[int], left_ns: Callable[[], int], patience_ns: int) -> None:
    """Reads and drops what these half-closed, non-blocking sockets receive while that helps, then closes them.

    It gives up on one after ``patience_ns`` nanoseconds in which no reply arrived, and on all of them after
    ``limits.LINGER_NS``, or once ``left_ns`` returns 0 or less.
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
    """Reads from the senders until none is left. Finished ones are closed and removed."""
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
