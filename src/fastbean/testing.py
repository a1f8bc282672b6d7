"""A server in a process of its own, for test suites: ``ServerProcess``. The pytest plugin builds on it.

The socket is bound here and passed to the server, as systemd does: the port is free, it is known before the server
runs, and clients can connect from the first moment. The server's own notification says when it is ready, so no
connection is needed to find out, and the statistics of a fresh server are all zero.

Invariant: the server ends when this process does, however it ends. The server's standard input is a pipe whose other
end is open in this process alone; when it closes, the server stops. The signal that Linux can send when a parent dies
exists on no other system, and it comes when the thread that started the server ends, too early.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from fastbean.daemon import systemd

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

PATIENCE_S = 60.0
STOP_PATIENCE_S = 10.0
POLL_S = 0.02
BACKLOG = 1024
# The variables by which a service manager talks to the process that runs the tests are not meant for the server.
MANAGER_VARIABLES = (*systemd.SOCKET_VARIABLES, "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
SERVE = "import sys; sys.path.append({path!r}); from fastbean.testing import serve; sys.exit(serve(sys.argv[1:]))"


class ServerProcess:
    """A fastbean server in a process of its own; a context manager that starts it, and stops it at the end.

    Its arguments:

    - ``flags``: command-line flags other than ``-l`` and ``-p``, for example ``"-z", "100"``.
    - ``unix``: listen on a Unix socket in a new directory instead of a free port of 127.0.0.1.
    - ``binlog_dir``: keep the binlog in this directory, which is created if needed; None: no binlog.

    ``start`` raises RuntimeError, with what the server wrote to stderr, if the server does not start.
    """

    def __init__(self, *flags: str, unix: bool = False, binlog_dir: str | os.PathLike[str] | None = None) -> None:
        self.flags = flags if binlog_dir is None else (*flags, "-b", os.fspath(binlog_dir))
        self._binlog_dir = binlog_dir
        self._unix = unix
        self._address: tuple[str, int] | str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = ""
        self._stderr = -1

    @property
    def address(self) -> tuple[str, int] | str:
        """The address for ``socket.connect`` or greenstalk: (host, port), or the path of the Unix socket."""
        if self._address is None:
            raise RuntimeError("this server was not started; use it in a with statement, or call start()")
        return self._address

    @property
    def host(self) -> str:
        """127.0.0.1. Raises RuntimeError for a Unix socket."""
        return self._tcp()[0]

    @property
    def port(self) -> int:
        """The port. Raises RuntimeError for a Unix socket."""
        return self._tcp()[1]

    @property
    def path(self) -> str:
        """The path of the Unix socket. Raises RuntimeError for TCP."""
        address = self.address
        if self._unix and isinstance(address, str):
            return address
        raise RuntimeError("this server listens on TCP; its address is .host and .port")

    @property
    def pid(self) -> int:
        """The process id."""
        return self._running().pid

    @property
    def started(self) -> bool:
        """Whether the server was started, and neither stopped nor killed since. It may have ended by itself."""
        return self._process is not None

    @property
    def log_size(self) -> int:
        """The number of bytes that the server has written to stderr."""
        return os.fstat(self._stderr).st_size if self._stderr >= 0 else 0

    def log(self, start: int = 0) -> str:
        """What the server has written to stderr, including before restarts, from byte ``start``; "" once closed."""
        if self._stderr < 0:
            return ""
        return os.pread(self._stderr, max(self.log_size - start, 0), start).decode("utf-8", "replace")

    def start(self) -> Self:
        """Starts the server and waits until it serves; returns itself."""
        if self._process is not None:
            raise RuntimeError("this server is running already; call restart() to start it again")
        if not self._folder:
            self._folder = tempfile.mkdtemp(prefix="fastbean-")
            self._stderr = os.open(os.path.join(self._folder, "stderr"), os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        if self._binlog_dir is not None:
            os.makedirs(self._binlog_dir, exist_ok=True)
        notify = os.path.join(self._folder, "notify")
        with self._bind() as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
            notifications.bind(notify)
            try:
                self._process = self._spawn(listener, notify)
                self._address = listener.getsockname()
                listener.close()  # once the server dies, connections must be refused
                self._wait_until_ready(notifications)
            except BaseException:
                self.close()
                raise
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(notify)
        return self

    def stop(self, *, timeout_s: float = STOP_PATIENCE_S) -> int:
        """Stops the server with SIGTERM, and after ``timeout_s`` seconds with SIGKILL.

        Returns the exit status, -N if signal N killed it. If the server had ended by itself, returns that status.
        """
        process = self._running()
        process.terminate()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self._release()

    def kill(self) -> int:
        """Kills the server as a crash would; returns the exit status, -9."""
        process = self._running()
        process.kill()
        try:
            return process.wait()
        finally:
            self._release()

    def restart(self) -> None:
        """Stops the server, if it runs, and starts it again at the same address, with the same binlog."""
        if self._process is not None:
            self.stop()
        self.start()

    def close(self) -> None:
        """Kills the server, if it runs, and removes its files. May be called more than once."""
        if self._process is not None:
            self.kill()
        if self._folder:
            os.close(self._stderr)
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder, self._stderr = "", -1

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._process is not None:
                self.stop()
        finally:
            self.close()

    def _tcp(self) -> tuple[str, int]:
        address = self.address
        if not self._unix and isinstance(address, tuple):
            return address
        raise RuntimeError("this server listens on a Unix socket; its address is .path")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("this server is not running")
        return self._process

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX if self._unix else socket.AF_INET)
        try:
            if self._unix:
                path = self._address or os.path.join(self._folder, "socket")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(str(path))
                listener.bind(path)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(self._address or ("127.0.0.1", 0))
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def _spawn(self, listener: socket.socket, notify: str) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name not in MANAGER_VARIABLES}
        serve = SERVE.format(path=os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        return subprocess.Popen(  # noqa: S603 - runs this same Python, with the caller's flags
            [sys.executable, "-P", "-c", serve, str(listener.fileno()), *self.flags],
            stdin=subprocess.PIPE,
            stdout=self._stderr,
            stderr=self._stderr,
            env={**environment, "NOTIFY_SOCKET": notify},
            pass_fds=[listener.fileno()],
            process_group=0,  # Ctrl-C reaches only the tests, which then stop the server
        )

    def _wait_until_ready(self, notifications: socket.socket) -> None:
        notifications.settimeout(POLL_S)
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s:
            status = self._running().poll()
            with contextlib.suppress(TimeoutError):
                if notifications.recv(4096).startswith(b"READY=1"):
                    return
            if status is not None:
                raise RuntimeError(f"fastbean ended with status {status} before it served:\n{self.log()}")
        raise RuntimeError(f"fastbean did not serve within {PATIENCE_S:.0f} s:\n{self.log()}")

    def _release(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()


def serve(arguments: list[str]) -> int:
    """Runs in the new process. ``arguments``: the listening socket's descriptor, then the flags.

    Returns the exit status. Standard input must be a pipe: the server stops when its other end closes.
    """
    import threading

    from fastbean.__main__ import main

    os.dup2(int(arguments[0]), systemd.FIRST_FD)
    if int(arguments[0]) != systemd.FIRST_FD:
        os.close(int(arguments[0]))
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    threading.Thread(target=_stop_with_the_pipe, daemon=True).start()
    return main(arguments[1:])


def _stop_with_the_pipe() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_PATIENCE_S)
    os.kill(os.getpid(), signal.SIGKILL)
