"""One server: sockets, engine, connections and loop put together; for the daemon and for embedding programs.

A server touches nothing that belongs to the process: no signals, limits, environment, standard streams or working
folder. So any number of them work side by side, in threads too. One exception: while ``run`` is in the main thread, it
has signals wake the loop (``signal.set_wakeup_fd``)::

    with fastbean.Server(fastbean.Config(listen=["127.0.0.1"], port=0)) as server:
        client = greenstalk.Client(("127.0.0.1", server.port))

``stop``, ``drain`` and ``undrain`` may be called from any thread and from signal handlers, ``stats`` from any thread;
everything else belongs to one thread.
"""

from __future__ import annotations

import contextlib
import os

from fastbean import __version__
from fastbean.base import clock, limits
from fastbean.base.guarded_log import GuardedLog
from fastbean.config import Config
from fastbean.daemon import stderr_log
from fastbean.net import listener
from fastbean.net.event_loop import Loop
from fastbean.net.lingering_close import LOOK_EVERY_NS, PATIENCE, Delivery, linger, undelivered_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence
    from typing import Protocol, Self

    from fastbean.daemon.http_probes import Answer, HttpProbes

    class Closed(Protocol):
        """What stores the jobs: the end of a server closes it."""

        def close(self) -> None:
            """Stores the rest."""


PROTOCOL_VERSION = "1.13"


class Server:
    """A beanstalk server with the settings ``config`` (the default ones if None). It can be started once.

    ``log`` is called with a level, an event and keyword fields, mostly by the thread that runs the server, but also by
    those of the binlog and by callers of ``drain`` and ``undrain``; without it nothing is logged. If it raises
    an error, the server continues, and reports the first one to the logger ``fastbean`` of ``logging``.
    KeyboardInterrupt, SystemExit and the like are raised from the method that the main thread is in, once the server is
    in a consistent state: ``start`` and ``run`` have closed everything by then. In other threads they count as errors.

    ``inherited_fds`` are listening sockets that are open already; with any, the addresses of ``config`` are not bound.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        log: Callable[..., None] = stderr_log.silent,
        inherited_fds: Sequence[int] = (),
    ) -> None:
        self.config = config or Config()
        self._log = GuardedLog(log)
        self._inherited_fds = inherited_fds
        self._listeners: list[listener.Listener] = []
        self._http_listeners: list[listener.Listener] = []
        self._http: HttpProbes | None = None
        self._state = "new"
        self._thread: threading.Thread | None = None
        self._binlog: Closed | None = None
        self._stop_asked = False
        self._drain_asked = False
        self._stop_timeout_s = self.config.stop_timeout_s
        self._end_began_ns: int | None = None

    def start(self) -> None:
        """Binds all addresses and opens the binlog. Clients can connect then; they are served once ``run`` runs.

        Raises ListenError; BinlogError if the binlog on disk cannot be used; ResourceError, OSError or MemoryError if
        the system lacks something that a start needs. After any error nothing is left open, locked or running. A second
        start is a RuntimeError.
        """
        self.bind()
        try:
            self.open_binlog()
        except BaseException:
            self.close()
            raise

    def bind(self) -> None:
        """The first half of ``start``, for a program that drops privileges between the two."""
        if self._state != "new":
            raise RuntimeError("a Server can be started once; make another one")
        self._listeners = self._bind()
        try:
            self._http_listeners = self._bind_http()
            self._build()
        except BaseException:
            self._close_parts()
            raise
        self._state = "started"
        try:
            self._log_addresses()
        except BaseException:
            self.close()
            raise

    def _log_addresses(self) -> None:
        for each in self._listeners:
            self._log("INFO", "listening", address=each.name)
            if each.on_all:
                advice = "-l 127.0.0.1 keeps other machines out"
                self._log("WARNING", "listening-on-all-addresses", address=each.name, advice=advice)
        for each in self._http_listeners:
            self._log("INFO", "listening-for-http", address=each.name)

    def open_binlog(self, progress: Callable[[str], None] = lambda _text: None) -> None:
        """The second half of ``start``: reads the binlog, if there is one.

        ``progress`` is called with a text now and then, if that takes long; its errors are handled like those of
        ``log``. After an error the rest of the server stays open until ``close``.
        """
        self._start_http()
        if self.config.binlog_dir is None:
            return
        # Loaded only when there is a binlog: the daemon without one starts sooner.
        from fastbean.binlog.binlog import Binlog
        from fastbean.engine.restore import EngineJobs

        binlog = self._binlog = Binlog(
            self.config.binlog_dir,
            EngineJobs(self._engine),
            segment_bytes=self.config.binlog_size,
            fsync_ms=self.config.fsync_ms,
            max_bytes=self.config.binlog_max_bytes,
            log=self._log,
        )
        binlog.open(GuardedLog(progress))
        binlog.warn_of_slow_disk(self.config.slow_sync_ms * limits.NS_IN_MS, self._log_slow_sync, self._log_slow_write)
        binlog.attach(self._poller)

    def run(self) -> None:
        """Serves until ``stop``; then sends the replies that are due, within the time limit, and closes everything."""
        if self._state == "new":
            self.start()
        if self._state != "started":
            raise RuntimeError(f"this Server is {self._state}; make another one")
        self._state = "running"
        self._log.defer(self._loop.stop)
        try:
            with _woken_by_signals(self._loop.wake_fd):
                if not self._stop_asked:
                    self._loop.run()
                self._acceptor.close()
                self._send_the_rest()
        finally:
            self._close_all()
        self._log.raise_deferred()

    def serve_in_thread(self) -> None:
        """Starts, and runs in a thread of its own until ``close``."""
        import threading

        self.start()
        try:
            self._thread = threading.Thread(target=self.run, name="fastbean", daemon=True)
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def stop(self, timeout_s: float | None = None) -> None:
        """Asks ``run`` to end; replies may take ``timeout_s`` seconds (None: as configured) to be sent.

        Returns at once. It may be called again to shorten the time.
        """
        if timeout_s is not None:
            self._stop_timeout_s = timeout_s
        self._stop_asked = True
        if self._state in ("started", "running"):
            self._loop.stop()

    def close(self) -> None:
        """Stops, and waits for the thread of ``serve_in_thread``; may be called at any time, and again."""
        self.stop()
        if self._thread is not None:
            from fastbean.base import threads

            threads.join(self._thread)
        if self._state == "started":
            self._acceptor.close()
            self._close_all()

    def drain(self) -> None:
        """Refuses new jobs with DRAINING; everything else continues. May be called before ``start``."""
        self._drain_asked = True
        if self._state != "new":
            self._engine.draining = True
        self._log("INFO", "draining")

    def undrain(self) -> None:
        """Accepts new jobs again after ``drain``."""
        self._drain_asked = False
        if self._state != "new":
            self._engine.draining = False
        self._log("INFO", "no-longer-draining")

    def stats(self) -> dict[str, int | float | str | bool]:
        """Returns what the command ``stats`` shows at this moment, by key; docs/statistics.md lists the keys.

        No counter of commands counts it. Before ``start`` it raises a RuntimeError.
        """
        if self._state == "new":
            raise RuntimeError("this Server has not started")
        import json

        from fastbean.engine.statistics import json_of_server

        found: dict[str, int | float | str | bool] = json.loads(json_of_server(self._engine, clock.monotonic_ns()))
        return found

    def call_later(self, delay_ns: int, callback: Callable[[], None]) -> None:
        """Has the loop call ``callback`` once, ``delay_ns`` nanoseconds from now; for the thread that runs the loop."""
        self._loop.call_later(delay_ns, callback)

    @property
    def wake_fd(self) -> int:
        """The descriptor that wakes the loop when it is written to, for ``signal.set_wakeup_fd``."""
        return self._loop.wake_fd

    @property
    def port(self) -> int:
        """The port of the first TCP address, the chosen one if it was given as 0; 0 if there are only Unix sockets."""
        return next((each.port for each in self._listeners if each.port), 0)

    @property
    def addresses(self) -> list[str]:
        """The addresses it listens on: ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``, in order."""
        return [each.name for each in self._listeners]

    @property
    def http_addresses(self) -> list[str]:
        """The addresses that answer HTTP probes, in order, as ``addresses``."""
        return [each.name for each in self._http_listeners]

    def __enter__(self) -> Self:
        self.serve_in_thread()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bind(self) -> list[listener.Listener]:
        return bind_listeners(self.config, self._inherited_fds)

    def _bind_http(self) -> list[listener.Listener]:
        addresses = [listener.parse_address(text, limits.DEFAULT_HTTP_PORT) for text in self.config.http]
        return listener.bind_all(addresses, listener.Options(self.config.unix_mode))

    def _start_http(self) -> None:
        if not self._http_listeners:
            return
        from fastbean.daemon.http_probes import HttpProbes

        self._http = HttpProbes([each.sock for each in self._http_listeners], self._ask_for_probe)
        self._http.start()

    def _ask_for_probe(self, path: str, take: Callable[[Answer], None]) -> None:
        """Has the loop answer a probe, so that only a loop that iterates does; before it runs, its state is known."""
        if self._state == "running":
            self._loop.call_soon(lambda: take(self._probe_answer(path)))
        else:
            take(self._probe_answer(path))

    def _probe_answer(self, path: str) -> Answer:
        from fastbean.daemon import http_probes

        state = "starting" if self._state == "started" else "stopping" if self._stop_asked else "serving"
        return http_probes.answer_of_single(path, state)

    def _build(self) -> None:
        # Compiled modules are loaded when a server starts, so that --help and wrong flags need none of them.
        from fastbean.engine.identity import new_instance_id
        from fastbean.engine.state import State
        from fastbean.net.hub import Hub
        from fastbean.net.poller import new_selector

        uname = os.uname() if hasattr(os, "uname") else None
        self._poller = new_selector(self.config.event_loop)
        self._engine = State(
            max_job_size=self.config.max_job_size,
            now_ns=clock.monotonic_ns(),
            version=PROTOCOL_VERSION,
            fastbean_version=__version__,
            instance_id=new_instance_id(),
            hostname=uname.nodename if uname else "",
            os=uname.version if uname else "",
            platform=uname.machine if uname else "",
            binlog_max_size=self.config.binlog_size,
            max_memory_bytes=self.config.max_memory_bytes,
            max_tubes=self.config.max_tubes,
            max_connections=self.config.max_connections,
            hash_key=os.urandom(16),
        )
        self._engine.draining = self._drain_asked
        self._hub = Hub(self._engine, self._poller)
        self._hub.shared.verbosity = self.config.verbosity
        if self.config.verbosity:
            self._hub.shared.on_event = self._log_traffic
        self._hub.slow_iteration_ns = self.config.slow_iteration_ms * limits.NS_IN_MS
        self._hub.on_slow_iteration = self._log_slow_iteration
        self._hub.on_http_requests = self._log_http_requests
        self._hub.on_dropped_notices = self._log_dropped_notices
        self._loop = Loop(self._poller, self._hub)
        self._accept_from(self._listeners)

    def _accept_from(self, listeners: list[listener.Listener]) -> None:
        self._acceptor = listener.Acceptor(
            self._loop, self._hub, listeners, self._log, reserves=self.config.binlog_dir is not None
        )

    def _close_parts(self) -> None:
        """Close what ``_build`` has made before it failed, and the listeners."""
        for name in ("_loop", "_poller"):
            part = self.__dict__.pop(name, None)
            if part is not None:
                part.close()
        for each in self._listeners + self._http_listeners:
            each.close()

    def _log_traffic(self, event: str, fd: int, text: str) -> None:
        if event == "accept":
            self._log("INFO", "accept", fd=fd, peer=text)
        elif event == "close":
            self._log("INFO", "close", fd=fd)
        elif event == "command":
            self._log("DEBUG", "command", fd=fd, text=text)
        else:
            self._log("DEBUG", "reply", fd=fd, text=text)

    def _log_slow_iteration(self, **fields: object) -> None:
        self._log("WARNING", "slow-iteration", **fields)

    def _log_http_requests(self, requests: int) -> None:
        advice = "keep browsers and HTTP health checks away from this port; `fastbean health` checks it"
        self._log("WARNING", "http-refused", requests=requests, advice=advice)

    def _log_dropped_notices(self, lines: int) -> None:
        self._log("WARNING", "notices-dropped", lines=lines, advice="log less: use -V instead of -VV, or neither")

    def _log_slow_sync(self, running: bool, ms: int, files: int, size_bytes: int) -> None:
        if running:
            self._log("WARNING", "sync-goes-on", ms=ms, files=files, bytes=size_bytes)
        else:
            self._log("WARNING", "slow-sync", ms=ms, files=files, bytes=size_bytes)

    def _log_slow_write(self, ms: int, size_bytes: int) -> None:
        self._log("WARNING", "slow-write", ms=ms, bytes=size_bytes)

    def _send_the_rest(self) -> None:
        """Sends the replies to what was run before the stop, as long as they arrive, and runs nothing more.

        `fastbean.net.lingering_close` says when a reply can still arrive.
        """
        self._end_began_ns = self._loop.now_ns
        if self._hub.unsent:
            self._hub.stop_running(self._loop.now_ns)
        delivery = Delivery(self._stop_patience_ns(), clock.monotonic_ns())
        while (unsent := self._hub.unsent) and self._log.deferred is None:
            full = self._hub.full_sockets()
            left_bytes = undelivered_bytes(full)
            is_stuck = left_bytes is not None and not delivery.goes_on(left_bytes, clock.monotonic_ns())
            left_ns = self._stop_left_ns()
            # What waits for the binlog can still be delivered, however long its sync takes.
            if left_ns <= 0 or (is_stuck and len(full) == unsent):
                self._log("WARNING", "replies-not-sent", connections=unsent)
                return
            self._loop.iterate(min(left_ns, LOOK_EVERY_NS))

    def _close_all(self) -> None:
        self._state = "closed"
        sending: list[int] = []
        # Each step is taken whatever the others raise; the last of the list comes first.
        with contextlib.ExitStack() as steps:
            steps.callback(self._poller.close)
            # A signal may come up to here, and wakes the loop.
            steps.callback(self._loop.close)
            steps.callback(linger, sending, self._stop_left_ns, self._stop_patience_ns())
            if self._binlog is not None:
                steps.callback(self._binlog.close)
            steps.callback(lambda: sending.extend(self._hub.close_all(self._loop.now_ns)))
            for each in self._listeners + self._http_listeners:
                steps.callback(each.close)
            if self._http is not None:
                steps.callback(self._http.close)

    def _stop_left_ns(self) -> int:
        """The time that is left for the end, in nanoseconds; 0 if it is not a clean one."""
        if self._end_began_ns is None:
            return 0
        return self._end_began_ns + int(self._stop_timeout_s * 1e9) - clock.monotonic_ns()

    def _stop_patience_ns(self) -> int:
        """How long the end waits for a client that takes nothing of its replies."""
        return int(self._stop_timeout_s * PATIENCE * 1e9)


@contextlib.contextmanager
def _woken_by_signals(wake_fd: int) -> Iterator[None]:
    """In the main thread, has each signal wake the loop, so that its Python handler runs: compiled code runs none.

    Elsewhere it does nothing, since Python runs signal handlers in the main thread only.
    """
    import signal

    try:
        before_fd = signal.set_wakeup_fd(wake_fd, warn_on_full_buffer=False)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.set_wakeup_fd(before_fd)


def socket_options(config: Config) -> listener.Options:
    """What ``config`` says about sockets."""
    return listener.Options(
        config.unix_mode, config.keepalive_idle_s, config.keepalive_interval_s, config.keepalive_count
    )


def bind_listeners(config: Config, inherited_fds: Sequence[int]) -> list[listener.Listener]:
    """Binds the addresses of ``config``, or adopts sockets that are open already. Raises ListenError."""
    options = socket_options(config)
    if inherited_fds:
        return listener.adopt_all(inherited_fds, options)
    texts = config.listen or (limits.DEFAULT_HOST,)
    return listener.bind_all([listener.parse_address(text, config.port) for text in texts], options)
