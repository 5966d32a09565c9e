"""The promise of the design: another kind and another family are this file, and nothing else."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import pytest
import torch
from conftest import PHOTOS
from PIL import Image
from pydantic import Field
from safetensors.numpy import save_file
from torch import nn

from tokcodec import checkpoint, families
from tokcodec.config import ModelConfig, PreprocessingConfig
from tokcodec.config.parts import DecoderConfig, EncoderConfig
from tokcodec.config.quantizers import FiniteScalarConfig


class MeanEncoderConfig(EncoderConfig):
    """A token a cell: its mean colour, times a learned gain."""

    network: ClassVar[str] = "test_family:MeanEncoder"

    kind: Literal["mean"] = "mean"
    cell: Annotated[int, Field(ge=1, le=64)]

    @property
    def multiple(self):
        return self.cell

    def check(self, side):
        assert side % self.cell == 0

    def z_shape(self, height, width):
        return height // self.cell, width // self.cell

    def peak_activation(self, side):
        return 3 * side**2


class FlatDecoderConfig(DecoderConfig):
    """A cell of one colour a token."""

    network: ClassVar[str] = "test_family:FlatDecoder"

    kind: Literal["flat"] = "flat"
    cell: Annotated[int, Field(ge=1, le=64)]

    @property
    def multiple(self):
        return self.cell

    def check(self, side, z_shape):
        assert z_shape == (side // self.cell,) * 2


class MeanEncoder(nn.Module):
    def __init__(self, config, frame):
        super().__init__()
        self.cell, self.gain = config.cell, nn.Parameter(torch.ones(frame.embedding_dim))

    def forward(self, pixels):
        means = nn.functional.avg_pool2d(pixels, self.cell).permute(0, 2, 3, 1)
        return torch.atanh(means.clamp(-0.99, 0.99)) * self.gain


class FlatDecoder(nn.Module):
    def __init__(self, config, _frame):
        super().__init__()
        self.cell = config.cell

    def forward(self, z_q):
        return (
            z_q.permute(0, 3, 1, 2).repeat_interleave(self.cell, 2).repeat_interleave(self.cell, 3)
        )


def convert(source, _config, image_size):
    gain = source.take("mean.gain", 3)
    source.finish()
    ours = ModelConfig(
        encoder=MeanEncoderConfig(cell=8),
        quantizer=FiniteScalarConfig(levels=(9, 9, 9)),
        decoder=FlatDecoderConfig(cell=8),
        preprocessing=PreprocessingConfig(image_size=image_size or 64),
    )
    return ours, {"encoder.gain": gain}


FAMILY = families.Family(
    title="Mean",
    licence="MIT",
    recognises=lambda names, _: "mean.gain" in names,
    convert=convert,
    models=(families.Model("mean-64", 64, 729, "nowhere"),),
)


@pytest.fixture
def _kinds():
    """The unions of kinds in ``tokcodec.config.model``, as if these two stood in them."""
    kinds = {"encoder": MeanEncoderConfig, "decoder": FlatDecoderConfig}
    before = {name: ModelConfig.model_fields[name].annotation for name in kinds}
    for name, kind in kinds.items():
        ModelConfig.model_fields[name].annotation = before[name] | kind
    ModelConfig.model_rebuild(force=True)
    yield
    for name, union in before.items():
        ModelConfig.model_fields[name].annotation = union
    ModelConfig.model_rebuild(force=True)


@pytest.mark.usefixtures("_kinds")
def test_another_family(run, tmp_path, monkeypatch):
    monkeypatch.setattr(families, "FAMILIES", [*families.FAMILIES, FAMILY])
    monkeypatch.chdir(tmp_path)
    save_file({"mean.gain": np.ones(3, np.float32)}, "theirs.safetensors")
    run("convert", "theirs.safetensors", "-o", "ours.safetensors")
    header = checkpoint.find("ours.safetensors")
    assert ModelConfig.from_json(header.config.to_json()) == header.config
    assert "mean-64" in run("models", "--known").stdout.decode()
    for fit, size in (("crop", (64, 64)), ("native", (451, 300))):
        common = ("--weights", "ours.safetensors")
        photo = PHOTOS[1]
        run("encode", photo, *common, "--fit", fit, "-o", f"{fit}.tok")
        run("decode", f"{fit}.tok", *common, "-o", f"{fit}.png", "--size", "x".join(map(str, size)))
        original = Image.open(photo).convert("RGB")
        short = min(original.size)
        if fit == "crop":
            left = (original.width - short) // 2
            original = original.crop((left, 0, left + short, short))
        small = (8, 8) if fit == "crop" else (56, 37)
        error = np.asarray(Image.open(f"{fit}.png").resize(small, Image.Resampling.BOX), float)
        error -= np.asarray(original.resize(small, Image.Resampling.BOX), float)
        assert np.abs(error).mean() < 20  # nine levels a channel: steps of 32
    # The published file itself is a checkpoint for every command.
    run("encode", PHOTOS[0], "--weights", "theirs.safetensors", "-o", "a.tok")
    run("decode", "a.tok", "-o", "a.png")
