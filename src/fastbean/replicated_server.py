"""A server whose binlog is replicated: one engine after the other on the same sockets, behind one node.

It has the methods of ``Server`` that the daemon uses. Each engine has a ``Term``: a server of its own, which applies
what the stream has while another node leads, and lets clients in once its node does. When the node is deposed, the term
ends as a server does whose binlog failed, so that nothing more is sent, and the next one begins without jobs.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import socket
from time import monotonic_ns

from fastbean import __version__
from fastbean.base.guarded_log import GuardedLog
from fastbean.config import Config, SettingError
from fastbean.daemon import stderr_log
from fastbean.errors import BinlogFailedError, ReplicationError
from fastbean.net import listener
from fastbean.replication import stream_url
from fastbean.replication.engine_host import EngineHost, HostError
from fastbean.replication.member import Member
from fastbean.replication.requests import (
    Apply,
    DropEngine,
    Lead,
    Resume,
    Room,
    Serve,
    Stall,
    Stopped,
)  # fmt: skip
from fastbean.server import Server, bind_listeners, socket_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastbean.replication.requests import Request

NS_IN_S = 1_000_000_000
# How often the node hears that the event loop is alive. A node gives up its lead after --stall without that.
ALIVE_EVERY_NS = NS_IN_S
MS_IN_S = 1000


class _Closing:
    """What a server closes at its end in the place of a binlog."""

    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


class Term(Server):
    """The time of one engine, from its first record until it is dropped.

    Args:
        config: as of every server.
        log: the same.
        member: the node.
        listeners: where clients come in; they stay the caller's.
        wake_out: a socket that wakes the loop when it has something to read; the same.

    Attributes:
        host: what applies records, and writes to the stream.
        dropped: the node wants another engine.
        ended: the node has ended, and why.
    """

    def __init__(
        self,
        config: Config,
        log: Callable[..., None],
        member: Member,
        listeners: Sequence[listener.Listener],
        wake_out: socket.socket,
    ) -> None:
        super().__init__(config, log=log)
        self._member = member
        self._doors = listeners
        self._wake_out = wake_out
        self._doors_open = False
        self._leads = False
        self._serve_asked = False
        self.host: EngineHost
        self.dropped = False
        self.ended: Stopped | None = None

    def _bind(self) -> list[listener.Listener]:
        """Clients come in once the node leads."""
        return []

    def open_binlog(self, _progress: Callable[[str], None] = lambda _text: None) -> None:
        """Make the engine's host, and have the loop watch it and the node."""
        from fastbean.engine.restore import EngineJobs

        self._jobs = EngineJobs(self._engine)
        # What ends a delay or a pause is a record of the leader, or the time once this node leads.
        self._engine.follows = True
        self.host = EngineHost(self._jobs, self.config.binlog_size)
        self._binlog = _Closing(self._close_engine)
        add = self._poller.add
        add(self._wake_out.fileno(), selectors.EVENT_READ, self._woken)
        add(self.host.done_pipe.reading, selectors.EVENT_READ, lambda _mask: self._note_safe())
        add(self.host.room_pipe.reading, selectors.EVENT_READ, lambda _mask: self.host.give_room())
        add(self._member.request_pipe.reading, selectors.EVENT_READ, lambda _mask: self._take_requests())
        for each in self._doors:
            add(each.sock.fileno(), selectors.EVENT_READ, self._turn_away)
        self._tell_alive()

    def _woken(self, _mask: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4096)

    def _tell_alive(self) -> None:
        self._member.post(lambda node, now_ns: node.loop_ran(now_ns))
        self.call_later(ALIVE_EVERY_NS, self._tell_alive)

    def _note_safe(self) -> None:
        self.host.journal.sink_done()
        self._open_if_asked()

    # What the node wants

    def _take_requests(self) -> None:
        for request in self._member.take():
            if self.dropped or self.ended is not None:
                return
            try:
                self._do(request)
            except HostError as error:
                self._report_failure(str(error))

    def _report_failure(self, text: str) -> None:
        self._member.post(lambda node, _now_ns: node.engine_failed(text))

    def _do(self, request: Request) -> None:
        if isinstance(request, Apply):
            self._apply(request)
        elif isinstance(request, Lead):
            self.host.lead(request)
            self._engine.follows = False
            self._leads = True
        elif isinstance(request, Serve):
            self._serve_asked = True
            self._open_if_asked()
        elif isinstance(request, Stall):
            self._shut_doors()
        elif isinstance(request, Resume):
            self._open_if_asked()
        elif isinstance(request, Room):
            self.host.room(request)
        elif isinstance(request, DropEngine):
            self.dropped = True
            self._end_with(request.why)
        elif isinstance(request, Stopped):
            self.ended = request
            self._end_with(request.text)

    def _apply(self, request: Apply) -> None:
        try:
            self.host.apply(request, monotonic_ns())
        finally:
            self._member.applied(len(request.records))

    def _end_with(self, why: str) -> None:
        """End this term; what is held is never sent."""
        if self._leads:
            self.host.fail(why)
        self._loop.stop()

    # Clients

    def _turn_away(self, _mask: int) -> None:
        """Close the connections of clients that come while this node does not lead."""
        for each in self._doors:
            with contextlib.suppress(OSError):  # none is left, or it is gone
                while True:
                    each.sock.accept()[0].close()

    def _open_if_asked(self) -> None:
        if not self._serve_asked or self._doors_open or not self.host.may_serve:
            return
        for each in self._doors:
            self._poller.remove(each.sock.fileno())
        copies = [os.dup(each.sock.fileno()) for each in self._doors]
        self._accept_from(listener.adopt_all(copies, socket_options(self.config)))
        self._doors_open = True

    def _shut_doors(self) -> None:
        """Close all clients, and turn new ones away."""
        if not self._doors_open:
            return
        self._acceptor.close()
        for fd in self._hub.close_all(self._loop.now_ns):
            os.close(fd)
        for each in self._doors:
            self._poller.add(each.sock.fileno(), selectors.EVENT_READ, self._turn_away)
        self._doors_open = False

    # The end

    def _close_engine(self) -> None:
        """Commit what is left and hand over, if this is the end of all; then free everything."""
        host = self.host
        try:
            if self.dropped:
                self._member.leave_engine()
                return
            if self._leads:
                self._commit_the_rest(host)
            self._member.stop(self._patience_s())
        finally:
            host.close()

    def _commit_the_rest(self, host: EngineHost) -> None:
        """Write what is left, and wait until it is safe, as long as a stop may take."""
        self._member.end_sink(host, self._patience_s())
        host.journal.finish(self._jobs.next_job_id)
        if host.sink.is_busy and host.journal.failure is None:
            poll = select.poll()
            poll.register(host.done_pipe.reading, select.POLLIN)
            if poll.poll(int(self._patience_s() * MS_IN_S)):
                host.journal.sink_done()

    def _patience_s(self) -> float:
        return max(self._stop_left_ns(), 0) / NS_IN_S


class ReplicatedServer:
    """See the module's text. Arguments are those of ``Server``; ``config.replicate`` is set."""

    def __init__(
        self,
        config: Config,
        *,
        log: Callable[..., None] = stderr_log.silent,
        inherited_fds: Sequence[int] = (),
    ) -> None:
        if config.replicate is None:
            raise SettingError("replicate", "replicate is None; it must be the address of a stream")
        self.config = config
        self._log = GuardedLog(log)
        self._inherited_fds = inherited_fds
        self._url = stream_url.parse(config.replicate)
        self._options = stream_url.connection_options(self._url, config.replicate_credentials)
        self._listeners: list[listener.Listener] = []
        self._member: Member | None = None
        self._term: Term | None = None
        self._wake = socket.socketpair()
        for end in self._wake:
            end.setblocking(False)
        self._stop_timeout_s: float | None = None
        self._stop_asked = False
        self._draining = False

    def bind(self) -> None:
        """Binds all addresses. Raises ListenError, or SettingError if other nodes could not reach this one."""
        self._listeners = bind_listeners(self.config, self._inherited_fds)
        try:
            address = self.config.advertise or self._own_address()
        except SettingError:
            self.close()
            raise
        for each in self._listeners:
            self._log("INFO", "listening", address=each.name)
        self._member = Member(
            self._url,
            self._options,
            name=self.config.node_name or os.uname().nodename,
            address=address,
            version=__version__,
            lease_ns=int(self.config.lease_s * NS_IN_S),
            stall_ns=int(self.config.stall_s * NS_IN_S),
            never_lead=self.config.never_lead,
            log=self._log,
        )

    def _own_address(self) -> str:
        for each in self._listeners:
            if each.port and not each.on_all:
                return each.name
        raise SettingError(
            "advertise", "--advertise HOST:PORT is needed: other nodes cannot know at which address to reach this one"
        )

    def open_binlog(self, _progress: Callable[[str], None] = lambda _text: None) -> None:
        """Begins to follow the stream."""
        term = self._begin_term()
        assert self._member is not None
        self._member.start(term.host)

    def _begin_term(self) -> Term:
        assert self._member is not None
        term = Term(self.config, self._log, self._member, self._listeners, self._wake[0])
        if self._draining:
            term.drain()
        term.start()
        self._term = term
        if self._stop_asked:
            term.stop(self._stop_timeout_s)
        return term

    def run(self) -> None:
        """Serves until ``stop``. Raises ReplicationError if the node cannot continue."""
        while True:
            term = self._term
            assert term is not None
            assert self._member is not None
            self._run_term(term)
            if term.ended is not None and term.ended.status:
                raise ReplicationError(term.ended.text, term.ended.status)
            if not term.dropped or self._stop_asked:
                return
            self._member.use_engine(self._begin_term().host)

    def _run_term(self, term: Term) -> None:
        try:
            term.run()
        except BinlogFailedError:
            # The way in which a leader that was deposed ends: it sends nothing more.
            if not term.dropped and term.ended is None:
                raise

    def stop(self, timeout_s: float | None = None) -> None:
        """Asks ``run`` to end, as ``Server.stop``; a leader commits what is left, and hands over."""
        self._stop_asked = True
        self._stop_timeout_s = timeout_s
        if self._term is not None:
            self._term.stop(timeout_s)

    def close(self) -> None:
        """Ends everything; may be called again."""
        self.stop()
        if self._term is not None:
            self._term.close()
        if self._member is not None:
            self._member.stop(0)
        for each in self._listeners:
            each.close()
        self._listeners = []
        for end in self._wake:
            end.close()

    def drain(self) -> None:
        """Refuses new jobs on this node, as ``Server.drain``."""
        self._draining = True
        if self._term is not None:
            self._term.drain()

    def undrain(self) -> None:
        """Accepts new jobs again."""
        self._draining = False
        if self._term is not None:
            self._term.undrain()

    def call_later(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Has the loop of the present engine call ``callback`` once, ``delay_ns`` nanoseconds from now."""
        assert self._term is not None
        self._term.call_later(delay_ns, callback)

    @property
    def wake_fd(self) -> int:
        """The descriptor that wakes the loop when it is written to; the same for every engine."""
        return self._wake[1].fileno()

    @property
    def port(self) -> int:
        """The port of the first TCP address, 0 if there are only Unix sockets."""
        return next((each.port for each in self._listeners if each.port), 0)

    @property
    def addresses(self) -> list[str]:
        """The addresses it listens on."""
        return [each.name for each in self._listeners]
