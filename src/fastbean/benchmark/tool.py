"""The load tool's command line: ``fastbean benchmark [SERVER] -t put,take ...``.

Exit statuses: 0 success; 2 a wrong flag or value; 130 interrupted; 1 everything else: no connection, an unexpected
reply, too few descriptors. Each error prints one line on stderr that says what to do, and another one if jobs may be
left on the server.

The progress line is a few lines of our own, as in ``fastbean.binlog``, so that no other package has to be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from typing import TYPE_CHECKING

from fastbean import __version__
from fastbean.base.limits import DEFAULT_PORT
from fastbean.benchmark import report
from fastbean.benchmark.load import LoadError
from fastbean.benchmark.scenarios import DEFAULT_SCENARIOS, SCENARIOS
from fastbean.benchmark.server import Client, Target
from fastbean.benchmark.session import Session, Settings
from fastbean.daemon.privileges import raise_descriptor_limit
from fastbean.errors import FastbeanError

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
STAMP_BYTES = 16  # a job that wakes a worker carries a timestamp


class WrongUsageError(FastbeanError):
    """A flag or a value is wrong."""

    exit_status = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program with the arguments ``argv`` (None: the command line's); returns its exit status."""
    try:
        Run(_parser().parse_args(argv)).run()
        sys.stdout.flush()
    except FastbeanError as error:
        _print_error(error, str(error))
        return error.exit_status
    except KeyboardInterrupt as error:
        _print_error(error, "interrupted")
        return INTERRUPTED
    except BrokenPipeError as error:
        _print_error(error, "the reader of the results is gone")
        sys.stdout = None  # the rest of its buffer cannot be written either
        return 1
    return 0


class Run:
    """One invocation: the scenarios, one after the other, on one server or alternately on two."""

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
        """Checks the flags against each other."""
        wakes = any(not each.core for each in arguments.scenarios)
        if arguments.against is None:
            for flag, value in (("--rounds", arguments.rounds), ("--against-pid", arguments.against_pid)):
                if value is not None:
                    raise WrongUsageError(f"{flag} needs --against, which gives the other server")
        if arguments.depth * arguments.body > MOST_BODY_BYTES:
            raise WrongUsageError("--depth times --body is above 1 GiB; choose smaller values")
        if wakes and arguments.body < STAMP_BYTES:
            raise WrongUsageError(f"wake needs a --body of at least {STAMP_BYTES} bytes: its jobs carry a timestamp")
        if wakes and arguments.backlog:
            raise WrongUsageError("wake cannot have a --backlog: its workers would take those jobs")
        if arguments.backlog == 0 and any(each.looks_at_jobs for each in arguments.scenarios):
            raise WrongUsageError("peek needs a --backlog of at least 1 job to look at")

    def run(self) -> None:
        """Runs everything and prints the results. Raises LoadError."""
        self._check_descriptors()
        servers = {letter: (target, self._version(target)) for letter, target in self._targets.items()}
        if not self._arguments.json:
            for letter, (target, version) in servers.items():
                _print(("" if len(servers) == 1 else f"{letter}  ") + f"{target.name}, version {version}")
            _print(f"{report.title(self._settings)}" + (f"; {self._rounds} rounds each" if self._rounds > 1 else ""))
            _print("")
            _print(report.heading())
        found = {}
        for scenario in self._scenarios:
            found[scenario.name] = self._play(scenario)
            if not self._arguments.json:
                self._print_scenario(scenario, found[scenario.name])
        if self._arguments.json:
            _print(json.dumps(report.document(self._settings, servers, found), indent=2))

    def _check_descriptors(self) -> None:
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

    def _play(self, scenario: Scenario) -> dict[str, list[Figures]]:
        """The rounds of each server, alternating A, B, A, B ..., so that other load on the machine affects both."""
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

    def _measure(self, session: Session, what: str) -> Figures:
        settings = self._settings
        return session.measure(
            settings.operations, settings.seconds, settings.rate, self._progress.start(what, settings.operations)
        )

    def _print_scenario(self, scenario: Scenario, found: dict[str, list[Figures]]) -> None:
        for letter, rounds in found.items():
            _print(report.row(scenario.name + (f" {letter}" if len(found) > 1 else ""), rounds))
            rate = min(each.rate for each in rounds)
            if self._settings.rate and rate < 0.98 * self._settings.rate:
                _print(f"  it did not keep up: {rate:,.0f} a second; the latencies include the delay")
        if "B" in found:
            _print(report.ratio_line(found["A"], found["B"]))
        sys.stdout.flush()


class _Progress:
    """A line on stderr that is overwritten again and again, if stderr is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def start(self, what: str, operations: int | None) -> Callable[[int], None] | None:
        """A function to call with the number of operations done; None if stderr is not a terminal."""
        if not self._shown:
            return None
        started_s = time.monotonic()
        whole = "" if operations is None else f" of {operations:,}"

        def show(done: int) -> None:
            rate = done / max(time.monotonic() - started_s, 1e-9)
            sys.stderr.write(f"\r\x1b[K{what}: {done:,}{whole} operations, {rate:,.0f} a second")
            sys.stderr.flush()

        return show

    def clear(self) -> None:
        """Erases the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_error(error: BaseException, text: str) -> None:
    for line in (text, *getattr(error, "__notes__", ())):
        sys.stderr.write(f"fastbean benchmark: {line}\n")


class _Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line."""

    def error(self, message: str) -> NoReturn:
        raise WrongUsageError(f"{message}; see --help")


def _whole(lowest: int, highest: int) -> Callable[[str], int]:
    """A function that reads a whole number from `lowest` to `highest`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = lowest - 1
        if not lowest <= number <= highest:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {lowest} to {highest}")
        return number

    return read


def _above_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1000000")
    return number


def _priority(text: str) -> int | None:
    return None if text == "random" else _whole(0, 2**32 - 1)(text)


def _names(text: str) -> list[Scenario]:
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
        prog="fastbean benchmark",
        description="Measure a beanstalk server. It uses tubes of its own and deletes the jobs that it puts.",
        epilog=f"scenarios, and what one operation of each is:\n{scenarios}\n\n"
        "exit status: 0 success, 2 wrong usage, 130 interrupted, 1 any other error",
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
    add("--pid", type=_whole(1, 2**31 - 1), metavar="PID", help="the server's process: report its CPU time and memory")
    add("--against", type=_address, metavar="SERVER", help="another server: alternate between both, report ratios")
    add("--against-pid", type=_whole(1, 2**31 - 1), metavar="PID", help="the other server's process")
    add("--rounds", type=_whole(1, 10_000), metavar="N", help=f"rounds on each server; default {DEFAULT_ROUNDS}")
    add("--json", action="store_true", help="print JSON")
    add("--limit", type=_above_zero, default=10.0, metavar="S", help="seconds to wait for a reply; default 10")
    add("--version", action="version", version=f"fastbean benchmark {__version__}")
    return parser


def _add_what(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-t",
        "--scenarios",
        type=_names,
        default=[SCENARIOS[name] for name in DEFAULT_SCENARIOS],
        metavar="NAMES",
        help=f"scenarios to run, separated by commas, or all; default {','.join(DEFAULT_SCENARIOS)}",
    )
    clients = _whole(1, 99_999)
    add("-c", "--clients", type=clients, default=50, metavar="N", help="active connections; default 50")
    add("-d", "--depth", type=_whole(1, 100_000), default=1, metavar="N", help="requests in flight on each; default 1")
    add("-b", "--body", type=_whole(0, MOST_BODY_BYTES), default=64, metavar="BYTES", help="size of a job; default 64")
    add("--tubes", type=_whole(1, 10_000_000), default=10_000, metavar="N", help="of the scenario tubes; default 10000")
    add("--priority", type=_priority, default=0, metavar="N", help="priority of jobs, a number or random; default 0")
    add("--backlog", type=_whole(0, 10**9), metavar="N", help="jobs put before the run; default 0, but 1000 for peek")
    add("--idle", type=_whole(0, 99_999), default=0, metavar="N", help="connections that do nothing; default 0")


def _add_how_much(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-n", "--operations", type=_whole(1, MOST), metavar="N", help="default 100000, or as many as fit into -s")
    add("-s", "--seconds", type=_above_zero, metavar="S", help="how long to run, without setting up and cleaning up")
    add(
        "-r",
        "--rate",
        type=_above_zero,
        default=0.0,
        metavar="N",
        help="operations per second, due at fixed times (open loop); default: as fast as possible (closed loop)",
    )
