"""Ports that the system chooses for a host with several addresses; paths that are nearly too long for a socket."""

import errno
import socket

import pytest

from fastbean.base import limits
from fastbean.errors import ListenError
from fastbean.net import listener
from fastbean.net.listener import Address, Options, bind_all


def connect(unix):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(unix.sock.getsockname())


@pytest.fixture
def both(monkeypatch):
    """A host with two addresses."""
    tcp = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [(socket.AF_INET6, *tcp, ("::1", 0, 0, 0)), (socket.AF_INET, *tcp, ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    return Address("both", 0)


def test_a_port_that_the_system_chooses_is_one_for_all_addresses_of_a_host(both, bind):
    six, four = bind(both)
    assert six.port == four.port != 0
    assert six.sock.family == socket.AF_INET6


def test_a_chosen_port_that_is_taken_at_the_other_address_is_chosen_again(both, bind, monkeypatch):
    real, tried = listener._bind_tcp, []

    def busy_at_first(family, *arguments):
        tried.append(family)
        if len(tried) in (2, 4):
            raise OSError(errno.EADDRINUSE, "busy")
        return real(family, *arguments)

    monkeypatch.setattr(listener, "_bind_tcp", busy_at_first)
    six, four = bind(both)
    assert tried == [socket.AF_INET6, socket.AF_INET] * 3
    assert six.port == four.port


def test_a_port_is_chosen_so_often_and_not_for_ever(both, monkeypatch):
    tried = []

    def always_busy(*arguments):
        tried.append(arguments)
        raise OSError(errno.EADDRINUSE, "busy")

    monkeypatch.setattr(listener, "_bind_tcp", always_busy)
    with pytest.raises(ListenError, match="another server has this address"):
        bind_all([both], Options())
    assert len(tried) == limits.PORT_CHOICES


def test_a_short_relative_path_works_in_a_deep_folder(bind, tmp_path, monkeypatch):
    deep = tmp_path.joinpath(*["a" * 30] * 4)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    (first,) = bind(Address(path="s"))
    assert first.name == f"unix:{deep}/s"
    connect(first)
    with pytest.raises(ListenError, match="another server does"):
        bind(Address(path="s"))
    first.sock.close()
    (second,) = bind(Address(path="./s"))
    connect(second)
    second.close()
    assert list(deep.iterdir()) == []


def test_a_path_that_is_too_long_for_a_socket(bind):
    with pytest.raises(ListenError, match="too long; choose a shorter path, or one relative to"):
        bind(Address(path="/" + "a" * 200))
