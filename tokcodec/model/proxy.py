"""TiTok's first decoder: a transformer before the decoder of a MaskGIT-VQGAN."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from tokcodec.config.parts import ModelShape
from tokcodec.config.vit import ProxyDecoderConfig
from tokcodec.model.convolutional import Decoder
from tokcodec.model.vit import LatentDecoder


class ProxyHead(Decoder):
    """Tokens [B, g², width] -> pixels [B, 3, g·2^(levels - 1), ...] (TiTok, section 3.4).

    An MLP turns each token into logits over the proxy tokens. The mean of the proxy codebook,
    weighted by their softmax, is the input of the VQGAN's decoder (MaskGIT, arXiv 2202.04200,
    section 3.1).
    """

    proxy_codebook: Tensor

    def __init__(self, config: ProxyDecoderConfig, model_shape: ModelShape) -> None:
        vqgan = config.vqgan
        shape = replace(model_shape, embedding_dim=vqgan.embedding_dim)
        super().__init__(vqgan.convolutional(), shape)
        self.to_proxy = nn.Sequential(
            nn.Linear(config.width, 2 * config.width),
            nn.Tanh(),
            nn.Linear(2 * config.width, vqgan.proxy_codebook_size),
        )
        self.register_buffer(
            "proxy_codebook", torch.empty(vqgan.proxy_codebook_size, vqgan.embedding_dim)
        )

    def forward(self, x: Tensor, rows: int) -> Tensor:  # type: ignore[override]
        x = self.to_proxy(x).softmax(dim=-1) @ self.proxy_codebook  # [B, g², embedding_dim]
        return super().forward(x.view(len(x), rows, -1, x.shape[-1]))


class ProxyDecoder(LatentDecoder):
    """z_q [B, n, d] -> normalized pixels [B, 3, s, s]; n < N is a prefix of the tokens."""

    @staticmethod
    def head(config: ProxyDecoderConfig, model_shape: ModelShape) -> nn.Module:
        return ProxyHead(config, model_shape)
