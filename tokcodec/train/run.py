"""A training run, and which models can be trained."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from tokcodec.checkpoint import Header
from tokcodec.config import ModelConfig
from tokcodec.config.quantizers import CodebookConfig
from tokcodec.errors import TrainingError
from tokcodec.train.folder import RunFolder
from tokcodec.train.recipe import Recipe
from tokcodec.train.start import can_warm_start_decoder


@dataclass(frozen=True)
class Run:
    """The model, the recipe, the folder and the device of a training.

    Attributes:
        source: the checkpoint to begin with, instead of principal components and k-means.
        tokens_stay: train only a decoder for the tokens of the source. Its encoder, codebook,
            ``model_id`` and prior stay the same.
        lpips: the network of ``load_lpips``, if the recipe has that term.
        provenance: further facts for the checkpoint.

    Raises:
        TrainingError: the parts are not ViTs and a codebook; the source has other tokens, or a
            decoder that cannot be trained further; or there is an adversarial loss although not
            only a decoder is trained.
    """

    config: ModelConfig
    recipe: Recipe
    folder: RunFolder
    device: torch.device
    source: Header | None = None
    tokens_stay: bool = False
    lpips: nn.Module | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_trainable(self.config)
        if self.recipe.adversarial and not self.tokens_stay:
            raise TrainingError(
                "an adversarial loss can only be used to train a decoder for the tokens of a "
                "checkpoint"
            )
        if not self.source:
            return
        _require_trainable(self.source.config)
        if self.source.config.encode_side_json() != self.config.encode_side_json():
            raise TrainingError(
                "cannot start from it: the model has another encoder or codebook; only the "
                "decoder may differ",
                name=self.source.path,
            )
        if not self.tokens_stay and not can_warm_start_decoder(self.config, self.source.config):
            raise TrainingError(
                "cannot start from its decoder: the model may only have more layers, more "
                "pixel_overlap or a pixel_convolution; another decoder can be trained for its "
                "tokens alone",
                name=self.source.path,
            )

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that must be the same when the run resumes, for JSON."""
        settings = {
            "config": json.loads(self.config.to_json()),
            "recipe": dataclasses.asdict(self.recipe),
        }
        if self.source:
            settings["tokens_of" if self.tokens_stay else "from"] = self.source.checkpoint_id
        return settings


def _require_trainable(model: ModelConfig) -> None:
    kinds = (model.encoder.kind, model.decoder.kind)
    if kinds not in (("patch", "patch"), ("latent", "latent")):
        raise TrainingError(
            f"an encoder of the kind {kinds[0]} and a decoder of the kind {kinds[1]} cannot be "
            "trained; both must be of the kind patch or of the kind latent"
        )
    if not isinstance(model.quantizer, CodebookConfig) or model.quantizer.metric == "dot":
        raise TrainingError("only a codebook of nearest vectors can be trained")
