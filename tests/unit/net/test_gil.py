"""A server serves its clients while another thread of its process keeps the interpreter's lock, the GIL.

The test holds it from before the client connects until that has ended, so that the server must not need it even once. A
debug build counts, too, how often the loop takes it.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys

import pytest

from fastbean.base.debug_counters import acquisitions_of_the_gil
from fastbean.config import Config
from fastbean.server import Server
from patience import PATIENCE_S

# Every command, over several connections one after the other; each has other clients wait, too.
SESSION = """
import signal, socket, sys
signal.alarm(int(sys.argv[2]))
JOB = b"put 1 0 60 5\\r\\nhello\\r\\n"

def connect():
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    lines = sock.makefile("rb")
    def ask(request):
        sock.sendall(request)
        return reply()
    def reply():
        line = lines.readline()
        if line.split()[0] in (b"RESERVED", b"FOUND", b"OK"):
            lines.read(int(line.split()[-1]) + 2)
        return line
    return sock, ask, reply

for number in range(1, 20):
    sock, ask, reply = connect()
    id = ask(b"use t\\r\\n") and ask(JOB).split()[1].strip()
    for command, word in [
        (b"watch t", b"WATCHING"), (b"ignore default", b"WATCHING"), (b"reserve", b"RESERVED"),
        (b"touch " + id, b"TOUCHED"), (b"release " + id + b" 1 0", b"RELEASED"),
        (b"reserve-with-timeout 0", b"RESERVED"), (b"bury " + id + b" 1", b"BURIED"), (b"kick 1", b"KICKED"),
        (b"reserve-job " + id, b"RESERVED"), (b"bury " + id + b" 1", b"BURIED"), (b"kick-job " + id, b"KICKED"),
        (b"peek " + id, b"FOUND"), (b"peek-ready", b"FOUND"), (b"peek-delayed", b"NOT_FOUND"),
        (b"peek-buried", b"NOT_FOUND"), (b"stats-job " + id, b"OK"), (b"stats-tube t", b"OK"), (b"stats", b"OK"),
        (b"list-tubes", b"OK"), (b"list-tube-used", b"USING"), (b"list-tubes-watched", b"OK"),
        (b"pause-tube default 0", b"PAUSED"), (b"nonsense", b"UNKNOWN_COMMAND"), (b"delete " + id, b"DELETED"),
        (b"reserve-with-timeout 0", b"TIMED_OUT"),
    ]:
        line = ask(command + b"\\r\\n")
        assert line.startswith(word), (command, line)
    waiting = connect()
    waiting[0].sendall(b"watch t\\r\\nreserve\\r\\n")
    assert waiting[2]() == b"WATCHING 2\\r\\n"
    ask(JOB)
    line = waiting[2]()
    assert line.startswith(b"RESERVED"), line
    assert waiting[1](b"delete " + line.split()[1] + b"\\r\\n") == b"DELETED\\r\\n"
    if number % 2:
        sock.sendall(b"quit\\r\\n")
        assert sock.recv(1) == b""
    sock.close()
    waiting[0].close()
"""

# Unlike CDLL, it keeps the GIL during a call.
with_the_gil = ctypes.PyDLL(None)


@pytest.mark.parametrize("binlog", ["no binlog", "-F", "-f 0"])
def test_clients_are_served_while_another_thread_has_the_gil(tmp_path, binlog):
    settings = {} if binlog == "no binlog" else {"binlog_dir": tmp_path, "fsync_ms": 0 if binlog == "-f 0" else None}
    status = ctypes.c_int(-1)
    with Server(Config(listen=["127.0.0.1"], port=0, **settings)) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as first:
            # Once this is answered, the loop runs, and a binlog has its room: a Python thread makes that.
            first.sendall(b"put 0 0 60 0\r\n\r\n")
            assert first.recv(100) == b"INSERTED 1\r\n"
            first.sendall(b"delete 1\r\n")
            assert first.recv(100) == b"DELETED\r\n"
        command = [sys.executable, "-c", SESSION, str(server.port), str(int(PATIENCE_S))]
        client = subprocess.Popen(command, stdin=subprocess.PIPE)
        before = acquisitions_of_the_gil()
        assert with_the_gil.waitpid(client.pid, ctypes.byref(status), 0) == client.pid
        after = acquisitions_of_the_gil()
        client.returncode = os.waitstatus_to_exitcode(status.value)
        client.stdin.close()
    assert client.returncode != -signal.SIGALRM, "the server has waited for the GIL"
    assert client.returncode == 0
    assert before == after
