"""Losses that follow the eye more closely than squared error does.

Each is a module that takes decoded and original images, float32 [B, 3, s, s] in [0, 1], s at
least 64, and gives a scalar, differentiable in the decoded ones.
"""

import contextlib
import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from tokcodec.errors import CheckpointError, TrainingError
from tokcodec.families.reading import Stored, Tensors
from tokcodec.families.source import Source

_LPIPS_FILES = (
    "torchvision's vgg16-397923af.pth, and vgg.pth of LPIPS, which the extra metrics brings along"
)
_EPSILON = 1e-8
_SLICES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # of VGG16: width, convolutions
# Of pixels in [-1, 1], as the authors of LPIPS have them.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


_WINDOW = 8  # pixels a side
# Luminance, and the two differences of colour at half their weight, which the eye sees less well.
_YCC = ((0.299, 0.587, 0.114), (-0.084, -0.166, 0.25), (0.25, -0.209, -0.041))
_SEEN, _MASKING = 0.03, 0.7  # the amplitude below which nothing is masked, and the power beyond
_TINY = 1e-6  # keeps roots differentiable


class Lpips(nn.Module):
    """Distance in the features of VGG16 (arXiv 1409.1556), as LPIPS (arXiv 1801.03924, section 3)
    weighs them. ``load_lpips`` fills in the published weights."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width, depth in _SLICES:
            for _ in range(depth):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])  # numbered as in torchvision
        self.heads = nn.ParameterList(torch.ones(width) for width, _ in _SLICES)
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        pairs = zip(self.heads, self._slices(decoded), self._slices(original), strict=True)
        # Means over images and places of the sum over channels.
        return torch.stack(
            [((a - b).square().mean(dim=(0, 2, 3)) * head).sum() for head, a, b in pairs]
        ).sum()

    def _slices(self, pixels: Tensor) -> list[Tensor]:
        """Features of each slice [B, width, h, w], of unit length in every place."""
        x = (2 * pixels - 1 - self.shift) / self.scale
        slices = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                slices.append(x)
            x = layer(x)
        slices.append(x)
        return [_of_length_1(y) for y in slices]


def _of_length_1(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(dim=1, keepdim=True) + _EPSILON).sqrt()


def load_lpips(paths: Sequence[Path]) -> Lpips:
    """LPIPS with the weights in these files, of torch or safetensors: VGG16's, as torchvision has
    them (``features.0.weight``), and those of the linear heads, as the authors of LPIPS do
    (``lin0.model.1.weight``), or where these are in none of them, torchmetrics'. Other tensors
    there are passed over.

    Raises:
        CheckpointError: a file cannot be read.
        TrainingError: no files; or a tensor is in none of them, of another shape or not finite.
    """
    if not paths:
        raise TrainingError(f"a perceptual loss needs the file of its network: {_LPIPS_FILES}")
    model = Lpips()
    with contextlib.ExitStack() as stack:
        stored: dict[str, Stored] = {}
        for path in (*_heads(), *paths):
            stored |= stack.enter_context(Source(path.stem, path, None, path.name).open())
        tensors = Tensors(stored)
        try:
            for name, weight in model.features.named_parameters(prefix="features"):
                weight.copy_(torch.from_numpy(tensors.take(name, *weight.shape)))
            for number, head in enumerate(model.heads):
                array = tensors.take(f"lin{number}.model.1.weight", 1, len(head), 1, 1)
                head.copy_(torch.from_numpy(array).flatten())
        except CheckpointError as error:
            raise TrainingError(
                f"{', '.join(map(str, paths))}: {error}; LPIPS takes {_LPIPS_FILES}"
            ) from error
    return model


def _heads() -> list[Path]:
    package = find_spec("torchmetrics")
    if package is None or package.origin is None:
        return []
    models = Path(package.origin).parent / "functional" / "image" / "lpips_models"
    return list(models.glob("vgg.pth"))


class Spectra(nn.Module):
    """Distance of the spectra of small windows, after Watson-DFT (arXiv 2006.15057, section 3).

    How strong a frequency is somewhere makes an image sharp, more than where its crests lie: so
    errors of amplitude count fully, of phase by ``phase``. Frequencies that the original is rich in
    mask them. Unlike there, no weight is fitted to what people judged, and windows overlap by half
    where there a grid of them is moved at random.
    """

    taper: Tensor
    channels: Tensor

    def __init__(self, phase: float = 0.1) -> None:
        super().__init__()
        self.phase = phase
        taper = torch.sin(math.pi * (torch.arange(_WINDOW) + 0.5) / _WINDOW)
        taper = torch.outer(taper, taper) / taper.square().sum()
        self.register_buffer("taper", taper, persistent=False)
        self.register_buffer("channels", torch.tensor(_YCC)[..., None, None], persistent=False)

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        a, b = self._spectra(decoded), self._spectra(original)
        of_a, of_b = ((x.square().sum(-1) + _TINY).sqrt() for x in (a, b))
        threshold = _SEEN * (of_b / _SEEN).clamp(min=1) ** _MASKING
        # The squared difference, less that of amplitudes: 0 where phases are equal.
        turned = ((a - b).square().sum(-1) - (of_a - of_b).square()).clamp(min=0)
        errors = (of_a - of_b).abs() + self.phase * (turned + _TINY).sqrt()
        return (errors / threshold).mean()

    def _spectra(self, pixels: Tensor) -> Tensor:
        """Of overlapping windows: float32 [B, 3, rows, columns, frequencies.., 2]."""
        # No matrix product, which autocast would round.
        x = (pixels.unsqueeze(1) * self.channels).sum(2)
        windows = x.unfold(2, _WINDOW, _WINDOW // 2).unfold(3, _WINDOW, _WINDOW // 2)
        return torch.view_as_real(torch.fft.rfft2(windows * self.taper))
