"""What a node does while it leads: one message after the other, and never two at once."""

from __future__ import annotations

from fastbean.replication import messages
from fastbean.replication.messages import BATCH, HEADER_BYTES, RELEASE, Message
from fastbean.replication.outgoing import Outgoing
from fastbean.replication.requests import HoldClock, Purge, ReleaseClock, Resume, Room, Safe, Serve, Stall

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastbean.replication.node import Node
    from fastbean.replication.requests import StreamInfo

# HEARTBEATS: how many fit into a lease, so that a few late or repeated ones depose no leader.
# INFO_EVERY_NS: how soon the leader notices that the stream is filling up, or was made anew.
# PURGE_BYTES: a purge of 512 MiB stops a JetStream stream for half a second, one of this size for some 30 ms.
# PURGE_AGAIN_NS: when a purge that failed is tried again; nothing waits for it but room.
# All four are judgements; the times of purges were measured.
HEARTBEATS = 5
INFO_EVERY_NS = 1_000_000_000
PURGE_BYTES = 32 << 20
PURGE_AGAIN_NS = 5_000_000_000


class Leadership:
    """The time of one node as the leader; begins when its claim is in the stream.

    Attributes:
        out: the message that is being appended, or None.
        loop_ran_ns: when the event loop was known to be alive.
    """

    def __init__(self, node: Node, now_ns: int) -> None:
        self.out: Outgoing | None = None
        self.loop_ran_ns = now_ns
        self._node = node
        self._heard_ns = now_ns  # when the stream has acknowledged something
        self._pieces: Iterator[bytes] = iter(())
        self._piece: bytes | None = None  # the next part of the batch
        self._part = 0
        self._serves = False
        self._stalled = False
        self._holds_clock = False
        self._releases = False
        self._release_to: str | None = None
        self._beat_ns = now_ns + node.settings.lease_ns // HEARTBEATS
        self._info_ns = now_ns
        self._trim_lsn = 0
        self._purge_id = 0  # 0: none is open
        self._purge_seq = 0
        self._purge_ns: int | None = None

    @property
    def wake_ns(self) -> int:
        """When to call `tick` at the latest."""
        settings = self._node.settings
        times = [self._info_ns]
        if self.out is None:
            times.append(self._beat_ns)
        elif self.out.due_ns is not None:
            times.append(self.out.due_ns)
        if not self._holds_clock:
            times.append(self._heard_ns + settings.lease_ns // 2)
        if not self._stalled:
            times.append(self._heard_ns + settings.stall_ns)
        if self._purge_ns is not None:
            times.append(self._purge_ns)
        return min(times)

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        node = self._node
        if self.out is None:
            self._send_next(now_ns)
        else:
            node.send_again(self.out, now_ns)
        if now_ns >= self._info_ns:
            self._info_ns = now_ns + INFO_EVERY_NS
            node.ask_info(now_ns)
        silent_ns = now_ns - self._heard_ns
        if silent_ns >= node.settings.lease_ns // 2 and not self._holds_clock:
            self._holds_clock = True
            node.ask(HoldClock())
        if silent_ns >= node.settings.stall_ns and not self._stalled:
            self._stalled = True
            node.stalled(stalled=True)
            node.ask(Stall())
            node.log("ERROR", "stalled", ms=silent_ns // 1_000_000)
        if self._purge_ns is not None and self._purge_ns <= now_ns:
            self._purge_ns = None
            self._purge()

    # Messages

    def batch(self, first_lsn: int, records: bytes, now_ns: int) -> None:
        """Append a batch, in parts if it is larger than a message."""
        assert self._piece is None
        assert first_lsn == self._node.run.end_lsn
        self._pieces = messages.pieces_of(records, self._node.settings.message_bytes - HEADER_BYTES)
        self._piece = next(self._pieces)
        self._part = 0
        self.loop_ran_ns = now_ns
        self._send_next(now_ns)

    def _send_next(self, now_ns: int) -> None:
        """Append what comes next, unless another message is being appended."""
        if self.out is not None:
            return
        if self._piece is not None:
            piece, self._piece = self._piece, next(self._pieces, None)
            self._send(BATCH, piece, self._part, more=self._piece is not None, now_ns=now_ns)
            self._part += 1
        elif self._releases:
            self._send(RELEASE, messages.encode_release(self._release_to), now_ns=now_ns)
        elif self._beat_ns <= now_ns:
            settings = self._node.settings
            self._beat_ns = now_ns + settings.lease_ns // HEARTBEATS
            # A leader whose event loop hangs serves no client: another must lead.
            if now_ns - self.loop_ran_ns < settings.stall_ns:
                self._send(BATCH, b"", now_ns=now_ns)

    def _send(self, kind: int, payload: bytes, part: int = 0, *, more: bool = False, now_ns: int) -> None:
        node = self._node
        run = node.run
        message = Message(
            kind, run.epoch, run.number + 1, run.end_lsn, now_ns + node.wall_offset_ns, payload, part, more,
            chain=messages.chain_of(run.chain, payload),
        )  # fmt: skip
        self.out = Outgoing(message, messages.encode(message, run.chain), run.position, run.claim_seq)
        node.ask(self.out.send(node.new_id(), now_ns))

    def stored(self, now_ns: int) -> None:
        """The message is in the stream."""
        node = self._node
        assert self.out is not None
        out, self.out = self.out, None
        node.run.appended(out.after_seq + 1, out.message)
        self._heard_ns = now_ns
        self._beat_ns = now_ns + node.settings.lease_ns // HEARTBEATS
        if self._holds_clock:
            self._holds_clock = False
            node.ask(ReleaseClock())
        if out.message.payload and out.message.kind == BATCH and not out.message.more:
            node.ask(Safe(node.run.end_lsn))
            if not self._serves:
                self._serves = True
                node.ask(Serve())
                node.log("INFO", "leader")
        if self._stalled:
            self._stalled = False
            node.stalled(stalled=False)
            node.ask(Resume())
            node.log("INFO", "stall-over")
        if out.message.kind == RELEASE:
            node.released()
        else:
            self._send_next(now_ns)

    def release(self, to: str | None, now_ns: int) -> None:
        """Release the lead once the last batch is safe."""
        self._releases = True
        self._release_to = to
        self._send_next(now_ns)

    # Room

    def info(self, info: StreamInfo, now_ns: int) -> None:
        """The stream is this full."""
        self._info_ns = now_ns + INFO_EVERY_NS
        self._node.ask(Room(info.bytes, info.max_bytes))

    def trim(self, lsn: int) -> None:
        """No record below ``lsn`` is needed any more."""
        self._trim_lsn = max(self._trim_lsn, lsn)
        self._purge()

    def _purge(self) -> None:
        if self._purge_id:
            return
        self._purge_seq = self._purge_seq or self._node.run.trim(self._trim_lsn, PURGE_BYTES)
        if self._purge_seq:
            self._purge_id = self._node.new_id()
            self._node.ask(Purge(self._purge_id, self._purge_seq))

    def purged(self, id: int, is_done: bool, now_ns: int) -> None:
        """A purge has ended; go on with the next piece, or try it again later."""
        if id != self._purge_id:
            return
        self._purge_id = 0
        if is_done:
            self._purge_seq = 0
            self._purge()
        else:
            self._purge_ns = now_ns + PURGE_AGAIN_NS
