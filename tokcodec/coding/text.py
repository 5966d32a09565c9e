"""Messages: bytes as text that survives chats and mail, found again in any text."""

import base64
import re
from collections.abc import Iterator

_PREFIX = "tok:"
_START = re.compile(rb"(?i:tok:)\W*(?=t)")  # every token file begins with t in base64url
_WORD = re.compile(rb"[A-Za-z0-9_+/-]+")
_BETWEEN = _WORD.sub(b"", bytes(range(256)))
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_LONGEST = 1 << 14  # characters of a message among other words


def to_message(data: bytes) -> str:
    """``tok:`` and the bytes in base64url (RFC 4648, section 5), without padding."""
    return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def find_messages(text: bytes) -> Iterator[tuple[bytes, list[int]]]:
    """For each message in a text its bytes, and how many of them it may have, since words may
    follow it: all of the text up to the next message, or only the first words of it."""
    _, *parts = _START.split(text)
    return map(_bytes_of, parts)


def _bytes_of(part: bytes) -> tuple[bytes, list[int]]:
    text = part.translate(_URL_SAFE, _BETWEEN)
    ends, end = [(len(text), text)], 0
    for match in _WORD.finditer(part):
        end += len(match[0])
        if end > min(_LONGEST, len(text) - 1):
            break
        ends.append((end, match[0]))
    shown = [end - marks for end, word in ends for marks in _marks_after(word)]
    text = text[: len(text) - (len(text) % 4 == 1)]  # a single character is no byte
    data = base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    return data, [characters * 3 // 4 for characters in shown if characters % 4 != 1]


def _marks_after(word: bytes) -> list[int]:
    """How many of the last ``-`` and ``_`` of a word may belong to the text around it."""
    most = len(word) - len(word.rstrip(b"-_+/"))
    return sorted({min(marks, most) for marks in (0, 1, 2, most)})
