"""The load tool's open loop: operations are due at fixed times, and late from then on. Only lower bounds of time."""

import sys

import pytest

from benchmark_peer import peer_on
from fastbean.benchmark.load import Load, LoadError
from patience import attempts

if not sys.platform.startswith("linux"):
    pytest.skip("the load tool needs Linux's epoll", allow_module_level=True)

STALL_S = 0.1


def test_operations_that_a_stall_keeps_waiting_count_from_when_they_were_due(tmp_path):
    with peer_on(tmp_path, stall=(50, STALL_S)) as peer, Load(peer.address, "put") as load:
        result = load.run(200, rate=1000)
    # Operation 50 + i was due i ms after the one that met the stall, and could not be answered before its end.
    assert result.latencies.count == 200
    assert result.latencies.quantile_ns(1.0) >= STALL_S * 1e9
    assert result.latencies.quantile_ns(0.76) >= STALL_S / 2 * 1e9


def test_nothing_begins_before_it_is_due(tmp_path):
    with peer_on(tmp_path) as peer, Load(peer.address, "put", clients=3, depth=4) as load:
        assert load.run(101, rate=1000).seconds >= 0.1


@pytest.mark.parametrize("scenario", ["put", "cycle", "tubes", "stats"])
def test_an_entry_for_each_operation(tmp_path, scenario):
    with peer_on(tmp_path) as peer, Load(peer.address, scenario, clients=3, depth=4) as load:
        result = load.run(200, rate=100_000)
    assert (result.operations, result.latencies.count) == (200, 200)


def test_all_clients_take_turns(tmp_path):
    seen = set()
    with peer_on(tmp_path) as peer:
        serve = peer.serve
        peer.serve = lambda sock, *rest: (seen.add(sock), serve(sock, *rest))[1]
        with Load(peer.address, "put", clients=7) as load:
            load.run(7, rate=200)
    assert len(seen) == 7


def test_a_time_and_a_rate_give_the_number_of_operations(tmp_path):
    with peer_on(tmp_path) as peer, Load(peer.address, "put") as load:
        assert load.run(seconds=0.05, rate=1000).operations == 50
        assert load.run(30, seconds=0.05, rate=1000).operations == 30


def test_a_wait_for_the_next_operation_is_no_silence(tmp_path):
    for attempt in attempts():  # a pause of the peer is a silence
        folder = tmp_path / f"{id(attempt)}"
        folder.mkdir()
        with attempt, peer_on(folder) as peer, Load(peer.address, "put", limit_s=0.5) as load:
            try:
                assert load.run(2, rate=1).operations == 2
            except LoadError as error:
                raise AssertionError from error


def test_silence_is_noticed(tmp_path):
    with peer_on(tmp_path, replies={b"put": b""}) as peer, Load(peer.address, "put", limit_s=0.2) as load:
        with pytest.raises(LoadError, match=r"sent no reply for 0\.2 s"):
            load.run(100, rate=1000)
