"""Connections in memory: cutting, bounds, half-closing, large bodies."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_client import SECOND_NS, MemoryClient, MemoryServer

SESSION = (
    b"use t\r\nput 1 0 60 5\r\nhello\r\nput 0 0 60 0\r\n\r\nput 0 0 60 70000\r\n" + b"x" * 70002 + b"watch t\r\n"
    b"reserve\r\nbury 2 7\r\nkick 10\r\n\r\nnonsense\r\nput 0 0 1 3\r\nabcdpeek 1\r\n" + b"y" * 300 + b"\r\n"
    b"delete 1\r\nlist-tubes-watched\r\nreserve-with-timeout 0\r\n"
)


@given(st.lists(st.integers(0, len(SESSION)), max_size=20))
@settings(max_examples=60, deadline=None)
def test_where_the_bytes_are_cut_changes_nothing(cuts: list[int]) -> None:
    whole = MemoryServer().client()(SESSION)
    edges = sorted({0, *cuts, len(SESSION)})
    pieces = [SESSION[start:end] for start, end in itertools.pairwise(edges)]
    assert MemoryServer().client()(*pieces) == whole
    assert whole.count(b"\r\n") > 12


def test_a_byte_at_a_time(client: MemoryClient) -> None:
    assert client(*[bytes([byte]) for byte in SESSION[:60]]) == MemoryServer().client()(SESSION[:60])


def test_what_comes_behind_a_blocked_reserve_waits_for_it(server: MemoryServer, client: MemoryClient) -> None:
    assert client(b"reserve\r\nuse a\r\nput 0 0 1 1\r\nz") == b""
    server.client().put(b"job")
    assert client(b"\r\n") == b"RESERVED 1 3\r\njob\r\nUSING a\r\nINSERTED 2\r\n"


def test_the_input_behind_a_blocked_reserve_is_bounded(server: MemoryServer, client: MemoryClient) -> None:
    client(b"reserve\r\n" + b"watch a\r\n" * 7000)
    with pytest.raises(BufferError, match="too much"):
        client(b"watch a\r\n" * 1000)
    server.client().put(b"job")
    assert client().count(b"WATCHING 2\r\n") > 7000


def test_many_commands_are_run_over_several_iterations(server: MemoryServer, client: MemoryClient) -> None:
    client.connection.feed(b"peek 1\r\n" * 2000, 0)
    first = client.connection.take_output()
    assert 0 < first.count(b"\r\n") < 2000
    assert (first + client()) == b"NOT_FOUND\r\n" * 2000


def test_a_client_that_does_not_take_its_replies_gets_no_further_command_run(client: MemoryClient) -> None:
    client.put(b"x" * 60000)
    answered = 0
    output = client(b"peek 1\r\n" * 100)
    while output:
        assert len(output) < 262144 + 2 * 60020
        answered += output.count(b"FOUND")
        output = client()
    assert answered == 100


def test_a_body_that_is_being_sent_outlives_its_job(server: MemoryServer, client: MemoryClient) -> None:
    body = bytes(range(256)) * 200
    client.put(body)
    client.connection.feed(b"peek 1\r\n", 0)
    assert server.client()(b"delete 1\r\n") == b"DELETED\r\n"
    assert client() == b"FOUND 1 %d\r\n" % len(body) + body + b"\r\n"


def test_at_the_end_of_file_complete_commands_are_answered(client: MemoryClient) -> None:
    client.connection.feed(b"use a\r\nuse b\r\nuse c", 0)
    client.half_close()
    assert client.connection.take_output() == b"USING a\r\nUSING b\r\n"
    assert client.connection.closed


def test_at_the_end_of_file_waits_are_over(server: MemoryServer, client: MemoryClient) -> None:
    client.connection.feed(b"reserve\r\nreserve\r\nuse a\r\nreserve-with-timeout 5\r\n", 0)
    client.half_close()
    assert client.connection.take_output() == b"TIMED_OUT\r\nTIMED_OUT\r\nUSING a\r\nTIMED_OUT\r\n"
    assert client.connection.closed
    assert server.engine.counters()["clients"] == 0


def test_a_half_closed_client_can_still_be_given_a_job(server: MemoryServer, client: MemoryClient) -> None:
    server.client().put(b"job")
    client.connection.feed(b"reserve\r\nreserve\r\n", 0)
    client.half_close()
    assert client.connection.take_output() == b"RESERVED 1 3\r\njob\r\nTIMED_OUT\r\n"
    assert server.engine.counters()["ready"] == 1


def test_quit_closes_and_drops_what_follows(server: MemoryServer, client: MemoryClient) -> None:
    assert client(b"use a\r\nquit\r\nput 0 0 1 1\r\na\r\n") == b"USING a\r\n"
    assert client.connection.closed
    assert server.engine.counters()["jobs"] == 0


def test_a_closed_connection_takes_no_more(client: MemoryClient) -> None:
    client.close()
    client.close()
    assert client(b"use a\r\n") == b""


def test_leaving_in_mid_body_uses_up_the_id_and_frees_the_tube(server: MemoryServer, client: MemoryClient) -> None:
    client(b"use gone\r\nput 0 0 1 5\r\nab")
    assert server.engine.counters()["tubes"] == 2
    client.close()
    assert server.engine.counters()["tubes"] == 1
    assert server.client().put() == 2


def test_the_body_of_a_job_that_is_too_big_is_swallowed(client: MemoryClient) -> None:
    assert client(b"put 0 0 1 65536\r\n", b"x" * 65536, b"\r\nuse a\r\n") == b"JOB_TOO_BIG\r\nUSING a\r\n"
    assert client(b"put 0 0 1 70000 junk\r\n" + b"x" * 70002) == b"JOB_TOO_BIG\r\n"
    assert client.put(b"x" * 65535) == 1


def test_a_body_without_its_crlf(client: MemoryClient) -> None:
    assert client(b"put 0 0 1 1\r\nabcuse a\r\n") == b"EXPECTED_CRLF\r\nUSING a\r\n"
    assert client.put() == 2


@pytest.mark.parametrize("length", [222, 223, 224, 225, 448, 5000])
@pytest.mark.parametrize("piece", [1, 7, 224, 10000])
def test_a_line_that_is_too_long_is_refused_once(client: MemoryClient, length: int, piece: int) -> None:
    line = b"a" * length + b"\r\nuse b\r\n"
    expected = b"BAD_FORMAT\r\n" if length > 222 else b"UNKNOWN_COMMAND\r\n"
    assert client(*[line[at : at + piece] for at in range(0, len(line), piece)]) == expected + b"USING b\r\n"


def test_only_crlf_ends_a_line(client: MemoryClient) -> None:
    assert client(b"use\ra\r\n") == b"UNKNOWN_COMMAND\r\n"
    assert client(b"use a\nuse b\r\n") == b"BAD_FORMAT\r\n"
    assert client(b"use a\r\r\n") == b"BAD_FORMAT\r\n"
    assert client(b"stats-job 1\r", b"\n") == b"NOT_FOUND\r\n"


POST = (
    b"POST / HTTP/1.1\r\nHost: 127.0.0.1:11300\r\nContent-Length: 21\r\nOrigin: null\r\n\r\nput 0 0 60 5\r\nhello\r\n"
)
LONG_POST = POST.replace(b"POST /", b"POST /" + b"a" * 2000)
HEADERS = POST.partition(b"\r\n")[2]
BODY = b"\r\nput 0 0 60 5\r\nhello\r\n"
HTTP = [
    POST,
    POST.replace(b"\r\n", b"\n", 5),
    POST.replace(b"POST /", b"GET /a?b=c"),
    POST.replace(b"POST", b"watch"),  # a page that has the browser take it for the same origin may choose any method
    POST.replace(b"POST", b"list-tubes"),
    POST.replace(b"POST", b"delete"),
    POST.replace(b"/1.1", b"/1.0"),
    POST.replace(b"POST / HTTP/1.1", b"PRI * HTTP/2.0"),
    POST.replace(b"POST / HTTP/1.1", b"OPTIONS * HTTP/1.1"),
    LONG_POST,
    LONG_POST.replace(b"\r\n", b"\n", 5),
    *(POST.replace(b"POST /", b"POST /" + b"a" * size) for size in range(200, 215)),
    HEADERS,
    HEADERS.replace(b"Host: 127.0.0.1", b"hOsT:" + b"a" * 300),
    b"nonsense\nHost: x" + BODY,
    b"a" * 300 + b"\nPOST / HTTP/1.1" + BODY,
    b"\0 / HTTP/1.1" + BODY,
]


@pytest.mark.parametrize("piece", [1, 3, 100, 10000])
@pytest.mark.parametrize("request_", HTTP, ids=range(len(HTTP)))
def test_http_closes_the_connection_and_runs_nothing(server: MemoryServer, request_: bytes, piece: int) -> None:
    client = server.client()
    assert client(b"use a\r\n") == b"USING a\r\n"
    assert client(*[request_[at : at + piece] for at in range(0, len(request_), piece)]) == b""
    assert client.connection.closed
    assert server.engine.counters()["total_jobs"] == 0


def test_http_behind_a_waiting_reserve_is_recognised_too(server: MemoryServer) -> None:
    client = server.client()
    assert client(b"reserve\r\n" + POST) == b""
    server.client().put(b"job")
    assert client() == b"RESERVED 1 3\r\njob\r\n"
    assert client.connection.closed
    assert server.engine.counters()["total_jobs"] == 1


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"POST", b"UNKNOWN_COMMAND"),
        (b"POST /", b"UNKNOWN_COMMAND"),
        (b"POST HTTP/1.1", b"UNKNOWN_COMMAND"),
        (b"POST  HTTP/1.1", b"UNKNOWN_COMMAND"),
        (b" HTTP/1.1", b"UNKNOWN_COMMAND"),
        (b"HTTP/1.1 200 OK", b"UNKNOWN_COMMAND"),
        (b"POST / HTTP/1.", b"UNKNOWN_COMMAND"),
        (b"POST / http/1.1", b"UNKNOWN_COMMAND"),
        (b"POST / HTTP/x.1", b"UNKNOWN_COMMAND"),
        (b"Host", b"UNKNOWN_COMMAND"),
        (b"Hosts: a", b"UNKNOWN_COMMAND"),
        (b"x Host: a", b"UNKNOWN_COMMAND"),
        (b"use a HTTP/1.1x", b"BAD_FORMAT"),
        (b"use HTTP/1.1", b"USING HTTP/1.1"),
        (b"kick 1 HTTP/1.1", b"KICKED 0"),
        (b"a" * 300 + b"HTTP/1.1", b"BAD_FORMAT"),
        (b"a" * 300 + b" HTTP/1.1 ", b"BAD_FORMAT"),
    ],
)
def test_what_is_not_http(client: MemoryClient, line: bytes, reply: bytes) -> None:
    assert client(line + b"\r\n") == reply + b"\r\n"
    assert not client.connection.closed


def test_a_body_may_hold_http(client: MemoryClient) -> None:
    assert client.put(POST) == 1
    assert client(b"peek 1\r\n") == b"FOUND 1 %d\r\n%s\r\n" % (len(POST), POST)
    assert client(b"put 0 0 60 70000\r\n" + POST + b"x" * (70002 - len(POST))) == b"JOB_TOO_BIG\r\n"


def test_everything_that_happens_is_told_when_asked_for(server: MemoryServer, client: MemoryClient) -> None:
    told: list[tuple[str, int, str]] = []
    server.hub.shared.on_event = lambda event, fd, text: told.append((event, fd, text))
    server.hub.shared.verbosity = 2
    client(b"use caf\xe9\r\nuse a\r\n")
    client.put(b"secret")
    client.close()
    assert told == [
        ("command", -1, "use caf\xe9"), ("reply", -1, "BAD_FORMAT"), ("command", -1, "use a"), ("reply", -1, "USING a"),
        ("command", -1, "put 0 0 60 6"), ("reply", -1, "INSERTED 1"), ("close", -1, ""),
    ]  # fmt: skip


def test_the_hub_says_when_it_wants_to_run_again(server: MemoryServer, client: MemoryClient) -> None:
    assert server.hub.end_iteration(0) == -1
    client.put(delay=5)
    assert server.hub.end_iteration(0) == 5 * SECOND_NS
    assert server.hub.end_iteration(2 * SECOND_NS) == 3 * SECOND_NS
    assert server.hub.connections == 1
    server.hub.close_all(0)
    assert server.hub.connections == 0


def test_no_client_may_do_too_much_in_one_iteration(server: MemoryServer, client: MemoryClient) -> None:
    for start in range(0, 6000, 500):
        client(b"".join(b"watch t%d\r\n" % number for number in range(start, start + 500)))
    client.connection.feed(b"reserve-with-timeout 0\r\n" * 50, 0)
    first = client.connection.take_output()
    assert 0 < first.count(b"TIMED_OUT\r\n") < 50
    assert first + client() == b"TIMED_OUT\r\n" * 50
