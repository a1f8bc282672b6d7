"""The flags of the program: what they do to a running server, and how it ends when they are wrong."""

import os
import pwd
import re
import socket
import stat
import subprocess
from pathlib import Path

import pytest

import fastbean

from .conftest import PATIENCE_S


@pytest.mark.parametrize("flag", ["-v", "--version", "-vV"])
def test_version(run, flag):
    done = run(flag)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"fastbean {fastbean.__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(run, flag):
    done = run(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Use: fastbean [OPTIONS]")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["-x"], 5),
        (["--port"], 5),
        (["-p"], 5),
        (["stray"], 5),
        ([""], 5),
        (["-z", "big"], 5),
        (["-F0"], 5),
        (["--unix-mode", "rw"], 5),
        (["-p", "70000"], 111),
        (["-p", "no service"], 111),
        (["-l", "192.0.2.1", "-p", "0"], 111),
        (["-l", "127.0.0.1:x"], 111),
        (["-l", "unix:/no/such/folder/socket"], 111),
        (["-u", "nosuchuser-", "-l", "127.0.0.1", "-p", "0"], 33),
    ],
)
def test_a_wrong_start_is_one_line_and_a_status(run, arguments, status):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert re.fullmatch(r"fastbean: .*; .*\n", done.stderr)


# Where fastbean's status is another on purpose, it is not in this list: --help and --version exist here, and a port of
# 70000 or a size of -1 are wrong here, while beanstalkd takes them for some other number.
@pytest.mark.parametrize(
    "arguments",
    [
        "-x", "-xv", "-F0", "-p", "-l", "-f", "-z abc", "-z1k", "-f1.5", "-s x", "stray", "-p 0 stray", "--", "-",
        "-p abc", "-p -1",
        "-l 192.0.2.1 -p 0", "-l x..y -p 0", "-l unix:/no/such/folder/s", "-u nosuchuser- -p 0", "-v", "-vx",
        "-hv", "-h", "-b /no/such/folder -p 0", "-z +5 -h", "-s 99999999999 -h", "-f +7 -h", "-p +5 -h",
    ],
)  # fmt: skip
def test_the_status_is_that_of_beanstalkd(run, beanstalkd, arguments):
    theirs = subprocess.run([beanstalkd, *arguments.split()], capture_output=True, timeout=PATIENCE_S, check=False)
    assert run(*arguments.split()).returncode == theirs.returncode


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["-z", "-1"], 5),
        (["-f", "-1"], 5),
        (["-s", "-1"], 5),
        (["-b", ""], 5),
        (["-p", ""], 111),
        (["-p", "65536"], 111),
    ],
)
def test_values_that_beanstalkd_takes_for_others_are_refused(run, beanstalkd, arguments, status):
    """docs/protocol.md lists them."""
    theirs = subprocess.run([beanstalkd, *arguments, "-h"], capture_output=True, timeout=PATIENCE_S, check=False)
    assert theirs.returncode == 0
    assert run(*arguments, "-l", "127.0.0.1").returncode == status


def test_an_empty_argument_is_refused_as_by_beanstalkd(run, beanstalkd):
    theirs = subprocess.run([beanstalkd, "-p", "0", ""], capture_output=True, timeout=PATIENCE_S, check=False)
    assert run("-p", "0", "").returncode == theirs.returncode == 5


@pytest.mark.parametrize("arguments", [["-b", "DIR"], ["-bDIR"], ["-VVb", "DIR", "-f0"], ["--binlog-dir=DIR"]])
def test_a_log_directory_that_is_not_there_ends_the_start(run, tmp_path, arguments):
    socket_path = tmp_path / "socket"
    done = run("-l", f"unix:{socket_path}", *arguments)
    assert done.returncode == 10
    assert "fastbean: -b DIR: cannot open its lock: No such file or directory" in done.stderr
    assert not socket_path.exists()


def test_a_busy_port(run, start):
    daemon = start()
    done = run("-l", "127.0.0.1", "-p", str(daemon.port))
    assert done.returncode == 111
    assert re.fullmatch(r"fastbean: cannot listen on 127.0.0.1:\d+: Address already in use; .*\n", done.stderr)


def test_flags_of_the_log_alone_change_nothing(start):
    stats = start("-f0", "-s", "4097", "-F").connect().stats()
    assert (stats["binlog-max-size"], stats["binlog-current-index"]) == ("4097", "0")


def test_a_job_size_above_the_limit_is_clamped_with_a_warning(start):
    daemon = start("-z", "1073741825")
    assert daemon.connect().stats()["max-job-size"] == "1073741824"
    assert daemon.log.count(" WARNING flag-note text='maximum job size was set to 1073741824") == 1


def test_the_job_size(start):
    client = start("-z5").connect()
    assert client.ask(b"put 0 0 1 5\r\n12345\r\n") == b"INSERTED 1\r\n"
    assert client.ask(b"put 0 0 1 6\r\n123456\r\n") == b"JOB_TOO_BIG\r\n"


def test_removed_flags_warn_and_start(start):
    daemon = start("-c", "-n")
    assert [daemon.log.count(f" WARNING flag-note text='{flag} was removed") for flag in ("-c", "-n")] == [1, 1]


def test_several_addresses(start, tmp_path):
    path = tmp_path / "socket"
    daemon = start("-l", "127.0.0.1", "-l", "[::1]:0", "--listen", f"unix:{path}", "--unix-mode=600")
    names = re.findall(r"listening address=(\S+)\n", daemon.log)
    assert [re.sub(r"\d+$", "N", name) for name in names] == ["127.0.0.1:N", "[::1]:N", f"unix:{path}"]
    ports = [int(name.rsplit(":", 1)[1]) for name in names[:2]]
    clients = [daemon.connect(), daemon.connect_unix(path)]
    assert [client.ask(b"list-tube-used\r\n") for client in clients] == [b"USING default\r\n"] * 2
    with socket.create_connection(("::1", ports[1]), timeout=PATIENCE_S) as client:
        client.sendall(b"list-tube-used\r\n")
        assert client.recv(100) == b"USING default\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert daemon.stop() == 0
    assert not path.exists()


def test_a_socket_file_of_a_killed_server_is_replaced(start, tmp_path):
    path = tmp_path / "socket"
    start("-l", f"unix:{path}").process.kill()
    daemon = start("-l", f"unix:{path}")
    assert daemon.connect_unix(path).ask(b"list-tube-used\r\n") == b"USING default\r\n"


def test_all_addresses_are_warned_about_and_some_are_not(start):
    assert "WARNING" not in start().log
    daemon = start("-l", "0.0.0.0")
    assert re.search(r" WARNING listening-on-all-addresses address=0\.0\.0\.0:\d+ advice='-l 127\.0\.0\.1 ", daemon.log)


def test_without_an_address_it_listens_on_all_ipv4_addresses(launch):
    from .conftest import fastbean_command

    daemon = launch(fastbean_command("-p", "0")).wait_until_serving()
    assert re.search(r" listening address=0\.0\.0\.0:\d+\n", daemon.log)


def test_each_v_tells_more(start):
    told = []
    for flags in ([], ["-V"], ["-VV"], ["-VVV"]):
        daemon = start(*flags)
        client = daemon.connect()
        assert client.ask(b"put 0 0 1 3\r\na\nb\r\n") == b"INSERTED 1\r\n"
        client.close()
        assert daemon.stop() == 0
        told.append({line.split()[2] for line in daemon.log.splitlines()} & {"accept", "close", "command", "reply"})
    assert told == [set(), {"accept", "close"}, *[{"accept", "close", "command", "reply"}] * 2]


def test_each_line_of_the_log_has_time_and_level(start):
    daemon = start("-VV", "-c")
    daemon.connect().ask(b"bad\x1b[31m\nINFO fake\r\n")
    assert daemon.stop() == 0
    for line in daemon.log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4} (DEBUG|INFO|WARNING) \S", line), line
    assert "\x1b" not in daemon.log


def test_keep_alive_times_are_set(start):
    daemon = start("--keepalive-idle=41", "--keepalive-interval", "42", "--keepalive-count=43")
    client = daemon.connect()
    assert client.ask(b"list-tube-used\r\n") == b"USING default\r\n"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    peer = f":{client.sock.getsockname()[1]:04X}"
    (timer,) = [row[5].split(":") for row in rows if row[2].endswith(peer) and row[1].endswith(f":{daemon.port:04X}")]
    assert timer[0] == "02"  # the keep-alive timer runs
    assert int(timer[1], 16) / os.sysconf("SC_CLK_TCK") <= 41


def users_and_groups(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    pairs = [line.split(":", 1) for line in lines]
    return {key: value.split() for key, value in pairs if key in ("Uid", "Gid", "Groups")}


def test_it_becomes_another_user_with_nothing_left_of_the_old(start, run):
    if os.geteuid() != 0:
        done = run("-u", "root", "-l", "127.0.0.1", "-p", "0")
        assert (done.returncode, done.stderr.count("\n")) == (34, 2)
        assert "fastbean: -u root: cannot become this user: Operation not permitted; start as root" in done.stderr
        return
    nobody = pwd.getpwnam("nobody")
    daemon = start("-u", "nobody")
    now = users_and_groups(daemon.pid)
    assert now["Uid"] == [str(nobody.pw_uid)] * 4
    assert now["Gid"] == [str(nobody.pw_gid)] * 4
    assert set(now["Groups"]) == {str(group) for group in os.getgrouplist("nobody", nobody.pw_gid)}
    assert daemon.connect().ask(b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 1\r\n"
    assert daemon.stop() == 0


def test_a_user_who_cannot_be_become_leaves_no_socket_behind(run, tmp_path):
    path = tmp_path / "socket"
    done = run("-u", "nosuchuser-", "-l", f"unix:{path}")
    assert done.returncode == 33
    assert not path.exists()
