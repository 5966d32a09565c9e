"""Measures whether tokens agree across devices, dtypes, thread counts and batch sizes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.batch.jobs import images
from tokcodec.config import DEFAULT_WEIGHTS, ModelConfig
from tokcodec.errors import ImageError, TokcodecError, counted
from tokcodec.image import Pixels, read_tiles
from tokcodec.io.read import MAX_BYTES
from tokcodec.model.runtime import Dtype, default_batch_size
from tokcodec.model.torch_runtime import TorchRuntime


@dataclass(frozen=True)
class Way:
    """One way to compute the same tokens."""

    device: str = "cpu"
    dtype: Dtype = "float32"
    threads: int = 1
    batch_size: int = 16
    compiled: bool = False

    def __str__(self) -> str:
        threads = f", {counted(self.threads, 'thread')}" if self.device == "cpu" else ""
        compiled = ", compiled" if self.compiled else ""
        return f"{self.device}, {self.dtype}, batch {self.batch_size}{threads}{compiled}"


@dataclass(frozen=True)
class Agreement:
    """How the tokens of one way compare with those of the first.

    Attributes:
        way: how they were computed.
        images, tokens: the number of images and of all their tokens.
        differing: the number of tokens that differ.
        largest_margin: the largest margin, in the first way, of a token that differs: how much
            better it was than the second best, in what the quantizer compares. None if none differ.
    """

    way: Way
    images: int
    tokens: int
    differing: int
    largest_margin: float | None


def ways_at_hand(config: ModelConfig) -> list[Way]:
    """Every way that this machine supports, the CPU's default one first."""
    threads = torch.get_num_threads()
    size = default_batch_size(config, "cpu")
    first = Way(threads=threads, batch_size=size)
    others = [replace(first, threads=n) for n in sorted({1, 2, threads} - {threads})]
    others += [replace(first, batch_size=n) for n in (1, 4, 16, 64) if n != size]
    others.append(replace(first, dtype="bfloat16"))
    if torch.cuda.is_available():
        cuda = Way(device="cuda")
        others += [cuda, replace(cuda, batch_size=64), replace(cuda, compiled=True)]
        others += [replace(way, dtype="bfloat16") for way in others[-3:]]
    return [first, *others]


def verify(
    sources: Sequence[str],
    *,
    weights: str = DEFAULT_WEIGHTS,
    limit: int = 64,
    max_image_bytes: int = MAX_BYTES,
    failed: Callable[[TokcodecError], None] = lambda _: None,
) -> list[Agreement]:
    """Compares the tokens of images in all ways that this machine supports.

    Args:
        sources: images: files, folders, globs, WebDataset tars, Parquet files; paths or URLs.
        weights: the checkpoint.
        limit: the most images that are read.
        max_image_bytes: images of more bytes fail.
        failed: called with the error of each image that cannot be read.

    Raises:
        ImageError: none can be read.
        TokcodecError: the checkpoint or a source cannot be read.
    """
    header = checkpoint.find(weights)
    config = header.config
    tiles: list[Pixels] = []
    for record in images(sources, max_image_bytes)[1]:
        if len(tiles) == limit:
            break
        try:
            found = read_tiles(
                record, config.preprocessing, lambda size: config.place(config.default_fit, size)[0]
            )
            tiles.append(found.pixels[:1])
        except ImageError as error:
            failed(error)
    if not tiles:
        raise ImageError("no image could be read", name=", ".join(sources))
    return list(compare(header, tiles, ways_at_hand(config)))


def compare(
    header: checkpoint.Header, tiles: Sequence[Pixels], ways: list[Way]
) -> Iterator[Agreement]:
    """Encodes tiles in each way, and compares their tokens with those of the first.

    ``tiles`` are uint8 [n, H, W, 3], as ``image.read_tiles`` gives them, of any shapes.
    """
    by_shape: dict[tuple[int, ...], list[Pixels]] = {}
    for tile in tiles:
        by_shape.setdefault(tile.shape[1:], []).append(tile)
    groups = [np.concatenate(group) for group in by_shape.values()]
    config = header.config.preprocessing
    scale = config.pixel_scale // config.read_scale
    expected = margins = None
    before = torch.get_num_threads()
    try:
        for way in ways:
            torch.set_num_threads(way.threads)
            runtime = TorchRuntime.load(header, way.device, way.batch_size, way.dtype, way.compiled)
            tokens = np.concatenate([runtime.encode(group, scale).ravel() for group in groups])
            if expected is None or margins is None:
                expected = tokens
                margins = np.concatenate([_margins(runtime, group, scale) for group in groups])
            differ = tokens != expected
            largest = float(margins[differ].max()) if differ.any() else None
            yield Agreement(way, len(tiles), tokens.size, int(differ.sum()), largest)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _margins(runtime: TorchRuntime, tiles: Pixels, scale: int) -> NDArray[np.float64]:
    """How much better each token is than the second best."""
    model = runtime.model
    parts = [
        model.quantizer.margins(model.z(runtime.preprocess(part, scale))).flatten()
        for part in torch.split(torch.from_numpy(tiles), runtime.batch_size)
    ]
    return torch.cat(parts).numpy()
