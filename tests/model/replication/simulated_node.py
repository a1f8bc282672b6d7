"""One node of the simulation: the node, its engine, and the unreliable ways to the stream and from the clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastbean.replication.node import Node, State
from fastbean.replication.requests import (
    Append,
    Apply,
    AskInfo,
    DropEngine,
    Lead,
    Purge,
    ReadMessage,
    Refusal,
    Request,
    Resume,
    Safe,
    Serve,
    Stall,
    Stopped,
    Subscribe,
    Unsubscribe,
)  # fmt: skip
from fastbean.replication.settings import Settings

from .made_up_stream import ViolationError
from .model_engine import ModelEngine
from .real_engine import RealEngine

if TYPE_CHECKING:
    from .simulation import Simulation

LEASE_NS = 1_000_000_000
STALL_NS = 2_000_000_000


class SimulatedNode:
    """A node that can be frozen, cut off, killed and started again.

    ``start`` begins a new process; everything on its way to the old one is lost.
    """

    def __init__(self, world: Simulation, name: str, *, never_lead: bool = False) -> None:
        self.world = world
        self.name = name
        self.never_lead = never_lead
        self.process = 0  # counts starts; 0 before the first one
        self.is_running = False
        self.is_frozen = False
        self.is_cut = False
        self._engine: ModelEngine | RealEngine | None = None  # of a process
        self._kept: list[Callable[[], None]] = []  # what has happened while it was frozen
        self._timer_ns: int | None = None
        self._feed = 0
        self._next_seq = 0
        self._place = 0
        self._delivered_ns = 0
        # For `pipelines`: the id of the message that the node believes is stored, and the LSN that is safe with it.
        self._first_id = 0
        self._first_lsn = 0
        world.stream.listeners.append(lambda _seq: self._feed_on())

    def start(self) -> None:
        world = self.world
        self.process += 1
        self.is_running = True
        self.is_frozen = False
        self._kept.clear()
        self._feed = 0
        self._timer_ns = None
        settings = Settings(
            name=self.name,
            instance=b"%s%07d" % (self.name.encode(), self.process),
            address=f"{self.name}:11300",
            key=bytes(32),
            version="1",
            run=b"%s%015d" % (self.name.encode(), self.process),
            lease_ns=LEASE_NS,
            stall_ns=STALL_NS,
            message_bytes=self.world.message_bytes,
            never_lead=self.never_lead,
        )
        # Clocks of different machines have nothing to do with each other.
        self._clock_ns = world.random.randrange(10**15)
        self.node = Node(settings, world.random, world.random.randrange(10**18))
        self._new_engine()
        self.run(lambda: self.node.start(self.now_ns))

    @property
    def now_ns(self) -> int:
        """This machine's monotonic time."""
        return self.world.now_ns + self._clock_ns

    @property
    def serves(self) -> bool:
        return self.is_running and self.engine.opened

    def kill(self) -> None:
        self.is_running = False

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def thaw(self) -> None:
        self.is_frozen = False
        kept, self._kept = self._kept, []
        # What has arrived meanwhile and what is due are seen in any order.
        if self.world.random.random() < 0.5:
            self.run(lambda: self.node.tick(self.now_ns))
        for event in kept:
            self.run(event)

    def run(self, event: Callable[[], None]) -> None:
        """Let something happen to this process, and do what it asks for then."""
        if not self.is_running:
            return
        if self.is_frozen:
            self._kept.append(event)
            return
        event()
        self.engine.commit()
        while requests := self.node.take():
            for request in requests:
                self._do(request)
        self._set_timer()

    def later(self, delay_ns: int, event: Callable[[], None]) -> None:
        """Let it happen after a while, if the process lives then."""
        process = self.process
        self.world.at(delay_ns, lambda: self.run(event) if process == self.process else None)

    def act(self, act: Callable[[ModelEngine | RealEngine], None]) -> None:
        """A client's command arrives."""
        self.run(lambda: act(self.engine) if self.engine.opened else None)

    def _set_timer(self) -> None:
        wake_ns = self.node.wake_ns
        if self.is_running and wake_ns is not None and (self._timer_ns is None or wake_ns < self._timer_ns):
            self._timer_ns = wake_ns
            self.later(max(wake_ns - self.now_ns, 0), lambda: self._wake(wake_ns))

    def _wake(self, timer_ns: int) -> None:
        if timer_ns == self._timer_ns:
            self._timer_ns = None
            self.node.loop_ran(self.now_ns)
            self.node.tick(self.now_ns)

    # The host of the engine

    def _new_engine(self) -> None:
        self._first_id = 0
        if self._engine is not None:
            self._engine.close()
        self._engine = self.world.new_engine(
            lambda lsn, records: self.node.batch(lsn, records, self.now_ns),
            lambda lsn: self.node.trim(lsn),
            lambda: self.now_ns,
        )

    @property
    def engine(self) -> ModelEngine | RealEngine:
        assert self._engine is not None
        return self._engine

    def _do(self, request: Request) -> None:
        handler = _HANDLERS.get(type(request))
        if handler is not None:
            handler(self, request)

    def _ask_info(self, request: AskInfo) -> None:
        # A node that is wrong on purpose shall not be found out by what it believes about the stream.
        if not (self.world.pipelines and self.leads):
            self._ask(lambda: self._answer_info(request))

    def _subscribe(self, request: Subscribe) -> None:
        self._feed, self._next_seq, self._place = request.feed, request.from_seq, 0
        self.later(self.world.delay_ns(), self._feed_on)

    def _unsubscribe(self, _request: Unsubscribe) -> None:
        self._feed = 0

    def _apply(self, request: Apply) -> None:
        self.engine.apply(request)

    def _lead(self, request: Lead) -> None:
        self.world.check_leader(self, request)
        self.engine.lead(request)

    def _open(self, _request: Serve | Resume) -> None:
        self.engine.opened = True

    def _stall(self, _request: Stall) -> None:
        self.engine.opened = False

    def _drop_engine(self, _request: DropEngine) -> None:
        self._new_engine()
        self.later(self.world.delay_ns(), lambda: self.node.engine_ready(self.now_ns))

    def _stopped(self, request: Stopped) -> None:
        if request.status:
            raise ViolationError(f"node {self.name} stopped: {request.text}")
        self.is_running = False

    def _safe(self, request: Safe) -> None:
        if self._first_id:
            # The replies wait for the real acknowledgement, the next batch does not.
            self._first_lsn = request.lsn
            self.engine.safe(0)
        else:
            self.engine.safe(request.lsn)

    # The ways to the stream

    def _reaches(self, chance: float) -> bool:
        return not self.is_cut and self.world.random.random() >= chance

    def _append(self, request: Append) -> None:
        world = self.world
        process = self.process  # the answers are for this one, even if the message arrives when it has died
        copies = 2 if world.random.random() < world.doubling else 1
        if self.is_cut or world.random.random() < world.loss:
            if world.random.random() < 0.5:
                self.later(world.delay_ns(), lambda: self._refused(request, Refusal.UNKNOWN))
        else:
            for _ in range(copies):
                world.at(world.delay_ns(), lambda: self._arrive(request, process))
        if world.pipelines and not request.is_claim and not self._first_id:
            self._first_id = request.id
            self._first_lsn = 0
            self.later(0, lambda: self.node.acknowledged(request.id, request.after_seq + 1, self.now_ns))

    def _arrive(self, request: Append, process: int) -> None:
        """A message has come to the stream, maybe after its sender has died."""
        stream = self.world.stream
        if request.data not in stream.in_process and self.world.random.random() < self.world.lateness / 4:
            stream.in_process.add(request.data)
            self.world.at(self.world.delay_ns(), lambda: self._processed(request, process))
        else:
            self._answer(stream.append(request), request, process)

    def _processed(self, request: Append, process: int) -> None:
        """The stream has decided about a message that it had taken long ago."""
        self.world.stream.in_process.discard(request.data)
        self._answer(self.world.stream.append(request), request, process)

    def _answer(self, outcome: int | Refusal, request: Append, process: int) -> None:
        if process != self.process or not self._reaches(self.world.loss):
            return
        if isinstance(outcome, Refusal):
            self.later(self.world.delay_ns(), lambda: self._refused(request, outcome))
        else:
            self.later(self.world.delay_ns(), lambda: self._acknowledged(request, outcome))

    def _refused(self, request: Append, refusal: Refusal) -> None:
        self.node.refused(request.id, refusal, refusal.value, self.now_ns)

    def _acknowledged(self, request: Append, seq: int) -> None:
        if self._first_id == request.id:
            self._first_id = 0
            assert isinstance(self.engine, ModelEngine)
            self.engine.send_replies(self._first_lsn)
        self.node.acknowledged(request.id, seq, self.now_ns)

    def _ask(self, answer: Callable[[], Callable[[], None]]) -> None:
        """``answer``, run when the question comes to the stream, returns what happens when its answer comes back."""
        world, process = self.world, self.process

        def asked() -> None:
            given = answer()
            if process == self.process and self._reaches(world.loss):
                self.later(world.delay_ns(), given)

        if self._reaches(world.loss):
            world.at(world.delay_ns(), asked)

    def _answer_info(self, request: AskInfo) -> Callable[[], None]:
        info = self.world.stream.info()
        return lambda: self.node.info(request.id, info, self.now_ns)

    def _read(self, request: ReadMessage) -> None:
        self._ask(lambda: self._answer_read(request))

    def _answer_read(self, request: ReadMessage) -> Callable[[], None]:
        stream = self.world.stream
        if not stream.has_leader:
            return lambda: self.node.message_unknown(request.id, self.now_ns)
        data = stream.stored.get(request.seq)
        return lambda: self.node.message(request.id, request.seq, data, self.now_ns)

    def _purge(self, request: Purge) -> None:
        reaches = self._reaches(self.world.loss)
        if reaches:
            self.world.at(self.world.delay_ns(), lambda: self.world.stream.purge(request.below_seq))
        self.later(2 * self.world.delay_ns(), lambda: self.node.purged(request.id, reaches, self.now_ns))

    # The feed

    def _feed_on(self) -> None:
        """Deliver what the stream has, in order."""
        world = self.world
        while self._feed and self.is_running and not self.is_cut and self._next_seq <= world.stream.last_seq:
            seq, self._next_seq = self._next_seq, self._next_seq + 1
            data = world.stream.stored.get(seq)
            if data is None:
                continue
            self._place += 1
            if world.random.random() < world.loss / 2:
                continue
            self._delivered_ns = max(world.now_ns + world.delay_ns(), self._delivered_ns + 1)
            self._deliver(self._feed, self._place, seq, data)

    def _deliver(self, feed: int, place: int, seq: int, data: bytes) -> None:
        self.later(
            self._delivered_ns - self.world.now_ns,
            lambda: self.node.delivered(feed, place, seq, data, self.now_ns) if not self.is_cut else None,
        )

    def cut(self) -> None:
        """No message passes to or from the stream."""
        self.is_cut = True
        feed = self._feed
        if self.world.random.random() < 0.5:
            self.later(self.world.delay_ns(), lambda: self.node.feed_ended(feed, self.now_ns))

    def heal(self) -> None:
        self.is_cut = False
        feed = self._feed
        # A connection that has lost messages is a new one.
        self.later(self.world.delay_ns(), lambda: self.node.feed_ended(feed, self.now_ns))

    @property
    def leads(self) -> bool:
        return self.is_running and self.node.state in (State.LEADING, State.STALLED)


_HANDLERS: dict[type, Callable[[SimulatedNode, Any], None]] = {
    Append: SimulatedNode._append,
    AskInfo: SimulatedNode._ask_info,
    ReadMessage: SimulatedNode._read,
    Subscribe: SimulatedNode._subscribe,
    Unsubscribe: SimulatedNode._unsubscribe,
    Purge: SimulatedNode._purge,
    Apply: SimulatedNode._apply,
    Lead: SimulatedNode._lead,
    Safe: SimulatedNode._safe,
    Serve: SimulatedNode._open,
    Resume: SimulatedNode._open,
    Stall: SimulatedNode._stall,
    DropEngine: SimulatedNode._drop_engine,
    Stopped: SimulatedNode._stopped,
}
