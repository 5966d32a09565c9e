"""One training step: gradients, optimizers, codebook and the average of the weights."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tokcodec.model.codebook import Codebook
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.model.vit import Block
from tokcodec.train import ranks
from tokcodec.train.adversarial import Critic
from tokcodec.train.batches import Batch
from tokcodec.train.codebook import MovingAverages
from tokcodec.train.objective import Objective, Outcome
from tokcodec.train.recipe import Recipe


class Trainer:
    """A model in training, with its optimizers and averages. No step waits for the device.

    Attributes:
        steps_done: the number of steps so far.
        model: the current weights; ``averaged`` returns those that are exported.
        used: bool [K]: the tokens that were used since the last report.
    """

    def __init__(
        self,
        model: Tokenizer,
        recipe: Recipe,
        tokens_stay: bool = False,
        lpips: nn.Module | None = None,
    ) -> None:
        self.model, self.recipe, self.tokens_stay = model, recipe, tokens_stay
        self.steps_done = 0
        if tokens_stay:
            model.encoder.requires_grad_(False)
        self.optimizers = _make_optimizers(model, recipe)
        assert isinstance(model.quantizer, Codebook)
        codebook = model.quantizer.codebook
        if recipe.rate_weight:
            # The last channel of z is always 0, see MovingAverages; no gradient changes it.
            for parameter in model.encoder.get_submodule("to_embedding").parameters():
                parameter.data[-1] = 0
        self.codebook_averages = MovingAverages(codebook, recipe)
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.used = torch.zeros(len(codebook), dtype=torch.bool, device=codebook.device)
        if recipe.compiled:
            # Blocks take nearly all of the time, and depend only on the number of tokens, so one
            # compilation suffices for grids of every shape.
            for module in model.modules():
                if isinstance(module, Block):
                    module.compile(dynamic=True)
        self.objective: nn.Module = Objective(model, recipe, tokens_stay, lpips)
        if ranks.count() > 1:
            self.objective = DistributedDataParallel(
                self.objective, broadcast_buffers=False, static_graph=True
            )
        self.critic = Critic(recipe, codebook.device) if recipe.adversarial else None

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Trains on a batch. Returns the ``loss`` and its terms: scalars whose means over all
        processes are the means over all images of the step."""
        outcome: Outcome = self.objective(batch)
        terms = dict(outcome.terms)
        if self.critic:
            terms["adversarial"] = self.critic.deception(outcome.decoded, outcome.target)
        loss = self.recipe.total(terms)
        self._descend(loss * batch.share)
        if not self.tokens_stay:
            self.codebook_averages.update(outcome.z, outcome.tokens, batch.revival)
        self._update_average()
        if self.critic:
            rate = self.recipe.rate(self.steps_done)
            terms["discriminator"] = self.critic.learn(
                outcome.decoded, outcome.target, rate, batch.share
            )
        self.used[outcome.tokens] = True
        self.steps_done += 1
        return {
            name: term.detach() * batch.share for name, term in (("loss", loss), *terms.items())
        }

    def _descend(self, loss: Tensor) -> None:
        self.model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        for optimizer in self.optimizers.values():
            (group,) = optimizer.param_groups
            group["lr"] = self.recipe.rate(self.steps_done)
            optimizer.step()

    @torch.no_grad()
    def _update_average(self) -> None:
        # The decay warms up, so the average follows the weights from the first step on.
        decay = min(self.recipe.ema_decay, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(
            list(self.average.state_dict().values()),
            list(self.model.state_dict().values()),
            1 - decay,
        )

    def averaged(self) -> Tokenizer:
        """The model with the averaged weights."""
        model = self.average
        if self.tokens_stay:  # bit by bit: averaging would turn -0.0 into 0.0
            model.encoder.load_state_dict(self.model.encoder.state_dict())
            model.quantizer.load_state_dict(self.model.quantizer.state_dict())
        return model

    def state(self) -> dict[str, Any]:
        """Everything that is needed to continue to the same weights."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {"step": self.steps_done, "used": self.used, **parts}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continues from a ``state``."""
        self.steps_done = state["step"]
        self.used.copy_(state["used"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        names = ("model", "average", "codebook_averages", "critic")
        parts = {name: part for name in names if (part := getattr(self, name))}
        return {**parts, **self.optimizers}


def _make_optimizers(model: Tokenizer, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """Muon with weight decay for the matrices of the blocks, AdamW for everything else.

    Muon's updates are scaled to the size of AdamW's, so that one learning rate serves both (Liu et
    al. 2025, arXiv 2502.16982, section 2.2).
    """
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_matrix = ".blocks." in name and parameter.ndim == 2
            (matrices if is_matrix else others).append(parameter)
    return {
        "muon": torch.optim.Muon(
            matrices, weight_decay=recipe.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        "adamw": torch.optim.AdamW(others, betas=(0.9, 0.99), weight_decay=0.0, fused=True),
    }
