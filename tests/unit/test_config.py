"""The settings and the command line: every spelling that beanstalkd takes, and a clear line for every wrong one."""

import pytest

from fastbean import config
from fastbean.config import Config, help_text, parse_command_line
from fastbean.errors import FastbeanError, ListenError, UsageError


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
        (["-l", "::1"], {"listen": ("::1",)}),
        (["-l127.0.0.1", "--listen", "unix:/run/x"], {"listen": ("127.0.0.1", "unix:/run/x")}),
        (["--listen=[::1]:5"], {"listen": ("[::1]:5",)}),
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
        (["-Vx"], 5, "unknown flag: -x in -Vx"),
        (["-F0"], 5, "unknown flag: -0 in -F0"),
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
        (["--no-fsync=1"], 5, "--no-fsync takes no value"),
        (["-z", "abc"], 5, "-z abc: not a number"),
        (["-z", "-1"], 5, "-z -1: not a number"),
        (["-z1k"], 5, "-z 1k: not a number"),
        (["-z", "1_000"], 5, "not a number"),
        (["-z", "\u0663"], 5, "not a number"),
        (["-f", "1.5"], 5, "-f 1.5: not a number"),
        (["-f", "-1"], 5, "-f -1: not a number"),
        (["-s", ""], 5, "not a number"),
        (["-u", ""], 5, "-u needs the name of a user"),
        (["-b", ""], 5, "-b needs the name of a folder"),
        (["-f", "1000000000001"], 5, "-f 1000000000001: out of range; it must be in 0..1000000000000"),
        (["-f", "9" * 5000], 5, "out of range"),
        (["-s", "2147483649"], 5, "-s 2147483649: out of range; it must be in 0..2147483648"),
        (["--binlog-max-bytes", "18446744073709551616"], 5, "must be in 0..9223372036854775807"),
        (
            ["--binlog-max-bytes", "20971519"],
            5,
            "too little for 2 files of the log, and no put would be taken; give it 20971520",
        ),
        (["--binlog-max-bytes", "9999", "-s5000"], 5, "give it 16384 or more, or lower -s"),
        (["--binlog-max-bytes", "8191", "-s0"], 5, "give it 8192 or more"),
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
        (["--max-memory", "131070"], 5, "for one job of 65535 and what is around it; give it 131071 or more"),
        (["--max-memory", "131071", "-z", "65536"], 5, "give it 131072 or more, or lower -z"),
        (["--max-memory", "9223372036854775808"], 5, "must be in 0..9223372036854775807"),
        (["--max-connections", "-1"], 5, "--max-connections -1: not a number"),
        (["--max-connections", "2147483648"], 5, "must be in 0..2147483647"),
        (["--max-tubes", "many"], 5, "--max-tubes many: not a number"),
        (["--max-tubes", "2147483648"], 5, "must be in 0..2147483647"),
        (["-p", "abc"], 111, "-p abc: neither a port nor the name of a service"),
        (["-p", "-1"], 111, "-p -1: neither a port"),
        (["-p", ""], 111, "neither a port"),
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


def test_help_tells_every_flag_in_eighty_columns():
    text = help_text()
    assert text.startswith("Use: fastbean [OPTIONS]\n")
    assert max(len(line) for line in text.splitlines()) <= 80
    for option in config.OPTIONS:
        assert not option.short or f" -{option.short}" in text
        assert not option.long or f" --{option.long}" in text


def test_every_flag_of_beanstalkd_but_the_removed_ones_has_a_long_form():
    shorts = {option.short: option.long for option in config.OPTIONS if option.short}
    assert set(shorts) == set("lpuzbfFscnVvh")
    assert {short for short, long in shorts.items() if not long} == {"c", "n"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tubes", 1.5),
        ("max_memory_bytes", float("nan")),
        ("fsync_ms", 0.5),
        ("unix_mode", 0.0),
        ("unix_mode", "660"),
        ("stop_timeout_s", float("nan")),
        ("stop_timeout_s", "5"),
        ("stop_timeout_s", float("inf")),
        ("slow_iteration_ms", None),
    ],
)
def test_a_setting_that_is_no_such_number_is_refused(name, value):
    with pytest.raises(UsageError, match=rf"^{name} is .*; it must be a .*number in 0\.\."):
        Config(**{name: value})


def test_a_port_is_a_whole_number():
    with pytest.raises(ListenError, match="choose one in"):
        Config(port=80.5)


def test_the_time_of_a_stop_may_be_a_fraction():
    assert Config(stop_timeout_s=0.5).stop_timeout_s == 0.5


def test_the_least_log_is_two_files():
    assert Config(binlog_max_bytes=16384, binlog_size=5000).binlog_max_bytes == 16384


def test_a_config_cannot_be_changed():
    settings = Config(port=1)
    with pytest.raises(AttributeError, match="replace"):
        settings.port = 2
    with pytest.raises(AttributeError):
        del settings.port
    assert settings.replace(port=2) == Config(port=2)
    assert settings.port == 1


def test_equal_configs_are_interchangeable():
    assert len({Config(listen=["::1"]), Config(listen=("::1",)), Config()}) == 2
    assert Config() != object()
    assert "port=11300" in repr(Config())


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"port": -1}, ListenError),
        ({"port": 65536}, ListenError),
        ({"listen": "127.0.0.1"}, UsageError),
        ({"listen": ["localhost:x y"]}, ListenError),
        ({"max_job_size": -1}, UsageError),
        ({"max_job_size": (1 << 30) + 1}, UsageError),
        ({"verbosity": 3}, UsageError),
        ({"fsync_ms": -1}, UsageError),
        ({"binlog_size": -1}, UsageError),
        ({"unix_mode": 0o1000}, UsageError),
        ({"keepalive_idle_s": 0}, UsageError),
        ({"keepalive_interval_s": 0}, UsageError),
        ({"keepalive_count": 0}, UsageError),
        ({"stop_timeout_s": -0.5}, UsageError),
        ({"max_memory_bytes": 65635, "max_job_size": 100}, UsageError),
        ({"max_memory_bytes": 1 << 63}, UsageError),
        ({"max_connections": -1}, UsageError),
        ({"max_tubes": 1 << 31}, UsageError),
    ],
)
def test_a_config_checks_what_python_gives_it(settings, error):
    with pytest.raises(error) as caught:
        Config(**settings)
    assert "\n" not in str(caught.value)
