"""Roamers: clients that send every command there is, share tubes, let reservations run out, and die at any moment.

Each is a thread with one connection at a time. What they see is told to the account of fates; what cannot be right
raises there, and ends the soak. A roamer that dies leaves requests behind that nobody reads the replies of, or half of
one.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

from .fates import PREFIX, Fates, is_free, token_of
from .process import Client, Reply, Server

TUBES = [b"free%d" % number for number in range(5)]
BACKLOG = 800  # jobs; from there on roamers delete more than they put
LARGEST = 300_000
RESET = struct.pack("ii", 1, 0)
QUESTIONS = [
    b"stats",
    b"list-tubes",
    b"list-tube-used",
    b"list-tubes-watched",
    b"peek-ready",
    b"peek-delayed",
    b"peek-buried",
]
NONSENSE = [b"", b"bogus", b"put 1 2 3", b"delete x", b"use -x", b"reserve-with-timeout", b"kick " + b"9" * 300]

Handler = Callable[[Reply], None]


class Roamer:
    """One roamer on one server. `error` is what was wrong, if anything; `counts` tells what it did.

    It has a thread and is none: a thread's own methods have names like ours.
    """

    def __init__(self, server: Server, fates: Fates, rng: random.Random, stop: threading.Event) -> None:
        self.error: BaseException | None = None
        self.counts: Counter[str] = Counter()
        self._server = server
        self._fates = fates
        self._rng = rng
        self._stop_asked = stop
        self._mine: list[int] = []  # ids that it has reserved, or seen
        self._thread = threading.Thread(target=self._run, name="roamer", daemon=True)

    def start(self) -> None:
        """Lives one life after the other, until it is told to stop or the server is gone."""
        self._thread.start()

    def join(self) -> None:
        """Waits for the end of its lives."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                self._live()
        except TimeoutError as error:
            self.error = error
        except (EOFError, OSError):
            return  # the server has ended
        except BaseException as error:  # noqa: BLE001 - the soak raises it in its own thread
            self.error = error

    def _live(self) -> None:
        rng = self._rng
        self._mine.clear()
        with self._server.connect() as client:
            self._do(client, [self._ignoring(b"watch " + tube) for tube in rng.sample(TUBES, 3)])
            self._do(client, [self._ignoring(b"ignore default"), self._ignoring(b"use " + rng.choice(TUBES))])
            for _ in range(rng.randrange(20, 400)):
                if self._stop_asked.is_set():
                    return
                self._do(client, [self._next() for _ in range(rng.choice([1, 1, 1, 2, 20]))])
            if rng.random() < 0.6:
                self._die(client)

    def _do(self, client: Client, requests: list[tuple[bytes, Handler]]) -> None:
        """Sends all of the requests at once, then takes the replies."""
        client.send(b"".join(request for request, _ in requests))
        for _, handle in requests:
            handle(client.reply())

    def _die(self, client: Client) -> None:
        """Leaves requests behind that nobody reads the replies of, the last of them perhaps cut."""
        rng = self._rng
        self.counts["client kills"] += 1
        data = b"".join(request for request, _ in (self._next() for _ in range(rng.randrange(1, 12))))
        client.send(data[: rng.randrange(len(data))] if rng.random() < 0.5 else data)
        if rng.random() < 0.5:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    # What to send, and what to make of the reply

    def _next(self) -> tuple[bytes, Handler]:
        rng = self._rng
        full = self._fates.live > BACKLOG
        kinds = [self._put, self._reserve, self._delete, self._move, self._look, self._tube, self._other]
        return rng.choices(kinds, [8 if full else 30, 25, 40 if full else 15, 12, 8, 4, 4])[0]()

    def _ignoring(self, line: bytes) -> tuple[bytes, Handler]:
        return line + b"\r\n", lambda _reply: None

    def _put(self) -> tuple[bytes, Handler]:
        rng = self._rng
        token = b"%s-%x" % (PREFIX, rng.getrandbits(64))
        size = rng.choices([0, rng.randrange(200), rng.randrange(20_000), LARGEST - 60], [20, 70, 9, 1])[0]
        body = token + b"|" + token[-1:] * size
        delay, ttr = rng.choice([0, 0, 0, 1, 2]), rng.choice([1, 1, 2, 60])
        self._fates.put_sent(body)

        def handle(reply: Reply) -> None:
            if reply.word == "INSERTED":
                self.counts["puts"] += 1
                self._fates.put_acknowledged(body, reply.number)
                self._mine.append(reply.number)
            else:
                assert reply.word in ("DRAINING", "OUT_OF_MEMORY"), reply.line
                self.counts[f"puts answered {reply.word}"] += 1
                self._fates.put_refused(body)

        return b"put %d %d %d %d\r\n%s\r\n" % (rng.randrange(9), delay, ttr, len(body), body), handle

    def _reserve(self) -> tuple[bytes, Handler]:
        asked = self._fates.moment()
        wait_s = self._rng.choices([0, 1], [95, 5])[0]

        def handle(reply: Reply) -> None:
            if reply.body is None:
                assert reply.word in ("TIMED_OUT", "DEADLINE_SOON"), reply.line
                return
            self.counts["reserves"] += 1
            self._fates.seen(reply.number, reply.body, asked)
            self._mine.append(reply.number)
            if self._rng.random() < 0.002:
                time.sleep(1.1)  # its time to run ends meanwhile, as may that of others

        return b"reserve-with-timeout %d\r\n" % wait_s, handle

    def _delete(self) -> tuple[bytes, Handler]:
        if not self._mine:
            return self._reserve()
        id = self._mine.pop(self._rng.randrange(len(self._mine)))
        self._fates.delete_sent(id)

        def handle(reply: Reply) -> None:
            if reply.word == "DELETED":
                self.counts["deletes"] += 1
                self._fates.delete_acknowledged(id)
            else:
                assert reply.word == "NOT_FOUND", reply.line

        return b"delete %d\r\n" % id, handle

    def _move(self) -> tuple[bytes, Handler]:
        if not self._mine:
            return self._put()
        rng = self._rng
        id = rng.choice(self._mine)
        line = rng.choice(
            [b"release %d 3 %d" % (id, rng.choice([0, 0, 1])), b"bury %d 4" % id, b"touch %d" % id, b"kick-job %d" % id]
        )
        return self._ignoring(line)

    def _look(self) -> tuple[bytes, Handler]:
        if not self._mine or self._rng.random() < 0.3:
            return self._ignoring(self._rng.choice(QUESTIONS))
        id = self._rng.choice(self._mine)
        asked = self._fates.moment()
        if self._rng.random() < 0.3:
            return self._ignoring(b"stats-job %d" % id)
        word = self._rng.choice([b"peek", b"peek", b"reserve-job"])

        def handle(reply: Reply) -> None:
            if reply.body is not None:
                self._fates.seen(reply.number, reply.body, asked)
            elif word == b"peek":
                assert not self._fates.is_there_for_certain(id), f"job {id} is gone, and nobody has deleted it"

        return b"%s %d\r\n" % (word, id), handle

    def _tube(self) -> tuple[bytes, Handler]:
        tube = self._rng.choice(TUBES)
        return self._ignoring(self._rng.choice([b"use ", b"watch ", b"stats-tube "]) + tube)

    def _other(self) -> tuple[bytes, Handler]:
        rng = self._rng
        pause = b"pause-tube %s %d" % (rng.choice(TUBES), rng.choice([0, 1]))
        kick = b"kick %d" % rng.choice([1, 5, 1000])
        return self._ignoring(rng.choice([pause, kick, kick, rng.choice(NONSENSE)]))


def empty(client: Client, fates: Fates) -> int:
    """Takes every job out of the roamers' tubes, and tells the account; returns how many there were."""
    taken = 0
    for tube in TUBES:
        client.ask(b"pause-tube %s 0" % tube)
        client.ask(b"use " + tube)
        client.ask(b"watch " + tube)
        while client.ask(b"kick 1000000").number:
            pass
    while (reply := client.ask(b"reserve-with-timeout 0")).body is not None:
        assert is_free(reply.body), f"a job that no roamer has put: {token_of(reply.body)!r}"
        fates.found_at_the_end(reply.number, reply.body)
        assert client.ask(b"delete %d" % reply.number).word == "DELETED"
        taken += 1
    return taken
