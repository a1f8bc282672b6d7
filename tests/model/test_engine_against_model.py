"""The engine against the naive model: a hypothesis state machine drives both with the same bytes under made-up time.

Every rule is one step: a client connects, sends a pipeline (cut anywhere), disconnects or half-closes; or time passes,
to the next deadline, past it, or for years. After each step both must have sent the same replies to every client. The
number of steps is shown at the end of the run, and every kind of reply must have occurred.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from builds import fewer_if_slow

from .commands import JOB_WORDS, PLAIN_WORDS, TUBE_WORDS, TUBES, command
from .pair import Pair
from .reference_state import SECOND_NS

STEPS_AN_EXAMPLE = 60
STEPS_A_PART = fewer_if_slow(10_000, 4_000)  # most of the time is spent by what makes them up
PARTS = 12  # the first in every run, the others only in the slow one
MOST_CLIENTS = 8
MOST_QUEUED_BYTES = 2000  # behind a reserve that waits, before a pipeline is added
MOST_BYTES = 60_000  # together with the pipeline: the hub refuses more than 65536 behind a reserve
YEAR_NS = 365 * 86_400 * SECOND_NS

EVERY_REPLY = (
    "INSERTED", "RESERVED", "DELETED", "RELEASED", "BURIED", "TOUCHED", "KICKED", "WATCHING", "USING", "PAUSED",
    "FOUND", "NOT_FOUND", "OK", "NOT_IGNORED", "TIMED_OUT", "DEADLINE_SOON", "DRAINING", "EXPECTED_CRLF",
    "JOB_TOO_BIG", "BAD_FORMAT", "UNKNOWN_COMMAND",
)  # fmt: skip


def cut_place(data: bytes, cut: int) -> int:
    """Return where a pipeline is cut: anywhere, or inside a CRLF, where faults are likely."""
    if cut % 2:
        return cut // 2 % len(data)
    after_cr = [match.end() for match in re.finditer(b"\r", data)]
    return after_cr[cut // 2 % len(after_cr)]


PRODUCER = ("put", "put", "put", "use", "pause-tube", "stats")
WORKER = (
    "reserve-with-timeout", "reserve", "reserve-with-timeout", "delete", "release", "bury", "touch", "reserve-job",
    "watch", "ignore",
)  # fmt: skip
MAINTAINER = ("kick", "kick-job", "pause-tube", *JOB_WORDS, *TUBE_WORDS, *PLAIN_WORDS)
ANYONE = (
    "put", "put", "put", "reserve", "reserve-with-timeout", "kick", "pause-tube", "odd", *JOB_WORDS, *TUBE_WORDS,
    *PLAIN_WORDS,
)  # fmt: skip
ODD = ("odd", "odd", "long", "put", "quit")
HANDLING = ("bury", "bury", "release", "touch", "delete")

# Each number is one command of a pipeline: which word of a list, and its arguments.
PIPELINE = st.lists(st.integers(0, 2**28 - 1), min_size=1, max_size=6)
CHOICE = st.integers(0, 2**16 - 1)
WHO = st.integers(0, 15)
CUT = st.one_of(st.none(), st.integers(0, 1200))
MOMENTS_NS = (1, 0, 1_000_000, SECOND_NS // 3, SECOND_NS, 3 * SECOND_NS // 2, 2 * SECOND_NS, 4 * SECOND_NS)
MOMENT_NS = st.sampled_from(MOMENTS_NS)


class QueueMachine(RuleBasedStateMachine):
    """What any number of clients may do to a server, and when."""

    steps: ClassVar[int] = 0
    replies: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair()
        self.draining_steps = 0
        self.agree = True

    @initialize(clients=st.integers(1, 4))
    def begin(self, clients: int) -> None:
        for _ in range(clients):
            self.pair.connect()
        self.step("begins")

    def step(self, what: str) -> None:
        """Count a step, run both servers until nothing is left to do, and compare them."""
        type(self).steps += 1
        self.draining_steps -= 1
        if self.draining_steps == 0:
            self.pair.drain(False)
        note(f"{what} (at {self.pair.now_ns} ns{', draining' if self.pair.model.draining else ''})")
        self.agree = False
        self.pair.settle()
        self.agree = True
        for number in list(self.pair.told):
            told = self.pair.hear(number)
            if told:
                note(f"  client {number} is told {told!r}")
            self.replies.update(line.split(b" ", 1)[0].decode("latin-1") for line in told.split(b"\r\n"))

    def someone(self, who: int) -> int:
        """Return a client, usually one that does not wait; connect one if there is none."""
        numbers = sorted(self.pair.connections)
        idle = [number for number in numbers if not self.pair.model.clients[number].waiting]
        if who < 12:
            numbers = idle or numbers
        return numbers[who % len(numbers)] if numbers else self.pair.connect()

    def may_send(self, number: int) -> bool:
        client = self.pair.model.clients[number]
        return not client.half_closed and len(client.inbox) <= MOST_QUEUED_BYTES

    def is_too_much(self, number: int, data: bytes) -> bool:
        return len(self.pair.model.clients[number].inbox + self.pair.unsent[number] + data) > MOST_BYTES

    def send(
        self, who: int, words: Sequence[str], pipeline: list[int], cut: int | None = None, first: bytes = b""
    ) -> None:
        number = self.someone(who)
        client = self.pair.model.clients[number]
        if not self.may_send(number):
            return
        data = first + b"".join(command(words, choice, self.pair.model, client) for choice in pipeline)
        if self.is_too_much(number, data):
            return
        held = len(self.pair.unsent[number])
        self.pair.send(number, data, None if cut is None else held + cut_place(data, cut))
        shown = data if len(data) < 300 else data[:300] + b"..."
        self.step(f"client {number} sends {shown!r}, all but {len(self.pair.unsent[number])} bytes")

    def tube_of_a_job(self, choice: int) -> bytes:
        jobs = self.pair.model.jobs
        return jobs[choice % len(jobs)].tube.name if jobs else b"default"

    @rule(who=WHO, pipeline=PIPELINE, cut=CUT)
    def produce(self, who: int, pipeline: list[int], cut: int | None) -> None:
        self.send(who, PRODUCER, pipeline, cut)

    @rule(who=WHO, pipeline=PIPELINE)
    def work(self, who: int, pipeline: list[int]) -> None:
        self.send(who, WORKER, pipeline)

    @rule(who=WHO, word=st.sampled_from(("reserve", "reserve-with-timeout")), choice=st.integers(0, 4))
    def reserve(self, who: int, word: str, choice: int) -> None:
        self.send(who, [word], [choice])

    @rule(who=WHO, pipeline=PIPELINE)
    def handle_jobs(self, who: int, pipeline: list[int]) -> None:
        """A worker reserves a few jobs, then does something with some of them."""
        watch = b"watch %s\r\n" % self.tube_of_a_job(pipeline[0])
        self.send(who, ["reserve-with-timeout"], [0] * 3, None, watch)
        self.send(who, HANDLING, pipeline)

    @rule(choice=CHOICE, jobs=PIPELINE, paused_s=st.integers(0, 2))
    def crowd(self, choice: int, jobs: list[int], paused_s: int) -> None:
        """Several clients wait for a tube, which may be paused, and jobs are put into it."""
        numbers = [number for number in self.pair.connections if self.may_send(number)]
        if len(numbers) < 2:
            return
        tube = TUBES[choice % len(TUBES)]
        producer = numbers[choice // len(TUBES) % len(numbers)]
        pause = b"pause-tube %s %d\r\n" % (tube, paused_s) if paused_s else b""
        self.pair.send(producer, b"use %s\r\n%s" % (tube, pause))
        self.step(f"client {producer} pauses {tube!r} for {paused_s} s")
        for number in numbers:
            if number != producer and number in self.pair.connections and self.may_send(number):
                self.pair.send(number, b"watch %s\r\nreserve-with-timeout 3\r\n" % tube)
                self.step(f"client {number} waits for {tube!r}")
        client = self.pair.model.clients[producer]
        puts = b"".join(command(["put"], job, self.pair.model, client) for job in jobs)
        if not client.closed and not self.is_too_much(producer, puts):
            self.pair.send(producer, puts)
            self.step(f"{len(jobs)} jobs come from client {producer}")

    @rule(who=WHO, word=st.sampled_from(("kick", "kick", "pause-tube", "peek-buried")), choice=CHOICE)
    def kick(self, who: int, word: str, choice: int) -> None:
        """A command on a tube, for a tube with jobs."""
        self.send(who, [word], [choice], None, b"use %s\r\n" % self.tube_of_a_job(choice))

    @rule(who=WHO, pipeline=PIPELINE)
    def maintain(self, who: int, pipeline: list[int]) -> None:
        self.send(who, MAINTAINER, pipeline)

    @rule(who=WHO, pipeline=PIPELINE, cut=CUT)
    def send_anything(self, who: int, pipeline: list[int], cut: int | None) -> None:
        self.send(who, ANYONE, pipeline, cut)

    @rule(who=WHO, pipeline=PIPELINE, cut=CUT)
    def send_odd_lines(self, who: int, pipeline: list[int], cut: int | None) -> None:
        self.send(who, ODD, pipeline, cut)

    @rule(who=WHO)
    def send_what_was_held_back(self, who: int) -> None:
        holding = [number for number, held in self.pair.unsent.items() if held]
        if holding:
            number = holding[who % len(holding)]
            self.pair.send(number, b"")
            self.step(f"client {number} sends the rest")

    @rule(who=WHO, pipeline=PIPELINE, moment_ns=MOMENT_NS)
    def send_late(self, who: int, pipeline: list[int], moment_ns: int) -> None:
        """The server was paused too long: it reads commands before it handles what is due."""
        self.pair.now_ns += moment_ns
        self.send(who, WORKER, pipeline)

    @rule(who=WHO, how=st.sampled_from(("comes", "comes", "is gone", "half-closes")))
    def come_or_go(self, who: int, how: str) -> None:
        if how == "comes" and len(self.pair.connections) < MOST_CLIENTS:
            self.step(f"client {self.pair.connect()} comes")
            return
        number = self.someone(who)
        if how == "half-closes" and not self.pair.model.clients[number].half_closed:
            self.pair.half_close(number)
        else:
            self.pair.close(number)
        self.step(f"client {number} {how}")
        # Its tubes may be gone, too.
        self.send(who, ["list-tubes"], [0])

    @rule(moment_ns=MOMENT_NS, stalled=st.booleans())
    def moment(self, moment_ns: int, stalled: bool) -> None:
        """After a pause, all that became due is handled in one iteration."""
        if stalled:
            self.pair.now_ns += moment_ns
        else:
            self.pair.pass_time(self.pair.now_ns + moment_ns)
        self.step("after a stall" if stalled else "a moment later")

    @rule(how=st.sampled_from((0, 0, 1, 1, 10, 30)), stalled=st.booleans())
    def deadline(self, how: int, stalled: bool) -> None:
        """The next deadline has come, or nearly; or years have passed."""
        due_ns = self.pair.model.next_deadline_ns()
        if how > 1 and self.pair.now_ns < 200 * YEAR_NS:
            if not stalled:
                self.pair.pass_time(self.pair.now_ns + how * YEAR_NS)
            self.pair.now_ns += how * YEAR_NS
            self.step(f"{how} years later")
        elif due_ns != -1:
            self.pair.now_ns = max(self.pair.now_ns, due_ns - how)
            self.step("something is nearly due" if how else "something is due")

    @rule(steps=st.integers(1, 5))
    def drain(self, steps: int) -> None:
        self.pair.drain(True)
        self.draining_steps = steps + 1
        self.step(f"drain mode for {steps} steps")

    def teardown(self) -> None:
        """Check everything once more, then disconnect all clients."""
        if not self.agree:
            return
        self.pair.check_everything()
        self.pair.all_leave()


def run(steps: int, part: int) -> int:
    """Run at least ``least`` steps and return how many there were. In CI each part is the same every time."""
    QueueMachine.steps = 0
    QueueMachine.replies = Counter()
    if "CI" in os.environ:
        seed(part)(QueueMachine)
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=steps // STEPS_AN_EXAMPLE * 3 // 2,
            stateful_step_count=STEPS_AN_EXAMPLE,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return QueueMachine.steps


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
def test_engine_does_what_the_model_does(part: int, record_property: pytest.RecordProperty) -> None:
    steps = run(STEPS_A_PART, part)
    record_property("steps of the engine against its model", steps)
    assert steps >= STEPS_A_PART
    assert [word for word in EVERY_REPLY if not QueueMachine.replies[word]] == []
