"""What a server reports about itself in ``stats``: its id, and texts that are written between double quotes.

``stats`` is YAML. A value that is text must not be readable as anything else, whatever the name of the machine is.
"""

import os


def is_text(digits: str) -> bool:
    """Whether 16 hexadecimal digits without quotes can only be read as text.

    YAML reads ``1234567890123456``, ``12345678901234e5`` and ``0b10101010101010`` as numbers; C and Java also allow a d
    or an f as the last letter of a number.
    """
    return any(digit in "acdf" for digit in digits[:-1])


def new_instance_id() -> str:
    """Returns 16 random hexadecimal digits that cannot be read as a number."""
    while not is_text(digits := os.urandom(8).hex()):
        pass
    return digits


def quoted(text: str) -> bytes:
    """Returns ``text`` as YAML writes it between double quotes.

    Printable text without quotes and backslashes comes out unchanged, as beanstalkd writes it. ``text`` may hold
    undecodable bytes, as ``os.uname`` returns them.
    """
    return "".join(each if each.isprintable() and each not in '"\\' else _escape(ord(each)) for each in text).encode()


def plain(text: str) -> bytes:
    """Returns ``text`` in UTF-8; an undecodable byte becomes the character that ``quoted`` writes for it."""
    codes = (ord(each) for each in text)
    return "".join(chr(code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code) for code in codes).encode(errors="replace")


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
