"""Scores of decoded images."""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from tokcodec.errors import EvaluationError
from tokcodec.image import Pixels

# The scores of an image, and how they are shown: a title, and the number of decimals. PSNR is of
# 8-bit pixels. SSIM (Wang et al. 2004) and MS-SSIM, on five scales (Wang et al. 2003), are at most
# 1. LPIPS is a distance in AlexNet's features (Zhang et al. 2018, arXiv 1801.03924), from 0.
SCORES = {
    "psnr": ("PSNR, dB", 2),
    "ssim": ("SSIM", 3),
    "ms_ssim": ("MS-SSIM", 3),
    "lpips": ("LPIPS", 3),
}
SMALLEST_EDGE = 176  # in pixels, for the five scales of MS-SSIM


def psnr(original: Pixels, decoded: Pixels) -> float:
    """Peak signal-to-noise ratio of 8-bit pixels in dB; equal ones give 148, not infinity."""
    error = float(np.mean((original.astype(np.float64) - decoded) ** 2))
    return 10 * math.log10(255**2 / max(error, 1e-10))


def score(original: Pixels, decoded: Pixels, lpips: bool) -> dict[str, float]:
    """The ``SCORES`` of uint8 images [H, W, 3], H and W at least ``SMALLEST_EDGE``."""
    from torchmetrics.functional import image

    a, b = _tensor(decoded), _tensor(original)
    with torch.inference_mode():
        ssim = image.structural_similarity_index_measure(a, b, data_range=1.0)
        ms_ssim = image.multiscale_structural_similarity_index_measure(a, b, data_range=1.0)
        scores = {
            "psnr": psnr(original, decoded),
            "ssim": float(ssim),  # type: ignore[arg-type]
            "ms_ssim": float(ms_ssim),
        }
        if lpips:
            scores["lpips"] = float(_lpips_network()(a, b, normalize=True))
    return scores


def require_lpips() -> None:
    """Loads the network of LPIPS, and downloads it if it must, before anything is measured.

    Raises:
        EvaluationError: LPIPS cannot be measured.
    """
    try:
        _lpips_network()
    except Exception as error:  # of the import, the download, or a damaged file in torch's cache
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EvaluationError(f"cannot measure LPIPS: {reason.rstrip('.')}") from error


@cache
def _lpips_network() -> nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type="alex").net


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
