"""From a checkpoint to a ``Tokenizer`` that is ready to run."""

import math
import time
from typing import Literal

import torch

from tokcodec import checkpoint
from tokcodec.errors import CheckpointError, DeviceError
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.prior import PREFIX

Dtype = Literal["float32", "bfloat16"]


def load(header: checkpoint.Header, device: torch.device) -> Tokenizer:
    """Reads, verifies and strictly loads the weights, as float32, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, unknown or of another shape.
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
                f"{expected.get(name, 'none')}, the file holds {found.get(name, 'none')}"
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
    """``bfloat16`` where matrix products in it are measured to be clearly faster than float32.

    Some processors have it in hardware, others emulate it hundreds of times slower.
    """

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(512, 512, dtype=dtype, device=device)
        best = math.inf
        for _ in range(4):
            begun = time.perf_counter()
            float((matrix @ matrix)[0, 0])  # reading a value waits for the device
            best = min(best, time.perf_counter() - begun)
            if best > 0.1:  # emulated: enough is known
                break
        return best

    return "bfloat16" if seconds(torch.bfloat16) * 1.3 < seconds(torch.float32) else "float32"
