"""Closing connections whose clients are still sending.

The kernel resets a socket that is closed with unread data, and then drops replies that are on their way to the client.
So what arrives is read and dropped until the client closes too, for a bounded time.
"""

import os
import selectors

from fastbean.base import clock, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DROPPED_AT_ONCE_BYTES = 1 << 18
LOOK_EVERY_S = 0.05  # how often to check the time


def linger(descriptors: "Sequence[int]", left_ns: "Callable[[], int]") -> None:
    """Reads all of these non-blocking sockets to their ends, and closes them.

    It gives up after ``limits.LINGER_NS``, or as soon as ``left_ns`` returns nothing above 0.
    """
    if not descriptors:
        return
    give_up_ns = clock.monotonic_ns() + limits.LINGER_NS
    still_open = set(descriptors)
    try:
        with selectors.DefaultSelector() as selector:
            for fd in descriptors:
                selector.register(fd, selectors.EVENT_READ)
            while still_open and left_ns() > 0 and clock.monotonic_ns() < give_up_ns:
                for key, _ in selector.select(LOOK_EVERY_S):
                    if not _drop_some(key.fd):
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        still_open.discard(key.fd)
    finally:
        for fd in still_open:
            os.close(fd)


def _drop_some(fd: int) -> bool:
    """Reads some data; returns whether the client is still connected."""
    try:
        return os.read(fd, DROPPED_AT_ONCE_BYTES) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
