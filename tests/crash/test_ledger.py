"""The harness itself is tried: it must find what is done behind its back, and what the real beanstalkd forgets."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from .ledger import Ledger, LedgerError
from .process import BEANSTALKD, Client, Server
from .script import Script, everything_once
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


MISCHIEF = [
    delete, put_one_more, put_a_copy, change_the_priority, delay, bury, bury_and_kick, reserve_and_release,
]  # fmt: skip


@pytest.fixture
def work_and_restart(tmp_path: Path) -> Callable[..., None]:
    """Has everything happen once, then some mischief, then kill -9; starts again and asks the ledger."""

    def run(mischief: Callable[[Client], None] | None) -> None:
        ledger = Ledger(1)
        with Server(tmp_path) as server:
            with server.connect() as client:
                for _ in everything_once(Script(ledger, client)):
                    pass
            if mischief:
                with server.connect() as client:
                    mischief(client)
            server.kill()
        with Server(tmp_path) as server, server.connect() as client:
            ledger.check(client)
            ledger.restarted(client)

    return run


def test_the_ledger_finds_nothing_where_nothing_is_wrong(work_and_restart: Callable[..., None]) -> None:
    work_and_restart(None)


@pytest.mark.parametrize("mischief", MISCHIEF, ids=lambda mischief: mischief.__name__)
def test_the_ledger_finds_what_was_done_behind_its_back(
    work_and_restart: Callable[..., None], mischief: Callable[[Client], None]
) -> None:
    with pytest.raises(LedgerError):
        work_and_restart(mischief)


def test_the_ledger_finds_an_id_that_comes_again(tmp_path: Path) -> None:
    ledger = Ledger(1)
    for part in ("one", "two"):
        directory = tmp_path / part
        directory.mkdir()
        with Server(directory) as server, server.connect() as client:
            if part == "two":
                with pytest.raises(LedgerError, match="was given out before"):
                    ledger.restarted(client)
            else:
                ledger.restarted(client)


def test_the_ledger_agrees_with_beanstalkd_on_what_that_keeps(tmp_path: Path, beanstalkd: str) -> None:
    ledger = Ledger(4, strict_ids=False)
    load = Load(ledger, random.Random(1), commands=KEPT_BY_BEANSTALKD, largest=20000)
    for goal in (1500, 3000, 4500):
        with Server(tmp_path, kind=BEANSTALKD) as server:
            with server.connect() as client:
                ledger.check(client)
                ledger.restarted(client)
            load.run(server, lambda goal=goal: ledger.acknowledged > goal)
            server.kill()


def test_the_ledger_finds_that_beanstalkd_forgets_a_released_priority(tmp_path: Path, beanstalkd: str) -> None:
    ledger = Ledger(1, strict_ids=False)
    with Server(tmp_path, kind=BEANSTALKD) as server, server.connect() as client:
        script = Script(ledger, client)
        script.put("a")
        script.reserve()
        script.release("a", 3)
        server.kill()
    with Server(tmp_path, kind=BEANSTALKD) as server, server.connect() as client:
        with pytest.raises(LedgerError, match="pri is '100', not 3"):
            ledger.check(client)
