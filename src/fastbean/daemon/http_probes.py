"""HTTP for probes: ``/livez``, ``/readyz`` and ``/leader``, on the addresses of ``--http``.

One thread serves a few connections, GET only, one request on each. It never reads the engine: it asks the loop for an
answer, and if none comes within ANSWER_S, the loop hangs, and the status is 503. A slow or silent client is closed
after REQUEST_S, and delays no other one. The standard library parses the head of a request.
"""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import selectors
import socket
import threading
import time
from http import HTTPStatus

from fastbean.base import threads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Answer = tuple[int, str, bytes]  # status, type of the content, content

# Judgements: a probe's head has some hundred bytes, and it comes every few seconds from a few places.
MOST_HEAD_BYTES = 8192
MOST_CONNECTIONS = 64
REQUEST_S = 5.0
ANSWER_S = 1.0
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


def text_answer(status: HTTPStatus, text: str) -> Answer:
    """An answer of one line of text."""
    return status, TEXT, f"{text}\n".encode()


def answer_of_single(path: str, state: str) -> Answer:
    """The answer of a server that is not replicated; ``state`` is "starting", "serving" or "stopping"."""
    is_ready = state == "serving"
    status = HTTPStatus.OK if is_ready else HTTPStatus.SERVICE_UNAVAILABLE
    if path == "/livez":
        return text_answer(HTTPStatus.OK, state)
    if path == "/readyz":
        return text_answer(status, state)
    if path == "/leader":
        return status, JSON, json.dumps({"role": "single", "state": state}).encode() + b"\n"
    return text_answer(HTTPStatus.NOT_FOUND, "there are /livez, /readyz and /leader")


class _Head(http.server.BaseHTTPRequestHandler):
    """The head of a request, parsed; ``refusal`` is the status if it is none that we answer."""

    def __init__(self, head: bytes) -> None:
        self.refusal: int | None = None
        self.rfile = io.BytesIO(head)
        self.raw_requestline = self.rfile.readline()
        if not self.parse_request():
            self.refusal = self.refusal or HTTPStatus.BAD_REQUEST  # it does not refuse an empty line itself
        elif self.command != "GET":
            self.refusal = HTTPStatus.METHOD_NOT_ALLOWED

    def send_error(self, code: int, *_: object) -> None:
        """Called by ``parse_request``."""
        self.refusal = code


class _Connection:
    """One client: its head while it comes, then its answer while it goes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.head = b""
        self.output = b""
        self.is_asked = False
        self.give_up_s = time.monotonic() + REQUEST_S

    def is_complete(self) -> bool:
        """Receives; returns whether the head is there. Raises OSError if the client is gone."""
        data = self.sock.recv(MOST_HEAD_BYTES)
        if not data:
            raise ConnectionAbortedError
        self.head += data
        return b"\r\n\r\n" in self.head or b"\n\n" in self.head or len(self.head) > MOST_HEAD_BYTES

    def answer(self, answer: Answer) -> None:
        """Sets what is sent."""
        status, content_type, content = answer
        lines = [
            f"HTTP/1.1 {int(status)} {HTTPStatus(status).phrase}",
            f"Content-Type: {content_type}",
            f"Content-Length: {len(content)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            lines.append("Allow: GET")
        self.output = "\r\n".join([*lines, "", ""]).encode() + content


class HttpProbes:
    """The thread and its sockets.

    ``listening`` are bound, listening sockets; they stay the caller's. ``ask`` is called by the thread with a path and
    a function that takes the answer; any thread may call that function later, once.
    """

    def __init__(
        self, listening: Sequence[socket.socket], ask: Callable[[str, Callable[[Answer], None]], None]
    ) -> None:
        self._ask = ask
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._answers: list[tuple[_Connection, Answer]] = []
        self._ended = False
        self._wake_out, self._wake_in = socket.socketpair()
        for sock in (self._wake_out, self._wake_in):
            sock.setblocking(False)
        self._selector.register(self._wake_out, selectors.EVENT_READ)
        for sock in listening:
            sock.setblocking(False)
            self._selector.register(sock, selectors.EVENT_READ, self._accept)
        self._thread = threading.Thread(target=self._run, name="fastbean-http", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and closes all connections."""
        self._ended = True
        self._wake()
        threads.join(self._thread)
        for connection in list(self._connections):
            self._close(connection)
        self._selector.close()
        self._wake_out.close()
        self._wake_in.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is waking anyway
            self._wake_in.send(b"\0")

    def _run(self) -> None:
        while not self._ended:
            for key, _ in self._selector.select(self._wait_s()):
                if key.fileobj is self._wake_out:
                    self._take_answers()
                elif isinstance(key.data, _Connection):
                    self._serve(key.data)
                else:
                    key.data(key.fileobj)
            self._give_up()

    def _wait_s(self) -> float | None:
        if not self._connections:
            return None
        return max(min(each.give_up_s for each in self._connections) - time.monotonic(), 0)

    def _accept(self, listening: socket.socket) -> None:
        try:
            sock, _ = listening.accept()
        except OSError:
            return
        if len(self._connections) >= MOST_CONNECTIONS:
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.output:
                self._send(connection)
            elif connection.is_asked:
                self._close(connection)  # it has sent more, or it is gone
            elif connection.is_complete():
                self._begin_answer(connection)
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _begin_answer(self, connection: _Connection) -> None:
        if len(connection.head) > MOST_HEAD_BYTES:
            self._answer(connection, text_answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too long"))
            return
        head = _Head(connection.head)
        if head.refusal is not None:
            status = HTTPStatus(head.refusal)
            self._answer(connection, text_answer(status, status.phrase))
            return
        connection.is_asked = True
        connection.give_up_s = time.monotonic() + ANSWER_S
        self._ask(head.path.partition("?")[0], lambda answer: self._answered(connection, answer))

    def _answered(self, connection: _Connection, answer: Answer) -> None:
        """In any thread: the answer to a request."""
        self._answers.append((connection, answer))
        self._wake()

    def _take_answers(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)
        while self._answers:
            connection, answer = self._answers.pop(0)
            if connection in self._connections and not connection.output:
                self._answer(connection, answer)

    def _answer(self, connection: _Connection, answer: Answer) -> None:
        connection.answer(answer)
        connection.give_up_s = time.monotonic() + REQUEST_S
        self._selector.modify(connection.sock, selectors.EVENT_WRITE, connection)

    def _send(self, connection: _Connection) -> None:
        connection.output = connection.output[connection.sock.send(connection.output) :]
        if not connection.output:
            self._close(connection)

    def _give_up(self) -> None:
        """Answer for a loop that does not, and close clients that are too slow."""
        now_s = time.monotonic()
        for connection in [each for each in self._connections if each.give_up_s <= now_s]:
            if connection.is_asked and not connection.output:
                self._answer(connection, text_answer(HTTPStatus.SERVICE_UNAVAILABLE, "the server does not answer"))
            else:
                self._close(connection)

    def _close(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.sock)
        connection.sock.close()
