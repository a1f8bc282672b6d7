"""The clients of a replicated server: random commands, and what the replies to them claim."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from fastbean.engine.command_table import table
from fastbean.net.memory_connection import MemoryConnection
from fastbean.protocol.replies import table as replies

from .commands import DELAYS_S, PRIS, TIMEOUTS_S, TTRS_S, TUBES

WORDS = [row["word"] for row in table() if row["word"] != "quit"]
JOB_WORDS = [row["word"] for row in table() if row["arguments"][:1] == ("id",)]
# What makes, moves and ends jobs comes more often.
CHOICES = [*WORDS, *["put"] * 12, *["reserve-with-timeout"] * 6, *["delete", "release", "bury", "kick", "peek"] * 3]
BODIES_BYTES = (0, 1, 10, 10, 100, 100, 300, 1500, 6000)
UNBOUND = {row["word"] for row in replies() if row["awaits"] == "nothing"}

_HEAD = re.compile(rb"([A-Z_]+)(?: ([^\r]*))?\r\n")


@dataclass
class Client:
    """A client of the leader: what it has sent, and what it has received."""

    connection: MemoryConnection
    asked: list[tuple[str, int]] = field(default_factory=list)  # words and ids that no reply has come for
    mine: list[int] = field(default_factory=list)  # ids of jobs that it has been given
    received: bytes = b""
    parsed_bytes: int = 0
    # For each iteration in which replies were made: how many bytes there were then, and where the binlog ended.
    made: list[tuple[int, int]] = field(default_factory=list)

    def pipeline(self, random: Random, ids: list[int], most_bytes: int) -> bytes:
        """Return one to four commands; ``ids`` are those of jobs, ``most_bytes`` is the size of the largest body."""
        return b"".join(self._command(random, ids, most_bytes) for _ in range(random.randint(1, 4)))

    def _command(self, random: Random, ids: list[int], most_bytes: int) -> bytes:
        word = random.choice(CHOICES)
        number = 0
        if word in JOB_WORDS and (self.mine or ids):
            number = random.choice(self.mine if self.mine and random.random() < 0.7 else ids or self.mine)
        self.asked.append((word, number))
        return b"%s%s\r\n" % (word.encode(), self._arguments(random, word, number, most_bytes))

    def _arguments(self, random: Random, word: str, number: int, most_bytes: int) -> bytes:
        pri, delay_s = random.choice(PRIS), random.choice(DELAYS_S)
        if word == "put":
            size = min(random.choice(BODIES_BYTES), most_bytes)
            body = random.randbytes(size)
            return b" %d %d %d %d\r\n%s" % (pri, delay_s, random.choice(TTRS_S), size, body)
        if word == "release":
            return b" %d %d %d" % (number, pri, delay_s)
        if word == "bury":
            return b" %d %d" % (number, pri)
        if word in JOB_WORDS:
            return b" %d" % number
        if word == "pause-tube":
            return b" %s %d" % (random.choice(TUBES), random.choice((0, 1, 2, 5)))
        if word == "reserve-with-timeout":
            return b" %d" % random.choice(TIMEOUTS_S)
        if word == "kick":
            return b" %d" % random.randint(1, 5)
        if word in ("use", "watch", "ignore", "stats-tube"):
            return b" " + random.choice(TUBES)
        return b""

    def binlog_end_of(self, place: int) -> int:
        """Return where the binlog ended after the iteration that made the byte before ``place``."""
        return next(lsn for made_bytes, lsn in self.made if made_bytes >= place)

    def replies(self) -> Iterator[tuple[str, int, str, int]]:
        """Yield the new replies: the word asked, its id, the word of the reply, and the place of its end."""
        while (head := _HEAD.match(self.received, self.parsed_bytes)) is not None:
            word, rest, end = head[1].decode(), (head[2] or b"").split(), head.end()
            if word in ("RESERVED", "FOUND", "OK"):
                end += int(rest[-1]) + 2
            assert end <= len(self.received), "part of a reply was sent"
            self.parsed_bytes = end
            asked, number = self.asked.pop(0)
            if word in ("INSERTED", "RESERVED", "FOUND"):
                number = int(rest[0])
            if word == "RESERVED":
                self.mine.append(number)
            yield asked, number, word, end


@dataclass
class Claims:
    """What all replies that a client has received say about jobs."""

    there: set[int] = field(default_factory=set)
    inserted: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    reserved: Counter[int] = field(default_factory=Counter)
    may_be_deleted: set[int] = field(default_factory=set)
    words: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)

    def add(self, asked: str, number: int, word: str) -> None:
        """Note a reply to the word ``asked``."""
        self.words[word] += 1
        self.asked[asked] += 1
        if word == "INSERTED":
            assert number not in self.inserted, f"id {number} is assigned twice"
            self.inserted.add(number)
        if word in ("INSERTED", "RESERVED", "FOUND"):
            self.there.add(number)
        if word == "RESERVED":
            self.reserved[number] += 1
        if word == "DELETED" or (word == "NOT_FOUND" and asked in ("peek", "stats-job") and number):
            self.gone.add(number)

    def check(self, jobs: dict[int, dict[str, Any]]) -> None:
        """What a server holds that has applied everything must agree."""
        assert not self.gone & jobs.keys(), "a reply said that they are gone"
        assert self.there - self.may_be_deleted <= jobs.keys(), "a reply said that they are there"
        for number, times in self.reserved.items():
            assert number not in jobs or jobs[number]["reserves"] >= times, f"job {number} was reserved {times} times"
