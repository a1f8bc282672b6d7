"""The account of fates notices what it is for; and a short soak."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from .fates import FateError, Fates
from .soak import Soak

BODY = b"free-1|x"


def put(fates: Fates, body: bytes = BODY, id: int = 7) -> Fates:
    fates.put_sent(body)
    fates.put_acknowledged(body, id)
    return fates


def delete(fates: Fates, id: int = 7) -> Fates:
    fates.delete_sent(id)
    fates.delete_acknowledged(id)
    return fates


def test_a_job_that_was_acknowledged_and_is_not_there_is_lost() -> None:
    fates = put(Fates())
    assert fates.is_there_for_certain(7)
    with pytest.raises(FateError, match="1 jobs are lost, the first of them: job 7"):
        fates.totals()


def test_a_job_that_comes_back_after_its_delete_is_noticed() -> None:
    fates = delete(put(Fates()))
    with pytest.raises(FateError, match="job 7 is back"):
        fates.seen(7, BODY, fates.moment())


def test_a_reply_that_was_asked_for_before_the_delete_is_no_fault() -> None:
    fates = put(Fates())
    asked = fates.moment()
    delete(fates).seen(7, BODY, asked)
    assert fates.totals() == {"deleted": 1}


def test_a_job_that_is_deleted_twice_is_noticed() -> None:
    with pytest.raises(FateError, match="deleted twice"):
        delete(delete(put(Fates())))


def test_a_job_that_is_handed_out_twice_at_the_end_is_noticed() -> None:
    fates = put(Fates())
    fates.found_at_the_end(7, BODY)
    with pytest.raises(FateError, match="handed out twice"):
        fates.found_at_the_end(7, BODY)


def test_a_body_that_is_not_the_one_that_was_put_is_noticed() -> None:
    with pytest.raises(FateError, match="another body"):
        put(Fates()).seen(7, BODY + b"y", 1)


def test_an_id_that_is_given_out_twice_is_noticed() -> None:
    with pytest.raises(FateError, match="that id was"):
        put(put(Fates()), b"free-2|x")


def test_a_job_that_nobody_put_is_noticed() -> None:
    fates = put(Fates())
    fates.put_sent(b"free-2|")
    fates.put_refused(b"free-2|")
    with pytest.raises(FateError, match="never put"):
        fates.seen(8, b"free-2|", 1)


def test_what_was_not_acknowledged_may_end_in_either_way() -> None:
    fates = Fates()
    for token, id in ((b"a", 1), (b"b", 2), (b"c", 3)):
        put(fates, b"free-%s|" % token, id)
    fates.put_sent(b"free-d|")
    fates.put_sent(b"free-e|")
    fates.delete_sent(1)
    fates.delete_sent(2)
    for id, token in ((2, b"b"), (3, b"c"), (4, b"d")):
        fates.found_at_the_end(id, b"free-%s|" % token)
    assert fates.totals() == {
        "gone, delete unacknowledged": 1,
        "still there": 2,
        "still there, put unacknowledged": 1,
        "never there, put unacknowledged": 1,
    }


def test_a_short_soak(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 1)
    soak.run(6)
    print(soak.report())  # noqa: T201 - shown when the test fails
    assert soak.counts["puts"] > 100
    assert soak.counts["jobs of the roamers: deleted"] > 50
    assert soak.counts["commands of the ledger's writers, as predicted"] > 100
    assert soak.counts["kill -9"] + soak.counts["drains and clean stops"] > 0
    assert all(thread.is_alive() and thread.name != "roamer" for thread in threading.enumerate())


def test_a_drain_that_is_taken_back_lets_puts_in_again(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 1)
    with soak._server() as server:
        for number, draining, word in ((signal.SIGUSR1, "true", "DRAINING"), (signal.SIGUSR2, "false", "INSERTED")):
            soak._signal(server, number, draining)
            with server.connect() as client:
                assert client.ask(b"put 0 0 1 1", b"x").word == word
        assert server.stop() == 0
