"""How many system calls a command costs, counted by strace.

Each test starts a daemon under strace, plays one client's part, stops the daemon and reads the record. A wait counts
for a client when it announced that client. The last thing that happens to a client that hangs up is a receive of
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from builds import fewer_if_slow

from . import trace
from .conftest import Starter
from .daemon import Client, Daemon, fill
from .trace import Call

MIB = 1 << 20
BODY_BYTES = 60_000
ONE_REQUEST = ["epoll_wait", "recvfrom", "sendto"]
GOODBYE = ["epoll_wait", "recvfrom"]

Play = Callable[[Daemon, Client], None]


@pytest.fixture
def traced(start: Starter, tmp_path: Path) -> Callable[[Play], list[Call]]:
    """A function that has a client play its part and returns the system calls that were made for it."""
    record = tmp_path / "calls"
    words = trace.strace_or_skip(record)

    def run(play: Play) -> list[Call]:
        daemon = start(before=words)
        client = daemon.connect()
        port = client.sock.getsockname()[1]
        daemon.settle()
        play(daemon, client)
        client.close()
        daemon.settle()
        assert daemon.stop() == 0
        return trace.served(trace.read(record), port)

    return run


def test_a_small_request_costs_one_receive_and_one_send(traced: Callable[[Play], list[Call]]) -> None:
    def play(daemon: Daemon, client: Client) -> None:
        for _ in range(10):
            assert client.ask(b"put 0 0 60 2\r\nhi\r\n").startswith(b"INSERTED ")
            assert client.ask(b"peek-delayed\r\n") == b"NOT_FOUND"

    assert trace.names(traced(play)) == ONE_REQUEST * 20 + GOODBYE


def test_a_hundred_puts_in_one_segment_cost_one_receive_and_one_send(traced: Callable[[Play], list[Call]]) -> None:
    def play(daemon: Daemon, client: Client) -> None:
        client.send(b"put 0 0 60 2\r\nhi\r\n" * 100)
        assert [client.line() for _ in range(100)] == [b"INSERTED %d" % (number + 1) for number in range(100)]

    assert trace.names(traced(play)) == ONE_REQUEST + GOODBYE


def test_a_hundred_reserves_and_deletes_in_one_segment_cost_one_receive_and_one_send(
    traced: Callable[[Play], list[Call]],
) -> None:
    def play(daemon: Daemon, client: Client) -> None:
        client.send(b"put 0 0 60 2\r\nhi\r\n" * 100)
        assert client.exactly(1292).count(b"INSERTED") == 100
        client.send(b"".join(b"reserve\r\ndelete %d\r\n" % number for number in range(1, 101)))
        for number in range(1, 101):
            assert [client.line() for _ in range(3)] == [b"RESERVED %d 2" % number, b"hi", b"DELETED"]

    assert trace.names(traced(play)) == ONE_REQUEST * 2 + GOODBYE


def test_no_call_of_another_kind_is_made_for_a_request(start: Starter, tmp_path: Path) -> None:
    record = tmp_path / "calls"
    daemon = start(before=trace.strace_or_skip(record))
    client = daemon.connect()
    # For the first job there may be no chunk yet: memory comes from the system then, for hundreds of its size.
    for name in (b"warm", b"first", b"middle", b"middle", b"last"):
        assert client.ask(b"use %s\r\n" % name) == b"USING " + name
        assert client.ask(b"put 0 0 60 2\r\nhi\r\n").startswith(b"INSERTED ")
    daemon.stop()
    calls = trace.read(record)
    asked = [at for at, call in enumerate(calls) if call.name == "recvfrom" and '"use ' in call.arguments]
    assert len(asked) == 5
    assert trace.names(calls[asked[1] : asked[4]]) == ["recvfrom", "sendto", "epoll_wait"] * 6


def test_a_large_body_is_received_straight_into_its_job(traced: Callable[[Play], list[Call]]) -> None:
    body, first_bytes = b"x" * BODY_BYTES, 5_000

    def play(daemon: Daemon, client: Client) -> None:
        client.send(b"put 0 0 60 %d\r\n" % BODY_BYTES + body[:first_bytes])
        daemon.settle()
        client.send(body[first_bytes:] + b"\r\nlist-tube-used\r\n")
        assert client.line() == b"INSERTED 1"
        assert client.line() == b"USING default"

    calls = traced(play)
    assert trace.names(calls) == ["epoll_wait", "recvfrom", "epoll_wait", "recvmsg", "sendto", *GOODBYE]
    rest = calls[3]
    left_bytes = BODY_BYTES - first_bytes
    assert rest.result == left_bytes + len(b"\r\nlist-tube-used\r\n")
    assert f"iov_len={left_bytes}}}" in rest.arguments, "the first piece is not the rest of the body"
    assert "msg_iovlen=2" in rest.arguments


def test_a_large_put_in_one_segment_costs_one_receive_and_one_send(traced: Callable[[Play], list[Call]]) -> None:
    def play(daemon: Daemon, client: Client) -> None:
        client.send(b"put 0 0 60 %d\r\n%s\r\n" % (BODY_BYTES, b"x" * BODY_BYTES))
        assert client.line() == b"INSERTED 1"

    calls = traced(play)
    assert trace.names(calls) == ONE_REQUEST + GOODBYE
    assert calls[1].result > BODY_BYTES


def test_a_reply_with_a_large_body_is_one_send(traced: Callable[[Play], list[Call]]) -> None:
    def play(daemon: Daemon, client: Client) -> None:
        client.send(b"put 0 0 60 %d\r\n%s\r\n" % (BODY_BYTES, b"x" * BODY_BYTES))
        assert client.line() == b"INSERTED 1"
        client.send(b"list-tube-used\r\nreserve\r\nlist-tube-used\r\n")
        assert client.line() == b"USING default"
        assert client.line() == b"RESERVED 1 %d" % BODY_BYTES
        assert client.exactly(BODY_BYTES + 2) == b"x" * BODY_BYTES + b"\r\n"
        assert client.line() == b"USING default"

    calls = traced(play)
    assert trace.names(calls) == [*ONE_REQUEST, "epoll_wait", "recvfrom", "sendmsg", *GOODBYE]
    sent = calls[5]
    assert sent.result > BODY_BYTES
    assert "msg_iovlen=3" in sent.arguments, "the body is not sent from its job"


def test_a_worker_that_waits_costs_one_send_when_its_job_comes(traced: Callable[[Play], list[Call]]) -> None:
    def play(daemon: Daemon, client: Client) -> None:
        producer = daemon.connect()
        for _ in range(10):
            client.send(b"reserve\r\n")
            daemon.settle()
            assert producer.ask(b"put 0 0 60 2\r\nhi\r\n").startswith(b"INSERTED ")
            assert client.line().startswith(b"RESERVED ")
            assert client.line() == b"hi"

    assert trace.names(traced(play)) == ONE_REQUEST * 10 + GOODBYE


def test_watching_for_room_to_send_is_asked_for_once_and_ended_once(traced: Callable[[Play], list[Call]]) -> None:
    asked = 1000

    def play(daemon: Daemon, client: Client) -> None:
        client.send(b"put 0 0 60 %d\r\n%s\r\n" % (BODY_BYTES, b"x" * BODY_BYTES))
        assert client.line() == b"INSERTED 1"
        client.send(b"peek 1\r\n" * asked)
        daemon.settle()
        for _ in range(asked):
            assert client.line() == b"FOUND 1 %d" % BODY_BYTES
            assert len(client.exactly(BODY_BYTES + 2)) == BODY_BYTES + 2

    calls = traced(play)
    changes = [call for call in calls if call.name == "epoll_ctl"]
    # The selector is changed when a socket is full and when it has room again, never for a reply. (A reader that keeps
    # up may leave it room all the time.)
    assert len(changes) <= asked // 5
    assert len(changes) % 2 == 0
    assert trace.names(calls).count("recvfrom") <= 4


@pytest.mark.parametrize("reply", ["body", "text"])
def test_a_huge_reply_is_sent_in_steps(start: Starter, tmp_path: Path, reply: str) -> None:
    body_bytes, tubes, record = 64 * MIB, fewer_if_slow(80_000, 40_000), tmp_path / "calls"
    daemon = start(before=trace.strace_or_skip(record), flags=["-z", str(body_bytes)])
    client = daemon.connect()
    if reply == "body":
        client.send(b"put 0 0 60 %d\r\n%s\r\n" % (body_bytes, bytes(body_bytes)))
        assert client.line() == b"INSERTED 1"
        client.send(b"peek 1\r\n")
        assert client.line() == b"FOUND 1 %d" % body_bytes
        assert len(client.exactly(body_bytes + 2)) == body_bytes + 2
    else:
        fill(client, [b"watch %s-%06d\r\n" % (b"tube" * 48, number) for number in range(tubes)], b"WATCHING ")
        client.send(b"list-tubes\r\n")
        assert client.text().count(b"\n") == tubes + 2
    daemon.stop()
    longest = sent = 0
    for call in trace.read(record):
        sent = 0 if call.name == "epoll_wait" else sent + max(call.result, 0) * call.name.startswith("send")
        longest = max(longest, sent)
    assert longest <= 4 * MIB, f"{longest} bytes were sent to one client and nobody else was served meanwhile"
