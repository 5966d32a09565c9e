"""Training images: from sources of every kind into one array on disk."""

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tokcodec.config import PreprocessingConfig
from tokcodec.config.geometry import place
from tokcodec.errors import Hint, ImageError, TrainingError, escaped
from tokcodec.image import read_tiles
from tokcodec.inputs.listing import count, list_inputs
from tokcodec.inputs.records import Record, printable
from tokcodec.io.files import write_atomically
from tokcodec.io.remote import reason_of
from tokcodec.io.tar import MAX_BYTES

FINGERPRINT = "fingerprint"  # of a run's images; behind it a line for each that was skipped
HELD_OUT_SHARE = 32  # one image in so many, unless a list names them


@dataclass(frozen=True)
class Images:
    """Square training images.

    Attributes:
        train: uint8 [n, 3, T, T]; T is twice the side that the model sees, or S where that is less.
        held_out: uint8 [m, 3, S, S].
        fingerprint: SHA-256, in hex, over the keys and bytes of all of them, in order.
        skipped: one line for each image, or rest of a tar, that could not be read.
    """

    train: NDArray[np.uint8]
    held_out: NDArray[np.uint8]
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
    """Reads every image of ``sources``, or the arrays that an earlier call left in ``folder``.

    Images are cropped to their centre square. A key is the path below the source folder,
    ``name.tar/member`` or ``file.parquet/row``; the images whose keys are in ``held_out``, or one
    in 32 by the hash of its key where that is empty, are kept from training; of fewer images, of
    which none is drawn so, the one with the lowest hash.

    Args:
        report: called for every image that is read, with how many there are if that is known.
        max_bytes: see ``listing.gather``.

    Raises:
        DatasetError: as ``listing.list_inputs``.
        TrainingError: no images on one side of the split, or arrays in ``folder`` that came from
            other sources or settings, or whose fingerprint is damaged.
    """
    paths = (folder / "train.npy", folder / "held-out.npy", folder / FINGERPRINT)
    asked = {"sources": list(sources), "held out": sorted(held_out), "preprocessing": config}
    plan = " ".join(hashlib.sha256(repr(value).encode()).hexdigest() for value in asked.values())
    if not paths[2].exists():
        _prepare(sources, held_out, config, paths, plan, workers, report, max_bytes)
    try:
        found, fingerprint, *skipped = paths[2].read_text().splitlines()
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"{paths[2]}: damaged: {reason_of(error)}; delete it, and the images are read again"
        ) from error
    if found != plan:
        pairs = zip(asked, found.split(), plan.split(), strict=False)
        other = ", ".join(name for name, then, now in pairs if then != now)
        raise TrainingError(
            f"holds images of other sources or settings ({other})",
            name=folder,
            hint=Hint.OTHER_OUTPUT,
        )
    arrays = [np.load(path, mmap_mode="r") for path in paths[:2]]
    return Images(arrays[0], arrays[1], fingerprint, tuple(skipped))


def _prepare(
    sources: Sequence[str],
    held_out: frozenset[str],
    config: PreprocessingConfig,
    paths: tuple[Path, Path, Path],
    plan: str,
    workers: int,
    report: Callable[[int | None], None],
    max_bytes: int,
) -> None:
    stored = 256
    digest = hashlib.sha256()
    sides: tuple[list[NDArray[np.uint8]], list[NDArray[np.uint8]]] = ([], [])
    skipped: list[str] = []

    def is_held_out(key: str) -> bool:
        return key in held_out if held_out else _drawn(key)

    def prepare(record: Record) -> tuple[str, bytes, NDArray[np.uint8]] | str:
        key = printable(record.below)
        try:
            data = record.read()
            side = stored
            return key, data, _square(data, config, side)
        except (ImageError, OSError) as error:
            return escaped(f"{key}: {getattr(error, 'strerror', None) or error}")

    lowest: tuple[bytes, int, Record] | None = None  # of what is trained on: hash, place
    with ThreadPoolExecutor(workers) as pool:
        batches = list_inputs(sources, max_bytes=max_bytes)
        records = chain.from_iterable(batch.records() for batch in batches)
        total = count(batches)
        while chunk := list(islice(records, 256)):
            for record, prepared in zip(chunk, pool.map(prepare, chunk), strict=True):
                report(total)
                if isinstance(prepared, str):
                    skipped.append(prepared)
                    continue
                key, data, pixels = prepared
                for part in (key.encode(), data):
                    digest.update(len(part).to_bytes(8, "little") + part)
                if not is_held_out(key) and (lowest is None or _hash(key) < lowest[0]):
                    lowest = _hash(key), len(sides[False]), record
                sides[is_held_out(key)].append(pixels)
    if lowest and not held_out and not sides[True]:
        _, place, record = lowest
        del sides[False][place]
        sides[True].append(_square(record.read(), config, stored))
    if not all(sides):
        raise TrainingError(
            f"{', '.join(sources)}: images are needed to train on, and others to hold out; "
            f"{sum(map(len, sides))} could be read, of which {len(sides[True])} are held out"
        )
    for path, side in zip(paths[:2], sides, strict=True):
        array = np.stack(side)
        write_atomically(path, lambda file, array=array: np.save(file, array))  # type: ignore[misc]
    text = "\n".join([plan, digest.hexdigest(), *skipped])
    write_atomically(paths[2], lambda file: file.write(text.encode()))


def _square(data: bytes, config: PreprocessingConfig, side: int) -> NDArray[np.uint8]:
    placement = partial(place, "crop", tile=(side, side), resize=config.resize)
    whole = replace(config, pixel_scale=1)
    image = Image.fromarray(read_tiles(io.BytesIO(data), whole, placement).pixels[0])
    if image.width != side:
        # A plain mean, like the model's own averaging, which finishes what is begun here.
        image = image.resize((side, side), Image.Resampling.BOX)
    return np.asarray(image).transpose(2, 0, 1)


def _drawn(key: str) -> bool:
    return _hash(key)[0] % HELD_OUT_SHARE == 0


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
