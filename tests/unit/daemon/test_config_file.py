"""A file of settings: what it sets, and what is reported, with its line, where it is wrong."""

import textwrap
import tomllib

import pytest

from fastbean.config import Config
from fastbean.daemon.command_line import OPTIONS, parse_command_line
from fastbean.daemon.config_file import ConfigFileError, statements
from fastbean.errors import UsageError


@pytest.fixture
def write(tmp_path):
    """Writes a file of settings; returns its path."""

    def write_file(text):
        path = tmp_path / "fastbean.toml"
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).encode())
        return str(path)

    return write_file


def config_of(path, *flags):
    return parse_command_line(["--config", path, *flags]).config


def problems_of(path, *flags):
    with pytest.raises(ConfigFileError) as caught:
        parse_command_line(["--config", path, *flags])
    assert caught.value.exit_status == UsageError.exit_status
    assert all(problem.startswith(f"{path}:") for problem in caught.value.problems)
    return [problem.removeprefix(f"{path}:") for problem in caught.value.problems]


EVERYTHING = """
    listen = ["127.0.0.1", "unix:/run/x"]
    port = 11399
    http = ["127.0.0.1:11301"]
    user = "nobody"
    max-job-size = 100
    binlog-dir = "/x"
    fsync-ms = 7
    binlog-size = 5000
    binlog-max-bytes = 16384
    max-memory = 65636
    max-connections = 3
    max-tubes = 4
    unix-mode = "660"
    keepalive-idle = 9
    keepalive-interval = 8
    keepalive-count = 7
    stop-timeout = 0
    event-loop = "selectors"
    log-format = "json"
    log-level = "WARNING"
    slow-iteration-ms = 1
    slow-sync-ms = 2
    verbose = 2
"""


REPLICATION = """
    replicate = "nats://n1,n2/jobs"
    replicate-credentials = "/x"
    node-name = "q1"
    advertise = "10.0.0.1:11300"
    lease = 0.5
    stall = 20
    never-lead = true
"""


def test_the_settings_of_replication_can_be_in_the_file(write):
    assert config_of(write(REPLICATION)) == Config(
        replicate="nats://n1,n2/jobs",
        replicate_credentials="/x",
        node_name="q1",
        advertise="10.0.0.1:11300",
        lease_s=0.5,
        stall_s=20,
        never_lead=True,
    )
    assert config_of(write("never-lead = false\n")) == Config()
    assert problems_of(write("lease = 0.4\nstall = '5'\nnever-lead = 1\n")) == [
        "1: lease 0.4: out of range; it must be in 0.5..60",
        "2: stall is a string; it must be a float",
        "3: never-lead is an integer; it must be a boolean",
    ]


def test_every_setting_can_be_in_the_file(write):
    assert config_of(write(EVERYTHING)) == Config(
        listen=["127.0.0.1", "unix:/run/x"],
        port=11399,
        http=["127.0.0.1:11301"],
        user="nobody",
        max_job_size=100,
        binlog_dir="/x",
        fsync_ms=7,
        binlog_size=5000,
        binlog_max_bytes=16384,
        max_memory_bytes=65636,
        max_connections=3,
        max_tubes=4,
        unix_mode=0o660,
        keepalive_idle_s=9,
        keepalive_interval_s=8,
        keepalive_count=7,
        stop_timeout_s=0,
        event_loop="selectors",
        log_format="json",
        log_level="warning",
        slow_iteration_ms=1,
        slow_sync_ms=2,
        verbosity=2,
    )
    keys = {line.split(" =")[0].strip() for line in (EVERYTHING + REPLICATION).splitlines() if line.strip()}
    assert keys | {"no-fsync"} == {option.long for option in OPTIONS if option.long and option.kind.in_file}


def test_the_sync_can_be_left_out(write):
    assert config_of(write("no-fsync = true\nbinlog-dir = 'x'\n")).fsync_ms is None
    assert config_of(write("no-fsync = false\n")) == Config()
    assert config_of(write("no-fsync = false\nfsync-ms = 3\n")).fsync_ms == 3


def test_an_empty_file_sets_nothing(write):
    assert config_of(write("")) == config_of(write("# port = 1\n\n")) == Config()


@pytest.mark.parametrize(
    ("flags", "changes"),
    [
        (["-p", "1"], {"port": 1}),
        (["-l", "::1"], {"listen": ("::1",)}),
        (["-f", "9"], {"fsync_ms": 9}),
        (["-V"], {"verbosity": 1}),
        (["-p", "11300"], {"port": 11300}),
    ],
)
def test_the_command_line_wins(write, flags, changes):
    path = write('port = 2\nlisten = ["127.0.0.1", "::"]\nno-fsync = true\nverbose = 2\nbinlog-dir = "x"\n')
    by_file = Config(port=2, listen=["127.0.0.1", "::"], fsync_ms=None, verbosity=2, binlog_dir="x")
    assert config_of(path, *flags) == by_file.replace(**changes)
    # The order of the flags makes no difference.
    assert parse_command_line([*flags, f"--config={path}"]).config == by_file.replace(**changes)


def test_what_is_given_is_what_flags_and_file_set(write):
    line = parse_command_line(["-p", "1", "--config", write("port = 2\nmax-tubes = 3\n")])
    assert (line.by_flags, line.given) == ({"port"}, {"port", "max_tubes"})


def test_the_warnings_are_those_of_the_flags(write):
    assert len(parse_command_line(["--config", write("fsync-ms = 2\n")]).warnings) == 1
    line = parse_command_line(["--config", write("max-job-size = 1073741825\n")])
    assert line.config.max_job_size == 1 << 30
    assert line.warnings == ["maximum job size was set to 1073741824, the most there is"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("\n\nprot = 1\n", "3: unknown key prot; the keys are the long flags of `fastbean --help`"),
        ("p = 1\n", "1: unknown key p; "),
        ("config = 'x'\n", "1: unknown key config; "),
        ("help = true\n", "1: unknown key help; "),
        ("max_tubes = 1\n", "1: unknown key max_tubes; "),
        ("port = 1\n[network]\nport = 2\n", "2: unknown table [network]; all settings belong above the first table"),
        ("[[peer]]\n[[peer]]\n", "1: unknown table [peer]"),
        ("[a.b]\n", "1: unknown table [a]"),
        ("# x\na.b = 1\n", "2: unknown table [a]"),
        ("port = '11300'\n", "1: port is a string; it must be an integer"),
        ("port = true\n", "1: port is a boolean; it must be an integer"),
        ("port = 1.0\n", "1: port is a float; it must be an integer"),
        ("port = [1]\n", "1: port is an array; it must be an integer"),
        ("port = { a = 1 }\n", "1: port is a table; it must be an integer"),
        ("[port]\n", "1: port is a table; it must be an integer"),
        ("port = 2026-11-30\n", "1: port is a date or time; it must be an integer"),
        ("port = 70000\n", "1: port 70000: there is no such port; choose one in 0..65535"),
        ("port = -1\n", "1: port -1: neither a port"),
        ("no-fsync = 1\n", "1: no-fsync is an integer; it must be a boolean"),
        ("user = 1000\n", "1: user is an integer; it must be a string"),
        ("user = ''\n", "1: user needs the name of a user"),
        ("port = 1\nlisten = []\n", "2: listen is empty; name an address, or leave listen out to listen on 0.0.0.0"),
        (b"\xef\xbb\xbfport = 1\n", "1: the file begins with a byte order mark, which TOML does not have; save it"),
        ("listen = '::1'\n", "1: listen is a string; it must be an array"),
        ("listen = [1]\n", '1: listen must be an array of strings, for example ["127.0.0.1"]'),
        ("listen = [\n  'x',\n  'localhost:99999',\n]\n", "1: localhost:99999: port 99999: there is no such port"),
        ("max-tubes = -1\n", "1: max-tubes -1: out of range; it must be in 0..2147483647"),
        ("max-job-size = -1\n", "1: max-job-size -1: out of range"),
        ("keepalive-idle = 0\n", "1: keepalive-idle 0: out of range; it must be in 1..32767"),
        ("verbose = 3\n", "1: verbose 3: out of range; it must be in 0..2"),
        ("verbose = true\n", "1: verbose is a boolean; it must be an integer"),
        ("unix-mode = 660\n", '1: unix-mode must be a string of octal digits, for example "660"'),
        ("unix-mode = '888'\n", "1: unix-mode 888: not a mode"),
        ("log-format = 'xml'\n", "1: log-format xml: there is no such thing; choose one of text, json"),
        ("event-loop = ''\n", "1: event-loop : there is no such thing; choose one of compiled, selectors"),
        ("fsync-ms = 1\n\nno-fsync = true\n", "3: no-fsync and fsync-ms (line 1) exclude each other"),
        ("port = 1\nport = 2\n", "2: not TOML: Cannot overwrite a value"),
        ("port = \n", "1: not TOML: "),
        ("\n\nport : 1\n", "3: not TOML: "),
        ("x = '''\n\n\n", "1: not TOML: "),
        (b"# \xff\n", "1: this line is not UTF-8"),
        (b"port = 1\r\n# caf\xe9\r\n", "2: this line is not UTF-8"),
        (b"port = 1\r\n\r\nprot = 1\r\n", "3: unknown key prot"),
        ("# a comment of max-memory\nmax-job-size = 100\nmax-memory = 65635\n", "3: max-memory is 65635 bytes"),
        ("\nbinlog-max-bytes = 1\n", "2: binlog-max-bytes is 1, which is too little"),
        (f"port = {'9' * 5000}\n", "1: a number is too long"),
        (f"\n# x\nport = {'9' * 5000}\nx = 1\n", "3: a number is too long"),
        (f"\nport = [\n{'9' * 5000}\n]\n", "2: a number is too long"),
    ],
)
def test_what_is_wrong_is_reported_with_its_line(write, text, problem):
    (found,) = problems_of(write(text))
    if problem == "1: not TOML: ":
        found = "1" + found[found.index(":") :]  # versions of tomllib differ in where an open string is wrong
    assert found.startswith(problem)
    assert "\n" not in found


def test_all_problems_are_reported_in_the_order_of_their_lines(write):
    path = write("prot = 1\nport = 1\nverbose = 9\n[a]\nx = 1\ny = 2\n[b]\n")
    assert [each.split(":")[0] for each in problems_of(path)] == ["1", "3", "4", "7"]


def test_a_limit_of_the_file_that_a_flag_makes_wrong_is_reported_with_its_line(write):
    assert problems_of(write("\nmax-memory = 65636\nmax-job-size = 100\n"), "-z", "200")[0].startswith(
        "2: max-memory is"
    )


def test_a_wrong_flag_is_not_blamed_on_the_file(write):
    with pytest.raises(UsageError) as caught:
        config_of(write("max-memory = 0\nport = 1\n"), "--max-memory", "5")
    assert str(caught.value).startswith("max-memory is 5 bytes")


def test_a_wrong_setting_that_a_flag_replaces_is_an_error_all_the_same(write):
    assert problems_of(write("port = 'x'\n"), "-p", "1") == ["1: port is a string; it must be an integer"]


def test_deep_nesting_is_one_line(write):
    (found,) = problems_of(write(f"\nport = {'[' * 100_000}\n"))
    assert found.startswith(("2: ", "3: "))
    assert "\n" not in found


def test_a_long_value_takes_time_in_proportion_to_its_length(monkeypatch):
    """No line is parsed more than once."""
    parsed = []
    real = tomllib.loads
    monkeypatch.setattr(tomllib, "loads", lambda text: (parsed.append(len(text)), real(text))[1])
    text = "a = [\n" + "  'x', # [\n" * 3000 + ']\nb = """\n' + "'[\n" * 3000 + '"""\nc = 1\n'
    assert list(statements(text)) == [(1, ("a",)), (3003, ("b",)), (6005, ("c",))]
    assert sum(parsed) <= len(text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ('a = """x""""" # [\nb = 1\n', [(1, ("a",)), (2, ("b",))]),
        ("a = '''x'''' # [\nb = 1\n", [(1, ("a",)), (2, ("b",))]),
        ('a = """\\\n  [ \\""""\nb = "\\"["\nc = 1', [(1, ("a",)), (3, ("b",)), (4, ("c",))]),
        (
            "a = ''\nb = \"\" # '''\nc = ''''''\nd = \"\"\"\"\"\"\n",
            [(1 + place, (key,)) for place, key in enumerate("abcd")],
        ),
        ("a = 1", [(1, ("a",))]),
        ("# a = 1\n\n  a = 1 # b = 2\nb=2\n", [(3, ("a",)), (4, ("b",))]),
        ("a.b = 1\n'a'.\"c\" = 2\n", [(1, ("a", "b")), (2, ("a", "c"))]),
        ('"a = 1" = "# b = 2"\n\'b\\\' = 1\n', [(1, ("a = 1",)), (2, ("b\\",))]),
        ('"\\u0061" = 1\n', [(1, ("a",))]),
        ("a = [\n  # b = 1\n\n  'c = [', # ]\n]\nd = 1\n", [(1, ("a",)), (6, ("d",))]),
        ('a = """\nb = 1\n\n\\"""\n[c]\n"""\nd = 1\n', [(1, ("a",)), (7, ("d",))]),
        ("a = '''\nb = 1\n''''' # x\nd = 1\n", [(1, ("a",)), (4, ("d",))]),
        ('a = ["""\n]\n""", [\n[1]]]\nd = 1\n', [(1, ("a",)), (5, ("d",))]),
        ("a = { b = 1, c = 2 }\nd = 1\n", [(1, ("a",)), (2, ("d",))]),
        ("a = { b = 1 }\nd = 1\n", [(1, ("a", "b")), (2, ("d",))]),
        (
            "[a]\nb = 1\n [a.c] # x\nd = 1\n",
            [(1, ("a", "")), (2, ("a", "b")), (3, ("a", "c", "")), (4, ("a", "c", "d"))],
        ),
        ("[[a]]\nb = [\n1]\n[[a]]\n", [(1, ("a", "")), (2, ("a", "b")), (4, ("a", ""))]),
        ("[user.'a.b']\nx = 1\n", [(1, ("user", "a.b", "")), (2, ("user", "a.b", "x"))]),
        ("a = '\u2028'\nb = 1\n", [(1, ("a",)), (2, ("b",))]),
    ],
)
def test_the_lines_of_statements(text, found):
    assert list(statements(text)) == found
