"""The settings of a server, and the values that each can have.

``fastbean.daemon.command_line`` reads them from flags, ``fastbean.daemon.config_file`` from a file.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from fastbean.base import limits
from fastbean.errors import ListenError, UsageError
from fastbean.net.listener import parse_address


class SettingError(UsageError):
    """A setting has a value that it cannot have; ``setting`` is its name."""

    def __init__(self, setting: str, text: str) -> None:
        super().__init__(text)
        self.setting = setting


def _is_number(value: object, *types: type) -> bool:
    """Whether it is of one of these types, and not a truth value, which Python counts among the whole numbers."""
    return isinstance(value, types) and not isinstance(value, bool)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one server. They cannot be changed; ``replace`` returns changed copies.

    Arguments, all by keyword:

    - ``listen``: addresses to listen on: ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; none means
      ``0.0.0.0``.
    - ``port``: 0..65535, for addresses without one; 0 lets the system choose.
    - ``http``: addresses that answer HTTP probes, written as for ``listen``; the port is 11301 if they have none.
    - ``max_job_size``: largest body in bytes, 0..1073741824.
    - ``user``: the user to become once the sockets are bound; only the daemon does it.
    - ``verbosity``: 0; 1 logs connections too; 2 logs every command and reply.
    - ``binlog_dir``: the directory of the binlog, a string or a path; None: no binlog.
    - ``fsync_ms``: sync the binlog within this many milliseconds of a write, 0..10**12; 0 syncs before every
      reply; None: never.
    - ``binlog_size``: size of each file of the binlog in bytes, 0..2147483648.
    - ``binlog_max_bytes``: puts are refused while the binlog has this size or more; at least twice ``binlog_size``,
      0 for no limit.
    - ``unix_mode``: mode of Unix sockets, 0..0o777; None leaves it to the umask.
    - ``keepalive_idle_s``, ``keepalive_interval_s`` (1..32767 seconds), ``keepalive_count`` (1..127): when a silent
      client is probed, how often, and after how many unanswered probes its connection is closed.
    - ``max_memory_bytes``: limit on the memory of jobs and buffers; at least 64 KiB above ``max_job_size``, 0 for no
      limit.
    - ``max_connections``, ``max_tubes``: limits on clients and tubes; 0 for no limit.
    - ``stop_timeout_s``: seconds that a stop waits for replies to be sent, 0..86400.
    - ``slow_iteration_ms``, ``slow_sync_ms``: an iteration of the event loop, or a sync of the binlog, that takes
      longer is logged as a warning; 0..86400000 milliseconds, 0 for no warning.
    - ``log_format`` ("text", "json"), ``log_level`` ("debug", "info", "warning", "error"; None: as ``verbosity``
      implies): the lines that the daemon logs; an embedded server passes every event to its ``log``.
    - ``replicate``: the address of a stream, ``nats://HOST:PORT,HOST:PORT/NAME``, that takes the place of a binlog on
      the disk; None: none does.
    - ``replicate_credentials``: a file with the credentials for it, which other users must not be able to read.
    - ``node_name``: of this node, None for the name of the host. ``advertise``: HOST:PORT where other nodes reach it,
      None for the first address that it listens on.
    - ``lease_s`` (0.5..60 seconds): how long the leader may be silent until another node takes its place; ``stall_s``
      (1..3600 seconds): how long nothing may become safe until clients are closed.
    - ``never_lead``: this node only keeps a copy.
    - ``event_loop``: what waits for sockets: "compiled" (epoll, where the system has it), or "selectors", the standard
      library's.

    A value out of its range raises :class:`~fastbean.errors.UsageError`, a port out of its range or a malformed address
    :class:`~fastbean.errors.ListenError`.
    """

    listen: Sequence[str] = ()
    port: int = limits.DEFAULT_PORT
    http: Sequence[str] = ()
    max_job_size: int = limits.DEFAULT_MAX_JOB_SIZE_BYTES
    user: str | None = None
    verbosity: int = 0
    binlog_dir: str | None = None
    fsync_ms: int | None = limits.DEFAULT_FSYNC_MS
    binlog_size: int = limits.DEFAULT_BINLOG_SIZE_BYTES
    binlog_max_bytes: int = 0
    unix_mode: int | None = None
    keepalive_idle_s: int = limits.DEFAULT_KEEPALIVE_IDLE_S
    keepalive_interval_s: int = limits.DEFAULT_KEEPALIVE_INTERVAL_S
    keepalive_count: int = limits.DEFAULT_KEEPALIVE_COUNT
    max_memory_bytes: int = 0
    max_connections: int = 0
    max_tubes: int = 0
    stop_timeout_s: float = limits.DEFAULT_STOP_TIMEOUT_S
    slow_iteration_ms: int = limits.DEFAULT_SLOW_ITERATION_MS
    slow_sync_ms: int = limits.DEFAULT_SLOW_SYNC_MS
    log_format: str = "text"
    log_level: str | None = None
    event_loop: str = "compiled"
    replicate: str | None = None
    replicate_credentials: str | None = None
    node_name: str | None = None
    advertise: str | None = None
    lease_s: float = limits.DEFAULT_LEASE_S
    stall_s: float = limits.DEFAULT_STALL_S
    never_lead: bool = False

    def __post_init__(self) -> None:
        for name in ("listen", "http"):
            self._check_addresses(name)
        if not _is_number(self.port, int) or not 0 <= self.port <= limits.MAX_PORT:
            raise ListenError(f"port {self.port!r} does not exist; choose one in 0..{limits.MAX_PORT}")
        for address in self.listen:
            parse_address(address, self.port)
        for address in self.http:
            parse_address(address, limits.DEFAULT_HTTP_PORT)
        if not (self.user is None or isinstance(self.user, str)):
            raise SettingError("user", f"user is {self.user!r}; it must be a string")
        if not (self.binlog_dir is None or isinstance(self.binlog_dir, (str, os.PathLike))):
            raise SettingError("binlog_dir", f"binlog_dir is {self.binlog_dir!r}; it must be a string or a path")
        for name, (low, high) in limits.RANGES.items():
            self._check_range(name, low, high)
        for name, words in limits.CHOICES.items():
            value = getattr(self, name)
            if value not in words and not (value is None and name in limits.MAY_BE_NONE):
                raise SettingError(name, f"{name} {value}: there is no such thing; choose one of {', '.join(words)}")
        self._check_binlog_max_bytes()
        self._check_max_memory()
        self._check_replication()

    def replace(self, **changes: object) -> Config:
        """Returns a copy with other values for the fields named in ``changes``."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """Returns all settings by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def _check_addresses(self, name: str) -> None:
        value = getattr(self, name)
        if isinstance(value, str):
            raise UsageError(f"{name} is a list of addresses, not one string: write [{value!r}]")
        if not isinstance(value, Sequence) or not all(isinstance(address, str) for address in value):
            raise UsageError(f"{name} is {value!r}; it must be a list of strings, for example ['127.0.0.1']")
        object.__setattr__(self, name, tuple(value))

    def _check_range(self, name: str, low: float, high: float) -> None:
        value = getattr(self, name)
        if value is None and name in limits.MAY_BE_NONE:
            return
        whole = name not in limits.IN_FRACTIONS
        # "Not a number" is neither below nor above anything.
        if not _is_number(value, *((int,) if whole else (int, float))) or not low <= value <= high:
            kind = "whole number" if whole else "number"
            raise SettingError(name, f"{name} is {value!r}; it must be a {kind} in {low}..{high}")

    def _check_max_memory(self) -> None:
        least_bytes = self.max_job_size + limits.LEAST_BESIDE_A_JOB_BYTES
        if 0 < self.max_memory_bytes < least_bytes:
            raise SettingError(
                "max_memory_bytes",
                f"max-memory is {self.max_memory_bytes} bytes, which is too little for one job of {self.max_job_size} "
                f"and its buffers; set it to {least_bytes} or more, or lower -z",
            )

    def _check_replication(self) -> None:
        for name in ("replicate", "replicate_credentials", "node_name", "advertise"):
            value = getattr(self, name)
            if not (value is None or (isinstance(value, str) and value)):
                raise SettingError(name, f"{name} is {value!r}; it must be a string that is not empty")
        if not isinstance(self.never_lead, bool):
            raise SettingError("never_lead", f"never_lead is {self.never_lead!r}; it must be True or False")
        if self.replicate is not None and self.binlog_dir is not None:
            raise SettingError("replicate", "--replicate and -b: the stream takes the place of the directory; use one")
        if self.advertise is not None and parse_address(self.advertise, 0).path:
            raise SettingError("advertise", f"advertise is {self.advertise}; it must be HOST:PORT")

    def _check_binlog_max_bytes(self) -> None:
        step = limits.SMALLEST_SEGMENT_BYTES
        least_bytes = limits.LEAST_SEGMENTS * -(-max(self.binlog_size, 1) // step) * step
        if 0 < self.binlog_max_bytes < least_bytes:
            raise SettingError(
                "binlog_max_bytes",
                f"binlog-max-bytes is {self.binlog_max_bytes}, which is too little for {limits.LEAST_SEGMENTS} files "
                f"of the binlog, and every put would be refused; set it to {least_bytes} or more, or lower -s",
            )
