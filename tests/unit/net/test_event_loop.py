"""The loop with a hub of the test's own: how long it lets it serve, what it runs, how it is woken."""

import os
import threading

import pytest

from fastbean.base import limits
from fastbean.net.event_loop import Loop
from fastbean.net.poller import new_selector
from patience import PATIENCE_S

SECOND_NS = 1_000_000_000


class MadeUpHub:
    """Never waits; keeps how long it was to serve, and makes the time what the test says."""

    def __init__(self, poller=None):
        self.poller = poller
        self.now_ns = 0
        self.next_ns = None
        self.calls = []

    def serve(self, until_ns, once=False):
        self.calls.append((until_ns - self.now_ns, once))
        if self.next_ns is not None:
            self.now_ns = self.next_ns


class WaitingHub(MadeUpHub):
    """Waits with the poller and calls the functions that it has."""

    def serve(self, until_ns, once=False):
        super().serve(until_ns, once)
        for fd, mask in self.poller.wait(until_ns - self.now_ns):
            self.poller.data_of(fd)(mask)


@pytest.fixture(params=["compiled", "selectors"])
def poller(request):
    made = new_selector(request.param)
    yield made
    made.close()


@pytest.fixture
def make(poller):
    """Makes a loop and its hub; closes it at the end."""
    made = []

    def make_loop(kind=MadeUpHub):
        hub = kind(poller)
        loop = Loop(poller, hub)
        made.append(loop)
        hub.now_ns = 0
        return loop, hub

    yield make_loop
    for loop in made:
        loop.close()


def test_the_time_is_that_of_the_iteration(make):
    loop, hub = make()
    hub.next_ns = 42
    loop.iterate(0)
    assert loop.now_ns == 42


def test_before_the_first_iteration_there_is_a_time(poller):
    hub = MadeUpHub()
    loop = Loop(poller, hub)
    assert loop.now_ns == hub.now_ns > 0
    loop.close()


@pytest.mark.parametrize(
    ("max_wait_ns", "wait_ns"),
    [(0, 0), (1, 1), (SECOND_NS, SECOND_NS), (61 * SECOND_NS, limits.MAX_WAIT_NS), (2**63 - 1, limits.MAX_WAIT_NS)],
)
def test_an_iteration_waits_as_long_as_it_may_and_a_minute_at_most(make, max_wait_ns, wait_ns):
    loop, hub = make()
    loop.iterate(max_wait_ns)
    assert hub.calls == [(wait_ns, True)]


def test_the_hub_may_take_many_iterations_before_it_comes_back(make):
    loop, hub = make()
    loop.call_later(0, loop.stop)
    loop.call_later(SECOND_NS, lambda: None)
    loop.run()
    assert hub.calls == [(0, False)]


def test_timers_shorten_the_wait_and_run_once(make):
    loop, hub = make()
    ran = []
    loop.call_later(3 * SECOND_NS, lambda: ran.append("late"))
    loop.call_later(SECOND_NS, lambda: ran.append("soon"))
    loop.iterate(60 * SECOND_NS)
    assert (hub.calls[-1], ran) == ((SECOND_NS, True), [])
    hub.next_ns = SECOND_NS
    loop.iterate(60 * SECOND_NS)
    assert ran == ["soon"]
    hub.next_ns = 10 * SECOND_NS
    loop.iterate(60 * SECOND_NS)
    assert (hub.calls[-1], ran) == ((2 * SECOND_NS, True), ["soon", "late"])
    loop.iterate(60 * SECOND_NS)
    assert (hub.calls[-1], ran) == ((60 * SECOND_NS, True), ["soon", "late"])


def test_a_timer_may_set_itself_again(make):
    loop, hub = make()
    beats = []

    def beat():
        beats.append(loop.now_ns)
        loop.call_later(SECOND_NS, beat)

    beat()
    for hub.next_ns in range(0, 5 * SECOND_NS, SECOND_NS // 2):
        loop.iterate(60 * SECOND_NS)
    assert beats == [n * SECOND_NS for n in range(5)]


def test_a_timer_that_fails_and_those_behind_it_run_in_the_next_iteration(make):
    loop, _ = make()
    ran = []

    def fail_once():
        ran.append("first")
        if len(ran) == 1:
            raise MemoryError

    loop.call_later(0, fail_once)
    loop.call_later(0, lambda: ran.append("second"))
    with pytest.raises(MemoryError):
        loop.iterate(0)
    loop.iterate(0)
    loop.iterate(0)
    assert ran == ["first", "first", "second"]


def test_stop_before_run_runs_nothing(make):
    loop, hub = make()
    loop.stop()
    loop.run()
    assert hub.calls == []


def test_an_iteration_without_memory_is_given_up_and_the_next_one_comes(make, monkeypatch):
    loop, hub = make()
    iterations = []

    def serve(until_ns, once):
        iterations.append(once)
        if len(iterations) == 2:
            loop.stop()
            return
        raise MemoryError

    monkeypatch.setattr(hub, "serve", serve)
    loop.run()
    assert iterations == [False, False]


def test_another_thread_ends_the_wait(make):
    loop, _ = make(WaitingHub)
    thread = threading.Thread(target=loop.run)
    thread.start()
    loop.stop()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


def test_waking_often_costs_few_iterations_and_never_blocks(make):
    loop, hub = make(WaitingHub)
    for _ in range(100_000):
        loop.wake()
    while hub.poller.wait(0):
        loop.iterate(0)
    assert 0 < len(hub.calls) < 1000


def test_a_signal_can_wake_through_the_descriptor(make):
    loop, hub = make(WaitingHub)
    assert not os.get_blocking(loop.wake_fd)
    os.write(loop.wake_fd, b"\x0f")
    assert [hub.poller.data_of(fd) for fd, _ in hub.poller.wait(0)] == [loop._woken]
    loop.iterate(60 * SECOND_NS)
    assert hub.poller.wait(0) == []


def test_waking_a_closed_loop_is_no_error(poller):
    loop = Loop(poller, MadeUpHub())
    fd = loop._wake_out.fileno()
    assert poller.data_of(fd) == loop._woken
    loop.close()
    assert poller.data_of(fd) is None
    loop.wake()
