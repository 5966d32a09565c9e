"""Training images, which are read from the sources into two arrays on disk."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from tokcodec.batch.jobs import images
from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import place
from tokcodec.errors import Hint, ImageError, TrainingError, counted, escaped
from tokcodec.image import read_tiles
from tokcodec.inputs.records import Record, printable
from tokcodec.io.files import write_atomically, writing
from tokcodec.io.read import MAX_BYTES
from tokcodec.io.remote import reason_of
from tokcodec.parallel import map_ahead

# Pixels along a side of a stored image. The encoder of the bundled model sees 8x8 pixels of a
# token, so this suffices for the longest grid in training, 32 tokens. A decoder of 16x16 pixels for
# each token still learns full resolution on grids of up to 16 tokens a side.
STORED = 256

FINGERPRINT = "fingerprint"  # of the images; followed by a line for each that was skipped
_HELD_OUT_SHARE = 32  # one in so many images is held out, unless a list names them
_READ_AHEAD = 64  # images

Pixels = NDArray[np.uint8]
_Prepared = tuple[str, bytes, Pixels]  # the key of an image, the bytes of its file, its pixels


@dataclass(frozen=True)
class Images:
    """Square training images.

    Attributes:
        train: uint8 [n, 3, T, T], mapped from a file.
        held_out: uint8 [m, 3, T, T], mapped from a file.
        fingerprint: SHA-256, in hex, of the keys and bytes of all images, in order.
        skipped: a message for each image, or rest of a tar, that could not be read.
    """

    train: Pixels
    held_out: Pixels
    fingerprint: str
    skipped: tuple[str, ...] = ()


def load_images(
    sources: Sequence[str],
    held_out: frozenset[str],
    config: PreprocessingConfig,
    folder: Path,
    workers: int,
    report: Callable[[int | None], None],
    max_bytes: int = MAX_BYTES,
) -> Images:
    """Reads the images of ``sources``, or maps the arrays that an earlier call wrote to ``folder``.

    Images are cropped to their centre square, resized to ``STORED`` pixels and written as they
    are read, so memory does not limit their number.

    Args:
        sources: see ``jobs.images``.
        held_out: the keys of the images that are not trained on. A key is the path below the
            source folder, ``name.tar/member`` or ``file.parquet/row``. If empty, the first image
            and one in 32 of the others, by the hash of its key, are held out.
        config: how images are resized.
        folder: where the arrays are written.
        workers: threads that read images.
        report: called after every image with the number of all images, if that is known.
        max_bytes: larger images are skipped.

    Raises:
        ArgumentError, DatasetError: see ``jobs.images``.
        TrainingError: no images are left to train on, or none are held out; the arrays in
            ``folder`` have other sources or settings; or the fingerprint is damaged.
    """
    paths = (folder / "train.npy", folder / "held-out.npy")
    fingerprint_path = folder / FINGERPRINT
    asked = {"sources": list(sources), "held-out list": sorted(held_out), "preprocessing": config}
    plan = " ".join(hashlib.sha256(repr(value).encode()).hexdigest() for value in asked.values())
    if not fingerprint_path.exists():
        number, records = images(sources, max_bytes)
        prepared = map_ahead(partial(_prepare, config=config), records, workers, _READ_AHEAD)
        digest, unread = _store(
            prepared, held_out, paths, ", ".join(sources), lambda: report(number)
        )
        text = "\n".join([plan, digest, *unread])
        write_atomically(fingerprint_path, lambda file: file.write(text.encode()))
    try:
        found, fingerprint, *skipped = fingerprint_path.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"damaged: {reason_of(error)}; delete it to read the images again",
            name=fingerprint_path,
        ) from error
    if found != plan:
        pairs = zip(asked, found.split(), plan.split(), strict=False)
        other = ", ".join(name for name, then, now in pairs if then != now)
        raise TrainingError(
            f"contains images of other sources or settings ({other})",
            name=folder,
            hint=Hint.OTHER_OUTPUT,
        )
    train, kept = (np.load(path, mmap_mode="r") for path in paths)
    return Images(train, kept, fingerprint, tuple(skipped))


def _prepare(record: Record, config: PreprocessingConfig) -> _Prepared | str:
    """Reads and resizes an image; returns a message if it cannot be read."""
    key = printable(record.below)
    try:
        data = record.read()
        placement = partial(place, "crop", tile=(STORED, STORED), resize=config.resize)
        tiles = read_tiles(io.BytesIO(data), config.replace(pixel_scale=1), placement)
        return key, data, tiles.pixels[0].transpose(2, 0, 1)
    except (ImageError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        return escaped(f"{key}: {reason}")


def _store(
    prepared: Iterator[_Prepared | str],
    listed: frozenset[str],
    paths: tuple[Path, Path],
    sources: str,
    report: Callable[[], None],
) -> tuple[str, list[str]]:
    """Writes both arrays, whole or not at all; returns the fingerprint and what was skipped."""
    fingerprint = hashlib.sha256()
    skipped: list[str] = []
    with writing(paths[0]) as train_file, writing(paths[1]) as held_out_file:
        train, held_out = _ArrayFile(train_file), _ArrayFile(held_out_file)
        for image in prepared:
            report()
            if isinstance(image, str):
                skipped.append(image)
                continue
            key, data, pixels = image
            for part in (key.encode(), data):
                fingerprint.update(len(part).to_bytes(8, "little") + part)
            first = not train.count + held_out.count
            held = key in listed if listed else first or _is_drawn(key)
            (held_out if held else train).append(pixels)
        if not train.count or not held_out.count:
            raise TrainingError(
                "training needs an image to train on and one to hold out: of "
                f"{counted(train.count + held_out.count, 'image')}, {held_out.count} are held out",
                name=sources,
            )
        train.write_header()
        held_out.write_header()
    return fingerprint.hexdigest(), skipped


class _ArrayFile:
    """An .npy file to which images are appended; their number is written into its header at the
    end, for which NumPy leaves room."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.count = file, 0
        self.write_header()

    def append(self, pixels: Pixels) -> None:
        self.file.write(np.ascontiguousarray(pixels).data)
        self.count += 1

    def write_header(self) -> None:
        self.file.seek(0)
        header = {"descr": "|u1", "fortran_order": False, "shape": (self.count, 3, STORED, STORED)}
        np.lib.format.write_array_header_1_0(self.file, header)


def _is_drawn(key: str) -> bool:
    return hashlib.sha256(key.encode()).digest()[0] % _HELD_OUT_SHARE == 0
