"""What a row means that says nothing, what the tables refuse, and answers with several jobs: by a compiled module."""

import subprocess
import sys
from pathlib import Path

import pytest

from builds import compile_module

SOURCE = Path(__file__).with_name("inside") / "inside.pyx"


@pytest.fixture(scope="module")
def inside(tmp_path_factory):
    """Runs an expression with the compiled module ``inside``, in a process whose tables it may change."""
    folder = tmp_path_factory.mktemp("inside")
    compile_module(SOURCE, folder)

    def run(expression):
        program = f"import inside; print({expression})"
        return subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False)

    return run


def test_a_command_that_states_no_right_needs_an_administrators(inside):
    assert inside("inside.add(b'drain')").stdout == "True\n"


@pytest.mark.parametrize("word", ["touch ", "d"])
def test_two_commands_cannot_have_one_word(inside, word):
    done = inside(f"inside.add({word.encode()!r})")
    assert done.returncode == 1
    assert "ValueError" in done.stderr
    assert repr(word) in done.stderr


def test_a_longer_word_is_tried_first_whichever_was_added_first(inside):
    program = (
        "[inside.add(b'stats-tubes'), inside.add(b'sta'), parse(b'stats-tubes'), parse(b'stats'), parse(b'sta')][2:]"
    )
    found = inside(f"(lambda parse: {program})(__import__('fastbean.engine.command_table', fromlist=['x']).parse)")
    assert found.stdout == "[('stats-tubes', '', {}), ('stats', '', {}), ('sta', '', {})]\n"


def test_a_reply_whose_row_says_nothing_waits_for_the_binlog(inside):
    assert inside("inside.a_reply_that_states_nothing_awaits_the_binlog()").stdout == "True\n"


def test_a_reply_without_a_row_is_an_import_error(inside):
    done = inside("inside.drop_a_reply()")
    assert "ImportError: the reply with the number 12 has no row in the table of replies" in done.stderr


def test_an_answer_can_carry_several_jobs(inside):
    done = inside("inside.answer_of([b'', b'a', b'bb' * 20_000, b'c'])")
    assert "RESERVED 1 0\\r\\n\\r\\nRESERVED 2 1\\r\\na\\r\\nRESERVED 3 40000\\r\\n" in done.stdout
    assert done.stdout.endswith("RESERVED 4 1\\r\\nc\\r\\n'\n")
