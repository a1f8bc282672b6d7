"""What a node is told at its start."""

from __future__ import annotations

from typing import NamedTuple


class Settings(NamedTuple):
    """What a node is told at its start.

    Attributes:
        name: of the node.
        instance: 8 random bytes, other in each process.
        address: HOST:PORT, where other nodes reach it.
        key: 32 random bytes, for the introduction of proxied clients.
        version: of fastbean.
        run: 16 random bytes: the identity of the run, if this node makes the first claim of all.
        lease_ns: how long the leader may be silent.
        stall_ns: how long nothing may become safe before clients are closed.
        message_bytes: the largest message that the stream takes.
        never_lead: this node only keeps a copy.
    """

    name: str
    instance: bytes
    address: str
    key: bytes
    version: str
    run: bytes
    lease_ns: int
    stall_ns: int
    message_bytes: int
    never_lead: bool = False
