"""A file of settings: TOML, whose keys are the long flags without their dashes.

``tomllib`` checks the syntax, but does not report the lines of the keys of a correct file. ``statements`` finds
that out with ``tomllib`` itself: it cuts the text where a statement ends, and has each piece parsed alone.
"""

from __future__ import annotations

import codecs
import re
import tomllib
from typing import TYPE_CHECKING

from fastbean.errors import FastbeanError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from fastbean.daemon.command_line import Option

# What decides where a statement ends: strings and comments, which hide brackets and ends of lines; brackets; line ends.
TOKEN = re.compile(
    r'''
    """ (?: \\. | [^\\] )*? """ (?!") | \'\'\' .*? \'\'\' (?!\')
    | " (?: \\. | [^"\\] )* " | \' [^\']* \' | \# [^\n]*
    | (?P<opening> [\[{] ) | (?P<closing> [\]}] ) | (?P<end> \n )
    ''',
    re.DOTALL | re.VERBOSE,
)
POSITION = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class ConfigFileError(UsageError):
    """A file of settings is wrong; ``problems`` has one line for each error."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class ConfigFile:
    """What a file sets: ``settings`` has the values and ``keys`` the keys, both by the name of the setting.

    ``lines`` has the line number of each key.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.settings: dict[str, object] = {}
        self.keys: dict[str, str] = {}
        self.lines: dict[str, int] = {}

    def error(self, setting: str, text: str) -> ConfigFileError:
        """Returns the error ``text`` about a setting of this file, with its line."""
        return ConfigFileError([self.place(self.lines[self.keys[setting]], text)])

    def place(self, line: int, text: str) -> str:
        """Returns ``text`` with its position in the file before it."""
        return f"{self.path}:{line}: {text}"


def read(path: str, options: Mapping[str, Option]) -> ConfigFile:
    """Reads the file at ``path``; ``options`` are those that it may set, by their keys.

    A relative path, of the file or in it, is relative to the working directory, as in a flag. Raises
    ConfigFileError if the file cannot be read or anything in it is wrong.
    """
    file = ConfigFile(path)
    text = _text_of(file)
    values = _values_of(file, text)
    problems = []
    for line, (key, *inside) in statements(text):
        if key in file.lines:
            continue  # another key of the same table
        file.lines[key] = line
        try:
            _take(file, options, key, values[key], is_table=bool(inside))
        except FastbeanError as error:
            problems.append(file.place(line, str(error)))
    if problems:
        raise ConfigFileError(problems)
    return file


def _text_of(file: ConfigFile) -> str:
    try:
        with open(file.path, "rb") as stream:
            data = stream.read()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = getattr(error, "strerror", None) or error
        raise ConfigFileError([f"--config {file.path}: cannot read it: {reason}; give it a readable file"]) from None
    if data.startswith(codecs.BOM_UTF8):
        text = "the file begins with a byte order mark, which TOML does not have; save it as UTF-8 without one"
        raise ConfigFileError([file.place(1, text)])
    try:
        return data.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigFileError([file.place(line, "this line is not UTF-8; save the file as UTF-8")]) from None


def _values_of(file: ConfigFile, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error)
        found = POSITION.search(reason)
        line = int(found[1]) if found and found[1] else text.rstrip("\n").count("\n") + 1
        raise ConfigFileError([file.place(line, f"not TOML: {POSITION.sub('', reason)}")]) from None
    except (ValueError, RecursionError):
        line = next((line for line, key in statements(text) if not key), 1)
        raise ConfigFileError([file.place(line, "a number is too long, or arrays are nested too deeply")]) from None


def statements(text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yields the line number and the key of each statement of ``text``, which is correct TOML.

    A key has one more part for each table that it is in, or of which it sets a single member. The header of a table is
    a statement with the table's key, and a last part "". A value that Python cannot parse has the key (), and is the
    last one.
    """
    table: tuple[str, ...] = ()
    for line, piece in _pieces(text):
        try:
            found = tomllib.loads(piece)
        except (ValueError, RecursionError):
            yield line, ()
            return
        if found:
            key = _path(found)
            if piece.lstrip().startswith("["):
                table = key
                yield line, (*table, "")
            else:
                yield line, table + key


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yields the line number and the text of each statement, blank line and comment, in one pass over the text."""
    line, start, depth = 1, 0, 0
    for token in TOKEN.finditer(text):
        if token["end"] and depth == 0:
            piece = text[start : token.start()]
            yield line, piece
            line += piece.count("\n") + 1
            start = token.end()
        depth += bool(token["opening"]) - bool(token["closing"])
    yield line, text[start:]


def _path(found: dict[str, Any]) -> tuple[str, ...]:
    """The key of a single statement, which makes tables of one member each."""
    path = []
    inside: Any = found
    while isinstance(inside, dict) and len(inside) == 1:
        ((key, inside),) = inside.items()
        path.append(key)
    return tuple(path)


def _take(file: ConfigFile, options: Mapping[str, Option], key: str, value: object, *, is_table: bool) -> None:
    option = options.get(key)
    if option is None:
        if is_table:
            raise UsageError(f"unknown table [{key}]; all settings belong above the first table")
        raise UsageError(f"unknown key {key}; the keys are the long flags of `fastbean --help`")
    taken = option.kind.read_toml(key, value)
    if value is False:
        return
    if option.field in file.settings:
        other = file.keys[option.field]
        raise UsageError(f"{key} and {other} (line {file.lines[other]}) exclude each other")
    file.settings[option.field] = taken
    file.keys[option.field] = key
