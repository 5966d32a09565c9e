"""Joins packets of images among token files, as ``decode`` does."""

import re
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tokcodec.errors import TokcodecError
from tokcodec.tokenfile import TokenFile

T = TypeVar("T")
_Found = TokenFile | TokcodecError


def join_packets(files: Iterable[tuple[T, _Found]]) -> Iterator[tuple[T, _Found]]:
    """Yield token files and errors as they come, and then a token file for the packets of each
    image, with the tag of the first of them."""
    packets: dict[object, list[tuple[T, TokenFile]]] = {}  # by image
    for tag, file in files:
        if isinstance(file, TokenFile) and file.packets:
            packets.setdefault(file.image_key, []).append((tag, file))
        else:
            yield tag, file
    for pairs in packets.values():
        (image,) = TokenFile.join(file for _, file in pairs)
        yield pairs[0][0], image


def name_of_image(name: str, file: _Found) -> str:
    """The name of a token file without its suffix, and without the number of a packet."""
    is_packet = isinstance(file, TokenFile) and file.packets
    return re.sub(r"\.\d{1,2}\Z", "", name) if is_packet else name
