"""Finds the images in token files, messages and packets, and makes a job for each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tokcodec.batch.jobs import FileJob
from tokcodec.batch.plan import Targets
from tokcodec.errors import TokcodecError, TokenFileError
from tokcodec.inputs.records import Record
from tokcodec.tokenfile import TokenFile

# If several images have one target, the further ones get a number, are refused, or go to the same
# target.
Several = Literal["numbered", "refused", "together"]

_Found = TokenFile | TokenFileError


@dataclass(frozen=True, kw_only=True)
class Received(Record):
    """A source with the image that was found in it, or the error: a pipe can be read only once."""

    found: _Found

    @classmethod
    def of(cls, source: Record, found: _Found) -> "Received":
        return cls(**{**vars(source), "found": found})


def images_of(jobs: Iterator[FileJob], several: Several, damaged: bool) -> Iterator[FileJob]:
    """Make a job for each image: for every message of a text, then for the packets of each image.

    The sources of these jobs are ``Received``, except for those that cannot be read.

    Args:
        jobs: the jobs of the sources.
        several: what to do with several images of one source or one target.
        damaged: see ``TokenFile.from_bytes``.
    """
    packets: dict[object, list[tuple[FileJob, TokenFile]]] = {}  # by image
    targets = Targets()
    why = None
    if several == "refused":
        why = "one file takes one image; to get all, decode a file of the messages to a folder"

    def place(job: FileJob) -> FileJob:
        return job if several == "together" else targets.claim(job, why)

    for job in jobs:
        if job.state == "foreign":
            yield job
            continue
        try:
            data = job.source.read()
        except (OSError, TokcodecError):
            yield place(job)  # the run reads it again and reports the error
            continue
        found = _found(data, damaged)
        for number, own in enumerate(found, 1):
            target = job.target
            if len(found) > 1 and target and several == "numbered":
                target = target.with_name(f"{target.stem}-{number}{target.suffix}")
            part = replace(job, source=Received.of(job.source, own), target=target)
            if isinstance(own, TokenFile) and own.packets:
                packets.setdefault(own.image_key, []).append((part, own))
            else:
                yield place(part)
    for pairs in packets.values():
        job, first = pairs[0]
        (image,) = TokenFile.join(own for _, own in pairs)
        # An image is up to date if it is newer than all of its packets.
        latest = max((own.source for own, _ in pairs), key=_written_at)
        target = job.target
        if target and several == "numbered":
            plain = _without_number(target, first)
            target = target if plain in targets else plain
        yield place(replace(job, source=Received.of(latest, image), target=target))


def _found(data: bytes, damaged: bool) -> list[_Found]:
    """The images in the bytes of a source, or the error if there is none."""
    try:
        return [*TokenFile.find(data, damaged=damaged)]
    except TokenFileError as error:
        return [error]


def _written_at(source: Record) -> tuple[bool, int]:
    return source.since is None, source.since or 0


def _without_number(target: Path, packet: TokenFile) -> Path:
    """``a.jpg.png`` for the ``a.jpg.1.png`` of the first packet."""
    assert packet.packets
    number, _ = packet.packets.payloads[0]
    ending = f".{number + 1}{target.suffix}"
    if len(packet.packets.payloads) == 1 and target.name.endswith(ending):
        return target.with_name(target.name.removesuffix(ending) + target.suffix)
    return target
