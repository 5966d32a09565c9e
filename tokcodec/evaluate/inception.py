"""The Inception network whose features FID compares, with its published weights.

It is TensorFlow's network of 2015-12-05 (Szegedy et al., arXiv 1512.00567), on which all published
FIDs are based, as the packages torch-fidelity and torchmetrics run it.
"""

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tokcodec.errors import EvaluationError, Hint
from tokcodec.evaluate.rfid import Features
from tokcodec.image import Pixels

FILE = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = "https://github.com/toshas/torch-fidelity/releases/tag/v0.2.0"
FEATURES = 2048  # of an image; rFID of fewer images has covariances that are singular
_EDGE = 299  # pixels that images are resized to

Kernel = int | tuple[int, int]
# Outputs, and a kernel; with two kernels both see the same input, and their outputs are joined.
_Step = tuple[int, Kernel] | tuple[int, Kernel, Kernel]

_ROW_3, _COLUMN_3, _ROW_7, _COLUMN_7 = (1, 3), (3, 1), (1, 7), (7, 1)


def load_inception(path: Path | None, device: str) -> "Inception":
    """The network with its published weights.

    Args:
        path: the file; None for the one that torch-fidelity and torchmetrics have downloaded.
        device: where it runs.

    Raises:
        EvaluationError: the file is not there, cannot be read, or is not this network's.
    """
    file = path or Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not file.is_file():
        reason = f"rFID needs the weights of Inception: {FILE}, published at {PUBLISHED}"
        raise EvaluationError(f"no such file; {reason}", name=file, hint=Hint.NAME_INCEPTION)
    network = Inception()
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        # Its last layer tells classes apart.
        tensors = {name: value for name, value in saved.items() if not name.startswith("fc.")}
        network.load_state_dict(tensors)
    except OSError as error:
        raise EvaluationError(f"cannot read: {error.strerror or error}", name=file) from error
    except (RuntimeError, AttributeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        reason = f"damaged, or not {FILE}, which is published at {PUBLISHED}"
        raise EvaluationError(reason, name=file) from error
    return network.to(device)


class Inception(nn.Module):
    """Pixels float32 [B, 3, H, W] from 0 to 255 -> features [B, 2048].

    Its parts have the names of the published file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = _Convolution(32, 64, 3, padding=1)
        self.MaxPool_1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = _Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = _Convolution(80, 192, 3)
        self.MaxPool_2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = _Mixed(
            288, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}, stride=2
        )
        self.Mixed_6b = _mixed_6(128)
        self.Mixed_6c = _mixed_6(160)
        self.Mixed_6d = _mixed_6(160)
        self.Mixed_6e = _mixed_6(192)
        self.Mixed_7a = _Mixed(
            768,
            {
                "branch3x3": [(192, 1), (320, 3)],
                "branch7x7x3": [(192, 1), (192, _ROW_7), (192, _COLUMN_7), (192, 3)],
            },
            stride=2,
        )
        self.Mixed_7b = _mixed_7(1280, "mean")
        self.Mixed_7c = _mixed_7(2048, "max")  # not the mean, as TensorFlow's network had it
        self.requires_grad_(False)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        x = (_resized(pixels) - 128) / 128
        for part in self.children():
            x = part(x)
        return x.mean((2, 3))

    def features(self, pixels: Pixels) -> Features:
        """Features float32 [2048] of one image, uint8 [H, W, 3]."""
        device = self.Conv2d_1a_3x3.conv.weight.device
        with torch.inference_mode():
            batch = torch.from_numpy(pixels.copy()).to(device).permute(2, 0, 1)[None].float()
            found: Features = self(batch)[0].cpu().numpy()
        return found


class _Convolution(nn.Sequential):
    conv: nn.Conv2d

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, **options: Any) -> None:
        layers = OrderedDict[str, nn.Module](
            conv=nn.Conv2d(inputs, outputs, kernel, bias=False, **options),
            bn=nn.BatchNorm2d(outputs, eps=0.001),
            relu=nn.ReLU(inplace=True),
        )
        super().__init__(layers)


class _Mixed(nn.Module):
    """Branches that see the same input, each a chain of convolutions, and one that pools it.

    Args:
        inputs: input channels.
        branches: the steps of each branch. If it has several, the names of its convolutions number
            them: ``branch5x5_1``; two kernels of a step add ``a`` and ``b``.
        pool: ``max`` or ``mean``.
        stride: of the last step of each branch; if it is 2, the edges are not padded there.
        pooled: output channels of a convolution after the pool; None for no convolution.
    """

    def __init__(
        self,
        inputs: int,
        branches: Mapping[str, Sequence[_Step]],
        pool: str = "max",
        stride: int = 1,
        pooled: int | None = None,
    ) -> None:
        super().__init__()
        padding = 0 if stride == 2 else 1
        if pool == "max":
            self._pool: nn.Module = nn.MaxPool2d(3, stride, padding)
        else:  # TensorFlow's mean does not count what is padded
            self._pool = nn.AvgPool2d(3, stride, padding, count_include_pad=False)
        self._chains: list[list[list[str]]] = []  # the names of the convolutions of each step
        for branch, steps in branches.items():
            channels, chain = inputs, []
            for number, (outputs, *kernels) in enumerate(steps, 1):
                name = f"{branch}_{number}" if len(steps) > 1 else branch
                names = [name + letter for letter in "ab"] if len(kernels) > 1 else [name]
                for part, kernel in zip(names, kernels, strict=True):
                    sides = (kernel, kernel) if isinstance(kernel, int) else kernel
                    options: dict[str, Any] = {"padding": tuple(side // 2 for side in sides)}
                    if stride > 1 and number == len(steps):
                        options = {"stride": stride}
                    self.add_module(part, _Convolution(channels, outputs, sides, **options))
                channels = outputs * len(names)
                chain.append(names)
            self._chains.append(chain)
        self.branch_pool = _Convolution(inputs, pooled, 1) if pooled else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        found = []
        for chain in self._chains:
            y = x
            for names in chain:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            found.append(y)
        return torch.cat([*found, self.branch_pool(self._pool(x))], 1)


def _mixed_5(inputs: int, pooled: int) -> _Mixed:
    branches = {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
    }
    return _Mixed(inputs, branches, "mean", pooled=pooled)


def _mixed_6(width: int) -> _Mixed:
    row, column = (width, _ROW_7), (width, _COLUMN_7)
    branches: dict[str, list[_Step]] = {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), row, (192, _COLUMN_7)],
        "branch7x7dbl": [(width, 1), column, row, column, (192, _ROW_7)],
    }
    return _Mixed(768, branches, "mean", pooled=192)


def _mixed_7(inputs: int, pool: str) -> _Mixed:
    branches: dict[str, list[_Step]] = {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), (384, _ROW_3, _COLUMN_3)],
        "branch3x3dbl": [(448, 1), (384, 3), (384, _ROW_3, _COLUMN_3)],
    }
    return _Mixed(inputs, branches, pool, pooled=192)


def _resized(pixels: Tensor) -> Tensor:
    """The pixels at 299 x 299, resized as TensorFlow 1 did: bilinear, the first pixels of both
    images in the same place, and without antialiasing."""
    for axis in (3, 2):
        length = pixels.shape[axis]
        places = torch.arange(_EDGE, dtype=torch.float32, device=pixels.device) * (length / _EDGE)
        low = places.long()
        share = places - low
        before = pixels.index_select(axis, low)
        after = pixels.index_select(axis, (low + 1).clamp(max=length - 1))
        pixels = before + (after - before) * (share if axis == 3 else share[:, None])
    return pixels
