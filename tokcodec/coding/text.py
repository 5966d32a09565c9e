"""Messages: bytes as text that survives chats and mail, found again in any text."""

import base64
import re
from collections.abc import Iterator
from itertools import accumulate

_PREFIX = "tok:"
_START = re.compile(rb"(?i:tok:)(?=\W*t)")  # every token file begins with t in base64url
_WORD = re.compile(rb"[A-Za-z0-9_-]+")
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_LONGEST = 1 << 14  # characters of a message among other words


def to_message(data: bytes) -> str:
    """``tok:`` and the bytes in base64url (RFC 4648, section 5), without padding."""
    return _PREFIX + base64.urlsafe_b64encode(data).decode().rstrip("=")


def find_messages(text: bytes) -> Iterator[Iterator[bytes]]:
    """For each message in a text what its bytes may be, since words may follow it: all of the text
    up to the next message, or only the first words of it."""
    _, *parts = _START.split(text)
    return map(_candidates, parts)


def _candidates(part: bytes) -> Iterator[bytes]:
    words = _WORD.findall(part.translate(_URL_SAFE))
    ends = list(accumulate(map(len, words)))
    text = b"".join(words)
    for end in (len(text), *(end for end in ends[:-1] if end <= _LONGEST)):
        for shown in dict.fromkeys((text[:end], text[:end].rstrip(b"-_"))):
            if len(shown) % 4 != 1:
                yield base64.urlsafe_b64decode(shown + b"=" * (-len(shown) % 4))
