"""``--check-config``: what it reports, and the status that it ends with; nothing is changed and nothing is bound."""

import os
import pwd
import socket
import tempfile

import pytest


def report_of(run, *flags):
    done = run("--check-config", *flags)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_the_defaults(run):
    assert report_of(run) == [
        "the settings are correct",
        "listens on 0.0.0.0:11300",
        "keeps no binlog: jobs end with the server",
    ]


def test_a_file_and_flags(run, tmp_path):
    path = tmp_path / "fastbean.toml"
    path.write_text('listen = ["127.0.0.1", "[::1]:5", "unix:x"]\nport = 2\nverbose = 1\nbinlog-dir = "."\n')
    user = pwd.getpwuid(os.geteuid()).pw_name
    before = contents(tmp_path)
    assert report_of(run, "--config", "fastbean.toml", "-p", "3", "-cV", "-u", user) == [
        "the settings are correct",
        f"{path} sets listen, binlog-dir",
        "the command line wins over its port, verbose",
        "listens on 127.0.0.1:3, [::1]:5, unix:x",
        f"becomes user {user}, uid {os.geteuid()}, gid {os.getegid()}",
        f"keeps a binlog in {tmp_path}, which is there and writable",
        "note: -c was removed from beanstalkd and does nothing: the binlog is always compacted",
    ]
    assert contents(tmp_path) == before


def test_the_settings_of_a_running_server_can_be_checked(run, start, tmp_path):
    daemon = start("-b", str(tmp_path))
    assert f"listens on 127.0.0.1:{daemon.port}" in report_of(
        run, "-l", "127.0.0.1", "-p", str(daemon.port), "-b", str(tmp_path)
    )
    assert daemon.connect().ask(b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 1\r\n"


def test_a_place_for_a_socket_is_not_taken(run, tmp_path):
    report_of(run, "-l", f"unix:{tmp_path}/socket")
    assert list(tmp_path.iterdir()) == []
    with socket.create_server(("127.0.0.1", 0)) as taken:
        report_of(run, "-l", "127.0.0.1", "-p", str(taken.getsockname()[1]))


UNUSABLE = ("2: user nosuchuser-: no such", "3: cannot listen on unix:no/s: No such", "4: binlog-dir none: cannot use")


@pytest.mark.parametrize(
    ("flags", "status", "lines"),
    [
        (["-x"], 5, ["unknown flag: -x"]),
        (["-p", "abc"], 111, ["-p abc: neither a port"]),
        (["--config", "none"], 5, ["--config none: cannot read it"]),
        (["-u", "nosuchuser-"], 33, ["-u nosuchuser-: no such user"]),
        (["-b", "none"], 10, ["-b none: cannot use it: No such file or directory; the directory must exist"]),
        (["-b", "file"], 10, ["-b file: this is not a directory"]),
        (["-u", "nosuchuser-", "-b", "none"], 33, ["-u nosuchuser-", "-b none"]),
        (["-l", "nosuchhost.invalid"], 111, ["cannot listen on nosuchhost.invalid:0: "]),
        (["-l", "192.0.2.1"], 111, ["cannot listen on 192.0.2.1:0: Cannot assign requested address"]),
        (["-l", "unix:no/dir/s"], 111, ["cannot listen on unix:no/dir/s: No such file or directory; the folder"]),
        (["-l", "unix:file/s"], 111, ["cannot listen on unix:file/s: Not a directory"]),
        (["-l", "unix:file"], 111, ["cannot listen on unix:"]),
        (["-l", f"unix:{'x' * 200}"], 111, [f"cannot listen on unix:{'x' * 200}: AF_UNIX path too long; choose"]),
        (["-l", "unix:no/s", "-l", "unix:no/t", "-b", "none"], 111, ["cannot listen"] * 2 + ["-b none"]),
        (["--config", "unusable.toml"], 33, [f"unusable.toml:{each}" for each in UNUSABLE]),
        (["--config", "unusable.toml", "-u", "x-"], 33, ["-u x-", *[f"unusable.toml:{each}" for each in UNUSABLE[1:]]]),
        (["--config", "wrong.toml"], 5, ["wrong.toml:1: port is", "wrong.toml:3: unknown key"]),
    ],
)
def test_what_is_wrong_is_reported(run, tmp_path, flags, status, lines):
    (tmp_path / "file").touch()
    (tmp_path / "wrong.toml").write_text("port = 'x'\n# note\nprot = 1\n")
    (tmp_path / "unusable.toml").write_text(
        '# note\nuser = "nosuchuser-"\nlisten = ["unix:no/s"]\nbinlog-dir = "none"\n'
    )
    done = run("--check-config", "-p", "0", *flags)
    assert (done.returncode, done.stdout) == (status, "")
    found = done.stderr.splitlines()
    assert len(found) == len(lines)
    for line, words in zip(found, lines, strict=True):
        assert line.startswith(f"fastbean: {words}")
    started = run(*("-l", "127.0.0.1") * ("-l" not in flags and "unusable.toml" not in flags), "-p", "0", *flags)
    # As a start does, which names the lock where the directory is wrong.
    assert started.returncode == status
    assert status == 10 or found[0] in started.stderr.splitlines()


def test_a_start_reports_every_problem_of_the_file(run, tmp_path):
    (tmp_path / "wrong.toml").write_text("port = 'x'\nprot = 1\n")
    done = run("--config", "wrong.toml")
    assert done.returncode == 5
    assert [line.split(" ")[1] for line in done.stderr.splitlines()] == ["wrong.toml:1:", "wrong.toml:2:"]


def test_a_directory_of_another_user(run, tmp_path):
    """Root checks as the user that the server becomes; another user finds that it cannot become one."""
    tmp_path.chmod(0o755)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    if os.geteuid() != 0:
        assert run("--check-config", "-u", "root").returncode == 34
        return
    done = run("--check-config", "-b", str(private), "-u", "nobody")
    assert done.returncode == 10
    assert "the user nobody may not" in done.stderr
    assert run("--check-config", "-b", str(private)).returncode == 0
    with tempfile.TemporaryDirectory() as public:  # where every user may go, unlike below tmp_path
        os.chown(public, pwd.getpwnam("nobody").pw_uid, -1)
        assert (
            report_of(run, "-b", public, "-u", "nobody")[-1]
            == f"keeps a binlog in {public}, which is there and writable"
        )


def test_a_relative_path_is_relative_to_the_working_directory(start, tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "log").mkdir()
    (tmp_path / "etc" / "fastbean.toml").write_text('listen = ["127.0.0.1"]\nport = 0\nbinlog-dir = "log"\n')
    daemon = start("--config", "etc/fastbean.toml")
    assert daemon.connect().ask(b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 1\r\n"
    assert (tmp_path / "log" / "lock").exists()


def test_a_server_runs_with_the_settings_of_a_file(launch, tmp_path):
    from .conftest import fastbean_command

    (tmp_path / "x.toml").write_text('listen = ["127.0.0.1"]\nport = 0\nmax-job-size = 5\nverbose = 1\n')
    daemon = launch(fastbean_command("--config=x.toml")).wait_until_serving()
    assert daemon.connect().stats()["max-job-size"] == "5"
    daemon.wait_for_line(" INFO accept ")
    assert daemon.stop() == 0


@pytest.mark.parametrize("kind", ["compiled", "selectors"])
def test_both_event_loops_serve(start, kind):
    daemon = start("--event-loop", kind)
    client = daemon.connect()
    assert client.ask(b"put 0 0 1 1\r\nx\r\n") == b"INSERTED 1\r\n"
    assert client.ask(b"reserve\r\n") == b"RESERVED 1 1\r\n"
    client.close()
    assert daemon.stop() == 0
