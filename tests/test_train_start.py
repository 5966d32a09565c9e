"""The weights that training begins with."""

import dataclasses

import numpy as np
import pytest
import torch
from training import CPU, LATENT, PATCH, RECIPE, SMALL, make_images, train, with_decoder

from tokcodec import Codec
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.config.vit import LatentDecoderConfig, LatentEncoderConfig
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.start import begin, k_means, principal_components

STILL = dataclasses.replace(RECIPE, steps=1, learning_rate=0.0, report_every=1)


@pytest.fixture(scope="module")
def images():
    return make_images()


def decoded(header, pixels):
    """What a checkpoint makes of uint8 images, in [0, 1]."""
    model = load(header, CPU)
    with torch.inference_mode():
        return model.decode(model.encode(model.shrink(torch.from_numpy(pixels) / 255)))


def test_components_are_those_of_the_covariance():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 60, generator=generator) * 0.8 ** torch.arange(60) + 5
    mean, basis, deviations = principal_components(x, 10, generator)
    exact = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(mean, x.mean(dim=0))
    torch.testing.assert_close(deviations, exact.S[:10] / 2000**0.5, rtol=1e-3, atol=0)
    cosines = (basis.T @ exact.Vh[:10].T).abs().diagonal()
    assert (cosines > 0.999).all()
    # Few rows have few components, and equal ones none that could divide by 0.
    assert principal_components(x[:4], 10, generator)[1].shape == (60, 4)
    assert (principal_components(x[:1].expand(9, -1), 10, generator)[2] > 0).all()


def test_k_means_finds_clusters():
    generator = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(8, 3, generator=generator)
    z = (centres[:, None] + 0.1 * torch.randn(8, 50, 3, generator=generator)).flatten(0, 1)
    found = k_means(z, 40, generator)
    assert torch.isfinite(found).all()
    assert torch.cdist(centres, found).amin(dim=1).max() < 0.2


@pytest.mark.parametrize("rate_weight", [0.0, 0.001])
def test_the_start_alone_is_vector_quantization(images, tmp_path, rate_weight):
    """That is far better than the mean colour of each token."""
    recipe = dataclasses.replace(STILL, rate_weight=rate_weight)
    header = train(PATCH, recipe, images, tmp_path)
    original = images.held_out[:, :, :32, :32] / 255
    blocks = original.reshape(-1, 3, 4, 8, 4, 8)
    flat = np.broadcast_to(blocks.mean(axis=(3, 5), keepdims=True), blocks.shape)
    error = (decoded(header, images.held_out[:, :, :32, :32]).numpy() - original) ** 2
    assert error.mean() < ((flat - blocks) ** 2).mean()


def test_a_latent_start_decodes_every_prefix(images, tmp_path):
    """Before any gradient step, each further latent adds to the image."""
    wide = SMALL | {"width": 64}
    config = LATENT.replace(
        encoder=LatentEncoderConfig(**wide, num_latents=16),
        decoder=LatentDecoderConfig(**wide, prefix_tokens=True),
        quantizer=CodebookConfig(codebook_size=64, embedding_dim=8),
    )
    header = train(config, STILL, images, tmp_path)
    codec = Codec.load(header, device="cpu")
    original = torch.from_numpy(images.held_out[:, :, ::2, ::2].copy()).float() / 255
    tokens = codec.encode(original)
    errors = [float((codec.decode(tokens[:, :n]) - original).square().mean()) for n in (1, 4, 16)]
    assert errors == sorted(errors, reverse=True)


def test_a_larger_decoder_begins_as_the_smaller_one(images, tmp_path):
    base = train(PATCH, RECIPE, images, tmp_path)
    larger = with_decoder(PATCH, layers=2, pixel_overlap=2, pixel_convolution=True)
    model = Tokenizer(larger)
    said = []
    begin(model, images.train, 0, base, tell=said.append)
    assert not said  # neither components nor a codebook were needed
    some = torch.from_numpy(images.held_out[:4].copy()).float() / 255
    before, after = load(base, CPU), model.eval()
    with torch.inference_mode():
        tokens = before.encode(before.shrink(some))
        assert torch.equal(after.encode(after.shrink(some)), tokens)
        torch.testing.assert_close(after.decode(tokens), before.decode(tokens))
