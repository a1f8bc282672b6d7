"""The engine and the naive model side by side: both get the same bytes at the same made-up times.

After every step, ``settle`` runs both until nothing is left to do. It compares the replies, the connected clients,
when something happens next, and the counts. Nothing here sleeps, reads a clock or opens a socket.
"""

from __future__ import annotations

import re

from fastbean.engine.state import State
from fastbean.net.hub import Hub
from fastbean.net.memory_connection import MemoryConnection

from .commands import MAX_JOB_SIZE
from .reference import URGENT_PRI, Model
from .reference_state import SECOND_NS

START_NS = 1_000_000_007  # any moment will do
TICKS_AT_MOST = 100_000

_STATS = re.compile(rb"OK (\d+)\r\n(---\ncurrent-jobs-urgent: .*?\nplatform: [^\n]*\n)([^\r]*)\r\n", re.DOTALL)
_OF_THE_PROCESS = re.compile(rb"^(pid|version|rusage-utime|rusage-stime|id|hostname|os|platform): .*$", re.MULTILINE)


def comparable(output: bytes) -> bytes:
    """Return the output with those parts of ``stats`` blanked that only a real process knows."""

    def blanked(match: re.Match[bytes]) -> bytes:
        assert int(match[1]) == len(match[2]) + len(match[3]), "the size of the reply to stats is wrong"
        return b"OK\r\n%s\r\n" % _OF_THE_PROCESS.sub(rb"\1", match[2])

    return _STATS.sub(blanked, output)


def difference(told: bytes, expected: bytes) -> str:
    """Return a text that shows where two outputs differ."""
    differs = (at for at, (one, other) in enumerate(zip(told, expected, strict=False)) if one != other)
    same = next(differs, min(len(told), len(expected)))
    start = max(same - 60, 0)
    return (
        f"after {same} bytes the engine says {told[start : same + 200]!r}, the model {expected[start : same + 200]!r}"
    )


class Pair:
    """Both servers, the unsent rest of each client's pipeline, and the replies that were not taken yet."""

    def __init__(self) -> None:
        self.now_ns = START_NS
        self.engine = State(max_job_size=MAX_JOB_SIZE, now_ns=START_NS)
        self.hub = Hub(self.engine)
        self.model = Model(max_job_size=MAX_JOB_SIZE, now_ns=START_NS)
        self.connections: dict[int, MemoryConnection] = {}
        self.unsent: dict[int, bytes] = {}
        self.told: dict[int, bytes] = {}

    def connect(self) -> int:
        """Connect a new client; returns its number."""
        number = self.model.connect()
        self.connections[number] = self.hub.connect()
        self.unsent[number] = b""
        return number

    def send(self, number: int, data: bytes, sent_bytes: int | None = None) -> None:
        """A client sends its unsent bytes and ``data``, except for what exceeds ``sent_bytes``."""
        data = self.unsent[number] + data
        if sent_bytes is None:
            sent_bytes = len(data)
        now, self.unsent[number] = data[:sent_bytes], data[sent_bytes:]
        self.model.now_ns = self.now_ns
        self.model.send(number, now)
        self.connections[number].feed(now, self.now_ns)

    def half_close(self, number: int) -> None:
        """A client shuts down its side of the connection."""
        self.model.now_ns = self.now_ns
        self.model.half_close(number)
        self.connections[number].feed_eof(self.now_ns)

    def close(self, number: int) -> None:
        """A client disconnects."""
        self.model.now_ns = self.now_ns
        self.model.close(number)
        self.connections[number].close(self.now_ns)

    def drain(self, draining: bool) -> None:
        """Begin or end drain mode."""
        self.model.draining = draining
        self.engine.draining = draining

    def settle(self) -> None:
        """Both do all that is due at this time; then they must agree."""
        self.model.advance(self.now_ns)
        outputs, wait_ns = self._run_hub()
        self._compare_clients(outputs)
        self._compare_counts()
        due_ns = self.model.next_deadline_ns()
        next_ns = self.engine.next_deadline_ns()
        assert wait_ns == (-1 if next_ns == -1 else next_ns - self.now_ns)
        # A timer may fire too early, but neither too late nor twice at the same time.
        assert next_ns == -1 or next_ns > self.now_ns
        assert due_ns == -1 or self.now_ns < next_ns <= due_ns

    def _run_hub(self) -> tuple[dict[int, bytes], int]:
        """Iterate until nothing is left to do. Clients keep reading: a full outbox would block their commands."""
        outputs = dict.fromkeys(self.connections, b"")
        for _ in range(TICKS_AT_MOST):
            wait_ns = self.hub.end_iteration(self.now_ns)
            more = {number: connection.take_output() for number, connection in self.connections.items()}
            for number, output in more.items():
                outputs[number] += output
            if wait_ns != 0 and not any(more.values()):
                return outputs, wait_ns
        raise AssertionError("the hub does not come to rest")

    def hear(self, number: int) -> bytes:
        """Return the replies to a client since the last call."""
        return self.told.pop(number, b"")

    def _compare_clients(self, outputs: dict[int, bytes]) -> None:
        for number, connection in list(self.connections.items()):
            expected = comparable(self.model.taken(number))
            told = comparable(outputs[number])
            assert told == expected, f"client {number}: {difference(told, expected)}"
            self.told[number] = self.told.get(number, b"") + told
            assert connection.closed == self.model.clients[number].closed, f"client {number}"
            if connection.closed:
                del self.connections[number]
                del self.unsent[number]

    def _compare_counts(self) -> None:
        model = self.model
        clients = model.open_clients()
        assert self.hub.connections == len(clients)
        counters = self.engine.counters()
        assert counters == {
            "jobs": len(model.jobs),
            "tubes": len(model.tubes),
            "clients": len(clients),
            **{state: len(model.of_state(state)) for state in ("ready", "reserved", "delayed", "buried")},
            "urgent": sum(job.pri < URGENT_PRI for job in model.of_state("ready")),
            "waiting": len(model.waiting_clients()),
            "connections": len(clients),
            "producers": sum(client.producer for client in clients),
            "workers": sum(client.worker for client in clients),
            "total_jobs": model.counts["jobs"],
            "timeouts": model.counts["timeouts"],
        }
        assert counters["jobs"] == sum(counters[state] for state in ("ready", "reserved", "delayed", "buried"))
        for tube in model.tubes:
            if tube.unpause_ns is None and model.of_state("ready", tube):
                assert not any(client.waiting for client in model.watchers(tube)), "a job was not handed out"

    def pass_time(self, until_ns: int) -> None:
        """Let time pass as for a server that wakes up for everything that is due."""
        due_ns = self.model.next_deadline_ns()
        while due_ns != -1 and due_ns <= until_ns:
            self.now_ns = max(due_ns, self.now_ns)
            self.settle()
            due_ns = self.model.next_deadline_ns()
        self.now_ns = until_ns
        self.settle()

    def check_everything(self) -> None:
        """Request all statistics of every job and tube."""
        number = self.connect()
        for job in list(self.model.jobs):
            self.send(number, b"stats-job %d\r\npeek %d\r\n" % (job.id, job.id))
        for tube in list(self.model.tubes):
            self.send(number, b"use %s\r\npeek-ready\r\npeek-delayed\r\npeek-buried\r\n" % tube.name)
            self.send(number, b"stats-tube %s\r\n" % tube.name)
        self.send(number, b"use default\r\nlist-tubes\r\nstats\r\n")
        self.settle()

    def all_leave(self) -> None:
        """Close every connection and delete every job: nothing may be left."""
        for number in list(self.connections):
            self.close(number)
        self.settle()
        number = self.connect()
        for job in list(self.model.jobs):
            self.send(number, b"delete %d\r\n" % job.id)
        self.send(number, b"list-tubes\r\n")
        self.settle()
        self.close(number)
        self.settle()
        # What is still due is the end of a pause of the tube default, or a timer without effect.
        self.now_ns += 100 * SECOND_NS
        self.settle()
        counters = self.engine.counters()
        assert counters.pop("tubes") == 1
        assert counters.pop("total_jobs") == self.model.counts["jobs"]
        assert counters.pop("timeouts") == self.model.counts["timeouts"]
        assert not any(counters.values()), counters
        assert self.engine.next_deadline_ns() == -1
        assert self.hub.unsent == 0
