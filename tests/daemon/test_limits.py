"""The limits as flags of the daemon: over real sockets, with a real client, and over a restart."""

import contextlib
from pathlib import Path

import greenstalk
import pytest

from .conftest import wait_until

REFUSAL = b"OUT_OF_MEMORY\r\n"


def put(client, size):
    return client.ask(b"put 0 0 60 %d\r\n%s\r\n" % (size, bytes(size)))


def sleeps(daemon):
    """Whether the process waits in the kernel, each time that one looks."""
    return all(Path(f"/proc/{daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S" for _ in range(20))


def test_a_client_too_many_is_told_and_closed_and_the_others_go_on(start):
    daemon = start("--max-connections", "2")
    first, second = daemon.connect(), daemon.connect()
    assert first.stats()["current-connections"] == "2"
    assert second.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    for _ in range(50):
        assert daemon.connect().lines.read() == REFUSAL
    assert put(first, 10) == b"INSERTED 1\r\n"
    assert second.ask(b"reserve\r\n") == b"RESERVED 1 10\r\n"
    stats = first.stats()
    keys = ("max-connections", "max-connections-hits", "current-connections", "total-connections")
    assert [stats[key] for key in keys] == ["2", "50", "2", "2"]
    assert daemon.log.count("WARNING refusing-clients connections=2") == 1
    wait_until(lambda: sleeps(daemon), "the listener to sleep")
    assert daemon.stop() == 0


def test_when_one_leaves_the_next_is_let_in(start):
    daemon = start("--max-connections=1")
    first = daemon.connect()
    assert first.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.connect().lines.read() == REFUSAL
    first.close()

    def let_in():
        client = daemon.connect()
        return client.ask(b"list-tube-used\r\n") == b"USING default\r\n"

    wait_until(let_in, "the next client to be let in")


def test_a_client_too_many_that_has_sent_something_already_reads_the_refusal(start, tmp_path):
    daemon = start("-l", f"unix:{tmp_path}/socket", "--max-connections=1")
    daemon.connect_unix(tmp_path / "socket").ask(b"list-tube-used\r\n")
    client = daemon.connect_unix(tmp_path / "socket")
    with contextlib.suppress(BrokenPipeError):  # it was closed before
        client.sock.sendall(b"put 0 0 60 5\r\nhello\r\n")
    assert client.lines.readline() == REFUSAL


def test_a_client_library_knows_what_the_refusal_means(start):
    daemon = start("--max-connections=1")
    with greenstalk.Client(("127.0.0.1", daemon.port)) as client:
        client.put("x")
        with greenstalk.Client(("127.0.0.1", daemon.port)) as other:
            with pytest.raises((greenstalk.OutOfMemoryError, ConnectionError)):
                other.put("y")
        assert client.reserve(timeout=0).body == "x"


def test_puts_above_the_memory_are_refused_and_below_it_are_not(start):
    daemon = start("--max-memory", "200000")
    client = daemon.connect()
    replies = [put(client, 60000) for _ in range(4)]
    assert replies == [b"INSERTED 1\r\n", b"INSERTED 2\r\n", b"INSERTED 3\r\n", REFUSAL]
    assert put(client, 1000) == b"INSERTED 4\r\n"
    assert client.ask(b"delete 1\r\n") == b"DELETED\r\n"
    assert put(client, 60000) == b"INSERTED 5\r\n"
    stats = client.stats()
    assert (stats["max-memory"], stats["max-memory-hits"], stats["memory-jobs"]) == ("200000", "1", "181480")
    assert daemon.stop() == 0


@pytest.fixture
def deleted_while_sent(start):
    """A client, a reader to whom the body of a job is being sent that is deleted by now, and the body's size."""
    size = 8 << 20
    daemon = start("-z", str(size), "--max-memory", str(2 * size))
    client, reader = daemon.connect(), daemon.connect()
    assert put(client, size) == b"INSERTED 1\r\n"
    assert reader.ask(b"peek 1\r\n") == b"FOUND 1 %d\r\n" % size
    assert client.ask(b"delete 1\r\n") == b"DELETED\r\n"
    return client, reader, size


def test_a_body_at_the_limit_is_pinned_while_its_reader_does_not_read(deleted_while_sent):
    client, reader, size = deleted_while_sent
    assert put(client, size) == REFUSAL
    assert reader.lines.read(size + 2) == bytes(size) + b"\r\n"
    wait_until(lambda: client.stats()["memory-jobs"] == "0", "the body to be sent")
    assert put(client, size) == b"INSERTED 2\r\n"


def test_a_reader_that_goes_without_reading_gives_the_memory_back(deleted_while_sent):
    client, reader, size = deleted_while_sent
    reader.close()
    wait_until(lambda: client.stats()["memory-jobs"] == "0", "the reader to be gone")
    assert put(client, size) == b"INSERTED 2\r\n"


def test_a_full_input_is_counted(start):
    daemon = start()
    waiting, client = daemon.connect(), daemon.connect()
    waiting.sock.sendall(b"reserve\r\n" + b"use t\r\n" * 20000)
    wait_until(lambda: client.stats()["max-client-input-hits"] == "1", "the input to be full")
    assert put(client, 0) == b"INSERTED 1\r\n"
    assert waiting.lines.readline() == b"RESERVED 1 0\r\n"


def test_a_log_above_the_limits_is_taken_whole_and_puts_wait_for_deletes(start, tmp_path):
    log = ["-b", str(tmp_path)]
    daemon = start(*log)
    client = daemon.connect()
    for name in (b"a", b"b", b"c"):
        assert client.ask(b"use %s\r\n" % name) == b"USING %s\r\n" % name
        assert put(client, 60000).startswith(b"INSERTED")
    assert daemon.stop() == 0
    daemon = start(*log, "--max-memory=140000", "--max-tubes=2")
    client = daemon.connect()
    stats = client.stats()
    assert (stats["current-jobs-ready"], stats["memory-jobs"], stats["current-tubes"]) == ("3", "180360", "4")
    assert put(client, 10) == REFUSAL
    assert client.ask(b"use d\r\n") == REFUSAL
    assert client.ask(b"use c\r\n") == b"USING c\r\n"
    assert client.ask(b"delete 1\r\n") == b"DELETED\r\n"
    assert put(client, 10).startswith(b"INSERTED")


def test_a_limit_that_makes_no_sense_is_refused_at_the_start(run):
    done = run("--max-memory", "512")
    assert done.returncode == 5
    assert done.stderr == (
        "fastbean: max-memory is 512 bytes, which is too little for one job of 65535 and its buffers; "
        "set it to 131071 or more, or lower -z\n"
    )


@pytest.mark.parametrize(
    ("connections", "limit", "flags", "enough"),
    [
        (1, 64, (), 0), (60, 64, (), 92), (100, 64, (), 132), (150, 200, (), 0), (150, 200, ("-b", "."), 214),
        (1, 64, ("-b", "."), 0), (17, 64, ("-b", "."), 81),
    ],
)  # fmt: skip
def test_more_connections_than_open_files_are_warned_of(start, tmp_path, connections, limit, flags, enough):
    resource = pytest.importorskip("resource")
    daemon = start(
        f"--max-connections={connections}",
        *[str(tmp_path) if flag == "." else flag for flag in flags],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
    )
    words = (
        f"WARNING flag-note text='--max-connections {connections} cannot be reached with {limit} open files: raise "
        f"ulimit -n (LimitNOFILE=) to {enough} or more'"
    )
    assert daemon.log.count(words) == daemon.log.count("WARNING") == (enough > 0)
