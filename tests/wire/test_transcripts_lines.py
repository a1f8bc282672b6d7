"""What is a line, what is a command, and what is neither."""

from __future__ import annotations

import pytest

from .client import Client
from .servers import Server
from .transcript import play


def test_an_empty_line_is_no_command(server: Server) -> None:
    play(
        server,
        r"""
        A>
        A< UNKNOWN_COMMAND
        A> \x20
        A< UNKNOWN_COMMAND
        """,
    )


def test_commands_begin_at_the_start_of_the_line_and_are_in_small_letters(server: Server) -> None:
    play(
        server,
        r"""
        A> \x20stats
        A< UNKNOWN_COMMAND
        A> STATS
        A< UNKNOWN_COMMAND
        A> Quit
        A< UNKNOWN_COMMAND
        A> \xff\xfe\xfd
        A< UNKNOWN_COMMAND
        """,
    )


@pytest.mark.parametrize("line", ["quit", "quitx", "quit now", "quit "])
def test_whatever_begins_with_quit_is_the_end(shared: Server, line: str) -> None:
    with Client(shared) as client:
        client.send(line.encode() + b"\r\n")
        assert client.read_to_the_end() == b""


def test_commands_before_a_quit_are_answered_and_those_behind_it_are_not(server: Server) -> None:
    with Client(server) as client:
        client.send(b"list-tube-used\r\nuse t1\r\nquit\r\nlist-tube-used\r\n")
        assert client.read_to_the_end() == b"USING default\r\nUSING t1\r\n"


def test_a_lf_alone_ends_no_line(server: Server) -> None:
    play(
        server,
        r"""
        A>> list-tube-used\n
        A waits
        A>
        A< BAD_FORMAT
        A> list-tubes\nlist-tube-used
        A< BAD_FORMAT
        A> x\nlist-tube-used
        A< UNKNOWN_COMMAND
        """,
    )


def test_a_nul_makes_a_line_badly_formed(server: Server) -> None:
    play(
        server,
        r"""
        A> list-tube-used\x00
        A< BAD_FORMAT
        A> \x00
        A< BAD_FORMAT
        A> no-such-command\x00x
        A< BAD_FORMAT
        A> use t1\x00
        A< BAD_FORMAT
        A> list-tube-used
        A< USING default
        """,
    )


def test_a_line_may_be_224_bytes_long_with_its_crlf(server: Server) -> None:
    play(
        server,
        r"""
        A> {222*x}
        A< UNKNOWN_COMMAND
        A> delete {214*0}1
        A< NOT_FOUND
        """,
    )


@pytest.mark.parametrize("length", [226, 227, 300, 447, 448, 450, 1000, 100000])
def test_a_longer_line_is_badly_formed_once_its_end_has_come(shared: Server, length: int) -> None:
    with Client(shared) as client:
        client.send(b"x" * (length - 2))
        client.send(b"\r")
        client.send(b"\nlist-tube-used\r\n")
        assert client.reply().line == b"BAD_FORMAT"
        assert client.reply().line == b"USING default"


def test_a_longer_line_is_not_answered_before_its_end(server: Server) -> None:
    play(
        server,
        r"""
        A>> {500*x}
        A waits
        A>
        A< BAD_FORMAT
        """,
    )


def test_a_longer_line_is_badly_formed_whatever_it_says(server: Server) -> None:
    play(
        server,
        r"""
        A> list-tube-used {300*x}
        A< BAD_FORMAT
        A> quit {300*x}
        A< BAD_FORMAT
        A> put 0 0 60 {300*0}1
        A< BAD_FORMAT
        """,
    )


def test_commands_in_small_pieces(server: Server) -> None:
    with Client(server) as client:
        client.send_bytewise(b"put 0 0 60 5\r\nhello\r\nreserve\r\ndelete 1\r\n")
        assert client.read_exactly(42) == b"INSERTED 1\r\nRESERVED 1 5\r\nhello\r\nDELETED\r\n"


def test_a_cr_and_a_lf_apart_are_a_crlf(server: Server) -> None:
    play(
        server,
        r"""
        A>> list-tube-used\r
        A waits
        A>> \n
        A< USING default
        A>> put 0 0 60 1\r\na\r
        A waits
        A>> \nlist-tube-used\r
        A< INSERTED 1
        A>> \n
        A< USING default
        """,
    )
