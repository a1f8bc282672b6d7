"""The address of a stream, ``nats://HOST:PORT,HOST:PORT/NAME``, and the file with the credentials for it."""

from __future__ import annotations

import os
import stat
import tomllib
import urllib.parse
from typing import NamedTuple

from fastbean.errors import UsageError

DEFAULT_PORT = 4222
LONGEST_NAME = 64
MOST_REPLICAS = 5  # what NATS allows
EXAMPLE = "nats://n1:4222,n2:4222,n3:4222/jobs"
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_CREDS_MARK = "-----BEGIN NATS USER JWT-----"


class StreamURL(NamedTuple):
    """Where a stream is.

    Attributes:
        servers: URLs of NATS servers.
        name: of the stream.
        user: in the URL, or None.
        replicas: for a new stream.
        max_bytes: the same; None if the URL does not say it.
    """

    servers: list[str]
    name: str
    user: str | None
    replicas: int
    max_bytes: int | None


def parse(text: str) -> StreamURL:
    """Read a URL; raises UsageError that says what is wrong with it."""
    scheme, _, rest = text.partition("://")
    if scheme != "nats" or not rest:
        raise UsageError(f"{text}: not the address of a stream; write it like {EXAMPLE}")
    place, _, query = rest.partition("?")
    hosts, _, name = place.partition("/")
    login, at, hosts = hosts.rpartition("@")
    if ":" in login:
        raise UsageError("a password in the URL can be seen by every user of the machine; put it into a file")
    if not 0 < len(name) <= LONGEST_NAME or not _LETTERS.issuperset(name):
        raise UsageError(f"{text}: the name of the stream is missing, or has other characters than A-Z a-z 0-9 _ -")
    if not all(hosts.split(",")):
        raise UsageError(f"{text}: the name of a host is missing; write it like {EXAMPLE}")
    servers = [_server(text, host) for host in hosts.split(",")]
    replicas, max_bytes = _read_query(text, query)
    return StreamURL(servers, name, login if at else None, replicas, max_bytes)


def _server(text: str, host: str) -> str:
    try:
        parsed = urllib.parse.urlsplit(f"nats://{host}")
        port = parsed.port or DEFAULT_PORT
    except ValueError:
        raise UsageError(f"{text}: {host} is not a host with a port") from None
    if not parsed.hostname:
        raise UsageError(f"{text}: {host} is not a host with a port")
    return f"nats://{f'[{parsed.hostname}]' if ':' in parsed.hostname else parsed.hostname}:{port}"


def _read_query(text: str, query: str) -> tuple[int, int | None]:
    replicas, max_bytes = 3, None
    for key, values in urllib.parse.parse_qs(query, keep_blank_values=True).items():
        if key == "replicas":
            replicas = _read_number(text, key, values[-1], MOST_REPLICAS)
        elif key == "max-bytes":
            max_bytes = _read_number(text, key, values[-1], 1 << 62)
        else:
            raise UsageError(f"{text}: {key} is unknown; there are replicas and max-bytes")
    return replicas, max_bytes


def _read_number(text: str, key: str, value: str, most: int) -> int:
    digits, unit = (value[:-1], value[-1].upper()) if value[-1:].isalpha() else (value, "")
    if not (digits.isascii() and digits.isdigit() and unit in _UNITS):
        raise UsageError(f"{text}: {key}={value} is not a number, which may end in K, M, G or T")
    number = int(digits[:20]) * _UNITS[unit]
    if not 0 < number <= most:
        raise UsageError(f"{text}: {key}={value} is out of range; it must be in 1..{most}")
    return number


def connection_options(url: StreamURL, credentials: str | None) -> dict[str, object]:
    """What a connection needs beside the servers, as ``nats.connect`` takes it.

    ``credentials``: the name of a file: one that ``nsc`` has made (.creds), or a TOML file with ``user`` and
    ``password``, or with ``token``. Raises UsageError if it cannot be used, or others can read it.
    """
    options: dict[str, object] = {"user": url.user} if url.user else {}
    if credentials is None:
        return options
    try:
        with open(credentials, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except OSError as error:
        raise UsageError(f"{credentials}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise UsageError(f"{credentials}: not a text file") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(f"{credentials}: other users can read it; `chmod 600 {credentials}` keeps them out")
    if _CREDS_MARK in text:
        return {"user_credentials": credentials}
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{credentials}: {error}") from error
    keys = {key for key, value in found.items() if isinstance(value, str)}
    if keys != found.keys() or keys not in ({"token"}, {"user", "password"}, {"password"}):
        raise UsageError(f'{credentials}: it must have user = "..." and password = "...", or token = "..."')
    options.update(found)
    if "token" not in found and "user" not in options:
        raise UsageError(f"{credentials}: there is a password, and no user")
    return options
