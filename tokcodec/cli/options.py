"""Options that several commands share, and what their values become."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.errors import TokcodecError

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda"]
Device = Annotated[DeviceName, typer.Option(help="Where the model runs.", show_default=True)]


def pick_device(name: DeviceName) -> "torch.device":
    """The torch device of that name; ``auto`` is CUDA where there is one.

    Raises:
        TokcodecError: CUDA was asked for and is not there.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise TokcodecError("--device cuda: torch finds no CUDA device; use --device cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
