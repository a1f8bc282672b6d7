"""The exactly-once check finds the faults it is for; and a short soak passes."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import pytest

from .exactly_once import ExactlyOnceCheck, ExactlyOnceError
from .soak import Soak

BODY = b"free-1|x"


def put(check: ExactlyOnceCheck, body: bytes = BODY, id: int = 7) -> ExactlyOnceCheck:
    check.put_sent(body)
    check.put_acknowledged(body, id)
    return check


def delete(check: ExactlyOnceCheck, id: int = 7) -> ExactlyOnceCheck:
    check.delete_sent(id)
    check.delete_acknowledged(id)
    return check


def test_a_job_that_was_acknowledged_and_is_not_there_is_lost() -> None:
    check = put(ExactlyOnceCheck())
    assert check.must_exist(7)
    with pytest.raises(ExactlyOnceError, match="1 jobs are lost, the first of them: job 7"):
        check.totals()


def test_a_job_that_comes_back_after_its_delete_is_noticed() -> None:
    check = delete(put(ExactlyOnceCheck()))
    with pytest.raises(ExactlyOnceError, match="job 7 is back"):
        check.seen(7, BODY, check.moment())


def test_a_reply_that_was_asked_for_before_the_delete_is_no_fault() -> None:
    check = put(ExactlyOnceCheck())
    asked = check.moment()
    delete(check).seen(7, BODY, asked)
    assert check.totals() == {"deleted": 1}


def test_a_job_that_is_deleted_twice_is_noticed() -> None:
    with pytest.raises(ExactlyOnceError, match="deleted twice"):
        delete(delete(put(ExactlyOnceCheck())))


def test_a_job_that_is_handed_out_twice_at_the_end_is_noticed() -> None:
    check = put(ExactlyOnceCheck())
    check.found_at_end(7, BODY)
    with pytest.raises(ExactlyOnceError, match="handed out twice"):
        check.found_at_end(7, BODY)


def test_a_body_that_is_not_the_one_that_was_put_is_noticed() -> None:
    with pytest.raises(ExactlyOnceError, match="another body"):
        put(ExactlyOnceCheck()).seen(7, BODY + b"y", 1)


def test_an_id_that_is_assigned_twice_is_noticed() -> None:
    with pytest.raises(ExactlyOnceError, match="that id was"):
        put(put(ExactlyOnceCheck()), b"free-2|x")


def test_a_job_that_nobody_put_is_noticed() -> None:
    check = put(ExactlyOnceCheck())
    check.put_sent(b"free-2|")
    check.put_refused(b"free-2|")
    with pytest.raises(ExactlyOnceError, match="never put"):
        check.seen(8, b"free-2|", 1)


def test_what_was_not_acknowledged_may_end_in_either_way() -> None:
    check = ExactlyOnceCheck()
    for token, id in ((b"a", 1), (b"b", 2), (b"c", 3)):
        put(check, b"free-%s|" % token, id)
    check.put_sent(b"free-d|")
    check.put_sent(b"free-e|")
    check.delete_sent(1)
    check.delete_sent(2)
    for id, token in ((2, b"b"), (3, b"c"), (4, b"d")):
        check.found_at_end(id, b"free-%s|" % token)
    assert check.totals() == {
        "gone, delete unacknowledged": 1,
        "still there": 2,
        "still there, put unacknowledged": 1,
        "never there, put unacknowledged": 1,
    }


def test_a_short_soak(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 1)
    soak.run(6, lambda: soak.counts["puts"] > 100 and soak.counts["deletes"] > 50 and soak.acknowledged > 100)
    print(soak.report())  # noqa: T201 - shown when the test fails
    assert soak.counts["puts"] > 100
    assert soak.counts["jobs of the random clients: deleted"] > 50
    assert soak.counts["commands of the writers, as predicted"] > 100
    assert soak.counts["kill -9"] + soak.counts["drains and clean stops"] > 0
    assert all(thread.is_alive() and thread.name != "random client" for thread in threading.enumerate())


def test_a_drain_that_is_taken_back_lets_puts_in_again(tmp_path: Path) -> None:
    soak = Soak(tmp_path, 1)
    with soak._server() as server:
        for number, draining, word in ((signal.SIGUSR1, "true", "DRAINING"), (signal.SIGUSR2, "false", "INSERTED")):
            soak._signal(server, number, draining)
            with server.connect() as client:
                assert client.ask(b"put 0 0 1 1", b"x").word == word
        assert server.stop() == 0
