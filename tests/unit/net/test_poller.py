"""The compiled poller and the standard library's selector: the same methods, answers and errors."""

import errno
import os
import resource
import select
import selectors
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from fastbean.net.poller import Poller, new_selector
from fastbean.net.selector_poller import SelectorPoller

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
MINUTE_NS = 60_000_000_000
MILLISECOND_NS = 1_000_000
MORE_THAN_AT_ONCE = 1500


class InterruptedByTestError(Exception):
    pass


@pytest.fixture(params=["compiled", "selectors"])
def poller(request):
    made = new_selector(request.param)
    yield made
    made.close()


@pytest.fixture
def compiled():
    made = Poller()
    yield made
    made.close()


@pytest.fixture
def pair():
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def fd(pair):
    return pair[0].fileno()


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


@pytest.mark.parametrize(("kind", "expected"), [("compiled", Poller), ("selectors", SelectorPoller)])
def test_each_kind_can_be_asked_for(kind, expected):
    made = new_selector(kind)
    assert type(made) is expected
    made.close()


def test_the_compiled_one_is_the_default():
    made = new_selector()
    assert type(made) is Poller
    made.close()


def test_without_epoll_both_kinds_are_the_standard_librarys(monkeypatch):
    monkeypatch.delattr(select, "epoll")
    for kind in ("compiled", "selectors"):
        made = new_selector(kind)
        assert type(made) is SelectorPoller
        made.close()


def test_another_kind_is_an_error():
    with pytest.raises(ValueError, match="'asyncio' is no event loop; choose 'compiled' or 'selectors'"):
        new_selector("asyncio")


def test_it_returns_what_is_ready_and_for_what(poller, pair, fd):
    poller.add(fd, READ | WRITE, "data")
    assert poller.data_of(fd) == "data"
    assert poller.wait(0) == [(fd, WRITE)]
    pair[1].send(b"x")
    assert poller.wait(-1) == [(fd, READ | WRITE)]
    poller.change(fd, READ)
    assert poller.wait(MINUTE_NS) == [(fd, READ)]
    assert poller.data_of(fd) == "data"
    poller.remove(fd)
    assert poller.wait(0) == []
    assert poller.data_of(fd) is None


@pytest.mark.parametrize("events", [READ, WRITE, READ | WRITE])
def test_a_hang_up_is_reported_as_what_was_asked_for(poller, pair, fd, events):
    poller.add(fd, events, None)
    pair[1].close()
    assert poller.wait(0) == [(fd, events)]


@pytest.mark.parametrize("events", [0, 4, READ | 8])
def test_events_that_do_not_exist(poller, fd, events):
    with pytest.raises(ValueError, match="Invalid events"):
        poller.add(fd, events, "data")
    assert poller.data_of(fd) is None


@pytest.mark.parametrize("events", [0, 4, READ | 8])
def test_events_that_do_not_exist_cannot_be_changed_to(compiled, fd, events):
    compiled.add(fd, WRITE, "data")
    with pytest.raises(ValueError, match="Invalid events"):
        compiled.change(fd, events)
    assert compiled.wait(0) == [(fd, WRITE)]


def test_what_is_no_descriptor(poller):
    with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
        poller.add(-1, READ, "data")
    with pytest.raises((ValueError, KeyError)):
        poller.change(-1, READ)


def test_twice_is_once_too_often(poller, fd):
    poller.add(fd, WRITE, "data")
    with pytest.raises(KeyError):
        poller.add(fd, READ, "other")
    assert poller.data_of(fd) == "data"
    assert poller.wait(0) == [(fd, WRITE)]


@pytest.mark.parametrize("other", [1, 1_000_000])
def test_what_was_never_added(poller, fd, other):
    poller.add(fd, READ, "data")
    with pytest.raises(KeyError):
        poller.change(other, READ)
    poller.remove(other)
    assert poller.data_of(other) is None
    assert poller.data_of(fd) == "data"


def test_what_the_kernel_cannot_watch(poller, tmp_path):
    with (tmp_path / "file").open("w") as file, pytest.raises(PermissionError):
        poller.add(file.fileno(), WRITE, "data")
    assert poller.data_of(file.fileno() if not file.closed else 0) is None


def test_a_closed_file_can_still_be_removed(poller, pair, fd):
    poller.add(fd, READ, "data")
    pair[0].close()
    assert poller.wait(0) == []
    poller.remove(fd)
    poller.remove(fd)
    assert poller.data_of(fd) is None


def test_a_closed_file_that_cannot_be_changed_is_watched_no_longer(poller, pair, fd):
    poller.add(fd, READ, "data")
    pair[0].close()
    with pytest.raises(OSError) as caught:
        poller.change(fd, WRITE)
    assert caught.value.errno == errno.EBADF
    assert poller.data_of(fd) is None


def test_after_the_close_there_is_nothing(poller, pair, fd):
    poller.add(fd, READ, "data")
    poller.close()
    poller.close()
    assert poller.data_of(fd) is None
    poller.remove(fd)
    with pytest.raises((ValueError, KeyError)):
        poller.change(fd, WRITE)
    for ask in (lambda: poller.wait(0), lambda: poller.add(pair[1].fileno(), READ, "data")):
        with pytest.raises((ValueError, OSError)):
            ask()


def test_no_program_inherits_it():
    next_fd = os.dup(0)
    os.close(next_fd)
    made = Poller()
    # The system hands out the lowest descriptor that is free.
    assert str(Path(f"/proc/self/fd/{next_fd}").readlink()) == "anon_inode:[eventpoll]"
    assert not os.get_inheritable(next_fd)
    made.close()


@pytest.mark.parametrize("timeout_ns", [0, 1, MILLISECOND_NS, 20_100_000])
def test_a_wait_is_not_shorter_than_asked(poller, fd, timeout_ns):
    poller.add(fd, READ, None)
    began_ns = time.monotonic_ns()
    assert poller.wait(timeout_ns) == []
    assert time.monotonic_ns() - began_ns >= timeout_ns


@pytest.mark.parametrize("timeout_ns", [-1, 100_000 * 1_000_000_000, 2**63 - 1_000_000])
def test_a_long_wait_ends_when_something_comes(compiled, pair, fd, timeout_ns):
    compiled.add(fd, READ, None)
    thread = threading.Timer(0.01, pair[1].send, [b"x"])
    thread.start()
    assert compiled.wait(timeout_ns) == [(fd, READ)]
    thread.join()


def test_a_signal_is_handled_within_a_wait(poller, pair, fd, on_alarm):
    poller.add(fd, READ, None)
    handled = []

    def handle(number, _frame):
        handled.append(number)
        pair[1].send(b"x")

    on_alarm(handle, 0.01)
    # The compiled one returns with nothing when a signal came.
    while not (found := poller.wait(-1)):
        pass
    assert (found, handled) == ([(fd, READ)], [signal.SIGALRM])


def test_what_a_signal_handler_raises_ends_the_wait(poller, on_alarm):
    def handle(*_):
        raise InterruptedByTestError

    def wait_with_an_alarm():  # which may go off before the wait begins
        on_alarm(handle, 0.01)
        poller.wait(-1)

    with pytest.raises(InterruptedByTestError):
        wait_with_an_alarm()


def test_time_is_noted_at_the_end_of_a_wait(compiled):
    before_ns = time.monotonic_ns()
    compiled.wait(MILLISECOND_NS)
    assert before_ns + MILLISECOND_NS <= compiled.now_ns <= time.monotonic_ns()


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


def test_more_than_one_wait_can_find_come_in_turn(compiled, many_descriptors):
    for fd in many_descriptors:
        compiled.add(fd, WRITE, None)
    assert len(compiled.wait(0)) < MORE_THAN_AT_ONCE
    assert {fd for _ in range(2) for fd, _ in compiled.wait(0)} == set(many_descriptors)
