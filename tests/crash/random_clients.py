"""Random clients: they send every command, share tubes, let reservations time out, and disconnect at any moment.

Each is a thread with one connection at a time. It reports what it sees to `ExactlyOnceCheck`, which raises for what
cannot be right; that ends the soak. A client that dies leaves requests whose replies are never read, or half a request.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable

from .exactly_once import PREFIX, ExactlyOnceCheck, is_random_client_job, token_of
from .process import Client, Reply, Server

TUBES = [b"free%d" % number for number in range(5)]
BACKLOG = 800  # jobs; above this the clients delete more than they put
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


class RandomClient:
    """One random client of one server. ``error`` is the fault it found, if any; ``counts`` is what it did.

    It has a thread and does not derive from it: Thread has private methods with the same names as ours.
    """

    def __init__(
        self, server: Server, exactly_once: ExactlyOnceCheck, rng: random.Random, stop: threading.Event
    ) -> None:
        self.error: BaseException | None = None
        self.counts: Counter[str] = Counter()
        self._server = server
        self._exactly_once = exactly_once
        self._rng = rng
        self._stop_asked = stop
        self._mine: list[int] = []  # ids of jobs that it has put, reserved or seen
        self._thread = threading.Thread(target=self._run, name="random client", daemon=True)

    def start(self) -> None:
        """Opens one connection after another until it is asked to stop or the server has ended."""
        self._thread.start()

    def join(self) -> None:
        """Waits until its thread has ended."""
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop_asked.is_set():
                self._use_one_connection()
        except TimeoutError as error:
            self.error = error
        except (EOFError, OSError):
            return  # the server has ended
        except BaseException as error:  # noqa: BLE001 - the soak raises it in its own thread
            self.error = error

    def _use_one_connection(self) -> None:
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
        """Sends all of the requests at once, then reads the replies."""
        client.send(b"".join(request for request, _ in requests))
        for _, handle in requests:
            handle(client.reply())

    def _die(self, client: Client) -> None:
        """Sends requests whose replies are never read; the last request may be cut."""
        rng = self._rng
        self.counts["client kills"] += 1
        data = b"".join(request for request, _ in (self._next() for _ in range(rng.randrange(1, 12))))
        client.send(data[: rng.randrange(len(data))] if rng.random() < 0.5 else data)
        if rng.random() < 0.5:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    # What to send, and what to make of the reply

    def _next(self) -> tuple[bytes, Handler]:
        rng = self._rng
        full = self._exactly_once.live > BACKLOG
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
        self._exactly_once.put_sent(body)

        def handle(reply: Reply) -> None:
            if reply.word == "INSERTED":
                self.counts["puts"] += 1
                self._exactly_once.put_acknowledged(body, reply.number)
                self._mine.append(reply.number)
            else:
                assert reply.word in ("DRAINING", "OUT_OF_MEMORY"), reply.line
                self.counts[f"puts answered {reply.word}"] += 1
                self._exactly_once.put_refused(body)

        return b"put %d %d %d %d\r\n%s\r\n" % (rng.randrange(9), delay, ttr, len(body), body), handle

    def _reserve(self) -> tuple[bytes, Handler]:
        asked = self._exactly_once.moment()
        wait_s = self._rng.choices([0, 1], [95, 5])[0]

        def handle(reply: Reply) -> None:
            if reply.body is None:
                assert reply.word in ("TIMED_OUT", "DEADLINE_SOON"), reply.line
                return
            self.counts["reserves"] += 1
            self._exactly_once.seen(reply.number, reply.body, asked)
            self._mine.append(reply.number)
            if self._rng.random() < 0.002:
                time.sleep(1.1)  # its ttr expires meanwhile, and so may those of other clients

        return b"reserve-with-timeout %d\r\n" % wait_s, handle

    def _delete(self) -> tuple[bytes, Handler]:
        if not self._mine:
            return self._reserve()
        id = self._mine.pop(self._rng.randrange(len(self._mine)))
        self._exactly_once.delete_sent(id)

        def handle(reply: Reply) -> None:
            if reply.word == "DELETED":
                self.counts["deletes"] += 1
                self._exactly_once.delete_acknowledged(id)
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
        asked = self._exactly_once.moment()
        if self._rng.random() < 0.3:
            return self._ignoring(b"stats-job %d" % id)
        word = self._rng.choice([b"peek", b"peek", b"reserve-job"])

        def handle(reply: Reply) -> None:
            if reply.body is not None:
                self._exactly_once.seen(reply.number, reply.body, asked)
            elif word == b"peek":
                assert not self._exactly_once.must_exist(id), f"job {id} is gone, and no client has deleted it"

        return b"%s %d\r\n" % (word, id), handle

    def _tube(self) -> tuple[bytes, Handler]:
        tube = self._rng.choice(TUBES)
        return self._ignoring(self._rng.choice([b"use ", b"watch ", b"stats-tube "]) + tube)

    def _other(self) -> tuple[bytes, Handler]:
        rng = self._rng
        pause = b"pause-tube %s %d" % (rng.choice(TUBES), rng.choice([0, 1]))
        kick = b"kick %d" % rng.choice([1, 5, 1000])
        return self._ignoring(rng.choice([pause, kick, kick, rng.choice(NONSENSE)]))


def drain_tubes(client: Client, exactly_once: ExactlyOnceCheck) -> int:
    """Deletes every job of the random clients' tubes and reports each to the check; returns how many there were."""
    taken = 0
    for tube in TUBES:
        client.ask(b"pause-tube %s 0" % tube)
        client.ask(b"use " + tube)
        client.ask(b"watch " + tube)
        while client.ask(b"kick 1000000").number:
            pass
    while (reply := client.ask(b"reserve-with-timeout 0")).body is not None:
        assert is_random_client_job(reply.body), f"a job that no random client has put: {token_of(reply.body)!r}"
        exactly_once.found_at_end(reply.number, reply.body)
        assert client.ask(b"delete %d" % reply.number).word == "DELETED"
        taken += 1
    return taken
