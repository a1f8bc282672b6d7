"""The messages of the stream, byte by byte: claims, batches of records, and releases.

A message is a header of ``HEADER_BYTES`` and a payload. All numbers are little-endian.

====== ===== =======================================================================================================
offset bytes content
====== ===== =======================================================================================================
0      4     ``FBL1``
4      4     CRC32C of everything after it
8      4     chain: CRC32C of the chain of the message before, and of the CRC32C of this payload, 4 bytes each
12     1     kind: 1 claim, 2 batch, 3 release
13     1     flags: 1 = another part of the same batch follows; all others are zero
14     2     which part of its batch it is, counted from 0
16     8     epoch: which claim of the stream it belongs to, counted from 1
24     8     number in the epoch; the claim has 0, and each message after it the next one
32     8     LSN of the first record in the payload, or of the next record if there is none
40     8     wall time at which the leader first sent it, in nanoseconds since 1970, signed
48           payload
====== ===== =======================================================================================================

The payload of a batch is a piece of the run of records, as docs/binlog.md describes them; an empty one is a heartbeat.
The payload of a claim or a release is a list of members: a tag of 1 byte, a length of 2 bytes, and the value. A reader
skips a tag below ``REQUIRED_TAGS`` that it does not know, and refuses others.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from fastbean.binlog.record import checksum

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAGIC = b"FBL1"
CLAIM = 1
BATCH = 2
RELEASE = 3
MORE = 1
REQUIRED_TAGS = 128

# The limits on members are those of what they hold: names of hosts have at most 253 bytes, and an address has a port
# besides.
INSTANCE_BYTES = 8
KEY_BYTES = 32
RUN_BYTES = 16
LONGEST_TEXT_BYTES = 255

_HEADER = Struct("<4sIIBBHQQQq")
_CHAIN = Struct("<II")
_MEMBER = Struct("<BH")
HEADER_BYTES = _HEADER.size
_CHECKED_FROM = 8  # the checksum covers everything from here to the end
LAST_PART = 65535


class MessageError(Exception):
    """The bytes are not a message of ours; the text says why."""


class NewerMessageError(MessageError):
    """Only a newer fastbean can read this message."""


class Message(NamedTuple):
    """A message, as `decode` returns it. ``more``: another part of its batch follows."""

    kind: int
    epoch: int
    number: int
    first_lsn: int
    sent_ns: int
    payload: bytes
    part: int = 0
    more: bool = False
    crc: int = 0
    chain: int = 0


class Claim(NamedTuple):
    """What a claim says about the node that leads.

    Attributes:
        node: its name.
        instance: random, other in each process: 8 bytes.
        address: where other nodes reach it, HOST:PORT.
        key: random, signs the introduction of proxied clients: 32 bytes.
        version: of its fastbean.
        run: the identity of the run of records: 16 bytes.
    """

    node: str
    instance: bytes
    address: str
    key: bytes
    version: str
    run: bytes


def chain_of(before: int, payload: bytes) -> int:
    """The chain of a message with this payload behind one with the chain ``before``; 0 before the first one."""
    return checksum(_CHAIN.pack(before, checksum(payload)))


def encode(message: Message, chain_before: int) -> bytes:
    """The bytes of a message, whose ``crc`` and ``chain`` are computed here.

    ``chain_before`` is the chain of the message before it in the stream, 0 if it is the first one.
    """
    flags = MORE if message.more else 0
    rest = _HEADER.pack(
        MAGIC, 0, chain_of(chain_before, message.payload), message.kind, flags, message.part, message.epoch,
        message.number, message.first_lsn, message.sent_ns,
    )[_CHECKED_FROM:] + message.payload  # fmt: skip
    return MAGIC + checksum(rest).to_bytes(4, "little") + rest


def decode(data: bytes) -> Message:
    """The message in these bytes.

    Raises MessageError if they are damaged or no message of ours, NewerMessageError if a newer fastbean has written
    them. The chain is the caller's to compare, since it depends on the message before.
    """
    if len(data) < HEADER_BYTES:
        raise MessageError(f"it has {len(data)} bytes, and the header alone has {HEADER_BYTES}")
    magic, crc, chain, kind, flags, part, epoch, number, first_lsn, sent_ns = _HEADER.unpack_from(data)
    if magic != MAGIC:
        if magic[:3] == MAGIC[:3]:
            raise NewerMessageError(f"it has the unknown format {magic[3:]!r}")
        raise MessageError(f"it begins with {magic!r} instead of {MAGIC!r}")
    if checksum(memoryview(data)[_CHECKED_FROM:]) != crc:
        raise MessageError("its checksum is wrong")
    if kind not in (CLAIM, BATCH, RELEASE):
        raise NewerMessageError(f"it is of the unknown kind {kind}")
    if flags & ~MORE:
        raise NewerMessageError(f"it has the unknown flags {flags & ~MORE:#x}")
    message = Message(
        kind, epoch, number, first_lsn, sent_ns, data[HEADER_BYTES:], part, bool(flags & MORE), crc, chain
    )
    _check_members(message)
    return message


def _check_members(message: Message) -> None:
    """Raise MessageError if the checksum is right and the members contradict each other."""
    if message.epoch == 0:
        raise MessageError("its epoch is 0")
    if (message.number == 0) != (message.kind == CLAIM):
        raise MessageError(f"a message of kind {message.kind} has the number {message.number}")
    if message.kind != BATCH and (message.part or message.more):
        raise MessageError(f"a message of kind {message.kind} has parts")
    if not message.payload and (message.part or message.more or message.kind == CLAIM):
        raise MessageError("its payload is empty")
    if message.part == LAST_PART and message.more:
        raise MessageError(f"its batch has more than {LAST_PART + 1} parts")


def _encode_members(members: Mapping[int, bytes]) -> bytes:
    return b"".join(_MEMBER.pack(tag, len(value)) + value for tag, value in members.items())


def _decode_members(payload: bytes, known: Mapping[int, str]) -> dict[str, bytes]:
    """The members of a payload by their names in ``known``."""
    found: dict[str, bytes] = {}
    at = 0
    while at < len(payload):
        if len(payload) - at < _MEMBER.size:
            raise MessageError("its last member is cut off")
        tag, size = _MEMBER.unpack_from(payload, at)
        at += _MEMBER.size
        if len(payload) - at < size:
            raise MessageError(f"its member {tag} is cut off")
        name = known.get(tag)
        if name in found:
            raise MessageError(f"it has the member {tag} twice")
        if name is not None:
            found[name] = payload[at : at + size]
        elif tag >= REQUIRED_TAGS:
            raise NewerMessageError(f"it has the unknown member {tag}")
        at += size
    return found


_TAGS_OF_CLAIM = {1: "node", 2: "instance", 3: "address", 4: "key", 5: "version", 6: "run"}
_TAGS_OF_RELEASE = {1: "node"}
_FIXED_BYTES = {"instance": INSTANCE_BYTES, "key": KEY_BYTES, "run": RUN_BYTES}


def encode_claim(claim: Claim) -> bytes:
    """The payload of a claim."""
    values = claim._asdict()
    return _encode_members({tag: _bytes_of(values[name]) for tag, name in _TAGS_OF_CLAIM.items()})


def decode_claim(payload: bytes) -> Claim:
    """What the payload of a claim says; raises MessageError or NewerMessageError."""
    found = _decode_members(payload, _TAGS_OF_CLAIM)
    for name in _TAGS_OF_CLAIM.values():
        if name not in found:
            raise MessageError(f"a claim lacks the member {name}")
    for name, size in _FIXED_BYTES.items():
        if len(found[name]) != size:
            raise MessageError(f"the member {name} has {len(found[name])} bytes instead of {size}")
    return Claim(
        node=_text_of(found, "node"),
        instance=found["instance"],
        address=_text_of(found, "address"),
        key=found["key"],
        version=_text_of(found, "version"),
        run=found["run"],
    )


def encode_release(node: str | None) -> bytes:
    """The payload of a release: which node shall lead next, None for any."""
    return b"" if node is None else _encode_members({1: node.encode()})


def decode_release(payload: bytes) -> str | None:
    """The node that shall lead next, None for any; raises MessageError or NewerMessageError."""
    found = _decode_members(payload, _TAGS_OF_RELEASE)
    return _text_of(found, "node") if found else None


def _bytes_of(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _text_of(found: Mapping[str, bytes], name: str) -> str:
    value = found[name]
    if not 0 < len(value) <= LONGEST_TEXT_BYTES:
        raise MessageError(f"the member {name} has {len(value)} bytes: 1 to {LONGEST_TEXT_BYTES} are allowed")
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise MessageError(f"the member {name} is not UTF-8") from None


def pieces_of(records: bytes, largest_bytes: int) -> Iterator[bytes]:
    """Cut a batch into the payloads of its parts, of at most ``largest_bytes`` each; at least one, maybe empty."""
    for at in range(0, max(len(records), 1), largest_bytes):
        yield records[at : at + largest_bytes]
