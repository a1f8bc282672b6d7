"""The node over a made-up stream in made-up time: everything that can go wrong does, and every promise is checked.

Run ``python -m model.replication.simulation --seed 7`` in the folder ``tests``; ``--seeds 2000`` runs many, from there.
A seed decides everything. Messages are lost, doubled and late; nodes are frozen, cut off, killed, started again, and
hand over; the stream is full, has no leader, and is purged. Then all faults end, and the queue has to work again.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from collections.abc import Callable
from unittest import mock

from fastbean.replication import leadership, run
from fastbean.replication.messages import HEADER_BYTES
from fastbean.replication.requests import Lead

from .clients import Clients
from .made_up_stream import MadeUpStream, ViolationError
from .model_engine import ModelEngine
from .real_engine import RealEngine, RealTruth
from .simulated_node import LEASE_NS, SimulatedNode
from .truth import Truth

MS = 1_000_000
FAULTY_NS = 7 * LEASE_NS
HEALTHY_NS = 6 * LEASE_NS
COMMAND_EVERY_NS = 100 * MS
FAULT_EVERY_NS = 600 * MS
# So that a few records are enough for a purge, and for several.
# A batch of more than ten records goes in parts.
MODEL_PAYLOAD_BYTES = 90
REAL_PAYLOAD_BYTES = 1500
MARK_BYTES = 60
PURGE_BYTES = 400
COMMAND = "cd tests && PYTHONPATH=unit python -m model.replication.simulation --seed {seed}"
# Ways to build the node wrongly, which the simulation has to notice.
MUTATIONS = ("two-in-flight", "claims-anywhere", "early-answers", "early-reads")


class Simulation:
    """One seed. ``mutation``: one of MUTATIONS. ``is_real``: with fastbean's own engine."""

    def __init__(self, seed: int, mutation: str = "", *, is_real: bool = False) -> None:
        self.random = random.Random(seed)
        self.now_ns = 0
        self.pipelines = mutation == "two-in-flight"
        self.answers_early = mutation == "early-answers"
        self.reads_early = mutation == "early-reads"
        self.loss = self.random.choice((0.0, 0.01, 0.1))
        self.doubling = self.random.choice((0.0, 0.05))
        self.lateness = self.random.choice((0.0, 0.02, 0.1))
        self.is_real = is_real
        self.message_bytes = HEADER_BYTES + (REAL_PAYLOAD_BYTES if is_real else MODEL_PAYLOAD_BYTES)
        self.truth = RealTruth() if is_real else Truth()
        self.stream = MadeUpStream(self.truth)
        self.stream.checks_tail = mutation != "claims-anywhere"
        self.stream.checks_claim = not self.pipelines
        self.clients = Clients(self, self.random, self.truth)
        self.leaders: dict[int, str] = {}
        self.is_faulty = True
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._count = 0
        # Most often all nodes may lead; one that may not must not be needed.
        never_leads = self.random.random() < 0.2
        self.nodes = [SimulatedNode(self, name, never_lead=never_leads and name == "C") for name in "ABC"]

    def new_engine(
        self, hand_over: Callable[[int, bytes], None], trim: Callable[[int], None], clock: Callable[[], int]
    ) -> ModelEngine | RealEngine:
        if self.is_real:
            return RealEngine(hand_over, trim, clock)
        return ModelEngine(hand_over, trim, answers_early=self.answers_early, reads_early=self.reads_early)

    def at(self, delay_ns: int, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now_ns + delay_ns, self._count, event))

    def delay_ns(self) -> int:
        """How long one message takes."""
        drawn = self.random.random()
        if self.is_faulty and drawn < self.lateness:
            return int(drawn / self.lateness * 2 * LEASE_NS)
        return int((0.3 + drawn) * MS)

    def check_leader(self, node: SimulatedNode, lead: Lead) -> None:
        who = f"{node.name}{node.process}"
        if self.leaders.setdefault(lead.epoch, who) != who:
            raise ViolationError(f"{who} and {self.leaders[lead.epoch]} lead in epoch {lead.epoch}")
        # A node that was frozen may hear of its claim when another one leads already. It can append nothing any more.
        if lead.epoch == self.truth.epoch and not node.engine.has_jobs_of(self.truth, self.clients.acked):
            raise ViolationError(f"{who} leads with other jobs than the stream has")
        if node.engine.end_lsn != lead.first_lsn:
            raise ViolationError(f"{who} leads at LSN {lead.first_lsn}, and has applied up to {node.engine.end_lsn}")

    def run(self) -> None:
        try:
            self._run()
        finally:
            self.truth.close()
            for node in self.nodes:
                node.close()

    def _run(self) -> None:
        for node in self.nodes:
            self.at(self.random.randrange(LEASE_NS), node.start)
        self.at(COMMAND_EVERY_NS, self._command)
        self.at(FAULT_EVERY_NS, self._fault)
        self._run_until(FAULTY_NS)
        self.is_faulty = False
        self.loss = self.doubling = 0.0
        for node in self.nodes:
            self._heal(node)
        self.stream.is_full = False
        self.stream.has_leader = True
        self._run_until(FAULTY_NS + HEALTHY_NS // 2)
        acked = len(self.clients.acked)
        self._run_until(FAULTY_NS + HEALTHY_NS)
        if len(self.clients.acked) == acked:
            raise ViolationError("no job is put although all faults are over")
        self.clients.check_end()

    def _run_until(self, end_ns: int) -> None:
        events = self._events
        while events and events[0][0] <= end_ns:
            self.now_ns, _, event = heapq.heappop(events)
            event()
            if self.truth.faults:
                raise ViolationError(self.truth.faults[0])
        self.now_ns = end_ns

    # Clients and faults

    def _command(self) -> None:
        serving = [node for node in self.nodes if node.serves]
        if serving:
            node = self.random.choice(serving)
            for _ in range(self.random.choice((1, 1, 1, 2, 14))):
                node.act(self.clients.act)
        self.at(int(COMMAND_EVERY_NS * 2 * self.random.random()), self._command)

    def _fault(self) -> None:
        if not self.is_faulty:
            return
        faults = (
            self._freeze, self._freeze, self._kill, self._cut, self._cut, self._elect, self._fill, self._hand_over,
            self._stop, self._compact, self._compact, self._compact,
        )  # fmt: skip
        self.random.choice(faults)(self.random.choice(self.nodes))
        self.at(int(FAULT_EVERY_NS * 2 * self.random.random()), self._fault)

    def _for_a_while(self, end: Callable[[], None]) -> None:
        self.at(int(self.random.choice((0.2, 1.5, 3.0)) * LEASE_NS * self.random.random()), end)

    def _heal(self, node: SimulatedNode) -> None:
        if not node.is_running:
            node.start()
        if node.is_frozen:
            node.thaw()
        if node.is_cut:
            node.heal()

    def _freeze(self, node: SimulatedNode) -> None:
        node.is_frozen = node.is_running
        self._for_a_while(lambda: self._heal(node))

    def _kill(self, node: SimulatedNode) -> None:
        node.kill()
        self._for_a_while(lambda: self._heal(node))

    def _cut(self, node: SimulatedNode) -> None:
        node.cut()
        self._for_a_while(lambda: self._heal(node))

    def _elect(self, _node: SimulatedNode) -> None:
        self.stream.has_leader = False

        def elected() -> None:
            self.stream.has_leader = True
            self.stream.leader += 1

        self._for_a_while(elected)

    def _fill(self, _node: SimulatedNode) -> None:
        self.stream.is_full = True

        def empty() -> None:
            self.stream.is_full = False

        self._for_a_while(empty)

    def _hand_over(self, node: SimulatedNode) -> None:
        to = self.random.choice((None, "A", "B"))
        node.run(lambda: node.node.hand_over(to, node.now_ns))

    def _stop(self, node: SimulatedNode) -> None:
        node.run(lambda: node.node.stop(node.now_ns))
        self._for_a_while(lambda: self._heal(node))

    def _compact(self, node: SimulatedNode) -> None:
        """A node that starts anew or lags reads what a purge has left."""
        node.act(lambda engine: engine.compact())


def run_seeds(first: int, count: int, mutation: str = "", *, is_real: bool = False) -> str:
    """Run some seeds; returns what the first failing one has found, with the command that repeats it, or nothing."""
    small = mock.patch.multiple(run, MARK_BYTES=MARK_BYTES), mock.patch.multiple(leadership, PURGE_BYTES=PURGE_BYTES)
    for seed in range(first, first + count):
        try:
            with small[0], small[1]:
                Simulation(seed, mutation, is_real=is_real).run()
        except AssertionError as error:
            extra = (f" --mutation {mutation}" if mutation else "") + (" --real" if is_real else "")
            return f"seed {seed}: {error}; repeat it: {COMMAND.format(seed=seed)}{extra}"
    return ""


def main() -> int:
    """Runs the program; returns its exit status, 0 if no promise was broken."""
    parser = argparse.ArgumentParser(
        prog="python -m model.replication.simulation", description="Simulate nodes of the replicated binlog."
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed; default 1")
    parser.add_argument("--seeds", type=int, default=1, help="how many to run; default 1")
    parser.add_argument("--mutation", choices=MUTATIONS, default="", help="a fault to build in")
    parser.add_argument("--real", action="store_true", help="with fastbean's own engine, which takes longer")
    arguments = parser.parse_args()
    found = run_seeds(arguments.seed, arguments.seeds, arguments.mutation, is_real=arguments.real)
    sys.stdout.write(f"{found or 'no promise was broken'}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
