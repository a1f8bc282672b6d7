"""What is read from the environment, and what is told to NOTIFY_SOCKET."""

import socket

import pytest

from fastbean.daemon import systemd
from fastbean.errors import ListenError
from patience import PATIENCE_S


@pytest.mark.parametrize(
    ("environ", "fds"),
    [
        ({}, []),
        ({"LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": "7"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "3"}, [3, 4, 5]),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "3"}, []),
        ({"LISTEN_PID": "x", "LISTEN_FDS": "3"}, []),
    ],
)
def test_only_descriptors_for_this_process_are_taken(environ, fds):
    assert systemd.inherited_fds(environ, 7) == fds


@pytest.mark.parametrize("count", ["", "x", "-1", "9999999"])
def test_a_wrong_count_is_an_error(count):
    with pytest.raises(ListenError, match="LISTEN_FDS="):
        systemd.inherited_fds({"LISTEN_PID": "7", "LISTEN_FDS": count}, 7)


def test_the_variables_of_the_sockets_are_forgotten_and_no_others():
    environ = {"LISTEN_PID": "7", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "a", "NOTIFY_SOCKET": "/x"}
    systemd.forget(environ)
    assert environ == {"NOTIFY_SOCKET": "/x"}


@pytest.mark.parametrize(
    ("environ", "interval_ns"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1_500_000_000),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "7"}, 1_500_000_000),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_told_at_half_its_time(environ, interval_ns):
    assert systemd.watchdog_interval_ns(environ, 7) == interval_ns


@pytest.mark.parametrize("abstract", [False, True])
def test_assignments_go_out_in_one_message(tmp_path, abstract):
    name = f"@fastbean-{tmp_path}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name[1:] if abstract else name)
        manager.settimeout(PATIENCE_S)
        systemd.notifier({"NOTIFY_SOCKET": name}).notify("READY=1", "STATUS=serving")
        assert manager.recv(4096) == b"READY=1\nSTATUS=serving"


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path", "/no/such/place"])
def test_nobody_to_tell_is_no_error(address):
    assert systemd.Notifier(address).notify("READY=1") is None
