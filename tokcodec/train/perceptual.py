"""Terms of the loss that are closer to what people see than squared error.

Each module takes decoded and original images, float32 [B, 3, H, W] in [0, 1], and returns a
distance, or one for each image, that is differentiable in the decoded ones.
"""

import math

import torch
from torch import Tensor, nn

from tokcodec.errors import TrainingError

_WINDOW = 8  # pixels a side
# Luminance, and two differences of colour at half their weight, as they are less visible.
_YCC = ((0.299, 0.587, 0.114), (-0.084, -0.166, 0.25), (0.25, -0.209, -0.041))
_SEEN, _MASKING = 0.03, 0.7  # the amplitude above which errors are masked, and the exponent
_TINY = 1e-6  # keeps roots differentiable
_HALF_A_LEVEL = 1 / 255  # of 8-bit pixels, normalized to deviation 0.5; less is not visible


class Lpips(nn.Module):
    """LPIPS (arXiv 1801.03924) with the features of VGG16, by torchmetrics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, decoded: Tensor, original: Tensor) -> Tensor:
        return self.network(decoded, original, normalize=True)  # type: ignore[no-any-return]


def load_lpips() -> Lpips:
    """LPIPS with its published weights, which torchvision downloads and keeps.

    Raises:
        TrainingError: torchmetrics or torchvision is not installed, or the weights cannot be read.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return Lpips(LearnedPerceptualImagePatchSimilarity(net_type="vgg").net)
    except Exception as error:  # of the import, the download, or a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise TrainingError(
            f"LPIPS cannot be loaded: {reason.rstrip('.')}; it needs torchmetrics and torchvision"
        ) from error


class Spectra(nn.Module):
    """Distance of the spectra of small windows, after Watson-DFT (arXiv 2006.15057, section 3).

    The amplitude of a frequency makes an image sharp, more than its phase. So errors of phase have
    the weight ``phase``, and errors of amplitude the weight 1. Frequencies that are strong in the
    original mask both. Unlike in the paper, no weights are fitted to judgements of people, and
    windows overlap by half instead of being moved at random.
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
        """The spectra of overlapping windows: float32 [B, 3, rows, columns, frequencies.., 2]."""
        # Autocast would round a matrix product.
        x = (pixels.unsqueeze(1) * self.channels).sum(2)
        windows = x.unfold(2, _WINDOW, _WINDOW // 2).unfold(3, _WINDOW, _WINDOW // 2)
        return torch.view_as_real(torch.fft.rfft2(windows * self.taper))


def blockiness(pixels: Tensor, patch_size: int) -> Tensor:
    """Mean size of the kinks at the borders of patches, of normalized pixels [B, 3, H, W].

    Patches have 2 pixels or more; kinks of less than half a level count as half a level.

    A kink is the step from patch to patch minus the mean of the slopes on both sides, as in the
    mean squared difference of slope of Minami and Zakhor (IEEE Transactions on Circuits and Systems
    for Video Technology 5(2), 1995). Here it is not squared, because small ones in smooth places
    are what people see.
    """
    kinks = [
        (x.diff(n=3)[..., patch_size - 2 :: patch_size] / 2).flatten() for x in (pixels, pixels.mT)
    ]
    return (torch.cat(kinks).square() + _HALF_A_LEVEL**2).sqrt().mean()
