"""Sums over the steps between two reports."""

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tokcodec.train import ranks


class Window:
    """Sums over the steps since the last report.

    Attributes:
        tokens: the number of tokens that all processes trained on.
        seconds: the duration of the steps.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps, self.tokens, self._seconds = 0, 0.0, 0.0
        self._begun: float | None = None

    def resume(self) -> None:
        """Starts the clock."""
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        running = time.perf_counter() - self._begun if self._begun is not None else 0.0
        return self._seconds + running

    def add(self, terms: Mapping[str, Tensor], tokens: float) -> None:
        for name, term in terms.items():
            self.sums[name] = self.sums[name] + term if name in self.sums else term
        self.steps += 1
        self.tokens += tokens

    def means(self) -> dict[str, float]:
        """The means of the terms, over steps and processes."""
        sums = ranks.sum_(torch.stack(list(self.sums.values())).float())
        means = (sums / (self.steps * ranks.count())).tolist()
        return dict(zip(self.sums, means, strict=True))

    def state(self) -> dict[str, Any]:
        if ranks.count() > 1:  # the sums of the other processes are unknown
            return {"sums": {}, "steps": 0, "tokens": 0.0, "seconds": 0.0}
        return {
            "sums": self.sums,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        if ranks.count() > 1:
            return
        self.sums, self.steps = dict(state["sums"]), state["steps"]
        self.tokens, self._seconds = state["tokens"], state["seconds"]
