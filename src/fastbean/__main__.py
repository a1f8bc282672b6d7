"""The program: ``fastbean``, or ``python -m fastbean``, takes beanstalkd's flags and serves until it is stopped.

``fastbean WORD ...`` runs a tool instead; ``fastbean.daemon.tools`` has the table of them.

Order at the start: read the settings, raise the limit on descriptors, bind, become another user, serve. Exit statuses
are beanstalkd's: 5 a wrong flag or value, 10 the binlog, 33 and 34 the user, 111 an address; 0 after a clean stop.
74, a binlog that failed while the server ran, and 71, a start without memory, are ours.

Signals:

- SIGTERM, SIGINT: stop; replies are sent within ``--stop-timeout``; a second one ends the wait at once. Exit status 0.
- SIGUSR1: drain: puts are refused. SIGUSR2: they are accepted again.
- SIGHUP: in a terminal it means that the terminal is gone, and stops the server; elsewhere it is only logged, since
  settings are read at the start only. Under ``nohup`` it stays ignored.

This module, with ``privileges`` and ``process_name``, is the only one that changes what belongs to the process.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from fastbean import __version__
from fastbean.base import limits
from fastbean.daemon import privileges, process_name, stderr_log, systemd
from fastbean.errors import FastbeanError, ResourceError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from fastbean.config import Config
    from fastbean.daemon.command_line import CommandLine
    from fastbean.replicated_server import ReplicatedServer
    from fastbean.server import Server

STDIN, STDOUT, STDERR = 0, 1, 2
MOST_VERBOSE = 2
START_EXTENSION_US = 30_000_000  # how much longer the service manager may wait after each sign of life


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with the arguments ``argv`` (None: the command line's); returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["help"]:
        arguments = [*arguments[1:2], "--help"]
    if arguments and not arguments[0].startswith("-") and arguments[0]:
        return _run_tool(arguments[0], arguments[1:])
    return _run_daemon(arguments)


def _run_tool(word: str, arguments: list[str]) -> int:
    from fastbean.daemon import tools

    try:
        return tools.run(word, arguments)
    except FastbeanError as error:
        return _complain(error)


def _run_daemon(arguments: list[str]) -> int:
    from fastbean.daemon import command_line

    log = wanted = None
    try:
        wanted = command_line.parse_command_line(arguments)
        if wanted.action == "help":
            stderr_log.write_text(STDOUT, command_line.help_text())
        elif wanted.action == "version":
            stderr_log.write_text(STDOUT, f"fastbean {__version__}\n")
        elif wanted.action == "check":
            return _check(wanted)
        else:
            assert wanted.config is not None
            if wanted.config.log_format == "json":
                log = stderr_log.Log(STDERR, form="json")
            process_name.set_process_name("fastbean", arguments)
            Daemon(wanted, wanted.config).run()
    except FastbeanError as error:
        return _complain(error if wanted is None else wanted.with_place(error), log)
    except MemoryError:
        return _complain(ResourceError("there is not enough memory; give the process more of it, or less to do"), log)
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return _complain(ResourceError(f"{error.strerror}: raise ulimit -n (LimitNOFILE=)"), log)
    return 0


def _check(wanted: CommandLine) -> int:
    from fastbean.daemon import check

    assert wanted.config is not None
    problems = check.problems(wanted.config)
    for problem in problems:
        _complain(wanted.with_place(problem))
    if problems:
        return problems[0].exit_status
    stderr_log.write_text(STDOUT, "\n".join(check.report(wanted, wanted.config)) + "\n")
    return 0


def _complain(error: FastbeanError, log: stderr_log.Log | None = None) -> int:
    if log is not None:
        log("ERROR", "ended", error=str(error), exit_status=error.exit_status)
        return error.exit_status
    for problem in getattr(error, "problems", [str(error)]):
        stderr_log.complain(STDERR, problem)
    return error.exit_status


class Daemon:
    """One server as the process: its signals, limits, user, log and service manager."""

    def __init__(self, wanted: CommandLine, config: Config) -> None:
        from fastbean.server import Server

        _fill_standard_descriptors()
        level = config.log_level or ("debug" if config.verbosity == MOST_VERBOSE else "info")
        # The server need not report what would not be logged.
        reported = {"debug": MOST_VERBOSE, "info": 1}.get(level, 0)
        self._config = config.replace(verbosity=min(config.verbosity, reported))
        self._log = stderr_log.Log(STDERR, level=level, form=config.log_format)
        self._notifier = systemd.notifier(os.environ)
        self._stopping = False
        for warning in wanted.warnings:
            self._log("WARNING", "flag-note", text=warning)
        self._server: Server | ReplicatedServer
        fds = self._inherited_fds(wanted.given)
        if self._config.replicate is None:
            self._server = Server(self._config, log=self._log, inherited_fds=fds)
        else:
            self._server = _replicated_server(self._config, self._log, fds)

    def run(self) -> None:
        """Serves until a signal stops it. Raises FastbeanError if it cannot start."""
        if self._config.user is not None:
            privileges.find_user(self._config.user)
        limit = privileges.raise_descriptor_limit()
        if self._config.max_connections:
            self._look_at_descriptors(limit)
        self._catch_signals()
        try:
            self._server.bind()
            signal.set_wakeup_fd(self._server.wake_fd, warn_on_full_buffer=False)
            if self._config.user is not None:
                privileges.become(self._config.user)
                self._log("INFO", "user-changed", user=self._config.user)
            _keep_freed_memory()
            self._server.open_binlog(self._notify_progress)
            self._log("INFO", "serving", version=__version__, pid=os.getpid(), open_files_limit=limit)
            self._notify_ready()
            self._server.run()
        finally:
            signal.set_wakeup_fd(-1)
            self._server.close()
        self._log("INFO", "stopped")

    def _look_at_descriptors(self, limit: int) -> None:
        """Warn of a limit on connections that the ``limit`` on open files (-1: unknown) does not let it reach."""
        wanted = self._config.max_connections
        reserved = 0 if self._config.binlog_dir is None else limits.RESERVED_DESCRIPTORS
        enough = wanted + limits.DESCRIPTORS_BESIDE_CLIENTS + reserved
        if 0 <= limit < enough - reserved + min(reserved, limit // limits.RESERVED_SHARE):
            text = (
                f"--max-connections {wanted} cannot be reached with {limit} open files: raise ulimit -n (LimitNOFILE=) "
                f"to {enough} or more"
            )
            self._log("WARNING", "flag-note", text=text)

    def _inherited_fds(self, given: frozenset[str]) -> list[int]:
        fds = systemd.inherited_fds(os.environ, os.getpid())
        systemd.forget(os.environ)
        if fds and not given.isdisjoint(("listen", "port")):
            text = "-l and -p are not used: systemd handed over the sockets"
            self._log("WARNING", "flag-note", text=text, sockets=len(fds))
        return fds

    def _catch_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, self._drain)
            signal.signal(signal.SIGUSR2, self._undrain)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._stop if os.isatty(STDIN) else self._hang_up)

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._stopping:
            self._log("INFO", "stopping-at-once", signal=name)
            self._server.stop(0)
            return
        self._stopping = True
        self._log("INFO", "stopping", signal=name)
        self._notifier.notify("STOPPING=1", "STATUS=stopping")
        self._server.stop()

    def _drain(self, _number: int, _frame: FrameType | None) -> None:
        self._notifier.notify("STATUS=draining: new jobs are refused")
        self._server.drain()

    def _undrain(self, _number: int, _frame: FrameType | None) -> None:
        self._notifier.notify(self._serving_status())
        self._server.undrain()

    def _hang_up(self, _number: int, _frame: FrameType | None) -> None:
        self._log("INFO", "hang-up-ignored", reason="settings are read at the start only")

    def _notify_progress(self, text: str) -> None:
        self._log("INFO", "starting", text=text)
        self._notifier.notify(f"STATUS={text}", f"EXTEND_TIMEOUT_USEC={START_EXTENSION_US}")

    def _notify_ready(self) -> None:
        self._notifier.notify("READY=1", self._serving_status())
        interval_ns = systemd.watchdog_interval_ns(os.environ, os.getpid())
        if interval_ns is not None:
            self._notify_alive(interval_ns)

    def _serving_status(self) -> str:
        return f"STATUS=serving {' '.join(self._server.addresses)}"

    def _notify_alive(self, interval_ns: int) -> None:
        self._notifier.notify("WATCHDOG=1")
        self._server.call_later(interval_ns, lambda: self._notify_alive(interval_ns))


def _replicated_server(config: Config, log: stderr_log.Log, fds: Sequence[int]) -> ReplicatedServer:
    # Loaded with --replicate only; without it, the daemon needs nothing but Python.
    try:
        from fastbean.replicated_server import ReplicatedServer
    except ModuleNotFoundError as error:
        if error.name != "nats":
            raise
        raise UsageError("--replicate needs the client of NATS; `pip install fastbean[nats]` brings it") from None
    return ReplicatedServer(config, log=log, inherited_fds=fds)


def _keep_freed_memory() -> None:
    # Loaded when a server starts, as all that is compiled.
    from fastbean.engine import memory

    memory.keep_freed()


def _fill_standard_descriptors() -> None:
    """Opens the null device on closed standard descriptors: a client's socket there would be sent the log."""
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    sys.exit(main())
