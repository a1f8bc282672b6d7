"""The limits on memory and tubes, the bounds of each client, what they answer and how `stats` counts them."""

import pytest

from memory_client import SECOND_NS, MemoryClient, MemoryServer

JOB_BYTES = 120  # beside the body
KEPT_BYTES = 512  # that the buffer of an idle client may have
SPARE_BYTES = 2000  # for the buffers of a few idle clients


def memory(client: MemoryClient) -> tuple[int, int]:
    """What jobs and buffers take, as `stats` tells."""
    stats = client.stats(b"stats")
    return int(stats["memory-jobs"]), int(stats["memory-buffers"])


def hits(client: MemoryClient, limit: str) -> int:
    return int(client.stats(b"stats")[f"{limit}-hits"])


def full_server(bodies: int = 4) -> tuple[MemoryServer, MemoryClient]:
    """A server that has room for so many jobs of 10000 bytes, and has them."""
    server = MemoryServer(max_memory_bytes=bodies * (10000 + JOB_BYTES) + SPARE_BYTES)
    client = server.client()
    for _ in range(bodies):
        client.put(bytes(10000))
    return server, client


# Memory


def test_without_a_limit_stats_say_0_and_count_all_the_same() -> None:
    client = MemoryServer().client()
    client.put(b"hello")
    stats = client.stats(b"stats")
    assert (stats["max-memory"], stats["max-connections"], stats["max-tubes"]) == ("0", "0", "0")
    assert int(stats["memory-jobs"]) == JOB_BYTES + 5


def test_a_put_that_would_pass_the_limit_is_refused_and_its_body_swallowed() -> None:
    server, client = full_server()
    before = memory(client)
    assert client(b"put 0 0 1 10000\r\n" + bytes(10000) + b"\r\nuse t\r\n") == b"OUT_OF_MEMORY\r\nUSING t\r\n"
    assert memory(client) == before
    assert hits(client, "max-memory") == 1
    assert server.engine.counters()["jobs"] == 4


def test_the_put_is_answered_when_its_body_has_come() -> None:
    _, client = full_server()
    assert client(b"put 0 0 1 10000\r\n", bytes(9999)) == b""
    assert client(b"x\r\n") == b"OUT_OF_MEMORY\r\n"


def test_a_refused_put_takes_no_id_and_makes_nobody_a_producer() -> None:
    server, client = full_server()
    other = server.client()
    assert other(b"put 0 0 1 5000\r\n" + bytes(5000) + b"\r\n") == b"OUT_OF_MEMORY\r\n"
    assert server.engine.counters()["producers"] == 1
    assert client.put(b"") == 5


def test_at_the_limit_exactly_a_put_is_taken_and_a_byte_above_it_is_not() -> None:
    for room, expected in ((0, b"INSERTED 1\r\n"), (-1, b"OUT_OF_MEMORY\r\n")):
        # The line of the put comes alone: nothing is in a buffer by then.
        server = MemoryServer(max_memory_bytes=1000 + JOB_BYTES + room)
        assert server.client()(b"put 0 0 1 1000\r\n", bytes(1000), b"\r\n") == expected


def test_below_the_limit_small_jobs_still_fit() -> None:
    _, client = full_server()
    assert client(b"put 0 0 1 5000\r\n" + bytes(5000) + b"\r\n") == b"OUT_OF_MEMORY\r\n"
    assert client.put(b"small") == 5


def test_everything_else_works_at_the_limit() -> None:
    server, client = full_server()
    body = b" 10000\r\n" + bytes(10000) + b"\r\n"
    assert client(b"put 0 0 1 10000\r\n" + bytes(10000) + b"\r\n") == b"OUT_OF_MEMORY\r\n"
    assert client(b"reserve\r\n") == b"RESERVED 1" + body
    assert client(b"release 1 5 0\r\n") == b"RELEASED\r\n"
    assert client(b"reserve-job 1\r\n") == b"RESERVED 1" + body
    assert client(b"touch 1\r\nbury 1 0\r\nkick 1\r\n") == b"TOUCHED\r\nBURIED\r\nKICKED 1\r\n"
    assert client(b"reserve-job 2\r\n") == b"RESERVED 2" + body
    assert client(b"release 2 0 100\r\nkick-job 2\r\n") == b"RELEASED\r\nKICKED\r\n"
    assert client(b"peek-ready\r\n") == b"FOUND 1" + body
    assert client(b"use t\r\nwatch t\r\nignore t\r\npause-tube t 1\r\n") == (
        b"USING t\r\nWATCHING 2\r\nWATCHING 1\r\nPAUSED\r\n"
    )
    assert client.stats(b"stats-tube default")["current-jobs-ready"] == "4"
    assert client.stats(b"stats-job 3")["state"] == "ready"
    assert client(b"list-tubes\r\n").startswith(b"OK ")
    assert server.client()(b"list-tube-used\r\n") == b"USING default\r\n"


def test_a_delete_makes_room() -> None:
    _, client = full_server()
    line = b"put 0 0 1 10000\r\n" + bytes(10000) + b"\r\n"
    assert client(line) == b"OUT_OF_MEMORY\r\n"
    assert client(b"delete 2\r\n") == b"DELETED\r\n"
    assert client(line) == b"INSERTED 5\r\n"
    assert client(line) == b"OUT_OF_MEMORY\r\n"


def test_put_and_delete_leave_the_count_as_it_was() -> None:
    client = MemoryServer().client()
    ids = [client.put(bytes(100 * number)) for number in range(50)]
    assert memory(client)[0] == sum(100 * number + JOB_BYTES for number in range(50))
    for id in ids:
        client(b"delete %d\r\n" % id)
    jobs, buffers = memory(client)
    assert jobs == 0
    assert buffers <= KEPT_BYTES


def test_a_body_counts_as_it_arrives_until_its_client_leaves() -> None:
    server = MemoryServer(max_memory_bytes=60000 + SPARE_BYTES)
    client, other = server.client(), server.client()
    other(b"put 0 0 1 50000\r\n")
    assert memory(client)[0] == JOB_BYTES
    for arrived in (100, 101, 30000, 49999, 50000):
        other(bytes(arrived - (memory(client)[0] - JOB_BYTES)))
        assert memory(client)[0] == arrived + JOB_BYTES
    line = b"put 0 0 1 20000\r\n" + bytes(20000) + b"\r\n"
    assert client(line) == b"OUT_OF_MEMORY\r\n"
    other.close()
    assert memory(client)[0] == 0
    assert client(line) == b"INSERTED 2\r\n"


def test_a_body_in_a_slot_counts_whole_at_once() -> None:
    server = MemoryServer()
    client, other = server.client(), server.client()
    other(b"put 0 0 1 900\r\n")
    assert memory(client)[0] == 900 + JOB_BYTES
    other(bytes(900), b"xx")
    assert memory(client)[0] == 0


def test_clients_that_announce_bodies_and_send_none_leave_room_for_puts() -> None:
    server = MemoryServer(max_memory_bytes=1 << 20)
    for client in [server.client() for _ in range(1000)]:
        client(b"put 0 0 1 65535\r\n")
    assert server.client().put(bytes(60000)) == 1001


@pytest.mark.parametrize("end", [b"xx", b"\n\n"])
def test_a_put_without_its_crlf_is_not_counted(end: bytes) -> None:
    client = MemoryServer().client()
    assert client(b"put 0 0 1 3\r\nabc" + end) == b"EXPECTED_CRLF\r\n"
    assert memory(client)[0] == 0


def test_a_put_in_drain_mode_is_not_counted() -> None:
    server = MemoryServer()
    server.engine.draining = True
    client = server.client()
    assert client(b"put 0 0 1 3\r\nabc\r\n") == b"DRAINING\r\n"
    assert memory(client)[0] == 0


def test_in_drain_mode_a_put_at_the_limit_is_told_so_and_is_no_hit() -> None:
    server, client = full_server()
    server.engine.draining = True
    line = b"put 0 0 1 10000\r\n" + bytes(10000) + b"\r\n"
    assert client(line + b"list-tube-used\r\n") == b"DRAINING\r\nUSING default\r\n"
    assert hits(client, "max-memory") == 0
    server.engine.draining = False
    assert client(line) == b"OUT_OF_MEMORY\r\n"
    assert client.put(b"small") == 5


def test_a_deleted_job_counts_until_its_body_is_sent() -> None:
    server = MemoryServer(max_memory_bytes=110000)
    client, reader = server.client(), server.client()
    client.put(bytes(60000))
    reader.connection.feed(b"peek 1\r\n", 0)
    assert client(b"delete 1\r\n") == b"DELETED\r\n"
    line = b"put 0 0 1 60000\r\n" + bytes(60000) + b"\r\n"
    assert memory(client)[0] == 60000 + JOB_BYTES
    assert client(line) == b"OUT_OF_MEMORY\r\n"
    assert len(reader()) > 60000
    assert memory(client)[0] == 0
    assert client(line) == b"INSERTED 2\r\n"


def test_a_deleted_job_counts_until_the_last_of_its_readers_has_it_or_is_gone() -> None:
    server = MemoryServer()
    client, first, second = server.client(), server.client(), server.client()
    client.put(bytes(60000))
    for reader in (first, second):
        reader.connection.feed(b"peek 1\r\n", 0)
    client(b"delete 1\r\n")
    first()
    assert memory(client)[0] == 60000 + JOB_BYTES
    second.close()
    del second, reader
    assert memory(client)[0] == 0


def test_replies_that_nobody_takes_count() -> None:
    server = MemoryServer(max_memory_bytes=60000)
    client, reader = server.client(), server.client()
    client.put(bytes(10000))
    before = memory(client)[1]
    reader.connection.feed(b"peek 1\r\n" * 4, 0)
    assert memory(client)[1] >= before + 40000
    line = b"put 0 0 1 10000\r\n" + bytes(10000) + b"\r\n"
    assert client(line) == b"OUT_OF_MEMORY\r\n"
    assert reader().count(b"FOUND") == 4
    assert memory(client)[1] <= before + KEPT_BYTES
    assert client(line) == b"INSERTED 2\r\n"


LONG = b"n" * 190
LIST_BYTES = 3000 * (190 + 5 + 3)


def test_bodies_that_arrive_side_by_side_do_not_pass_the_limit() -> None:
    """Each of them would fit alone, when its line arrives."""
    server = MemoryServer(max_job_size=100_000, max_memory_bytes=300_000)
    clients = [server.client() for _ in range(10)]
    for client in clients:
        assert client(b"put 0 0 1 100000\r\n") == b""
    replies = b""
    for _ in range(10):
        for client in clients:
            replies += client(bytes(10_000))
        assert sum(memory(server.client())) <= 300_000 + 20_000  # and the buffers of this one and of the piece
    replies += b"".join(client(b"\r\n") for client in clients)
    inserted = replies.count(b"INSERTED ")
    assert inserted >= 2
    assert replies.count(b"OUT_OF_MEMORY\r\n") == 10 - inserted
    assert server.engine.counters()["jobs"] == inserted
    assert hits(server.client(), "max-memory") == 10 - inserted
    # What follows the body of a refused put is a command again.
    assert all(client(b"use t\r\n") == b"USING t\r\n" for client in clients)


@pytest.mark.parametrize("pieces", [1, 2, 50])
def test_a_body_without_room_is_skipped_however_it_arrives(pieces: int) -> None:
    server = MemoryServer(max_job_size=200_000, max_memory_bytes=300_000)
    first, second = server.client(), server.client()
    assert first(b"put 0 0 1 200000\r\n") == second(b"put 0 0 1 200000\r\n") == b""
    assert first(bytes(200_000) + b"\r\n") == b"INSERTED 1\r\n"
    text = bytes(200_000) + b"\r\nuse t\r\n"
    size = -(-len(text) // pieces)
    replies = second(*(text[at : at + size] for at in range(0, len(text), size)))
    assert replies == b"OUT_OF_MEMORY\r\nUSING t\r\n"


@pytest.fixture
def listed() -> MemoryServer:
    """A server with 3000 tubes of long names, which make a list of 594 KB, and room for not quite four of them."""
    server = MemoryServer(max_memory_bytes=4 * LIST_BYTES)
    keeper = server.client()
    for number in range(3000):
        keeper(b"watch %b-%04d\r\n" % (LONG, number))
    return server


def test_a_list_that_is_being_written_counts(listed: MemoryServer) -> None:
    client, reader = listed.client(), listed.client()
    before = memory(client)[1]
    reader.connection.feed(b"list-tubes\r\n", 0)
    # Asked in the same iteration: the list has a slice of three.
    client.connection.feed(b"stats\r\n", 0)
    text = client.connection.take_output()
    assert int(text.split(b"memory-buffers: ")[1].split()[0]) - before >= LIST_BYTES
    assert len(reader()) > LIST_BYTES
    assert memory(client)[1] <= before + KEPT_BYTES


def test_a_list_of_watched_tubes_counts_until_its_client_leaves(listed: MemoryServer) -> None:
    client, watcher = listed.client(), listed.client()
    watcher(b"".join(b"watch %b-%04d\r\n" % (LONG, number) for number in range(3000)))
    before = memory(client)[1]
    watcher.connection.feed(b"list-tubes-watched\r\n", 0)
    client.connection.feed(b"stats\r\n", 0)
    text = client.connection.take_output()
    assert int(text.split(b"memory-buffers: ")[1].split()[0]) - before >= LIST_BYTES // 4
    watcher.close()
    del watcher
    assert memory(client)[1] <= before + KEPT_BYTES


def test_lists_beyond_the_limit_are_refused_and_do_not_wait_for_readers(listed: MemoryServer) -> None:
    client = listed.client()
    readers = [listed.client() for _ in range(20)]
    for reader in readers:
        reader.connection.feed(b"list-tubes\r\n", 0)
    listed.settle()
    jobs, buffers = memory(client)
    assert jobs + buffers <= 4 * LIST_BYTES
    replies = [reader() for reader in readers]
    assert [len(reply) > LIST_BYTES for reply in replies] == [True] * 3 + [False] * 17
    assert set(replies[3:]) == {b"OUT_OF_MEMORY\r\n"}
    assert hits(client, "max-memory") == 17
    assert len(readers[-1](b"list-tubes\r\n")) > LIST_BYTES


def test_a_short_list_is_never_refused_and_a_longer_one_is() -> None:
    server, client = full_server()
    for number in range(15):
        client(b"watch %b-%04d\r\n" % (LONG, number))
    jobs, buffers = memory(client)
    assert jobs + buffers + 15 * 190 > int(client.stats(b"stats")["max-memory"])
    assert server.client()(b"list-tubes\r\n").count(b"\n- ") == 16
    for number in range(15, 50):
        client(b"watch %b-%04d\r\n" % (LONG, number))
    assert server.client()(b"list-tubes\r\n") == b"OUT_OF_MEMORY\r\n"


@pytest.mark.parametrize("first", [b"", b"list-tube-used\r\n", b"stats\r\nlist-tube-used\r\n"])
def test_a_large_list_is_sent_whole_behind_other_replies(listed: MemoryServer, first: bytes) -> None:
    client = listed.client()
    reply = client(first + b"list-tubes\r\nlist-tubes\r\nlist-tube-used\r\n")
    while more := client():
        reply += more
    expected = b"---\n- default\n" + b"".join(b"- %b-%04d\n" % (LONG, number) for number in range(3000))
    whole = b"OK %d\r\n%b\r\n" % (len(expected), expected)
    assert reply.endswith(whole + whole + b"USING default\r\n")


def test_the_list_of_gates_and_pinned_bodies_counts() -> None:
    server = MemoryServer()
    client, reader = server.client(), server.client()
    client.put(bytes(20000))
    before = memory(client)[1]
    reader.connection.feed(b"peek 1\r\n" * 13, 0)
    assert memory(client)[1] - before >= 13 * 24
    reader()
    assert memory(client)[1] <= before + KEPT_BYTES + 16 * 24


def test_input_behind_a_reserve_counts_until_its_client_leaves() -> None:
    server = MemoryServer()
    client, waiting = server.client(), server.client()
    waiting(b"reserve\r\n", b"use t\r\n" * 5000)
    assert memory(client)[1] >= 35000
    waiting.close()
    del waiting
    assert memory(client)[1] <= KEPT_BYTES


def test_all_counts_are_zero_when_all_is_gone() -> None:
    server = MemoryServer()
    clients = [server.client() for _ in range(5)]
    for number, client in enumerate(clients):
        client.put(bytes(16000 * number))
        client.connection.feed(b"peek %d\r\nreserve\r\nput 0 0 1 100\r\nhalf" % (number + 1), 0)
    watcher = server.client()
    for number in range(len(clients)):
        watcher(b"delete %d\r\n" % (number + 1))
        clients[number].close()
    clients.clear()
    del client
    # Each half a put has taken an id.
    for number in range(2 * 5):
        watcher(b"delete %d\r\n" % (number + 1))
    stats = watcher.stats(b"stats")
    assert (stats["current-jobs-ready"], stats["memory-jobs"]) == ("0", "0")
    assert int(stats["memory-buffers"]) <= KEPT_BYTES


# Tubes


def test_a_tube_beyond_the_limit_is_refused_and_the_last_one_is_not() -> None:
    client = MemoryServer(max_tubes=3).client()
    assert client(b"use a\r\n") == b"USING a\r\n"
    assert client(b"watch b\r\n") == b"WATCHING 2\r\n"
    assert client(b"watch c\r\nuse d\r\n") == b"OUT_OF_MEMORY\r\nOUT_OF_MEMORY\r\n"
    stats = client.stats(b"stats")
    assert (stats["max-tubes"], stats["current-tubes"], stats["max-tubes-hits"]) == ("3", "3", "2")


def test_tubes_that_exist_are_used_and_watched_at_the_limit() -> None:
    server = MemoryServer(max_tubes=2)
    client, other = server.client(), server.client()
    assert client(b"use a\r\nuse b\r\n") == b"USING a\r\nOUT_OF_MEMORY\r\n"
    assert other(b"use a\r\nwatch a\r\nwatch default\r\nignore default\r\n") == (
        b"USING a\r\nWATCHING 2\r\nWATCHING 2\r\nWATCHING 1\r\n"
    )
    assert client(b"list-tube-used\r\nput 0 0 1 0\r\n\r\n") == b"USING a\r\nINSERTED 1\r\n"
    assert other(b"reserve\r\n") == b"RESERVED 1 0\r\n\r\n"
    assert client(b"pause-tube b 1\r\nstats-tube b\r\nignore b\r\n") == b"NOT_FOUND\r\nNOT_FOUND\r\nWATCHING 1\r\n"
    assert hits(client, "max-tubes") == 1


def test_a_tube_that_ends_makes_room() -> None:
    client = MemoryServer(max_tubes=2).client()
    assert client(b"use a\r\nuse b\r\nuse default\r\nuse b\r\n") == (
        b"USING a\r\nOUT_OF_MEMORY\r\nUSING default\r\nUSING b\r\n"
    )


def test_with_a_limit_of_one_there_is_default() -> None:
    client = MemoryServer(max_tubes=1).client()
    assert client(b"use a\r\nuse default\r\nwatch default\r\n") == b"OUT_OF_MEMORY\r\nUSING default\r\nWATCHING 1\r\n"


# Connections


def test_the_hub_is_full_at_its_limit_and_counts_who_is_turned_away() -> None:
    server = MemoryServer(max_connections=2)
    first = server.client()
    assert not server.hub.is_full()
    second = server.client()
    assert server.hub.is_full()
    assert server.hub.is_full()
    assert hits(first, "max-connections") == 2
    second.close()
    assert not server.hub.is_full()
    assert first.stats(b"stats")["max-connections"] == "2"


def test_without_a_limit_the_hub_is_never_full() -> None:
    server = MemoryServer()
    clients = [server.client() for _ in range(100)]
    assert not server.hub.is_full()
    assert hits(clients[0], "max-connections") == 0


# What bounds each client


def test_the_bounds_of_a_client_are_told() -> None:
    stats = MemoryServer().client().stats(b"stats")
    bounds = ("max-client-input", "max-client-output", "max-client-steps", "max-iteration-effort")
    assert [stats[bound] for bound in bounds] == ["65536", "262144", "512", "20000"]
    assert {stats[f"{bound}-hits"] for bound in bounds} == {"0"}


def test_a_full_input_is_counted() -> None:
    server = MemoryServer()
    client, waiting = server.client(), server.client()
    with pytest.raises(BufferError):
        waiting(b"reserve\r\n", bytes(65535), b"abc")
    assert hits(client, "max-client-input") == 1


def test_a_full_output_is_counted_once_for_each_time() -> None:
    server = MemoryServer()
    client, reader = server.client(), server.client()
    client.put(bytes(60000))
    reader.connection.feed(b"peek 1\r\n" * 6, 0)
    server.settle()
    assert hits(client, "max-client-output") == 1
    assert reader().count(b"FOUND") == 5
    assert reader().count(b"FOUND") == 1
    assert hits(client, "max-client-output") == 1


def test_the_steps_of_an_iteration_are_counted() -> None:
    server = MemoryServer()
    client, busy = server.client(), server.client()
    busy.connection.feed(b"peek 1\r\n" * 512, 0)
    assert hits(client, "max-client-steps") == 0
    busy.connection.feed(b"peek 1\r\n" * 513, 0)
    assert busy().count(b"NOT_FOUND") == 1025
    assert hits(client, "max-client-steps") == 1


def test_the_effort_of_an_iteration_is_counted() -> None:
    server = MemoryServer()
    client, busy = server.client(), server.client()
    for number in range(1000):
        busy(b"watch t%d\r\n" % number)
    busy.connection.feed(b"reserve-with-timeout 0\r\n" * 25, 0)
    assert busy().count(b"TIMED_OUT") == 25
    assert hits(client, "max-iteration-effort") >= 1


def test_a_job_too_big_is_counted() -> None:
    client = MemoryServer(max_job_size=10).client()
    assert client(b"put 0 0 1 11\r\n" + bytes(11) + b"\r\n") == b"JOB_TOO_BIG\r\n"
    assert client.put(bytes(10)) == 1
    assert hits(client, "max-job-size") == 1


# The new statistics


def test_keys_of_ours_come_after_beanstalkds() -> None:
    client = MemoryServer().client()
    keys = list(client.stats(b"stats"))
    assert keys[keys.index("platform") + 1 :] == [
        "cmd-reserve-job", "cmd-kick-job", "memory-jobs", "memory-buffers", "max-memory", "max-memory-hits",
        "max-connections", "max-connections-hits", "max-tubes", "max-tubes-hits", "max-job-size-hits",
        "binlog-full-hits", "max-client-input", "max-client-input-hits", "max-client-output",
        "max-client-output-hits", "max-client-steps", "max-client-steps-hits", "max-iteration-effort",
        "max-iteration-effort-hits", "fastbean-version",
    ]  # fmt: skip
    keys = list(client.stats(b"stats-tube default"))
    assert keys[keys.index("pause-time-left") + 1 :] == [
        "total-enqueued", "total-finished", "current-bytes", "oldest-ready-age",
    ]  # fmt: skip


def tube(client: MemoryClient) -> list[int]:
    """total-enqueued, total-finished and current-bytes of default."""
    stats = client.stats(b"stats-tube default")
    return [int(stats[key]) for key in ("total-enqueued", "total-finished", "current-bytes")]


def test_every_way_into_ready_is_enqueued() -> None:
    server = MemoryServer()
    client = server.client()
    client.put(b"abc")
    assert tube(client) == [1, 0, 3]
    client(b"reserve\r\nrelease 1 0 0\r\n")
    assert tube(client) == [2, 0, 3]
    client(b"reserve\r\nrelease 1 0 5\r\n")
    assert tube(client) == [2, 0, 3]
    server.advance(6)
    assert tube(client) == [3, 0, 3]
    client(b"reserve\r\nbury 1 0\r\nkick 1\r\n")
    assert tube(client) == [4, 0, 3]
    client(b"reserve\r\n")
    server.advance(61)
    assert tube(client) == [5, 0, 3]
    worker = server.client()
    worker(b"reserve\r\n")
    worker.close()
    assert tube(client) == [6, 0, 3]


def test_a_job_is_finished_when_its_worker_deletes_it() -> None:
    client = MemoryServer().client()
    for _ in range(3):
        client.put(b"abcde")
    client(b"reserve\r\ndelete 1\r\n")
    assert tube(client) == [3, 1, 10]
    client(b"delete 2\r\n")
    assert tube(client) == [3, 1, 5]
    client(b"reserve\r\nbury 3 0\r\ndelete 3\r\n")
    assert tube(client) == [3, 1, 0]


def test_bytes_of_a_tube_are_those_of_all_its_jobs_but_not_of_one_that_arrives() -> None:
    server = MemoryServer()
    client, other = server.client(), server.client()
    client.put(b"a" * 10)
    client.put(b"a" * 100, delay=10)
    client(b"reserve-job 1\r\n")
    other(b"put 0 0 1 1000\r\nhalf")
    assert tube(client)[2] == 110
    other.close()
    assert tube(client)[2] == 110


def test_the_time_does_not_run_backwards_in_an_age() -> None:
    server = MemoryServer(now_ns=10 * SECOND_NS)
    server.now_ns = 10 * SECOND_NS
    client = server.client()
    client.put(b"")
    server.now_ns = 0
    assert client.stats(b"stats-tube default")["oldest-ready-age"] == "0"
