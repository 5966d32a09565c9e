"""From a checkpoint to a ``Tokenizer`` that is ready to run."""

from typing import Literal

import numpy as np
import torch

from tokcodec import checkpoint
from tokcodec.coding.prior import PREFIX
from tokcodec.errors import CheckpointError, DeviceError
from tokcodec.model.tokenizer import Tokenizer

Dtype = Literal["float32", "bfloat16"]


def load(header: checkpoint.Header, device: torch.device) -> Tokenizer:
    """Reads, verifies and strictly loads the weights, as float32, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, unknown, of another shape
            or holds NaN or infinity.
    """
    header, tensors = checkpoint.read(header.path)
    arrays = {name: array for name, array in tensors.items() if not name.startswith(PREFIX)}
    with torch.device("meta"):
        model = Tokenizer(header.config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: array.shape for name, array in arrays.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{header.path}: tensor {name}: the config asks for "
                f"{expected.get(name, 'none')}, the file holds {found.get(name, 'none')}; "
                "fetch or convert it again"
            )
        if not np.isfinite(arrays[name]).all():
            raise CheckpointError(
                f"{header.path}: tensor {name} holds NaN or infinite values; "
                "fetch or convert it again"
            )
    weights = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    model.load_state_dict(weights, assign=True)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def resolve_device(name: str) -> torch.device:
    """The torch device of that name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: there is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device {name}: torch knows no such device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {name}: torch finds no CUDA device; use the cpu")
    return device


def fastest_dtype(device: torch.device) -> Dtype:
    """``bfloat16`` where the device multiplies matrices of it in hardware: GPUs of compute
    capability 8.0 or newer, processors with AVX512-BF16 (as all with AMX are).

    Others may emulate it hundreds of times slower than float32.
    """
    if device.type == "cuda":
        has_it = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        has_it = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if has_it else "float32"
