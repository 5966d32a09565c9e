"""The settings that, with the model and the images, determine the result of a training."""

import contextlib
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from tokcodec.errors import TrainingError
from tokcodec.model.runtime import Dtype

_DECAY = 0.35  # of all steps, over which the learning rate falls to zero


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Attributes:
        steps: optimizer steps; the learning rate falls to zero at the last one.
        tokens: tokens per step, of all processes together. The number of images follows from the
            grid of the step.
        learning_rate: the highest one, of Muon and AdamW.
        warmup: steps over which the learning rate rises.
        weight_decay: of the matrices of the blocks.
        clip_norm: the largest norm of the whole gradient.
        ema_decay: of the moving average of the weights, which is what is exported.
        commitment: β, the weight of ‖z - sg(e)‖², which is per pixel, like the error.
        deblocking: weight of the ``blockiness`` of the decoded image at the borders of patches.
        spectra, lpips: weights of the distances in ``perceptual``.
        adversarial: weight of the ``adversarial`` loss; only when a decoder alone is trained.
        r3gan_gamma: weight of the gradient penalties of its discriminator.
        codebook_decay: of the moving averages behind the codebook.
        dead_below: a token used less than this share of the mean is revived.
        rate_weight: the squared distance that a bit costs when the token of a vector is chosen
            (entropy-constrained vector quantization, see ``MovingAverages``).
        report_every: steps between reports.
        seed: of the weights and of every draw.
        dtype: of the matrix products (autocast); the weights are float32.
        compiled: compile the blocks with ``torch.compile``.

    Raises:
        TrainingError: a setting is out of its range.
    """

    steps: int
    tokens: int = 4096
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    commitment: float = 0.25
    deblocking: float = 0.0
    spectra: float = 0.0
    lpips: float = 0.0
    adversarial: float = 0.0
    r3gan_gamma: float = 1.0
    codebook_decay: float = 0.995
    dead_below: float = 0.02
    rate_weight: float = 0.0
    report_every: int = 500
    seed: int = 0
    dtype: Dtype = "float32"
    compiled: bool = False

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            least = 1 if name in ("steps", "tokens", "report_every") else 0
            if isinstance(value, int | float) and not least <= value < 2**32:
                raise TrainingError(f"{name} is {value}, but must be from {least} to below 2**32")
        if self.dtype not in get_args(Dtype):
            raise TrainingError(f"dtype is {self.dtype}, but must be float32 or bfloat16")

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """The loss: the sum of its terms, of which all but ``mse`` have a weight here."""
        weighted = [
            term if name == "mse" else getattr(self, name) * term for name, term in terms.items()
        ]
        return torch.stack(weighted).sum()

    def rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, constant, then linear decay to zero."""
        warm = (step + 1) / self.warmup if self.warmup else 1.0
        return self.learning_rate * min(1.0, warm, (self.steps - step) / (_DECAY * self.steps))

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """A block in which matrix products are of ``dtype``."""
        if self.dtype == "float32":  # for any device: autocast does not know torch's meta
            return contextlib.nullcontext()
        return torch.autocast(device.type, torch.bfloat16)
