"""The checkpoint of a run: measured and written at every report."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from tokcodec.checkpoint import read_prior
from tokcodec.errors import TrainingError
from tokcodec.io.files import write_atomically
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train.batches import longest_grid
from tokcodec.train.export import export, mean_psnr, rounded, sheet
from tokcodec.train.run import Run
from tokcodec.train.trainer import Trainer

_REPORTED = (16, 64, 256, 576)  # tokens of the square grids that are measured
_MEASURED = 50  # held-out images, at most


def diverged(step: int) -> TrainingError:
    """The error of a training whose numbers are not finite any more."""
    return TrainingError(f"training diverged before step {step}; lower the learning rate")


class Exporter:
    """Measures the averaged weights and writes them as a checkpoint.

    Attributes:
        start_psnr: of the weights before the first step.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.start_psnr: Mapping[str, float] = {}
        self.kept = run.source if run.tokens_stay else None  # whose tokens stay
        self.prior = read_prior(self.kept) if self.kept and self.kept.prior_id else None
        stored = run.images.held_out.shape[-1]
        longest = longest_grid(run.config, stored) if run.config.multiple else 0
        self.grids = [count for count in _REPORTED if math.isqrt(count) <= longest]
        self.grids = self.grids or [run.config.num_tokens]
        held_out = run.images.held_out
        self.measured = held_out[:: -(-len(held_out) // _MEASURED)]

    def export(self, trainer: Trainer) -> dict[str, float]:
        """Writes the checkpoint and the sheet; gives the PSNR by the number of tokens.

        Raises:
            TrainingError: the weights are not finite, or tokens would not stay.
        """
        run = self.run
        model = rounded(trainer.averaged())
        psnr = self._psnr(model, trainer.steps_done)
        if not trainer.steps_done:
            self.start_psnr = psnr
        facts = {**run.provenance, **self._facts(trainer.steps_done, psnr)}
        header = export(model, run.folder.checkpoint, facts, self.prior)
        if self.kept and header.model_id != self.kept.model_id:
            raise TrainingError(
                "its weights are not float16 numbers, as a trained model's are; rounding them "
                "would change its tokens",
                name=self.kept.path,
            )
        drawn = sheet(model, run.images.held_out)
        write_atomically(
            run.folder.sheet, lambda file: drawn.save(file, "JPEG", quality=92, subsampling=0)
        )
        return psnr

    def _psnr(self, model: Tokenizer, step: int) -> dict[str, float]:
        try:
            psnr = {
                str(tokens): round(mean_psnr(model, self.measured, tokens), 3)
                for tokens in self.grids
            }
        except ValueError:  # vectors that cannot be quantized
            psnr = {}
        if psnr and all(map(math.isfinite, psnr.values())):
            return psnr
        if self.run.source and not step:
            raise TrainingError(
                "its weights hold NaN or infinite values", name=self.run.source.path
            )
        raise diverged(step)

    def _facts(self, step: int, psnr: Mapping[str, float]) -> dict[str, Any]:
        run, images = self.run, self.run.images
        facts: dict[str, Any] = {
            "step": step,
            "held_out_psnr": psnr,
            "held_out_psnr_at_start": self.start_psnr,
            "held_out_images": len(self.measured),
            "training_images": len(images.train),
            "images_sha256": images.fingerprint,
            "recipe": dataclasses.asdict(run.recipe),
        }
        if run.source:
            facts["tokens_of" if run.tokens_stay else "from"] = run.source.provenance
        if self.prior and self.kept and "prior" in self.kept.provenance:
            facts["prior"] = self.kept.provenance["prior"]
        return facts
