"""The messages of the stream: every byte of the format, and every kind of damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastbean.binlog.record import checksum
from fastbean.replication import messages
from fastbean.replication.messages import BATCH, CLAIM, RELEASE, Claim, Message, MessageError, NewerMessageError

TEXT = Path(__file__).with_name("format_1.txt")
T = 1_700_000_000_123_456_789
CLAIM_OF_Q1 = Claim(
    "q1", bytes(range(1, 9)), "10.0.0.1:11300", bytes(range(0x20, 0x40)), "0.2.0",
    bytes.fromhex("00112233445566778899aabbccddeeff"),
)  # fmt: skip


def fixture() -> dict[str, bytes]:
    """The messages of format_1.txt, by name and in order."""
    found: dict[str, bytearray] = {}
    current = bytearray()
    for line in TEXT.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            current = found.setdefault(line.strip("[]"), bytearray())
        else:
            current += bytes.fromhex(line.partition("#")[0])
    return {name: bytes(data) for name, data in found.items()}


SAID = {
    "claim": Message(CLAIM, 1, 0, 0, T, messages.encode_claim(CLAIM_OF_Q1)),
    "batch": Message(BATCH, 1, 1, 0, T + 1, b"first records"),
    "heartbeat": Message(BATCH, 1, 2, 13, T + 2, b""),
    "part-0": Message(BATCH, 1, 3, 13, T + 3, b"a large ", 0, True),
    "part-1": Message(BATCH, 1, 4, 21, T + 3, b"job", 1),
    "release": Message(RELEASE, 1, 5, 24, T + 4, messages.encode_release("q2")),
    "release-to-any": Message(RELEASE, 1, 6, 24, T + 5, b""),
}


def test_every_version_reads_and_writes_these_bytes() -> None:
    assert list(fixture()) == list(SAID)
    chain = 0
    for name, data in fixture().items():
        found = messages.decode(data)
        assert found._replace(crc=0, chain=0) == SAID[name]
        assert found.chain == messages.chain_of(chain, found.payload)
        assert messages.encode(SAID[name], chain) == data
        chain = found.chain


def test_the_members_of_claims_and_releases() -> None:
    read = {name: messages.decode(data) for name, data in fixture().items()}
    assert messages.decode_claim(read["claim"].payload) == CLAIM_OF_Q1
    assert messages.decode_release(read["release"].payload) == "q2"
    assert messages.decode_release(read["release-to-any"].payload) is None


@pytest.mark.parametrize("name", SAID)
def test_any_bit_that_is_wrong_is_noticed(name: str) -> None:
    data = fixture()[name]
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            with pytest.raises(MessageError):
                messages.decode(bytes(damaged))


@pytest.mark.parametrize("name", SAID)
def test_a_message_that_is_cut_off_or_too_long_is_noticed(name: str) -> None:
    data = fixture()[name]
    for size in range(len(data)):
        with pytest.raises(MessageError):
            messages.decode(data[:size])
    with pytest.raises(MessageError, match="its checksum is wrong"):
        messages.decode(data + b"\0")


def with_bytes(data: bytes, place: int, new: bytes) -> bytes:
    """A message with other bytes at ``place``, and the right checksum."""
    rest = (data[:place] + new + data[place + len(new) :])[8:]
    return data[:4] + checksum(rest).to_bytes(4, "little") + rest


@pytest.mark.parametrize(
    ("name", "place", "new", "error", "text"),
    [
        ("batch", 12, b"\x04", NewerMessageError, "it is of the unknown kind 4"),
        ("batch", 13, b"\x02", NewerMessageError, "it has the unknown flags 0x2"),
        ("batch", 16, bytes(8), MessageError, "its epoch is 0"),
        ("batch", 24, bytes(8), MessageError, "a message of kind 2 has the number 0"),
        ("claim", 24, b"\x01", MessageError, "a message of kind 1 has the number 1"),
        ("claim", 13, b"\x01", MessageError, "a message of kind 1 has parts"),
        ("release", 14, b"\x01", MessageError, "a message of kind 3 has parts"),
        ("heartbeat", 13, b"\x01", MessageError, "its payload is empty"),
        ("heartbeat", 14, b"\x01", MessageError, "its payload is empty"),
        ("part-0", 14, b"\xff\xff", MessageError, "its batch has more than 65536 parts"),
    ],
)
def test_members_that_cannot_be(name: str, place: int, new: bytes, error: type[MessageError], text: str) -> None:
    with pytest.raises(error) as refusal:
        messages.decode(with_bytes(fixture()[name], place, new))
    assert str(refusal.value) == text
    assert type(refusal.value) is error


def test_what_is_no_message() -> None:
    data = fixture()["batch"]
    with pytest.raises(MessageError, match="it has 47 bytes, and the header alone has 48"):
        messages.decode(data[:47])
    with pytest.raises(MessageError, match="it begins with b'JSON' instead of b'FBL1'"):
        messages.decode(b"JSON" + data[4:])
    with pytest.raises(NewerMessageError, match="it has the unknown format b'2'"):
        messages.decode(b"FBL2" + data[4:])


def member(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + len(value).to_bytes(2, "little") + value


WHOLE = messages.encode_claim(CLAIM_OF_Q1)


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (WHOLE + b"\x07", "its last member is cut off"),
        (WHOLE + b"\x07\x02\x00x", "its member 7 is cut off"),
        (WHOLE + member(1, b"q2"), "it has the member 1 twice"),
        (WHOLE[5:], "a claim lacks the member node"),
        (WHOLE[:-19], "a claim lacks the member run"),
        (WHOLE.replace(member(1, b"q1"), member(1, b"")), "the member node has 0 bytes: 1 to 255 are allowed"),
        (WHOLE.replace(member(1, b"q1"), member(1, b"q" * 256)), "the member node has 256 bytes: 1 to 255 are allowed"),
        (WHOLE.replace(member(1, b"q1"), member(1, b"\xff")), "the member node is not UTF-8"),
        (
            WHOLE.replace(member(2, CLAIM_OF_Q1.instance), member(2, b"1234567")),
            "the member instance has 7 bytes instead of 8",
        ),
    ],
)
def test_claims_that_cannot_be(payload: bytes, text: str) -> None:
    with pytest.raises(MessageError) as refusal:
        messages.decode_claim(payload)
    assert str(refusal.value) == text


def test_later_versions_may_add_members() -> None:
    assert messages.decode_claim(WHOLE + member(7, b"optional")) == CLAIM_OF_Q1
    assert messages.decode_release(member(127, b"optional")) is None
    with pytest.raises(NewerMessageError, match="it has the unknown member 128"):
        messages.decode_claim(WHOLE + member(128, b""))


@pytest.mark.parametrize(
    ("records", "largest", "pieces"),
    [
        (b"", 4, [b""]),
        (b"abcd", 4, [b"abcd"]),
        (b"abcde", 4, [b"abcd", b"e"]),
        (b"abcdefgh", 4, [b"abcd", b"efgh"]),
    ],
)
def test_a_large_batch_goes_in_parts(records: bytes, largest: int, pieces: list[bytes]) -> None:
    assert list(messages.pieces_of(records, largest)) == pieces
