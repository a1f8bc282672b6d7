"""The standard library's selector with the methods of the compiled Poller.

``--event-loop selectors`` runs on it, and so does every system without epoll. It costs a few Python objects for
each ready descriptor, and it checks each socket once more than the compiled one, which has most of them reported once.
"""

import contextlib
import selectors


class SelectorPoller:
    """Waits for descriptors with ``selectors.DefaultSelector``; the methods work like those of Poller."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def add(self, fd: int, events: int, data: object) -> None:
        """Watches ``fd`` for ``events``; ``data`` is what ``data_of`` returns."""
        self._selector.register(fd, events, data)

    def change(self, fd: int, events: int) -> None:
        """Watches ``fd`` for other events. After an OSError it is no longer watched."""
        self._selector.modify(fd, events, self.data_of(fd))

    def remove(self, fd: int) -> None:
        """Stops watching ``fd``, which may be closed already. Does nothing if it is not watched."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(fd)

    def wait(self, timeout_ns: int) -> list[tuple[int, int]]:
        """Waits until something is ready, or for ``timeout_ns`` nanoseconds (-1: for ever); returns what is."""
        timeout_s = None if timeout_ns < 0 else timeout_ns / 1e9
        return [(key.fd, mask) for key, mask in self._selector.select(timeout_s)]

    def data_of(self, fd: int) -> object:
        """The data of ``fd``, or None if it is not watched."""
        watched = self._selector.get_map()
        return watched[fd].data if watched and fd in watched else None

    def close(self) -> None:
        """Stops watching everything. May be called again."""
        self._selector.close()
