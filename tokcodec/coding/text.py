"""Messages: token files as text that survives chats and mail, and can be found in any text."""

import base64
import re
from collections.abc import Iterator

_PREFIX = "tok:"
_START = re.compile(rb"(?i:tok:)\W*(?=t)")  # every token file begins with t in base64url
_WORD = re.compile(rb"[A-Za-z0-9_+/-]+")
_BETWEEN = _WORD.sub(b"", bytes(range(256)))
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_LONGEST = 1 << 14  # the most characters of a message that words follow


def to_message(data: bytes) -> str:
    """``tok:`` and the bytes in base64url (RFC 4648, section 5), without padding."""
    return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def find_messages(text: bytes) -> Iterator[tuple[bytes, list[int]]]:
    """Find the messages in a text: for each, its bytes and the lengths that it may have.

    Because other words may follow a message, it is all of the text up to the next message, or only
    the first words of that.
    """
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
    """The numbers of ``-`` and ``_`` at the end of a word that may belong to the text around it."""
    most = len(word) - len(word.rstrip(b"-_+/"))
    return sorted({min(marks, most) for marks in (0, 1, 2, most)})
