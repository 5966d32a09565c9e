"""The training loss: the error of the decoded images, and the distance of z to the codebook."""

import contextlib
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config.vit import VitConfig
from tokcodec.model.codebook import Codebook
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.batches import Batch, crop_and_resize
from tokcodec.train.codebook import fast_tokens
from tokcodec.train.perceptual import Spectra, blockiness
from tokcodec.train.recipe import Recipe


class Outcome(NamedTuple):
    """The result of a batch.

    Attributes:
        terms: the terms of the loss before they are weighted, scalars, by name.
        target: the images that are decoded, normalized, float32 [B, 3, H, W].
        decoded: the decoded images, likewise.
        z: float32 [B·N, d], without gradient.
        tokens: int64 [B·N].
    """

    terms: dict[str, Tensor]
    target: Tensor
    decoded: Tensor
    z: Tensor
    tokens: Tensor


class Objective(nn.Module):
    """Encodes and decodes a batch, and measures the terms of the loss.

    ``mse`` is the squared error, ``commitment`` the squared distance of z to its vectors (VQ-VAE,
    arXiv 1711.00937, equation 3); the other terms need a weight in the recipe. Images are compared
    at the decoder's resolution if the crops have as many pixels, else at the encoder's. Nothing
    here waits for the device.
    """

    def __init__(
        self, model: Tokenizer, recipe: Recipe, tokens_stay: bool, lpips: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model, self.recipe, self.tokens_stay = model, recipe, tokens_stay
        self.perceptual = nn.ModuleDict()
        if recipe.spectra:
            self.perceptual["spectra"] = Spectra()
        if lpips is not None:
            self.perceptual["lpips"] = lpips
        self.perceptual.to(next(model.parameters()).device)

    def forward(self, batch: Batch) -> Outcome:
        quantizer = self.model.quantizer
        assert isinstance(quantizer, Codebook)
        target, seen = self._crop(batch)
        z = self._encode(seen)
        tokens = fast_tokens(*quantizer.compared(z))
        z_q = quantizer.lookup(tokens.view(z.shape[:-1]))
        # The decoder's gradient passes straight through the quantizer to the encoder.
        decoded = self._decode(z_q if self.tokens_stay else z + (z_q - z).detach(), batch)
        terms = self._compare(decoded, target, batch.sharp)
        if not self.tokens_stay:
            values_per_token = seen.numel() / tokens.numel()
            terms["commitment"] = (z - z_q).square().sum(dim=-1).mean() / values_per_token
        return Outcome(terms, target, decoded, z.detach().flatten(0, -2), tokens)

    def _crop(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The target and the input of the encoder, both normalized."""
        model, (height, width) = self.model, batch.size
        if batch.sharp:
            target = crop_and_resize(batch.images, batch.crops, height, width)
            target = model.normalize(target)
            return target, model.shrink(target)
        scale = model.config.preprocessing.pixel_scale
        seen = crop_and_resize(batch.images, batch.crops, height // scale, width // scale)
        seen = model.normalize(seen)
        return seen, seen

    def _encode(self, seen: Tensor) -> Tensor:
        # Tokens that stay must be those of an encode, in float32.
        exact = contextlib.nullcontext()
        with exact if self.tokens_stay else self.recipe.autocast(seen.device):
            z: Tensor = self.model.encoder(seen)
        z = z.float()
        if self.recipe.rate_weight:  # the last channel of the codebook is the cost of the bits
            z = F.pad(z[..., :-1], (0, 1))
        return z

    def _decode(self, z_q: Tensor, batch: Batch) -> Tensor:
        model = self.model
        with self.recipe.autocast(z_q.device):
            prefix = (batch.kept,) if model.config.decoder.prefixes else ()
            decoded: Tensor = model.decoder(z_q, *prefix)
        decoded = decoded.float()
        return decoded if batch.sharp else model.shrink(decoded)

    def _compare(self, decoded: Tensor, target: Tensor, sharp: bool) -> dict[str, Tensor]:
        """The terms of the loss that compare images."""
        recipe, config = self.recipe, self.model.config
        terms = {"mse": F.mse_loss(decoded, target)}
        if recipe.deblocking:
            assert isinstance(config.decoder, VitConfig)
            patch_size = config.decoder.patch_size
            if not sharp:
                patch_size //= config.preprocessing.pixel_scale
            has_borders = 1 < patch_size < min(decoded.shape[2:])
            terms["deblocking"] = (
                blockiness(decoded, patch_size) if has_borders else decoded.new_zeros(())
            )
        for name, distance in self.perceptual.items():
            decoded_01, target_01 = map(self.model.denormalize, (decoded, target))
            terms[name] = distance(decoded_01, target_01).mean()
        return terms
