"""stats, stats-job, stats-tube: every key in its place, and what is counted."""

from __future__ import annotations

import time

import pytest
import yaml

from .client import Client
from .conftest import Starter
from .servers import FASTBEAN, KINDS, Server
from .transcript import play


def stats(client: Client, line: str = "stats") -> dict[str, object]:
    """Asks for statistics and reads them as YAML."""
    body = client.ask(line).body
    assert body is not None, f"{line} found nothing"
    found = yaml.safe_load(body)
    assert isinstance(found, dict)
    return found


def counted_down(seconds: int, began_s: float) -> range:
    """What may be left by now of ``seconds`` that began to run out after the moment ``began_s``."""
    passed = int(time.monotonic() - began_s) + 1
    return range(max(0, seconds - passed), seconds + 1)


def test_a_new_server(server: Server) -> None:
    with Client(server) as client:
        body = client.ask("stats").body
    assert body is not None
    lines = body.decode("ascii").split("\n")
    expected = NEW_SERVER.splitlines()
    for line, pattern in zip(lines, expected, strict=False):
        key, _, value = pattern.partition(": ")
        assert line == pattern or (value == "*" and line.startswith(f"{key}: ") and line != f"{key}: ")
    assert len(lines) > len(expected)
    assert lines[-1] == ""


NEW_SERVER = """\
---
current-jobs-urgent: 0
current-jobs-ready: 0
current-jobs-reserved: 0
current-jobs-delayed: 0
current-jobs-buried: 0
cmd-put: 0
cmd-peek: 0
cmd-peek-ready: 0
cmd-peek-delayed: 0
cmd-peek-buried: 0
cmd-reserve: 0
cmd-reserve-with-timeout: 0
cmd-delete: 0
cmd-release: 0
cmd-use: 0
cmd-watch: 0
cmd-ignore: 0
cmd-bury: 0
cmd-kick: 0
cmd-touch: 0
cmd-stats: 1
cmd-stats-job: 0
cmd-stats-tube: 0
cmd-list-tubes: 0
cmd-list-tube-used: 0
cmd-list-tubes-watched: 0
cmd-pause-tube: 0
job-timeouts: 0
total-jobs: 0
max-job-size: 65535
current-tubes: 1
current-connections: 1
current-producers: 0
current-workers: 0
current-waiting: 0
total-connections: 2
pid: *
version: *
rusage-utime: *
rusage-stime: *
uptime: *
binlog-oldest-index: 0
binlog-current-index: 0
binlog-records-migrated: 0
binlog-records-written: 0
binlog-max-size: 10485760
draining: false
id: *
hostname: *
os: *
platform: *
"""


def test_what_names_the_process(server: Server) -> None:
    with Client(server) as client:
        found = stats(client)
    assert found["pid"] == server.process.pid
    assert str(found["version"]).startswith("1.13" if server.kind == FASTBEAN else "1.")


def test_1_13_has_quotes_round_words_that_come_from_outside(fastbean: Server) -> None:
    with Client(fastbean) as client:
        body = client.ask("stats").body
    assert body is not None
    lines = dict(line.split(": ", 1) for line in body.decode("ascii").splitlines()[1:])
    for key in ("version", "hostname", "os", "platform"):
        assert lines[key].startswith('"'), f"{key}: {lines[key]}"
        assert lines[key].endswith('"'), f"{key}: {lines[key]}"
    assert len(lines["id"]) == 16
    assert set(lines["id"]) <= set("0123456789abcdef")


def test_both_name_the_machine_alike(fastbean: Server, beanstalkd: Server) -> None:
    names = ("hostname", "os", "platform")
    with Client(fastbean) as client, Client(beanstalkd) as other:
        texts = [c.ask("stats").body or b"" for c in (client, other)]
    lines = [dict(line.split(": ", 1) for line in t.decode("ascii").splitlines()[1:]) for t in texts]
    assert [lines[0][name].strip('"') for name in names] == [lines[1][name].strip('"') for name in names]


def test_a_job_that_is_ready(server: Server) -> None:
    play(
        server,
        r"""
        A> put 7 0 60 1\r\na
        A< INSERTED 1
        A> stats-job 1
        A< OK {?}
        A: ---
        A: id: 1
        A: tube: "default"
        A: state: ready
        A: pri: 7
        A: age: {0+t}
        A: delay: 0
        A: ttr: 60
        A: time-left: 0
        A: file: 0
        A: reserves: 0
        A: timeouts: 0
        A: releases: 0
        A: buries: 0
        A: kicks: 0
        A<
        """,
    )


def test_a_job_that_has_lived(server: Server) -> None:
    play(
        server,
        r"""
        A> put 7 5 1 1\r\na\r\nkick-job 1\r\nreserve\r\nrelease 1 8 0\r\nreserve\r\nbury 1 9\r\nkick 1\r\nreserve
        A< INSERTED 1
        A< KICKED
        A< RESERVED 1 1
        A< a
        A< RELEASED
        A< RESERVED 1 1
        A< a
        A< BURIED
        A< KICKED 1
        A< RESERVED 1 1
        A< a
        1.2 seconds pass
        A> list-tube-used
        A< USING default
        A> reserve-with-timeout 100\r\nrelease 1 4294967295 50
        A< RESERVED 1 1
        A< a
        A< RELEASED
        A> stats-job 1
        A< OK {?}
        A: ---
        A: id: 1
        A: tube: "default"
        A: state: delayed
        A: pri: 4294967295
        A: age: {1+t}
        A: delay: 50
        A: ttr: 1
        A: time-left: {50-t}
        A: file: 0
        A: reserves: 4
        A: timeouts: 1
        A: releases: 2
        A: buries: 1
        A: kicks: 2
        A<
        """,
    )


@pytest.mark.parametrize(
    ("commands", "state", "time_left"),
    [
        ([], "ready", 0),
        (["reserve"], "reserved", 1000),
        (["reserve", "bury 1 0"], "buried", 0),
        (["reserve", "release 1 0 1000"], "delayed", 1000),
    ],
)
def test_state_and_time_left(server: Server, commands: list[str], state: str, time_left: int) -> None:
    began_s = time.monotonic()
    with Client(server) as client:
        client.put(b"x", ttr=1000)
        for command in commands:
            client.ask(command)
        found = stats(client, "stats-job 1")
    assert found["state"] == state
    assert found["time-left"] in counted_down(time_left, began_s)


def test_the_longest_times_overflow_nothing(server: Server) -> None:
    began_s = time.monotonic()
    with Client(server) as client:
        client.put(b"x", ttr=4294967295)
        client.ask("reserve")
        assert stats(client, "stats-job 1")["time-left"] in counted_down(4294967295, began_s)
        client.ask("release 1 0 4294967295")
        found = stats(client, "stats-job 1")
        assert found["time-left"] in counted_down(4294967295, began_s)
        assert found["delay"] == 4294967295
        assert found["ttr"] == 4294967295


def test_a_tube_with_jobs_in_all_states(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 1023 0 60 1\r\na\r\nput 1024 0 60 1\r\nb\r\nput 0 50 60 1\r\nc
        A< USING t1
        A< INSERTED 1
        A< INSERTED 2
        A< INSERTED 3
        A> put 0 0 60 1\r\nd\r\nput 0 0 60 1\r\ne\r\nput 0 0 60 1\r\nf
        A< INSERTED 4
        A< INSERTED 5
        A< INSERTED 6
        A> reserve-job 4\r\nreserve-job 5\r\nbury 5 0\r\ndelete 6
        A< RESERVED 4 1
        A< d
        A< RESERVED 5 1
        A< e
        A< BURIED
        A< DELETED
        B> watch t1\r\nwatch t2\r\nignore default\r\nuse t1
        B< WATCHING 2
        B< WATCHING 3
        B< WATCHING 2
        B< USING t1
        A> stats-tube t1
        A< OK {?}
        A: ---
        A: name: "t1"
        A: current-jobs-urgent: 1
        A: current-jobs-ready: 2
        A: current-jobs-reserved: 1
        A: current-jobs-delayed: 1
        A: current-jobs-buried: 1
        A: total-jobs: 6
        A: current-using: 2
        A: current-watching: 1
        A: current-waiting: 0
        A: cmd-delete: 1
        A: cmd-pause-tube: 0
        A: pause: 0
        A: pause-time-left: 0
        A: ...
        A<
        """,
    )


def test_who_waits_is_counted_in_each_tube(server: Server) -> None:
    with Client(server) as client, Client(server) as waiting:
        waiting.ask("watch t1")
        waiting.send(b"reserve\r\n")
        while stats(client)["current-waiting"] != 1:
            pass
        assert stats(client, "stats-tube t1")["current-waiting"] == 1
        assert stats(client, "stats-tube default")["current-waiting"] == 1
        client.put(b"x")
        assert waiting.reply().id == 1
        assert stats(client)["current-waiting"] == 0
        assert stats(client, "stats-tube t1")["current-waiting"] == 0


def test_jobs_are_counted_over_all_tubes(server: Server) -> None:
    with Client(server) as client:
        client.put(b"a", pri=1023)
        client.put(b"b", pri=1024)
        client.put(b"c", delay=100)
        client.ask("use t1")
        client.put(b"d")
        client.put(b"e")
        client.ask("reserve-job 4")
        client.ask("reserve-job 5")
        client.ask("bury 5 0")
        found = stats(client)
    keys = ("urgent", "ready", "reserved", "delayed", "buried")
    assert [found[f"current-jobs-{key}"] for key in keys] == [1, 2, 1, 1, 1]
    assert found["total-jobs"] == 5
    assert found["current-tubes"] == 2


def test_producers_and_workers_are_those_who_have_ever_tried(server: Server) -> None:
    with Client(server) as client, Client(server) as producer, Client(server) as worker, Client(server) as other:
        producer.send(b"put 0 0 60 1\r\nxno")
        assert producer.reply().line == b"EXPECTED_CRLF"
        worker.ask("reserve-with-timeout 0")
        other.ask("reserve-job 77")
        found = stats(client)
        assert found["current-connections"] == 4
        assert found["current-producers"] == 1
        assert found["current-workers"] == 1
        producer.ask("reserve-with-timeout 0")
        assert stats(client)["current-workers"] == 2


def test_who_leaves_is_counted_no_more(server: Server) -> None:
    with Client(server) as client:
        with Client(server) as other:
            other.put(b"x")
            other.ask("reserve")
            assert stats(client)["current-connections"] == 2
        while stats(client)["current-connections"] != 1:
            pass
        found = stats(client)
    assert (found["current-producers"], found["current-workers"]) == (0, 0)
    assert found["total-connections"] == 3


COUNTED = {
    "cmd-put": ["put 0 0 60 65536\r\n" + 65536 * "x", "put 0 0 60 1\r\nx"],
    "cmd-peek": ["peek 1", "peek 99"],
    "cmd-peek-ready": ["peek-ready"],
    "cmd-peek-delayed": ["peek-delayed"],
    "cmd-peek-buried": ["peek-buried"],
    "cmd-reserve-with-timeout": ["reserve-with-timeout 0"],
    "cmd-delete": ["delete 99"],
    "cmd-release": ["release 99 0 0"],
    "cmd-use": ["use t1"],
    "cmd-watch": ["watch t1"],
    "cmd-ignore": ["ignore default", "ignore nowhere"],
    "cmd-bury": ["bury 99 0"],
    "cmd-kick": ["kick 1"],
    "cmd-touch": ["touch 99"],
    "cmd-stats-job": ["stats-job 1", "stats-job 99"],
    "cmd-stats-tube": ["stats-tube default", "stats-tube nowhere"],
    "cmd-list-tubes": ["list-tubes"],
    "cmd-list-tube-used": ["list-tube-used"],
    "cmd-list-tubes-watched": ["list-tubes-watched"],
    "cmd-pause-tube": ["pause-tube default 0", "pause-tube nowhere 0"],
    "none": ["no such command"],
}
# beanstalkd has no key for these.
COUNTED_BY_FASTBEAN = {
    "cmd-kick-job": ["kick-job 1", "kick-job 99", "kick-job 1"],
    "cmd-reserve-job": ["reserve-job 98", "reserve-job 99"],
}


def test_well_formed_commands_are_counted_whatever_comes_of_them(server: Server) -> None:
    with Client(server) as client:
        client.put(b"x")
        before = stats(client)
        for lines in (*COUNTED.values(), *COUNTED_BY_FASTBEAN.values()):
            for line in lines:
                client.ask(line)
        after = stats(client)
    counted = {key: int(str(after[key])) - int(str(before[key])) for key in after if key.startswith("cmd-")}
    expected = COUNTED | (COUNTED_BY_FASTBEAN if server.kind == FASTBEAN else {})
    assert counted == {
        **{key: len(lines) for key, lines in expected.items() if key != "none"},
        "cmd-reserve": 0,
        "cmd-stats": 1,
    }


def test_badly_formed_commands_are_not_counted(server: Server) -> None:
    badly_formed = ["put 0 0 60", "peek x", "peek-ready x", "reserve x", "delete x", "release 1", "use ", "watch -x"]
    badly_formed += ["ignore ", "bury 1", "kick x", "touch x", "stats x", "stats-job x", "stats-tube ", "list-tubes x"]
    badly_formed += ["list-tube-used x", "list-tubes-watched x", "pause-tube default", "reserve-with-timeout"]
    with Client(server) as client:
        before = stats(client)
        for line in badly_formed:
            assert client.ask(line).line == b"BAD_FORMAT"
        after = stats(client)
    same = [key for key in before if key.startswith("cmd-") and key != "cmd-stats"]
    assert [after[key] for key in same] == [before[key] for key in same]


def test_a_put_with_junk_behind_it_and_a_pause_of_a_bad_name_are_counted_though(server: Server) -> None:
    with Client(server) as client:
        assert client.ask("put 0 0 60 1 junk").line == b"BAD_FORMAT"
        assert client.ask("pause-tube -x 0").line == b"BAD_FORMAT"
        after = stats(client)
    assert (after["cmd-put"], after["cmd-pause-tube"]) == (1, 1)


def test_draining_is_told(server: Server) -> None:
    with Client(server) as client:
        assert stats(client)["draining"] is False
        play(server, "SIGUSR1 is sent")
        assert stats(client)["draining"] is True


@pytest.mark.parametrize("kind", KINDS)
def test_the_greatest_size_is_told(launch: Starter, kind: str) -> None:
    with Client(launch(kind, ["-z", "10"])) as client:
        assert stats(client)["max-job-size"] == 10
        assert client.ask("put 0 0 60 11", b"12345678901").line == b"JOB_TOO_BIG"
        assert client.put(b"1234567890") == 1


@pytest.mark.parametrize(
    "line",
    [
        "stats ",
        "stats x",
        "statsfoo",
        "stats-job",
        "stats-tube",
        "stats-",
        "stats-job ",
        "stats-job x",
        "stats-job 1 ",
        "stats-job -1",
        "stats-tube ",
        "stats-tube -x",
        "stats-tube a b",
    ],
)
def test_badly_formed(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


@pytest.mark.parametrize("line", ["stats-job 2", "stats-job 0", "stats-job 18446744073709551615", "stats-tube nowhere"])
def test_not_found(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"NOT_FOUND"


@pytest.mark.parametrize("line", ["stat", "STATS", "Stats"])
def test_not_statistics_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"
