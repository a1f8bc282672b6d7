"""The random comparison: sends the same random steps, over several connections, to two servers.

    cd tests && python -m wire.comparison --seed 1 --steps 20000

compares fastbean with real beanstalkd (or any two of them) and prints how often each command got each kind of reply.
After every step it compares all replies of all clients, with their ids mapped. Both servers run on real clocks, so it
sends nothing close to a moment when something may expire (see `safe_timing`); it waits for such moments and compares
their effects as well. If the machine is paused over one, it continues with two fresh servers.

Real beanstalkd often forgets the end of a ttr: if its clock shows exactly the microsecond of the deadline, the job is
held until its client sends something. So whenever a ttr may have ended, that client sends a command.

fastbean departs on purpose in one way that random steps would meet: a paused tube does not vanish (`test_departures`
has what both do). So before a client pauses a tube, a client of its own, the keeper, watches it, and ignores it again
once the pause has ended: no tube is paused that real beanstalkd could forget.

A step is one action of one client (it connects, sends a command or part of several, disconnects), or time passes."""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from .commands import MAX_JOB_SIZE, MISSING, POSSIBLE, Commands, alone, soon_over, two_waiters
from .comparison_state import Client, ComparisonState
from .paired_servers import Answer, Command, DifferenceError, PairedServers, StalledError
from .safe_timing import AFTER_S, BEFORE_S, Deadline
from .servers import BEANSTALKD, FASTBEAN, KINDS

CLIENTS = 6
PAIRS = 6
REMEMBERED = 60
PATIENT_ROUNDS = 30

# An unknown command is not counted: the statistics are the same whether it arrives before or after a deadline.
_WAKE = b"wake\r\n"


@dataclass
class Outcome:
    """What a comparison did. stalls: how often it had to replace the servers."""

    steps: int = 0
    stalls: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def never(self) -> list[str]:
        """The pairs of a command and a kind of reply that can occur but did not."""
        pairs = [(command, word) for command, words in POSSIBLE.items() for word in words]
        return [f"{command}: {word}" for command, word in pairs if not self.counts[command, word]]

    def table(self) -> str:
        """All pairs with their counts, one a line, and a summary."""
        pairs = {(command, word) for command, words in POSSIBLE.items() for word in words} | set(self.counts)
        lines = [f"{command:22} {word:28} {self.counts[command, word]:7}" for command, word in sorted(pairs)]
        lines.append(f"{self.steps} steps agree; servers replaced {self.stalls} times")
        lines.append(f"never seen: {', '.join(self.never()) or 'nothing'}")
        return "\n".join(lines)


class Comparison:
    """A run of random steps, with several pairs of servers at once, because most of the time is spent waiting.

    kinds, right_flags, alter: see `PairedServers`. The seed determines the random numbers; but the choice of steps also
    depends on the time, so two runs with the same seed differ somewhat. Raises DifferenceError, with the steps before
    it, as soon as two servers disagree.
    """

    def __init__(
        self,
        kinds: tuple[str, str],
        seed: int,
        right_flags: Sequence[str] = (),
        alter: Callable[[bytes], bytes] | None = None,
    ) -> None:
        self.kinds = kinds
        self.seed = seed
        self._right_flags = right_flags
        self._alter = alter
        self._over = threading.Event()

    def run(self, steps: int, pairs: int = PAIRS) -> Outcome:
        """Takes ``steps`` steps, spread over ``pairs`` pairs of servers; at the end compares their whole state."""
        shares = [steps // pairs + (i < steps % pairs) for i in range(pairs)]
        with ThreadPoolExecutor(pairs) as pool:
            runs = [pool.submit(self._run_pair, i, share) for i, share in enumerate(shares)]
        whole = Outcome()
        for run in runs:
            outcome = run.result()
            whole.steps += outcome.steps
            whole.stalls += outcome.stalls
            whole.counts += outcome.counts
        return whole

    def _run_pair(self, pair: int, steps: int) -> Outcome:
        outcome = Outcome()
        history: deque[str] = deque(maxlen=REMEMBERED)
        choice = random.Random(f"{self.seed}/{pair}")
        try:
            while outcome.steps < steps and not self._over.is_set():
                self._run_servers(steps, choice, outcome, history)
        except DifferenceError as difference:
            raise DifferenceError(
                f"seed {self.seed}, step {outcome.steps} of pair {pair}: {difference}\n"
                "The steps before it:\n" + "\n".join(history)
            ) from None
        finally:
            if outcome.steps < steps:
                self._over.set()
        return outcome

    def _run_servers(self, steps: int, choice: random.Random, outcome: Outcome, history: deque[str]) -> None:
        servers = PairedServers(self.kinds, ["-z", str(MAX_JOB_SIZE)], self._right_flags, self._alter)
        try:
            world = _World(servers, choice, outcome, history)
            while outcome.steps < steps and not self._over.is_set():
                world.step()
            world.audit()
        except StalledError as stalled:
            outcome.stalls += 1
            if outcome.stalls > 10 + steps // 50:
                raise StalledError(f"this machine is too busy to compare two servers: {stalled}") from None
        finally:
            servers.stop()


class _World:
    """A pair of servers since their start, and the steps taken on them."""

    def __init__(self, servers: PairedServers, choice: random.Random, outcome: Outcome, history: deque[str]) -> None:
        self._servers = servers
        self._choice = choice
        self._outcome = outcome
        self._history = history
        self._state = ComparisonState()
        self._commands = Commands(choice, self._state)
        self._scenario: deque[tuple[int, Command | None]] = deque()
        self._number = 0
        self._keeper = self._connect()
        self._keeper.is_keeper = True

    def step(self) -> None:
        """Takes one step."""
        self._pass_due_time()
        self._forget_ended_pauses()
        if not (self._cancel_a_clash() or self._free_a_holder() or self._follow_the_scenario()):
            self._random_step()
        self._outcome.steps += 1

    def audit(self) -> None:
        """Compares the statistics of everything that exists."""
        client = self._connect()
        commands = [Command("stats", (b"stats\r\n",)), Command("list-tubes", (b"list-tubes\r\n",))]
        commands += [Command("stats-job", (b"stats-job ", job, b"\r\n")) for job in list(self._state.jobs)]
        commands += [Command("stats-tube", (b"stats-tube %s\r\n" % tube,)) for tube in list(self._state.waiters)]
        for command in commands:
            self._pass_due_time()
            self._send(client, [command])

    # Steps: each returns whether it found anything to do

    def _random_step(self) -> None:
        clients = self._state.clients
        if len(clients) < 5 or (len(clients) <= CLIENTS and self._choice.random() < 0.3):
            self._connect()
            return
        actions: dict[Callable[[], bool], float] = {
            self._one_command: 60,
            self._several_commands: 8,
            self._continue_some_tail: 10,
            self._behind_a_reserve: 3,
            self._disconnect: 0.5,
            self._half_close: 0.35,
            self._quit: 0.15,
            self._begin_a_scenario: 2.0,
            self._let_time_pass: 1.0,
        }
        while not self._choice.choices(list(actions), list(actions.values()))[0]():
            self._pass_due_time()

    def _one_command(self) -> bool:
        client = self._some(lambda c: not c.waits and not c.tail)
        command = self._commands.any(client) if client else None
        if not client or not command or not self._may_send(client, [command]):
            return False
        self._send(client, [command])
        return True

    def _several_commands(self) -> bool:
        """Several commands, of which only a part is sent now; at most one of them waits or starts something."""
        client = self._some(lambda c: not c.waits and not c.tail)
        if client is None:
            return False
        commands: list[Command] = []
        for _ in range(self._choice.randint(2, 6)):
            restless = any(c.waits or c.starts for c in commands)
            command = self._commands.quiet(client) if restless else self._commands.any(client)
            # The tubes that a client watches must be known before it waits.
            watches = any(c.kind in ("watch", "ignore") for c in commands)
            if command is not None and not (command.waits and watches):
                commands.append(command)
        if self._choice.random() < 0.15:
            commands += self._commands.wrong_body()
        client.tail, client.tail_sent = commands, 0
        return bool(commands) and self._continue_tail(client)

    def _continue_some_tail(self) -> bool:
        """Some client sends more of the commands that it has begun."""
        client = self._some(lambda c: bool(c.tail))
        return client is not None and self._continue_tail(client)

    def _behind_a_reserve(self) -> bool:
        """A waiting client sends more commands."""
        client = self._some(lambda c: c.waits and not c.tail and len(self._servers.unanswered[c.number]) < 6)
        if client is None:
            return False
        commands = [self._commands.quiet(client) for _ in range(self._choice.randint(1, 3))]
        client.tail, client.tail_sent = [c for c in commands if c], 0
        return bool(client.tail) and self._continue_tail(client)

    def _disconnect(self, client: Client | None = None) -> bool:
        """A client disconnects; of its complete commands only a reserve may be without a reply.

        Commands behind a reserve are excluded: their replies would be sent to a closed connection, and when real
        beanstalkd notices that is a matter of chance.
        """
        client = client or self._one_to_leave(
            lambda c: len(self._servers.unanswered[c.number]) == (1 if c.waits else 0)
        )
        if client is None:
            return False
        self._count_leaving("(disconnect)", client)
        self._say(client, "leaves")
        low = time.monotonic()
        guard = self._state.deadlines.soonest()
        self._servers.close(client.number)
        self._state.is_gone(client)
        self._finish(None, rounds=8, low=low, guard=guard)
        return True

    def _half_close(self, client: Client | None = None) -> bool:
        """A client shuts down its sending half, and reads until the server closes the connection."""
        client = client or self._one_to_leave(lambda c: True)
        if client is None:
            return False
        self._count_leaving("(half-close)", client)
        self._say(client, "half-closes")
        low = time.monotonic()
        guard = self._state.deadlines.soonest()
        self._servers.half_close(client.number)
        self._finish_closing(client, low, guard)
        return True

    def _quit(self) -> bool:
        client = self._some(lambda c: not c.waits and not c.tail)
        if client is None:
            return False
        self._say(client, "quit")
        low = time.monotonic()
        guard = self._state.deadlines.soonest()
        self._servers.send(client.number, (b"quit\r\n", b"quit\r\n"), [])
        self._finish_closing(client, low, guard)
        self._outcome.counts["quit", "(closed)"] += 1
        return True

    def _begin_a_scenario(self) -> bool:
        if self._scenario:
            return False
        # A client with a reservation that is about to expire gets DEADLINE_SOON and does not wait.
        runs_out = self._state.runs_out_for
        free = [c for c in self._state.clients.values() if not c.waits and not c.tail and not runs_out(c.number)]
        free.remove(self._keeper)
        if len(free) < 3:
            return False
        first, second, producer = self._choice.sample(free, 3)
        scenarios = (
            lambda: two_waiters(self._commands, self._choice, (first, second), producer),
            lambda: soon_over(self._commands, self._choice, first, producer),
            lambda: alone(self._commands, self._choice, first),
        )
        self._scenario = deque(self._choice.choice(scenarios)())
        return True

    def _let_time_pass(self) -> bool:
        soonest = self._state.deadlines.soonest()
        if soonest == float("inf"):
            return False
        self._cross(soonest)
        return True

    def _follow_the_scenario(self) -> bool:
        """The next command of a scenario, if it still makes sense."""
        if not self._scenario:
            return False
        number, command = self._scenario.popleft()
        client = self._state.clients.get(number)
        if client is not None and command is None:
            if client.waits:
                self._scenario.appendleft((number, None))
            return client.waits and self._let_time_pass()
        if client is None or command is None or client.waits or client.tail:
            self._scenario.clear()
            return False
        if not self._may_send(client, [command]):
            # Perhaps a little later, when it does not collide with another deadline.
            if self._choice.random() < 0.98:
                self._scenario.appendleft((number, command))
            return False
        self._send(client, [command])
        return True

    def _cancel_a_clash(self) -> bool:
        """If two things would end too close together, cancels one of them in time."""
        clash = self._state.deadlines.clash()
        if clash is None:
            return False
        job = self._state.jobs.get(clash.key) if isinstance(clash.key, int) else None
        if clash.what not in ("ttr", "margin") or job is None or job.holder is None:
            raise StalledError(f"{clash} is too close to another deadline")
        holder = self._state.clients[job.holder]
        if holder.waits or holder.tail:
            return self._leave(holder)
        forms = {"delete": b"\r\n", "bury": b" 5\r\n", "release": b" 5 0\r\n", "touch": b"\r\n"}
        kind = self._choice.choice(list(forms))
        self._send(holder, [Command(kind, (kind.encode("ascii") + b" ", job.id, forms[kind]), job=job.id)])
        return True

    def _free_a_holder(self) -> bool:
        """A client in the middle of a command whose reservation may expire completes the command, or disconnects.

        Otherwise it could not send another command at the right time.
        """
        for client in self._state.clients.values():
            if client.tail and self._state.runs_out_for(client.number):
                return self._continue_tail(client, whole=True) or self._leave(client)
        return False

    # How they are done

    def _queueing_client(self, but: Client | None = None) -> Client | None:
        """The client that has commands, or the beginning of one, behind a waiting reserve; at most one has."""
        for client in self._state.clients.values():
            behind = len(self._servers.unanswered[client.number]) > 1 or (client.waits and client.tail_sent > 0)
            if behind and client is not but:
                return client
        return None

    def _leave(self, client: Client) -> bool:
        complete = len(self._servers.unanswered[client.number])
        return (self._disconnect if complete == (1 if client.waits else 0) else self._half_close)(client)

    def _some(self, suits: Callable[[Client], bool]) -> Client | None:
        suitable = [client for client in self._state.clients.values() if suits(client) and not client.is_keeper]
        return self._choice.choice(suitable) if suitable else None

    def _one_to_leave(self, suits: Callable[[Client], bool]) -> Client | None:
        """A client to disconnect; often one that waits, since there are few of these."""
        waiting = self._some(lambda c: c.waits and suits(c)) if self._choice.random() < 0.4 else None
        return waiting or self._some(suits)

    def _connect(self) -> Client:
        self._number += 1
        client = self._state.clients[self._number] = Client(self._number)
        self._say(client, "connects")
        low = time.monotonic()
        guard = self._state.deadlines.soonest()
        self._servers.open(self._number)
        self._finish(None, rounds=3, low=low, guard=guard)
        return client

    def _may_send(self, client: Client, commands: Sequence[Command]) -> bool:
        """True if the results of these commands are certain.

        When a waiting client is served, the commands behind its reserve run at the same time as those of other clients,
        in an order that the server chooses. So while one client has such commands, the others send only one command
        at a time and queue none.
        """
        if any(c.waits for c in commands) and not self._state.may_wait(client):
            return False
        if (client.waits or len(commands) > 1) and self._queueing_client(but=client) is not None:
            return False
        now = time.monotonic()
        free = self._state.deadlines.is_free
        return all(free(*start, now, client.number) for c in commands for start in c.starts)

    def _continue_tail(self, client: Client, whole: bool = False) -> bool:
        """Sends a client's tail up to a random place, at the end of one of its commands or within one.

        whole: send all of it; a client whose reservation may expire always does. Returns whether it could be sent.
        """
        whole = whole or self._state.runs_out_for(client.number)
        stop: int = len(client.tail) if whole else self._choice.randint(1, len(client.tail))
        complete = client.tail[:stop]
        if not self._may_send(client, complete):
            return False
        data: list[bytes] = []
        rest = 0
        waits = any(c.waits for c in complete)
        if (
            stop < len(client.tail)
            and self._choice.random() < 0.7
            and not (waits and self._queueing_client(but=client))
        ):
            rest = self._choice.randint(1, min(len(client.tail[stop].encode(s.ids)) for s in self._servers.sides) - 1)
        for side in self._servers.sides:
            full = b"".join(c.encode(side.ids) for c in complete)
            part = client.tail[stop].encode(side.ids)[:rest] if rest else b""
            data.append((full + part)[client.tail_sent :])
        client.tail, client.tail_sent = client.tail[stop:], rest
        self._send_bytes(client, (data[0], data[1]), complete)
        return True

    def _send(self, client: Client, commands: Sequence[Command]) -> None:
        left, right = (b"".join(c.encode(side.ids) for c in commands) for side in self._servers.sides)
        self._send_bytes(client, (left, right), commands)

    def _keep(self, commands: Sequence[Command]) -> None:
        """Has the keeper watch the tubes that these commands may pause."""
        tubes = {command.tube for command in commands if command.kind == "pause-tube" and command.delay_s}
        for tube in tubes - set(self._keeper.watched) - {MISSING}:
            self._send(self._keeper, [Command("watch", (b"watch %s\r\n" % tube,), tube=tube)])

    def _forget_ended_pauses(self) -> None:
        for tube in set(self._keeper.watched) - self._state.paused - {b"default"}:
            self._send(self._keeper, [Command("ignore", (b"ignore %s\r\n" % tube,), tube=tube)])

    def _send_bytes(self, client: Client, data: tuple[bytes, bytes], complete: Sequence[Command]) -> None:
        self._keep(complete)
        shown = data[0] if len(data[0]) < 150 else data[0][:100] + b"..." + data[0][-40:]
        self._say(client, f"> {shown!r}")
        low = time.monotonic()
        guard = self._state.deadlines.soonest()
        self._servers.send(client.number, data, complete)
        behind = max(map(len, self._servers.unanswered.values()))
        self._finish(client.number, rounds=3 + behind + len(data[0]) // 400, low=low, guard=guard)

    def _finish(self, acting: int | None, rounds: int, low: float, guard: float) -> None:
        """Waits until both sides have processed everything, and compares.

        low: when the step began. guard: when something set earlier may end; if the step took that long, its results
        do not count.
        """
        try:
            self._servers.settle(rounds, low)
            self._take(acting)
            for _ in range(PATIENT_ROUNDS):
                if self._servers.even() and not self._owed():
                    break
                self._servers.settle(1, low)
                self._take(acting)
            else:
                raise DifferenceError(self._servers.missing() or f"neither side answered {self._owed()}")
        except DifferenceError as difference:
            if time.monotonic() >= guard:
                raise StalledError(str(difference)) from None
            raise
        now = time.monotonic()
        if now >= guard:
            raise StalledError(f"a step took {now - low:.3f} s")
        for client in self._state.clients.values():
            if not client.waits and self._servers.unanswered[client.number]:
                self._state.begins_to_wait(client, self._servers.unanswered[client.number][0], low, now)

    def _finish_closing(self, client: Client, low: float, guard: float) -> None:
        """Like `_finish`, for a client that both sides must close."""
        try:
            for _ in range(PATIENT_ROUNDS):
                self._servers.settle(8, low)
                self._take(client.number)
                if all(side.links[client.number].closed for side in self._servers.sides):
                    break
            else:
                raise DifferenceError(self._servers.missing() or f"neither side closed client {client.number}")
            if unanswered := self._servers.unanswered[client.number]:
                raise DifferenceError(f"client {client.number} was closed without an answer to {unanswered[0]}")
        except DifferenceError as difference:
            if time.monotonic() >= guard:
                raise StalledError(str(difference)) from None
            raise
        self._servers.close(client.number)
        self._state.is_gone(client)
        self._finish(None, rounds=3, low=low, guard=guard)

    def _owed(self) -> str:
        """A command that must have a reply by now and does not; empty if there is none."""
        for unanswered in self._servers.unanswered.values():
            if unanswered and not unanswered[0].waits:
                return str(unanswered[0])
        return ""

    def _take(self, acting: int | None) -> None:
        answers = list(self._servers.take())
        for answer in answers:
            self._count(answer)
        self._state.note_all(answers, acting)

    def _count(self, answer: Answer) -> None:
        self._history.append(f"    client {answer.client}: {answer.line.decode('latin-1')}")
        waited = answer.command.kind.startswith("reserve") and self._state.clients[answer.client].waits
        first = waited and not any(w is answer.command for w in self._servers.unanswered[answer.client])
        word = f"{answer.word} after a wait" if first and answer.command.waits else answer.word
        self._outcome.counts[answer.command.kind, word] += 1

    def _count_leaving(self, how: str, client: Client) -> None:
        when = {
            "while it waits": client.waits,
            "with reservations": bool(self._state.held_by(client.number)),
            "in mid-line or mid-body": client.tail_sent > 0,
        }
        for reason in [name for name, so in when.items() if so] or ["idle"]:
            self._outcome.counts[how, reason] += 1

    def _say(self, client: Client, what: str) -> None:
        self._history.append(f"{self._outcome.steps}: client {client.number} {what}")

    # Time

    def _pass_due_time(self) -> None:
        while (soonest := self._state.deadlines.soonest()) - time.monotonic() < BEFORE_S:
            self._cross(soonest)

    def _cross(self, soonest: float) -> None:
        """Waits until everything that ends together with the first deadline has ended, and compares the effects."""
        if time.monotonic() >= soonest:
            raise StalledError("a deadline passed before the comparison waited for it")
        if self._clear_the_way(self._state.deadlines.due()):
            # The clients that left released their jobs: something else may be due now, with another client in its way.
            return
        due = self._state.deadlines.take_due()
        guard = self._state.deadlines.soonest()
        self._history.append(f"{self._outcome.steps}: {', '.join(f'{d.what} of {d.key}' for d in due)} may end")
        self._servers.watch(max(d.high for d in due) + AFTER_S, soonest)
        for deadline in due:
            self._outcome.counts["(time passes)", deadline.what] += 1
            self._state.has_ended(deadline)
        for holder in {d.holder for d in due} & set(self._state.clients):
            self._servers.send(holder, (_WAKE, _WAKE), [Command("(unknown)", (_WAKE,))])
        behind = max(map(len, self._servers.unanswered.values()), default=0)
        self._finish(None, rounds=3 + behind, low=soonest, guard=guard)

    def _clear_the_way(self, due: Sequence[Deadline]) -> bool:
        """Disconnects the clients that make the effects of these deadlines uncertain. Returns whether there were any.

        A client in the middle of a line or body cannot send another command. Commands behind a reserve would run at
        the same time as the deadlines that end after the one that served the reserve.
        """
        holders = {self._state.clients[d.holder] for d in due if d.holder in self._state.clients}
        in_the_way = [c for c in holders if c.tail]
        queued = self._queueing_client()
        if queued is not None and len(due) > 1 and queued not in in_the_way:
            in_the_way.append(queued)
        for client in in_the_way:
            self._leave(client)
        return bool(in_the_way)


def main() -> int:
    """Runs the program: compares two kinds of servers, prints the counts, and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m wire.comparison", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--left", choices=KINDS, default=BEANSTALKD)
    parser.add_argument("--right", choices=KINDS, default=FASTBEAN)
    chosen = parser.parse_args()
    try:
        began = time.monotonic()
        outcome = Comparison((chosen.left, chosen.right), chosen.seed).run(chosen.steps)
    except DifferenceError as difference:
        sys.stderr.write(f"{difference}\n")
        return 1
    sys.stdout.write(f"{outcome.table()}\nin {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
