"""The folder of a run."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokcodec.errors import TrainingError
from tokcodec.io.files import write_atomically
from tokcodec.io.remote import reason_of

_IN_WORDS = {  # settings that are digests
    "from": "the checkpoint to begin with",
    "tokens_of": "the checkpoint whose tokens stay",
}


@dataclass(frozen=True)
class Report:
    """A report on the steps since the last one.

    Attributes:
        step, steps: the number of steps so far, and of the whole run.
        loss: mean over the images.
        terms: means of the terms of the loss, before they are weighted.
        psnr: PSNR of held-out images in dB, by the number of tokens.
        usage: the share of the codebook that was used.
        learning_rate: of the last step.
        seconds: the duration of the steps.
        tokens_per_second: the number of tokens trained on per second.
        utilization: MFU, see ``operations``.
    """

    step: int
    steps: int
    loss: float
    terms: Mapping[str, float]
    psnr: Mapping[str, float]
    usage: float
    learning_rate: float
    seconds: float
    tokens_per_second: float
    utilization: float


@dataclass(frozen=True)
class Begun:
    """The run in a folder.

    Attributes:
        settings: see ``Run.settings``.
        images: the fingerprint of its images.
        step: the number of steps so far.
    """

    settings: dict[str, Any]
    images: str
    step: int


class RunFolder:
    """The folder of a run.

    Attributes:
        checkpoint: the current weights.
        state: the state from which the run resumes.
        log: a line of JSON for each report.
        sheet: held-out images, above their decoded versions.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "model.safetensors"
        self.state = path / "state.pt"
        self.log = path / "log.jsonl"
        self.sheet = path / "sheet.jpg"

    def begun(self) -> Begun | None:
        """The run in this folder; None if there is none.

        Raises:
            TrainingError: its state is damaged.
        """
        if not self.state.exists():
            return None
        try:
            state = torch.load(self.state, mmap=True, weights_only=True)
            begun = Begun(json.loads(state["settings"]), state["images"], state["step"])
            if "dtype" not in begun.settings["recipe"] or type(begun.step) is not int:
                raise ValueError("its settings are missing")
        except Exception as error:  # of any kind: unpickling damaged data may raise anything
            raise TrainingError(
                f"damaged: {reason_of(error)}; delete it to begin again, or train in another "
                f"folder from the weights in {self.checkpoint}",
                name=self.state,
            ) from error
        return begun

    def require_same(
        self, begun: Begun, settings: Mapping[str, Any], images: str | None = None
    ) -> None:
        """Raises ``TrainingError`` if settings or images differ from those of the run."""
        differing = _differences(begun.settings, settings)
        if images not in (None, begun.images):
            differing.append("the images")
        if differing:
            other = ", ".join(differing)
            raise TrainingError(
                f"contains a run with other settings or images: {other}; repeat its command to "
                f"resume it, or train in another folder from the weights in {self.checkpoint}",
                name=self.path,
            )

    def load_state(self, device: torch.device) -> dict[str, Any]:
        """The state that ``save_state`` wrote."""
        state: dict[str, Any] = torch.load(self.state, map_location=device, weights_only=True)
        return state

    def save_state(
        self, settings: Mapping[str, Any], images: str, state: Mapping[str, Any]
    ) -> None:
        """Writes the state from which the run resumes, with the facts of ``Begun``."""
        whole = {"settings": json.dumps(settings), "images": images, **state}
        write_atomically(self.state, lambda file: torch.save(whole, file))

    def append(self, report: Report) -> None:
        """Adds a line to the log."""
        # A process that was killed before it wrote its state may have left later lines.
        lines = [line for line in self._lines() if json.loads(line)["step"] < report.step]
        lines.append(json.dumps(dataclasses.asdict(report)))
        write_atomically(self.log, lambda file: file.write(("\n".join(lines) + "\n").encode()))

    def last_report(self) -> Report:
        """The last line of the log.

        Raises:
            TrainingError: it cannot be read.
        """
        try:
            return Report(**json.loads(self._lines()[-1]))
        except (IndexError, TypeError, ValueError) as error:
            raise TrainingError("is missing or damaged", name=self.log) from error

    def _lines(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ, in words."""
    old, new = dict(_flat(then)), dict(_flat(now))
    words = []
    for name in sorted(old.keys() | new.keys()):
        values = old.get(name, "none"), new.get(name, "none")
        if values[0] != values[1]:
            label = name.removeprefix("recipe.").replace("config.", "the model's ")
            words.append(_IN_WORDS.get(name) or f"{label} {values[0]}, not {values[1]}")
    return words


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
