"""The compiled selector beside ``selectors.EpollSelector``: the same calls, the same answers, the same errors."""

import os
import resource
import selectors
import signal
import socket
import threading
import time

import pytest

from fastbean.net.poller import Poller, new_selector

pytestmark = pytest.mark.skipif(not hasattr(selectors, "EpollSelector"), reason="there is no epoll here")

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MORE_THAN_AT_ONCE = 1500


class InterruptedByTestError(Exception):
    pass


@pytest.fixture(params=["EpollSelector", "Poller"])
def selector(request):
    """The standard library's selector shows that a test asks for what it does, ours that we do the same."""
    with Poller() if request.param == "Poller" else selectors.EpollSelector() as made:
        yield made


@pytest.fixture
def poller():
    with Poller() as made:
        yield made


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def on_alarm():
    """Sets what happens when the alarm goes off, and when it does: a function of a handler and seconds."""
    before = signal.getsignal(signal.SIGALRM)

    def set_alarm(handler, seconds):
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_linux_gets_the_compiled_one():
    with new_selector() as made:
        assert type(made) is Poller


def test_it_tells_what_is_ready_and_for_what(selector, pair):
    one, other = pair
    key = selector.register(one, READ | WRITE, "data")
    assert key == selectors.SelectorKey(one, one.fileno(), READ | WRITE, "data")
    assert selector.select(0) == [(key, WRITE)]
    other.send(b"x")
    assert selector.select() == [(key, READ | WRITE)]
    key = selector.modify(one, READ, "other data")
    assert key == selectors.SelectorKey(one, one.fileno(), READ, "other data")
    assert selector.select(60) == [(key, READ)]
    assert selector.unregister(one) == key
    assert selector.select(0) == []


def test_the_data_alone_can_change(selector, pair):
    selector.register(pair[0], WRITE, "before")
    key = selector.modify(pair[0], WRITE, "after")
    assert selector.get_key(pair[0]).data == "after"
    assert selector.select(0) == [(key, WRITE)]


@pytest.mark.parametrize("events", [READ, WRITE, READ | WRITE])
def test_a_hang_up_is_told_as_what_was_asked_for(selector, pair, events):
    key = selector.register(pair[0], events)
    pair[1].close()
    assert selector.select(0) == [(key, events)]


def test_a_descriptor_is_as_good_as_its_file(selector, pair):
    fd = pair[0].fileno()
    key = selector.register(fd, READ)
    assert key == (fd, fd, READ, None)
    assert selector.get_key(pair[0]) == key
    assert selector.unregister(pair[0]) == key


class NoFile:
    def fileno(self):
        return "none"


@pytest.mark.parametrize("events", [0, 4, READ | 8])
def test_events_that_there_are_not(selector, pair, events):
    with pytest.raises(ValueError, match="Invalid events"):
        selector.register(pair[0], events)
    assert len(selector.get_map()) == 0


@pytest.mark.parametrize("events", [0, 4, READ | 8])
def test_events_that_there_are_not_cannot_be_changed_to(poller, pair, events):
    key = poller.register(pair[0], READ)
    with pytest.raises(ValueError, match="Invalid events"):
        poller.modify(pair[0], events)
    assert poller.get_key(pair[0]) == key


@pytest.mark.parametrize("fileobj", ["text", None, NoFile(), -1])
def test_what_is_no_file(selector, fileobj):
    for ask in (
        lambda: selector.register(fileobj, READ),
        lambda: selector.modify(fileobj, READ),
        lambda: selector.unregister(fileobj),
        lambda: selector.get_key(fileobj),
    ):
        with pytest.raises(ValueError, match="Invalid file"):
            ask()


def test_twice_is_once_too_often(selector, pair):
    selector.register(pair[0], READ)
    for fileobj in (pair[0], pair[0].fileno()):
        with pytest.raises(KeyError, match="is already registered"):
            selector.register(fileobj, WRITE)
    assert selector.get_key(pair[0]).events == READ


def test_what_was_never_registered(selector, pair):
    selector.register(pair[0], READ)
    for ask in (selector.unregister, selector.get_key, lambda it: selector.modify(it, READ)):
        with pytest.raises(KeyError, match="is not registered"):
            ask(pair[1])
        with pytest.raises(KeyError, match="is not registered"):
            ask(1_000_000)


def test_what_the_kernel_cannot_watch(selector, tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        selector.register(file, WRITE)
    assert len(selector.get_map()) == 0


def test_a_closed_file_can_still_be_taken_out(selector, pair):
    fd = pair[0].fileno()
    selector.register(pair[0], READ, "data")
    pair[0].close()
    assert selector.select(0) == []
    assert selector.unregister(pair[0]) == (pair[0], fd, READ, "data")
    with pytest.raises(ValueError, match="Invalid file descriptor"):
        selector.unregister(pair[0])


def test_a_closed_file_that_cannot_be_modified_is_given_up(selector, pair):
    selector.register(pair[0], READ)
    pair[0].close()
    with pytest.raises(OSError):
        selector.modify(pair[0], WRITE)
    assert len(selector.get_map()) == 0


def test_the_map_shows_what_is_registered_now(selector, pair):
    registered = selector.get_map()
    assert len(registered) == 0
    keys = [selector.register(end, READ, place) for place, end in enumerate(pair)]
    assert len(registered) == 2
    assert list(registered.values()) == keys
    assert list(registered) == [end.fileno() for end in pair]
    assert registered[pair[1]] == keys[1]
    assert pair[1].fileno() in registered
    with pytest.raises(KeyError):
        registered[1_000_000]


def test_after_the_close_there_is_nothing(selector, pair):
    selector.register(pair[0], READ)
    selector.close()
    selector.close()
    assert selector.get_map() is None
    for ask in (selector.fileno, lambda: selector.select(0), lambda: selector.register(pair[1], READ)):
        with pytest.raises(ValueError):
            ask()
    with pytest.raises(RuntimeError):
        selector.get_key(pair[0])


def test_its_own_descriptor_is_ready_when_something_is(selector, pair):
    assert not os.get_inheritable(selector.fileno())
    with selectors.SelectSelector() as outer:
        outer.register(selector, READ)
        selector.register(pair[0], READ)
        assert outer.select(0) == []
        pair[1].send(b"x")
        assert len(outer.select(0)) == 1


@pytest.mark.parametrize("timeout_s", [0, -1, -0.5, 1e-9, 0.001, 0.0201])
def test_a_wait_is_not_shorter_than_asked(selector, pair, timeout_s):
    selector.register(pair[0], READ)
    began_s = time.monotonic()
    assert selector.select(timeout_s) == []
    assert time.monotonic() - began_s >= timeout_s


@pytest.mark.parametrize("timeout_s", [None, 1e5, 1e30])
def test_a_long_wait_ends_when_something_comes(poller, pair, timeout_s):
    key = poller.register(pair[0], READ)
    thread = threading.Timer(0.01, pair[1].send, [b"x"])
    thread.start()
    assert poller.select(timeout_s) == [(key, READ)]
    thread.join()


@pytest.mark.parametrize("timeout_s", [None, 60])
def test_a_signal_is_handled_and_the_wait_goes_on(selector, pair, on_alarm, timeout_s):
    key = selector.register(pair[0], READ)
    handled = []

    def handle(number, _frame):
        handled.append(number)
        on_alarm(lambda *_: pair[1].send(b"x"), 0.01)

    on_alarm(handle, 0.01)
    assert selector.select(timeout_s) == [(key, READ)]
    assert handled == [signal.SIGALRM]


def test_what_a_signal_handler_raises_ends_the_wait(selector, on_alarm):
    def handle(*_):
        raise InterruptedByTestError

    def select_with_an_alarm():  # which may go off before the wait begins
        on_alarm(handle, 0.01)
        selector.select()

    with pytest.raises(InterruptedByTestError):
        select_with_an_alarm()


def test_a_signal_does_not_shorten_a_wait(selector, on_alarm):
    on_alarm(lambda *_: None, 0.01)
    began_s = time.monotonic()
    assert selector.select(0.05) == []
    assert time.monotonic() - began_s >= 0.05


def test_time_is_noted_at_the_end_of_a_wait(poller):
    before_ns = time.monotonic_ns()
    poller.select(0.001)
    assert before_ns + 1_000_000 <= poller.now_ns <= time.monotonic_ns()


@pytest.fixture
def many_descriptors():
    """Descriptors of which one end is always ready to be written to."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    one, other = socket.socketpair()
    with one, other:
        fds = [os.dup(one.fileno()) for _ in range(MORE_THAN_AT_ONCE)]
        yield fds
        for fd in fds:
            os.close(fd)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_than_one_wait_can_find_come_in_turn(poller, many_descriptors):
    for fd in many_descriptors:
        poller.register(fd, WRITE)
    assert len(poller.select(0)) < MORE_THAN_AT_ONCE
    assert {key.fd for _ in range(2) for key, _ in poller.select(0)} == set(many_descriptors)
