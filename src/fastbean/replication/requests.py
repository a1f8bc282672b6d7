"""The words between a node, the driver of its stream, and the host of its engine."""

from __future__ import annotations

import enum
from typing import NamedTuple

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastbean.replication.messages import Claim


class Refusal(enum.Enum):
    """Why a message was not appended, as far as the answer says."""

    CONFLICT = "another message is at that place"  # the expected sequences are not those of the stream
    IN_PROCESS = "an earlier copy is still in process"
    FULL = "the stream is full"
    NO_LEADER = "the stream has no leader"
    WRONG_STREAM = "another stream has that subject"
    UNKNOWN = "no answer"  # none in time, a closed connection, or an error that says nothing about the outcome


class StreamInfo(NamedTuple):
    """The state of the stream.

    Attributes:
        created: when it was created, as the stream's servers write it; another text is another stream.
        first_seq: sequence of its first message.
        last_seq: sequence that its last message has, or had.
        messages: how many it has.
        bytes: their size.
        max_bytes: the limit on it, -1 for none.
        leader: the server that leads the stream.
    """

    created: str
    first_seq: int
    last_seq: int
    messages: int
    bytes: int = 0
    max_bytes: int = -1
    leader: str = ""


# To the driver of the stream. It tries nothing twice: any answer, and that there was none, goes to the node.


class Append(NamedTuple):
    """Append a message if the stream ends at ``after_seq``, and its last claim is ``claim_seq`` (0: none)."""

    id: int
    is_claim: bool
    data: bytes
    after_seq: int
    claim_seq: int


class AskInfo(NamedTuple):
    """Get a StreamInfo from the server that leads the stream."""

    id: int


class ReadMessage(NamedTuple):
    """Get the message ``seq`` from the server that leads the stream."""

    id: int
    seq: int


class Subscribe(NamedTuple):
    """Deliver the messages from ``from_seq`` to the end, and every new one. It replaces the feed before."""

    feed: int
    from_seq: int


class Unsubscribe(NamedTuple):
    """Deliver no more."""


class Purge(NamedTuple):
    """Remove all messages below ``below_seq`` but the claims."""

    id: int
    below_seq: int


class Reconnect(NamedTuple):
    """The server that the driver is connected to does not answer: use another one."""


# To the host of the engine, which does them in this order.


class Apply(NamedTuple):
    """Apply records to the engine, which serves no client.

    ``wall_offset_ns``: wall time less monotonic time, as the leader would see it now.
    """

    run: bytes
    records: bytes
    first_lsn: int
    wall_offset_ns: int


class CaughtUp(NamedTuple):
    """All that the stream had at the start is applied; ``leader``: the newest claim."""

    leader: Claim | None


class NewLeader(NamedTuple):
    """Another node leads."""

    claim: Claim
    epoch: int


class Lead(NamedTuple):
    """Write to the stream, beginning at ``first_lsn``; serve clients once `Serve` comes."""

    run: bytes
    epoch: int
    first_lsn: int


class Serve(NamedTuple):
    """The first batch is safe, which shows that this node leads: let clients in."""


class Safe(NamedTuple):
    """Everything below ``lsn`` is safe: its replies may be sent, and the next batch may begin."""

    lsn: int


class Stall(NamedTuple):
    """Nothing has been safe for too long: close all clients, keep the state."""


class Resume(NamedTuple):
    """The stall is over: let clients in."""


class HoldClock(NamedTuple):
    """Let no time pass in the engine: a ttr must not run out behind a reply that is held."""


class ReleaseClock(NamedTuple):
    """Let time pass again."""


class Room(NamedTuple):
    """How full the stream is."""

    bytes: int
    max_bytes: int


class DropEngine(NamedTuple):
    """Send no reply any more, close all clients, drop all state; then call `Node.engine_ready`."""

    why: str


class Stopped(NamedTuple):
    """The node has ended: ``status`` 0, or why it cannot continue."""

    status: int
    text: str


class Log(NamedTuple):
    """Log a line."""

    level: str
    event: str
    fields: Mapping[str, object]


Request = (
    Append | AskInfo | ReadMessage | Subscribe | Unsubscribe | Purge | Reconnect | Apply | CaughtUp | NewLeader | Lead
    | Serve | Safe | Stall | Resume | HoldClock | ReleaseClock | Room | DropEngine | Stopped | Log
)  # fmt: skip
