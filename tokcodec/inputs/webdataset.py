"""Tars in WebDataset layout."""

import posixpath
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import partial
from itertools import islice

from tokcodec.inputs.records import MAX_TEXT, TEXT_SUFFIXES, Record, printable, stored, too_large
from tokcodec.io.find import Stamp
from tokcodec.io.imagefile import extensions
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import open_input, reason_of
from tokcodec.io.tar import LINK, members

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_COMPANIONS = (".cls", *TEXT_SUFFIXES)
# Members of a tar that belong together, by suffix: the name, and the bytes or the error.
_Sample = dict[str, tuple[str, bytes | str]]


@dataclass(frozen=True)
class Tar:
    """A tar in WebDataset layout, where members with the same name up to the first dot belong
    together. It is read as a stream.

    For ``kinds`` see ``listing.expand``, for ``max_bytes`` ``listing.gather``.
    """

    stamps: tuple[Stamp]
    name: str
    limit: int | None = None
    kinds: Set[str] | None = None
    max_bytes: int = MAX_BYTES

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The text columns that a tar may have; it must be read to know which it has."""
        return tuple(suffix[1:] for suffix in TEXT_SUFFIXES)

    @property
    def source_bytes(self) -> int:
        return self.stamps[0].size

    def records(self) -> Iterator[Record]:
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[Record]:
        (stamp,) = self.stamps
        known = extensions() if self.kinds is None else self.kinds
        sample: _Sample = {}
        key = reason = ""
        held = 0  # bytes of the sample's images
        passed = 0  # bytes of the file, up to the last sample
        try:
            with open_input(stamp.path) as file:
                for member in members(file):
                    folder, name = posixpath.split(printable(member.name))
                    dot = name.find(".", 1)  # a leading dot begins no suffix
                    stem, suffix = (name, "") if dot < 0 else (name[:dot], name[dot:].lower())
                    is_companion = suffix in _COMPANIONS
                    if not (is_companion or "." + suffix.rpartition(".")[2] in known):
                        continue
                    own = posixpath.join(folder, stem)
                    if sample and (own != key or suffix in sample):
                        yield from _samples(key, sample, stamp, file.tell() - passed)
                        sample, held, passed = {}, 0, file.tell()
                    key = own
                    data: bytes | str
                    if member.problem:
                        data = member.problem
                    elif is_companion and member.size > MAX_TEXT:
                        data = too_large(member.size, MAX_TEXT)
                    elif not is_companion and held + member.size > self.max_bytes:
                        data = "with the images of its key before it " if held else ""
                        data += too_large(held + member.size, self.max_bytes)
                    else:
                        data = member.read()
                        held += 0 if is_companion else member.size
                    sample[suffix] = member.name, data
        except Exception as error:  # of the tar, or of a store behind fsspec
            reason = f"the rest of the tar: {reason_of(error)}"
        if sample:
            yield from _samples(key, sample, stamp, stamp.size - passed)
        if reason:
            yield Record(self.name, None, partial(stored, reason), stamp)


def _samples(key: str, sample: _Sample, stamp: Stamp, size: int) -> Iterator[Record]:
    """Yield a record for each image of a sample; if there are several, their keys have suffixes.

    A text or label that cannot be read is a record, too. The first record has the ``size``.
    """

    def record_of(suffix: str) -> Record:
        member, data = sample[suffix]
        return Record(key + suffix, None, partial(stored, data), stamp, member)

    readable = [suffix for suffix, (_, data) in sample.items() if isinstance(data, bytes)]
    texts = {suffix[1:]: record_of(suffix) for suffix in TEXT_SUFFIXES if suffix in readable}
    label = None
    if ".cls" in readable:
        label = record_of(".cls").read().decode("utf-8", "replace").strip()
    images = [suffix for suffix in sample if suffix not in _COMPANIONS]
    for suffix in images:
        own = key if len(images) == 1 else key + suffix
        member, data = sample[suffix]
        yield Record(own, label, partial(stored, data), stamp, member, texts, size)
        size = 0
    for suffix, (_, data) in sample.items():
        if suffix in _COMPANIONS and isinstance(data, str) and data != LINK:
            yield record_of(suffix)
    if not images:
        member, _ = next(iter(sample.values()))
        read = partial(stored, "no image under this key")
        yield Record(key, label, read, stamp, member, texts, size)
