"""Signals: a clean stop, a faster one, drain mode, and a hang-up."""

import os
import pty
import signal
import socket

import pytest

from .conftest import fastbean_command, wait_until


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_is_status_0(start, number):
    daemon = start()
    waiting = daemon.connect()
    assert waiting.ask(b"watch t\r\n") == b"WATCHING 2\r\n"
    waiting.sock.sendall(b"reserve\r\n")
    other = daemon.connect()
    wait_until(lambda: other.stats()["current-waiting"] == "1", "the reserve to have come")
    assert daemon.stop(number) == 0
    assert waiting.lines.read() == b""
    assert f"INFO stopping signal={number.name}\n" in daemon.log
    assert daemon.log.endswith(" INFO stopped\n")
    assert "Traceback" not in daemon.log


def test_a_stop_ends_an_idle_server_that_never_had_a_client(start):
    assert start().stop() == 0


def slow_reader(daemon, body):
    """A client that has asked for a body which fits no buffer of the kernel's, and has not read it."""
    client = daemon.connect()
    client.sock.sendall(b"put 0 0 99 %d\r\n%s\r\nreserve\r\n" % (len(body), body))
    assert client.lines.readline() == b"INSERTED 1\r\n"
    assert client.lines.readline() == b"RESERVED 1 %d\r\n" % len(body)
    return client


def test_what_was_answered_is_sent_before_the_end(start):
    body = b"x" * (8 << 20)
    daemon = start("-z", str(len(body)), "--stop-timeout=600")
    client = slow_reader(daemon, body)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait_for_line("INFO stopping signal=SIGTERM")
    assert client.lines.read() == body + b"\r\n"
    assert daemon.wait() == 0
    assert "WARNING" not in daemon.log


def test_nobody_is_accepted_while_it_stops(start, tmp_path):
    path = tmp_path / "socket"
    body = b"x" * (8 << 20)
    daemon = start("-l", "127.0.0.1", "-l", f"unix:{path}", "-z", str(len(body)), "--stop-timeout=600")
    slow_reader(daemon, body)
    daemon.send_signal(signal.SIGTERM)
    wait_until(lambda: not path.exists(), "the listeners to be closed")
    with pytest.raises(ConnectionRefusedError):
        daemon.connect()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_wait(start, second):
    body = b"x" * (8 << 20)
    daemon = start("-z", str(len(body)), "--stop-timeout=600")
    slow_reader(daemon, body)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait_for_line("INFO stopping signal=SIGTERM")
    assert daemon.process.poll() is None
    assert daemon.stop(second) == 0
    assert f"INFO stopping-at-once signal={second.name}\n" in daemon.log
    assert "WARNING replies-not-sent connections=1\n" in daemon.log


def test_a_second_signal_while_senders_are_waited_for_is_no_error(start):
    body = b"x" * 50_000
    daemon = start("--stop-timeout=60")
    client, idle = daemon.connect(), daemon.connect()
    # It has replies on their way to it, for it does not read, and half a command behind those it has sent.
    client.sock.sendall(b"put 0 0 99 %d\r\n%s\r\n" % (len(body), body) + b"peek 1\r\n" * 20 + b"put 0 0 1 100\r\nhalf")
    assert idle.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    daemon.send_signal(signal.SIGTERM)
    assert idle.lines.read() == b""
    daemon.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    assert "Errno" not in daemon.log
    assert daemon.log.endswith(" INFO stopped\n")


def test_the_wait_of_a_stop_has_an_end(start):
    body = b"x" * (8 << 20)
    daemon = start("-z", str(len(body)), "--stop-timeout=0")
    slow_reader(daemon, body)
    assert daemon.stop() == 0
    assert "WARNING replies-not-sent connections=1\n" in daemon.log


def test_sigusr1_drains(start):
    daemon = start()
    client = daemon.connect()
    assert client.ask(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
    assert client.stats()["draining"] == "false"
    daemon.send_signal(signal.SIGUSR1)
    daemon.wait_for_line("INFO draining")
    assert client.stats()["draining"] == "true"
    assert client.ask(b"put 0 0 60 1\r\nb\r\n") == b"DRAINING\r\n"
    assert client.ask(b"reserve\r\n") == b"RESERVED 1 1\r\n"
    daemon.send_signal(signal.SIGUSR1)
    assert daemon.stop() == 0


def test_sigusr2_ends_drain_mode(start):
    daemon = start()
    client = daemon.connect()
    daemon.send_signal(signal.SIGUSR1)
    daemon.wait_for_line("INFO draining")
    assert client.ask(b"put 0 0 60 1\r\na\r\n") == b"DRAINING\r\n"
    daemon.send_signal(signal.SIGUSR2)
    daemon.wait_for_line("INFO no-longer-draining")
    assert client.stats()["draining"] == "false"
    assert client.ask(b"put 0 0 60 1\r\nb\r\n") == b"INSERTED 2\r\n"
    daemon.send_signal(signal.SIGUSR1)
    wait_until(lambda: daemon.log.count("INFO draining") == 2, "drain mode once more")
    assert client.ask(b"put 0 0 60 1\r\nc\r\n") == b"DRAINING\r\n"
    assert daemon.stop() == 0


@pytest.mark.parametrize(
    ("number", "line"),
    [(signal.SIGUSR2, "no-longer-draining"), (signal.SIGHUP, "hang-up-ignored")],
    ids=["SIGUSR2 without drain mode", "SIGHUP without a terminal"],
)
def test_a_signal_that_is_only_logged(start, number, line):
    daemon = start()
    daemon.send_signal(number)
    daemon.wait_for_line(f"INFO {line}")
    assert daemon.connect().ask(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
    assert daemon.stop() == 0


@pytest.fixture
def terminal():
    """The two ends of a terminal."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"hangs a terminal up, and the system has none to give: {error}")
    yield theirs
    os.close(theirs)
    os.close(ours)


def test_a_hang_up_of_the_terminal_stops_it(start, terminal):
    assert start(stdin=terminal).stop(signal.SIGHUP) == 0


def test_under_nohup_a_hang_up_does_nothing(start, terminal):
    daemon = start(stdin=terminal, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    daemon.send_signal(signal.SIGHUP)
    assert daemon.connect().ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0
    assert "HUP" not in daemon.log


def test_signals_during_the_start_are_not_lost(launch):
    daemon = launch(fastbean_command("-l", "127.0.0.1", "-p", "0"))
    daemon.wait_for_line("INFO listening")
    assert daemon.stop() == 0


def test_a_client_that_is_gone_does_not_end_it(start):
    daemon = start()
    for _ in range(20):
        client = daemon.connect()
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.sock.sendall(b"stats\r\n" * 100)
        client.close()
    assert daemon.connect().ask(b"list-tube-used\r\n") == b"USING default\r\n"
    assert daemon.stop() == 0
