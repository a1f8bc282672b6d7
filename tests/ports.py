"""TCP ports for servers that have to be told their port: real beanstalkd cannot choose one itself."""

from __future__ import annotations

import fcntl
import random
import socket
import tempfile
from pathlib import Path
from typing import IO, Self

# Below the ports that systems give to clients: 32768 and above on Linux, 49152 and above elsewhere.
PORTS = range(20000, 32000)


class ReservedPort:
    """A free port, kept from every other test of this machine until `release`.

    A port that was only found free may be taken before the server binds it, by the server of another test. Both tests
    would then talk to that one.
    """

    def __init__(self, host: str) -> None:
        folder = Path(tempfile.gettempdir())
        for number in random.sample(PORTS, len(PORTS)):
            self._lock = (folder / f"fastbean-tests-port-{number}").open("wb")
            if self._is_ours() and _is_free(host, number):
                self.number = number
                return
            self._lock.close()
        raise OSError(f"no port of {host} in {PORTS} is free")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Lets other tests have the port; may be called again."""
        self._lock.close()

    def _is_ours(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    _lock: IO[bytes]


def _is_free(host: str, number: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
        except OSError:
            return False
    return True
