"""What is installed: the package with all that others need of it, and nothing that pulls in more than was asked for."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import fastbean

SOURCE = Path(__file__).parents[2] / "src" / "fastbean"
INSTALLED = Path(fastbean.__file__).parent


def run_python(code: str) -> str:
    """What ``code`` prints in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_tests_run_against_the_installed_package():
    assert INSTALLED != SOURCE


def test_the_version_has_one_place():
    assert importlib.metadata.version("fastbean") == fastbean.__version__


def test_nothing_is_needed_at_run_time():
    needed = importlib.metadata.requires("fastbean") or []
    assert [each for each in needed if "extra ==" not in each] == []


def test_the_script_and_the_module_are_the_same_program():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="fastbean")
    assert script.value == "fastbean.__main__:main"


def test_the_load_tool_keeps_its_script():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="fastbean-benchmark")
    assert script.value == "fastbean.benchmark.__main__:main"


def names_below(folder: Path, pattern: str) -> set[str]:
    """The paths below ``folder`` that match, as text."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


@pytest.mark.parametrize("suffix", [".py", ".pyi", ".typed"])
def test_what_others_check_against_is_installed(suffix):
    wanted = names_below(SOURCE, f"*{suffix}")
    assert wanted
    assert names_below(INSTALLED, f"*{suffix}") == wanted


def test_of_the_c_surface_only_the_promised_part_is_installed():
    assert names_below(INSTALLED, "*.pxd") == {"__init__.pxd", "_core.pxd"}


def test_every_compiled_module_is_there_and_none_is_left_over():
    compiled = {name.split(".")[0] for name in names_below(INSTALLED, "*.so")}
    assert compiled == {name.removesuffix(".pyx") for name in names_below(SOURCE, "*.pyx")}


def test_no_c_source_is_installed():
    assert [path for path in INSTALLED.rglob("*") if path.suffix in {".c", ".cpp", ".pyx", ".pxi"}] == []


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("fastbean", set()),
        ("fastbean._core", set()),
        ("fastbean.heap", {"fastbean._core"}),
        ("fastbean.protocol.tokenizer", {"fastbean.protocol"}),
    ],
)
def test_importing_a_leaf_pulls_in_nothing_else_of_ours(module, others):
    code = f"import {module}, sys, threading; print(*sorted(m for m in sys.modules if m.startswith('fastbean')), "
    code += "threading.active_count())"
    assert run_python(code).split() == [*sorted({"fastbean", module} | others), "1"]


def test_importing_the_package_loads_no_other_module():
    assert run_python("import sys; before = set(sys.modules); import fastbean; print(*set(sys.modules) - before)") == (
        "fastbean\n"
    )


def test_the_program_loads_nothing_that_is_for_tests_only():
    loaded = run_python("import fastbean.__main__, fastbean.server, sys; print(*sys.modules)").split()
    assert "fastbean.__main__" in loaded
    assert not {"pytest", "fastbean.testing", "fastbean.pytest_plugin", "subprocess"} & set(loaded)


def test_a_server_that_does_not_replicate_loads_nothing_of_it():
    code = (
        "import sys, tempfile, fastbean; "
        "config = fastbean.Config(listen=['127.0.0.1'], port=0, binlog_dir=tempfile.mkdtemp()); "
        "server = fastbean.Server(config); server.serve_in_thread(); server.close(); print(*sys.modules)"
    )
    loaded = run_python(code).split()
    assert "fastbean.binlog.writer" in loaded
    assert not {"asyncio", "nats", "fastbean.replication"} & set(loaded)


def test_the_pytest_plugin_has_its_entry_point():
    (plugin,) = importlib.metadata.entry_points(group="pytest11", name="fastbean")
    assert plugin.value == "fastbean.pytest_plugin"


def test_what_is_built_runs_on_every_machine_of_its_kind():
    flags = (SOURCE.parents[1] / "setup.py").read_text() + (SOURCE.parents[1] / "pyproject.toml").read_text()
    assert "-fno-plt" in flags
    assert "-march=" not in flags
    assert "-mtune=native" not in flags


def test_the_public_names_are_loaded_when_asked_for():
    assert fastbean.Server.__module__ == "fastbean.server"
    assert fastbean.Config.__module__ == "fastbean.config"
    assert {"Server", "Config", "__version__"} <= set(dir(fastbean))
    with pytest.raises(AttributeError, match="has no attribute 'Sever'"):
        _ = fastbean.Sever
