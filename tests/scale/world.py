"""A hub in memory, under made-up time, whose every step can be weighed.

One call of `Client.send` or `World.end_iteration` is one step of the server: until it returns nobody else is served.
What a step has done is read off the engine's counters, so no clock is needed to show that no step is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from fastbean.engine.state import State
from fastbean.net.hub import Hub
from fastbean.net.memory_connection import MemoryConnection

SECOND_NS = 10**9
# What one step may move: jobs, watches or tubes. Both an expiry and a slice of a long command fit into one iteration.
STEP_LIMIT = 2500
PUTS_AT_ONCE = 250


class Client:
    """A client without a socket."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.connection: MemoryConnection = world.hub.connect()

    def send(self, data: bytes) -> None:
        """The bytes arrive; what can be run of them in this step is run."""
        self.connection.feed(data, self.world.now_ns)

    def replies(self) -> bytes:
        """What was answered since the last call."""
        return self.connection.take_output()

    def ask(self, data: bytes) -> bytes:
        """Sends, and returns what is answered in the same step."""
        self.send(data)
        return self.replies()

    def call(self, data: bytes) -> bytes:
        """Sends, and lets the server run until it has nothing more to do."""
        self.send(data)
        self.world.settle()
        return self.replies()

    def leave(self) -> None:
        """The connection is lost."""
        self.connection.close(self.world.now_ns)


class World:
    """A server in memory; `now_ns` is its time."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.hub = Hub(State(now_ns=0))

    def client(self) -> Client:
        """A new client."""
        return Client(self)

    def counted(self, name: str) -> int:
        """One of the engine's counters."""
        return self.hub.state.counters()[name]

    def end_iteration(self) -> int:
        """One iteration of the loop; 0 when there is more to do at once."""
        return self.hub.end_iteration(self.now_ns)

    def settle(self) -> None:
        """Turns until there is nothing more to do at this time."""
        while self.end_iteration() == 0:
            pass

    def fill(self, client: Client, commands: Iterable[bytes], at_once: int = 500) -> None:
        """Many short commands of one client, whose replies nobody looks at."""
        rest = iter(commands)
        while batch := b"".join(islice(rest, at_once)):
            client.call(batch)

    def put(self, client: Client, count: int, delay_s: int = 0, ttr_s: int = 1000) -> None:
        """Puts `count` jobs of one byte."""
        self.fill(client, (b"put 0 %d %d 1\r\nx\r\n" % (delay_s, ttr_s) for _ in range(count)), PUTS_AT_ONCE)

    def reserve_all(self, client: Client, count: int) -> None:
        """The client holds the jobs 1 to `count`, which exist."""
        self.fill(client, (b"reserve-job %d\r\n" % number for number in range(1, count + 1)))
        assert self.counted("reserved") == count

    def bury_all(self, client: Client, count: int) -> None:
        """The client buries the jobs 1 to `count`, which it holds."""
        self.fill(client, (b"bury %d 0\r\n" % number for number in range(1, count + 1)))
        assert self.counted("buried") == count


def watched_steps(world: World, counter: str, first: Callable[[], None], goal: int) -> Iterator[int]:
    """Runs `first` and then iteration after iteration until the counter stands at `goal`; yields what each step
    changed.

    Between two steps the caller may do what it likes, as other clients would.
    """
    before = world.counted(counter)
    first()
    after = world.counted(counter)
    yield abs(after - before)
    while after != goal:
        before = world.counted(counter)
        more = world.end_iteration()
        after = world.counted(counter)
        yield abs(after - before)
        assert more == 0 or after == goal, f"the server rests while {counter} is {after}, not {goal}"
