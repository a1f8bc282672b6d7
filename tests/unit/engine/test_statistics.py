"""The tables of statistics, and the texts that are made from them: YAML, JSON and Prometheus' text format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from fastbean.engine import statistics
from fastbean.engine.command_table import WORDS
from fastbean.engine.statistics_tables import tables
from memory_client import MemoryServer

from .test_memory_of_the_binlog import logged

TABLES = tables()
ROWS = [(name, row) for name, rows in TABLES.items() for row in rows]
WITH_METRIC = [(name, row) for name, row in ROWS if row["metric"]]
each_row = pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{name}-{row['key']}" for name, row in ROWS])
each_metric = pytest.mark.parametrize("row", [row for _, row in WITH_METRIC], ids=[r["metric"] for _, r in WITH_METRIC])

# Gauges without a unit, because they are not quantities: numbers of files, a flag, a priority.
WITHOUT_UNIT = {"binlog-oldest-index", "binlog-current-index", "draining", "file", "pri"}
# What passes between two texts: processor time; and the buffer of the first text, which `stats` counts as memory.
NEVER_THE_SAME = {"rusage-utime", "rusage-stime", "memory-buffers"}
ODD_NAME = 'a"b\\c\nd\x01\u00e9\u20ac\U0001f331'

NAME = "[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\n"])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{{LABEL}(?:,{LABEL})*\}})? -?[0-9]+(?:\.[0-9]+)?")


def busy_server(**settings: object) -> MemoryServer:
    """A server with jobs in all states, in two tubes, one of which is paused."""
    server = MemoryServer(**settings)
    fill(server)
    return server


def fill(server: MemoryServer) -> None:
    client, waiting = server.client(), server.client()
    client(b"use mail\r\n")
    for number in range(5):
        client.put(b"x" * number, pri=number * 1000, delay=60 * (number == 3))
    client(b"reserve-job 1\r\nreserve-job 2\r\nbury 2 0\r\npause-tube mail 100\r\nuse default\r\n")
    client.put(b"four")
    waiting(b"watch mail\r\nignore default\r\nreserve\r\n")
    server.advance(7.5)


# The tables


@each_row
def test_a_row_has_a_help_text_that_is_a_sentence(table: str, row: dict[str, str]) -> None:
    assert re.fullmatch(r"[A-Z0-9][^\\\n|]*\.", row["help"])


@each_row
def test_a_quantity_has_a_unit(table: str, row: dict[str, str]) -> None:
    has_none = row["kind"] == "text" or row["key"] in WITHOUT_UNIT
    assert (row["unit"] == "") == has_none


@pytest.mark.parametrize("table", TABLES)
def test_no_key_is_there_twice(table: str) -> None:
    keys = [row["key"] for row in TABLES[table]]
    assert sorted(set(keys)) == sorted(keys)


def test_no_metric_is_there_twice() -> None:
    metrics = [row["metric"] for _, row in WITH_METRIC]
    assert sorted(set(metrics)) == sorted(metrics)


@pytest.mark.parametrize("table", TABLES)
def test_beanstalkds_keys_come_first(table: str) -> None:
    ours = [row["origin"] != "beanstalkd" for row in TABLES[table]]
    assert ours == sorted(ours)


def test_every_word_that_is_counted_has_a_key() -> None:
    counted = {row["key"].removeprefix("cmd-") for row in TABLES["server"] if row["key"].startswith("cmd-")}
    assert counted == set(WORDS.values()) - {"quit"}


@each_metric
def test_the_name_of_a_metric_shows_its_kind_and_its_base_unit(row: dict[str, str]) -> None:
    name = row["metric"].partition("{")[0]
    assert re.fullmatch("(beanstalkd|fastbean)_[a-z_]+", name)
    assert name.endswith("_total") == (row["kind"] == "counter")
    assert name.endswith("_info") == (row["kind"] == "text")
    assert ("_bytes" in name) == (row["unit"] == "bytes")
    assert ("_seconds" in name) == (row["unit"] in {"seconds", "microseconds"})


def test_figures_of_one_metric_are_alike() -> None:
    kinds: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for table, row in WITH_METRIC:
        binlog = "with a binlog" in row["origin"]
        kinds.setdefault((table, row["metric"].partition("{")[0]), set()).add((row["kind"], str(binlog)))
    assert {name: len(found) for name, found in kinds.items()} == dict.fromkeys(kinds, 1)
    assert len({name for _, name in kinds}) == len(kinds), "a metric belongs to one table"


def test_only_the_name_of_a_tube_and_what_concerns_one_job_are_no_metrics() -> None:
    assert {(table, row["key"]) for table, row in ROWS if not row["metric"] and table != "job"} == {("tube", "name")}
    assert not any(row["metric"] for row in TABLES["job"])


# JSON


def same(text: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in text.items() if key not in NEVER_THE_SAME}


def test_json_has_the_keys_and_values_of_yaml() -> None:
    server = busy_server(hostname=ODD_NAME, version="1.13", instance_id="0123456789abcdef", max_tubes=9)
    client = server.client()
    for command, text in (
        (b"stats-job 1", lambda: statistics.json_of_job(server.engine, 1, server.now_ns)),
        (b"stats-job 2", lambda: statistics.json_of_job(server.engine, 2, server.now_ns)),
        (b"stats-job 4", lambda: statistics.json_of_job(server.engine, 4, server.now_ns)),
        (b"stats-tube mail", lambda: statistics.json_of_tube(server.engine, b"mail", server.now_ns)),
        (b"stats-tube default", lambda: statistics.json_of_tube(server.engine, b"default", server.now_ns)),
        (b"stats", lambda: statistics.json_of_server(server.engine, server.now_ns)),
    ):
        shown = yaml.safe_load(client(command + b"\r\n").split(b"\r\n", 1)[1])
        found = json.loads(text())
        assert list(found) == list(shown)
        assert same(found) == same(shown)
    assert found["hostname"] == ODD_NAME
    assert (found["current-jobs-ready"], found["current-waiting"], found["max-tubes"]) == (3, 1, 9)


def test_json_has_signs_decimals_and_flags() -> None:
    server = MemoryServer(now_ns=9_000_000_000)
    server.engine.draining = True
    found = json.loads(statistics.json_of_server(server.engine, 2_000_000_000))
    assert found["uptime"] == -7
    assert server.client().stats(b"stats")["uptime"] == "-9"
    assert found["draining"] is True
    assert isinstance(found["rusage-utime"], float)
    assert json.loads(statistics.json_of_tube(server.engine, b"default", 0))["pause"] == 0


def test_a_tube_or_job_that_is_not_there_has_no_json() -> None:
    server = MemoryServer()
    assert statistics.json_of_tube(server.engine, b"nowhere", 0) == b""
    assert statistics.json_of_job(server.engine, 1, 0) == b""


# Prometheus


def checked(text: str) -> dict[str, dict[str, float]]:
    """The value of each sample, by its name and its text between braces, after a check of the whole format."""
    lines = iter(text.removesuffix("\n").split("\n"))
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        if head := re.fullmatch(rf"# HELP ({NAME}) (\S[^\\]*\.)", line):
            name = head[1]
            assert name not in kinds, f"{name} is in two pieces"
            kind = re.fullmatch(rf"# TYPE {name} (gauge|counter)", next(lines))
            assert kind
            kinds[name] = kind[1]
            found[name] = {}
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] == name, f"a sample of {sample[1]} among those of {name}"
            series, value = line.rsplit(" ", 1)
            assert series not in found[name], f"{series} is there twice"
            found[name][series] = float(value)
    assert all(found.values()), "a metric without samples"
    return found


def metrics(server: MemoryServer) -> str:
    return statistics.metrics(server.engine, server.now_ns).decode()


def read(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The same as another program reads it: by name and labels, without escapes."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_in_the_text_format() -> None:
    text = metrics(busy_server(hostname=ODD_NAME))
    found = checked(text)
    assert len(read(text)) == sum(len(samples) for samples in found.values())
    assert set(found) == {
        row["metric"].partition("{")[0] for _, row in WITH_METRIC if "with a binlog" not in row["origin"]
    }


def test_metrics_have_the_values_of_yaml() -> None:
    server = busy_server(version="1.13", fastbean_version="0.1", hostname=ODD_NAME, instance_id="0123456789abcdef")
    client = server.client()
    shown = {
        "server": [yaml.safe_load(client(b"stats\r\n").split(b"\r\n", 1)[1])],
        "tube": [
            yaml.safe_load(client(b"stats-tube " + name + b"\r\n").split(b"\r\n", 1)[1])
            for name in (b"default", b"mail")
        ],
    }
    client(b"stats\r\n")
    found = read(metrics(server))
    compared = 0
    for table, row in WITH_METRIC:
        if row["kind"] == "text" or row["key"] in {*NEVER_THE_SAME, "cmd-stats", "cmd-stats-tube"}:
            continue
        for text in shown[table]:
            if row["key"] not in text:
                continue
            name, _, label = row["metric"].partition("{")
            labels = [tuple(label.removesuffix('"}').split('="'))] if label else []
            labels += [("tube", text["name"])] if table == "tube" else []
            assert found[name, tuple(sorted(labels))] == text[row["key"]], row["key"]
            compared += 1
    assert compared > 80
    assert found["beanstalkd_tube_current_jobs", (("state", "delayed"), ("tube", "mail"))] == 1
    assert found["fastbean_tube_oldest_ready_age_seconds", (("tube", "default"),)] == 7


def test_texts_are_labels_of_a_metric_that_is_1() -> None:
    server = MemoryServer(
        version="1.13", fastbean_version="0.1", hostname=ODD_NAME, os="#1", platform="x", instance_id="0123456789abcdef"
    )
    found = {name: (dict(labels), value) for (name, labels), value in read(metrics(server)).items() if "info" in name}
    labels, value = found.pop("fastbean_server_info")
    assert labels.pop("pid").isdigit()
    assert labels == {"version": "0.1", "hostname": ODD_NAME, "os": "#1", "platform": "x", "id": "0123456789abcdef"}
    assert value == 1
    assert found == {"beanstalkd_build_info": ({"version": "1.13"}, 1)}


def test_an_undecodable_name_is_the_same_text_everywhere() -> None:
    server = MemoryServer(hostname=b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert yaml.safe_load(server.client()(b"stats\r\n").split(b"\r\n", 1)[1])["hostname"] == "caf\u00e9"
    assert json.loads(statistics.json_of_server(server.engine, 0))["hostname"] == "caf\u00e9"
    assert 'hostname="caf\u00e9"' in metrics(server)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        (b"mail", b"mail"),
        (b"a-B+0/;.$_()", b"a-B+0/;.$_()"),
        (b'say "hi"', rb"say \"hi\""),
        (rb"back\slash", rb"back\\slash"),
        (rb"\n", rb"\\n"),
        (b"two\nlines", rb"two\nlines"),
        (b"tab\tcr\r", b"tab\tcr\r"),
        ("\u00e9".encode(), "\u00e9".encode()),
        (b"", b""),
    ],
)
def test_a_label_is_escaped(name: bytes, label: bytes) -> None:
    assert statistics.label(name) == label
    text = f'# TYPE x gauge\nx{{tube="{label.decode()}"}} 1\n'
    assert next(iter(read(text))) == ("x", (("tube", name.decode()),))


def test_the_samples_of_many_tubes_stay_together() -> None:
    server = MemoryServer()
    client = server.client()
    for number in range(50):
        client(b"watch t%d\r\n" % number)
    found = checked(metrics(server))
    assert len(found["beanstalkd_tube_current_jobs"]) == 51 * 5
    assert len(found["fastbean_tube_bytes"]) == 51


def test_the_binlog_has_figures_of_its_own(tmp_path: Path) -> None:
    rows = [row for row in TABLES["server"] if row["origin"] == "fastbean, with a binlog"]
    without = MemoryServer()
    with logged(tmp_path) as server:
        fill(server)
        client = server.client()
        shown = yaml.safe_load(client(b"stats\r\n").split(b"\r\n", 1)[1])
        found = json.loads(statistics.json_of_server(server.engine, server.now_ns))
        text = metrics(server)
    assert list(found) == list(shown)
    assert set(found) - set(json.loads(statistics.json_of_server(without.engine, 0))) == {row["key"] for row in rows}
    samples = checked(text)
    assert samples["fastbean_binlog_bytes"]['fastbean_binlog_bytes{kind="live"}'] == shown["binlog-bytes-live"] > 0
    longest = samples["fastbean_binlog_write_longest_seconds"]["fastbean_binlog_write_longest_seconds"]
    assert longest == shown["binlog-write-longest-us"] / 1e6
    assert not set(checked(metrics(without))) & {row["metric"].partition("{")[0] for row in rows}
