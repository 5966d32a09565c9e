"""``tokcodec train``."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tokcodec.cli import options as shared
from tokcodec.cli.progress import Bar
from tokcodec.cli.terminal import note, show
from tokcodec.io.read import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.train.api import Progress
    from tokcodec.train.folder import Report


def _print_config(name: str | None) -> None:
    if name is None:
        return
    from tokcodec.train.presets import PRESETS

    if name not in PRESETS:
        raise typer.BadParameter(f"{name} is not one of {', '.join(PRESETS)}")
    print(json.dumps(json.loads(PRESETS[name].to_json()), indent=2))
    raise typer.Exit


_training_option = partial(shared.option, "Training", min=1)
_loss_option = partial(shared.option, "Loss (0 by default)", metavar="W", min=0, show_default=False)
_CHECKPOINT = {**shared.WEIGHTS, "metavar": "WEIGHTS"}  # shorter than that of --weights


def train(
    sources: shared.Images,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="RUN", help="Write to this folder.")
    ],
    model: Annotated[
        str,
        shared.model_option(
            "Train this preset (tokcodec, base, original) or JSON config.", metavar="NAME|FILE"
        ),
    ] = "tokcodec",
    print_config: Annotated[
        str | None,
        shared.model_option(
            "Print a preset as JSON.", metavar="NAME", callback=_print_config, is_eager=True
        ),
    ] = None,
    from_: Annotated[
        str | None,
        shared.model_option(
            "Start from this checkpoint; its decoder may be smaller.", "--from", **_CHECKPOINT
        ),
    ] = None,
    tokens_of: Annotated[
        str | None,
        shared.model_option("Train only a decoder, for tokens of this checkpoint.", **_CHECKPOINT),
    ] = None,
    steps: Annotated[int, _training_option("Optimizer steps.")] = 20_000,
    batch_tokens: Annotated[
        int, _training_option("Tokens per step, of all processes together.")
    ] = 4096,
    learning_rate: Annotated[float, _training_option("Highest learning rate.", min=0)] = 1e-3,
    warmup: Annotated[
        int | None,
        _training_option(
            "Steps of warm-up.", min=0, show_default="a tenth of the steps, at most 500"
        ),
    ] = None,
    seed: Annotated[int, _training_option("Random seed.", min=0)] = 0,
    report_every: Annotated[
        int, _training_option("Report, and write the checkpoint, every N steps.")
    ] = 500,
    rate_weight: Annotated[
        float, _loss_option("Weight of the bits that a token costs, against squared distance.")
    ] = 0.0,
    deblocking: Annotated[
        float, _loss_option("Weight of the deblocking loss; 0.08 hides borders of patches.")
    ] = 0.0,
    spectra: Annotated[
        float, _loss_option("Weight of the windowed Fourier (Watson-DFT) loss.")
    ] = 0.0,
    lpips: Annotated[
        float, _loss_option("Weight of LPIPS; needs torchmetrics and torchvision.")
    ] = 0.0,
    adversarial: Annotated[
        float, _loss_option("Weight of the adversarial loss; needs --tokens-of.")
    ] = 0.0,
    held_out: Annotated[
        Path | None,
        shared.input_option(
            "Measure on the images of this list and do not train on them: on each line a path "
            "below SRC, name.tar/member or file.parquet/row.",
            metavar="FILE",
            show_default="the first image and one in 32",
        ),
    ] = None,
    workers: Annotated[int, shared.input_option("Read images in N threads.", min=1)] = 2,
    max_image_bytes: shared.MaxImageBytes = MAX_BYTES,
    device: shared.Device = "auto",
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        shared.processing_option("Precision of matrix products."),
    ] = "auto",
    compiled: Annotated[
        bool | None,
        shared.processing_option(
            "Use torch.compile.", "--compile/--no-compile", show_default="on CUDA"
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        shared.processing_option("Get the same weights each time, on CUDA too.", "--deterministic"),
    ] = False,
) -> None:
    """Train a tokenizer on your own images.

    The folder RUN gets model.safetensors, a checkpoint for --weights. If training is interrupted,
    the same command resumes it and ends with the same weights.

    On several GPUs: torchrun --nproc-per-node N -m tokcodec train ...

    Example: tokcodec train photos -o run --steps 100000
    """
    options: dict[str, Any] = {**locals()}
    del options["print_config"]
    from tokcodec.train.api import is_first_process
    from tokcodec.train.api import train as run

    with _Display() as display:
        result = run(**options, provenance={"command": shared.command_line()}, progress=display)
    if is_first_process():
        if result.resumed_at == steps:
            note(
                f"all {steps:,} steps were done before: to train further, begin another run with "
                f"--from {result.checkpoint}"
            )
        show(str(result.checkpoint))


class _Display(ExitStack):
    """Shows the progress of a training: a bar for each stage, messages and reports."""

    stage = ""

    def __call__(self, progress: "Progress") -> None:
        if progress.stage != self.stage:
            self.close()  # the bar of the stage before
            self.stage = progress.stage
            if progress.stage == "reading":
                self.bar = self.enter_context(Bar("read", progress.total, again="reads them again"))
            elif progress.stage == "training":
                bar = Bar("steps trained", progress.total, "step", again="resumes it")
                self.bar = self.enter_context(bar)
                self.bar.skip(progress.done)
        if progress.message:
            note(progress.message)
            return
        self.bar.total = progress.total
        if progress.report:
            note(_line(progress.report))
            self.bar.remark = f"loss {progress.report.loss:.4f}"
        self.bar.move(progress.done - self.bar.done - self.bar.skipped)


def _line(report: "Report") -> str:
    psnr = ", ".join(f"{value:.2f} ({tokens} tokens)" for tokens, value in report.psnr.items())
    return (
        f"step {report.step}/{report.steps}  loss {report.loss:.4f}  held-out PSNR {psnr} dB  "
        f"codebook used {report.usage:.1%}  {report.tokens_per_second:,.0f} tokens/s  "
        f"MFU {report.utilization:.0%}"
    )
