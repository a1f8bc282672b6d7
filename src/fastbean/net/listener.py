"""Listening sockets: TCP over IPv4 and IPv6, ``unix:PATH``, and those inherited from systemd; and accepting from them.

``bind_all`` turns addresses into bound, listening sockets, or raises ListenError and leaves nothing bound.
``Acceptor`` has the hub accept clients from them. When the process is out of descriptors, accepting pauses until a
connection closes or a second has passed: no busy loop, no log line for each try.

The file of a Unix socket is removed when the socket is closed, unless another server's has taken its place by then; a
socket from systemd is never unlinked. What only some systems have (Unix sockets, the timing of keep-alive, a limit on
descriptors) is looked for before it is used.

Accepted sockets inherit TCP_NODELAY and keep-alive from the listening one, which saves five calls for each client.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys

from fastbean.base import limits
from fastbean.errors import ListenError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fastbean.net.event_loop import Loop
    from fastbean.net.hub import Hub

ADVICE = {
    errno.EACCES: "ports below 1024 and other users' folders need more rights: start it as root with -u USER",
    errno.EADDRINUSE: "another server has this address: stop it, or choose another port with -p",
    errno.EADDRNOTAVAIL: "this machine has no such address: look at `ip address`",
    errno.ENOENT: "the folder does not exist: make it first",
    0: "choose a shorter path, or one relative to the folder that it starts in",  # Python's own: it is too long
}
# Out of descriptors or memory: an immediate retry would fail again.
EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Address:
    """Where to listen: a host and a port, or a ``path`` for a Unix socket."""

    __slots__ = ("host", "path", "port")

    def __init__(self, host: str = "", port: int = 0, path: str = "") -> None:
        self.host = host
        self.port = port
        self.path = path

    def __str__(self) -> str:
        return f"unix:{self.path}" if self.path else join_host_port(self.host, self.port)


class Options:
    """How sockets are set up: the mode of Unix sockets (None: the umask's) and keep-alive, in seconds and probes."""

    __slots__ = ("keepalive_count", "keepalive_idle_s", "keepalive_interval_s", "unix_mode")

    def __init__(
        self,
        unix_mode: int | None = None,
        keepalive_idle_s: int = limits.DEFAULT_KEEPALIVE_IDLE_S,
        keepalive_interval_s: int = limits.DEFAULT_KEEPALIVE_INTERVAL_S,
        keepalive_count: int = limits.DEFAULT_KEEPALIVE_COUNT,
    ) -> None:
        self.unix_mode = unix_mode
        self.keepalive_idle_s = keepalive_idle_s
        self.keepalive_interval_s = keepalive_interval_s
        self.keepalive_count = keepalive_count


class Listener:
    """One listening socket; ``name`` is its real address as text, ``on_all`` whether every machine can reach it."""

    def __init__(self, sock: socket.socket, path: str = "") -> None:
        self.sock = sock
        self.port, self.on_all = 0, False
        self._path = path
        self._inode: tuple[int, int] | None = None
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            host, self.port = sock.getsockname()[:2]
            self.on_all = host in ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
            self.name = join_host_port(host, self.port)
        else:
            self.name = f"unix:{os.fsdecode(path or sock.getsockname())}"
        if path:
            found = os.lstat(path)
            self._inode = (found.st_dev, found.st_ino)

    def close(self) -> None:
        """Closes the socket; pending clients see a hang-up. Removes its file if that is still this socket's."""
        inode, self._inode = self._inode, None
        if inode is not None:
            with contextlib.suppress(OSError):  # gone already, or no right to it after the change of user
                found = os.lstat(self._path)
                if (found.st_dev, found.st_ino) == inode:
                    os.unlink(self._path)
        self.sock.close()


def join_host_port(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets round an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_port(text: str, what: str) -> int:
    """Parses a port: 0..65535 or the name of a service. Raises an error that names ``what`` if it is neither."""
    digits = text.strip().removeprefix("+")
    if digits.isascii() and digits.isdigit():
        port = int(digits[:20])
        if port <= limits.MAX_PORT:
            return port
        raise ListenError(f"{what} {text}: there is no such port; choose one in 0..{limits.MAX_PORT}")
    try:
        return socket.getservbyname(text.strip(), "tcp")
    except OSError:
        raise ListenError(
            f"{what} {text}: neither a port nor the name of a service; choose a number in 0..{limits.MAX_PORT}"
        ) from None


def parse_address(text: str, port: int) -> Address:
    """Reads ``HOST``, ``HOST:PORT``, ``[IPV6]``, ``[IPV6]:PORT``, ``IPV6`` or ``unix:PATH``; ``port`` if it has none.

    Raises ListenError if it is none of these. Does not check whether the host exists.
    """
    if text.startswith("unix:"):
        if not hasattr(socket, "AF_UNIX"):
            raise ListenError(f"{text}: this system has no Unix sockets; listen on a host and a port")
        if not text[5:] or "\0" in text:
            raise ListenError(f"{text}: no path; write unix:/run/fastbean.sock, say")
        return Address(path=text[5:])
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ListenError(f"{text}: not an address; write [::1]:{port}, say")
        colon, number = rest[:1], rest[1:]
    elif text.count(":") > 1:
        host, colon, number = text, "", ""
    else:
        host, colon, number = text.partition(":")
    if not host or "\0" in host:
        raise ListenError(f"{text!r} is not an address to listen on; write 127.0.0.1:{port}, say")
    return Address(host, parse_port(number, f"{text}: port") if colon else port)


def bind_all(addresses: Iterable[Address], options: Options) -> list[Listener]:
    """Binds and listens on every address of every host. Raises ListenError, with nothing left bound, if one fails.

    A port 0 is chosen by the system, the same for all addresses of a host. ``::`` accepts IPv4 clients too, as in
    beanstalkd, unless an IPv4 address is listed as well.
    """
    listeners: list[Listener] = []
    try:
        wanted = [(address, _resolve(address)) for address in addresses]
        v4_ports = {found[4][1] for _, each in wanted for found in each if found[0] == socket.AF_INET}
        for address, found in wanted:
            if address.path:
                _keep(_listen_unix(address, options), listeners)
            else:
                listeners += _listen_tcp(address, found, v4_ports, options)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def check_all(addresses: Iterable[Address]) -> list[ListenError]:
    """Returns what would keep ``bind_all`` from listening, as far as that can be known without taking an address."""
    problems = []
    for address in addresses:
        try:
            if address.path:
                _check_unix(address)
            else:
                _check_tcp(address)
        except ListenError as error:
            problems.append(error)
    return problems


def _check_tcp(address: Address) -> None:
    refused = None
    for family, kind, proto, _, name in _resolve(address):
        try:
            with socket.socket(family, kind, proto) as sock:
                sock.bind((name[0], 0, *name[2:]))  # any free port: the wanted one may be that of a running server
        except OSError as error:
            refused = error
        else:
            return
    if refused is not None:
        raise _refusal(address, refused)


def _check_unix(address: Address) -> None:
    path = os.path.abspath(address.path)
    folder = os.path.dirname(path)
    try:
        os.stat(os.path.join(folder, "."))
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not _is_socket(path):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.connect_ex(address.path)  # nothing is there; but Python refuses a path that is too long
    except OSError as error:
        raise _refusal(address, error) from None


def _keep(listener: Listener, listeners: list[Listener]) -> None:
    try:
        listeners.append(listener)
    except BaseException:
        listener.close()
        raise


def adopt_all(descriptors: Sequence[int], options: Options) -> list[Listener]:
    """Adopts listening stream sockets that are open already, inherited from systemd.

    Raises ListenError if one is something else; all of them then stay open and unchanged.
    """
    taken: list[socket.socket] = []
    try:
        for fd in descriptors:
            sock = socket.socket(fileno=fd)
            taken.append(sock)
            if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                raise OSError(errno.EINVAL, "not a listening stream socket")
    except OSError as error:
        for sock in taken:
            sock.detach()
        raise ListenError(
            f"descriptor {fd} of LISTEN_FDS: {error.strerror}; use ListenStream= in the .socket unit"
        ) from None
    for sock in taken:
        sock.set_inheritable(False)
        sock.setblocking(False)
        _tune(sock, options)
    return [Listener(sock) for sock in taken]


def _resolve(address: Address) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
    if address.path:
        return []
    # ASCII is passed as bytes, so that Python does not load its tables of international names.
    host = address.host.encode() if address.host.isascii() else address.host
    try:
        found = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host name"
        raise ListenError(
            f"cannot listen on {address}: {reason}; give an address of this machine, like 127.0.0.1"
        ) from None
    return list(dict.fromkeys(found))


def _listen_tcp(
    address: Address,
    found: list[tuple[int, int, int, str, tuple[object, ...]]],
    v4_ports: set[object],
    options: Options,
) -> list[Listener]:
    choices = limits.PORT_CHOICES if address.port == 0 and len(found) > 1 else 1
    while True:
        choices -= 1
        try:
            return _bind_all_found(found, v4_ports, options)
        except OSError as error:
            # The port that the system chose for one address may be taken at another.
            if choices <= 0 or error.errno != errno.EADDRINUSE:
                raise _refusal(address, error) from None


def _bind_all_found(
    found: list[tuple[int, int, int, str, tuple[object, ...]]], v4_ports: set[object], options: Options
) -> list[Listener]:
    listeners: list[Listener] = []
    refused: OSError | None = None
    try:
        for family, kind, proto, _, name in found:
            here = (name[0], listeners[0].port if listeners else name[1], *name[2:])
            try:
                _keep(_bind_tcp(family, kind, proto, here, name[1] in v4_ports, options), listeners)
            except OSError as error:
                # A name may have an address of a family that this machine does not support.
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
                refused = error
        if refused is not None and not listeners:
            raise refused
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _bind_tcp(
    family: int, kind: int, proto: int, name: tuple[object, ...], v4_apart: bool, options: Options
) -> Listener:
    sock = socket.socket(family, kind, proto)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and (v4_apart or name[0] != "::"):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _tune(sock, options)
        sock.bind(name)
        sock.listen(limits.LISTEN_BACKLOG)
        return Listener(sock)
    except BaseException:
        sock.close()
        raise


def _tune(sock: socket.socket, options: Options) -> None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", options.keepalive_idle_s),
        ("TCP_KEEPINTVL", options.keepalive_interval_s),
        ("TCP_KEEPCNT", options.keepalive_count),
    ):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _listen_unix(address: Address, options: Options) -> Listener:
    path = os.path.abspath(address.path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener = None
    is_bound = False
    try:
        sock.setblocking(False)
        # The path as written: in a deep folder the absolute path may be too long for a socket.
        _remove_stale(address.path, path)
        sock.bind(address.path)
        is_bound = True
        listener = Listener(sock, path)
        # No client can connect before listen(), so the mode is right for the first one.
        if options.unix_mode is not None:
            os.chmod(path, options.unix_mode)
        sock.listen(limits.LISTEN_BACKLOG)
    except BaseException as error:
        (listener or sock).close()
        if is_bound and listener is None:
            os.unlink(path)
        if isinstance(error, OSError):
            raise _refusal(address, error) from None
        raise
    return listener


def _remove_stale(written: str, path: str) -> None:
    """Removes a socket file without a listening server; raises ListenError for anything else at ``path``."""
    if not _is_socket(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        answer = probe.connect_ex(written)
    if answer == errno.ECONNREFUSED:
        os.unlink(path)
    elif answer != errno.ENOENT:
        raise ListenError(f"cannot listen on unix:{path}: another server does; stop it, or choose another path")


def _is_socket(path: str) -> bool:
    """Whether a socket is there, or nothing; raises ListenError for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"cannot listen on unix:{path}: something that is not a socket is there; choose another path")
    return True


def _refusal(address: Address, error: OSError) -> ListenError:
    advice = ADVICE.get(error.errno or 0, "choose another address with -l or another port with -p")
    return ListenError(f"cannot listen on {address}: {error.strerror or error}; {advice}")


class Acceptor:
    """Has the hub of one server accept clients from all listeners, and decides what follows from errors.

    ``log`` is called with a level, an event and fields. With ``reserves``, for a server with a binlog, clients leave
    some descriptors free: see ``client_descriptors``.
    """

    def __init__(
        self, loop: Loop, hub: Hub, listeners: Sequence[Listener], log: Callable[..., None], *, reserves: bool = False
    ) -> None:
        self._loop = loop
        self._hub = hub
        self._listeners = listeners
        self._log = log
        self._reserves = reserves
        # By place in ``listeners``: whether the hub accepts from it. It is set after each successful call to the hub:
        # whatever fails in between, the next try starts from what is really watched.
        self._watched = [False] * len(listeners)
        self._paused = False
        self._retry_comes = False
        self._complained_ns: dict[str, int] = {}
        hub.on_accept_error = self._pause
        hub.on_refused = self._complain_of_refusals
        self._watch()
        hub.accept_again(client_descriptors(reserves=reserves))

    def resume(self) -> None:
        """Accepts again after a pause, or stays paused if that is not possible yet; does nothing while it accepts."""
        if not self._paused:
            return
        try:
            descriptors = self._look_for_a_descriptor()
            self._watch()
        except OSError as error:
            self._pause(error.errno or 0)
            return
        except MemoryError:
            self._pause(errno.ENOMEM)
            return
        self._paused = False
        self._hub.on_close = None
        self._hub.accept_again(descriptors)

    def close(self) -> None:
        """Stops accepting and closes the listeners."""
        self._paused = True
        self._unwatch()
        for listener in self._listeners:
            listener.close()
        self._listeners = ()

    def _watch(self) -> None:
        for place, listener in enumerate(self._listeners):
            if not self._watched[place]:
                self._hub.listen(listener.sock.fileno())
                self._watched[place] = True

    def _unwatch(self) -> None:
        for place, listener in enumerate(self._listeners):
            if self._watched[place]:
                self._hub.stop_listening(listener.sock.fileno())
                self._watched[place] = False

    def _look_for_a_descriptor(self) -> int:
        """Returns ``client_descriptors``; raises OSError if the next client would not get one below that."""
        descriptors = client_descriptors(reserves=self._reserves)
        if self._reserves and self._listeners:
            fd = os.dup(self._listeners[0].sock.fileno())
            os.close(fd)
            if fd >= descriptors:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return descriptors

    def _complain_of_refusals(self) -> None:
        if self._may_complain("refusing-clients"):
            advice = "raise --max-connections, or close idle clients"
            self._log("WARNING", "refusing-clients", connections=self._hub.connections, advice=advice)

    def _pause(self, error: int) -> None:
        """The hub has stopped accepting because of this error, or cannot start again."""
        # The retry comes first: no later failure may leave a server that never accepts again.
        if not self._retry_comes:
            self._loop.call_later(limits.ACCEPT_RETRY_NS, self._retry)
            self._retry_comes = True
        self._hub.on_close = self.resume
        self._paused = True
        self._unwatch()
        advice = "raise the limit on open files (ulimit -n)" if error in EXHAUSTED else "wait"
        if self._may_complain("not-accepting"):
            with contextlib.suppress(MemoryError):  # lack of memory may be the reason
                reason = os.strerror(error)
                self._log("WARNING", "not-accepting", reason=reason, connections=self._hub.connections, advice=advice)

    def _may_complain(self, event: str) -> bool:
        """Whether this event was not logged lately; the caller then logs it."""
        now_ns = self._loop.now_ns
        if now_ns - self._complained_ns.get(event, -limits.ACCEPT_COMPLAINT_NS) < limits.ACCEPT_COMPLAINT_NS:
            return False
        self._complained_ns[event] = now_ns
        return True

    def _retry(self) -> None:
        self._retry_comes = False
        self.resume()


def client_descriptors(*, reserves: bool) -> int:
    """The number below which the descriptors of clients have to be, from the limit of this process.

    With ``reserves`` the last 32 below the limit are left free, or a quarter of a limit below 128: idle clients must
    not keep a binlog from opening its next file.
    """
    try:
        import resource
    except ImportError:  # not on this system
        return sys.maxsize
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not reserves or limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return limit - min(limits.RESERVED_DESCRIPTORS, limit // limits.RESERVED_SHARE)
