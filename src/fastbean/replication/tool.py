"""The tool for the stream of a replicated binlog: ``fastbean cluster COMMAND --replicate URL``.

``init`` creates the stream, ``status`` shows who leads it, ``check`` reads all of it as a new node would, and reports
every setting that makes it unsafe.

Exit statuses: 0 done or safe, 1 the settings differ or are unsafe, 5 a wrong argument, 75 no server answers, 76 the
stream cannot be read.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import sys
from typing import NamedTuple

from fastbean.errors import FastbeanError, UsageError
from fastbean.replication import messages, stream_settings, stream_url
from fastbean.replication.run import Records, Run, StreamError, TrimmedError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from typing import Any, NoReturn

    from fastbean.replication.engine_host import EngineHost
    from fastbean.replication.messages import Claim
    from fastbean.replication.stream_url import StreamURL

FINE, UNSAFE = 0, 1
INTERRUPTED = 130
# A queue of some tens of millions of small jobs. Only a guess: an account without a limit does not say what there is.
DEFAULT_MAX_BYTES = 4 << 30
SEGMENT_BYTES = 10 << 20
NO_STREAM = 10059  # the server's code
ANSWER_S = 5.0
MIB = 1 << 20

COMMANDS = {
    "init": "create the stream with the right settings",
    "status": "show the stream and its leader",
    "check": "read the whole stream as a new node would, and report what is unsafe",
}


class ClusterError(FastbeanError):
    """No server answers, or JetStream refuses what is asked for."""

    exit_status = 75


class UnreadableError(FastbeanError):
    """The stream is damaged, or not one of ours."""

    exit_status = 76


class Counts(NamedTuple):
    """What a reader of the whole stream has found."""

    sequence: int
    epoch: int
    lsn: int
    chain: int
    jobs: int
    job_bytes: int


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    try:
        arguments = _parser().parse_args(argv)
        url = stream_url.parse(arguments.replicate)
        options = stream_url.connection_options(url, arguments.replicate_credentials)
        return _run(arguments.command, url, options)
    except FastbeanError as error:
        sys.stderr.write(f"fastbean cluster: {error}\n")
        return error.exit_status
    except KeyboardInterrupt:
        return INTERRUPTED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; `fastbean cluster --help` lists all arguments")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fastbean cluster", description="Create, show and check the stream of a replicated binlog.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.add_argument(
            "--replicate", metavar="URL", required=True, help=f"the servers and the stream, like {stream_url.EXAMPLE}"
        )
        command.add_argument("--replicate-credentials", metavar="FILE", help="user and password, token, or .creds")
    return parser


def _run(command: str, url: StreamURL, options: dict[str, object]) -> int:
    try:
        import asyncio

        import nats.errors
    except ImportError:
        raise ClusterError("the client of NATS is missing; `pip install fastbean[nats]` brings it") from None
    work = {"init": _init, "status": _status, "check": _check}[command]
    try:
        return asyncio.run(work(url, options))
    except (nats.errors.Error, OSError) as error:
        raise ClusterError(f"{', '.join(url.servers)}: {error or type(error).__name__}") from error


@contextlib.asynccontextmanager
async def _connected(url: StreamURL, options: dict[str, Any]) -> AsyncIterator[Any]:
    """A connection to one of the servers; each is tried once."""
    import nats.aio.client

    client = nats.aio.client.Client()

    async def ignore(_error: Exception) -> None:
        """What matters is raised where it matters."""

    await client.connect(url.servers, max_reconnect_attempts=1, connect_timeout=2, error_cb=ignore, **options)
    try:
        yield client
    finally:
        await client.close()


async def _ask(client: Any, what: str, body: object = "") -> dict[str, Any]:
    import json

    answer = await client.request(f"$JS.API.{what}", json.dumps(body).encode() if body else b"", timeout=ANSWER_S)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def _info(client: Any, name: str) -> dict[str, Any]:
    found = await _ask(client, f"STREAM.INFO.{name}")
    if "error" in found:
        advice = "; `fastbean cluster init` creates it" if found["error"].get("err_code") == NO_STREAM else ""
        raise ClusterError(f"stream {name}: {found['error']['description']}{advice}")
    return found


async def _init(url: StreamURL, options: dict[str, object]) -> int:
    async with _connected(url, options) as client:
        config = stream_settings.stream_config(url.name, url.replicas, url.max_bytes or await _half(client))
        found = await _ask(client, f"STREAM.INFO.{url.name}")
        if "error" in found and found["error"].get("err_code") == NO_STREAM:
            found = await _ask(client, f"STREAM.CREATE.{url.name}", config)
            if "error" in found:
                raise ClusterError(f"stream {url.name}: {found['error']['description']}")
            _write(f"stream {url.name}: created, {url.replicas} replicas, {_size(config['max_bytes'])}")
            return FINE
        if "error" in found:
            raise ClusterError(f"stream {url.name}: {found['error']['description']}")
        if url.max_bytes is None:
            del config["max_bytes"]
        differences = list(stream_settings.differences(found["config"], config))
        for difference in differences:
            _write(f"stream {url.name}: {difference}")
        if not differences:
            _write(f"stream {url.name}: is there already, with these settings")
        return UNSAFE if differences else FINE


async def _half(client: Any) -> int:
    """Half of what the account may store, so that there is room to copy a stream."""
    found = await _ask(client, "INFO")
    limit = found.get("limits", {}).get("max_storage", -1)
    return limit // 2 if limit > 0 else DEFAULT_MAX_BYTES


async def _status(url: StreamURL, options: dict[str, object]) -> int:
    async with _connected(url, options) as client:
        info = await _info(client, url.name)
        claim, epoch = await _last_claim(client, url.name)
    state = info["state"]
    cluster = info.get("cluster") or {}
    current = sum(bool(replica.get("current")) for replica in cluster.get("replicas", ())) + 1
    if claim is None:
        _write("leader   none yet")
    else:
        _write(f"leader   {claim.node} at {claim.address}, epoch {epoch}, fastbean {claim.version}")
    _write(
        f"stream   {url.name}: sequence {state['last_seq']:,}, {_size(state['bytes'])} of "
        f"{_size(info['config']['max_bytes'])}, {current} of {info['config']['num_replicas']} replicas current, led by "
        f"{cluster.get('leader', 'its only server')}"
    )
    return FINE


async def _last_claim(client: Any, name: str) -> tuple[Claim | None, int]:
    """The last claim and its epoch; None and 0 before the first one."""
    found = await _ask(client, f"STREAM.MSG.GET.{name}", {"last_by_subj": f"fb.{name}.claim"})
    if "message" not in found:
        return None, 0
    try:
        message = messages.decode(base64.b64decode(found["message"]["data"]))
        return messages.decode_claim(message.payload), message.epoch
    except messages.MessageError as error:
        raise UnreadableError(f"message {found['message']['seq']}: {error}") from error


async def _check(url: StreamURL, options: dict[str, object]) -> int:
    async with _connected(url, options) as client:
        info = await _info(client, url.name)
        faults = list(stream_settings.faults(url.name, info["config"]))
        counts = await _read_all(client, url.name, info)
    _write(
        f"read     sequence {counts.sequence:,}, epoch {counts.epoch}, LSN {counts.lsn:,}, "
        f"checksum {counts.chain:08x}: {counts.jobs:,} jobs with {_size(counts.job_bytes)}"
    )
    for fault in faults:
        _write(f"unsafe   {fault}")
    _write("note     sync_interval cannot be asked: each server should have `sync_interval: always`")
    return UNSAFE if faults else FINE


async def _read_all(client: Any, name: str, info: dict[str, Any]) -> Counts:
    """Apply everything that the stream has now to an engine, as a new node does."""
    from time import monotonic_ns

    from fastbean.engine.restore import EngineJobs
    from fastbean.engine.state import State
    from fastbean.replication.engine_host import EngineHost, HostError
    from fastbean.replication.requests import Apply

    run = Run()
    host = EngineHost(EngineJobs(State(now_ns=monotonic_ns())), SEGMENT_BYTES)
    last_seq = info["state"]["last_seq"] if info["state"]["messages"] else 0
    try:
        async for seq, data in _messages(client, name, last_seq):
            said = run.read(seq, data)
            if isinstance(said, Records):
                assert run.claim is not None
                host.apply(Apply(run.claim.run, said.records, said.first_lsn, said.sent_ns), 0)
        return _counts(run, host)
    except (StreamError, TrimmedError, HostError) as error:
        raise UnreadableError(f"stream {name}: {error}") from error
    finally:
        host.close()


def _counts(run: Run, host: EngineHost) -> Counts:
    figures = host.journal.figures() if host.has_records else {"live_jobs": 0, "live_bytes": 0}
    return Counts(
        run.position, run.epoch, run.end_lsn, run.chain, figures["live_jobs"], figures["live_bytes"]
    )  # fmt: skip


async def _messages(client: Any, name: str, last_seq: int) -> AsyncIterator[tuple[int, bytes]]:
    """The messages of the stream up to ``last_seq``, with progress on a terminal."""
    if not last_seq:
        return
    stream = client.jetstream()
    feed = await stream.subscribe(f"fb.{name}.*", stream=name, ordered_consumer=True)
    seq = 0
    while seq < last_seq:
        message = await feed.next_msg(timeout=ANSWER_S)
        seq = message.metadata.sequence.stream
        if seq % 1000 == 0 and sys.stderr.isatty():
            sys.stderr.write(f"\r{seq * 100 // last_seq} % read")
        yield seq, message.data
    await feed.unsubscribe()
    if sys.stderr.isatty():
        sys.stderr.write("\r          \r")


def _size(size: object) -> str:
    """A size in bytes, in words."""
    assert isinstance(size, int)
    return f"{size / MIB:,.0f} MiB" if size >= MIB else f"{size:,} bytes"


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
