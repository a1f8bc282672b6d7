"""The tokenizer, the encoder of binlog records and the engine, each alone, without sockets and system calls."""

import pytest

from fastbean.engine.state import State
from fastbean.net.hub import Hub

from .compiled import load_compiled
from .contestants import MissingError

pytestmark = pytest.mark.long

TIMES = 100_000
COMMANDS = 1_000
BODY = b"x" * 64
LINES = {
    "put": b"put 1024 0 60 64\r\n",
    "reserve": b"reserve\r\n",
    "delete": b"delete 123456\r\n",
    "use": b"use a-tube-of-some-length\r\n",
}
PUT = b"put 1024 0 60 %d\r\n%s\r\n" % (len(BODY), BODY)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    try:
        return load_compiled("parts", tmp_path_factory.mktemp("parts"))
    except MissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.benchmark(group=f"tokenizer: {TIMES:,} lines")
@pytest.mark.parametrize("name", LINES)
def test_tokenizer(benchmark, parts, name):
    assert benchmark(parts.tokenize, LINES[name], TIMES) == 0


@pytest.mark.benchmark(group=f"encoder: {TIMES:,} records of a job of {len(BODY)} bytes")
@pytest.mark.parametrize("record", ["put", "update", "delete"])
def test_encoder(benchmark, parts, record):
    assert benchmark(parts.encode, record, BODY, TIMES) == 0


class Memory:
    """A client and an engine, both in memory: the next iteration answers what it sends."""

    def __init__(self):
        self.hub = Hub(State())
        self.client = self.hub.connect()

    def ask(self, requests):
        """Sends the requests, serves them, and returns all replies."""
        self.client.feed(requests, 1)
        said = []
        while not said or said[-1]:  # what has many replies waits until some of them were taken
            while self.hub.end_iteration(1) == 0:
                pass
            said.append(self.client.take_output())
        return b"".join(said)

    def put_some(self):
        return self.ask(PUT * COMMANDS)


@pytest.mark.benchmark(group=f"engine: {COMMANDS:,} operations of a client in memory")
@pytest.mark.parametrize("name", ["put", "reserve", "delete", "peek", "stats"])
def test_engine(benchmark, name):
    memory = Memory()
    first = int(memory.put_some().split()[1])
    if name == "put":
        request = PUT * COMMANDS
    elif name == "reserve":
        request = b"reserve\r\n" * COMMANDS
    elif name == "stats":
        request = b"stats\r\n" * COMMANDS
    else:
        request = b"".join(b"%s %d\r\n" % (name.encode(), first + place) for place in range(COMMANDS))

    def another():
        other = Memory()
        other.put_some()
        return (other, request), {}

    reply = benchmark.pedantic(lambda one, asked: one.ask(asked), setup=another, rounds=20, warmup_rounds=1)
    words = {"put": b"INSERTED", "reserve": b"RESERVED", "delete": b"DELETED", "peek": b"FOUND", "stats": b"OK "}
    assert reply.count(words[name]) == COMMANDS
