"""Training that begins with a checkpoint, and decoders for its tokens."""

import dataclasses

import numpy as np
import pytest
import torch
from training import CPU, LATENT, PATCH, RECIPE, make_images, train, with_decoder

from tokcodec import checkpoint
from tokcodec.errors import TrainingError
from tokcodec.model.loading import load
from tokcodec.train.perceptual import blockiness
from tokcodec.train.prior import fit

LONGER = dataclasses.replace(RECIPE, steps=40, tokens=256, report_every=40, ema_decay=0.9)


@pytest.fixture(scope="module")
def images():
    return make_images(60)


@pytest.fixture(scope="module")
def base(images, tmp_path_factory):
    """A trained checkpoint with a prior, and a zero with a sign."""
    header = train(PATCH, LONGER, images, tmp_path_factory.mktemp("base"))
    _, tensors = checkpoint.read(header.path)
    tensors["encoder.to_embedding.bias"] = tensors["encoder.to_embedding.bias"].copy()
    tensors["encoder.to_embedding.bias"][0] = -0.0
    tokens = np.arange(64).reshape(4, 4, 4)
    prior, _ = fit([tokens], torch.from_numpy(tensors["quantizer.codebook"]).float())
    facts = {**header.provenance, "prior": {"images": 4}}
    return checkpoint.write(header.path, PATCH, {**tensors, **prior.tensors()}, facts)


def decoder_for(base, config, recipe, images, folder):
    return train(config, recipe, images, folder, source=base, tokens_stay=True)


def tokens_of(header, images):
    model = load(header, CPU)
    return model.encode(model.shrink(torch.from_numpy(images.held_out.copy()) / 255))


def test_training_continues_from_a_checkpoint(base, images, tmp_path):
    header = train(PATCH, LONGER, images, tmp_path, source=base)
    facts = header.provenance
    assert facts["from"] == base.provenance
    for count, value in base.provenance["held_out_psnr"].items():
        assert facts["held_out_psnr_at_start"][count] == pytest.approx(value, abs=0.01)
    assert header.model_id != base.model_id


def test_a_decoder_alone_keeps_the_tokens(base, images, tmp_path):
    config = with_decoder(PATCH, layers=2, pixel_overlap=2)
    header = decoder_for(base, config, LONGER, images, tmp_path)
    assert header.model_id == base.model_id
    assert header.prior_id == base.prior_id
    assert header.checkpoint_id != base.checkpoint_id
    facts = header.provenance
    assert facts["tokens_of"] == base.provenance
    assert facts["prior"] == {"images": 4}
    # The new block and the overlap add nothing at the start.
    for count, value in base.provenance["held_out_psnr"].items():
        assert facts["held_out_psnr_at_start"][count] == pytest.approx(value, abs=0.01)
    tokens = tokens_of(base, images)
    assert torch.equal(tokens, tokens_of(header, images))

    # With steps at borders unlearned, the same tokens show fewer of them.
    smooth = dataclasses.replace(LONGER, deblocking=1.0)
    other = decoder_for(base, config, smooth, images, tmp_path / "smooth")
    models = [load(h, CPU) for h in (header, other)]
    shown = [model.decoder(model.quantizer.lookup(tokens)) for model in models]
    assert blockiness(shown[1], 8) < 0.9 * blockiness(shown[0], 8)


@pytest.mark.parametrize("change", [{"width": 64}, {"heads": 1}], ids=str)
def test_another_decoder_begins_anew(base, images, tmp_path, change):
    header = decoder_for(base, with_decoder(PATCH, **change), RECIPE, images, tmp_path)
    assert header.model_id == base.model_id


def test_a_trained_convolution_continues(base, images, tmp_path):
    """One that makes grey of everything is still there."""
    smooth = with_decoder(PATCH, pixel_convolution=True)
    model = load(base, CPU).state_dict()
    kernel = {"weight": torch.zeros(3, 3, 3, 3), "bias": torch.zeros(3)}
    model |= {f"decoder.to_pixels.convolution.{name}": part for name, part in kernel.items()}
    arrays = {name: tensor.half().numpy() for name, tensor in model.items()}
    grey = checkpoint.write(tmp_path / "grey.safetensors", smooth, arrays, {})
    still = dataclasses.replace(RECIPE, steps=1, learning_rate=0.0)
    larger = with_decoder(smooth, pixel_overlap=2)
    header = train(larger, still, images, tmp_path / "run", source=grey)
    assert (load(header, CPU).decode(tokens_of(header, images)) == 0.5).all()
    with pytest.raises(TrainingError) as error:
        train(PATCH, still, images, tmp_path / "refused", source=grey)
    assert error.value.name == str(grey.path)


def test_sources_that_do_not_fit_are_refused(base, images, tmp_path):
    with pytest.raises(TrainingError):
        decoder_for(base, LATENT, RECIPE, images, tmp_path / "kind")
    # Rounding to float16 would give other tokens.
    _, tensors = checkpoint.read(base.path)
    wide = {
        name: array.astype(np.float32) * np.float32(1.0001)
        for name, array in tensors.items()
        if not name.startswith("prior.")
    }
    exact = checkpoint.write(tmp_path / "wide.safetensors", PATCH, wide, {})
    with pytest.raises(TrainingError) as error:
        decoder_for(exact, PATCH, RECIPE, images, tmp_path / "wide")
    assert error.value.name == str(exact.path)


def test_diverging_leaves_the_last_checkpoint(base, images, tmp_path):
    wild = dataclasses.replace(RECIPE, learning_rate=1e9)
    with pytest.raises(TrainingError):
        decoder_for(base, PATCH, wild, images, tmp_path)
    left = checkpoint.read_header(tmp_path / "model.safetensors")
    assert left.provenance["step"] == 0
