import numpy as np
import pytest
import torch
from conftest import GOLDEN

from tokcodec import checkpoint
from tokcodec.model.loading import load
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.model.vit import patchify, unpatchify
from tokcodec.train.presets import PRESETS

CPU = torch.device("cpu")


# The expected values were computed by tests/golden/reference.py, which shares no code.
@pytest.mark.parametrize("layout", ["patch", "latent"])
def test_golden_outputs(layout):
    model = load(checkpoint.find(str(GOLDEN / f"{layout}.safetensors")), CPU)
    golden = {name: torch.from_numpy(a) for name, a in np.load(GOLDEN / f"{layout}.npz").items()}
    assert model.config.encoder.kind == layout
    side = model.config.preprocessing.image_size
    shape = model.config.token_shape(side, side)
    tokens = golden["tokens"].unflatten(1, shape)
    with torch.inference_mode():
        pixels = model.shrink(golden["pixels"])
        z = model.z(pixels)
        torch.testing.assert_close(z, golden["z"].unflatten(1, shape), atol=1e-5, rtol=1e-5)
        assert torch.equal(model.encode(pixels), tokens)
        decoded = model.decode(tokens)
        torch.testing.assert_close(decoded, golden["decoded"], atol=1e-5, rtol=1e-5)


def test_patches_go_back_where_they_came_from():
    pixels = torch.arange(2.0 * 3 * 12 * 12).view(2, 3, 12, 12)
    patches = patchify(pixels, 4)
    assert patches.shape == (2, 9, 48)
    assert torch.equal(patches[0, 5].view(3, 4, 4), pixels[0, :, 4:8, 8:12])
    assert torch.equal(unpatchify(patches, 4), pixels)


def test_the_configuration_of_the_original_description():
    config, _ = PRESETS["original"]
    with torch.device("meta"):
        model = Tokenizer(config)
    parameters = sum(tensor.numel() for tensor in model.state_dict().values())
    assert 300e6 < parameters < 340e6
    model = model.to_empty(device="cpu").requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        # Uniform numbers are the cheapest; what they are does not matter here.
        tensor.uniform_(-0.02, 0.02, generator=generator)
    pixels = torch.rand(1, 3, 256, 256, generator=generator)
    tokens = model.encode(pixels)
    assert tokens.shape == (1, 4, 4)
    assert tokens.max() < 8192
    decoded = model.decode(tokens)
    assert decoded.shape == pixels.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1
