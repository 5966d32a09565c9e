"""Everything that decides the outcome of a training beside the model and the images."""

import contextlib
from dataclasses import dataclass

import torch

from tokcodec.model.loading import Dtype

_DECAY = 0.35  # of all steps, over which the learning rate falls to zero


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Attributes:
        steps: optimizer steps; the learning rate has fallen to zero after the last.
        tokens: per step, of all processes together; the number of images follows from the grid.
        learning_rate: peak, of AdamW.
        warmup: steps over which the learning rate rises; ``train`` takes no more than a tenth of
            all unless it is told to.
        weight_decay: on the matrices of the blocks.
        clip_norm: largest norm of the whole gradient.
        ema_decay: of the moving average of the weights, which is what ships.
        commitment: β, the weight of ‖z - sg(e)‖², both it and the error counted per pixel.
        deblocking: weight of the ``blockiness`` across borders of patches in the decoded image.
        spectra, lpips: weights of the distances in ``perceptual``.
        adversarial: weight of the ``adversarial`` loss, of a decoder alone.
        r3gan_gamma: of the gradient penalties of its discriminator.
        codebook_decay: of the moving averages behind the codebook.
        dead_below: a token used less than this share of the mean is revived.
        rate_weight: squared distance that a bit costs where the token of a vector is chosen
            (entropy-constrained vector quantization).
        report_every: steps between reports, where the run can resume.
        seed: of the weights and of every draw.
        dtype: of the matrix products (autocast); the weights are float32.
        compiled: the step goes through ``torch.compile``.
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

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, constant, then linear decay to zero."""
        warm = (step + 1) / self.warmup if self.warmup else 1.0
        return self.learning_rate * min(1.0, warm, (self.steps - step) / (_DECAY * self.steps))

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[object]:
        """In which matrix products are of ``dtype``."""
        if self.dtype == "float32":
            return contextlib.nullcontext()  # works on any device, torch's meta one included
        return torch.autocast(device.type, torch.bfloat16)
