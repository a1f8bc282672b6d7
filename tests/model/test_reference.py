"""The naive model by itself: its replies, compared with ones written by hand."""

from __future__ import annotations

import pytest

from .reference import Model
from .reference_state import SECOND_NS


class Talk:
    """A few clients of one model, and the time."""

    def __init__(self, clients: int = 1) -> None:
        self.model = Model()
        for _ in range(clients):
            self.model.connect()

    def says(self, number: int, data: bytes) -> bytes:
        """The client sends; all that is due happens; returns the replies to this client."""
        self.model.send(number, data)
        self.model.advance(self.model.now_ns)
        return self.model.taken(number)

    def at(self, seconds: float) -> None:
        """Set the time to ``seconds`` after the start."""
        self.model.advance(round(seconds * SECOND_NS))

    def value(self, command: bytes, key: bytes) -> bytes:
        """Return one value out of a reply to stats, stats-job or stats-tube, asked by the first client."""
        lines = self.says(0, command).split(b"\n")
        return next(line.split(b": ")[1] for line in lines if line.startswith(key + b": "))


def test_a_job_lives() -> None:
    talk = Talk()
    assert talk.says(0, b"put 5 0 10 2\r\nhi\r\n") == b"INSERTED 1\r\n"
    assert talk.says(0, b"reserve\r\n") == b"RESERVED 1 2\r\nhi\r\n"
    assert talk.says(0, b"bury 1 7\r\npeek-buried\r\n") == b"BURIED\r\nFOUND 1 2\r\nhi\r\n"
    assert talk.says(0, b"kick 9\r\npeek-ready\r\n") == b"KICKED 1\r\nFOUND 1 2\r\nhi\r\n"
    assert talk.says(0, b"reserve-job 1\r\nrelease 1 3 2\r\n") == b"RESERVED 1 2\r\nhi\r\nRELEASED\r\n"
    assert talk.says(0, b"reserve-with-timeout 0\r\npeek-delayed\r\n") == b"TIMED_OUT\r\nFOUND 1 2\r\nhi\r\n"
    assert talk.says(0, b"delete 1\r\ndelete 1\r\n") == b"DELETED\r\nNOT_FOUND\r\n"


def test_smallest_priority_then_smallest_id_goes_out() -> None:
    talk = Talk()
    talk.says(0, b"put 5 0 1 1\r\na\r\nput 4 0 1 1\r\nb\r\nput 4 0 1 1\r\nc\r\nreserve\r\n")
    assert talk.says(0, b"release 2 4 0\r\nreserve\r\n") == b"RELEASED\r\nRESERVED 2 1\r\nb\r\n"


def test_the_id_is_taken_at_the_line_of_the_put() -> None:
    talk = Talk(2)
    assert talk.says(0, b"put 0 0 1 4\r\nha") == b""
    assert talk.says(1, b"put 0 0 1 1\r\nb\r\npeek 1\r\n") == b"INSERTED 2\r\nNOT_FOUND\r\n"
    assert talk.says(0, b"lf\r\n") == b"INSERTED 1\r\n"
    assert talk.says(1, b"put 0 0 1 1\r\nbad") == b"EXPECTED_CRLF\r\n"
    assert talk.says(0, b"reserve\r\nput 0 0 1 0\r\n\r\n") == b"RESERVED 1 4\r\nhalf\r\nINSERTED 4\r\n"


def test_the_longest_waiting_worker_is_served_and_its_queued_commands_go_on() -> None:
    talk = Talk(3)
    assert talk.says(1, b"reserve\r\ndelete 1\r\nlist-tube-used\r\n") == b""
    assert talk.says(2, b"reserve\r\n") == b""
    assert talk.says(0, b"put 0 0 1 1\r\na\r\n") == b"INSERTED 1\r\n"
    assert talk.model.taken(1) == b"RESERVED 1 1\r\na\r\nDELETED\r\nUSING default\r\n"
    assert talk.model.taken(2) == b""


def test_kick_matches_after_each_job_and_takes_only_buried_ones() -> None:
    talk = Talk(2)
    talk.says(0, b"put 900 0 9 1\r\na\r\nput 1 0 9 1\r\nb\r\nput 0 9 9 1\r\nc\r\n")
    talk.says(0, b"reserve-job 1\r\nreserve-job 2\r\nbury 1 900\r\nbury 2 1\r\n")
    talk.says(1, b"reserve\r\n")
    assert talk.says(0, b"kick 100\r\n") == b"KICKED 2\r\n"
    assert talk.model.taken(1) == b"RESERVED 1 1\r\na\r\n"
    assert talk.says(0, b"kick -1\r\n") == b"KICKED 1\r\n"


def test_deadline_soon_at_the_margin_and_at_once() -> None:
    talk = Talk()
    talk.says(0, b"put 0 0 3 1\r\na\r\nreserve\r\nreserve\r\n")
    talk.at(1.999999999)
    assert talk.model.taken(0) == b""
    talk.at(2)
    assert talk.model.taken(0) == b"DEADLINE_SOON\r\n"
    assert talk.says(0, b"reserve-with-timeout 0\r\n") == b"DEADLINE_SOON\r\n"
    assert talk.says(0, b"put 0 0 9 1\r\nb\r\nreserve\r\n") == b"INSERTED 2\r\nRESERVED 2 1\r\nb\r\n"
    talk.at(3)
    assert talk.says(0, b"touch 1\r\nstats-job 1\r\n").startswith(b"NOT_FOUND\r\nOK ")
    assert talk.value(b"stats-job 1\r\n", b"timeouts") == b"1"


def test_deadline_soon_when_the_ready_job_stands_in_a_paused_tube() -> None:
    talk = Talk()
    talk.says(0, b"put 0 0 1 1\r\na\r\nreserve\r\nput 0 0 1 1\r\nb\r\npause-tube default 9\r\n")
    assert talk.says(0, b"reserve\r\n") == b"DEADLINE_SOON\r\n"


def test_an_expired_reservation_is_back_before_deadline_soon_is_decided() -> None:
    talk = Talk()
    talk.says(0, b"put 0 0 1 1\r\na\r\nreserve\r\n")
    talk.model.now_ns = 2 * SECOND_NS
    assert talk.says(0, b"reserve\r\n") == b"RESERVED 1 1\r\na\r\n"


def test_a_stalled_server_gives_the_expired_job_to_the_client_that_waits() -> None:
    talk = Talk()
    talk.says(0, b"put 0 0 2 1\r\na\r\nreserve\r\nreserve\r\n")
    talk.at(5)
    assert talk.model.taken(0) == b"RESERVED 1 1\r\na\r\n"


def test_reserve_with_timeout_ends_on_time() -> None:
    talk = Talk()
    assert talk.says(0, b"reserve-with-timeout 2\r\nlist-tube-used\r\n") == b""
    talk.at(1.999999999)
    assert talk.model.taken(0) == b""
    talk.at(2)
    assert talk.model.taken(0) == b"TIMED_OUT\r\nUSING default\r\n"


def test_a_paused_tube_hands_out_nothing_but_reserve_job_works() -> None:
    talk = Talk(3)
    talk.says(0, b"put 5 0 9 1\r\na\r\nput 4 1 9 1\r\nb\r\npause-tube default 2\r\n")
    assert talk.says(1, b"reserve\r\n") == b""
    assert talk.says(2, b"reserve\r\n") == b""
    assert talk.says(0, b"reserve-job 1\r\nrelease 1 5 0\r\n") == b"RESERVED 1 1\r\na\r\nRELEASED\r\n"
    talk.at(1)
    assert talk.value(b"stats-tube default\r\n", b"current-jobs-ready") == b"2"
    assert talk.value(b"stats-tube default\r\n", b"pause-time-left") == b"1"
    talk.at(2)
    assert talk.model.taken(1) == b"RESERVED 2 1\r\nb\r\n"
    assert talk.model.taken(2) == b"RESERVED 1 1\r\na\r\n"
    assert talk.value(b"stats-tube default\r\n", b"pause") == b"0"


def test_a_pause_of_nothing_has_ended_for_the_very_next_command() -> None:
    talk = Talk(2)
    talk.says(0, b"put 0 0 9 1\r\na\r\npause-tube default 9\r\n")
    assert talk.says(1, b"pause-tube default 0\r\nreserve\r\n") == b"PAUSED\r\nRESERVED 1 1\r\na\r\n"
    assert talk.value(b"stats-tube default\r\n", b"cmd-pause-tube") == b"2"


def test_a_client_that_leaves_gives_back_what_it_held() -> None:
    talk = Talk(2)
    talk.says(0, b"put 0 0 9 1\r\na\r\nput 0 0 9 5\r\nhal")
    talk.says(1, b"reserve\r\n")
    talk.model.close(1)
    talk.model.connect()
    assert talk.says(2, b"reserve\r\n") == b"RESERVED 1 1\r\na\r\n"
    talk.model.close(0)
    assert talk.says(2, b"put 0 0 9 0\r\n\r\n") == b"INSERTED 3\r\n"


def test_a_half_closed_client_is_answered_and_closed() -> None:
    talk = Talk()
    assert talk.says(0, b"reserve\r\nreserve\r\nlist-tube-used\r\nput 0 0 1 5\r\nha") == b""
    talk.model.half_close(0)
    talk.model.advance(0)
    assert talk.model.taken(0) == b"TIMED_OUT\r\nTIMED_OUT\r\nUSING default\r\n"
    assert talk.model.clients[0].closed


def test_tubes_come_and_go_and_the_last_moves_into_the_gap() -> None:
    talk = Talk()
    talk.says(0, b"watch t1\r\nwatch t2\r\nwatch t3\r\nwatch t4\r\n")
    assert talk.says(0, b"ignore t1\r\n") == b"WATCHING 4\r\n"
    listed = b"OK 29\r\n---\n- default\n- t4\n- t2\n- t3\n\r\n"
    assert talk.says(0, b"list-tubes-watched\r\n") == listed
    assert talk.says(0, b"list-tubes\r\n") == listed
    assert talk.says(0, b"stats-tube t1\r\npause-tube t1 0\r\n") == b"NOT_FOUND\r\nNOT_FOUND\r\n"


def test_drain_mode_refuses_after_the_body() -> None:
    talk = Talk()
    talk.model.draining = True
    assert talk.says(0, b"put 0 0 1 3\r\nabc") == b""
    assert talk.says(0, b"\r\nput 0 0 1 1\r\nabc") == b"DRAINING\r\nEXPECTED_CRLF\r\n"
    assert talk.value(b"stats\r\n", b"draining") == b"true"


def test_a_job_that_is_too_big_is_swallowed() -> None:
    talk = Talk()
    assert talk.says(0, b"put 0 0 1 65536 junk\r\n" + b"x" * 65_537) == b""
    assert talk.says(0, b"yput 0 0 1 65535\r\n" + b"z" * 65_535 + b"\r\n") == b"JOB_TOO_BIG\r\nINSERTED 1\r\n"


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"", b"UNKNOWN_COMMAND"),
        (b"put", b"UNKNOWN_COMMAND"),
        (b"statsfoo", b"BAD_FORMAT"),
        (b"list-tubesx", b"BAD_FORMAT"),
        (b"stats\0", b"BAD_FORMAT"),
        (b"peek-ready x", b"BAD_FORMAT"),
        (b"delete +1", b"BAD_FORMAT"),
        (b"delete  00001", b"NOT_FOUND"),
        (b"delete 18446744073709551615", b"NOT_FOUND"),
        (b"delete 18446744073709551616", b"BAD_FORMAT"),
        (b"kick 10abc", b"KICKED 0"),
        (b"kick -1", b"KICKED 0"),
        (b"kick abc", b"BAD_FORMAT"),
        (b"pause-tubedefault 0", b"PAUSED"),
        (b"reserve-with-timeout 0 junk", b"TIMED_OUT"),
        (b"reserve-with-timeout -1", b"BAD_FORMAT"),
        (b"reserve-with-timeout 2147483648", b"BAD_FORMAT"),
        (b"put 0 0 1 1 ", b"BAD_FORMAT"),
        (b"use " + b"n" * 200, b"USING " + b"n" * 200),
        (b"use " + b"n" * 201, b"BAD_FORMAT"),
        (b"x" * 222, b"UNKNOWN_COMMAND"),
        (b"x" * 223, b"BAD_FORMAT"),
        (b"a\rb\nc", b"UNKNOWN_COMMAND"),
        (b"ignore default", b"NOT_IGNORED"),
    ],
)
def test_lines_good_and_bad(line: bytes, reply: bytes) -> None:
    assert Talk().says(0, line + b"\r\n") == reply + b"\r\n"
