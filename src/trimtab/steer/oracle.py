"""Affine oracle: what elementwise affine maps at given sites can do at best, found by gradient on the truth itself.

It is told what no estimator of steerings is, the outcome that is wanted. So it is a ceiling, not a rival.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError, DivergedError, explain
from trimtab.models.hooks import capture, intervene
from trimtab.models.load import Model
from trimtab.models.sites import Site, network_of, resolve
from trimtab.steer.maps import AffineMap, Base
from trimtab.steer.samples import running
from trimtab.steer.steering import Steering


def affine_oracle(
    model: Model | nn.Module,
    sites: str | Site | Sequence[str | Site],
    loss: Callable[[int], Tensor],
    *,
    steps: int = 200,
    lr: float = 2e-2,
) -> Steering:
    """Affine maps at sites that lower a loss, by Adam under a cosine from the identity.

    The model is untouched: weights, gradients and modes.

    Args:
        model: a handle or a network.
        sites: where maps are, see `trimtab.models.sites.resolve`.
        loss: from a step, counted from 0, to a scalar; it runs the model, whose maps are in place.
        steps: 1 or more.
        lr: first step size, of weights and shifts alike.

    Raises:
        ConfigError: fewer than one step.
        DivergedError: a loss that is not finite.
    """
    if steps < 1:
        raise ConfigError(f"steps: {explain(steps, 'at least 1')}")
    found, network = resolve(model, sites), network_of(model)
    with running(model), capture(network, found, "mean") as taken:
        loss(0)
    maps = {name: _Map(values[0].float()) for name, values in taken.items()}
    free = [parameter for one in maps.values() for parameter in one.parameters()]
    optimizer = torch.optim.Adam(free, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with running(model, grad=True), intervene(network, maps):
        for step in range(steps):
            value = loss(step)
            if not value.isfinite():
                raise DivergedError(
                    f"affine oracle: the loss of step {step} is not finite; try an lr below {lr:g}"
                )
            optimizer.zero_grad()
            torch.autograd.backward(value)
            optimizer.step()
            schedule.step()
    pairs = {name: (one.weight.detach().clone(), one.shift.detach().clone()) for name, one in maps.items()}
    return Steering(pairs, Base.of(model, found), {"estimator": "affine oracle", "steps": steps})


class _Map(nn.Module):
    """An affine map that learns."""

    def __init__(self, like: Tensor) -> None:
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones_like(like)), nn.Parameter(torch.zeros_like(like))

    def forward(self, h: Tensor) -> Tensor:
        """The activation under the map."""
        return AffineMap(self.weight, self.shift)(h)
