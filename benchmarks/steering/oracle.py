"""The best that elementwise affine maps at these sites can do, by gradient on the exact counterfactual truth."""

from __future__ import annotations

import math

import torch
from torch import nn

from trimtab import Steering
from trimtab.models.hooks import capture, intervene
from trimtab.models.sites import resolve
from trimtab.seeds import derive
from trimtab.steer.maps import AffineMap, Base
from worlds import Judge, documents

STEPS, LR, BATCH = 200, 2e-2, 32


def oracle(judge: Judge, sites: str, seed: int) -> Steering:
    """Maps trained on fresh documents: towards the counterfactual truth on rude ones, towards the truth on clean ones.

    It is told what no estimator is: the topic, the style and the grammar. So it is a ceiling, not a rival.
    """
    found = resolve(judge.model, sites)
    with torch.no_grad(), capture(judge.model, found, "mean") as taken:
        judge.model.module(input_ids=judge.rude.ids[:2])
    maps = {name: _Map(values.shape[1]) for name, values in taken.items()}
    free = [parameter for one in maps.values() for parameter in one.parameters()]
    optimizer = torch.optim.Adam(free, lr=LR)
    judge.model.module.requires_grad_(False)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        with intervene(judge.model, maps):
            loss = _loss(judge, derive(seed, "oracle", step))
        loss.backward()
        optimizer.step()
    pairs = {name: (one.weight.detach().clone(), one.shift.detach().clone()) for name, one in maps.items()}
    return Steering(pairs, Base.of(judge.model, found), {"estimator": "oracle"})


class _Map(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return AffineMap(self.weight, self.shift)(h)


def _loss(judge: Judge, seed: int) -> torch.Tensor:
    """Cross-entropy from the truth that is wanted: its gradient is that of the KL."""
    rude, clean = (documents(judge.world, style, BATCH, "oracle", seed).ids for style in ("rude", "clean"))
    wanted = torch.cat([judge.world.clean_next_token(rude), judge.world.next_token(clean)]).float()
    logits = judge.model.module(input_ids=torch.cat([rude, clean])).logits
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()
