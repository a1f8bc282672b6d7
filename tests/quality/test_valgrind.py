"""A short session under valgrind's memcheck: no error and no leak in which our own code is involved."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

PATIENCE_S = 300  # a start alone takes ten seconds or more
LARGE = 40000  # larger than what is copied into an outbox

PUT = b"put 5 0 60 5\r\nhello\r\n"
SESSION = [
    (PUT, b"INSERTED 1\r\n"),
    (b"reserve\r\n", b"RESERVED 1 5\r\nhello\r\n"),
    (b"release 1 7 0\r\n", b"RELEASED\r\n"),
    (b"reserve-job 1\r\n", b"RESERVED 1 5\r\nhello\r\n"),
    (b"touch 1\r\n", b"TOUCHED\r\n"),
    (b"bury 1 9\r\n", b"BURIED\r\n"),
    (b"kick-job 1\r\n", b"KICKED\r\n"),
    (b"use other\r\n", b"USING other\r\n"),
    (b"watch other\r\n", b"WATCHING 2\r\n"),
    (b"put 1 3600 60 %d\r\n%s\r\n" % (LARGE, LARGE * b"x"), b"INSERTED 2\r\n"),
    (b"peek-delayed\r\n", b"FOUND 2 %d\r\n%s\r\n" % (LARGE, LARGE * b"x")),
    (b"kick 3\r\n", b"KICKED 1\r\n"),
    (b"pause-tube other 0\r\n", b"PAUSED\r\n"),
    (b"ignore other\r\n", b"WATCHING 1\r\n"),
    (b"list-tubes-watched\r\n", b"OK 14\r\n---\n- default\n\r\n"),
    (b"delete 2\r\n", b"DELETED\r\n"),
    (b"delete 1\r\n", b"DELETED\r\n"),
    (b"put 1 2 3\r\n", b"BAD_FORMAT\r\n"),
    (b"nonsense\r\n", b"UNKNOWN_COMMAND\r\n"),
    (b"put 0 0 0 99999999\r\n", b""),
]


@pytest.fixture
def valgrind() -> str:
    path = shutil.which("valgrind")
    if path is None:
        pytest.skip("valgrind is not installed: apt-get install valgrind")
    return path


def ours(report: Path) -> list[str]:
    """The errors that valgrind reports with one of our modules on the stack, as text."""
    found = []
    for error in ET.parse(report).getroot().iter("error"):
        frames = [(frame.findtext("obj", ""), frame.findtext("fn", "?")) for frame in error.iter("frame")]
        # It calls all garbage-collected objects "possibly lost", because Python points to the middle of their memory.
        if any("/fastbean/" in obj for obj, _ in frames) and error.findtext("kind") != "Leak_PossiblyLost":
            said = error.findtext("what") or error.findtext("xwhat/text") or "?"
            found.append(f"{error.findtext('kind')}: {said}: {' < '.join(fn for _, fn in frames[:8])}")
    return found


def connect(path: Path, process: subprocess.Popen[bytes]) -> socket.socket:
    give_up = time.monotonic() + PATIENCE_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(path))
        except OSError:
            sock.close()
            assert process.poll() is None, f"it ended with {process.returncode}"
            assert time.monotonic() < give_up, "it does not answer"
            time.sleep(0.05)
        else:
            return sock


def play(path: Path, process: subprocess.Popen[bytes]) -> None:
    """Every kind of command, a client that disconnects while it waits, and one that does in the middle of a body."""
    with connect(path, process) as client, connect(path, process) as waiting:
        waiting.sendall(b"watch a\r\nwatch b\r\nreserve\r\n")
        assert waiting.recv(100).startswith(b"WATCHING")
        replies = client.makefile("rb")
        for request, reply in SESSION:
            client.sendall(request)
            assert replies.read(len(reply)) == reply


@pytest.mark.slow
@pytest.mark.parametrize("restart", [False, True], ids=["a first start", "a start with a log"])
def test_a_short_session_is_clean(valgrind: str, tmp_path: Path, restart: bool) -> None:
    path, report = tmp_path / "socket", tmp_path / "report.xml"
    (tmp_path / "log").mkdir()
    daemon = [sys.executable, "-m", "fastbean", "-l", f"unix:{path}", "-b", str(tmp_path / "log"), "-s", "65536"]
    if restart:
        with subprocess.Popen(daemon) as process, connect(path, process) as client:
            client.sendall(PUT)
            assert client.recv(100) == b"INSERTED 1\r\n"
            process.terminate()
        path.unlink(missing_ok=True)
    memcheck = [valgrind, "--leak-check=full", "--num-callers=40", "--xml=yes", f"--xml-file={report}"]
    with subprocess.Popen([*memcheck, *daemon], env={**os.environ, "PYTHONMALLOC": "malloc"}) as process:
        try:
            if restart:
                with connect(path, process) as client:
                    client.sendall(b"peek-ready\r\ndelete 1\r\n")
                    replies = client.makefile("rb")
                    assert [replies.readline() for _ in range(3)] == [b"FOUND 1 5\r\n", b"hello\r\n", b"DELETED\r\n"]
            else:
                play(path, process)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    assert ours(report) == []
