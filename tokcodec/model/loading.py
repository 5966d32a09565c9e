"""Load a checkpoint as a ``Tokenizer`` that is ready to run."""

import torch

from tokcodec.checkpoint import Header
from tokcodec.errors import DeviceError
from tokcodec.model.runtime import Dtype, read_weights
from tokcodec.model.tokenizer import Tokenizer


def load(header: Header, device: torch.device) -> Tokenizer:
    """Load the weights of a checkpoint as float32, in evaluation mode.

    They are verified, and must be exactly the tensors that the config needs.

    Raises:
        CheckpointError: as ``read_weights``.
    """
    with torch.device("meta"):
        model = Tokenizer(header.config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    arrays = read_weights(header, expected)
    weights = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    model.load_state_dict(weights, assign=True)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]


def resolve_device(name: str) -> torch.device:
    """The torch device of this name; ``auto`` is CUDA if there is a GPU, else the CPU.

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
    """The faster type for matrix products: ``bfloat16`` on GPUs of compute capability 8.0 or newer
    and on processors with AMX, else ``float32``.

    Older devices emulate bfloat16, up to hundreds of times slower than float32. Processors with
    AVX512-BF16 but without AMX have it in hardware, and still take twice as long as in float32.
    """
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
