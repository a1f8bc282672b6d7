"""The settings of a server, as Python gives them."""

from pathlib import Path

import pytest

from fastbean.config import Config
from fastbean.errors import ListenError, UsageError


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


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("port", True, ListenError),
        ("port", "11300", ListenError),
        ("port", None, ListenError),
        ("user", 5, UsageError),
        ("user", b"root", UsageError),
        ("binlog_dir", 5, UsageError),
        ("binlog_dir", b"/tmp", UsageError),
        ("listen", [5], UsageError),
        ("listen", [b"127.0.0.1"], UsageError),
        ("listen", None, UsageError),
        ("listen", b"127.0.0.1", UsageError),
        ("max_tubes", True, UsageError),
        ("stop_timeout_s", False, UsageError),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_field(field, value, error):
    with pytest.raises(error, match=f"^{field} is |^{field} {value!r} "):
        Config(**{field: value})


def test_the_directory_may_be_a_path():
    assert Config(binlog_dir=Path("x")).binlog_dir == Path("x")


def test_the_time_of_a_stop_may_be_a_fraction():
    assert Config(stop_timeout_s=0.5).stop_timeout_s == 0.5


def test_the_least_log_is_two_files():
    assert Config(binlog_max_bytes=16384, binlog_size=5000).binlog_max_bytes == 16384


def test_a_config_cannot_be_changed():
    settings = Config(port=1)
    with pytest.raises(AttributeError, match="port"):
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
        ({"log_format": "xml"}, UsageError),
        ({"log_format": None}, UsageError),
        ({"log_level": "loud"}, UsageError),
        ({"event_loop": "epoll"}, UsageError),
        ({"binlog_max_bytes": 1, "binlog_size": 0}, UsageError),
    ],
)
def test_a_config_checks_what_python_gives_it(settings, error):
    with pytest.raises(error) as caught:
        Config(**settings)
    assert "\n" not in str(caught.value)


def test_settings_are_given_by_name():
    with pytest.raises(TypeError):
        Config(["127.0.0.1"])
    with pytest.raises(TypeError):
        Config(ports=1)


def test_all_settings_by_name():
    settings = Config(listen=["::1"], fsync_ms=None).as_dict()
    assert (settings["listen"], settings["fsync_ms"], settings["event_loop"]) == (("::1",), None, "compiled")
    assert Config(**settings).as_dict() == settings
