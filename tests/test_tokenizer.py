import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN

from tokcodec import checkpoint
from tokcodec.model.loading import load
from tokcodec.model.positions import interpolation
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.model.vit import Attention, patchify, unpatchify
from tokcodec.train.presets import PRESETS

CPU = torch.device("cpu")


# The expected values were computed by tests/golden/reference.py, which shares no code.
@pytest.mark.parametrize("name", ["patch", "patch-wide", "latent"])
def test_golden_outputs(name):
    kind = name.partition("-")[0]
    model = load(checkpoint.find(str(GOLDEN / f"{kind}.safetensors")), CPU)
    golden = {key: torch.from_numpy(a) for key, a in np.load(GOLDEN / f"{name}.npz").items()}
    assert model.config.encoder.kind == kind
    shape = model.config.token_shape(*golden["pixels"].shape[2:])
    tokens = golden["tokens"].unflatten(1, shape)
    with torch.inference_mode():
        pixels = model.shrink(golden["pixels"])
        z = model.z(pixels)
        torch.testing.assert_close(z, golden["z"].unflatten(1, shape), atol=1e-5, rtol=1e-5)
        assert torch.equal(model.encode(pixels), tokens)
        decoded = model.decode(tokens)
        torch.testing.assert_close(decoded, golden["decoded"], atol=1e-5, rtol=1e-5)


def test_attention_in_training_is_that_of_inference():
    """In bfloat16 on a CPU, training does not use torch's own attention."""
    torch.manual_seed(0)
    attention = Attention(32, 2)
    x = torch.randn(3, 8, 32)
    seen = (torch.arange(8) < torch.tensor([1, 5, 8])[:, None])[:, None, None]
    for mask in (None, seen):
        with torch.autocast("cpu", torch.bfloat16):
            with torch.inference_mode():
                expected = attention(x, mask)
            torch.testing.assert_close(attention(x, mask), expected, atol=2e-3, rtol=0)


def test_patches_go_back_where_they_came_from():
    pixels = torch.arange(2.0 * 3 * 12 * 12).view(2, 3, 12, 12)
    patches = patchify(pixels, 4)
    assert patches.shape == (2, 9, 48)
    assert torch.equal(patches[0, 5].view(3, 4, 4), pixels[0, :, 4:8, 8:12])
    assert torch.equal(unpatchify(patches, 3, 4), pixels)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (8, 8), (16, 16), (3, 41), (32, 1)])
def test_positions_are_torchs_bicubic_interpolation(rows, columns):
    table = torch.randn(1, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    down, across = (torch.from_numpy(interpolation(16, size)) for size in (rows, columns))
    expected = F.interpolate(table, (rows, columns), mode="bicubic", align_corners=False)
    torch.testing.assert_close(down @ table @ across.T, expected, atol=1e-5, rtol=1e-5)


def test_the_configuration_of_the_original_description():
    config = PRESETS["original"]
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
