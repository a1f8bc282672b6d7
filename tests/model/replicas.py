"""One leader and two followers in simulated time, with a sink in memory between them.

The leader serves clients and hands its batches to the sink. The stream keeps the batches that were acknowledged. The
followers apply them at their own pace, each with a clock of its own. The leader may end at any call of its sink; then a
follower that has applied all that the stream has takes its place.

`Stream` and `Node` are the machines; `replica_session` is what happens to them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from fastbean.binlog.compaction import Compaction
from fastbean.binlog.loader import Loader
from fastbean.binlog.writer import BinlogWriter
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.net.hub import Hub

from .commands import MAX_JOB_SIZE
from .reference_state import SECOND_NS

RUN = bytes(range(16))
SEGMENT_BYTES = 4096
DAY_NS = 86_400 * SECOND_NS


@dataclass
class Batch:
    """A batch as the stream has it. ``sent_ns`` is its wall time, ``at_ns`` the same moment in simulated time."""

    first_lsn: int
    data: bytes
    sent_ns: int
    at_ns: int

    @property
    def end_lsn(self) -> int:
        return self.first_lsn + len(self.data)


@dataclass
class Stream:
    """The batches that were acknowledged and not trimmed.

    Who begins with the first of them holds what the leader does from ``whole_lsn``: what was needed before is trimmed.
    """

    batches: list[Batch] = field(default_factory=list)
    trimmed: int = 0
    end_lsn: int = 0
    whole_lsn: int = 0

    @property
    def begin_lsn(self) -> int:
        return self.batches[0].first_lsn if self.batches else self.end_lsn

    def append(self, batch: Batch) -> None:
        assert batch.first_lsn == self.end_lsn, "the batch does not continue the stream"
        self.batches.append(batch)
        self.end_lsn = batch.end_lsn

    def trim(self, lsn: int) -> None:
        """Forget the batches that end at this LSN or before it."""
        assert lsn <= self.end_lsn, "records that are not safe are trimmed"
        while self.batches and self.batches[0].end_lsn <= lsn:
            del self.batches[0]
            self.trimmed += 1
            self.whole_lsn = self.end_lsn

    def after(self, lsn: int) -> Batch | None:
        """Return the batch that begins at this LSN, None if it has not come yet."""
        return next((batch for batch in self.batches if batch.first_lsn == lsn), None)


@dataclass
class Contents:
    """What a server holds, with its own times turned into simulated ones."""

    jobs: dict[int, dict[str, Any]]
    buried: dict[bytes, list[int]]
    pauses: dict[bytes, tuple[int, int]]


class Node:
    """A server without sockets: it follows the stream, or it leads.

    ``late_ns`` is how long after its sending it applied a batch, at most: its delays and pauses end that much later.
    """

    def __init__(
        self, module: ModuleType, number: int, on_call: Callable[[str], str], stream: Stream, max_bytes: int = 0
    ) -> None:
        self._module = module
        self._stream = stream
        # The clocks of two nodes differ by minutes, and none begins at 0.
        self.clock_ns = DAY_NS + number * 7 * 60 * SECOND_NS
        self.engine = State(max_job_size=MAX_JOB_SIZE, now_ns=self.clock_ns)
        self._jobs = EngineJobs(self.engine)
        self.sink = module.MemorySink(on_call, stream.trim)
        self.asked: list[int] = []
        self.writer = BinlogWriter(
            self._jobs,
            self.sink,
            segment_bytes=SEGMENT_BYTES,
            max_bytes=max_bytes,
            ask_for_segment=self.asked.append,
        )
        self.writer.compactor = Compaction(self.writer)
        self.writer.begin_run(RUN)
        self._loader = Loader(self.writer)
        self.late_ns = 0
        self.whole_lsn = 0
        self.applied = 0

    def apply(self, batch: Batch, at_ns: int) -> None:
        """Apply a batch at a moment of simulated time."""
        if not self.applied:
            self.whole_lsn = self._stream.whole_lsn
        assert not self.applied or batch.first_lsn == self.writer.end
        outcome = self._loader.apply(batch.data, batch.first_lsn, batch.sent_ns, at_ns + self.clock_ns)
        assert outcome == "end", outcome
        assert self.writer.end == batch.end_lsn
        self.applied += 1
        self.late_ns = max(self.late_ns, at_ns - batch.at_ns)

    def lead(self) -> None:
        """Continue the run, and serve clients."""
        number, size = self._module.last_segment(self.writer)
        self.writer.start(number, -1, max(size, SEGMENT_BYTES))
        self._jobs.keep_binlog(self.writer)
        self.writer.begin_ids()
        self.hub = Hub(self.engine)

    def batch_in_flight(self, at_ns: int) -> Batch | None:
        """Return what the sink has taken and not acknowledged, None if that is nothing."""
        if self.sink.taken is None:
            return None
        first_lsn, data = self.sink.taken
        wall_ns = at_ns + self.clock_ns + self._module.wall_offset_ns(self.writer)
        return Batch(first_lsn, data, wall_ns, at_ns)

    def answer_requests(self) -> bool:
        """Prepare the segment that the room has asked for; return whether it has asked for one."""
        room = self.writer.room
        asked = bool(self.asked)
        while self.asked:
            room.add_spare(room.next_segment, -1, self.asked.pop())
        return asked

    def contents(self) -> Contents:
        """Return what it holds; times are those of the simulation."""
        jobs, buried, pauses = self._module.contents(self.engine)
        for job in jobs.values():
            job["created_ns"] -= self.clock_ns
            job["due_ns"] -= self.clock_ns
        pauses = {tube: (seconds, end_ns - self.clock_ns) for tube, (seconds, end_ns) in pauses.items()}
        return Contents(jobs, buried, pauses)


def difference(one: Contents, other: Contents, at_ns: int, late_ns: int) -> str:
    """Return in what the contents of two servers differ at this time, "" if in nothing.

    Times may differ by ``late_ns``, and so may what ends by itself: delays and pauses.
    """
    if one.jobs.keys() != other.jobs.keys():
        return f"jobs: {sorted(one.jobs.keys() ^ other.jobs.keys())}"
    for number, job in one.jobs.items():
        wrong = _difference_of_jobs(job, other.jobs[number], at_ns, late_ns)
        if wrong:
            return f"job {number}: {wrong}"
    if one.buried != other.buried:
        return f"the order of buried jobs: {one.buried}, {other.buried}"
    return _difference_of_pauses(one.pauses, other.pauses, at_ns, late_ns)


def _difference_of_jobs(job: dict[str, Any], other: dict[str, Any], at_ns: int, late_ns: int) -> str:
    for name in job.keys() - {"state", "due_ns", "created_ns"}:
        if job[name] != other[name]:
            return f"{name}: {job[name]!r}, {other[name]!r}"
    if abs(job["created_ns"] - other["created_ns"]) > late_ns:
        return f"created at {job['created_ns']}, {other['created_ns']}"
    states = {job["state"], other["state"]}
    if states == {"delayed"} and abs(job["due_ns"] - other["due_ns"]) > late_ns:
        return f"due at {job['due_ns']}, {other['due_ns']}"
    # One of the two may not have looked at the clock since the delay ended.
    if states == {"delayed", "ready"} and max(job["due_ns"], other["due_ns"]) <= at_ns + late_ns:
        return ""
    return "" if len(states) == 1 else f"{job['state']}, {other['state']}"


def _difference_of_pauses(
    one: dict[bytes, tuple[int, int]], other: dict[bytes, tuple[int, int]], at_ns: int, late_ns: int
) -> str:
    for tube in one.keys() | other.keys():
        pauses = [pauses[tube] for pauses in (one, other) if tube in pauses]
        ends_ns = [end_ns for _, end_ns in pauses]
        if max(ends_ns) <= at_ns + late_ns:
            continue
        if len(pauses) == 1 or pauses[0][0] != pauses[1][0] or max(ends_ns) - min(ends_ns) > late_ns:
            return f"the pause of {tube!r}: {one.get(tube)}, {other.get(tube)}"
    return ""
