"""The command line: every spelling that beanstalkd accepts, and one clear line for every wrong one."""

import pytest

from fastbean.config import Config
from fastbean.daemon.command_line import OPTIONS, help_text, parse_command_line
from fastbean.daemon.tools import TOOLS
from fastbean.errors import FastbeanError


def parse(*arguments):
    return parse_command_line(arguments).config


def test_the_defaults_are_those_of_beanstalkd():
    wanted = parse()
    assert wanted == Config()
    assert (wanted.listen, wanted.port, wanted.max_job_size) == ((), 11300, 65535)
    assert (wanted.fsync_ms, wanted.binlog_size, wanted.binlog_dir) == (50, 10485760, None)
    assert (wanted.user, wanted.verbosity) == (None, 0)


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["-p", "11399"], {"port": 11399}),
        (["-p11399"], {"port": 11399}),
        (["-p", " 11399"], {"port": 11399}),
        (["-p", "0"], {"port": 0}),
        (["--port", "11399"], {"port": 11399}),
        (["--port=11399"], {"port": 11399}),
        (["-u=x"], {"user": "=x"}),
        (["--user==x"], {"user": "=x"}),
        (["-u", "a b"], {"user": "a b"}),
        (["-u", "--help"], {"user": "--help"}),
        (["--user", "--"], {"user": "--"}),
        (["-u", "-"], {"user": "-"}),
        (["--event-loop=selectors"], {"event_loop": "selectors"}),
        (["--event-loop", "Compiled"], {"event_loop": "compiled"}),
        (["-l", "::1"], {"listen": ("::1",)}),
        (["-l127.0.0.1", "--listen", "unix:/run/x"], {"listen": ("127.0.0.1", "unix:/run/x")}),
        (["--listen=[::1]:5"], {"listen": ("[::1]:5",)}),
        (["-z", "+5"], {"max_job_size": 5}),
        (["-p", "+5"], {"port": 5}),
        (["-l", "::1", "-p", " +5"], {"listen": ("::1",), "port": 5}),
        (["-z", "00100"], {"max_job_size": 100}),
        (["-z0"], {"max_job_size": 0}),
        (["--max-job-size=1073741824"], {"max_job_size": 1 << 30}),
        (["-u", "beanstalkd"], {"user": "beanstalkd"}),
        (["--user", "1000"], {"user": "1000"}),
        (["-V"], {"verbosity": 1}),
        (["-VV"], {"verbosity": 2}),
        (["-V", "--verbose", "-V"], {"verbosity": 2}),
        (["-b/dir"], {"binlog_dir": "/dir"}),
        (["-b", "-p"], {"binlog_dir": "-p"}),
        (["--binlog-dir", "x"], {"binlog_dir": "x"}),
        (["-f0"], {"fsync_ms": 0}),
        (["--fsync-ms=7"], {"fsync_ms": 7}),
        (["-F"], {"fsync_ms": None}),
        (["--no-fsync"], {"fsync_ms": None}),
        (["-F", "-f9"], {"fsync_ms": 9}),
        (["-s", "4097"], {"binlog_size": 4097}),
        (["--binlog-size=1"], {"binlog_size": 1}),
        (["-VVF"], {"verbosity": 2, "fsync_ms": None}),
        (["-VVFp11399"], {"verbosity": 2, "fsync_ms": None, "port": 11399}),
        (["-Fl", "h"], {"fsync_ms": None, "listen": ("h",)}),
        (["--unix-mode", "660"], {"unix_mode": 0o660}),
        (["--unix-mode=0600"], {"unix_mode": 0o600}),
        (["--keepalive-idle=9"], {"keepalive_idle_s": 9}),
        (["--keepalive-interval", "8"], {"keepalive_interval_s": 8}),
        (["--keepalive-count", "7"], {"keepalive_count": 7}),
        (["--stop-timeout=0"], {"stop_timeout_s": 0}),
        (["--max-memory", "131071"], {"max_memory_bytes": 131071}),
        (["--max-memory=65636", "-z100"], {"max_memory_bytes": 65636, "max_job_size": 100}),
        (["--max-memory=0"], {"max_memory_bytes": 0}),
        (["--max-connections", "1", "--max-tubes=2147483647"], {"max_connections": 1, "max_tubes": 2147483647}),
    ],
)
def test_spellings(arguments, changes):
    line = parse_command_line(arguments)
    assert line.config == Config().replace(**changes)
    assert line.action == "run"
    assert [each for each in line.warnings if "without -b" not in each] == []


@pytest.mark.parametrize("arguments", [["-f0"], ["-F"], ["-s", "5000"], ["--binlog-max-bytes=30000000"]])
def test_flags_of_a_log_that_is_not_kept_are_warned_of(arguments):
    assert parse_command_line(arguments).warnings == [
        "-f, -F, -s and --binlog-max-bytes do nothing without -b DIR: no job outlives this server"
    ]
    assert parse_command_line([*arguments, "-b", "dir"]).warnings == []


def test_a_flag_that_names_the_default_is_given_all_the_same():
    assert parse_command_line(["-p", "11300"]).given == {"port"}
    assert parse_command_line(["-V"]).given == {"verbosity"}


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["-x"], 5, "unknown flag: -x"),
        (["-Vx"], 5, "unknown flag: -x;"),
        (["-F0"], 5, "unknown flag: -0;"),
        (["-xv"], 5, "unknown flag: -x"),
        (["--lis", "x"], 5, "unknown flag: --lis"),
        (["--Listen=x"], 5, "unknown flag: --Listen"),
        (["--"], 5, "unknown argument: --"),
        (["-"], 5, "unknown argument: -"),
        (["foo"], 5, "unknown argument: foo"),
        ([""], 5, "unknown argument: ''"),
        (["-p", "11300", ""], 5, "unknown argument: ''"),
        (["-p"], 5, "-p needs a value: -p PORT"),
        (["--listen"], 5, "--listen needs a value: --listen ADDR"),
        (["--no-fsync=1"], 5, "--no-fsync takes no value; write --no-fsync alone"),
        (["--no-fsync="], 5, "--no-fsync takes no value"),
        (["--verbos"], 5, "unknown flag: --verbos;"),
        (["-="], 5, "unknown flag: -=;"),
        (["--=x"], 5, "unknown flag: --;"),
        (["-x", "-p", "abc"], 5, "unknown flag: -x"),
        (["-p", "abc", "-x"], 111, "-p abc"),
        (["-x", "--help"], 5, "unknown flag: -x"),
        (["-zx", "-h"], 5, "-z x: not a number"),
        (["--event-loop", "epoll"], 5, "--event-loop epoll: there is no such thing; choose one of compiled, selectors"),
        (["--config"], 5, "--config needs a value: --config FILE"),
        (["--config="], 5, "--config needs the name of a file"),
        (["--config=a", "--config", "b"], 5, "--config can be given once"),
        (["--config", "no/such/file"], 5, "--config no/such/file: cannot read it: No such file or directory"),
        (["--config", "/"], 5, "--config /: cannot read it: Is a directory"),
        (["--config", "a\0b"], 5, "cannot read it: embedded null byte"),
        (["-z", "abc"], 5, "-z abc: not a number"),
        (["-z", "-1"], 5, "-z -1: not a number"),
        (["-z1k"], 5, "-z 1k: not a number"),
        (["-z", "1_000"], 5, "not a number"),
        (["-z", "\u0663"], 5, "not a number"),
        (["-f", "1.5"], 5, "-f 1.5: not a number"),
        (["-f", "-1"], 5, "-f -1: not a number"),
        (["-s", ""], 5, "not a number"),
        (["-u", ""], 5, "-u needs the name of a user"),
        (["-b", ""], 5, "-b needs the name of a directory"),
        (["-f", "1000000000001"], 5, "-f 1000000000001: out of range; it must be in 0..1000000000000"),
        (["-f", "9" * 5000], 5, "out of range"),
        (["-s", "-1"], 5, "-s -1: not a number"),
        (["-z", "++5"], 5, "-z ++5: not a number"),
        (["-z", "+"], 5, "-z +: not a number"),
        (["-z", "+ 5"], 5, "-z + 5: not a number"),
        (["--binlog-max-bytes", "18446744073709551616"], 5, "must be in 0..9223372036854775807"),
        (
            ["--binlog-max-bytes", "20971519"],
            5,
            "too little for 2 files of the binlog, and every put would be refused; set it to 20971520",
        ),
        (["--binlog-max-bytes", "9999", "-s5000"], 5, "set it to 16384 or more, or lower -s"),
        (["--binlog-max-bytes", "8191", "-s0"], 5, "set it to 8192 or more"),
        (["--unix-mode", "888"], 5, "--unix-mode 888: not a mode"),
        (["--unix-mode", "0o660"], 5, "--unix-mode 0o660: not a mode; write it in octal, for example --unix-mode 660"),
        (["--unix-mode", "6_6_0"], 5, "not a mode"),
        (["--unix-mode", "+660"], 5, "not a mode"),
        (["--unix-mode", " 660"], 5, "not a mode"),
        (["--unix-mode", ""], 5, "not a mode"),
        (["--unix-mode", "1777"], 5, "--unix-mode 1777: not a mode"),
        (["--keepalive-idle", "0"], 5, "must be in 1..32767"),
        (["--keepalive-interval", "99999"], 5, "must be in 1..32767"),
        (["--keepalive-count", "128"], 5, "must be in 1..127"),
        (["--stop-timeout", "86401"], 5, "must be in 0..86400"),
        (["--max-memory", "512M"], 5, "--max-memory 512M: not a number; write it in decimal digits without a unit"),
        (["--max-memory", "131070"], 5, "for one job of 65535 and its buffers; set it to 131071 or more"),
        (["--max-memory", "131071", "-z", "65536"], 5, "set it to 131072 or more, or lower -z"),
        (["--max-memory", "9223372036854775808"], 5, "must be in 0..9223372036854775807"),
        (["--max-connections", "-1"], 5, "--max-connections -1: not a number"),
        (["--max-connections", "2147483648"], 5, "must be in 0..2147483647"),
        (["--max-tubes", "many"], 5, "--max-tubes many: not a number"),
        (["--max-tubes", "2147483648"], 5, "must be in 0..2147483647"),
        (["-p", "abc"], 111, "-p abc: neither a port nor the name of a service"),
        (["-p", "-1"], 111, "-p -1: neither a port"),
        (["-p", ""], 111, "neither a port"),
        (["-p", "65536"], 111, "-p 65536: there is no such port; choose one in 0..65535"),
        (["-p", "+-5"], 111, "neither a port"),
        (["-p", "70000"], 111, "there is no such port; choose one in 0..65535"),
        (["-l", ""], 111, "-l needs an address"),
        (["-l", "unix:"], 111, "no path"),
        (["-l", "localhost:99999"], 111, "no such port"),
        (["-l", "[::1"], 111, "not an address"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments, status, words):
    with pytest.raises(FastbeanError) as caught:
        parse_command_line(arguments)
    assert caught.value.exit_status == status
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_service_can_be_named_as_the_port(monkeypatch):
    monkeypatch.setattr("socket.getservbyname", lambda name, kind: {("beans", "tcp"): 11300}[name, kind])
    assert parse("-p", "beans").port == 11300


@pytest.mark.parametrize("text", ["1073741825", "99999999999", "9" * 5000])
def test_a_job_size_above_the_limit_is_clamped_with_a_warning(text):
    line = parse_command_line(["-z", text])
    assert line.config.max_job_size == 1 << 30
    assert line.warnings == ["maximum job size was set to 1073741824, the most there is"]


@pytest.mark.parametrize("text", ["2147483649", "99999999999", "9" * 5000])
def test_a_binlog_size_above_the_limit_is_clamped_with_a_warning(text):
    line = parse_command_line(["-b", "dir", "-s", text])
    assert line.config.binlog_size == 1 << 31
    assert line.warnings == ["binlog file size was set to 2147483648, the most there is"]


def test_removed_flags_warn():
    warnings = parse_command_line(["-cn"]).warnings
    assert [warning.split()[0] for warning in warnings] == ["-c", "-n"]


@pytest.mark.parametrize(
    ("arguments", "action"),
    [
        (["-v"], "version"),
        (["-vx"], "version"),
        (["--version", "foo"], "version"),
        (["-hv"], "help"),
        (["-Fh"], "help"),
    ],
)
def test_help_and_version_end_the_reading(arguments, action):
    assert parse_command_line(arguments).action == action


def test_help_describes_every_flag_and_tool_in_eighty_columns():
    text = help_text()
    assert text.startswith("Use: fastbean [OPTIONS]\n")
    assert max(len(line) for line in text.splitlines()) <= 80
    for option in OPTIONS:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {', '.join(option.names)} ")]
        assert line.split("  ")[1].endswith(option.metavar)
    for word, tool in TOOLS.items():
        assert f"  fastbean {word}" in text
        assert tool.help in text


@pytest.mark.parametrize(("columns", "colour"), [("20", "0"), ("200", "1")])
def test_help_is_the_same_on_every_terminal(monkeypatch, columns, colour):
    text = help_text()
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("FORCE_COLOR", colour)
    assert help_text() == text


def test_every_field_of_config_has_a_flag():
    assert {option.field for option in OPTIONS} - {""} == Config().as_dict().keys()


def test_every_flag_of_beanstalkd_but_the_removed_ones_has_a_long_form():
    shorts = {option.short: option.long for option in OPTIONS if option.short}
    assert set(shorts) == set("lpuzbfFscnVvh")
    assert {short for short, long in shorts.items() if not long} == {"c", "n"}


@pytest.mark.parametrize(("text", "value"), [("2", 2.0), ("0.5", 0.5), ("60", 60.0), ("1.", 1.0)])
def test_a_number_of_seconds_may_have_a_fraction(text, value):
    assert parse_command_line(["--lease", text]).config.lease_s == value


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--lease", "0.4"], "--lease 0.4: out of range; it must be in 0.5..60"),
        (["--lease", "60.1"], "--lease 60.1: out of range; it must be in 0.5..60"),
        (["--lease", "x"], "--lease x: not a number; write it in decimal digits without a unit"),
        (["--lease", "1e1"], "--lease 1e1: not a number; write it in decimal digits without a unit"),
        (["--lease", ".5"], "--lease .5: not a number; write it in decimal digits without a unit"),
        (["--lease", "-1"], "--lease -1: not a number; write it in decimal digits without a unit"),
        (["--replicate", "nats://n/a", "-b", "x"], "--replicate and -b: the stream takes the place of the directory"),
        (["--replicate", "nats://n/a", "-f", "0"], "-f and -F beside --replicate"),
        (["-F", "--replicate", "nats://n/a"], "-f and -F beside --replicate"),
        (["--advertise", "unix:/x"], "advertise is unix:/x; it must be HOST:PORT"),
    ],
)
def test_settings_of_replication_that_are_wrong(arguments, complaint):
    with pytest.raises(FastbeanError) as refusal:
        parse_command_line(arguments)
    assert str(refusal.value).startswith(complaint)


def test_what_a_stream_makes_needless():
    assert parse_command_line(["--replicate", "nats://n/a", "-s", "100000"]).warnings == []
    assert parse_command_line(["--replicate", "nats://n/a", "--binlog-max-bytes", "100000000"]).warnings == [
        "--binlog-max-bytes does nothing beside --replicate: the limit of the stream counts"
    ]


def test_a_node_that_never_leads():
    assert parse_command_line(["--never-lead"]).config.never_lead
    assert not parse_command_line([]).config.never_lead
