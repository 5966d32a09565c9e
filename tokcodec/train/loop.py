"""The training loop: steps, reports, and exact resuming."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator

import torch

from tokcodec.checkpoint import Header, read_header
from tokcodec.config import ModelConfig
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train import operations, ranks
from tokcodec.train.batches import Batch, Batches
from tokcodec.train.data import Images
from tokcodec.train.export import Exporter, diverged
from tokcodec.train.folder import Report
from tokcodec.train.interrupts import DelayedInterrupt
from tokcodec.train.run import Run
from tokcodec.train.start import Tell, begin
from tokcodec.train.trainer import Trainer
from tokcodec.train.window import Window

Stepped = Callable[[int, Report | None], None]  # the number of steps so far, and a report if any


def train_model(
    run: Run,
    images: Images,
    tell: Tell = lambda _: None,
    stepped: Stepped = lambda _, __: None,
) -> Header:
    """Trains to the last step, or resumes the run in the folder; returns the checkpoint.

    Every report writes the checkpoint, the sheet, a line of the log, and then the state, from which
    the same call continues to the same weights as without a stop (on CUDA, in ``deterministic``).
    An interrupt is delayed until the step is done and the state is written.

    Every process calls this; the first one reports and writes. ``stepped`` is called before the
    first step and after each step.

    Raises:
        TrainingError: the run in the folder has other settings or images; the training diverges; or
            the weights of the source are not float16 numbers, so its tokens would change.
        OutputError: a file cannot be written.
    """
    recipe, folder = run.recipe, run.folder
    trainer, exporter, window = _start_or_resume(run, images, tell)
    stepped(trainer.steps_done, None)
    operations_per_token = operations.per_token(run.config, recipe, run.tokens_stay)
    reach = operations.reached(run.device, getattr(torch, recipe.dtype)) * ranks.count()
    batches = Batches(images.train, run.config, recipe, run.device, run.tokens_stay)
    with DelayedInterrupt() as interrupt, _interrupted_with_the_first(interrupt):
        window.resume()
        for batch in batches.since(trainer.steps_done):
            window.add(trainer.step(batch), _count_tokens(run.config, batch))
            report = None
            if trainer.steps_done % recipe.report_every == 0 or trainer.steps_done == recipe.steps:
                # Only here does anything wait for the device.
                report = _measure(run, trainer, window, operations_per_token / reach)
                if not ranks.rank():
                    report = dataclasses.replace(report, psnr=exporter.export(trainer))
                    folder.append(report)
                window.clear()
                if not ranks.rank():
                    _save(run, trainer, exporter, window)
                window.resume()
            stepped(trainer.steps_done, report)
            if interrupt.requested and not ranks.rank():
                if not report:
                    _save(run, trainer, exporter, window)
                interrupt.deliver()
    ranks.wait()
    return read_header(folder.checkpoint)


def _start_or_resume(run: Run, images: Images, tell: Tell) -> tuple[Trainer, Exporter, Window]:
    """The state before the first step, or the one in the folder."""
    begun = run.folder.begun()
    if begun:
        run.folder.require_same(begun, run.settings, images.fingerprint)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.recipe.seed)
        model = Tokenizer(run.config)
    if not begun and not ranks.rank():
        rate_channel = run.recipe.rate_weight > 0
        begin(model, images.train, run.recipe.seed, run.source, rate_channel, tell)
    model = model.to(run.device)
    ranks.broadcast(model.state_dict().values())
    trainer = Trainer(model, run.recipe, run.tokens_stay, run.lpips)
    exporter, window = Exporter(run, images), Window()
    if begun:
        state = run.folder.load_state(run.device)
        trainer.load_state(state)
        exporter.start_psnr = state["start_psnr"]
        window.load_state(state["window"])
    if not ranks.rank():
        exporter.export(trainer)
        if not begun:
            run.folder.log.unlink(missing_ok=True)
            _save(run, trainer, exporter, window)
    return trainer, exporter, window


def _save(run: Run, trainer: Trainer, exporter: Exporter, window: Window) -> None:
    state = {**trainer.state(), "start_psnr": exporter.start_psnr, "window": window.state()}
    run.folder.save_state(run.settings, exporter.images.fingerprint, state)


def _count_tokens(config: ModelConfig, batch: Batch) -> float:
    """The tokens of a step, of all processes together."""
    images = len(batch.crops) * ranks.count() / batch.share
    return images * math.prod(config.token_shape(*batch.size))


def _measure(run: Run, trainer: Trainer, window: Window, mfu_of_a_token: float) -> Report:
    """The report on the steps since the last one, without PSNR.

    ``mfu_of_a_token`` is the utilization at one token per second.
    """
    step, recipe = trainer.steps_done, run.recipe
    terms = window.means()
    usage = float((ranks.sum_(trainer.used.float()) > 0).float().mean())
    trainer.used.zero_()
    if not all(map(math.isfinite, terms.values())):
        raise diverged(step)
    rate = window.tokens / window.seconds
    return Report(
        step=step,
        steps=recipe.steps,
        loss=terms.pop("loss"),
        terms=terms,
        psnr={},
        usage=usage,
        learning_rate=recipe.rate(step - 1),
        seconds=round(window.seconds, 3),
        tokens_per_second=rate,
        utilization=rate * mfu_of_a_token,
    )


@contextlib.contextmanager
def _interrupted_with_the_first(interrupt: DelayedInterrupt) -> Iterator[None]:
    """Interrupts the other processes after the first one has saved the state and ended, which makes
    their communication fail."""
    try:
        yield
    except RuntimeError:
        if interrupt.requested and ranks.rank():
            interrupt.deliver()
        raise


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """A block in which torch uses deterministic algorithms, if ``wanted``."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # which cuBLAS asks for
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
