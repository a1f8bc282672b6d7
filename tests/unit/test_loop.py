"""The loop with a hub and a clock of the test's own: how long it waits, what it runs, how it is woken."""

import os
import selectors
import threading

import pytest

from fastbean.loop import Loop

SECOND_NS = 1_000_000_000


class MadeUpSelector:
    """Never waits; keeps the timeouts it was asked for, and gives the events that the test put in."""

    def __init__(self):
        self.timeouts = []
        self.events = []
        self.registered = {}

    def register(self, fileobj, events, data):
        self.registered[fileobj] = data

    def unregister(self, fileobj):
        del self.registered[fileobj]

    def select(self, timeout):
        self.timeouts.append(timeout)
        events, self.events = self.events, []
        return events


class MadeUpHub:
    """Answers ``tick`` with what the test says, and keeps what it was given."""

    def __init__(self, *waits):
        self.waits = list(waits)
        self.calls = []

    def handle(self, events, now_ns):
        self.calls.append(("handle", events, now_ns))

    def tick(self, now_ns):
        self.calls.append(("tick", now_ns))
        return self.waits.pop(0) if self.waits else -1


class MadeUpClock:
    def __init__(self):
        self.now_ns = 0

    def __call__(self):
        return self.now_ns


@pytest.fixture
def make():
    """Makes a loop of made-up parts; closes it at the end."""
    loops = []

    def make_loop(*waits):
        loop = Loop(MadeUpSelector(), MadeUpHub(*waits), MadeUpClock())
        loops.append(loop)
        return loop, loop._selector, loop._hub, loop._clock_ns

    yield make_loop
    for loop in loops:
        loop.close()


def test_a_turn_serves_and_ticks_with_one_time(make):
    loop, selector, hub, clock = make()
    clock.now_ns, selector.events = 42, ["an event"]
    loop.turn()
    assert hub.calls == [("handle", ["an event"], 42), ("tick", 42)]
    assert loop.now_ns == 42


@pytest.mark.parametrize(
    ("wait_ns", "timeout_s"),
    [(0, 0), (-1, 60), (SECOND_NS, 1), (1, 1e-9), (61 * SECOND_NS, 60), (2**63 - 1, 60)],
)
def test_the_wait_is_what_the_hub_says_and_a_minute_at_most(make, wait_ns, timeout_s):
    loop, selector, _, _ = make(wait_ns)
    loop.turn()
    loop.turn()
    assert selector.timeouts == [0, timeout_s]


def test_the_caller_of_a_turn_can_shorten_the_wait(make):
    loop, selector, _, _ = make(-1, 5 * SECOND_NS)
    loop.turn()
    loop.turn(2 * SECOND_NS)
    loop.turn(-3)
    assert selector.timeouts == [0, 2, 0]


def test_timers_shorten_the_wait_and_run_once(make):
    loop, selector, _, clock = make()
    ran = []
    loop.turn()
    loop.call_later(3 * SECOND_NS, lambda: ran.append("late"))
    loop.call_later(SECOND_NS, lambda: ran.append("soon"))
    loop.turn()
    assert (selector.timeouts[-1], ran) == (1, [])
    clock.now_ns = SECOND_NS
    loop.turn()
    assert ran == ["soon"]
    clock.now_ns = 10 * SECOND_NS
    loop.turn()
    assert (selector.timeouts[-1], ran) == (2, ["soon", "late"])
    loop.turn()
    assert (selector.timeouts[-1], ran) == (60, ["soon", "late"])


def test_a_timer_may_set_itself_again(make):
    loop, _, _, clock = make()
    beats = []

    def beat():
        beats.append(loop.now_ns)
        loop.call_later(SECOND_NS, beat)

    beat()
    for clock.now_ns in range(0, 5 * SECOND_NS, SECOND_NS // 2):
        loop.turn()
    assert beats == [n * SECOND_NS for n in range(5)]


def test_stop_before_run_runs_nothing(make):
    loop, _, hub, _ = make()
    loop.stop()
    loop.run()
    assert hub.calls == []


class PassingHub(MadeUpHub):
    def handle(self, events, now_ns):
        super().handle(events, now_ns)
        for key, mask in events:
            key.data(mask)


@pytest.fixture
def real():
    """A loop over a real selector."""
    selector = selectors.DefaultSelector()
    loop = Loop(selector, PassingHub())
    yield loop
    loop.close()
    selector.close()


def test_another_thread_ends_the_wait(real):
    thread = threading.Thread(target=real.run)
    thread.start()
    real.stop()
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_waking_often_costs_one_turn_and_never_blocks(real):
    for _ in range(100_000):
        real.wake()
    real.turn()
    while real._selector.select(0):
        real.turn()
    assert len(real._hub.calls) < 1000


def test_a_signal_can_wake_through_the_descriptor(real):
    real.turn()
    assert not os.get_blocking(real.wake_fd)
    os.write(real.wake_fd, b"\x0f")
    assert [key.data for key, _ in real._selector.select(0)] == [real._woken]
    real.turn()
    assert real._selector.select(0) == []


def test_waking_a_closed_loop_is_no_error():
    selector = selectors.DefaultSelector()
    loop = Loop(selector, MadeUpHub())
    loop.close()
    assert selector.get_map() is not None
    assert len(selector.get_map()) == 0
    loop.wake()
    selector.close()
