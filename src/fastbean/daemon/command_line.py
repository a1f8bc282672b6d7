"""The command line: flags as beanstalkd takes them, and the settings that they and a file of settings make.

One table, ``OPTIONS``, is the source of the flags, of ``--help``, of the keys of the file, and, by
``packaging/make_pages.py``, of the manual page and the shell completions.

What only some command lines need is loaded where it is needed: ``--help`` and wrong flags need no ``Config``.
"""

from __future__ import annotations

import argparse

from fastbean.base import limits
from fastbean.daemon.tools import TOOLS
from fastbean.errors import ListenError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from fastbean.config import Config
    from fastbean.daemon.config_file import ConfigFile
    from fastbean.errors import FastbeanError

SEE_HELP = "`fastbean --help` lists all flags"
HELP_COLUMNS = 80
HELP_COLUMN = 27  # where the words of each flag begin

TOML_TYPES = {
    str: "a string",
    int: "an integer",
    float: "a float",
    bool: "a boolean",
    list: "an array",
    dict: "a table",
}


class Kind:
    """How the value of a setting is read from a flag, and from a file. This one is text that is not empty."""

    toml_type: type = str
    in_file = True

    def __init__(self, needs: str = "") -> None:
        self._needs = needs

    def take(self, parsed: Parsed, field: str, spelling: str, text: str) -> None:
        """Stores what the flag ``spelling`` sets. Raises UsageError, or ListenError, if the value is wrong."""
        parsed.settings[field] = self.read(spelling, text)

    def read(self, spelling: str, text: str) -> object:
        """Returns the value that ``text`` means."""
        if not text:
            raise UsageError(f"{spelling} needs {self._needs}; {SEE_HELP}")
        return text

    def read_toml(self, key: str, value: object) -> object:
        """Returns the value that a file's ``value`` of ``key`` means. Raises UsageError if it is wrong."""
        if type(value) is not self.toml_type:
            found = TOML_TYPES.get(type(value), "a date or time")
            raise UsageError(f"{key} is {found}; it must be {TOML_TYPES[self.toml_type]}")
        return self.check_toml(key, value)

    def check_toml(self, key: str, value: Any) -> object:
        """``read_toml`` for a value of the right type."""
        return self.read(key, value)


class Number(Kind):
    """A whole number, in decimal digits; ``clamped``: a number above the highest one becomes the highest."""

    toml_type = int

    def __init__(self, field: str, *, clamped: bool = False) -> None:
        super().__init__()
        self._low, self._high = limits.RANGES[field]
        self._clamped = clamped

    def read(self, spelling: str, text: str) -> object:
        """Returns the number."""
        digits = text.strip().removeprefix("+")
        if not (digits.isascii() and digits.isdigit()):
            raise UsageError(f"{spelling} {text}: not a number; write it in decimal digits without a unit")
        number = int(digits[:20])  # more digits only make it larger than any bound
        return self._in_range(spelling, number, text)

    def check_toml(self, key: str, value: Any) -> object:
        """Returns the number."""
        return self._in_range(key, value, value)

    def _in_range(self, name: str, number: int, shown: object) -> int:
        if number < self._low or (number > self._high and not self._clamped):
            raise UsageError(f"{name} {shown}: out of range; it must be in {self._low}..{self._high}")
        return number


class Verbosity(Number):
    """How often the flag is given; in a file, that number."""

    def take(self, parsed: Parsed, field: str, _spelling: str, _text: str) -> None:
        """Counts it."""
        parsed.settings[field] = min(parsed.settings.get(field, 0) + 1, self._high)


class Port(Kind):
    """A number, or the name of a service; in a file a number."""

    toml_type = int

    def read(self, spelling: str, text: str) -> object:
        """Returns the port."""
        from fastbean.net.listener import parse_port

        return parse_port(text, spelling)

    def check_toml(self, key: str, value: Any) -> object:
        """Returns the port."""
        return self.read(key, str(value))


class Addresses(Kind):
    """An address for each time that the flag is given; in a file, an array of addresses.

    ``without`` says what the server does without any, beginning with "to".
    """

    toml_type = list

    def __init__(self, without: str) -> None:
        super().__init__()
        self._without = without

    def take(self, parsed: Parsed, field: str, spelling: str, text: str) -> None:
        """Appends it."""
        if not text:
            raise ListenError(f"{spelling} needs an address, for example {spelling} 127.0.0.1")
        parsed.settings.setdefault(field, []).append(text)

    def check_toml(self, key: str, value: Any) -> object:
        """Returns the addresses."""
        from fastbean.net.listener import parse_address

        if not value:
            raise UsageError(f"{key} is empty; name an address, or leave {key} out {self._without}")
        for each in value:
            if not isinstance(each, str):
                raise UsageError(f'{key} must be an array of strings, for example ["127.0.0.1"]')
            parse_address(each, limits.DEFAULT_PORT)
        return value


class Mode(Kind):
    """The mode of a file in octal digits; in a file a string of them, since 660 without quotes is decimal in TOML."""

    def read(self, spelling: str, text: str) -> object:
        """Returns the mode."""
        mode = int(text, 8) if text and not text.strip("01234567") else -1
        if not 0 <= mode <= limits.RANGES["unix_mode"][1]:
            raise UsageError(f"{spelling} {text}: not a mode; write it in octal, for example {spelling} 660")
        return mode

    def read_toml(self, key: str, value: object) -> object:
        """Returns the mode."""
        if not isinstance(value, str):
            raise UsageError(f'{key} must be a string of octal digits, for example "660"')
        return self.read(key, value)


class Choice(Kind):
    """One of a few words, in small or capital letters."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self.words = limits.CHOICES[field]

    def read(self, spelling: str, text: str) -> object:
        """Returns the word."""
        word = text.lower()
        if word not in self.words:
            raise UsageError(f"{spelling} {text}: there is no such thing; choose one of {', '.join(self.words)}")
        return word


class Never(Kind):
    """Sets its field to None; in a file, if it is true."""

    toml_type = bool

    def read(self, _spelling: str, _text: str) -> object:
        """Returns None."""
        return None


class Always(Never):
    """Sets its field to True; in a file, if it is true."""

    def read(self, _spelling: str, _text: str) -> object:
        """Returns True."""
        return True


class Seconds(Kind):
    """A number of seconds, which may have a fraction."""

    toml_type = float

    def __init__(self, field: str) -> None:
        super().__init__()
        self._low, self._high = limits.RANGES[field]

    def read(self, spelling: str, text: str) -> object:
        """Returns the number."""
        whole, _, fraction = text.partition(".")
        digits = whole + fraction
        if not (whole and digits.isascii() and digits.isdigit()):
            raise UsageError(f"{spelling} {text}: not a number; write it in decimal digits without a unit")
        return self._in_range(spelling, float(text[:20]), text)

    def read_toml(self, key: str, value: object) -> object:
        """Returns the number, which may be an integer too."""
        return super().read_toml(key, float(value) if type(value) is int else value)

    def check_toml(self, key: str, value: Any) -> object:
        """Returns the number."""
        return self._in_range(key, value, value)

    def _in_range(self, name: str, number: float, shown: object) -> float:
        if not self._low <= number <= self._high:
            raise UsageError(f"{name} {shown}: out of range; it must be in {self._low}..{self._high}")
        return number


class Ignored(Kind):
    """Does nothing, since beanstalkd once had it."""

    in_file = False

    def take(self, parsed: Parsed, _field: str, spelling: str, _text: str) -> None:
        """Warns of it."""
        parsed.warnings.append(
            f"{spelling} was removed from beanstalkd and does nothing: the binlog is always compacted"
        )


class Action(Kind):
    """Asks for something other than serving; ``final``: the flags after it are not read."""

    in_file = False

    def __init__(self, name: str, *, final: bool = False) -> None:
        super().__init__()
        self._name = name
        self._final = final

    def take(self, parsed: Parsed, _field: str, _spelling: str, _text: str) -> None:
        """Notes it."""
        parsed.action = self._name
        parsed.final = self._final


class File(Kind):
    """The file of settings."""

    in_file = False

    def take(self, parsed: Parsed, _field: str, spelling: str, text: str) -> None:
        """Notes its name."""
        if parsed.file_name:
            raise UsageError(f"{spelling} can be given once; put all settings into one file")
        parsed.file_name = str(self.read(spelling, text))


class Option:
    """One flag.

    ``short`` and ``long`` are its names without their dashes, "" for none; ``metavar`` is the name of its value, "" if
    it takes none; ``field`` is the field of ``Config`` that it sets, "" for none; ``help`` is its text in ``--help``.
    """

    __slots__ = ("field", "help", "kind", "long", "metavar", "short")

    def __init__(self, short: str, long: str, metavar: str, field: str, kind: Kind, *words: str) -> None:
        self.short = short
        self.long = long
        self.metavar = metavar
        self.field = field
        self.kind = kind
        self.help = " ".join(words)

    @property
    def names(self) -> list[str]:
        """The names with their dashes."""
        return [f"-{self.short}"] * bool(self.short) + [f"--{self.long}"] * bool(self.long)


def _number(short: str, long: str, metavar: str, field: str, *words: str) -> Option:
    return Option(short, long, metavar, field, Number(field), *words)


def _choice(long: str, metavar: str, field: str, *words: str) -> Option:
    return Option("", long, metavar, field, Choice(field), *words)


OPTIONS = (
    Option("l", "listen", "ADDR", "listen", Addresses(f"to listen on {limits.DEFAULT_HOST}"),
           "listen on ADDR: HOST, HOST:PORT, [IPV6]:PORT or unix:PATH; can be given several times",
           "(default is 0.0.0.0)"),
    Option("p", "port", "PORT", "port", Port(),
           "port of every ADDR without one (default is 11300)"),
    Option("", "http", "ADDR", "http", Addresses("to answer no HTTP"),
           "answer HTTP probes (/livez, /readyz) on ADDR, port 11301 if it has none; can be given several times"),
    Option("u", "user", "USER", "user", Kind("the name of a user"),
           "become this user, with its groups, once bound"),
    Option("z", "max-job-size", "BYTES", "max_job_size", Number("max_job_size", clamped=True),
           "largest job body (default is 65535, at most 1073741824)"),
    Option("b", "binlog-dir", "DIR", "binlog_dir", Kind("the name of a directory"),
           "keep all jobs in a binlog in DIR, and restore them from it at the start"),
    _number("f", "fsync-ms", "MS", "fsync_ms",
            "sync the binlog within MS milliseconds of a write (default is 50); 0 syncs before every reply"),
    Option("F", "no-fsync", "", "fsync_ms", Never(),
           "never sync the binlog"),
    Option("s", "binlog-size", "BYTES", "binlog_size", Number("binlog_size", clamped=True),
           "size of each file of the binlog (default is 10485760, at most 2147483648)"),
    _number("", "binlog-max-bytes", "BYTES", "binlog_max_bytes",
            "refuse puts while the binlog has this size or more; at least twice -s (default is 0: no limit)"),
    Option("", "replicate", "URL", "replicate", Kind("the address of a stream"),
           "keep all jobs in a NATS stream, which several nodes share: nats://HOST:PORT,HOST:PORT/NAME"),
    Option("", "replicate-credentials", "FILE", "replicate_credentials", Kind("the name of a file"),
           "user and password, token, or .creds for it; only this user may read the file"),
    Option("", "node-name", "NAME", "node_name", Kind("a name"),
           "name of this node (default: the name of the host)"),
    Option("", "advertise", "ADDR", "advertise", Kind("HOST:PORT"),
           "HOST:PORT where other nodes reach this one (default: the first address of -l)"),
    Option("", "lease", "SECONDS", "lease_s", Seconds("lease_s"),
           "another node leads after this time of silence (default is 2, at least 0.5)"),
    Option("", "stall", "SECONDS", "stall_s", Seconds("stall_s"),
           "close all clients when nothing becomes safe for this time (default is 15)"),
    Option("", "never-lead", "", "never_lead", Always(),
           "keep a copy of all jobs, and never serve clients"),
    _number("", "max-memory", "BYTES", "max_memory_bytes",
            "refuse puts while jobs and buffers take this much memory (default is 0: no limit)"),
    _number("", "max-connections", "N", "max_connections",
            "refuse clients beyond this number (default is 0: no limit)"),
    _number("", "max-tubes", "N", "max_tubes",
            "let clients create no tubes beyond this number (default is 0: no limit)"),
    Option("", "unix-mode", "MODE", "unix_mode", Mode(),
           "mode of unix: sockets, octal (default: the umask)"),
    _number("", "keepalive-idle", "SECONDS", "keepalive_idle_s",
            "probe a client after this time of silence (default is 300)"),
    _number("", "keepalive-interval", "SECONDS", "keepalive_interval_s",
            "time between two probes (default is 30)"),
    _number("", "keepalive-count", "N", "keepalive_count",
            "close the connection after this number of unanswered probes (default is 4)"),
    _number("", "stop-timeout", "SECONDS", "stop_timeout_s",
            "how long a stop waits for replies to be sent (default is 5)"),
    _choice("event-loop", "KIND", "event_loop",
            "what waits for sockets: compiled (default) or selectors, the standard library's"),
    _choice("log-format", "FORMAT", "log_format",
            "lines of the log on stderr: text (default) or json"),
    _choice("log-level", "LEVEL", "log_level",
            "lowest level that is logged: debug, info, warning or error (default is info; debug with -VV)"),
    _number("", "slow-iteration-ms", "MS", "slow_iteration_ms",
            "warn when one event-loop iteration takes longer than MS milliseconds (default is 500); 0 never does"),
    _number("", "slow-sync-ms", "MS", "slow_sync_ms",
            "warn when a sync of the binlog takes longer than MS milliseconds (default is 1000); 0 never does"),
    Option("", "config", "FILE", "", File("the name of a file"),
           "read settings from the TOML file FILE, whose keys are the long flags; flags win over it"),
    Option("", "check-config", "", "", Action("check"),
           "check all settings, report what they mean, and exit"),
    Option("c", "", "", "", Ignored(), "does nothing, as in beanstalkd"),
    Option("n", "", "", "", Ignored(), "does nothing, as in beanstalkd"),
    Option("V", "verbose", "", "verbosity", Verbosity("verbosity"),
           "log connections; twice: every command and reply"),
    Option("v", "version", "", "", Action("version", final=True), "show the version"),
    Option("h", "help", "", "", Action("help", final=True), "show this help"),
)  # fmt: skip
_BY_NAME = {name: option for option in OPTIONS for name in option.names}
_BINLOG_SETTINGS = frozenset(("fsync_ms", "binlog_size", "binlog_max_bytes"))
# What `Number` leaves above the highest value, because beanstalkd accepts it, and how the warning calls it.
_CLAMPED = {"max_job_size": "maximum job size", "binlog_size": "binlog file size"}
# How errors of a start begin, and the setting that they are about.
_SETTING_OF_ERROR = {"-b ": "binlog_dir", "-u ": "user", "cannot listen on ": "listen"}


class CommandLine:
    """What a command line asks for.

    - ``action``: "run", "check", "help" or "version".
    - ``config``: the settings; None for "help" and "version".
    - ``by_flags``: the names of the settings that flags set, even to their defaults.
    - ``file``: the file of settings; None without one.
    - ``warnings``: lines for the log.
    """

    def __init__(
        self,
        action: str,
        config: Config | None = None,
        by_flags: Iterable[str] = (),
        file: ConfigFile | None = None,
        warnings: Iterable[str] = (),
    ) -> None:
        self.action = action
        self.config = config
        self.by_flags = frozenset(by_flags)
        self.file = file
        self.warnings = list(warnings)

    @property
    def given(self) -> frozenset[str]:
        """The names of the settings that flags or the file set."""
        return self.by_flags if self.file is None else self.by_flags | self.file.settings.keys()

    def with_place(self, error: FastbeanError) -> FastbeanError:
        """Returns the error of a start, which names the line, and the key instead of a flag, if the file is wrong."""
        text = str(error)
        for beginning, setting in _SETTING_OF_ERROR.items():
            if self.file is None or setting in self.by_flags or setting not in self.file.settings:
                continue
            if text.startswith(beginning):
                key = self.file.keys[setting]
                shown = f"{key}{text[2:]}" if beginning.startswith("-") else text
                error.args = (self.file.place(self.file.lines[key], shown),)
        return error


class Parsed(argparse.Namespace):
    """The command line so far: settings by name, warnings, the file's name, and what is asked for."""

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.file_name = ""
        self.action = "run"
        self.final = False


class _Take(argparse.Action):
    """Hands the value of a flag to its kind."""

    def __init__(self, option_strings: Sequence[str], dest: str, option: Option) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs=None if option.metavar else 0,
            default=argparse.SUPPRESS,
            metavar=option.metavar or None,
            help=option.help,
        )
        self._option = option

    def __call__(self, _parser: argparse.ArgumentParser, parsed: Any, value: Any, spelling: str | None = None) -> None:
        text = value[1:] if value else ""  # without the second "=" of `_separate`
        self._option.kind.take(parsed, self._option.field, spelling or "", text)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Writes ``-p, --port PORT`` in every version of Python, and does not depend on the width of a terminal."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=HELP_COLUMN, width=HELP_COLUMNS)

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, prefix or "Use: ")

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return " ".join(filter(None, (", ".join(action.option_strings), action.metavar)))  # type: ignore[arg-type]


def _parser() -> argparse.ArgumentParser:
    tools = "\n".join(f"  fastbean {word:<16} {tool.help}" for word, tool in TOOLS.items())
    parser = argparse.ArgumentParser(
        prog="fastbean",
        usage="fastbean [OPTIONS]\n     fastbean TOOL ...",
        epilog=f"Tools, each with a --help of its own:\n{tools}\n\n"
        "A value can follow its flag at once (-p11300, --port=11300) or after a blank.",
        formatter_class=_Help,
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,  # argparse would use another exit status
    )
    group = parser.add_argument_group("Options")
    for option in OPTIONS:
        group.add_argument(*option.names, action=_Take, option=option)
    return parser


def help_text() -> str:
    """Returns what ``--help`` prints, at most 80 columns wide."""
    return _parser().format_help()


def parse_command_line(arguments: Sequence[str]) -> CommandLine:
    """Reads the arguments after the program's name, and the file of settings if they name one.

    They are read from left to right, as beanstalkd does: ``-h`` and ``-v`` end the reading at once. Raises UsageError
    or ListenError for the first wrong flag or value; ConfigFileError, with all its problems, for a wrong file.
    """
    parsed = Parsed()
    parser = _parser()
    # One at a time: argparse would continue after a wrong one, and after --help.
    for name, argument in _separate(arguments):
        if argument in ("", "-", "--") or argument[0] != "-":
            raise UsageError(f"unknown argument: {argument or repr(argument)}; {SEE_HELP}")
        try:
            _, unknown = parser.parse_known_args([argument], parsed)
        except argparse.ArgumentError:
            raise UsageError(f"{name} takes no value; write {name} alone") from None
        if unknown:
            raise UsageError(f"unknown flag: {name}; {SEE_HELP}")
        if parsed.final:
            return CommandLine(parsed.action)
    return _finish(parsed)


def _separate(arguments: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the name of each flag, and one argument for it, with its value after "==".

    So argparse sees neither joined flags, which its versions read in different ways, nor a value like ``-x`` or ``--``,
    which it would not accept as one: beanstalkd accepts ``-b -x``.
    """
    rest = iter(arguments)
    for argument in rest:
        if len(argument) < 2 or argument[0] != "-" or argument[1] == "-":
            name, equals, value = argument.partition("=")
            if _takes_value(name):
                yield name, f"{name}=={value if equals else _next_value(name, rest)}"
            else:
                yield name, argument
            continue
        for place, letter in enumerate(argument[1:], 2):
            name = f"-{letter}"
            if _takes_value(name):
                yield name, f"{name}=={argument[place:] or _next_value(name, rest)}"
                break
            yield name, name


def _takes_value(name: str) -> bool:
    option = _BY_NAME.get(name)
    return option is not None and bool(option.metavar)


def _next_value(name: str, rest: Iterator[str]) -> str:
    for value in rest:
        return value
    raise UsageError(f"{name} needs a value: {name} {_BY_NAME[name].metavar}; {SEE_HELP}")


def _finish(parsed: Parsed) -> CommandLine:
    """Joins the flags and the file of settings; the flags win."""
    from fastbean.config import Config, SettingError

    file = None
    settings = parsed.settings
    if parsed.file_name:
        from fastbean.daemon import config_file

        keys = {option.long: option for option in OPTIONS if option.long and option.kind.in_file}
        file = config_file.read(parsed.file_name, keys)
        settings = {**file.settings, **settings}
    warnings = parsed.warnings
    for setting, words in _CLAMPED.items():
        _, most = limits.RANGES[setting]
        if settings.get(setting, 0) > most:
            settings[setting] = most
            warnings.append(f"{words} was set to {most}, the most there is")
    if "replicate" in settings:
        if "fsync_ms" in settings:
            raise UsageError("-f and -F beside --replicate: every reply waits for the stream anyway; remove them")
        if "binlog_max_bytes" in settings:
            warnings.append("--binlog-max-bytes does nothing beside --replicate: the limit of the stream counts")
    elif "binlog_dir" not in settings and not _BINLOG_SETTINGS.isdisjoint(settings):
        warnings.append("-f, -F, -s and --binlog-max-bytes do nothing without -b DIR: no job outlives this server")
    try:
        config = Config(**settings)
    except SettingError as error:
        if file is None or error.setting in parsed.settings or error.setting not in file.settings:
            raise
        raise file.error(error.setting, str(error)) from None
    return CommandLine(parsed.action, config, parsed.settings, file, warnings)
