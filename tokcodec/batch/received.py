"""The images in token files, messages and packets: a job for each, whatever they came in."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from tokcodec.batch.jobs import FileJob
from tokcodec.errors import TokcodecError, TokenFileError
from tokcodec.inputs.records import stored
from tokcodec.tokenfile import TokenFile, is_token_file

# What becomes of further images where there is one target: each gets a number, is refused, or goes
# to the same target.
Several = Literal["numbered", "refused", "together"]


def images_of(jobs: Iterator[FileJob], several: Several, damaged: bool) -> Iterator[FileJob]:
    """A job for each image: for every message of a text, and for all packets of an image together,
    which come last.

    Args:
        jobs: for every source.
        several: where the images of one source, or of all where they have one target, go.
        damaged: as of ``TokenFile.from_bytes``.
    """
    packets: list[tuple[FileJob, TokenFile]] = []
    done = False

    def place(job: FileJob) -> FileJob:
        nonlocal done
        if done and several == "refused":
            why = "not written: one file takes one image; name a folder"
            return replace(job, target=None, state="foreign", why=why)
        done = True
        return job

    for job in jobs:
        try:
            data = job.source.read() if job.state != "foreign" else b""
        except (OSError, TokcodecError):
            yield place(job)  # reading it again says what is wrong
            continue
        found = _found(data, damaged) if job.state != "foreign" else [data]
        for number, own in enumerate(found, 1):
            part = job
            if len(found) > 1 and job.target and several == "numbered":
                name = f"{job.target.stem}-{number}{job.target.suffix}"
                part = replace(job, target=job.target.with_name(name))
            if isinstance(own, TokenFile) and own.packets:
                packets.append((part, own))
            elif job.state == "foreign":
                yield job
            else:
                yield place(_holding(part, own))
    for image in TokenFile.join(file for _, file in packets):
        job, first = next(pair for pair in packets if pair[1].image_key == image.image_key)
        if job.target and several == "numbered":
            job = replace(job, target=_without_number(job.target, first))
        yield place(_holding(job, image))


def _found(data: bytes, damaged: bool) -> list[TokenFile | TokenFileError | bytes]:
    """The images in the bytes of a source; the bytes themselves if there is none."""
    try:
        if is_token_file(data):
            return [TokenFile.from_bytes(data, damaged=damaged)]
        return [*TokenFile.find(data, damaged=damaged)]
    except TokenFileError:
        return [data]


def _holding(job: FileJob, found: TokenFile | TokenFileError | bytes) -> FileJob:
    """The job with a source that is what was found: a pipe can be read once."""

    def read() -> bytes:
        if isinstance(found, TokenFileError):
            raise found
        return found.to_text().encode() if isinstance(found, TokenFile) else found

    data = partial(stored, found) if isinstance(found, bytes) else read
    return replace(job, source=replace(job.source, read=data))


def _without_number(target: Path, packet: TokenFile) -> Path:
    """``a.jpg.png`` for the ``a.jpg.1.png`` of the first packet."""
    assert packet.packets
    number, _ = packet.packets.payloads[0]
    ending = f".{number + 1}{target.suffix}"
    if len(packet.packets.payloads) == 1 and target.name.endswith(ending):
        return target.with_name(target.name.removesuffix(ending) + target.suffix)
    return target
