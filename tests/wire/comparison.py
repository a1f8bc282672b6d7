"""The random comparison: the same random steps, over several connections, sent to two servers.

    python -m tests.wire.comparison --seed 1 --steps 20000

compares fastbean with the real beanstalkd (or any two of them) and prints how often each command got each kind of
reply. After every step all replies of all clients are compared, ids mapped, statistics read. Both run on real clocks,
so nothing is asked near a moment at which something may run out (see deadlines); such moments are waited through, and
what comes of them is compared as well. Should the machine stand still over such a moment all the same, the two
servers are replaced by fresh ones and the steps go on there.

The real server often forgets the end of a ttr: when its clock shows the very microsecond of the deadline as it looks,
it drops the client from its timers, and the job stays reserved until that client sends something. So whenever a ttr
may have ended, the client that has the job is made to ask something.

A step is one thing that one client does: it sends a command, or a part of several, leaves, or arrives; or it is the
passing of time.
"""

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

from .books import Books, Client
from .commands import MAX_JOB_SIZE, Commands, alone, soon_over, two_waiters
from .deadlines import AFTER_S, BEFORE_S, Deadline
from .mirror import Answer, Command, DifferenceError, Mirror, StalledError
from .servers import BEANSTALKD, FASTBEAN, KINDS

CLIENTS = 6
PAIRS = 6
REMEMBERED = 60
PATIENT_ROUNDS = 30

# No command, so that no statistics count it: whether it comes before or after what was due, they are the same.
_WAKE = b"wake\r\n"
_BAD = "BAD_FORMAT"
_OF_JOB = ("NOT_FOUND", _BAD)
_WAITED = ("RESERVED after a wait", "DEADLINE_SOON after a wait", "TIMED_OUT after a wait")
# Every kind of reply that can occur here. Not among them: what needs memory or disk to run out, and drain mode.
POSSIBLE: dict[str, tuple[str, ...]] = {
    "put": ("INSERTED", "EXPECTED_CRLF", "JOB_TOO_BIG", _BAD),
    "use": ("USING", _BAD),
    "watch": ("WATCHING", _BAD),
    "ignore": ("WATCHING", "NOT_IGNORED", _BAD),
    "reserve": ("RESERVED", "DEADLINE_SOON", *_WAITED, _BAD),
    "reserve-with-timeout": ("RESERVED", "DEADLINE_SOON", "TIMED_OUT", *_WAITED, _BAD),
    "reserve-job": ("RESERVED", *_OF_JOB),
    "delete": ("DELETED", *_OF_JOB),
    "release": ("RELEASED", *_OF_JOB),
    "bury": ("BURIED", *_OF_JOB),
    "touch": ("TOUCHED", *_OF_JOB),
    "kick": ("KICKED", _BAD),
    "kick-job": ("KICKED", *_OF_JOB),
    "peek": ("FOUND", *_OF_JOB),
    "peek-ready": ("FOUND", *_OF_JOB),
    "peek-delayed": ("FOUND", *_OF_JOB),
    "peek-buried": ("FOUND", *_OF_JOB),
    "stats": ("OK", _BAD),
    "stats-job": ("OK", *_OF_JOB),
    "stats-tube": ("OK", *_OF_JOB),
    "list-tubes": ("OK", _BAD),
    "list-tube-used": ("USING", _BAD),
    "list-tubes-watched": ("OK", _BAD),
    "pause-tube": ("PAUSED", *_OF_JOB),
    "(unknown)": ("UNKNOWN_COMMAND",),
    "(long line)": (_BAD,),
    "quit": ("(closed)",),
    "(disconnect)": ("idle", "while it waits", "with reservations", "in mid-line or mid-body"),
    "(half-close)": ("idle", "while it waits", "with reservations", "in mid-line or mid-body"),
    "(time passes)": ("delay", "ttr", "margin", "timeout", "pause"),
}


@dataclass
class Outcome:
    """What a comparison did. stalls: how often the servers had to be replaced."""

    steps: int = 0
    stalls: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def never(self) -> list[str]:
        """The pairs of a command and a kind of reply that can occur and did not."""
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
    """A run of random steps, over several pairs of servers at once, for most of the time is spent waiting.

    kinds, right_flags, alter: see Mirror. A seed settles how the dice fall, but what may be done next depends on the
    time too, so that the same seed does not take quite the same way twice. Raises DifferenceError, with the steps that
    led there, as soon as two servers do not agree.
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
        """Takes this many steps, spread over so many pairs of servers; at the end compares their whole state."""
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
        said: deque[str] = deque(maxlen=REMEMBERED)
        choice = random.Random(f"{self.seed}/{pair}")
        try:
            while outcome.steps < steps and not self._over.is_set():
                self._run_servers(steps, choice, outcome, said)
        except DifferenceError as difference:
            raise DifferenceError(
                f"seed {self.seed}, step {outcome.steps} of pair {pair}: {difference}\n"
                "What led there:\n" + "\n".join(said)
            ) from None
        finally:
            if outcome.steps < steps:
                self._over.set()
        return outcome

    def _run_servers(self, steps: int, choice: random.Random, outcome: Outcome, said: deque[str]) -> None:
        mirror = Mirror(self.kinds, ["-z", str(MAX_JOB_SIZE)], self._right_flags, self._alter)
        try:
            world = _World(mirror, choice, outcome, said)
            while outcome.steps < steps and not self._over.is_set():
                world.step()
            world.audit()
        except StalledError as stalled:
            outcome.stalls += 1
            if outcome.stalls > 10 + steps // 50:
                raise StalledError(f"this machine is too busy to compare two servers on it: {stalled}") from None
        finally:
            mirror.stop()


class _World:
    """A pair of servers from their start on, and what is done to them."""

    def __init__(self, mirror: Mirror, choice: random.Random, outcome: Outcome, said: deque[str]) -> None:
        self._mirror = mirror
        self._choice = choice
        self._outcome = outcome
        self._said = said
        self._books = Books()
        self._commands = Commands(choice, self._books)
        self._script: deque[tuple[int, Command | None]] = deque()
        self._number = 0

    def step(self) -> None:
        """Takes one step."""
        self._pass_due_time()
        if not (self._call_off_a_clash() or self._free_a_holder() or self._follow_the_script()):
            self._random_step()
        self._outcome.steps += 1

    def audit(self) -> None:
        """Compares all statistics, of everything that there is."""
        client = self._connect()
        commands = [Command("stats", (b"stats\r\n",)), Command("list-tubes", (b"list-tubes\r\n",))]
        commands += [Command("stats-job", (b"stats-job ", job, b"\r\n")) for job in list(self._books.jobs)]
        commands += [Command("stats-tube", (b"stats-tube %s\r\n" % tube,)) for tube in list(self._books.waiters)]
        for command in commands:
            self._pass_due_time()
            self._send(client, [command])

    # Steps: each says whether it found anything to do

    def _random_step(self) -> None:
        clients = self._books.clients
        if len(clients) < 4 or (len(clients) < CLIENTS and self._choice.random() < 0.3):
            self._connect()
            return
        actions: dict[Callable[[], bool], float] = {
            self._one_command: 60,
            self._several_commands: 8,
            self._go_on: 10,
            self._behind_a_reserve: 3,
            self._disconnect: 0.5,
            self._half_close: 0.35,
            self._quit: 0.15,
            self._begin_a_play: 2.0,
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
        """Several commands, of which only a part is sent yet: at most one of them waits or starts something."""
        client = self._some(lambda c: not c.waits and not c.tail)
        if client is None:
            return False
        commands: list[Command] = []
        for _ in range(self._choice.randint(2, 6)):
            restless = any(c.waits or c.starts for c in commands)
            command = self._commands.quiet(client) if restless else self._commands.any(client)
            # What a client that waits watches must be known before it waits.
            watches = any(c.kind in ("watch", "ignore") for c in commands)
            if command is not None and not (command.waits and watches):
                commands.append(command)
        if self._choice.random() < 0.15:
            commands += self._commands.wrong_body()
        client.tail, client.tail_sent = commands, 0
        return bool(commands) and self._go_on_with(client)

    def _go_on(self) -> bool:
        """Some client sends more of what it had begun."""
        client = self._some(lambda c: bool(c.tail))
        return client is not None and self._go_on_with(client)

    def _behind_a_reserve(self) -> bool:
        """A client that waits sends more commands already."""
        client = self._some(lambda c: c.waits and not c.tail and len(self._mirror.unanswered[c.number]) < 6)
        if client is None:
            return False
        commands = [self._commands.quiet(client) for _ in range(self._choice.randint(1, 3))]
        client.tail, client.tail_sent = [c for c in commands if c], 0
        return bool(client.tail) and self._go_on_with(client)

    def _disconnect(self, client: Client | None = None) -> bool:
        """A client leaves, with nothing complete left unanswered but a reserve.

        What lies behind a reserve is left out, since its replies meet a closed connection, and it is chance when the
        real server notices.
        """
        client = client or self._one_to_leave(lambda c: len(self._mirror.unanswered[c.number]) == (1 if c.waits else 0))
        if client is None:
            return False
        self._count_leaving("(disconnect)", client)
        self._say(client, "leaves")
        low = time.monotonic()
        guard = self._books.deadlines.soonest()
        self._mirror.close(client.number)
        self._books.is_gone(client)
        self._finish(None, rounds=8, low=low, guard=guard)
        return True

    def _half_close(self, client: Client | None = None) -> bool:
        """A client says that it sends no more; it reads until it is closed."""
        client = client or self._one_to_leave(lambda c: True)
        if client is None:
            return False
        self._count_leaving("(half-close)", client)
        self._say(client, "half-closes")
        low = time.monotonic()
        guard = self._books.deadlines.soonest()
        self._mirror.half_close(client.number)
        self._finish_closing(client, low, guard)
        return True

    def _quit(self) -> bool:
        client = self._some(lambda c: not c.waits and not c.tail)
        if client is None:
            return False
        self._say(client, "quit")
        low = time.monotonic()
        guard = self._books.deadlines.soonest()
        self._mirror.send(client.number, (b"quit\r\n", b"quit\r\n"), [])
        self._finish_closing(client, low, guard)
        self._outcome.counts["quit", "(closed)"] += 1
        return True

    def _begin_a_play(self) -> bool:
        if self._script:
            return False
        # Whoever has a reservation that is about to end is told so, and does not wait.
        runs_out = self._books.runs_out_for
        free = [c for c in self._books.clients.values() if not c.waits and not c.tail and not runs_out(c.number)]
        if len(free) < 3:
            return False
        first, second, producer = self._choice.sample(free, 3)
        plays = (
            lambda: two_waiters(self._commands, self._choice, (first, second), producer),
            lambda: soon_over(self._commands, self._choice, first, producer),
            lambda: alone(self._commands, self._choice, first),
        )
        self._script = deque(self._choice.choice(plays)())
        return True

    def _let_time_pass(self) -> bool:
        soonest = self._books.deadlines.soonest()
        if soonest == float("inf"):
            return False
        self._cross(soonest)
        return True

    def _follow_the_script(self) -> bool:
        """The next line of a play, where it still makes sense."""
        if not self._script:
            return False
        number, command = self._script.popleft()
        client = self._books.clients.get(number)
        if client is not None and command is None:
            if client.waits:
                self._script.appendleft((number, None))
            return client.waits and self._let_time_pass()
        if client is None or command is None or client.waits or client.tail:
            self._script.clear()
            return False
        if not self._may_send(client, [command]):
            # Perhaps a little later, when it does not meet another deadline.
            if self._choice.random() < 0.98:
                self._script.appendleft((number, command))
            return False
        self._send(client, [command])
        return True

    def _call_off_a_clash(self) -> bool:
        """Two things are about to end too close together: one of them is called off in time."""
        clash = self._books.deadlines.clash()
        if clash is None:
            return False
        job = self._books.jobs.get(clash.key) if isinstance(clash.key, int) else None
        if clash.what not in ("ttr", "margin") or job is None or job.holder is None:
            raise StalledError(f"{clash} stands too near another deadline")
        holder = self._books.clients[job.holder]
        if holder.waits or holder.tail:
            return self._leave(holder)
        forms = {"delete": b"\r\n", "bury": b" 5\r\n", "release": b" 5 0\r\n", "touch": b"\r\n"}
        kind = self._choice.choice(list(forms))
        self._send(holder, [Command(kind, (kind.encode("ascii") + b" ", job.id, forms[kind]), job=job.id)])
        return True

    def _free_a_holder(self) -> bool:
        """A client whose reservation runs out and that is in the midst of a command ends it, or leaves.

        Otherwise it could not be made to ask something when the time has come.
        """
        for client in self._books.clients.values():
            if client.tail and self._books.runs_out_for(client.number):
                return self._go_on_with(client, whole=True) or self._leave(client)
        return False

    # How they are done

    def _loaded(self, but: Client | None = None) -> Client | None:
        """A client that has commands, or the beginning of one, behind a reserve that waits; none but one has."""
        for client in self._books.clients.values():
            behind = len(self._mirror.unanswered[client.number]) > 1 or (client.waits and client.tail_sent > 0)
            if behind and client is not but:
                return client
        return None

    def _leave(self, client: Client) -> bool:
        complete = len(self._mirror.unanswered[client.number])
        return (self._disconnect if complete == (1 if client.waits else 0) else self._half_close)(client)

    def _some(self, suits: Callable[[Client], bool]) -> Client | None:
        suitable = [client for client in self._books.clients.values() if suits(client)]
        return self._choice.choice(suitable) if suitable else None

    def _one_to_leave(self, suits: Callable[[Client], bool]) -> Client | None:
        """One of those who wait, rather often, for there are few of them."""
        waiting = self._some(lambda c: c.waits and suits(c)) if self._choice.random() < 0.4 else None
        return waiting or self._some(suits)

    def _connect(self) -> Client:
        self._number += 1
        client = self._books.clients[self._number] = Client(self._number)
        self._say(client, "connects")
        low = time.monotonic()
        guard = self._books.deadlines.soonest()
        self._mirror.open(self._number)
        self._finish(None, rounds=3, low=low, guard=guard)
        return client

    def _may_send(self, client: Client, commands: Sequence[Command]) -> bool:
        """True when all that may come of these commands is certain.

        When a client that waits is served, the commands behind its reserve run at the same time as what the others
        have sent, and which of them comes first is up to the server. So when one client has such commands, the others
        send but one at a time, and none of them gets any.
        """
        if any(c.waits for c in commands) and not self._books.may_wait(client):
            return False
        if (client.waits or len(commands) > 1) and self._loaded(but=client) is not None:
            return False
        now = time.monotonic()
        free = self._books.deadlines.is_free
        return all(free(*start, now, client.number) for c in commands for start in c.starts)

    def _go_on_with(self, client: Client, whole: bool = False) -> bool:
        """Sends the bytes of a client's tail up to some place, at random, within one of its commands or at its end.

        whole: send all of it, as does a client of whom a reservation runs out. Returns whether that could be done.
        """
        whole = whole or self._books.runs_out_for(client.number)
        stop: int = len(client.tail) if whole else self._choice.randint(1, len(client.tail))
        complete = client.tail[:stop]
        if not self._may_send(client, complete):
            return False
        data: list[bytes] = []
        rest = 0
        waits = any(c.waits for c in complete)
        if stop < len(client.tail) and self._choice.random() < 0.7 and not (waits and self._loaded(but=client)):
            rest = self._choice.randint(1, min(len(client.tail[stop].encode(s.ids)) for s in self._mirror.sides) - 1)
        for side in self._mirror.sides:
            full = b"".join(c.encode(side.ids) for c in complete)
            part = client.tail[stop].encode(side.ids)[:rest] if rest else b""
            data.append((full + part)[client.tail_sent :])
        client.tail, client.tail_sent = client.tail[stop:], rest
        self._send_bytes(client, (data[0], data[1]), complete)
        return True

    def _send(self, client: Client, commands: Sequence[Command]) -> None:
        left, right = (b"".join(c.encode(side.ids) for c in commands) for side in self._mirror.sides)
        self._send_bytes(client, (left, right), commands)

    def _send_bytes(self, client: Client, data: tuple[bytes, bytes], complete: Sequence[Command]) -> None:
        shown = data[0] if len(data[0]) < 150 else data[0][:100] + b"..." + data[0][-40:]
        self._say(client, f"> {shown!r}")
        low = time.monotonic()
        guard = self._books.deadlines.soonest()
        self._mirror.send(client.number, data, complete)
        behind = max(map(len, self._mirror.unanswered.values()))
        self._finish(client.number, rounds=3 + behind + len(data[0]) // 400, low=low, guard=guard)

    def _finish(self, acting: int | None, rounds: int, low: float, guard: float) -> None:
        """Waits for both sides to be done, and compares.

        low: when the step began. guard: when something that was set before may end: had this step taken until then,
        nothing that it brought would count.
        """
        try:
            self._mirror.settle(rounds, low)
            self._take(acting)
            for _ in range(PATIENT_ROUNDS):
                if self._mirror.even() and not self._owed():
                    break
                self._mirror.settle(1, low)
                self._take(acting)
            else:
                raise DifferenceError(self._mirror.missing() or f"neither side answered {self._owed()}")
        except DifferenceError as difference:
            if time.monotonic() >= guard:
                raise StalledError(str(difference)) from None
            raise
        now = time.monotonic()
        if now >= guard:
            raise StalledError(f"a step took {now - low:.3f} s")
        for client in self._books.clients.values():
            if not client.waits and self._mirror.unanswered[client.number]:
                self._books.begins_to_wait(client, self._mirror.unanswered[client.number][0], low, now)

    def _finish_closing(self, client: Client, low: float, guard: float) -> None:
        """As _finish, for a client that both sides are to close."""
        try:
            for _ in range(PATIENT_ROUNDS):
                self._mirror.settle(8, low)
                self._take(client.number)
                if all(side.links[client.number].closed for side in self._mirror.sides):
                    break
            else:
                raise DifferenceError(self._mirror.missing() or f"neither side closed client {client.number}")
            if unanswered := self._mirror.unanswered[client.number]:
                raise DifferenceError(f"client {client.number} was closed without an answer to {unanswered[0]}")
        except DifferenceError as difference:
            if time.monotonic() >= guard:
                raise StalledError(str(difference)) from None
            raise
        self._mirror.close(client.number)
        self._books.is_gone(client)
        self._finish(None, rounds=3, low=low, guard=guard)

    def _owed(self) -> str:
        """A command that must be answered by now and is not."""
        for unanswered in self._mirror.unanswered.values():
            if unanswered and not unanswered[0].waits:
                return str(unanswered[0])
        return ""

    def _take(self, acting: int | None) -> None:
        answers = list(self._mirror.take())
        for answer in answers:
            self._count(answer)
        self._books.note_all(answers, acting)

    def _count(self, answer: Answer) -> None:
        self._said.append(f"    client {answer.client}: {answer.line.decode('latin-1')}")
        waited = answer.command.kind.startswith("reserve") and self._books.clients[answer.client].waits
        first = waited and not any(w is answer.command for w in self._mirror.unanswered[answer.client])
        word = f"{answer.word} after a wait" if first and answer.command.waits else answer.word
        self._outcome.counts[answer.command.kind, word] += 1

    def _count_leaving(self, how: str, client: Client) -> None:
        when = {
            "while it waits": client.waits,
            "with reservations": bool(self._books.held_by(client.number)),
            "in mid-line or mid-body": client.tail_sent > 0,
        }
        for reason in [name for name, so in when.items() if so] or ["idle"]:
            self._outcome.counts[how, reason] += 1

    def _say(self, client: Client, what: str) -> None:
        self._said.append(f"{self._outcome.steps}: client {client.number} {what}")

    # Time

    def _pass_due_time(self) -> None:
        while (soonest := self._books.deadlines.soonest()) - time.monotonic() < BEFORE_S:
            self._cross(soonest)

    def _cross(self, soonest: float) -> None:
        """Waits until everything that ends together with the soonest has ended, and compares what came of it."""
        if time.monotonic() >= soonest:
            raise StalledError("a deadline passed before it was waited for")
        if self._clear_the_way(self._books.deadlines.due()):
            # Who left gave back what it had: something else may be due now, and somebody else in its way.
            return
        due = self._books.deadlines.take_due()
        guard = self._books.deadlines.soonest()
        self._said.append(f"{self._outcome.steps}: {', '.join(f'{d.what} of {d.key}' for d in due)} may end")
        self._mirror.watch(max(d.high for d in due) + AFTER_S, soonest)
        for deadline in due:
            self._outcome.counts["(time passes)", deadline.what] += 1
            self._books.has_ended(deadline)
        for holder in {d.holder for d in due} & set(self._books.clients):
            self._mirror.send(holder, (_WAKE, _WAKE), [Command("(unknown)", (_WAKE,))])
        behind = max(map(len, self._mirror.unanswered.values()), default=0)
        self._finish(None, rounds=3 + behind, low=soonest, guard=guard)

    def _clear_the_way(self, due: Sequence[Deadline]) -> bool:
        """Makes those leave who would leave it open what comes of these deadlines. Returns whether anybody did.

        A client in mid-line or mid-body cannot be made to ask something. Commands behind a reserve would run at the
        same time as what ends after the deadline that served it.
        """
        holders = {self._books.clients[d.holder] for d in due if d.holder in self._books.clients}
        in_the_way = [c for c in holders if c.tail]
        loaded = self._loaded()
        if loaded is not None and len(due) > 1 and loaded not in in_the_way:
            in_the_way.append(loaded)
        for client in in_the_way:
            self._leave(client)
        return bool(in_the_way)


def main() -> int:
    """The command: compares two kinds of servers and prints the counts. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.wire.comparison", description=__doc__.split("\n\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--left", choices=KINDS, default=BEANSTALKD)
    parser.add_argument("--right", choices=KINDS, default=FASTBEAN)
    chosen = parser.parse_args()
    began = time.monotonic()
    try:
        outcome = Comparison((chosen.left, chosen.right), chosen.seed).run(chosen.steps)
    except DifferenceError as difference:
        sys.stderr.write(f"{difference}\n")
        return 1
    sys.stdout.write(f"{outcome.table()}\nin {time.monotonic() - began:.0f} s\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
