"""What a content security policy says of a part of a page."""

import base64
import hashlib


def source_hash(text: str) -> str:
    """The source expression of an inline style or script of this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
