"""What is made small: the error of the decoded image, and what keeps z near the codebook."""

import contextlib
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.vit import VitConfig
from tokcodec.model.codebook import Codebook
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.batches import Batch, cut
from tokcodec.train.borders import blockiness
from tokcodec.train.codebook import fast_tokens
from tokcodec.train.perceptual import Lpips, Spectra
from tokcodec.train.recipe import Recipe


class Outcome(NamedTuple):
    """Of one batch.

    Attributes:
        loss: scalar, float32, that is made small.
        pixels: float32 [B, 3, s, s], normalized: the images as the model sees them.
        decoded: the same of their tokens.
        z: float32 [B·N, d], without gradient.
        tokens: int64 [B·N].
    """

    loss: Tensor
    pixels: Tensor
    decoded: Tensor
    z: Tensor
    tokens: Tensor


class Objective(nn.Module):
    """Squared error, commitment (VQ-VAE, arXiv 1711.00937, equation 3), and where the recipe has
    them ``blockiness`` and ``perceptual`` distances.

    One graph of fixed shapes, that waits for nothing.
    """

    def __init__(
        self, model: Tokenizer, recipe: Recipe, tokens_stay: bool, lpips: Lpips | None = None
    ) -> None:
        """
        Args:
            tokens_stay: only the decoder learns.
            lpips: its network, where the recipe has it.
        """
        super().__init__()
        self.model, self.recipe, self.tokens_stay = model, recipe, tokens_stay
        self.perceptual = nn.ModuleDict()
        if recipe.spectra:
            self.perceptual["spectra"] = Spectra()
        if lpips:
            self.perceptual["lpips"] = lpips
        self.perceptual.to(next(model.parameters()).device)

    def forward(self, batch: Batch) -> Outcome:
        recipe, model, config = self.recipe, self.model, self.model.config
        scale = config.preprocessing.pixel_scale
        if batch.sharp:
            target = model.normalize(cut(batch.images, batch.crops, *batch.size))
            pixels = model.shrink(target)
        else:
            size = [edge // scale for edge in batch.size]
            pixels = target = model.normalize(cut(batch.images, batch.crops, *size))
        # Tokens that are to stay are those that encoding gives, in float32.
        with contextlib.nullcontext() if self.tokens_stay else recipe.autocast(pixels.device):
            z = model.encoder(pixels)
        z = z.float()
        if recipe.rate_weight:
            z = F.pad(z[..., :-1], (0, 1))  # the codebook's last channel is the cost of the bits
        quantizer = model.quantizer
        assert isinstance(quantizer, Codebook)
        rows = z.detach().flatten(0, -2)
        tokens = fast_tokens(*quantizer.compared(z))
        z_q = quantizer.lookup(tokens.view(z.shape[:-1]))
        straight_through = z_q if self.tokens_stay else z + (z_q - z).detach()
        with recipe.autocast(pixels.device):
            if config.prefix_tokens:
                decoded = model.decoder(straight_through, batch.kept)
            else:
                decoded = model.decoder(straight_through)
        decoded = decoded.float()
        if not batch.sharp:
            decoded = model.shrink(decoded)
        loss = F.mse_loss(decoded, target)
        assert isinstance(config.decoder, VitConfig)
        patch_size = config.decoder.patch_size // (1 if batch.sharp else scale)
        if recipe.deblocking and 1 < patch_size < min(decoded.shape[2:]):
            loss = loss + recipe.deblocking * blockiness(decoded, patch_size)
        for name, distance in self.perceptual.items():
            seen = [model.denormalize(image) for image in (decoded, target)]
            loss = loss + getattr(recipe, name) * distance(*seen)
        if not self.tokens_stay:
            per_token = pixels[0].numel() * len(pixels) / tokens.numel()  # numbers of pixels
            commitment = (z - z_q).square().sum(dim=-1).mean() / per_token
            loss = loss + recipe.commitment * commitment
        return Outcome(loss, target, decoded, rows, tokens)
