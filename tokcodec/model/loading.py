"""From a checkpoint to a ``Tokenizer`` that is ready to run."""

import torch

from tokcodec import checkpoint
from tokcodec.errors import CheckpointError, DeviceError
from tokcodec.model.tokenizer import Tokenizer


def load(header: checkpoint.Header, device: torch.device) -> Tokenizer:
    """Reads, verifies and strictly loads the weights, as float32, in evaluation mode.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, unknown or of another shape.
    """
    header, arrays = checkpoint.read(header.path)
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
    tensors = {name: torch.from_numpy(array).float() for name, array in arrays.items()}
    model.load_state_dict(tensors, assign=True)
    return model.to(device).eval().requires_grad_(False)


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
