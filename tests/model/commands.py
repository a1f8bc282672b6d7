"""Random commands for the comparison: a number becomes the bytes of one command.

All arguments are derived from this one number, so hypothesis has little to draw and little to shrink; 0 gives the
plainest command. There are few tubes, priorities and times, so that ties and encounters are common; most ids belong to
jobs that exist.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from fastbean.engine.command_table import table

from .reference import Model
from .reference_state import Client

T = TypeVar("T")

MAX_JOB_SIZE = 20_000
TUBES = (b"default", b"a", b"default", b"b", b"a", b"c")
PRIS = (0, 1, 1023, 1024, 4294967295)
DELAYS_S = (0, 0, 0, 1, 2, 3)
TTRS_S = (60, 1, 2, 3, 0, 60)
TIMEOUTS_S = (0, 1, 2, 3, 60)
BODIES = (b"x", b"", b"a\r\nstats\r\n", b"y" * 300, b"z" * 17_000, b"m" * MAX_JOB_SIZE)
KICKS = (b"1", b"2", b"3", b"100", b"0", b"10abc", b"-1", b"4294967297")

# By the form of their arguments; the other ones each have a form of their own, or wait, or end the connection.
JOB_WORDS = tuple(row["word"] for row in table() if row["arguments"][:1] == ("id",))
TUBE_WORDS = tuple(row["word"] for row in table() if row["arguments"] == ("name",))
PLAIN_WORDS = tuple(row["word"] for row in table() if not row["arguments"] and row["word"] not in ("reserve", "quit"))

# Typical mistakes, and a few odd lines that are right.
ODD_LINES = (
    b"", b"foo", b"PUT 0 0 0 0", b"put", b"put 0 0 0", b"put 0 0 1 -1", b"put 4294967296 0 1 0", b"put 0 0 1 1 ",
    b"put 0 4294967296 1 0", b"put 0 0 4294967296 0", b"put 0 0 1 4294967296", b"put 0 0 1 0 x", b"put 0 0 1 20001x",
    b"reservex", b"reserve ", b"reserve-with-timeout", b"reserve-with-timeout x", b"reserve-with-timeout -1",
    b"reserve-with-timeout 2147483648", b"reserve-with-timeout 0 junk", b"reserve-with-timeout  0x", b"reserve-job",
    b"reserve-job x", b"delete", b"delete x", b"delete +1", b"delete 18446744073709551615",
    b"delete 18446744073709551616", b"delete  00001", b"delete 1 ", b"release 1", b"release 1 2", b"release 1 2 3 4",
    b"release 1 4294967296 0", b"bury 1", b"bury 1 4294967296", b"bury 1 2 ", b"touch", b"touch x", b"kick", b"kick ",
    b"kick x", b"kick 18446744073709551616", b"kick -18446744073709551616", b"kick +1", b"kick-job", b"kick-job x",
    b"peek", b"peek x", b"peek-ready x", b"peek-delayedx", b"peek-buried ", b"stats ", b"statsfoo", b"stats-job",
    b"stats-job x", b"stats-tube", b"stats-tube -a", b"stats-tube nobody", b"list-tubesx", b"list-tubes-watched x",
    b"list-tube-usedx", b"use", b"use ", b"use -a", b"use a b", b"use  a", b"use " + b"n" * 200, b"use " + b"n" * 201,
    b"watch", b"ignore", b"ignore nobody",
    b"pause-tube", b"pause-tube a", b"pause-tube a x", b"pause-tube -a 0", b"pause-tube nobody 0",
    b"pause-tube " + b"n" * 201 + b" 0", b"pause-tube a 4294967296", b"pause-tube a 1 ", b"pause-tubea 0",
    b"stats\0", b"a\rb", b"stats\r", b"\r", b"foo\nstats",
)  # fmt: skip

# With "use " and CRLF, these reach the longest line and exceed it.
LONG_NAMES_BYTES = (218, 219, 217, 200, 201, 220, 221, 440, 444, 1000)


class Draw:
    """A number that is used up choice by choice."""

    def __init__(self, number: int) -> None:
        self.number = number

    def below(self, count: int) -> int:
        """Return a choice from 0 to ``count`` - 1."""
        self.number, choice = divmod(self.number, count)
        return choice

    def one_of(self, choices: Sequence[T]) -> T:
        """Return one of the choices."""
        return choices[self.below(len(choices))]


def command(words: Sequence[str], number: int, model: Model, client: Client) -> bytes:
    """Return the bytes of one command: the number selects one of the words and its arguments."""
    draw = Draw(number)
    word = draw.one_of(words)
    if word == "put":
        return _put(draw)
    if word == "odd":
        return draw.one_of(ODD_LINES) + b"\r\n"
    if word == "long":
        return b"use " + b"n" * draw.one_of(LONG_NAMES_BYTES) + b"\r\n"
    if word == "reserve-with-timeout":
        return b"reserve-with-timeout %d\r\n" % draw.one_of(TIMEOUTS_S)
    if word == "kick":
        return b"kick %s\r\n" % draw.one_of(KICKS)
    if word == "pause-tube":
        return b"pause-tube %s %d\r\n" % (draw.one_of(TUBES), draw.one_of((1, 2, 3, 0)))
    if word in TUBE_WORDS:
        return b"%s %s\r\n" % (word.encode(), draw.one_of(TUBES))
    if word in JOB_WORDS:
        return b"%s %s\r\n" % (word.encode(), _job_arguments(word, draw, model, client))
    return word.encode() + b"\r\n"


def _put(draw: Draw) -> bytes:
    pri, delay_s, ttr_s = draw.one_of(PRIS), draw.one_of(DELAYS_S), draw.one_of(TTRS_S)
    body = BODIES[(0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 5)[draw.below(12)]]
    size, end = len(body), b"\r\n"
    mistake = draw.below(20)
    if mistake in (18, 19):
        end = b"??"
    if mistake == 17:
        size, body = MAX_JOB_SIZE + 1, b"n" * (MAX_JOB_SIZE + 1)
    if mistake == 16:
        body += b"stats-tube default\r\n"
    return b"put %d %d %d %d\r\n%s%s" % (pri, delay_s, ttr_s, size, body, end)


def _job_arguments(word: str, draw: Draw, model: Model, client: Client) -> bytes:
    mine = [job.id for job in model.reserved_by(client)]
    there = [job.id for job in model.jobs]
    unknown = [0, model.counts["ids"], model.counts["ids"] + 1, 2**63]
    whose = draw.below(10)
    if whose < 6:
        ids = mine or there or unknown
    elif whose < 9:
        ids = there or unknown
    else:
        ids = unknown
    job_id = draw.one_of(ids)
    if word == "release":
        return b"%d %d %d" % (job_id, draw.one_of(PRIS), draw.one_of(DELAYS_S))
    if word == "bury":
        return b"%d %d" % (job_id, draw.one_of(PRIS))
    return b"%d" % job_id
