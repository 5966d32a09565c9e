"""The interface of the runtimes, torch and NumPy, and the choice between them.

This module does not import torch.
"""

from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from tokcodec import checkpoint
from tokcodec.coding.prior import PREFIX
from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import PatchDecoderConfig, PatchEncoderConfig
from tokcodec.errors import CheckpointError

T = TypeVar("T")
R = TypeVar("R")
Pixels = NDArray[np.uint8]
Tokens = NDArray[Any]  # int64
Floats = NDArray[np.float32]
Dtype = Literal["float32", "bfloat16"]
RuntimeName = Literal["auto", "torch", "numpy"]

BATCH_SIZE = 16
_CUDA_BATCH_SIZE = 64
_CACHE_BYTES = 16 << 20  # of a CPU; the largest activations of a batch should fit in it
_FEW_IMAGES = 8  # NumPy has finished these before torch is loaded


class Runtime(Protocol):
    """A model that is ready to run. Its methods may be called from several threads.

    Attributes:
        dtype: of the matrix products.
        batch_size: number of tiles in a batch.
    """

    dtype: Dtype
    batch_size: int

    @property
    def device(self) -> str:
        """Name of the device."""
        ...

    def encode(self, pixels: Pixels, scale: int) -> Tokens:
        """Encode pixels uint8 [n, H, W, 3] to tokens int64 [n, *token_shape].

        The encoder sees the means of ``scale`` by ``scale`` pixels.
        """
        ...

    def decode(self, tokens: Tokens) -> Pixels:
        """Decode tokens int64 [n, *token_shape] to pixels uint8 [n, H, W, 3]."""
        ...

    def lookup(self, tokens: Tokens) -> Floats:
        """The vectors of tokens int64 [...], float32 [..., d]."""
        ...

    def quantize(self, z: Floats) -> Tokens:
        """The tokens int64 [...] of vectors [..., d]."""
        ...

    def map(self, work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
        """Call ``work``, which encodes or decodes, for each item; results are in order."""
        ...


def runs_without_torch(config: ModelConfig) -> bool:
    """Whether the NumPy runtime runs models of this config."""
    return (
        isinstance(config.encoder, PatchEncoderConfig)
        and isinstance(config.quantizer, CodebookConfig)
        and isinstance(config.decoder, PatchDecoderConfig)
    )


def choose_runtime(
    config: ModelConfig, device: str, dtype: Dtype, images: int | None = None
) -> RuntimeName:
    """The fastest runtime: NumPy for a few images, because torch takes a second to load.

    Args:
        config: the model.
        device: as for ``Codec.load``.
        dtype: of the matrix products.
        images: the number of images; None if it is not known.
    """
    can = runs_without_torch(config) and device in ("auto", "cpu") and dtype == "float32"
    few = images is not None and images <= _FEW_IMAGES
    return "numpy" if can and (few or find_spec("torch") is None) else "torch"


def default_batch_size(
    config: ModelConfig, kind: str, part: Literal["encoder", "decoder"] = "encoder"
) -> int:
    """The default number of tiles in a batch: 64 on CUDA, else 16, or fewer for a large part.

    It depends only on the model and the kind of device, because tokens depend on the batch size.
    """
    if kind == "cuda":
        return _CUDA_BATCH_SIZE
    sizes = {
        "encoder": config.preprocessing.model_size,
        "decoder": config.preprocessing.image_size,
    }
    tile = 4 * getattr(config, part).peak_activation(sizes[part])  # float32
    size = BATCH_SIZE
    while kind == "cpu" and size > 1 and size * tile > _CACHE_BYTES:
        size //= 2
    return size


def read_weights(
    header: checkpoint.Header, expected: dict[str, tuple[int, ...]]
) -> dict[str, NDArray[Any]]:
    """Read and verify the tensors of a checkpoint, without those of its prior.

    Args:
        header: the checkpoint.
        expected: the shape of each tensor.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, unknown, of another shape
            or holds NaN or infinity.
    """
    _, tensors = checkpoint.read(header.path)
    arrays = {name: array for name, array in tensors.items() if not name.startswith(PREFIX)}
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"tensor {name}: the config needs {expected.get(name, 'none')}, the file has "
                f"{found.get(name, 'none')}; fetch or convert it again",
                name=header.path,
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(
                f"tensor {name} holds NaN or infinite values; fetch or convert it again",
                name=header.path,
            )
    return arrays
