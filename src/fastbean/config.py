"""The settings of a server, and the command line that sets them.

One table, ``OPTIONS``, gives every flag its short form (beanstalkd's), its long form, its value and its words in
``--help``. The parser is written by hand, for two reasons: it takes every spelling that beanstalkd takes (``-VVF``,
``-f0``, ``-p 11300``) with its exit statuses, and ``argparse`` would cost a good part of the whole start. For the same
reason ``Config`` is no dataclass: importing ``dataclasses`` takes longer than importing everything else here.
"""

from fastbean.base import limits
from fastbean.errors import ListenError, UsageError
from fastbean.net.listener import parse_address, parse_port

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

SEE_HELP = "`fastbean --help` lists all flags"


class Config:
    """The settings of one server; they cannot be changed, ``replace`` gives changed copies.

    Arguments, all by keyword:

    - ``listen``: addresses to listen on: ``HOST``, ``HOST:PORT``, ``[IPV6]:PORT`` or ``unix:PATH``; none means
      ``0.0.0.0``.
    - ``port``: 0..65535, for the addresses that name none; 0 lets the system choose.
    - ``max_job_size``: largest body in bytes, 0..1073741824.
    - ``user``: who to become once the sockets are bound; only the daemon does it.
    - ``verbosity``: 0; 1 logs connections too; 2 logs every command and reply.
    - ``binlog_dir``, ``fsync_ms`` (0..10**12; None: never), ``binlog_size`` in bytes, 0..2147483648: the log on disk.
    - ``binlog_max_bytes``: size of the log from which on puts are refused, twice ``binlog_size`` at least; 0 for no
      limit.
    - ``unix_mode``: mode of Unix sockets, 0..0o777; None leaves it to the umask.
    - ``keepalive_idle_s``, ``keepalive_interval_s`` (1..32767 seconds), ``keepalive_count`` (1..127): when a silent
      peer is probed, how often, and after how many probes it counts as gone.
    - ``max_memory_bytes``, ``max_connections``, ``max_tubes``: what jobs and buffers may take, how many clients and
      tubes there may be; 0 for no limit. The least memory is 64 KiB more than ``max_job_size``.
    - ``slow_iteration_ms``, ``slow_sync_ms``, 0..86400000: an iteration or a sync that takes so many milliseconds is
      warned of; 0 iterations the warning off.
    - ``log_format`` ("text", "json"), ``log_level`` ("debug", "info", "warning", "error"; None: what ``verbosity``
      asks for): the lines that the daemon writes; an embedded server tells its log everything.
    - ``stop_timeout_s``: seconds that a stop waits for replies to be sent, 0..86400.

    A value out of its range raises :class:`~fastbean.errors.UsageError`, a port out of its range
    :class:`~fastbean.errors.ListenError`.
    """

    __slots__ = (
        "binlog_dir",
        "binlog_max_bytes",
        "binlog_size",
        "fsync_ms",
        "keepalive_count",
        "keepalive_idle_s",
        "keepalive_interval_s",
        "listen",
        "log_format",
        "log_level",
        "max_connections",
        "max_job_size",
        "max_memory_bytes",
        "max_tubes",
        "port",
        "slow_iteration_ms",
        "slow_sync_ms",
        "stop_timeout_s",
        "unix_mode",
        "user",
        "verbosity",
    )
    listen: tuple[str, ...]
    port: int
    max_job_size: int
    user: str | None
    verbosity: int
    binlog_dir: str | None
    fsync_ms: int | None
    binlog_size: int
    binlog_max_bytes: int
    unix_mode: int | None
    keepalive_idle_s: int
    keepalive_interval_s: int
    keepalive_count: int
    max_memory_bytes: int
    max_connections: int
    max_tubes: int
    stop_timeout_s: float
    slow_iteration_ms: int
    slow_sync_ms: int
    log_format: str
    log_level: str | None

    def __init__(
        self,
        *,
        listen: "Sequence[str]" = (),
        port: int = limits.DEFAULT_PORT,
        max_job_size: int = limits.DEFAULT_MAX_JOB_SIZE_BYTES,
        user: str | None = None,
        verbosity: int = 0,
        binlog_dir: str | None = None,
        fsync_ms: int | None = limits.DEFAULT_FSYNC_MS,
        binlog_size: int = limits.DEFAULT_BINLOG_SIZE_BYTES,
        binlog_max_bytes: int = 0,
        unix_mode: int | None = None,
        keepalive_idle_s: int = limits.DEFAULT_KEEPALIVE_IDLE_S,
        keepalive_interval_s: int = limits.DEFAULT_KEEPALIVE_INTERVAL_S,
        keepalive_count: int = limits.DEFAULT_KEEPALIVE_COUNT,
        max_memory_bytes: int = 0,
        max_connections: int = 0,
        max_tubes: int = 0,
        stop_timeout_s: float = limits.DEFAULT_STOP_TIMEOUT_S,
        slow_iteration_ms: int = limits.DEFAULT_SLOW_ITERATION_MS,
        slow_sync_ms: int = limits.DEFAULT_SLOW_SYNC_MS,
        log_format: str = "text",
        log_level: str | None = None,
    ) -> None:
        if isinstance(listen, str):
            raise UsageError(f"listen is a list of addresses, not one string: write [{listen!r}]")
        if not isinstance(port, int) or not 0 <= port <= limits.MAX_PORT:
            raise ListenError(f"port {port} does not exist; choose one in 0..{limits.MAX_PORT}")
        for address in listen:
            parse_address(address, port)
        _check("max_job_size", max_job_size, 0, limits.MAX_JOB_SIZE_LIMIT_BYTES)
        _check("verbosity", verbosity, 0, 2)
        _check("fsync_ms", 0 if fsync_ms is None else fsync_ms, 0, limits.MAX_FSYNC_MS)
        _check("binlog_size", binlog_size, 0, limits.MAX_BINLOG_SIZE_BYTES)
        _check("binlog_max_bytes", binlog_max_bytes, 0, limits.MAX_BYTES_LIMIT)
        _check_binlog(binlog_max_bytes, binlog_size)
        _check("unix_mode", 0 if unix_mode is None else unix_mode, 0, 0o777)
        _check("keepalive_idle_s", keepalive_idle_s, 1, limits.MAX_KEEPALIVE_S)
        _check("keepalive_interval_s", keepalive_interval_s, 1, limits.MAX_KEEPALIVE_S)
        _check("keepalive_count", keepalive_count, 1, limits.MAX_KEEPALIVE_COUNT)
        _check("max_memory_bytes", max_memory_bytes, 0, limits.MAX_BYTES_LIMIT)
        _check("max_connections", max_connections, 0, limits.MAX_COUNT_LIMIT)
        _check("max_tubes", max_tubes, 0, limits.MAX_COUNT_LIMIT)
        _check_memory(max_memory_bytes, max_job_size)
        _check("stop_timeout_s", stop_timeout_s, 0, limits.MAX_STOP_TIMEOUT_S, whole=False)
        _check("slow_iteration_ms", slow_iteration_ms, 0, limits.MAX_SLOW_MS)
        _check("slow_sync_ms", slow_sync_ms, 0, limits.MAX_SLOW_MS)
        choose("log_format", log_format, limits.LOG_FORMATS)
        choose("log_level", log_level or limits.LOG_LEVELS[0], limits.LOG_LEVELS)
        values = locals()
        for name in self.__slots__:
            object.__setattr__(self, name, tuple(listen) if name == "listen" else values[name])

    def replace(self, **changes: object) -> "Config":
        """A copy with other values for the fields named in ``changes``."""
        return Config(**{**self.as_dict(), **changes})  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, object]:
        """All settings by name."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Config cannot be changed; use config.replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError("a Config cannot be changed")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Config) and self.as_dict() == other.as_dict()

    def __hash__(self) -> int:
        return hash(tuple(self.as_dict().values()))

    def __repr__(self) -> str:
        return f"Config({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items())})"


def _check(name: str, value: float, low: int, high: int, *, whole: bool = True) -> None:
    # Not a number is below and above nothing.
    if not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
        raise UsageError(f"{name} is {value!r}; it must be a {'whole ' if whole else ''}number in {low}..{high}")


def _check_memory(max_memory_bytes: int, max_job_size: int) -> None:
    least_bytes = max_job_size + limits.LEAST_BESIDE_A_JOB_BYTES
    if 0 < max_memory_bytes < least_bytes:
        raise UsageError(
            f"max-memory is {max_memory_bytes} bytes, which is too little for one job of {max_job_size} and what is "
            f"around it; give it {least_bytes} or more, or lower -z"
        )


def _check_binlog(binlog_max_bytes: int, binlog_size: int) -> None:
    step = limits.SMALLEST_SEGMENT_BYTES
    least_bytes = limits.LEAST_SEGMENTS * -(-max(binlog_size, 1) // step) * step
    if 0 < binlog_max_bytes < least_bytes:
        raise UsageError(
            f"binlog-max-bytes is {binlog_max_bytes}, which is too little for {limits.LEAST_SEGMENTS} files of the "
            f"log, and no put would be taken; give it {least_bytes} or more, or lower -s"
        )


def choose(name: str, word: str, words: "Sequence[str]") -> str:
    """``word``, if it is one of ``words``; else UsageError, with ``name``."""
    if word not in words:
        raise UsageError(f"{name} {word}: there is no such thing; choose one of {', '.join(words)}")
    return word


class CommandLine:
    """What a command line asks for: ``action`` is "run", "help" or "version"; ``warnings`` are lines for the log.

    ``given`` has the names of the settings that it sets, to their defaults too.
    """

    __slots__ = ("action", "config", "given", "warnings")

    def __init__(
        self, action: str, config: Config, given: "Iterable[str]" = (), warnings: "Iterable[str]" = ()
    ) -> None:
        self.action = action
        self.config = config
        self.given = frozenset(given)
        self.warnings = list(warnings)


class _Parsed:
    """The command line so far: settings by name, warnings, and the action that ends the parsing early."""

    def __init__(self) -> None:
        self.settings: dict[str, object] = {}
        self.warnings: list[str] = []
        self.action = "run"

    def set_listen(self, spelling: str, text: str) -> None:
        if not text:
            raise ListenError(f"{spelling} needs an address, for example {spelling} 127.0.0.1")
        listen = self.settings.setdefault("listen", [])
        assert isinstance(listen, list)
        listen.append(text)

    def set_port(self, spelling: str, text: str) -> None:
        self.settings["port"] = parse_port(text, spelling)

    def set_max_job_size(self, spelling: str, text: str) -> None:
        size = parse_number(spelling, text)
        if size > limits.MAX_JOB_SIZE_LIMIT_BYTES:
            size = limits.MAX_JOB_SIZE_LIMIT_BYTES
            self.warnings.append(f"maximum job size was set to {size}, the most there is")
        self.settings["max_job_size"] = size

    def set_user(self, spelling: str, text: str) -> None:
        if not text:
            raise UsageError(f"{spelling} needs the name of a user; {SEE_HELP}")
        self.settings["user"] = text

    def set_binlog_dir(self, spelling: str, text: str) -> None:
        if not text:
            raise UsageError(f"{spelling} needs the name of a folder; {SEE_HELP}")
        self.settings["binlog_dir"] = text

    def set_fsync_ms(self, spelling: str, text: str) -> None:
        self.settings["fsync_ms"] = parse_number(spelling, text, 0, limits.MAX_FSYNC_MS)

    def set_no_fsync(self, _spelling: str, _text: str) -> None:
        self.settings["fsync_ms"] = None

    def set_binlog_max_bytes(self, spelling: str, text: str) -> None:
        self.settings["binlog_max_bytes"] = parse_number(spelling, text, 0, limits.MAX_BYTES_LIMIT)

    def set_binlog_size(self, spelling: str, text: str) -> None:
        self.settings["binlog_size"] = parse_number(spelling, text, 0, limits.MAX_BINLOG_SIZE_BYTES)

    def set_unix_mode(self, spelling: str, text: str) -> None:
        mode = int(text, 8) if text and not text.strip("01234567") else -1
        if not 0 <= mode <= 0o777:
            raise UsageError(f"{spelling} {text}: not a mode; write it in octal, for example {spelling} 660")
        self.settings["unix_mode"] = mode

    def set_keepalive_idle(self, spelling: str, text: str) -> None:
        self.settings["keepalive_idle_s"] = parse_number(spelling, text, 1, limits.MAX_KEEPALIVE_S)

    def set_keepalive_interval(self, spelling: str, text: str) -> None:
        self.settings["keepalive_interval_s"] = parse_number(spelling, text, 1, limits.MAX_KEEPALIVE_S)

    def set_keepalive_count(self, spelling: str, text: str) -> None:
        self.settings["keepalive_count"] = parse_number(spelling, text, 1, limits.MAX_KEEPALIVE_COUNT)

    def set_max_memory(self, spelling: str, text: str) -> None:
        self.settings["max_memory_bytes"] = parse_number(spelling, text, 0, limits.MAX_BYTES_LIMIT)

    def set_max_connections(self, spelling: str, text: str) -> None:
        self.settings["max_connections"] = parse_number(spelling, text, 0, limits.MAX_COUNT_LIMIT)

    def set_max_tubes(self, spelling: str, text: str) -> None:
        self.settings["max_tubes"] = parse_number(spelling, text, 0, limits.MAX_COUNT_LIMIT)

    def set_stop_timeout(self, spelling: str, text: str) -> None:
        self.settings["stop_timeout_s"] = parse_number(spelling, text, 0, limits.MAX_STOP_TIMEOUT_S)

    def set_slow_iteration(self, spelling: str, text: str) -> None:
        self.settings["slow_iteration_ms"] = parse_number(spelling, text, 0, limits.MAX_SLOW_MS)

    def set_slow_sync(self, spelling: str, text: str) -> None:
        self.settings["slow_sync_ms"] = parse_number(spelling, text, 0, limits.MAX_SLOW_MS)

    def set_log_format(self, spelling: str, text: str) -> None:
        self.settings["log_format"] = choose(spelling, text, limits.LOG_FORMATS)

    def set_log_level(self, spelling: str, text: str) -> None:
        self.settings["log_level"] = choose(spelling, text.lower(), limits.LOG_LEVELS)

    def more_verbose(self, _spelling: str, _text: str) -> None:
        self.settings["verbosity"] = 2 if "verbosity" in self.settings else 1

    def show_version(self, _spelling: str, _text: str) -> None:
        self.action = "version"

    def show_help(self, _spelling: str, _text: str) -> None:
        self.action = "help"

    def ignore_removed(self, spelling: str, _text: str) -> None:
        self.warnings.append(f"{spelling} was removed from beanstalkd and does nothing: the log is always compacted")


class Option:
    """One flag: its two names without their dashes, the name of its value if it takes one, its words in --help."""

    __slots__ = ("action", "long", "metavar", "short", "words")

    def __init__(
        self, short: str, long: str, metavar: str, action: "Callable[[_Parsed, str, str], None]", *words: str
    ) -> None:
        self.short = short
        self.long = long
        self.metavar = metavar
        self.action = action
        self.words = words


OPTIONS = (
    Option("l", "listen", "ADDR", _Parsed.set_listen,
           "listen on ADDR: HOST, HOST:PORT, [IPV6]:PORT or",
           "unix:PATH; can be given several times (default is",
           "0.0.0.0)"),
    Option("p", "port", "PORT", _Parsed.set_port,
           "port of every ADDR without one (default is 11300)"),
    Option("u", "user", "USER", _Parsed.set_user,
           "become this user, with its groups, once bound"),
    Option("z", "max-job-size", "BYTES", _Parsed.set_max_job_size,
           "largest job body (default is 65535, at most",
           "1073741824)"),
    Option("b", "binlog-dir", "DIR", _Parsed.set_binlog_dir,
           "keep a log of all jobs in DIR, and go on from it"),
    Option("f", "fsync-ms", "MS", _Parsed.set_fsync_ms,
           "sync the log at most once every MS milliseconds",
           "(default is 50); 0 syncs before every reply"),
    Option("F", "no-fsync", "", _Parsed.set_no_fsync,
           "never sync the log"),
    Option("s", "binlog-size", "BYTES", _Parsed.set_binlog_size,
           "size of each file of the log (default is 10485760)"),
    Option("", "binlog-max-bytes", "BYTES", _Parsed.set_binlog_max_bytes,
           "refuse puts when the log is so large; twice -s at",
           "least"),
    Option("", "max-memory", "BYTES", _Parsed.set_max_memory,
           "refuse puts when jobs and buffers take so much",
           "(default is 0: no limit, as in the next two)"),
    Option("", "max-connections", "N", _Parsed.set_max_connections,
           "refuse clients when there are so many"),
    Option("", "max-tubes", "N", _Parsed.set_max_tubes,
           "make no more tubes for clients when there are so",
           "many"),
    Option("", "unix-mode", "MODE", _Parsed.set_unix_mode,
           "mode of unix: sockets, octal (default: the umask)"),
    Option("", "keepalive-idle", "SECONDS", _Parsed.set_keepalive_idle,
           "probe a client that was silent for so long",
           "(default is 300)"),
    Option("", "keepalive-interval", "SECONDS", _Parsed.set_keepalive_interval,
           "time between two probes (default is 30)"),
    Option("", "keepalive-count", "N", _Parsed.set_keepalive_count,
           "probes without answer after which a client is gone",
           "(default is 4)"),
    Option("", "stop-timeout", "SECONDS", _Parsed.set_stop_timeout,
           "how long a stop waits for replies to be sent",
           "(default is 5)"),
    Option("", "log-format", "FORMAT", _Parsed.set_log_format,
           "lines of the log on stderr: text (default) or json"),
    Option("", "log-level", "LEVEL", _Parsed.set_log_level,
           "least level that is logged: debug, info, warning or",
           "error (default is info; debug with -VV)"),
    Option("", "slow-iteration-ms", "MS", _Parsed.set_slow_iteration,
           "warn when one event-loop iteration takes longer than",
           "MS milliseconds (default is 500); 0 never does"),
    Option("", "slow-sync-ms", "MS", _Parsed.set_slow_sync,
           "warn when a sync of the binlog takes longer than MS",
           "milliseconds (default is 1000); 0 never does"),
    Option("c", "", "", _Parsed.ignore_removed,
           "does nothing, as in beanstalkd"),
    Option("n", "", "", _Parsed.ignore_removed,
           "does nothing, as in beanstalkd"),
    Option("V", "verbose", "", _Parsed.more_verbose,
           "log connections; twice: every command and reply"),
    Option("v", "version", "", _Parsed.show_version,
           "show the version"),
    Option("h", "help", "", _Parsed.show_help,
           "show this help"),
)  # fmt: skip
_BY_SHORT = {option.short: option for option in OPTIONS if option.short}
_BY_LONG = {option.long: option for option in OPTIONS if option.long}
_BINLOG_SETTINGS = frozenset(("fsync_ms", "binlog_size", "binlog_max_bytes"))


def parse_command_line(arguments: "Sequence[str]") -> CommandLine:
    """Reads the arguments after the program's name, from left to right, as beanstalkd does.

    ``-h`` and ``-v`` end the reading at once. Raises UsageError or ListenError for the first wrong flag or value.
    """
    parsed = _Parsed()
    rest = list(reversed(arguments))
    while rest and parsed.action == "run":
        argument = rest.pop()
        if argument.startswith("--") and len(argument) > 2:
            _parse_long(parsed, argument, rest)
        elif argument.startswith("-") and len(argument) > 1 and argument != "--":
            _parse_cluster(parsed, argument, rest)
        else:
            raise UsageError(f"unknown argument: {argument or repr(argument)}; {SEE_HELP}")
    if parsed.action != "run":
        return CommandLine(parsed.action, Config())
    if "binlog_dir" not in parsed.settings and not _BINLOG_SETTINGS.isdisjoint(parsed.settings):
        parsed.warnings.append(
            "-f, -F, -s and --binlog-max-bytes do nothing without -b DIR: no job outlives this server"
        )
    config = Config(**parsed.settings)  # type: ignore[arg-type]
    return CommandLine("run", config, parsed.settings, parsed.warnings)


def _parse_long(parsed: _Parsed, argument: str, rest: list[str]) -> None:
    name, equals, value = argument[2:].partition("=")
    option = _BY_LONG.get(name)
    if option is None:
        raise UsageError(f"unknown flag: --{name}; {SEE_HELP}")
    if not option.metavar:
        if equals:
            raise UsageError(f"--{name} takes no value; write --{name} alone")
        option.action(parsed, f"--{name}", "")
        return
    option.action(parsed, f"--{name}", value if equals else _next_value(f"--{name}", option, rest))


def _parse_cluster(parsed: _Parsed, argument: str, rest: list[str]) -> None:
    letters = argument[1:]
    for place, letter in enumerate(letters, 1):
        option = _BY_SHORT.get(letter)
        if option is None:
            raise UsageError(f"unknown flag: -{letter}{f' in {argument}' if len(letters) > 1 else ''}; {SEE_HELP}")
        if option.metavar:
            value = letters[place:]
            option.action(parsed, f"-{letter}", value or _next_value(f"-{letter}", option, rest))
            return
        option.action(parsed, f"-{letter}", "")
        if parsed.action != "run":
            return


def _next_value(spelling: str, option: Option, rest: list[str]) -> str:
    if not rest:
        raise UsageError(f"{spelling} needs a value: {spelling} {option.metavar}; {SEE_HELP}")
    return rest.pop()


def parse_number(spelling: str, text: str, low: int = 0, high: int | None = None) -> int:
    """A whole number from ``low`` to ``high`` (None: no end), in decimal; UsageError, with ``spelling``, if not."""
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()):
        raise UsageError(f"{spelling} {text}: not a number; write it in decimal digits without a unit")
    number = int(digits[:20])  # more digits only make it larger than any bound
    if number < low or (high is not None and number > high):
        raise UsageError(f"{spelling} {text}: out of range; it must be in {low}..{high}")
    return number


def help_text() -> str:
    """What ``--help`` prints, at most 80 columns wide."""
    lines = ["Use: fastbean [OPTIONS]", "", "Options:"]
    for option in OPTIONS:
        names = [f"-{option.short}"] if option.short else ["  "]
        if option.long:
            names.append(f"--{option.long}")
        flags = f" {', '.join(names) if option.short else '    ' + names[1]} {option.metavar}".rstrip()
        first, *more = option.words
        if len(flags) > 26:
            lines.append(flags)
            flags = ""
        lines.append(f"{flags:<26} {first}")
        lines.extend(f"{'':<26} {line}" for line in more)
    lines += ["", "A value can follow its flag at once (-p11300, --port=11300) or after a blank."]
    return "\n".join(lines) + "\n"
