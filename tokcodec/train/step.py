"""One step of training: gradients, optimizer, averages. Nothing in it waits for the device."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tokcodec.model.codebook import Codebook
from tokcodec.model.tokenizer import Tokenizer
from tokcodec.train import ranks
from tokcodec.train.adversarial import Critic
from tokcodec.train.batches import Batch
from tokcodec.train.codebook import MovingAverages
from tokcodec.train.objective import Objective
from tokcodec.train.perceptual import Lpips
from tokcodec.train.recipe import Recipe


class Step:
    """A model in training with its optimizer and averages, which every call moves on.

    Attributes:
        number: steps done.
        model: as it is now; ``averaged`` gives what ships.
        used: bool [K]: tokens that were chosen since this was last cleared.
    """

    def __init__(
        self,
        model: Tokenizer,
        recipe: Recipe,
        tokens_stay: bool = False,
        lpips: Lpips | None = None,
    ) -> None:
        """
        Args:
            model: with the weights to begin with.
            tokens_stay: only the decoder learns.
            lpips: its network, where the recipe has it.
        """
        self.model, self.recipe, self.tokens_stay = model, recipe, tokens_stay
        self.number = 0
        if tokens_stay:
            model.encoder.requires_grad_(False)
        matrices = [
            parameter
            for name, parameter in model.named_parameters()
            if ".blocks." in name and parameter.ndim == 2 and parameter.requires_grad
        ]
        decayed = set(matrices)
        rest = [p for p in model.parameters() if p.requires_grad and p not in decayed]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": recipe.weight_decay},
                {"params": rest, "weight_decay": 0.0},
            ],
            betas=(0.9, 0.99),
            fused=True,
        )
        assert isinstance(model.quantizer, Codebook)
        codebook = model.quantizer.codebook
        if recipe.rate_weight:
            last = model.encoder.get_submodule("to_embedding")
            for parameter in last.parameters():  # see MovingAverages; no gradient changes it
                parameter.data[-1] = 0
        self.averages = MovingAverages(
            codebook,
            recipe.tokens,
            recipe.codebook_decay,
            recipe.dead_below,
            recipe.rate_weight,
        )
        self.average = copy.deepcopy(model).requires_grad_(False)
        self.used = torch.zeros(len(codebook), dtype=torch.bool, device=codebook.device)
        self.objective: nn.Module = Objective(model, recipe, tokens_stay, lpips)
        if ranks.count() > 1:
            self.objective = DistributedDataParallel(
                self.objective, broadcast_buffers=False, static_graph=True
            )
        if recipe.compiled:
            self.objective.compile(dynamic=False)
        self.critic = Critic(recipe, codebook.device) if recipe.adversarial else None

    def __call__(self, batch: Batch) -> Tensor:
        """Gives the loss of this process's images, a scalar."""
        outcome = self.objective(batch)
        loss = outcome.loss
        if self.critic:
            loss = loss + self.critic.loss(outcome.decoded, outcome.pixels)
        rate = self.recipe.rate(self.number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        if not self.tokens_stay:
            self.averages.update(outcome.z, outcome.tokens, batch.revival)
        self._update_average()
        if self.critic:
            self.critic.learn(outcome.decoded, outcome.pixels, rate)
        self.used[outcome.tokens] = True
        self.number += 1
        done: Tensor = loss.detach()
        return done

    @torch.no_grad()
    def _update_average(self) -> None:
        # The decay warms up, so that the average follows from the first step on.
        decay = min(self.recipe.ema_decay, (1 + self.number) / (10 + self.number))
        torch._foreach_lerp_(
            list(self.average.state_dict().values()),
            list(self.model.state_dict().values()),
            1 - decay,
        )

    def averaged(self) -> Tokenizer:
        """The model of averaged weights."""
        model = self.average
        if self.tokens_stay:  # not even -0.0 may become 0.0, as averaging makes it
            model.encoder.load_state_dict(self.model.encoder.state_dict())
            model.quantizer.load_state_dict(self.model.quantizer.state_dict())
        return model

    def state(self) -> dict[str, Any]:
        """Everything from which a later process goes on to the same weights."""
        return {
            "step": self.number,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state(),
            **({"critic": self.critic.state()} if self.critic else {}),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on from a ``state``."""
        self.number = state["step"]
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averages.load_state(state["averages"])
        if self.critic:
            self.critic.load_state(state["critic"])
