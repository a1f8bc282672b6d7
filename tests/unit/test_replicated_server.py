"""The server of a replicated binlog, as far as it gets without a stream."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fastbean.config import Config, SettingError
from fastbean.errors import ListenError, UsageError
from fastbean.replicated_server import ReplicatedServer
from patience import PATIENCE_S

NOWHERE = "nats://127.0.0.1:1/jobs"  # nothing listens on this port


def config(**settings: object) -> Config:
    return Config(**{"listen": ["127.0.0.1"], "port": 0, "replicate": NOWHERE, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"replicate": None}, "it must be the address of a stream"),
        ({"replicate": "nats://n1"}, "the name of the stream is missing"),
        ({"replicate_credentials": "/none"}, "/none: No such file or directory"),
    ],
)
def test_wrong_settings(settings: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        ReplicatedServer(config(**settings))
    assert text in str(refusal.value)


def test_other_nodes_have_to_reach_it(tmp_path: Path) -> None:
    for listen in (["0.0.0.0"], [f"unix:{tmp_path}/socket"]):
        with pytest.raises(SettingError, match="--advertise HOST:PORT is needed"):
            ReplicatedServer(config(listen=listen)).bind()
        server = ReplicatedServer(config(listen=listen, advertise="10.0.0.1:11300"))
        server.bind()
        server.close()


def test_an_address_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = ReplicatedServer(config(port=taken.getsockname()[1]))
        with pytest.raises(ListenError):
            server.bind()
        server.close()


def test_without_a_stream_it_turns_clients_away_and_stops() -> None:
    events = []
    server = ReplicatedServer(config(), log=lambda _level, event, **_fields: events.append(event))
    server.bind()
    server.open_binlog()
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.settimeout(PATIENCE_S)
                assert client.recv(1) == b""
    finally:
        server.stop()
        thread.join(PATIENCE_S)
        port = server.port
        server.close()
    assert not thread.is_alive()
    assert "stream-trouble" in events
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_the_client_of_nats_is_needed() -> None:
    code = (
        "import sys\n"
        "from fastbean.__main__ import main\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'nats': raise ModuleNotFoundError('no nats', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"sys.exit(main(['-l', '127.0.0.1', '-p', '0', '--replicate', '{NOWHERE}']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (
        5,
        "fastbean: --replicate needs the client of NATS; `pip install fastbean[nats]` brings it\n",
    )
