"""The tokenizer: pixels -> z -> codes -> z_q -> pixels, in the patch and the latent layout."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokcodec.config import ModelConfig
from tokcodec.model.layers import Block, PatchHead, class_token, outer_norms, patchify
from tokcodec.model.quantizer import Quantizer
from tokcodec.model.vqgan import VqganHead


class Encoder(nn.Module):
    """Normalized pixels [B, 3, s, s] -> z [B, N, d], s being ``preprocessing.model_size``.

    Without ``outer_norms``, where the blocks add nothing, z is a linear map of a patch, which is
    what lets training start from the principal components of patches.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        part = config.encoder
        self.patch_size = part.patch_size
        self.num_latents = config.num_latents
        self.num_codes = config.num_codes
        self.legacy_latents = config.legacy_latents
        self.patch_embed = nn.Linear(3 * part.patch_size**2, part.width)
        self.patch_positions = nn.Parameter(torch.zeros(config.grid(part) ** 2, part.width))
        if config.num_latents:
            self.latent_tokens = nn.Parameter(torch.zeros(config.num_latents, part.width))
        self.class_token = class_token(part)
        self.norm_in, self.norm_out = outer_norms(part)
        self.blocks = nn.Sequential(*(Block(part) for _ in range(part.layers)))
        self.to_code = nn.Linear(part.width, config.quantizer.code_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.patch_embed(patchify(pixels, self.patch_size)) + self.patch_positions
        if self.num_latents:
            latents = self.latent_tokens.expand(len(x), -1, -1)
            x = torch.cat([x, latents.to(x.dtype)], dim=1)  # [B, g² + N, width]
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
        x = self.blocks(self.norm_in(x))
        x = self.norm_out(x[:, -self.num_codes :])  # [B, N, width]
        if self.legacy_latents:
            x = x.reshape(len(x), -1, self.num_codes).transpose(1, 2)
        return self.to_code(x)  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """z_q [B, n, d] -> normalized pixels [B, 3, s, s]; n < N is a prefix of the codes."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        part = config.decoder
        self.num_patches = config.grid(part) ** 2
        self.latent = config.num_latents > 0
        self.from_code = nn.Linear(config.quantizer.code_dim, part.width)
        self.code_positions = nn.Parameter(torch.zeros(config.num_codes, part.width))
        if self.latent:
            self.mask_token = nn.Parameter(torch.zeros(part.width))
            self.patch_positions = nn.Parameter(torch.zeros(self.num_patches, part.width))
        self.class_token = class_token(part)
        self.norm_in, self.norm_out = outer_norms(part)
        self.blocks = nn.Sequential(*(Block(part) for _ in range(part.layers)))
        self.to_pixels: PatchHead | VqganHead = (
            VqganHead(part.width, config.vqgan)
            if config.vqgan
            else PatchHead(
                part.width, part.patch_size, config.pixel_overlap, config.pixel_convolution
            )
        )

    def forward(self, z_q: Tensor) -> Tensor:
        x = self.from_code(z_q) + self.code_positions[: z_q.shape[1]]
        if self.latent:
            masks = (self.mask_token + self.patch_positions).expand(len(x), -1, -1)
            x = torch.cat([masks.to(x.dtype), x], dim=1)  # [B, g² + n, width]
        first = 0
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1).to(x.dtype), x], dim=1)
            first = 1
        x = self.blocks(self.norm_in(x))
        x = self.norm_out(x[:, first : first + self.num_patches])  # [B, g², width]
        return self.to_pixels(x)  # type: ignore[no-any-return]


class Tokenizer(nn.Module):
    """A ViT autoencoder with a vector-quantized bottleneck.

    The ``patch`` layout gives a code a patch; the ``latent`` layout (TiTok, arXiv 2406.07550,
    section 3.2) one for each of its learned latent tokens, and decodes from mask tokens.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quantizer = Quantizer(config.quantizer)
        self.decoder = Decoder(config)

    def encode(self, pixels: Tensor) -> Tensor:
        """float32 [B, 3, S, S] in [0, 1] -> codes int64 [B, N]."""
        return self.quantizer(self.encoder(self.shrink(pixels)))  # type: ignore[no-any-return]

    def decode(self, codes: Tensor) -> Tensor:
        """codes int64 [B, n], n < N for a prefix -> float32 [B, 3, S, S] in [0, 1]."""
        return self.enlarge(self.decoder(self.quantizer.lookup(codes))).clamp(0, 1)

    def shrink(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] in [0, 1] -> what the encoder sees, normalized [B, 3, s, s]."""
        scale = self.config.preprocessing.pixel_scale
        return self.normalize(F.avg_pool2d(pixels, scale) if scale > 1 else pixels)

    def enlarge(self, pixels: Tensor) -> Tensor:
        """What the decoder gives, [B, 3, s, s] -> [B, 3, S, S] in [0, 1], not yet clamped."""
        mean, std = self._statistics(pixels)
        pixels = pixels * std + mean
        scale = self.config.preprocessing.pixel_scale
        if scale > 1:
            pixels = F.interpolate(pixels, scale_factor=float(scale), mode="bicubic")
        return pixels

    def normalize(self, pixels: Tensor) -> Tensor:
        """Pixels in [0, 1] -> zero mean and unit deviation, by the config's figures."""
        mean, std = self._statistics(pixels)
        return (pixels - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config.preprocessing
        mean, std = like.new_tensor(config.mean), like.new_tensor(config.std)
        return mean.view(3, 1, 1), std.view(3, 1, 1)
