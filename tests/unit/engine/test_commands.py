"""The engine's rules one by one; tests/model looks for what happens when they meet."""

import pytest

from fastbean.engine.state import State
from memory_client import SECOND_NS, MemoryClient, MemoryServer

YEAR_S = 365 * 24 * 3600


@pytest.fixture
def producer(server: MemoryServer) -> MemoryClient:
    return server.client()


@pytest.fixture
def worker(server: MemoryServer) -> MemoryClient:
    return server.client()


def test_ready_jobs_go_out_by_pri_and_id(producer: MemoryClient, worker: MemoryClient) -> None:
    for pri in (5, 1, 5, 0):
        producer.put(pri=pri)
    order = [int(worker(b"reserve\r\n").split()[1]) for _ in range(4)]
    assert order == [4, 2, 1, 3]


def test_the_best_job_of_all_watched_tubes_goes_out(server: MemoryServer, producer: MemoryClient) -> None:
    worker = server.client()
    for tube, pri in ((b"a", 3), (b"b", 1), (b"c", 2)):
        producer(b"use " + tube + b"\r\n")
        producer.put(pri=pri)
        worker(b"watch " + tube + b"\r\n")
    assert [worker(b"reserve\r\n").split()[1] for _ in range(3)] == [b"2", b"3", b"1"]


def test_the_longest_waiting_worker_is_served_first(server: MemoryServer, producer: MemoryClient) -> None:
    workers = [server.client() for _ in range(4)]
    for worker in workers:
        worker(b"reserve\r\n")
    workers[1].close()
    for expected in (0, 2, 3):
        id = producer.put()
        assert workers[expected]() == b"RESERVED %d 0\r\n\r\n" % id


def test_a_released_job_comes_back_to_the_front(producer: MemoryClient, worker: MemoryClient) -> None:
    first, second = producer.put(), producer.put()
    worker(b"reserve\r\n")
    assert worker(b"release %d 0 0\r\nreserve\r\n" % first) == b"RELEASED\r\nRESERVED 1 0\r\n\r\n"
    assert worker(b"reserve\r\n") == b"RESERVED %d 0\r\n\r\n" % second


def test_a_reservation_ends_after_ttr(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(ttr=10)
    worker(b"reserve\r\n")
    server.advance(9.999999999)
    assert producer.stats(b"stats-job 1")["state"] == "reserved"
    server.advance(1e-9)
    stats = producer.stats(b"stats-job 1")
    assert (stats["state"], stats["timeouts"], stats["reserves"]) == ("ready", "1", "1")
    assert worker(b"delete 1\r\n") == b"DELETED\r\n"


def test_touch_gives_the_whole_ttr_again(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(ttr=10)
    worker(b"reserve\r\n")
    server.advance(8)
    assert worker(b"touch 1\r\n") == b"TOUCHED\r\n"
    server.advance(9)
    assert producer.stats(b"stats-job 1")["time-left"] == "1"
    assert producer(b"touch 1\r\n") == b"NOT_FOUND\r\n"


def test_deadline_soon(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(ttr=10)
    worker(b"reserve\r\n")
    assert worker(b"reserve\r\n") == b""
    server.advance(9)
    assert worker() == b"DEADLINE_SOON\r\n"
    assert worker(b"reserve-with-timeout 0\r\n") == b"DEADLINE_SOON\r\n"
    producer.put()
    assert worker(b"reserve-with-timeout 0\r\n") == b"RESERVED 2 0\r\n\r\n"


def test_deadline_soon_for_the_second_reservation_of_an_iteration(producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(ttr=10)
    producer.put(ttr=1)
    said = worker(b"reserve-with-timeout 0\r\nreserve-job 2\r\nreserve-with-timeout 0\r\n")
    assert said == b"RESERVED 1 0\r\n\r\nRESERVED 2 0\r\n\r\nDEADLINE_SOON\r\n"


def test_jobs_of_paused_tubes_do_not_keep_deadline_soon_away(producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(ttr=1)
    worker(b"reserve\r\n")
    producer.put()
    producer(b"pause-tube default 60\r\n")
    assert worker(b"reserve\r\n") == b"DEADLINE_SOON\r\n"


def test_an_ended_reservation_goes_back_before_deadline_soon_is_decided(
    server: MemoryServer, producer: MemoryClient
) -> None:
    worker = server.client()
    producer.put(ttr=1)
    worker(b"reserve\r\n")
    server.now_ns = 3 * SECOND_NS
    worker.connection.feed(b"reserve\r\n", server.now_ns)
    assert worker() == b"RESERVED 1 0\r\n\r\n"
    assert producer.stats(b"stats-job 1")["timeouts"] == "1"


def test_a_wait_ends_at_its_time(server: MemoryServer, worker: MemoryClient) -> None:
    assert worker(b"reserve-with-timeout 0\r\n") == b"TIMED_OUT\r\n"
    worker(b"reserve-with-timeout 5\r\n")
    server.advance(4.9)
    assert worker() == b""
    server.advance(0.1)
    assert worker() == b"TIMED_OUT\r\n"


def test_a_delayed_job_becomes_ready(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(delay=2)
    worker(b"reserve\r\n")
    server.advance(1)
    assert producer.stats(b"stats-job 1")["time-left"] == "1"
    server.advance(1)
    assert worker() == b"RESERVED 1 0\r\n\r\n"


def test_buried_jobs_keep_the_order_of_their_burial(producer: MemoryClient, worker: MemoryClient) -> None:
    for _ in range(3):
        producer.put()
        worker(b"reserve\r\n")
    worker(b"bury 2 0\r\n", b"bury 1 9\r\n", b"bury 3 0\r\n")
    assert producer(b"peek-buried\r\n") == b"FOUND 2 0\r\n\r\n"
    assert producer(b"kick 2\r\n") == b"KICKED 2\r\n"
    assert producer(b"peek-buried\r\n") == b"FOUND 3 0\r\n\r\n"


@pytest.mark.parametrize("look", [b"peek-delayed\r\n", b"kick 1\r\npeek-ready\r\n"])
def test_of_two_delays_that_begin_in_one_iteration_the_first_ends_first(worker: MemoryClient, look: bytes) -> None:
    first = worker.put()
    worker(b"reserve\r\n")
    batch = b"put 0 1000 60 0\r\n\r\nrelease %d 0 1000\r\n" % first
    assert worker(batch) == b"INSERTED 2\r\nRELEASED\r\n"
    assert worker(look).endswith(b"FOUND 2 0\r\n\r\n")


def test_of_two_reservations_that_begin_in_one_iteration_the_first_ends_first(
    server: MemoryServer, producer: MemoryClient, worker: MemoryClient
) -> None:
    producer.put(pri=5, ttr=10)
    producer.put(pri=1, ttr=10)
    assert worker(b"reserve\r\nreserve\r\n") == b"RESERVED 2 0\r\n\r\nRESERVED 1 0\r\n\r\n"
    producer(b"reserve\r\n")
    server.advance(11)
    assert producer().startswith(b"RESERVED 2 ")


def test_kick_takes_delayed_jobs_only_when_none_is_buried(producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put()
    worker(b"reserve\r\n", b"bury 1 0\r\n")
    producer.put(delay=100)
    producer.put(delay=50)
    assert producer(b"kick 10\r\nkick 1\r\n") == b"KICKED 1\r\nKICKED 1\r\n"
    assert producer.stats(b"stats-job 3")["state"] == "ready"
    assert producer.stats(b"stats-job 2")["state"] == "delayed"
    assert producer(b"kick 0\r\nkick-job 2\r\nkick-job 2\r\nkick-job 9\r\n") == (
        b"KICKED 0\r\nKICKED\r\nNOT_FOUND\r\nNOT_FOUND\r\n"
    )


def test_kick_serves_a_waiter_after_each_job(
    producer: MemoryClient, worker: MemoryClient, server: MemoryServer
) -> None:
    for pri in (900, 1):
        producer.put(pri=pri)
        worker(b"reserve\r\n")
    worker(b"bury 1 900\r\nbury 2 1\r\n")
    server.client()(b"reserve\r\n")
    producer(b"kick 2\r\n")
    assert producer.stats(b"stats-job 1")["state"] == "reserved"


def test_reserve_job_takes_from_every_state_but_reserved(producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(b"a")
    producer.put(b"b", delay=10)
    assert worker(b"reserve-job 1\r\nbury 1 0\r\nreserve-job 1\r\nreserve-job 2\r\n") == (
        b"RESERVED 1 1\r\na\r\nBURIED\r\nRESERVED 1 1\r\na\r\nRESERVED 2 1\r\nb\r\n"
    )
    assert producer(b"reserve-job 1\r\nreserve-job 3\r\n") == b"NOT_FOUND\r\nNOT_FOUND\r\n"


def test_only_the_holder_may_touch_release_bury_or_delete(producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put()
    worker(b"reserve\r\n")
    assert producer(b"touch 1\r\nrelease 1 0 0\r\nbury 1 0\r\ndelete 1\r\n") == b"NOT_FOUND\r\n" * 4
    assert producer(b"peek 1\r\n") == b"FOUND 1 0\r\n\r\n"


def test_a_pause_holds_jobs_back(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    assert producer(b"pause-tube default 10\r\n") == b"PAUSED\r\n"
    producer.put()
    assert worker(b"reserve\r\n") == b""
    assert producer.stats(b"stats-tube default")["pause"] == "10"
    server.advance(4)
    assert producer.stats(b"stats-tube default")["pause-time-left"] == "6"
    server.advance(6)
    assert worker() == b"RESERVED 1 0\r\n\r\n"
    assert producer.stats(b"stats-tube default")["pause"] == "0"


def test_a_pause_of_zero_ends_the_pause(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    producer(b"pause-tube default 10\r\n")
    producer.put()
    worker(b"reserve\r\n")
    producer(b"pause-tube default 0\r\n")
    server.advance(1e-9)
    assert worker() == b"RESERVED 1 0\r\n\r\n"


def test_tubes_live_while_something_refers_to_them(producer: MemoryClient, worker: MemoryClient) -> None:
    producer(b"use a\r\n")
    producer.put()
    producer(b"use b\r\n")
    assert producer(b"list-tubes\r\n") == b"OK 22\r\n---\n- default\n- a\n- b\n\r\n"
    worker(b"watch a\r\nreserve\r\ndelete 1\r\nignore a\r\n")
    assert producer(b"list-tubes\r\n") == b"OK 18\r\n---\n- default\n- b\n\r\n"
    assert producer(b"stats-tube a\r\npause-tube a 1\r\nignore a\r\n") == b"NOT_FOUND\r\nNOT_FOUND\r\nWATCHING 1\r\n"


def test_lists_show_the_last_in_the_place_of_one_that_is_gone(producer: MemoryClient) -> None:
    producer(b"".join(b"watch t%d\r\n" % number for number in range(1, 5)))
    assert (
        producer(b"ignore default\r\nlist-tubes-watched\r\n")
        == b"WATCHING 4\r\nOK 24\r\n---\n- t4\n- t1\n- t2\n- t3\n\r\n"
    )
    producer(b"".join(b"ignore t%d\r\n" % number for number in range(1, 4)))
    assert producer(b"ignore t4\r\n") == b"NOT_IGNORED\r\n"


def test_many_watches_are_found_and_taken_back(producer: MemoryClient) -> None:
    names = [b"t%d" % number for number in range(100)]
    for count, name in enumerate(names, 2):
        assert producer(b"watch %s\r\nwatch %s\r\n" % (name, name)) == b"WATCHING %d\r\n" % count * 2
    for count, name in zip(range(100, 0, -1), names, strict=True):
        assert producer(b"ignore %s\r\n" % name) == b"WATCHING %d\r\n" % count


def test_a_client_that_leaves_gives_everything_back(server: MemoryServer, producer: MemoryClient) -> None:
    worker = server.client()
    for _ in range(3):
        producer.put()
        worker(b"reserve\r\n")
    worker(b"use x\r\nwatch y\r\n")
    waiter = server.client()
    waiter(b"reserve\r\n")
    worker.close()
    assert waiter() == b"RESERVED 1 0\r\n\r\n"
    counters = server.engine.counters()
    assert (counters["ready"], counters["reserved"], counters["tubes"], counters["clients"]) == (2, 1, 1, 2)


def test_drain_refuses_jobs_and_lets_all_else_go_on(server: MemoryServer, producer: MemoryClient) -> None:
    producer.put()
    server.engine.draining = True
    assert producer(b"put 0 0 1 1\r\nabc\r\nput 0 0 1 1\r\na\r\ndelete 1\r\n") == (
        b"EXPECTED_CRLF\r\nUNKNOWN_COMMAND\r\nDRAINING\r\nDELETED\r\n"
    )
    assert producer.stats(b"stats")["draining"] == "true"
    server.engine.draining = False
    assert producer.put() == 4


def test_the_id_is_taken_when_the_line_of_a_put_is_complete(producer: MemoryClient, worker: MemoryClient) -> None:
    producer(b"put 0 0 1 1\r\n")
    assert worker.put() == 2
    assert producer(b"a\r\n") == b"INSERTED 1\r\n"
    assert worker(b"reserve\r\n") == b"RESERVED 1 1\r\na\r\n"


def test_a_job_that_is_still_arriving_is_nowhere(producer: MemoryClient, worker: MemoryClient) -> None:
    producer(b"put 0 0 1 1\r\n")
    assert worker(b"peek 1\r\nstats-job 1\r\ndelete 1\r\nreserve-job 1\r\n") == b"NOT_FOUND\r\n" * 4


def test_the_longest_times_overflow_nothing(server: MemoryServer, producer: MemoryClient, worker: MemoryClient) -> None:
    server.now_ns = 100 * YEAR_S * SECOND_NS
    producer.put(ttr=2**32 - 1)
    producer.put(delay=2**32 - 1)
    worker(b"reserve\r\n")
    assert producer.stats(b"stats-job 1")["time-left"] == str(2**32 - 1)
    producer(b"pause-tube default 4294967295\r\n")
    worker(b"reserve-with-timeout 2147483647\r\n")
    server.advance(2**31 - 1)
    assert worker() == b"TIMED_OUT\r\n"
    server.advance(2**31 + 1)
    assert producer.stats(b"stats-job 2")["state"] == "ready"


def test_ttr_zero_is_one(producer: MemoryClient) -> None:
    producer.put(ttr=0)
    assert producer.stats(b"stats-job 1")["ttr"] == "1"


def test_statistics_of_a_new_server_have_the_keys_of_1_13_in_their_order() -> None:
    server = MemoryServer(
        version="1.13", fastbean_version="0", instance_id="0" * 16, hostname="h", os="o", platform="p"
    )
    stats = server.client().stats(b"stats")
    assert list(stats)[:6] == [
        "current-jobs-urgent", "current-jobs-ready", "current-jobs-reserved", "current-jobs-delayed",
        "current-jobs-buried", "cmd-put",
    ]  # fmt: skip
    assert [stats[key] for key in ("version", "id", "hostname", "os", "platform")] == [
        '"1.13"', "0" * 16, '"h"', '"o"', '"p"',
    ]  # fmt: skip
    assert list(stats.items())[-1] == ("fastbean-version", '"0"')


def test_urgent_jobs_are_ready_jobs_below_1024(producer: MemoryClient, worker: MemoryClient) -> None:
    producer.put(pri=1023)
    producer.put(pri=1024)
    producer.put(pri=0, delay=9)
    assert producer.stats(b"stats")["current-jobs-urgent"] == "1"
    worker(b"reserve\r\n")
    assert producer.stats(b"stats-tube default")["current-jobs-urgent"] == "0"


def test_a_wrong_hash_key_is_refused() -> None:
    with pytest.raises(ValueError, match="must have 16 bytes"):
        State(hash_key=b"short")
