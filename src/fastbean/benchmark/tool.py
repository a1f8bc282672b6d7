"""The load tool's command line: ``python -m fastbean.benchmark [SERVER] -t put,take ...``.

Exit statuses: 0 all is well; 2 a wrong flag or value; 130 interrupted; 1 everything else: no connection, an unexpected
answer, too few descriptors. Each has one line on stderr that says what to do, and another one if jobs may be left on
the server.

The progress line is a few lines of our own, as in ``fastbean.binlog``: it needs nothing that has to be installed.
"""

import argparse
import contextlib
import json
import sys
import time

from fastbean import __version__
from fastbean.base.limits import DEFAULT_PORT
from fastbean.benchmark import report
from fastbean.benchmark.load import LoadError
from fastbean.benchmark.scenarios import DEFAULT_SCENARIOS, SCENARIOS
from fastbean.benchmark.server import Client, Target
from fastbean.benchmark.session import Session, Settings
from fastbean.daemon.privileges import raise_descriptor_limit
from fastbean.errors import FastbeanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

    from fastbean.benchmark.scenarios import Scenario
    from fastbean.benchmark.session import Figures

INTERRUPTED = 130
DEFAULT_OPERATIONS = 100_000
DEFAULT_ROUNDS = 5
WARM_UP_OPERATIONS = 1_000
OTHER_DESCRIPTORS = 32  # the program's own, and those of the connections that prepare and clean up
MOST = 10**12
MOST_BODY_BYTES = 1 << 30
STAMP_BYTES = 16  # a job that wakes somebody carries a time


class WrongUsageError(FastbeanError):
    """A flag or a value is wrong."""

    exit_status = 2


def main(argv: "Sequence[str] | None" = None) -> int:
    """Runs the program with the arguments ``argv`` (None: the command line's); returns its exit status."""
    try:
        Run(_parser().parse_args(argv)).run()
        sys.stdout.flush()
    except FastbeanError as error:
        _complain(error, str(error))
        return error.exit_status
    except KeyboardInterrupt as error:
        _complain(error, "interrupted")
        return INTERRUPTED
    except BrokenPipeError as error:
        _complain(error, "nobody reads the results")
        sys.stdout = None  # what is left in it cannot be written either
        return 1
    return 0


class Run:
    """What one command line asks for: scenarios, one after the other, on one server or on two in turn."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._check(arguments)
        self._arguments = arguments
        self._scenarios: list[Scenario] = arguments.scenarios
        operations = arguments.operations
        if operations is None and arguments.seconds is None:
            operations = DEFAULT_OPERATIONS
        self._settings = Settings(
            clients=arguments.clients,
            depth=arguments.depth,
            body_bytes=arguments.body,
            operations=operations,
            seconds=arguments.seconds,
            rate=arguments.rate,
            tubes=arguments.tubes,
            pri=arguments.priority,
            backlog=arguments.backlog,
            idle=arguments.idle,
            limit_s=arguments.limit,
        )
        self._targets = {"A": Target(arguments.server, arguments.pid)}
        if arguments.against is not None:
            self._targets["B"] = Target(arguments.against, arguments.against_pid)
        self._rounds = (arguments.rounds or DEFAULT_ROUNDS) if "B" in self._targets else 1
        self._progress = _Progress()

    @staticmethod
    def _check(arguments: argparse.Namespace) -> None:
        """What one flag has to do with another one."""
        wakes = any(not each.core for each in arguments.scenarios)
        if arguments.against is None:
            for flag, value in (("--rounds", arguments.rounds), ("--against-pid", arguments.against_pid)):
                if value is not None:
                    raise WrongUsageError(f"{flag} goes with --against, which gives the other server")
        if arguments.depth * arguments.body > MOST_BODY_BYTES:
            raise WrongUsageError("--depth times --body is above 1 GiB; choose smaller ones")
        if wakes and arguments.body < STAMP_BYTES:
            raise WrongUsageError(f"wake needs a --body of at least {STAMP_BYTES} bytes: its jobs carry a time")
        if wakes and arguments.backlog:
            raise WrongUsageError("wake has no use for a --backlog: its workers would take it")
        if arguments.backlog == 0 and any(each.looks_at_jobs for each in arguments.scenarios):
            raise WrongUsageError("peek needs a --backlog of at least 1 job to look at")

    def run(self) -> None:
        """Plays everything and prints what was found. Raises LoadError."""
        self._make_sure_of_descriptors()
        servers = {letter: (target, self._version(target)) for letter, target in self._targets.items()}
        if not self._arguments.json:
            for letter, (target, version) in servers.items():
                _say(("" if len(servers) == 1 else f"{letter}  ") + f"{target.name}, version {version}")
            _say(f"{report.title(self._settings)}" + (f"; {self._rounds} rounds in turn" if self._rounds > 1 else ""))
            _say("")
            _say(report.heading())
        found = {}
        for scenario in self._scenarios:
            found[scenario.name] = self._play(scenario)
            if not self._arguments.json:
                self._print(scenario, found[scenario.name])
        if self._arguments.json:
            _say(json.dumps(report.document(self._settings, servers, found), indent=2))

    def _make_sure_of_descriptors(self) -> None:
        limit = raise_descriptor_limit()
        clients = (self._settings.clients + self._settings.idle) * len(self._targets)
        needed = clients + OTHER_DESCRIPTORS
        if 0 <= limit < needed:
            raise LoadError(
                f"{clients} connections need {needed} open files, and this process may have {limit}; "
                f"raise the limit (ulimit -n {needed}), or ask for fewer clients"
            )

    def _version(self, target: Target) -> str:
        target.resident_bytes()
        with Client(target, self._settings.limit_s) as client:
            return client.statistics().get("version", "unknown")

    def _play(self, scenario: "Scenario") -> "dict[str, list[Figures]]":
        """The rounds of each server: A, B, A, B ..., so that what the machine does meanwhile befalls both."""
        found: dict[str, list[Figures]] = {letter: [] for letter in self._targets}
        with contextlib.ExitStack() as stack:
            stack.callback(self._progress.clear)
            sessions = {}
            for letter, target in self._targets.items():
                sessions[letter] = stack.enter_context(Session(target, scenario, self._settings))
                self._warm_up(sessions[letter])
            for number in range(self._rounds):
                for letter, session in sessions.items():
                    what = scenario.name + (f" {letter} {number + 1}/{self._rounds}" if self._rounds > 1 else "")
                    found[letter].append(self._measure(session, what))
                    self._progress.clear()
        return found

    def _warm_up(self, session: Session) -> None:
        operations = max(WARM_UP_OPERATIONS, self._settings.clients)
        session.measure(min(operations, self._settings.operations or operations), None)

    def _measure(self, session: Session, what: str) -> "Figures":
        settings = self._settings
        return session.measure(
            settings.operations, settings.seconds, settings.rate, self._progress.start(what, settings.operations)
        )

    def _print(self, scenario: "Scenario", found: "dict[str, list[Figures]]") -> None:
        for letter, rounds in found.items():
            _say(report.row(scenario.name + (f" {letter}" if len(found) > 1 else ""), rounds))
            rate = min(each.rate for each in rounds)
            if self._settings.rate and rate < 0.98 * self._settings.rate:
                _say(f"  it did not keep up: {rate:,.0f} a second; what it was late by is in the latencies")
        if "B" in found:
            _say(report.ratio_line(found["A"], found["B"]))
        sys.stdout.flush()


class _Progress:
    """A line on stderr that is written over and over, if that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def start(self, what: str, operations: int | None) -> "Callable[[int], None] | None":
        """What is to be called with the number of operations that are done; None when nobody would see it."""
        if not self._shown:
            return None
        started_s = time.monotonic()
        whole = "" if operations is None else f" of {operations:,}"

        def tell(done: int) -> None:
            rate = done / max(time.monotonic() - started_s, 1e-9)
            sys.stderr.write(f"\r\x1b[K{what}: {done:,}{whole} operations, {rate:,.0f} a second")
            sys.stderr.flush()

        return tell

    def clear(self) -> None:
        """Takes the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(error: BaseException, text: str) -> None:
    for line in (text, *getattr(error, "__notes__", ())):
        sys.stderr.write(f"fastbean-benchmark: {line}\n")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> "NoReturn":
        raise WrongUsageError(f"{message}; --help tells more")


def _whole(lowest: int, highest: int) -> "Callable[[str], int]":
    """A reader of whole numbers in a range."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {lowest} to {highest}")
        return number

    return read


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0, and up to 1000000")
    return number


def _priority(text: str) -> int | None:
    return None if text == "random" else _whole(0, 2**32 - 1)(text)


def _names(text: str) -> "list[Scenario]":
    names = list(SCENARIOS) if text == "all" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in SCENARIOS:
            raise argparse.ArgumentTypeError(f"there is no scenario {name!r}; there are: {', '.join(SCENARIOS)}, all")
    return [SCENARIOS[name] for name in dict.fromkeys(names)]


def _address(text: str) -> str:
    try:
        Target(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _parser() -> argparse.ArgumentParser:
    scenarios = "\n".join(f"  {each.name:12}{each.words}" for each in SCENARIOS.values())
    parser = _Parser(
        prog="fastbean-benchmark",
        description="Measure a beanstalk server. It uses tubes of its own and deletes the jobs that it puts.",
        epilog=f"scenarios, and what one operation of each is:\n{scenarios}\n\n"
        "exit status: 0 done, 2 wrong usage, 130 interrupted, 1 anything else",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "server",
        nargs="?",
        type=_address,
        default=f"127.0.0.1:{DEFAULT_PORT}",
        metavar="SERVER",
        help="HOST, HOST:PORT, [IPV6]:PORT or unix:PATH; default 127.0.0.1:11300",
    )
    _add_what(parser)
    _add_how_much(parser)
    add("--pid", type=_whole(1, 2**31 - 1), metavar="PID", help="the server's process: tell its CPU time and memory")
    add("--against", type=_address, metavar="SERVER", help="another server: both take turns, and ratios are told")
    add("--against-pid", type=_whole(1, 2**31 - 1), metavar="PID", help="the other server's process")
    add("--rounds", type=_whole(1, 10_000), metavar="N", help=f"turns of each server; default {DEFAULT_ROUNDS}")
    add("--json", action="store_true", help="print JSON")
    add("--limit", type=_above_zero, default=10.0, metavar="S", help="seconds a server may owe an answer; default 10")
    add("--version", action="version", version=f"fastbean-benchmark {__version__}")
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-t",
        "--scenarios",
        type=_names,
        default=[SCENARIOS[name] for name in DEFAULT_SCENARIOS],
        metavar="NAMES",
        help=f"what to play, with commas between, or all; default {','.join(DEFAULT_SCENARIOS)}",
    )
    clients = _whole(1, 99_999)
    add("-c", "--clients", type=clients, default=50, metavar="N", help="connections at work; default 50")
    add("-d", "--depth", type=_whole(1, 100_000), default=1, metavar="N", help="requests in flight on each; default 1")
    add("-b", "--body", type=_whole(0, MOST_BODY_BYTES), default=64, metavar="BYTES", help="size of a job; default 64")
    add("--tubes", type=_whole(1, 10_000_000), default=10_000, metavar="N", help="of the scenario tubes; default 10000")
    add("--priority", type=_priority, default=0, metavar="N", help="priority of jobs, a number or random; default 0")
    add("--backlog", type=_whole(0, 10**9), metavar="N", help="jobs standing by; default 0, but 1000 for peek")
    add("--idle", type=_whole(0, 99_999), default=0, metavar="N", help="connections that do nothing; default 0")


def _add_how_much(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--operations", type=_whole(1, MOST), metavar="N", help="how many; default 100000, or as long as -s says")
    add("-s", "--seconds", type=_above_zero, metavar="S", help="for how long, setting up and cleaning up not counted")
    add(
        "-r",
        "--rate",
        type=_above_zero,
        default=0.0,
        metavar="N",
        help="operations a second, due at fixed times (open loop); default: as fast as they are done (closed loop)",
    )
