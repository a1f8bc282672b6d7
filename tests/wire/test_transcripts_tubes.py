"""use, watch, ignore and the lists: which tubes there are, and in which order they are told."""

from __future__ import annotations

import pytest

from .client import Client
from .servers import Server
from .transcript import play

ALL_CHARACTERS = "ABCXYZabcxyz0189-+/;.$_()"


def test_at_first_a_client_uses_and_watches_default(server: Server) -> None:
    play(
        server,
        r"""
        A> list-tube-used
        A< USING default
        A> list-tubes-watched
        A< OK 14
        A: ---
        A: - default
        A<
        A> list-tubes
        A< OK 14
        A: ---
        A: - default
        A<
        """,
    )


def test_jobs_go_into_the_tube_in_use(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1
        A< USING t1
        A> put 0 0 60 1\r\na
        A< INSERTED 1
        A> reserve-with-timeout 0
        A< TIMED_OUT
        A> watch t1
        A< WATCHING 2
        A> reserve
        A< RESERVED 1 1
        A< a
        """,
    )


def test_watching_twice_counts_once(server: Server) -> None:
    play(
        server,
        r"""
        A> watch t1\r\nwatch t1\r\nwatch default
        A< WATCHING 2
        A< WATCHING 2
        A< WATCHING 2
        """,
    )


def test_the_last_watched_tube_cannot_be_ignored(server: Server) -> None:
    play(
        server,
        r"""
        A> ignore default
        A< NOT_IGNORED
        A> watch t1\r\nignore default\r\nignore default\r\nignore t1
        A< WATCHING 2
        A< WATCHING 1
        A< WATCHING 1
        A< NOT_IGNORED
        A> ignore never-watched
        A< WATCHING 1
        """,
    )


def test_ignoring_one_of_several_moves_the_last_into_its_place(server: Server) -> None:
    play(
        server,
        r"""
        A> watch t1\r\nwatch t2\r\nwatch t3\r\nwatch t4\r\nignore t1
        A< WATCHING 2
        A< WATCHING 3
        A< WATCHING 4
        A< WATCHING 5
        A< WATCHING 4
        A> list-tubes-watched
        A< OK 29
        A: ---
        A: - default
        A: - t4
        A: - t2
        A: - t3
        A<
        # Nobody else watches t1, so it is gone, and the list of all tubes is in the same order.
        A> list-tubes
        A< OK 29
        A: ---
        A: - default
        A: - t4
        A: - t2
        A: - t3
        A<
        """,
    )


def test_use_and_watch_make_tubes_and_nothing_else_does(server: Server) -> None:
    play(
        server,
        r"""
        A> use used\r\nwatch watched\r\nignore ignored\r\npause-tube paused 1\r\nstats-tube asked
        A< USING used
        A< WATCHING 2
        A< WATCHING 2
        A< NOT_FOUND
        A< NOT_FOUND
        A> list-tubes
        A< OK 31
        A: ---
        A: - default
        A: - used
        A: - watched
        A<
        """,
    )


def test_a_tube_lives_while_it_is_used_or_watched_or_holds_a_job(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 0 0 60 1\r\na\r\nuse default
        A< USING t1
        A< INSERTED 1
        A< USING default
        A> list-tubes
        A< OK 19
        A: ---
        A: - default
        A: - t1
        A<
        # A reserved job keeps it alive as well.
        A> reserve-job 1
        A< RESERVED 1 1
        A< a
        A> stats-tube t1
        A< OK {?}
        A: ---
        A: name: "t1"
        A: current-jobs-urgent: 0
        A: current-jobs-ready: 0
        A: current-jobs-reserved: 1
        A: current-jobs-delayed: 0
        A: current-jobs-buried: 0
        A: total-jobs: 1
        A: current-using: 0
        A: current-watching: 0
        A: current-waiting: 0
        A: cmd-delete: 0
        A: cmd-pause-tube: 0
        A: pause: 0
        A: pause-time-left: 0
        A: ...
        A<
        A> delete 1\r\nstats-tube t1\r\npause-tube t1 0
        A< DELETED
        A< NOT_FOUND
        A< NOT_FOUND
        """,
    )


def test_what_a_tube_counted_is_gone_with_it(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nput 0 0 60 1\r\na\r\ndelete 1\r\nuse default\r\nuse t1
        A< USING t1
        A< INSERTED 1
        A< DELETED
        A< USING default
        A< USING t1
        A> stats-tube t1
        A< OK {?}
        A: ---
        A: name: "t1"
        A: current-jobs-urgent: 0
        A: current-jobs-ready: 0
        A: current-jobs-reserved: 0
        A: current-jobs-delayed: 0
        A: current-jobs-buried: 0
        A: total-jobs: 0
        A: current-using: 1
        A: current-watching: 0
        A: current-waiting: 0
        A: cmd-delete: 0
        A: cmd-pause-tube: 0
        A: pause: 0
        A: pause-time-left: 0
        A: ...
        A<
        """,
    )


def test_the_default_tube_never_goes(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nwatch t1\r\nignore default
        A< USING t1
        A< WATCHING 2
        A< WATCHING 1
        A> list-tubes
        A< OK 19
        A: ---
        A: - default
        A: - t1
        A<
        """,
    )


def test_a_client_that_leaves_takes_its_tubes_along(server: Server) -> None:
    play(
        server,
        r"""
        A> use t1\r\nwatch t2\r\nwatch t3
        A< USING t1
        A< WATCHING 2
        A< WATCHING 3
        B> watch t4
        B< WATCHING 2
        A leaves
        B> list-tubes
        B< OK 19
        B: ---
        B: - default
        B: - t4
        B<
        """,
    )


def test_names_in_the_lists_have_no_quotes(server: Server) -> None:
    play(
        server,
        r"""
        A> watch 12345\r\nwatch 1.5
        A< WATCHING 2
        A< WATCHING 3
        A> list-tubes
        A< OK 28
        A: ---
        A: - default
        A: - 12345
        A: - 1.5
        A<
        """,
    )


@pytest.mark.parametrize("name", [ALL_CHARACTERS, "a", "x-", "+x", "/", "200" + 197 * "n"])
def test_good_names(shared: Server, name: str) -> None:
    with Client(shared) as client:
        assert client.ask(f"use {name}").line == f"USING {name}".encode()
        assert client.ask(f"watch {name}").line == b"WATCHING 2"
        assert client.ask(f"ignore {name}").line == b"WATCHING 1"
        assert client.ask(f"pause-tube {name} 0").line == b"PAUSED"


@pytest.mark.parametrize("command", ["use", "watch", "ignore", "stats-tube"])
@pytest.mark.parametrize("name", ["", "-x", "-", "a b", " a", "a ", "a,b", "a:b", "a\tb", "\xe9", "201" + 198 * "n"])
def test_bad_names(shared: Server, command: str, name: str) -> None:
    with Client(shared) as client:
        assert client.ask(f"{command} {name}").line == b"BAD_FORMAT"


@pytest.mark.parametrize("line", ["use", "watch", "ignore", "USE x", "uses x", "watched x"])
def test_not_commands_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"


@pytest.mark.parametrize(
    "line",
    ["list-tubes ", "list-tubesx", "list-tube-used ", "list-tube-usedx", "list-tubes-watched 1", "list-tubes-watchedx"],
)
def test_whatever_begins_like_a_list_is_a_badly_formed_list(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"BAD_FORMAT"


@pytest.mark.parametrize("line", ["list", "list-tube", "list-", "list-tube-use", "LIST-TUBES"])
def test_not_lists_at_all(shared: Server, line: str) -> None:
    with Client(shared) as client:
        assert client.ask(line).line == b"UNKNOWN_COMMAND"
