"""The load tool's core, against a small server of the tests' own that notes what it was sent."""

import os
import random
import selectors
import socket
import subprocess
import sys
import threading
import time

import pytest

from fastbean._benchmark import SCENARIOS, Histogram, Load, LoadError, cpu_ns, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load tool needs Linux's epoll")


class Peer(threading.Thread):
    """A beanstalk server of one tube: puts, reserves and deletes, told how to misbehave.

    replies: what a command is answered with instead of the right thing; None closes the connection, b"" says nothing.
    hold: replies that are kept back until there are so many. slowly: a reply goes out in single bytes.
    """

    def __init__(self, listener, *, replies=None, hold=1, slowly=False):
        super().__init__(daemon=True)
        self.listener = listener
        self.replies = replies or {}
        self.hold = hold
        self.slowly = slowly
        self.commands = []
        self.ready = []
        self.reserved = {}
        self.clients = 0
        self.all_gone = threading.Event()
        self.selector = selectors.DefaultSelector()
        self.wake, self.woken = socket.socketpair()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exception):
        self.wake.close()
        self.join()
        self.selector.close()
        self.woken.close()
        self.listener.close()

    @property
    def address(self):
        return self.listener.getsockname()

    def run(self):
        buffers = {}
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(self.woken, selectors.EVENT_READ)
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.woken:
                    for sock in buffers:
                        sock.close()
                    return
                if key.fileobj is self.listener:
                    sock, _ = self.listener.accept()
                    buffers[sock] = (bytearray(), [])
                    self.clients += 1
                    self.selector.register(sock, selectors.EVENT_READ)
                elif not self.serve(key.fileobj, *buffers[key.fileobj]):
                    self.selector.unregister(key.fileobj)
                    buffers.pop(key.fileobj)
                    key.fileobj.close()
                    if not buffers:
                        self.all_gone.set()

    def serve(self, sock, buffer, held):
        data = sock.recv(65536)
        buffer += data
        while (end := buffer.find(b"\r\n")) >= 0:
            words = bytes(buffer[:end]).split()
            body_bytes = int(words[4]) + 2 if words[0] == b"put" else 0
            if len(buffer) < end + 2 + body_bytes:
                break
            body = bytes(buffer[end + 2 : end + body_bytes])
            del buffer[: end + 2 + body_bytes]
            self.commands.append(words[0].decode())
            reply = self.replies.get(words[0], self.answer(words, body))
            if reply is None:
                return False
            held.append(reply)
        if len(held) >= self.hold:
            out = b"".join(held)
            held.clear()
            for piece in [out[i : i + 1] for i in range(len(out))] if self.slowly else [out]:
                sock.sendall(piece)
        return bool(data)

    def answer(self, words, body):
        if words[0] == b"put":
            self.ready.append((len(self.commands), body))
            return b"INSERTED %d\r\n" % len(self.commands)
        if words[0] == b"reserve":
            if not self.ready:
                return b""
            job_id, body = self.ready.pop(0)
            self.reserved[job_id] = body
            return b"RESERVED %d %d\r\n%s\r\n" % (job_id, len(body), body)
        assert words[0] == b"delete"
        return b"NOT_FOUND\r\n" if self.reserved.pop(int(words[1]), None) is None else b"DELETED\r\n"


@pytest.fixture
def serve(tmp_path):
    """A function that makes a Peer on a unix socket; it is used as a context manager."""

    def make(**behaviour):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "peer"))
        listener.listen()
        return Peer(listener, **behaviour)

    return make


def counted(commands):
    return {word: commands.count(word) for word in set(commands)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_operation_is_played_once(serve, scenario):
    with serve() as peer:
        if scenario == "take":
            run(peer.address, "put", operations=25)
            peer.commands.clear()
        result = run(peer.address, scenario, clients=3, depth=4, operations=25)
    steps = SCENARIOS[scenario]
    assert counted(peer.commands) == dict.fromkeys(steps, 25)
    assert len(peer.ready) == (25 if scenario == "put" else 0)
    assert peer.reserved == {}
    assert result.operations == 25
    assert result.latencies.count == 25 * len(steps)
    assert 0 < result.latencies.max_ns <= result.seconds * 1e9
    assert result.rate == pytest.approx(25 / result.seconds)


def test_a_load_runs_again_on_the_same_connections(serve):
    with serve() as peer:
        with Load(peer.address, "cycle", clients=2, depth=3) as load:
            counts = [load.run(operations).latencies.count for operations in (10, 1, 7)]
        assert counts == [30, 3, 21]
        assert peer.clients == 2


def test_more_clients_than_operations(serve):
    with serve() as peer:
        result = run(peer.address, "put", clients=5, depth=2, operations=3)
    assert result.latencies.count == 3
    assert counted(peer.commands) == {"put": 3}


def test_a_server_over_tcp():
    with Peer(socket.create_server(("127.0.0.1", 0))) as peer:
        assert run(peer.address, "cycle", operations=2).operations == 2


def test_depth_requests_are_in_flight(serve):
    with serve(hold=7) as peer:
        assert run(peer.address, "put", clients=2, depth=7, operations=28).operations == 28


def test_no_more_than_depth_requests_are_in_flight(serve):
    with serve(hold=8) as peer, pytest.raises(LoadError, match="said nothing"):
        run(peer.address, "put", depth=7, operations=28, limit_s=0.3)


def test_replies_may_come_in_single_bytes(serve):
    with serve(slowly=True) as peer:
        result = run(peer.address, "cycle", clients=2, depth=3, operations=12, body_bytes=11)
    assert result.latencies.count == 36
    assert counted(peer.commands) == {"put": 12, "reserve": 12, "delete": 12}


@pytest.mark.parametrize("body_bytes", [0, 1, 300_000])
def test_bodies_of_any_size_come_whole(serve, body_bytes):
    with serve() as peer:
        run(peer.address, "put", depth=3, operations=4, body_bytes=body_bytes)
        assert [len(body) for _, body in peer.ready] == [body_bytes] * 4
        assert run(peer.address, "take", depth=3, operations=4).operations == 4


@pytest.mark.parametrize(
    ("scenario", "replies", "message"),
    [
        ("put", {b"put": b"OUT_OF_MEMORY\r\n"}, r"b'OUT_OF_MEMORY\\r\\n' to a put, where b'INSERTED ' was expected"),
        ("cycle", {b"reserve": b"TIMED_OUT\r\n"}, "TIMED_OUT.* to a reserve"),
        ("cycle", {b"reserve": b"RESERVED 1 x\r\n"}, "RESERVED 1 x.* to a reserve"),
        ("cycle", {b"reserve": b"RESERVED 1\r\n"}, "RESERVED 1.* to a reserve"),
        ("cycle", {b"reserve": b"RESERVED 123456789012345678901 2\r\n"}, "to a reserve"),
        ("cycle", {b"delete": b"NOT_FOUND\r\n"}, "NOT_FOUND.* to a delete"),
        ("put", {b"put": b"INSERTED 1\r\nINSERTED 2\r\nINSERTED 3\r\n"}, "INSERTED 3.* to a put"),
        ("put", {b"put": b"x" * 1000}, "xxx.* to a put"),
        ("put", {b"put": None}, "closed a connection after 0 of 2 operations of 'put'"),
    ],
)
def test_a_wrong_answer_ends_the_run(serve, scenario, replies, message):
    with serve(replies=replies) as peer, Load(peer.address, scenario, depth=2) as load:
        with pytest.raises(LoadError, match=message) as raised:
            load.run(2)
        assert str(raised.value).startswith(peer.address)
        with pytest.raises(ValueError, match="this Load is closed"):
            load.run(2)


def test_too_few_jobs_to_take(serve):
    with serve() as peer:
        run(peer.address, "put", operations=2)
        with pytest.raises(LoadError, match=r"said nothing for 0\.3 s after 2 of 3 .*enough ready jobs"):
            run(peer.address, "take", operations=3, limit_s=0.3)


def test_nobody_listens(tmp_path):
    with pytest.raises(LoadError, match="is the server running"):
        run(str(tmp_path / "nobody"), "put")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
    with pytest.raises(LoadError, match=f"no connection to {host}:{port}"):
        run((host, port), "put")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scenario": "brew"}, "there is no scenario 'brew'; there are: put, take, cycle"),
        ({"clients": 0}, "clients is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"body_bytes": -1}, "body_bytes is -1"),
        ({"body_bytes": 1 << 29, "depth": 4}, "depth . body_bytes"),
        ({"limit_s": -1}, "limit_s is -1"),
        ({"operations": 0}, "operations is 0"),
    ],
)
def test_wrong_arguments(serve, wrong, message):
    with serve() as peer, pytest.raises(ValueError, match=message):
        run(peer.address, **({"scenario": "put"} | wrong))


def test_closing_closes_every_connection(serve):
    with serve() as peer:
        load = Load(peer.address, "put", clients=3)
        load.run(3)
        load.close()
        load.close()
        assert peer.all_gone.wait(10)
    assert peer.clients == 3


def test_quantiles_are_close_and_never_too_low():
    rng = random.Random(7)
    values = sorted(int(2 ** rng.uniform(0, 40)) for _ in range(20_000))
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    for fraction in (0.0, 0.001, 0.25, 0.5, 0.9, 0.99, 0.999, 1.0):
        exact = values[max(0, -int(-fraction * len(values)) - 1)]
        assert exact <= histogram.quantile_ns(fraction) <= exact * (1 + 1 / 128), fraction
    assert histogram.count == len(values)
    assert histogram.max_ns == values[-1]
    assert histogram.mean_ns == pytest.approx(sum(values) / len(values))


@pytest.mark.parametrize("power", range(64))
def test_every_power_of_two_has_a_bucket(power):
    histogram = Histogram()
    for value in ((1 << power) - 1, 1 << power):
        histogram.record(value)
    assert histogram.quantile_ns(1.0) == histogram.max_ns == 1 << power
    if power <= 40:
        low = histogram.quantile_ns(0.5)
        assert (1 << power) - 1 <= low <= 1 << power


def test_a_duration_is_counted_several_times():
    histogram = Histogram()
    histogram.record(10, 99)
    histogram.record(1000)
    assert [histogram.quantile_ns(fraction) for fraction in (0.5, 0.99, 1.0)] == [10, 10, 1000]


def test_an_empty_histogram_and_wrong_values():
    histogram = Histogram()
    assert (histogram.count, histogram.max_ns, histogram.mean_ns, histogram.quantile_ns(0.5)) == (0, 0, 0.0, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        histogram.quantile_ns(1.5)
    with pytest.raises(OverflowError):
        histogram.record(-1)
    assert histogram.count == 0


def test_cpu_time_is_that_of_the_process():
    before = time.process_time_ns()
    told = cpu_ns(os.getpid())
    assert before <= told <= time.process_time_ns()


def test_cpu_time_of_nobody():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with pytest.raises(OSError, match=f"the CPU time of process {child.pid}"):
        cpu_ns(child.pid)
