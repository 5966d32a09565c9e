"""Do tokens agree across devices, dtypes, thread counts and batch sizes? Measured, not promised."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.config import ModelConfig
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
        threads = f", {self.threads} threads" if self.device == "cpu" else ""
        compiled = ", compiled" if self.compiled else ""
        return f"{self.device}, {self.dtype}, batch {self.batch_size}{threads}{compiled}"


@dataclass(frozen=True)
class Agreement:
    """How the tokens of one way compare with those of the first.

    Attributes:
        way: how they were computed.
        tokens: how many.
        differing: how many of them differ.
        largest_margin: of those that differ, how much better the first way's token was at most than
            the second best, in what the quantizer compares; None if none differ.
    """

    way: Way
    tokens: int
    differing: int
    largest_margin: float | None


def ways_at_hand(config: ModelConfig) -> list[Way]:
    """Every way that this machine has, the CPU's default one first."""
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


def compare(
    header: checkpoint.Header, tiles: NDArray[np.uint8], ways: list[Way]
) -> Iterator[Agreement]:
    """Encodes tiles as ``image.read_tiles`` gives them, uint8 [n, S, S, 3], in each way and
    compares with the first."""
    config = header.config.preprocessing
    scale = config.pixel_scale // config.read_scale
    expected = margins = None
    before = torch.get_num_threads()
    try:
        for way in ways:
            torch.set_num_threads(way.threads)
            runtime = TorchRuntime.load(header, way.device, way.batch_size, way.dtype, way.compiled)
            tokens = runtime.encode(tiles, scale)
            if expected is None or margins is None:
                expected, margins = tokens, _margins(runtime, tiles, scale)
            differ = tokens != expected
            largest = float(margins[differ].max()) if differ.any() else None
            yield Agreement(way, tokens.size, int(differ.sum()), largest)
    finally:
        torch.set_num_threads(before)


@torch.inference_mode()
def _margins(runtime: TorchRuntime, tiles: NDArray[np.uint8], scale: int) -> NDArray[np.float64]:
    """[n, *token_shape]: how much better the token of each z is than the second best."""
    model = runtime.model
    parts = [
        model.quantizer.margins(model.z(runtime.preprocess(part, scale)))
        for part in torch.split(torch.from_numpy(tiles), runtime.batch_size)
    ]
    return torch.cat(parts).numpy()
