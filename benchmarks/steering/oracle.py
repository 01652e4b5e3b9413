"""The best that elementwise affine maps at these sites can do, by gradient on the exact counterfactual truth."""

from __future__ import annotations

import torch

from trimtab import Steering
from trimtab.seeds import derive
from trimtab.steer.oracle import affine_oracle
from worlds import Judge, documents

STEPS, LR, BATCH = 200, 2e-2, 32


def oracle(judge: Judge, sites: str, seed: int) -> Steering:
    """Maps trained on fresh documents: towards the counterfactual truth on rude ones, towards the truth on clean ones.

    It is told what no estimator is: the topic, the style and the grammar. So it is a ceiling, not a rival.
    """
    loss = lambda step: _loss(judge, derive(seed, "oracle", step))  # noqa: E731
    return affine_oracle(judge.model, sites, loss, steps=STEPS, lr=LR)


def _loss(judge: Judge, seed: int) -> torch.Tensor:
    """Cross-entropy from the truth that is wanted: its gradient is that of the KL."""
    rude, clean = (documents(judge.world, style, BATCH, "oracle", seed).ids for style in ("rude", "clean"))
    wanted = torch.cat([judge.world.clean_next_token(rude), judge.world.next_token(clean)]).float()
    logits = judge.model.module(input_ids=torch.cat([rude, clean])).logits
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()
