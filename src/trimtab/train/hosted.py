"""A loop inside someone else's trainer: it follows the steps taken there, reads losses, and makes trials of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LambdaLR

from trimtab.data.tokens import TokenDomain
from trimtab.errors import ModelError, explain
from trimtab.models.load import Model
from trimtab.train.loop import Loop
from trimtab.train.settings import Fit
from trimtab.train.state import Snapshot


class HostedLoop(Loop):
    """The view of a training run that another trainer makes.

    It owns the data cursor and knows how many steps were taken; optimiser, schedule and weights are the trainer's.
    Trial steps take the trainer's optimiser, and undoing them leaves it as it was.

    Args:
        model: what is trained.
        domains: training domains by name.
        fit: the trainer's settings in our words.
        seed: of the sample order.
        optimizer: the trainer's, without wrappers.
        scheduler: of its learning rate. Only a `LambdaLR`, as all schedules of `transformers` but two are, tells the
            rates ahead; with any other the present rate is taken for those of trials and forecasts.
    """

    def __init__(
        self,
        model: Model,
        domains: Mapping[str, TokenDomain],
        fit: Fit,
        *,
        seed: int,
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
    ) -> None:
        super().__init__(model, domains, fit, seed=seed, optimizer=optimizer)
        self.scheduler, self.sharded = scheduler, is_sharded(model)

    def follow(self, weights: Sequence[float]) -> list[tuple[str, int]]:
        """Take note of a step that was trained with these mixture weights; the rows that it was trained on."""
        self.step_count += 1
        return self.stream.draw(weights)

    def lr_at(self, step: int) -> float:
        """The learning rate of optimiser step `step` (0-based), of the first group of parameters."""
        if isinstance(self.scheduler, LambdaLR):
            return float(self.scheduler.base_lrs[0] * self.scheduler.lr_lambdas[0](step))
        return float(self.optimizer.param_groups[0]["lr"])

    def set_rate(self) -> None:
        """Give each group of parameters its learning rate of the next step."""
        if isinstance(self.scheduler, LambdaLR):
            rates = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
            for group, (base, factor) in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = base * factor(self.step_count)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to `snapshot`, bit for bit, also of the learning rates."""
        super().restore(snapshot)
        self.set_rate()


def reshard(module: nn.Module) -> None:
    """Let go of whole parameters that FSDP2 has gathered: they would hide the parts, which are what is written to."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def refuse_sharded(model: Model) -> None:
    """Refuse a model of whose parameters this process holds only parts.

    Raises:
        ModelError: it is one, and where it trains.
    """
    if is_sharded(model):
        got, hint = f"{model.name} with sharded parameters", "TrainerMixture inside transformers.Trainer"
        raise ModelError(explain(got, "whole ones on each process", hint))


def is_sharded(model: Model) -> bool:
    """Whether a process holds only parts of the parameters: FSDP of either version, or ZeRO-3 of DeepSpeed."""
    parts = model.module.modules()
    return any(
        isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")
        for parameter in model.module.parameters()
    ) or any(type(part).__name__ == "FullyShardedDataParallel" for part in parts)
