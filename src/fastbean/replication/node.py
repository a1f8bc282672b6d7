"""A node of the replicated binlog: it follows the stream, claims the lead, leads, and gives the lead up.

The node does no I/O, reads no clock and starts no thread. Its driver calls a method for each answer, message and lapse
of time, and then does what `Node.take` returns, in that order.

The stream alone decides. A claim is appended only behind everything that this node has applied, and each message of a
leader only behind the one before it and under its own claim. So a leader that was replaced, frozen or cut off cannot
append anything, and nothing that it has answered since can have been sent: every reply waits for the batch that was
open when it was made. Times decide only when a node tries to lead; no clock is compared with another machine's.
"""

from __future__ import annotations

import enum

from fastbean.replication import messages
from fastbean.replication.leadership import Leadership
from fastbean.replication.messages import CLAIM, Claim, Message, MessageError
from fastbean.replication.outgoing import ANSWER_NS, Outgoing, Verdict
from fastbean.replication.requests import (
    Apply,
    AskInfo,
    CaughtUp,
    DropEngine,
    Lead,
    Log,
    NewLeader,
    ReadMessage,
    Reconnect,
    Refusal,
    Request,
    Stopped,
    StreamInfo,
    Subscribe,
    Unsubscribe,
)  # fmt: skip
from fastbean.replication.run import Records, Release, Run, StreamError, TrimmedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from random import Random

    from fastbean.replication.settings import Settings

NS_IN_S = 1_000_000_000
# The second status is that of `sysexits.h` for a file of the wrong form; the first one that for a service that is not
# there.
STATUS_UNUSABLE = 75
STATUS_WRONG_STREAM = 76
# FIRST_BACK_OFF_NS and LAST_BACK_OFF_NS: a server refuses consumers that are created in a tight loop.
# INFO_NS: the answer to a question about the stream takes no longer, unless the stream has no leader.
FIRST_BACK_OFF_NS = 50_000_000
LAST_BACK_OFF_NS = NS_IN_S
INFO_NS = NS_IN_S
# Of the lease, at most: so standbys do not all claim at once.
JITTER = 0.1


class State(enum.Enum):
    """What a node is doing."""

    CATCHING_UP = "catching-up"
    STANDBY = "standby"
    CLAIMING = "claiming"
    LEADING = "leading"
    STALLED = "stalled"
    DEPOSED = "deposed"  # until the engine is dropped
    RELEASED = "released"  # the same, by its own will
    STOPPED = "stopped"


class Node:
    """See the module's text. Every ``now_ns`` is this machine's monotonic time.

    Attributes:
        state: a `State`.
        run: what it has read of the stream.
        wall_offset_ns: wall time less monotonic time; the driver keeps it right.
    """

    def __init__(self, settings: Settings, random: Random, wall_offset_ns: int) -> None:
        self.settings = settings
        self.wall_offset_ns = wall_offset_ns
        self.state = State.CATCHING_UP
        self.run = Run()
        self._random = random
        self._requests: list[Request] = []
        self._last_id = 0
        self._created: str | None = None
        self._stream_leader = ""
        self._is_lost = False  # the stream has not answered the last question
        # Questions: at most one is open, an AskInfo or a ReadMessage.
        self._asked: AskInfo | ReadMessage | None = None
        self._asked_position = 0  # what was known when it was asked: answers may be late
        self._ask_ns: int | None = None  # when to give up the open one, or to ask for info again
        # The feed.
        self._feed = 0
        self._place = 0
        self._back_off_ns = FIRST_BACK_OFF_NS
        self._subscribe_ns: int | None = None
        self._feed_due_ns: int | None = None  # while catching up: when the feed counts as dead
        self._target_seq = 0
        self._newest_offset_ns: int | None = None
        self._missing_seq = 0
        # The lease.
        self._lease_ends_ns = 0
        self._claim: Outgoing | None = None
        self._leadership: Leadership | None = None
        self._stop_asked = False

    def take(self) -> list[Request]:
        """What is to be done, in this order."""
        requests, self._requests = self._requests, []
        return requests

    @property
    def wake_ns(self) -> int | None:
        """When to call `tick` at the latest."""
        times = [self._ask_ns, self._subscribe_ns, self._feed_due_ns]
        if self._leadership is not None:
            times.append(self._leadership.wake_ns)
        elif self._claim is not None:
            times.append(self._claim.due_ns)
        elif self.state is State.STANDBY and self._asked is None and self._ask_ns is None:
            times.append(self._lease_ends_ns)
        return min((time for time in times if time is not None), default=None)

    def new_id(self) -> int:
        """An id for a request."""
        self._last_id += 1
        return self._last_id

    def ask(self, request: Request) -> None:
        """Have something done."""
        self._requests.append(request)

    def log(self, level: str, event: str, **fields: object) -> None:
        """Log a line, with the place of this node in the stream."""
        self.ask(Log(level, event, {"epoch": self.run.epoch, "sequence": self.run.position, **fields}))

    # What the operator and the engine's host want

    def start(self, now_ns: int) -> None:
        """Begin. The host has an empty engine."""
        self._follow(now_ns)

    def stop(self, now_ns: int) -> None:
        """Commit what the engine has handed over, release the lead, and end with `Stopped`."""
        self._stop_asked = True
        if self._leadership is not None:
            self._leadership.release(None, now_ns)
        elif self._claim is None:
            self._end(0, "stopped")

    def hand_over(self, to: str | None, now_ns: int) -> None:
        """Release the lead in favour of the node ``to``, or of any; continue as a standby."""
        if self._leadership is not None:
            self._leadership.release(to, now_ns)

    def engine_ready(self, now_ns: int) -> None:
        """The engine was dropped, as asked for, and there is an empty one."""
        if self.state in (State.DEPOSED, State.RELEASED):
            self._follow(now_ns)

    def engine_failed(self, text: str) -> None:
        """The engine cannot continue."""
        self._end(STATUS_UNUSABLE, text)

    def batch(self, first_lsn: int, records: bytes, now_ns: int) -> None:
        """The engine, which leads, has written a batch; `Safe` answers. One of a leader that was deposed is dropped."""
        if self._leadership is not None:
            self._leadership.batch(first_lsn, records, now_ns)

    def trim(self, lsn: int) -> None:
        """A safe record says that no record below ``lsn`` is needed."""
        if self._leadership is not None:
            self._leadership.trim(lsn)

    def loop_ran(self, now_ns: int) -> None:
        """The event loop that serves the clients is alive."""
        if self._leadership is not None:
            self._leadership.loop_ran_ns = now_ns

    # Answers

    def acknowledged(self, id: int, seq: int, now_ns: int) -> None:
        """An Append succeeded: the message has the sequence ``seq``."""
        out = self._outgoing()
        if out is None or not out.is_own(id):
            return
        if seq != out.after_seq + 1:
            text = f"a message was appended at {seq} instead of {out.after_seq + 1}: another stream answers"
            self._end(STATUS_WRONG_STREAM, text)
        else:
            self._stored(now_ns)

    def refused(self, id: int, refusal: Refusal, text: str, now_ns: int) -> None:
        """An Append failed, or its outcome is unknown; ``text`` is what the stream says about it."""
        out = self._outgoing()
        if out is None or not out.is_current(id):
            return
        was_full = out.is_full
        verdict = out.refused(refusal, now_ns)
        if out.is_full and not was_full:
            self.log("ERROR", "stream-full", reason=text)
        if verdict is Verdict.LOST:
            self._lost(f"another node has written to the stream ({text})", now_ns)
        elif verdict is Verdict.LOOK:
            self._look(out, now_ns)
        elif verdict is Verdict.WRONG_STREAM:
            self._end(STATUS_WRONG_STREAM, f"the stream is not the one of this name any more ({text})")

    def info(self, id: int, info: StreamInfo | None, now_ns: int) -> None:
        """The answer to AskInfo; None if there was none, or the stream has no leader."""
        if not isinstance(self._asked, AskInfo) or self._asked.id != id:
            return
        self._asked = self._ask_ns = None
        if info is None:
            self._no_info(now_ns)
            return
        if self._is_lost:
            self._is_lost = False
            self.log("INFO", "stream-back")
        if not self._is_same_stream(info):
            return
        if self._leadership is not None:
            self._leadership.info(info, now_ns)
        elif self.state is State.CATCHING_UP:
            self._catch_up(info, now_ns)
        elif self.state is State.STANDBY:
            self._lease_over(info, now_ns)

    def message(self, id: int, seq: int, data: bytes | None, now_ns: int) -> None:
        """The answer to ReadMessage: the message, or None if the stream does not have it."""
        if not isinstance(self._asked, ReadMessage) or self._asked.id != id:
            return
        self._asked = self._ask_ns = None
        out = self._outgoing()
        if out is not None and out.looks:
            # A message at that place which this node has not written is another leader's; so was one that was removed.
            if data == out.data:
                self._stored(now_ns)
            else:
                self._lost("another node has written to the stream", now_ns)
        elif data is None:
            self._newest_missing(seq, now_ns)
        else:
            self._note_clock(seq, data, now_ns)

    def message_unknown(self, id: int, now_ns: int) -> None:
        """ReadMessage was not answered."""
        if isinstance(self._asked, ReadMessage) and self._asked.id == id:
            self._no_answer(now_ns)

    def delivered(self, feed: int, place: int, seq: int, data: bytes, now_ns: int) -> None:
        """The feed has delivered a message, as its ``place``-th one, counted from 1."""
        if not self._feed or feed != self._feed:
            return
        if place != self._place + 1:
            self._feed_broken(now_ns)
            return
        self._place = place
        self._back_off_ns = FIRST_BACK_OFF_NS
        self._watch_feed(now_ns)
        if seq <= self.run.position:
            return
        claim = self._claim
        if claim is not None:
            if seq == claim.after_seq + 1 and data == claim.data:
                self._stored(now_ns)
                return
            self._lost("another node was first", now_ns)
        if self.state in (State.CATCHING_UP, State.STANDBY):
            self._read(seq, data, now_ns)

    def feed_ended(self, feed: int, now_ns: int) -> None:
        """The feed delivers no more, because of an error or a lost connection."""
        if self._feed and feed == self._feed:
            self._feed_broken(now_ns)

    def purged(self, id: int, is_done: bool, now_ns: int) -> None:
        """The answer to Purge."""
        if self._leadership is not None:
            self._leadership.purged(id, is_done, now_ns)

    def tick(self, now_ns: int) -> None:
        """Do what is due."""
        if self._ask_ns is not None and self._ask_ns <= now_ns:
            if self._asked is None:
                self._ask_info(now_ns)
            else:
                self._no_answer(now_ns)
        if self._subscribe_ns is not None and self._subscribe_ns <= now_ns:
            self._subscribe(now_ns)
        if self._feed_due_ns is not None and self._feed_due_ns <= now_ns:
            self._feed_broken(now_ns)
        if self._leadership is not None:
            self._leadership.tick(now_ns)
        elif self._claim is not None:
            self.send_again(self._claim, now_ns)
        elif (
            self.state is State.STANDBY
            and self._asked is None
            and self._ask_ns is None
            and (self._lease_ends_ns <= now_ns)
        ):
            self._ask_info(now_ns)

    # Questions

    def _ask_info(self, now_ns: int) -> None:
        self._asked = AskInfo(self.new_id())
        self._asked_position = self.run.position
        self._ask_ns = now_ns + INFO_NS
        self.ask(self._asked)

    def ask_info(self, now_ns: int) -> None:
        """For the leader: ask how full the stream is, unless another question is open."""
        if self._asked is None:
            self._ask_info(now_ns)

    def _look(self, out: Outgoing, now_ns: int) -> None:
        """Read what the stream has at the place of a message whose outcome is unknown."""
        out.due_ns = None
        self._asked = ReadMessage(self.new_id(), out.after_seq + 1)
        self._ask_ns = now_ns + ANSWER_NS
        self.ask(self._asked)

    def _no_answer(self, now_ns: int) -> None:
        """The open question was not answered."""
        question, self._asked, self._ask_ns = self._asked, None, None
        out = self._outgoing()
        if isinstance(question, AskInfo):
            self._no_info(now_ns)
        elif out is not None and out.looks:
            self._look(out, now_ns)
        elif self.state is State.CATCHING_UP:
            self._ask_ns = now_ns + FIRST_BACK_OFF_NS

    def _no_info(self, now_ns: int) -> None:
        """The stream does not answer: while it elects a leader, ours cannot write either, so its lease begins again."""
        if not self._is_lost and self._leadership is None:
            self._is_lost = True
            self.log("WARNING", "stream-lost")
        if self.state is State.CATCHING_UP:
            self._ask_ns = now_ns + FIRST_BACK_OFF_NS
        elif self.state is State.STANDBY:
            self._begin_lease(now_ns)

    def _is_same_stream(self, info: StreamInfo) -> bool:
        """End if the stream was made anew, or emptied."""
        if self._created is None:
            self._created = info.created
        if info.created != self._created:
            self._end(STATUS_WRONG_STREAM, f"the stream was created anew ({info.created}, before {self._created})")
        elif info.last_seq < self._asked_position:
            self._end(STATUS_WRONG_STREAM, f"the stream ends at {info.last_seq}, and had {self._asked_position} before")
        elif info.last_seq > self.run.position and info.messages == 0:
            self._end(STATUS_WRONG_STREAM, f"the stream was emptied: it had messages up to {info.last_seq}")
        return self.state is not State.STOPPED

    # Following

    def _follow(self, now_ns: int) -> None:
        """Begin to read the stream, for an empty engine."""
        self.state = State.CATCHING_UP
        self.run = Run()
        self._newest_offset_ns = None
        if self._stop_asked:
            self._end(0, "stopped")
        else:
            self._ask_info(now_ns)

    def _catch_up(self, info: StreamInfo, now_ns: int) -> None:
        """Read what the stream has now."""
        self._target_seq = info.last_seq
        self._stream_leader = info.leader
        if info.last_seq == 0:
            self._subscribe(now_ns)
            self._caught_up(now_ns)
            # There is no leader to wait for.
            self._lease_ends_ns = now_ns + self._jitter_ns()
        else:
            self._asked = ReadMessage(self.new_id(), info.last_seq)
            self._ask_ns = now_ns + INFO_NS
            self.ask(self._asked)

    def _note_clock(self, seq: int, data: bytes, now_ns: int) -> None:
        """The newest message tells the leader's clock. Old ones are read by it, so that no delay begins again."""
        try:
            self._newest_offset_ns = messages.decode(data).sent_ns - now_ns
        except MessageError as error:
            self._end(STATUS_WRONG_STREAM, f"message {seq}: {error}")
        else:
            self._subscribe(now_ns)

    def _newest_missing(self, seq: int, now_ns: int) -> None:
        """The newest message was not there: others came since, and a purge; or another program has removed it."""
        if seq == self._missing_seq:
            self._end(STATUS_WRONG_STREAM, f"the last message of the stream, {seq}, was removed")
        else:
            self._missing_seq = seq
            self._ask_info(now_ns)

    def _subscribe(self, now_ns: int) -> None:
        self._subscribe_ns = None
        self._feed = self.new_id()
        self._place = 0
        self._watch_feed(now_ns)
        self.ask(Subscribe(self._feed, self.run.position + 1))

    def _watch_feed(self, now_ns: int) -> None:
        # A standby notices by its lease that the feed is dead.
        self._feed_due_ns = now_ns + max(self.settings.lease_ns, INFO_NS) if self.state is State.CATCHING_UP else None

    def _unsubscribe(self) -> None:
        self._subscribe_ns = self._feed_due_ns = None
        if self._feed:
            self._feed = 0
            self.ask(Unsubscribe())

    def _feed_broken(self, now_ns: int) -> None:
        """Subscribe again, later with each failure."""
        self._unsubscribe()
        self._subscribe_ns = now_ns + self._back_off_ns
        self._back_off_ns = min(self._back_off_ns * 2, LAST_BACK_OFF_NS)

    def _read(self, seq: int, data: bytes, now_ns: int) -> None:
        """Take the next message."""
        try:
            said = self.run.read(seq, data)
        except StreamError as error:
            self._end(STATUS_WRONG_STREAM, str(error))
            return
        except TrimmedError as error:
            self._drop(State.DEPOSED, str(error))
            return
        if isinstance(said, Records):
            self._apply(said, now_ns)
        elif isinstance(said, Claim) and self.state is State.STANDBY:
            self.ask(NewLeader(said, self.run.epoch))
            self.log("INFO", "new-leader", node=said.node, address=said.address)
        if self.state is State.STANDBY:
            self._begin_lease(now_ns)
            if isinstance(said, Release):
                self._leader_released(said, now_ns)
        elif seq >= self._target_seq:
            self._caught_up(now_ns)

    def _apply(self, records: Records, now_ns: int) -> None:
        offset_ns = records.sent_ns - now_ns
        if self.state is State.CATCHING_UP and self._newest_offset_ns is not None:
            offset_ns = self._newest_offset_ns
        assert self.run.claim is not None
        self.ask(Apply(self.run.claim.run, records.records, records.first_lsn, offset_ns))

    def _caught_up(self, now_ns: int) -> None:
        self.state = State.STANDBY
        self._feed_due_ns = None
        self.ask(CaughtUp(self.run.claim))
        self.log("INFO", "standby", leader=None if self.run.claim is None else self.run.claim.node)
        self._begin_lease(now_ns)
        if self.run.released is not None:
            self._leader_released(self.run.released, now_ns)

    # The lease

    def _jitter_ns(self) -> int:
        return int(self.settings.lease_ns * JITTER * self._random.random())

    def _begin_lease(self, now_ns: int) -> None:
        self._lease_ends_ns = now_ns + self.settings.lease_ns + self._jitter_ns()

    def _lease_over(self, info: StreamInfo, now_ns: int) -> None:
        """The leader was silent for the lease, and the stream has answered."""
        if now_ns < self._lease_ends_ns:
            return  # the leader was heard while the question was open
        if info.leader != self._stream_leader:
            # The stream has elected a leader; ours may not have been able to write meanwhile.
            self._stream_leader = info.leader
            self._begin_lease(now_ns)
        elif info.last_seq > self.run.position:
            # The feed is late. If it does not deliver for another lease, it is not alive.
            if self._target_seq > self.run.position and self._subscribe_ns is None:
                self._feed_broken(now_ns)
            self._target_seq = info.last_seq
            self._ask_ns = now_ns + self.settings.lease_ns
        elif self.settings.never_lead:
            self._begin_lease(now_ns)
        else:
            self.log("WARNING", "lease-over", leader=None if self.run.claim is None else self.run.claim.node)
            self._begin_claim(now_ns)

    def _leader_released(self, release: Release, now_ns: int) -> None:
        """The leader offers its lead: take it at once, unless it is for another node, or was this one's own."""
        claim = self.run.claim
        is_own = claim is not None and claim.instance == self.settings.instance
        is_for_this = release.node in (None, self.settings.name)
        if is_for_this and not is_own and not self.settings.never_lead:
            self._begin_claim(now_ns)

    # Claiming

    def _begin_claim(self, now_ns: int) -> None:
        self.state = State.CLAIMING
        self._asked = self._ask_ns = None
        run = self.run
        own = self.settings
        claim = Claim(
            own.name, own.instance, own.address, own.key, own.version, own.run if run.claim is None else run.claim.run
        )
        sent_ns = now_ns + self.wall_offset_ns
        message = Message(CLAIM, run.epoch + 1, 0, run.end_lsn, sent_ns, messages.encode_claim(claim))
        self._claim = Outgoing(message, messages.encode(message, run.chain), run.position, run.claim_seq)
        self.ask(self._claim.send(self.new_id(), now_ns))

    def send_again(self, out: Outgoing, now_ns: int) -> None:
        """Send a message again if it is time to."""
        if out.due_ns is not None and out.due_ns <= now_ns:
            if out.is_unanswered:
                self.ask(Reconnect())
            self.ask(out.send(self.new_id(), now_ns))

    def _outgoing(self) -> Outgoing | None:
        return self._claim if self._leadership is None else self._leadership.out

    def _stored(self, now_ns: int) -> None:
        """The message that was being appended is in the stream."""
        if self._asked is not None and isinstance(self._asked, ReadMessage):
            self._asked = self._ask_ns = None
        if self._leadership is not None:
            self._leadership.stored(now_ns)
        else:
            self._won(now_ns)

    def _won(self, now_ns: int) -> None:
        assert self._claim is not None
        claim, self._claim = self._claim, None
        message = messages.decode(claim.data)  # with its chain
        self.run.claimed(claim.after_seq + 1, message, messages.decode_claim(message.payload))
        self._unsubscribe()
        self.state = State.LEADING
        self._leadership = Leadership(self, now_ns)
        assert self.run.claim is not None
        self.ask(Lead(self.run.claim.run, self.run.epoch, self.run.end_lsn))
        self.log("INFO", "claim-won")
        if self._stop_asked:
            self._leadership.release(None, now_ns)

    def _lost(self, why: str, now_ns: int) -> None:
        """Another node has written to the stream."""
        if self._asked is not None and isinstance(self._asked, ReadMessage):
            self._asked = self._ask_ns = None
        if self._leadership is not None:
            self._leadership = None
            self.log("ERROR", "deposed", reason=why)
            self._drop(State.DEPOSED, f"{why}: this node does not lead any more")
            return
        self._claim = None
        self.state = State.STANDBY
        self.log("INFO", "claim-lost", reason=why)
        self._begin_lease(now_ns)
        if self._stop_asked:
            self._end(0, "stopped")

    def stalled(self, *, stalled: bool) -> None:
        """Nothing has become safe for too long, or something has again."""
        self.state = State.STALLED if stalled else State.LEADING

    # The end

    def released(self) -> None:
        """The leader's release is in the stream."""
        self._leadership = None
        self.log("INFO", "released")
        if self._stop_asked:
            self._end(0, "stopped")
        else:
            self._drop(State.RELEASED, "the lead was handed over")

    def _drop(self, state: State, why: str) -> None:
        self._unsubscribe()
        self._asked = self._ask_ns = None
        self.state = state
        self.ask(DropEngine(why))

    def _end(self, status: int, text: str) -> None:
        if self.state is State.STOPPED:
            return
        self._unsubscribe()
        self._asked = self._ask_ns = None
        self._claim = self._leadership = None
        self.state = State.STOPPED
        self.ask(Stopped(status, text))
