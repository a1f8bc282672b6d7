"""The question that containers and monitors ask."""

import socket
import threading

import pytest

import fastbean
from fastbean.daemon import health
from patience import PATIENCE_S


@pytest.fixture(autouse=True)
def more_patience(monkeypatch):
    """For a slow machine."""
    monkeypatch.setattr(health, "PATIENCE_S", PATIENCE_S)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_server_that_serves_is_healthy(kind, tmp_path, capsys):
    address = "127.0.0.1" if kind == "tcp" else f"unix:{tmp_path}/socket"
    with fastbean.Server(fastbean.Config(listen=[address], port=0)) as server:
        assert health.main([server.addresses[0]]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nonexistent/socket"])
def test_where_nobody_listens_it_is_unhealthy(address, capsys):
    assert health.main([address]) == 1
    said, complained = capsys.readouterr()
    assert said == ""
    assert complained.startswith(f"fastbean health: {address}: [Errno ")


@pytest.mark.parametrize("arguments", [["--wrong"], ["a", "b"], [""], ["host:port"]])
def test_wrong_arguments(arguments, capsys):
    assert health.main(arguments) == 5
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("answer", "words"), [(b"OK 1\r\n", "it answered b'OK 1"), (b"", "it answered b''")])
def test_somebody_else_is_not_healthy(answer, words, capsys):
    def serve(listener):
        client, _ = listener.accept()
        with client:
            client.recv(100)
            client.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        assert health.main([f"127.0.0.1:{listener.getsockname()[1]}"]) == 1
        thread.join()
    assert words in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_unhealthy(monkeypatch, capsys):
    monkeypatch.setattr(health, "PATIENCE_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert health.main([f"127.0.0.1:{listener.getsockname()[1]}"]) == 1
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize("host", ["a..\u00e9", "..", "x" * 300 + "\u00e9"])
def test_what_cannot_be_a_host_is_one_line(host, capsys):
    assert health.main([host]) == 1
    assert capsys.readouterr().err.count("\n") == 1
