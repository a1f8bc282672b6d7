"""A server inside somebody's program: it works in a thread, beside others, and touches nothing of the process."""

import contextlib
import gc
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastbean
from made_binlogs import saved, write_log
from patience import PATIENCE_S

LOCAL = fastbean.Config(listen=["127.0.0.1"], port=0)

# Expects a large binlog, then takes 240 MB and frees them: how many of them stay? Nothing else may come to lie above.
TAKE_AND_FREE = """
import ctypes
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State

engine = State()
EngineJobs(engine).expect_large_binlog(1 << 30)
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
library.free.argtypes = [ctypes.c_void_p]

def resident_mb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) >> 10

pieces = [None] * 4000
before = resident_mb()
for place in range(4000):
    pieces[place] = library.malloc(60_000)
    ctypes.memset(pieces[place], 1, 60_000)
for piece in pieces:
    library.free(piece)
print(resident_mb() - before)
"""


# A large binlog is read, then jobs of 30 MB come and go, and their memory is released.
READ_AND_RELEASE = """
import ctypes, sys
from fastbean.binlog import binlog
from fastbean.daemon import stderr_log
from fastbean.engine import memory
from fastbean.engine.restore import EngineJobs
from fastbean.engine.state import State
from fastbean.net.hub import Hub

directory, owner = sys.argv[1:]
if owner == "daemon":
    memory.keep_freed()
engine = State(now_ns=0)
binlog.LARGE_BINLOG_BYTES = 1
log = binlog.Binlog(directory, EngineJobs(engine), segment_bytes=1 << 20, fsync_ms=None, log=stderr_log.silent)
log.open(lambda text: None)
log.close()

engine = State(now_ns=0)
hub = Hub(engine)
client = hub.connect()

def ask(request):
    client.feed(request, 0)
    hub.end_iteration(0)
    return client.take_output()

for body in (900, 9000):
    ids = [ask(b"put 0 0 60 %d\\r\\n%s\\r\\n" % (body, b"x" * body)).split()[1] for _ in range(15_000_000 // body)]
    assert {ask(b"delete %s\\r\\n" % id) for id in ids} == {b"DELETED\\r\\n"}
for second in range(5):
    hub.end_iteration(second * 10**9)
library = ctypes.CDLL(None)
for name in ("mallopt_calls", "malloc_trim_calls", "sbrk_calls", "huge_page_calls"):
    print(ctypes.c_long.in_dll(library, name).value)
"""


class Client:
    """A few commands over a plain socket."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self.lines = self.sock.makefile("rb")

    def ask(self, request):
        self.sock.sendall(request)
        return self.lines.readline()

    def close(self):
        self.lines.close()
        self.sock.close()


@pytest.fixture
def connect():
    clients = []

    def connect_to(server):
        clients.append(Client(server.port))
        return clients[-1]

    yield connect_to
    for client in clients:
        client.close()


def test_a_server_in_a_with_block(connect):
    with fastbean.Server(LOCAL) as server:
        client = connect(server)
        assert client.ask(b"put 5 0 60 5\r\nhello\r\n") == b"INSERTED 1\r\n"
        assert client.ask(b"reserve\r\n") == b"RESERVED 1 5\r\n"
        assert client.lines.readline() == b"hello\r\n"
        assert client.ask(b"delete 1\r\n") == b"DELETED\r\n"
    assert client.lines.read() == b""
    assert "fastbean" not in {thread.name for thread in threading.enumerate()}


def test_a_server_in_a_thread_of_ones_own(connect):
    server = fastbean.Server(LOCAL)
    server.start()
    thread = threading.Thread(target=server.run)
    thread.start()
    assert connect(server).ask(b"list-tube-used\r\n") == b"USING default\r\n"
    server.stop()
    thread.join(timeout=PATIENCE_S)
    assert not thread.is_alive()


def test_two_servers_do_not_know_of_each_other(connect):
    with fastbean.Server(LOCAL) as one, fastbean.Server(LOCAL) as two:
        assert one.port != two.port
        first, second = connect(one), connect(two)
        assert first.ask(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
        assert second.ask(b"peek-ready\r\n") == b"NOT_FOUND\r\n"
        one.drain()
        assert second.ask(b"put 0 0 60 1\r\nb\r\n") == b"INSERTED 1\r\n"
        one.close()
        assert second.ask(b"peek 1\r\n") == b"FOUND 1 1\r\n"


def test_many_servers_one_after_another(connect):
    ports = set()
    for _ in range(20):
        with fastbean.Server(LOCAL) as server:
            ports.add(server.port)
            assert connect(server).ask(b"put 0 0 60 1\r\na\r\n") == b"INSERTED 1\r\n"
    assert 0 not in ports


def state_of_the_process():
    signals = {number: signal.getsignal(number) for number in signal.valid_signals()}
    umask = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Umask"))
    return {
        "signals": signals,
        "wakeup": signal.set_wakeup_fd(-1),
        "limits": resource.getrlimit(resource.RLIMIT_NOFILE),
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "umask": umask,
        "user": (os.getresuid(), os.getresgid(), os.getgroups()),
        "streams": (sys.stdin, sys.stdout, sys.stderr),
        "socket timeout": socket.getdefaulttimeout(),
        "switching": sys.getswitchinterval(),
        "collector": (gc.isenabled(), gc.get_threshold(), gc.get_freeze_count()),
        "threads": sorted(thread.name for thread in threading.enumerate()),
    }


def open_descriptors():
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()}


def test_it_touches_nothing_of_the_process(connect, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    before = state_of_the_process()
    config = LOCAL.replace(verbosity=2, listen=[f"unix:{tmp_path}/s", "127.0.0.1"], unix_mode=0o600)
    with fastbean.Server(config) as server:
        during = state_of_the_process()
        assert connect(server).ask(b"bogus\r\n") == b"UNKNOWN_COMMAND\r\n"
    assert during.pop("threads") != before["threads"]
    assert during.items() <= before.items()
    assert state_of_the_process() == before
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_it_gives_its_descriptors_back():
    with fastbean.Server(LOCAL):
        pass
    gc.collect()
    before = open_descriptors()
    for _ in range(3):
        with fastbean.Server(LOCAL) as server:
            with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
                client.sendall(b"put 0 0 1 1000\r\nhalf a job")
    gc.collect()
    assert open_descriptors() == before


def test_stop_and_drain_may_come_from_any_thread(connect):
    with fastbean.Server(LOCAL) as server:
        client = connect(server)
        for call in (server.drain, server.stop):
            thread = threading.Thread(target=call)
            thread.start()
            thread.join(timeout=PATIENCE_S)
            if call == server.drain:
                assert client.ask(b"put 0 0 1 1\r\nx\r\n") == b"DRAINING\r\n"
        assert client.lines.read() == b""


def test_clients_of_a_stopped_server_see_the_end(connect):
    with fastbean.Server(LOCAL) as server:
        clients = [connect(server) for _ in range(50)]
        assert {client.ask(b"watch t\r\n") for client in clients} == {b"WATCHING 2\r\n"}
        clients[0].sock.sendall(b"reserve\r\n")
    assert {client.lines.read() for client in clients} == {b""}


def test_it_works_while_sockets_of_the_program_have_a_timeout(connect):
    socket.setdefaulttimeout(5)
    try:
        with fastbean.Server(LOCAL) as server:
            assert connect(server).ask(b"list-tube-used\r\n") == b"USING default\r\n"
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have ways of their own")
def test_a_large_log_does_not_make_the_process_keep_all_that_it_frees():
    program = [sys.executable, "-c", TAKE_AND_FREE]
    ended = subprocess.run(program, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < 120


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such calls")
@pytest.mark.parametrize("owner", ["daemon", "program"])
def test_only_the_daemon_changes_the_heap_of_its_process(tmp_path, owner):
    library = tmp_path / "heap_calls.so"
    source = str(Path(__file__).with_name("heap_calls.c"))
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, "-O1", "-shared", "-fPIC", "-o", str(library), source, "-ldl"], check=True)
    write_log(tmp_path / "log", [saved(id, body=b"x" * 300) for id in range(1, 10_000)], segment_bytes=1 << 20)
    preload = ":".join(filter(None, [os.environ.get("LD_PRELOAD"), str(library)]))
    ended = subprocess.run(
        [sys.executable, "-c", READ_AND_RELEASE, str(tmp_path / "log"), owner],
        env={**os.environ, "LD_PRELOAD": preload},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = [int(word) for word in ended.stdout.split()]
    assert len(counts) == 4
    assert all(count > 0 for count in counts) if owner == "daemon" else counts == [0, 0, 0, 0]


BUSY_PROGRAM = """
import os, signal, socket, sys, threading
import fastbean

server = fastbean.Server(fastbean.Config(listen=["127.0.0.1"], port=0))
server.start()
print(server.port, flush=True)
threading.Timer(0.2, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT]).start()
before = signal.set_wakeup_fd(-1)
try:
    server.run()
except KeyboardInterrupt:
    print("interrupted", signal.set_wakeup_fd(-1) == before, flush=True)
"""


def send_until_it_ends(sock):
    with contextlib.suppress(OSError):
        while True:
            sock.sendall(b"list-tube-used\r\n" * 4000)


def test_ctrl_c_ends_a_server_in_the_main_thread_that_never_waits():
    """A client keeps it busy, so that no system call is interrupted."""
    program = subprocess.Popen([sys.executable, "-c", BUSY_PROGRAM], stdout=subprocess.PIPE, text=True)
    with program, socket.create_connection(("127.0.0.1", int(program.stdout.readline()))) as sock:
        thread = threading.Thread(target=send_until_it_ends, args=[sock])
        thread.start()
        with contextlib.suppress(ConnectionError):
            while sock.recv(1 << 20):
                pass
        assert program.stdout.read() == "interrupted True\n"
        thread.join()
    assert program.returncode == 0
