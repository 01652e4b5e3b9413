"""Affine oracle of a concept: maps trained on the distance to the pictures that a perfect steering would make."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from trimtab.models.load import Model
from trimtab.models.sites import network_of
from trimtab.seeds import derive
from trimtab.steer.hypertransport.judging import Outputs
from trimtab.steer.hypertransport.training import prompt_examples
from trimtab.steer.oracle import affine_oracle
from trimtab.steer.steering import Steering

BATCH, STEPS, LR = 32, 60, 4e-2


def picture_oracle(
    generator: Model,
    truth: Callable[[Sequence[str], int], Outputs | None],
    prompts: Sequence[str],
    sites: str | Sequence[str],
    *,
    steps: int = STEPS,
    lr: float = LR,
    seed: int = 0,
) -> Steering | None:
    """Steering that lowers the mean absolute difference of pixels from the true pictures, under fresh noise each step.

    Args:
        generator: a one-step generator, whose network gives pictures (B, 3, H, W) in [0, 1].
        truth: from prompts and the seed of their noise to the true pictures; None where they are unknown. It is asked
            while maps are in place, so that it must not run this generator.
        prompts: generic prompts, of which each step draws up to 32.
        sites: where maps are.
        steps: see `trimtab.steer.oracle.affine_oracle`.
        lr: likewise.
        seed: of draws and noise.

    Returns:
        The steering; None where there is no truth, or what the network gives are no pictures of its size.
    """

    def painted(given: Sequence[str], own: int) -> object:
        (batch,) = prompt_examples(generator, "source", given, seed=own, batch_size=len(given)).batches
        return network_of(generator)(**batch)

    def loss(step: int) -> Tensor:
        own = derive(seed, "oracle", step)
        places = np.random.default_rng(own).choice(len(prompts), min(BATCH, len(prompts)), replace=False)
        given = [prompts[place] for place in places]
        made = painted(given, own)
        assert isinstance(made, Tensor)
        return (made - _pixels(truth(given, own)).to(made)).abs().mean()

    wanted = _pixels(truth(prompts[:2], seed))
    if not len(wanted):
        return None
    with torch.no_grad():
        made = painted(prompts[:2], seed)
    if not isinstance(made, Tensor) or made.shape != wanted.shape:
        return None
    return affine_oracle(generator, sites, loss, steps=steps, lr=lr)


def _pixels(pictures: Outputs | None) -> Float[Tensor, "n c h w"]:
    """Pixels in [0, 1]; without any where there are no pictures of one size."""
    rows = [np.asarray(one.convert("RGB")) for one in pictures or () if isinstance(one, Image.Image)]
    if not rows or len({row.shape for row in rows}) > 1:
        return torch.zeros(0, 3, 0, 0)
    return torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).float() / 255
