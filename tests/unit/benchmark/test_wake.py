"""The load tool's workers that wait and are woken: wrong arguments and wrong answers. tests/wire plays it for real."""

import functools
import sys

import pytest

from benchmark_peer import peer_on
from fastbean.benchmark.load import LoadError
from fastbean.benchmark.wake import Wake
from patience import PATIENCE_S

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

A_JOB = b"RESERVED 1 16\r\naaaaaaaaaaaaaaaa\r\n"


@pytest.fixture
def serve(tmp_path):
    """A function that makes a Peer; it is used as a context manager."""
    return functools.partial(peer_on, tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"depth": 0}, "depth is 0"),
        ({"body_bytes": 15}, "body_bytes is 15; it must be between 16"),
    ],
)
def test_wrong_arguments(serve, wrong, message):
    with serve() as peer, pytest.raises(ValueError, match=message):
        Wake(peer.address, **wrong)


@pytest.mark.parametrize(
    ("replies", "message"),
    [
        ({b"put": b"DRAINING\r\n"}, "DRAINING.* to a put, .*; the server is in drain mode"),
        ({b"put": b"INSERTED\r\n"}, "INSERTED.* to a put"),
        ({b"reserve": b"TIMED_OUT\r\n"}, "TIMED_OUT.* to a reserve"),
        ({b"reserve": b"RESERVED 1 3\r\nabc\r\n"}, "RESERVED 1 3.* to a reserve"),
        ({b"reserve": b"RESERVED x 16\r\n"}, "RESERVED x 16.* to a reserve"),
        ({b"reserve": A_JOB, b"delete": b"NOT_FOUND\r\n"}, "NOT_FOUND.* to a delete, .*; another client"),
        ({b"put": None}, "closed a connection after 0 of 5 operations of 'wake'"),
        ({b"put": b""}, r"sent no reply for 0\.3 s"),
    ],
)
def test_a_wrong_answer_ends_the_run(serve, replies, message):
    limit_s = 0.3 if replies == {b"put": b""} else PATIENCE_S
    with serve(replies=replies) as peer, Wake(peer.address, workers=2, limit_s=limit_s) as wake:
        with pytest.raises(LoadError, match=message):
            wake.run(5)
        with pytest.raises(ValueError, match="this Wake is closed"):
            wake.run(5)
