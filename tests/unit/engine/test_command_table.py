"""The tables of commands and of replies: what their rows say."""

from fastbean.engine.command_table import parse, table
from fastbean.protocol import replies


def test_each_command_has_its_row():
    rows = {row["word"]: row for row in table()}
    assert len(rows) == len(table())
    assert rows["put"] == {
        "word": "put",
        "arguments": ("pri", "delay_s", "ttr_s", "body_bytes"),
        "acts_on": "a tube",
        "right": "producer",
        "changes": True,
    }
    assert {row["word"] for row in rows.values() if row["right"] == "producer"} == {"put", "use", "list-tube-used"}
    assert {row["word"] for row in rows.values() if row["acts_on"] == "an own reservation"} == {
        "release",
        "bury",
        "touch",
    }
    assert not any(row["changes"] for row in rows.values() if row["right"] == "monitor")


def test_the_parser_finds_each_word():
    arguments = {"name": "tube", "body_bytes": "1"}
    for row in table():
        line = " ".join([row["word"], *(arguments.get(name, "7") for name in row["arguments"])])
        word, fault, found = parse(line.encode())
        assert (word, fault, tuple(found)) == (row["word"], "", row["arguments"])


def test_what_replies_wait_for():
    awaits = {row["word"]: row["awaits"] for row in replies.table()}
    assert {word for word, what in awaits.items() if what == "its jobs"} == {"RESERVED", "FOUND"}
    assert {word for word, what in awaits.items() if what == "nothing"} == {
        "USING",
        "WATCHING",
        "DRAINING",
        "EXPECTED_CRLF",
        "JOB_TOO_BIG",
        "OUT_OF_MEMORY",
        "BAD_FORMAT",
        "UNKNOWN_COMMAND",
    }
    assert awaits["INSERTED"] == awaits["NOT_FOUND"] == awaits["OK"] == "the binlog"
