"""Losses of how pictures look: distances between features of convolutional networks.

Both take decoded and original pictures, float32 [B, 3, s, s] in [0, 1], and give a scalar.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.errors import TrainingError

_EPSILON = 1e-10


class RandomFeatures(nn.Module):
    """Features of a network that never learned anything (arXiv 2103.10571, section 3): that a
    texture is there counts, and not only where its every pixel lies. Needs no weights of others.

    At each of four scales two 3x3 convolutions; of each scale the mean squared distance of
    features of length 1.
    """

    WIDTHS = (32, 64, 128, 256)

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)  # always the same network
        widths = (3, *self.WIDTHS)
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.ReLU(),
            )
            for before, width in pairwise(widths)
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.kaiming_normal_(parameter, generator=generator)
            else:
                nn.init.zeros_(parameter)
        self.requires_grad_(False)

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        x = torch.cat([decoded, original]) * 2 - 1
        distances: list[Tensor] = []
        for scale in self.scales:
            x = scale(F.avg_pool2d(x, 2) if distances else x)
            distances.append(_difference(x).sum(dim=1).mean())
        return torch.stack(distances).mean()


class Lpips(nn.Module):
    """The learned distance of Zhang et al. (arXiv 1801.03924, section 3): features of VGG16 after
    five of its convolutions, each channel weighed by how much people see of it."""

    # Of torchvision's VGG16, the convolutions up to each of the five.
    SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    WIDTHS = (64, 128, 256, 512, 512)
    MEAN, DEVIATION = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

    def __init__(self) -> None:
        super().__init__()
        self.features, self.heads = nn.ModuleDict(), nn.ParameterList()
        before = 3
        for numbers, width in zip(self.SLICES, self.WIDTHS, strict=True):
            for number in numbers:
                self.features[str(number)] = nn.Conv2d(before, width, 3, padding=1)
                before = width
            self.heads.append(torch.empty(width))
        self.requires_grad_(False)

    @classmethod
    def load(cls, path: Path | None) -> "Lpips":
        """With its weights: VGG16's as torchvision names them, of the file ``path``, or of
        torchvision itself; the heads of that file, or of the extra metrics.

        Raises:
            TrainingError: they are not there, or the file holds others.
        """
        tensors = _vgg16(path)
        if not any(name.startswith("lin") for name in tensors):
            tensors = {**tensors, **_heads()}
        network = cls()
        names = {f"features.{key}": f"features.{key}" for key in network.features.state_dict()} | {
            f"heads.{n}": f"lin{n}.model.1.weight" for n in range(len(cls.WIDTHS))
        }
        try:
            state = {own: tensors[name] for own, name in names.items()}
            for name in names:
                if name.startswith("heads"):
                    state[name] = state[name].flatten()
            network.load_state_dict(state)
        except (KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise TrainingError(f"{path}: not the weights of VGG16 for LPIPS: {reason}") from error
        return network

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        mean, deviation = (
            torch.cat([decoded.new_full((1, 1, 1), value) for value in values])
            for values in (self.MEAN, self.DEVIATION)
        )
        x = (torch.cat([decoded, original]) * 2 - 1 - mean) / deviation
        total = decoded.new_zeros(())
        for level, (numbers, head) in enumerate(zip(self.SLICES, self.heads, strict=True)):
            if level:
                x = F.max_pool2d(x, 2)
            for number in numbers:
                x = self.features[str(number)](x).relu()
            total = total + (_difference(x) * head[:, None, None]).sum(dim=1).mean()
        return total


def _difference(features: Tensor) -> Tensor:
    """[2B, C, h, w] -> [B, C, h, w]: squared, between the halves, at lengths of 1."""
    lengths = features.square().sum(dim=1, keepdim=True).add(_EPSILON).sqrt()
    decoded, original = (features / lengths).chunk(2)
    return (decoded - original).square()


def _vgg16(path: Path | None) -> Mapping[str, Tensor]:
    if path is None:
        try:
            from torchvision.models import vgg16
        except ImportError as error:
            raise TrainingError(
                "--lpips needs VGG16: install torchvision, or name a file of its weights with "
                "--lpips-file"
            ) from error
        try:
            return vgg16(weights="IMAGENET1K_V1").state_dict()  # type: ignore[no-any-return]
        except OSError as error:
            raise TrainingError(
                f"--lpips: the weights of VGG16 cannot be fetched ({error}); name a file of them "
                "with --lpips-file"
            ) from error
    return _tensors(path)


def _heads() -> Mapping[str, Tensor]:
    package = find_spec("torchmetrics")
    if package is None or package.origin is None:
        raise TrainingError("--lpips needs tokcodec's extra metrics")
    return _tensors(
        Path(package.origin).parent / "functional" / "image" / "lpips_models" / "vgg.pth"
    )


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
        return {name: tensor for name, tensor in tensors.items() if torch.is_tensor(tensor)}
    except Exception as error:  # of many kinds, by what the file is instead
        reason = str(error).splitlines()[0]
        raise TrainingError(f"{path}: cannot read as a file of tensors: {reason}") from error
