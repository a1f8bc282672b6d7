"""A random session of a replicated server, in which the leader may end at any call of its sink."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random
from types import ModuleType

from fastbean.errors import BinlogFailedError

from .commands import MAX_JOB_SIZE
from .reference_state import SECOND_NS
from .replica_clients import UNBOUND, Claims, Client
from .replicas import SEGMENT_BYTES, Batch, Contents, Node, Stream, difference

MOST_CLIENTS = 6
MOST_ITERATIONS = 10_000
SENDING_NS = 1_000_000  # after the time of the iteration; of delays that begin in one, each ends a nanosecond later
MOMENTS_NS = (0, 0, 1_000_000, SECOND_NS // 3, SECOND_NS, 3 * SECOND_NS)


@dataclass(frozen=True)
class Ends:
    """At which calls of the sink the leader ends, and how.

    ``outcome`` is "crashed": it does nothing more; or "failed": the sink says so. ``lost`` says that the batch in
    flight is not in the stream.
    """

    calls: frozenset[int] = frozenset()
    outcome: str = "crashed"
    lost: bool = False


class LeaderEndedError(Exception):
    """The leader has ended."""


class Session:
    """The session of one seed; `run` runs and checks it.

    ``binds_reads`` False leaves out what makes reads wait; every third seed has a limit on the size of the binlog.
    """

    def __init__(self, module: ModuleType, seed: int, ends: Ends, *, binds_reads: bool = True) -> None:
        self._module = module
        self._random = Random(seed)
        self._ends = ends
        self._binds_reads = binds_reads
        self._max_bytes = 0 if seed % 3 else 16 * SEGMENT_BYTES
        self._now_ns = 0
        self._nodes = 0
        self._ended = False
        self.calls: Counter[str] = Counter()
        self.stream = Stream()
        self.claims = Claims()
        self.compared = 0
        self.waited_for_ids = 0
        self._acknowledged_lsn = 0
        self._in_flight: Batch | None = None
        # What the leader held at the end of each batch, and how late its times are.
        self._contents: dict[int, tuple[Contents, int, int]] = {0: (Contents({}, {}, {}), 0, 0)}
        self._clients: list[Client] = []
        self._leader = self._new_node()
        self._followers = [self._new_node(), self._new_node()]

    def run(self, steps: int) -> None:
        """Run the session, and compare all servers at its end."""
        self._guarded(self._lead)
        for _ in range(steps):
            self._guarded(self._step)
        # It ends at most once for each of the calls.
        for _ in range(len(self._ends.calls) + 1):
            self._guarded(self._come_to_rest)
        self._compare_all()

    def _guarded(self, step: object) -> None:
        try:
            step()  # type: ignore[operator]
        except LeaderEndedError:
            self._take_over()

    def _new_node(self) -> Node:
        self._nodes += 1
        return Node(self._module, self._nodes, self._sink_called, self.stream, self._max_bytes)

    # The leader

    def _sink_called(self, name: str) -> str:
        self.calls[name] += 1
        if name == "begin":
            # The commit is the last thing in an iteration that may change anything.
            self._in_flight = self._leader.batch_in_flight(self._now_ns + SENDING_NS)
            assert self._in_flight is not None
            contents = self._leader.contents()
            self._contents[self._in_flight.end_lsn] = (contents, self._in_flight.at_ns, self._leader.late_ns)
        if self.calls.total() not in self._ends.calls:
            return ""
        self._ended = True
        return self._ends.outcome

    def _lead(self) -> None:
        if not self._binds_reads:
            self._module.leave_reads_unbound(self._leader.writer)
        self._leader.lead()
        self._check_end()
        # The doors open when the first batch is safe.
        self._acknowledge()

    def _check_end(self) -> None:
        if self._ended:
            raise LeaderEndedError

    def _settle(self) -> None:
        """Run iterations until nothing is left to do at this time."""
        for _ in range(MOST_ITERATIONS):
            now_ns = self._now_ns + self._leader.clock_ns
            try:
                wait_ns = self._leader.hub.end_iteration(now_ns)
            except BinlogFailedError:
                assert self._ends.outcome == "failed"
                self._note_made()
                self._receive()
                raise LeaderEndedError from None
            self._check_end()
            self._note_made()
            self._receive()
            answered = self._random.random() < 0.8 and self._leader.answer_requests()
            if wait_ns != 0 and not answered:
                self.waited_for_ids += self._module.waits_for_ids(self._leader.writer)
                return
        raise AssertionError("the hub does not come to rest")

    def _note_made(self) -> None:
        for client in self._clients:
            made_bytes = len(client.received) + self._module.unsent(client.connection)
            if not client.made or client.made[-1][0] < made_bytes:
                client.made.append((made_bytes, self._leader.writer.end))

    def _receive(self) -> None:
        """Receive the replies that are sent: what they depend on must have been acknowledged."""
        for client in self._clients:
            client.received += client.connection.take_output()
            for asked, number, word, end in client.replies():
                assert word in UNBOUND or client.binlog_end_of(end) <= self._acknowledged_lsn, (
                    f"{word} is sent before its batch is safe"
                )
                self.claims.add(asked, number, word)

    def _acknowledge(self) -> None:
        """The stream has the batch in flight, and says so."""
        batch = self._in_flight
        if batch is None:
            return
        ends = self.calls.total() + 1 in self._ends.calls
        if not (ends and self._ends.lost):
            self.stream.append(batch)
        self._leader.sink.acknowledge()
        self._leader.writer.sink_done()
        if not ends:
            self._in_flight = None
            self._acknowledged_lsn = batch.end_lsn
        elif self._ends.outcome == "failed":
            self._receive()
        self._check_end()
        self._receive()
        self._settle()

    # What happens

    def _step(self) -> None:
        random = self._random
        what = random.random()
        if what < 0.45:
            self._send()
        elif what < 0.75:
            self._acknowledge()
        elif what < 0.85:
            self._now_ns += random.choice(MOMENTS_NS)
            self._settle()
        elif what < 0.9 and self._clients:
            client = self._clients.pop(random.randrange(len(self._clients)))
            client.connection.close(self._now_ns + self._leader.clock_ns)
            self._settle()
        elif what < 0.92:
            self._module.skip_to_the_last_ids(self._leader.engine, self._leader.writer, random.randrange(4))
        for place in (0, 1):
            self._follow(place, random.choice((0, 0, 0, 1, 4)))

    def _send(self) -> None:
        if len(self._clients) < MOST_CLIENTS:
            self._clients.append(Client(self._leader.hub.connect()))
        client = self._random.choice(self._clients)
        ids = list(self._leader.contents().jobs)
        data = client.pipeline(self._random, ids, SEGMENT_BYTES // 2 if self._max_bytes else MAX_JOB_SIZE)
        self.claims.may_be_deleted.update(number for word, number in client.asked if word == "delete")
        client.connection.feed(data, self._now_ns + self._leader.clock_ns)
        self._settle()

    def _come_to_rest(self) -> None:
        """Everything is acknowledged, and every reply is sent."""
        self._settle()
        while self._in_flight is not None or self._leader.asked:
            self._leader.answer_requests()
            self._acknowledge()
            self._settle()
        for client in self._clients:
            assert self._module.unsent(client.connection) == 0, "everything is safe, and a reply is not sent"
            assert not client.asked or client.asked[0][0].startswith("reserve"), "nothing is due, and a command waits"

    # The followers

    def _follow(self, place: int, most: int) -> None:
        """Have a follower apply some batches; one for which they are trimmed begins again."""
        follower = self._followers[place]
        if follower.writer.end < self.stream.begin_lsn and follower.writer.end < self.stream.end_lsn and most:
            follower = self._followers[place] = self._new_node()
        for _ in range(most):
            batch = self._next_batch(follower)
            if batch is None:
                return
            follower.apply(batch, max(batch.at_ns, self._now_ns))
            self._compare(follower)

    def _next_batch(self, node: Node) -> Batch | None:
        if node.applied:
            return self.stream.after(node.writer.end)
        return self.stream.batches[0] if self.stream.batches else None

    def _take_over(self) -> None:
        """A follower that has applied everything leads; a new one comes into its place."""
        old = self._leader
        self._ended = False
        batch, self._in_flight = self._in_flight, None
        if batch is not None and not self._ends.lost and batch.first_lsn == self.stream.end_lsn:
            self.stream.append(batch)
        self._acknowledged_lsn = self.stream.end_lsn
        self._clients = []
        self._compare_all()
        place = self._random.randrange(2)
        self._leader = self._followers[place]
        self._followers[place] = self._new_node()
        self._guarded(self._lead)
        assert self._leader.engine.next_job_id >= old.engine.next_job_id, "an id could be assigned twice"

    def _compare(self, node: Node) -> None:
        """What a node holds must be what the leader held at the end of the batch that the node has applied."""
        if node.writer.end < node.whole_lsn:
            return
        contents, at_ns, late_ns = self._contents[node.writer.end]
        wrong = difference(contents, node.contents(), at_ns, max(node.late_ns, late_ns))
        assert not wrong, f"at LSN {node.writer.end}: {wrong}"
        self.compared += 1

    def _compare_all(self) -> None:
        """Both followers apply all; so does a new one, from where the stream begins, at the times of the batches."""
        for place in (0, 1):
            self._follow(place, len(self.stream.batches) + 1)
            assert self._followers[place].writer.end == self.stream.end_lsn
        fresh = self._new_node()
        for batch in self.stream.batches:
            fresh.apply(batch, batch.at_ns)
        if self.stream.batches:
            self._compare(fresh)
            self.claims.check(fresh.contents().jobs)
            assert fresh.writer.figures()["id_limit"] >= self._leader.engine.next_job_id, "an id may come again"
