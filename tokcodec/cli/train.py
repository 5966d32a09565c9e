"""``tokcodec train``."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tokcodec.cli import terminal
from tokcodec.cli.options import MANY, WEIGHTS, Device, MaxImageBytes, command_line
from tokcodec.cli.terminal import NAMED, Bar, note, show
from tokcodec.config import ModelConfig
from tokcodec.errors import ConfigError, TrainingError
from tokcodec.io.tar import MAX_BYTES

if TYPE_CHECKING:
    from tokcodec.train.loop import Report


def _again(step: int) -> str:
    before = "" if step else "; nothing is saved before the first report (--report-every)"
    return f"the same command goes on from step {step:,}{before}"


def train(
    sources: Annotated[list[str], typer.Argument(metavar="SRC", help="Images: " + MANY)],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="RUN", help="Folder of the run.")
    ],
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help="A JSON file with a model config, or a preset: tokcodec, base (for GPUs), "
            "original.",
        ),
    ] = "tokcodec",
    from_: Annotated[
        str | None,
        typer.Option(
            "--from",
            **WEIGHTS,
            help="Begin with the weights of this checkpoint: of the same encoder and codebook, and "
            "the same decoder, or one of fewer layers or less pixel_overlap.",
        ),
    ] = None,
    tokens_of: Annotated[
        str | None,
        typer.Option(
            **WEIGHTS,
            help="Train only a decoder, for the tokens of this checkpoint, which stay as they are. "
            "It begins as the checkpoint's where --from would go on with that, else afresh.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 20_000,
    batch_tokens: Annotated[
        int, typer.Option(min=1, help="Tokens per step, of all processes together.")
    ] = 4096,
    rate_weight: Annotated[
        float,
        typer.Option(min=0, help="Squared distance that a bit costs in the choice of tokens."),
    ] = 0.0,
    learning_rate: Annotated[float, typer.Option(min=0, help="Peak rate of AdamW.")] = 1e-3,
    warmup: Annotated[
        int | None,
        typer.Option(
            min=0, help="Steps of rising rate; a tenth of all if not given, but no more than 500."
        ),
    ] = None,
    deblocking: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight in the loss of steps across borders of patches; 0.08 hides them where the "
            "model has pixel_overlap.",
        ),
    ] = 0.0,
    spectra: Annotated[
        float,
        typer.Option(
            min=0, help="Weight in the loss of a distance of spectra of windows: sharper images."
        ),
    ] = 0.0,
    lpips: Annotated[
        float,
        typer.Option(
            min=0,
            help="Weight in the loss of LPIPS; needs --lpips-file.",
        ),
    ] = 0.0,
    lpips_file: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Weights for --lpips: torchvision's vgg16-397923af.pth, and without the extra "
            "metrics also LPIPS's own vgg.pth; name it twice for two files.",
        ),
    ] = None,
    adversarial: Annotated[
        float,
        typer.Option(
            min=0, help="Weight in the loss of deceiving a discriminator; with --tokens-of."
        ),
    ] = 0.0,
    report_every: Annotated[
        int, typer.Option(min=1, help="Steps between reports; a killed run resumes from there.")
    ] = 500,
    held_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="List of images kept from training, a key a line: the path below SRC, "
            "name.tar/member or file.parquet/row. Without it, one in 32.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the start and of every draw.")] = 0,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"],
        typer.Option(
            help="Of matrix products; auto is bfloat16 where the device has it in hardware, and in "
            "a run that goes on, what it was begun with."
        ),
    ] = "auto",
    device: Device = "auto",
    compiled: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Let torch compile the step.", show_default="on CUDA"
        ),
    ] = None,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="On CUDA, too, the same command gives the same weights, more slowly; on a CPU "
            "it always does, with the same number of threads.",
        ),
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read images.")] = 2,
    max_image_bytes: MaxImageBytes = MAX_BYTES,
) -> None:
    """Train a tokenizer on your own images.

    RUN gets model.safetensors, a checkpoint for --weights, at every report. After a stop, the
    same command goes on from there, to the same weights as without the stop.

    On several GPUs: torchrun --nproc-per-node N -m tokcodec train ...
    """
    from tokcodec.checkpoint import find
    from tokcodec.model.loading import fastest_dtype, resolve_device
    from tokcodec.train import loop, ranks
    from tokcodec.train.data import FINGERPRINT, load_images
    from tokcodec.train.perceptual import load_lpips
    from tokcodec.train.recipe import Recipe
    from tokcodec.train.start import can_warm_start_decoder

    if from_ and tokens_of:
        raise TrainingError(
            "--tokens-of already begins with the weights it names; leave --from out"
        )
    config = _read_config(model)
    source = find(name) if (name := from_ or tokens_of) else None
    loop.require_trainable(config, source, bool(tokens_of))
    with ranks.process_group(device) as own:
        terminal.quiet |= bool(ranks.rank())  # the first speaks for all
        torch_device = resolve_device(own)
        if deterministic:
            loop.make_deterministic()
        begun, done = loop.load_progress(output) or (None, 0)
        if source and not begun and not can_warm_start_decoder(config, source.config):
            note(f"the decoder starts afresh: it cannot go on from that of {source.path}")
        # What depends on the machine, a run that goes on keeps.
        if dtype == "auto":
            dtype = begun["recipe"]["dtype"] if begun else fastest_dtype(torch_device)
        if compiled is None:
            compiled = (
                begun["recipe"].get("compiled", False) if begun else torch_device.type == "cuda"
            )
        recipe = Recipe(
            steps=steps,
            tokens=batch_tokens,
            learning_rate=learning_rate,
            warmup=min(Recipe.warmup, steps // 10) if warmup is None else warmup,
            rate_weight=rate_weight,
            deblocking=deblocking,
            spectra=spectra,
            lpips=lpips,
            adversarial=adversarial,
            report_every=report_every,
            seed=seed,
            dtype=dtype,
            compiled=compiled,
        )
        network = load_lpips(lpips_file or []) if lpips else None
        with ranks.main_process_first(), Bar("read", 0) as reading:
            reading.again = "the same command reads them again"
            images = load_images(
                sources,
                frozenset(_read_text(held_out, "--held-out").split("\n")) - {""}
                if held_out
                else frozenset(),
                config.preprocessing,
                output,
                workers,
                partial(_read, reading),
                max_image_bytes,
            )
        for line in images.skipped[:NAMED]:
            note(f"skipped {line}")
        if (more := len(images.skipped) - NAMED) > 0:
            note(f"skipped {more:,} more, as {output / FINGERPRINT} names all of them")
        note(
            f"{len(images.train)} images to train on, {len(images.held_out)} held out; "
            + (f"goes on from step {done}, as it was begun in " if begun else "")
            + f"{recipe.dtype} on {torch_device}"
            + (f", {ranks.count()} processes" if ranks.count() > 1 else "")
        )
        provenance = {"command": command_line()}
        with Bar("steps trained", steps, "steps") as bar:
            header = loop.train(
                config,
                recipe,
                images,
                output,
                torch_device,
                provenance,
                partial(_report, bar),
                source,
                bool(tokens_of),
                network,
                partial(_move, bar),
            )
        if done == steps:
            note(
                f"all {steps} steps were done before: to train on, begin another run "
                f"with --from {header.path}"
            )
        if not ranks.rank():
            show(str(header.path))


def _read(bar: Bar, total: int | None) -> None:
    bar.total = total
    bar.move()


def _move(bar: Bar, steps: int, before: bool) -> None:
    if before:
        bar.skip(steps)
        bar.again = _again(steps)
    else:
        bar.move(steps)


def _report(bar: Bar, now: "Report") -> None:
    note(
        f"step {now.step}/{now.steps}  loss {now.loss:.4f}  held-out PSNR {_words(now.psnr)} dB  "
        f"codebook used {now.usage:.1%}  {now.tokens_per_second:,.0f} tokens/s  "
        f"MFU {now.utilization:.0%}"
    )
    bar.remark = (
        f"loss {now.loss:.4f}, {now.tokens_per_second:,.0f} tokens/s, MFU {now.utilization:.0%}"
    )
    bar.again = _again(now.step)


def _words(psnr: Mapping[str, float]) -> str:
    return ", ".join(f"{value:.2f} ({tokens} tokens)" for tokens, value in psnr.items())


def _read_config(model: str) -> "ModelConfig":
    from tokcodec.train.presets import PRESETS

    if model in PRESETS:
        return PRESETS[model]
    if not Path(model).is_file():
        names = ", ".join(PRESETS)
        raise TrainingError(f"--model {model}: neither a preset ({names}) nor a file")
    try:
        return ModelConfig.from_json(_read_text(Path(model), "--model"))
    except ConfigError as error:
        raise ConfigError(f"{model}: {error}") from error


def _read_text(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"{option} {path}: cannot read as text: {error}") from error
