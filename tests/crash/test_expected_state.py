"""Tests of the harness: it must find changes that it did not make, and what real beanstalkd forgets."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from .all_commands_session import Session, all_commands_once
from .expected_state import ExpectedState, UnexpectedStateError
from .process import BEANSTALKD, Client, Server
from .writers import KEPT_BY_BEANSTALKD, Load


def reserved(client: Client) -> None:
    assert client.ask(b"reserve-job 3").word == "RESERVED"


def delete(client: Client) -> None:
    assert client.ask(b"delete 3").word == "DELETED"


def put_one_more(client: Client) -> None:
    assert client.ask(b"put 0 0 60 3", b"abc").word == "INSERTED"


def put_a_copy(client: Client) -> None:
    copied = client.ask(b"peek 3").body
    delete(client)
    assert client.ask(b"use tube").word == "USING"
    assert client.ask(b"put 3 0 9000 %d" % len(copied or b""), copied).word == "INSERTED"


def change_the_priority(client: Client) -> None:
    reserved(client)
    assert client.ask(b"release 3 99 0").word == "RELEASED"


def delay(client: Client) -> None:
    reserved(client)
    assert client.ask(b"release 3 3 9000").word == "RELEASED"


def bury(client: Client) -> None:
    reserved(client)
    assert client.ask(b"bury 3 3").word == "BURIED"


def bury_and_kick(client: Client) -> None:
    bury(client)
    assert client.ask(b"kick-job 3").word == "KICKED"


def reserve_and_release(client: Client) -> None:
    reserved(client)
    assert client.ask(b"release 3 3 0").word == "RELEASED"


UNRECORDED_CHANGES = [
    delete, put_one_more, put_a_copy, change_the_priority, delay, bury, bury_and_kick, reserve_and_release,
]  # fmt: skip


@pytest.fixture
def work_and_restart(tmp_path: Path) -> Callable[..., None]:
    """Runs all commands once, makes an unrecorded change, kills the server with -9, restarts it and checks."""

    def run(change: Callable[[Client], None] | None) -> None:
        expected = ExpectedState(1)
        with Server(tmp_path) as server:
            with server.connect() as client:
                for _ in all_commands_once(Session(expected, client)):
                    pass
            if change:
                with server.connect() as client:
                    change(client)
            server.kill()
        with Server(tmp_path) as server, server.connect() as client:
            expected.check(client)
            expected.restarted(client)

    return run


def test_the_check_finds_nothing_where_nothing_is_wrong(work_and_restart: Callable[..., None]) -> None:
    work_and_restart(None)


@pytest.mark.parametrize("change", UNRECORDED_CHANGES, ids=lambda change: change.__name__)
def test_the_check_finds_a_change_that_was_not_recorded(
    work_and_restart: Callable[..., None], change: Callable[[Client], None]
) -> None:
    with pytest.raises(UnexpectedStateError):
        work_and_restart(change)


def test_the_check_finds_an_id_that_is_assigned_again(tmp_path: Path) -> None:
    expected = ExpectedState(1)
    for part in ("one", "two"):
        directory = tmp_path / part
        directory.mkdir()
        with Server(directory) as server, server.connect() as client:
            if part == "two":
                with pytest.raises(UnexpectedStateError, match="was assigned before"):
                    expected.restarted(client)
            else:
                expected.restarted(client)


def test_the_check_agrees_with_beanstalkd_on_what_it_keeps(tmp_path: Path, beanstalkd: str) -> None:
    expected = ExpectedState(4, strict_ids=False)
    load = Load(expected, random.Random(1), commands=KEPT_BY_BEANSTALKD, largest=20000)
    for goal in (1500, 3000, 4500):
        with Server(tmp_path, kind=BEANSTALKD) as server:
            with server.connect() as client:
                expected.check(client)
                expected.restarted(client)
            load.run(server, lambda goal=goal: expected.acknowledged > goal)
            server.kill()


def test_the_check_finds_that_beanstalkd_forgets_a_released_priority(tmp_path: Path, beanstalkd: str) -> None:
    expected = ExpectedState(1, strict_ids=False)
    with Server(tmp_path, kind=BEANSTALKD) as server, server.connect() as client:
        session = Session(expected, client)
        session.put("a")
        session.reserve()
        session.release("a", 3)
        server.kill()
    with Server(tmp_path, kind=BEANSTALKD) as server, server.connect() as client:
        with pytest.raises(UnexpectedStateError, match="pri is '100', not 3"):
            expected.check(client)
