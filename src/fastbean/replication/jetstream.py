"""NATS JetStream as the stream of a node, by the official client nats-py (``pip install fastbean[nats]``).

Everything runs in one asyncio loop. Nothing is tried twice here: an answer, or that there was none, goes to the node.
Each connection has an inbox of its own for all answers, so a late answer to an earlier connection is never seen. Of
nats-py only publish and subscribe are used: its ``publish_async`` never resolves when a message is refused, and its own
reconnecting may wait for ever for a server that is frozen.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from typing import Any, NamedTuple

import nats.aio.client
import nats.errors
from nats.aio.msg import Msg

from fastbean.replication.requests import (
    Append,
    AskInfo,
    Purge,
    ReadMessage,
    Reconnect,
    Refusal,
    StreamInfo,
    Subscribe,
    Unsubscribe,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from fastbean.replication.node import Node

    Event = Callable[[Node, int], None]

NS_IN_S = 1_000_000_000
# HEADERS_BYTES: what the headers of an Append take of a message, several times over.
# HEARTBEAT_S: the server's, of an idle feed; LOST_HEARTBEATS of them make the feed count as dead.
# INACTIVE_S: how long the server keeps a consumer that a dead node has left behind.
# ANSWER_S: of purges, which may remove much.
# PENDING_BYTES: more than the largest message that servers take by default, several times.
# All are judgements.
HEADERS_BYTES = 4096
CONNECT_S = 1
FIRST_WAIT_S = 0.05
LAST_WAIT_S = 1.0
HEARTBEAT_S = 1.0
LOST_HEARTBEATS = 3
INACTIVE_S = 10
ANSWER_S = 5.0
PENDING_BYTES = 64 << 20

# The server's codes for errors: what each says about a message. Every other error says nothing.
_REFUSALS = {
    10060: Refusal.WRONG_STREAM,  # expected stream does not match
    10071: Refusal.CONFLICT,  # wrong last sequence
    10077: Refusal.FULL,  # maximum bytes or messages exceeded, or no room on the server's disk
    10047: Refusal.FULL,  # insufficient storage resources available
    10164: Refusal.IN_PROCESS,  # a message with the same expectation is in process
}
_NO_MESSAGE = 10037


class Client(nats.aio.client.Client):
    """A connection that can be ended without the server's help."""

    def abort(self) -> None:
        """Send nothing more. `close` would first wait until everything is sent, for ever if the server is frozen."""
        self._pending = []
        self._pending_data_size = 0
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()


class Pending(NamedTuple):
    """A request that waits for its answer."""

    answer: Callable[[dict[str, Any]], Event | None]
    failed: Event


class Feed(NamedTuple):
    """A consumer of the stream."""

    number: int
    consumer: str
    subscription: Any


class JetStream:
    """The stream ``name``, on a cluster of NATS servers.

    Args:
        servers: their URLs.
        name: of the stream; its subjects are ``fb.NAME.claim`` and ``fb.NAME.data``.
        post: has an event happen to the node, and does what it asks for then.
        trouble: called with a text when a server refuses something that no node can mend.
        options: for the connection, as ``nats.connect`` takes them: user, password, token, user_credentials, tls.

    Attributes:
        may_read: cleared while the engine has to catch up with the feed.
        server: the URL of the server that it is connected to, or was last.
        message_bytes: the largest message that the servers take, once there was a connection.
    """

    def __init__(
        self,
        servers: Sequence[str],
        name: str,
        post: Callable[[Event], None],
        *,
        trouble: Callable[[str], None],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.server = ""
        self.message_bytes = 0
        self._servers = list(servers)
        self._name = name
        self._post = post
        self._trouble = trouble
        self._options = dict(options or {})
        self._client: Client | None = None
        self._inbox = ""
        self._pending: dict[str, Pending] = {}
        self._sent = 0
        self._feed: Feed | None = None
        self._feed_task: asyncio.Task[None] | None = None
        self._seen_s = 0.0  # when the feed was last known to be alive
        self._connecting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    # Connections

    def connect(self) -> None:
        """Begin to connect, and to connect again whenever the connection is lost."""
        if self._connecting is None and not self._closed:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def wait_connected(self) -> None:
        """Wait for the connection that is being made."""
        while self._client is None:
            assert self._connecting is not None
            await self._connecting

    async def _connect(self) -> None:
        wait_s = FIRST_WAIT_S
        while not self._closed:
            server = self._servers[0]
            self._servers.append(self._servers.pop(0))
            try:
                await self._connect_to(server)
            except (TimeoutError, OSError, nats.errors.Error) as error:
                self._trouble(f"{server}: {error or type(error).__name__}")
            else:
                break
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LAST_WAIT_S)
        self._connecting = None

    async def _connect_to(self, server: str) -> None:
        client = Client()

        async def lost() -> None:
            self._lost(client)

        async def failed(error: Exception) -> None:
            self._trouble(f"{server}: {error or type(error).__name__}")

        try:
            await self._connect_client(client, server, lost, failed)
        except BaseException:
            await self._close(client)
            raise
        self._client = client
        self.server = server

    async def _connect_client(
        self,
        client: Client,
        server: str,
        lost: Callable[[], Coroutine[Any, Any, None]],
        failed: Callable[[Exception], Coroutine[Any, Any, None]],
    ) -> None:
        await client.connect(
            server,
            allow_reconnect=False,
            connect_timeout=CONNECT_S,
            pending_size=PENDING_BYTES,
            disconnected_cb=lost,
            closed_cb=lost,
            error_cb=failed,
            **self._options,
        )
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        self.message_bytes = min(self.message_bytes or client.max_payload, client.max_payload - HEADERS_BYTES)

    def _lost(self, client: Client) -> None:
        """Begin with another connection: nothing is known about what was sent over this one."""
        if client is not self._client:
            return
        self._client = None
        pending, self._pending = self._pending, {}
        for each in pending.values():
            self._soon(each.failed)
        self._end_feed(broken=True)
        self._spawn(self._close(client))
        self.connect()

    async def _close(self, client: Client) -> None:
        client.abort()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.close(), CONNECT_S)

    async def close(self) -> None:
        """End everything."""
        self._closed = True
        self._end_feed(broken=False)
        client, self._client = self._client, None
        if self._connecting is not None:
            self._connecting.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if client is not None:
            await self._close(client)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _soon(self, event: Event) -> None:
        asyncio.get_running_loop().call_soon(self._post, event)

    # Requests

    def do(self, request: Append | AskInfo | ReadMessage | Purge | Subscribe | Unsubscribe | Reconnect) -> None:
        """Begin what a node has asked for."""
        if isinstance(request, Append):
            self._append(request)
        elif isinstance(request, AskInfo):
            self._ask_info(request)
        elif isinstance(request, ReadMessage):
            self._read(request)
        elif isinstance(request, Purge):
            self._purge(request)
        elif isinstance(request, Subscribe):
            self._end_feed(broken=False)
            self._feed_task = self._spawn(self._subscribe(request))
        elif isinstance(request, Unsubscribe):
            self._end_feed(broken=False)
        elif self._client is not None:
            self._lost(self._client)

    def _append(self, request: Append) -> None:
        headers = {
            "Nats-Expected-Stream": self._name,
            "Nats-Expected-Last-Sequence": str(request.after_seq),
            "Nats-Expected-Last-Subject-Sequence": str(request.claim_seq),
            "Nats-Expected-Last-Subject-Sequence-Subject": f"fb.{self._name}.claim",
        }

        def answer(found: dict[str, Any]) -> Event:
            if "seq" in found and "error" not in found:
                return lambda node, now_ns: node.acknowledged(request.id, int(found["seq"]), now_ns)
            refusal, text = _refusal_of(found)
            return lambda node, now_ns: node.refused(request.id, refusal, text, now_ns)

        def failed(node: Node, now_ns: int) -> None:
            node.refused(request.id, Refusal.UNKNOWN, "the connection was lost", now_ns)

        subject = f"fb.{self._name}.{'claim' if request.is_claim else 'data'}"
        self._send(subject, request.data, Pending(answer, failed), headers)

    def _ask_info(self, request: AskInfo) -> None:
        def answer(found: dict[str, Any]) -> Event:
            info = self._info_of(found)
            return lambda node, now_ns: node.info(request.id, info, now_ns)

        def failed(node: Node, now_ns: int) -> None:
            node.info(request.id, None, now_ns)

        self._send(f"$JS.API.STREAM.INFO.{self._name}", b"", Pending(answer, failed))

    def _info_of(self, found: dict[str, Any]) -> StreamInfo | None:
        """None if the stream has no leader, which another server may say instead of it."""
        if "error" in found:
            self._trouble(f"stream {self._name}: {found['error'].get('description')}")
            return None
        cluster = found.get("cluster")
        if cluster is not None and not cluster.get("leader"):
            return None
        state = found["state"]
        return StreamInfo(
            created=found["created"],
            first_seq=state["first_seq"],
            last_seq=state["last_seq"],
            messages=state["messages"],
            bytes=state["bytes"],
            max_bytes=found["config"].get("max_bytes", -1),
            leader=cluster["leader"] if cluster else "",
        )

    def _read(self, request: ReadMessage) -> None:
        def answer(found: dict[str, Any]) -> Event:
            if "error" not in found:
                data = base64.b64decode(found["message"].get("data", ""))
                return lambda node, now_ns: node.message(request.id, request.seq, data, now_ns)
            if found["error"].get("err_code") == _NO_MESSAGE:
                return lambda node, now_ns: node.message(request.id, request.seq, None, now_ns)
            return failed

        def failed(node: Node, now_ns: int) -> None:
            node.message_unknown(request.id, now_ns)

        body = json.dumps({"seq": request.seq}).encode()
        self._send(f"$JS.API.STREAM.MSG.GET.{self._name}", body, Pending(answer, failed))

    def _purge(self, request: Purge) -> None:
        def answer(found: dict[str, Any]) -> Event:
            return lambda node, now_ns: node.purged(request.id, bool(found.get("success")), now_ns)

        def failed(node: Node, now_ns: int) -> None:
            node.purged(request.id, False, now_ns)

        body = json.dumps({"seq": request.below_seq, "filter": f"fb.{self._name}.data"}).encode()
        token = self._send(f"$JS.API.STREAM.PURGE.{self._name}", body, Pending(answer, failed))
        if token:
            asyncio.get_running_loop().call_later(ANSWER_S, self._give_up, token)

    def _give_up(self, token: str) -> None:
        pending = self._pending.pop(token, None)
        if pending is not None:
            self._post(pending.failed)

    def _send(self, subject: str, data: bytes, pending: Pending, headers: dict[str, str] | None = None) -> str:
        """Send a request. Returns the token of its answer; an empty one if it has failed at once."""
        client = self._client
        if client is not None and not client.is_connected:
            self._lost(client)
            client = None
        if client is None:
            self._soon(pending.failed)
            return ""
        self._sent += 1
        token = str(self._sent)
        self._pending[token] = pending
        self._spawn(self._publish(client, subject, data, token, headers))
        return token

    async def _publish(
        self, client: Client, subject: str, data: bytes, token: str, headers: dict[str, str] | None
    ) -> None:
        try:
            await client.publish(subject, data, reply=f"{self._inbox}.{token}", headers=headers)
        except (OSError, nats.errors.Error):
            self._give_up(token)

    async def _answered(self, message: Msg) -> None:
        pending = self._pending.pop(message.subject.rpartition(".")[2], None)
        if pending is None:
            return
        if message.data:
            event = pending.answer(json.loads(message.data))
        else:
            # No JSON: no server leads the stream, and there are no responders.
            event = pending.answer({"error": {"code": 503, "description": "no responders"}})
        if event is not None:
            self._post(event)

    # The feed

    async def _subscribe(self, request: Subscribe) -> None:
        """Create a consumer with an inbox of its own, since an earlier one may go on for a while."""
        client = self._client
        number = request.feed
        if client is None or not client.is_connected:
            self._post(lambda node, now_ns: node.feed_ended(number, now_ns))
            return
        inbox = client.new_inbox()
        consumer = f"fb-{inbox.rpartition('.')[2]}"

        async def delivered(message: Msg) -> None:
            await self._delivered(number, message)

        try:
            subscription = await client.subscribe(inbox, cb=delivered)
        except (OSError, nats.errors.Error) as error:
            self._trouble(f"stream {self._name}: {error}")
            self._post(lambda node, now_ns: node.feed_ended(number, now_ns))
            return
        self._feed = Feed(number, consumer, subscription)
        self._seen_s = asyncio.get_running_loop().time()
        self._send(
            f"$JS.API.CONSUMER.CREATE.{self._name}.{consumer}",
            json.dumps(self._consumer(consumer, inbox, request.from_seq)).encode(),
            Pending(
                lambda found: self._created(number, found),
                lambda node, now_ns: node.feed_ended(number, now_ns),
            ),
        )
        while self._feed is not None and self._feed.number == number:
            await asyncio.sleep(HEARTBEAT_S)
            silent_s = asyncio.get_running_loop().time() - self._seen_s
            if self.may_read.is_set() and silent_s > LOST_HEARTBEATS * HEARTBEAT_S:
                self._post(lambda node, now_ns: node.feed_ended(number, now_ns))
                return

    def _consumer(self, consumer: str, inbox: str, from_seq: int) -> dict[str, Any]:
        return {
            "stream_name": self._name,
            "config": {
                "name": consumer,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": from_seq,
                "ack_policy": "none",
                "deliver_subject": inbox,
                "max_deliver": 1,
                "mem_storage": True,
                "num_replicas": 1,
                "flow_control": True,
                "idle_heartbeat": int(HEARTBEAT_S * NS_IN_S),
                "inactive_threshold": INACTIVE_S * NS_IN_S,
            },
        }

    def _created(self, number: int, found: dict[str, Any]) -> Event | None:
        if "error" not in found:
            return None
        self._trouble(f"stream {self._name}: {found['error'].get('description')}")
        return lambda node, now_ns: node.feed_ended(number, now_ns)

    async def _delivered(self, number: int, message: Msg) -> None:
        if self._feed is None or self._feed.number != number:
            return
        self._seen_s = asyncio.get_running_loop().time()
        if not message.reply.startswith("$JS.ACK."):
            await self._control(message)
            return
        seq, place = _places_of(message.reply)
        await self.may_read.wait()
        data = message.data
        self._post(lambda node, now_ns: node.delivered(number, place, seq, data, now_ns))

    async def _control(self, message: Msg) -> None:
        """A heartbeat of the consumer, or a request to say that everything so far was read."""
        reply = message.reply or (message.headers or {}).get("Nats-Consumer-Stalled")
        if reply and self._client is not None:
            with contextlib.suppress(OSError, nats.errors.Error):
                await self._client.publish(reply)

    def _end_feed(self, *, broken: bool) -> None:
        feed, self._feed = self._feed, None
        task, self._feed_task = self._feed_task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        if feed is None:
            return
        if broken:
            self._soon(lambda node, now_ns: node.feed_ended(feed.number, now_ns))
        elif self._client is not None:
            self._spawn(self._delete_consumer(self._client, feed))

    async def _delete_consumer(self, client: Client, feed: Feed) -> None:
        with contextlib.suppress(OSError, nats.errors.Error):
            await feed.subscription.unsubscribe()
            await client.publish(f"$JS.API.CONSUMER.DELETE.{self._name}.{feed.consumer}", b"", reply=f"{self._inbox}.d")


def _refusal_of(found: dict[str, Any]) -> tuple[Refusal, str]:
    """What an error says about a message, and its text."""
    error = found.get("error", {})
    text = f"{error.get('description', 'an answer without a sequence')} ({error.get('err_code', error.get('code'))})"
    if "err_code" not in error and error.get("code") == 503:
        return Refusal.NO_LEADER, text
    return _REFUSALS.get(error.get("err_code"), Refusal.UNKNOWN), text


def _places_of(reply: str) -> tuple[int, int]:
    """The sequence of a message in the stream and in its consumer.

    The reply subject is ``$JS.ACK.STREAM.CONSUMER.DELIVERED.SEQ.PLACE...``; servers may put a domain and an account in
    front of the stream.
    """
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7
    return int(tokens[first]), int(tokens[first + 1])
