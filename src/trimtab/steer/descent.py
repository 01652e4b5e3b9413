"""Proximal gradient steps: plain, or with one adaptive step size for each group of coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.numerics.prox import sparse_group

Optimizer = Literal["adam", "sgd"]

BETAS = (0.9, 0.99)
EPSILON = 1e-12

Point = Mapping[str, Float[Tensor, "2 d"]]
"""Site name -> coordinates of its map, two groups: of the weight and of the shift. Zero is the identity."""


@dataclass(frozen=True, eq=False)
class State:
    """Where a descent stands.

    Attributes:
        step: how many steps were taken.
        point: the coordinates.
        mean: running mean of the gradient, of the shape of the point.
        square: running mean of its squares, averaged over each group (2, 1).
    """

    step: int
    point: dict[str, Float[Tensor, "2 d"]]
    mean: dict[str, Float[Tensor, "2 d"]]
    square: dict[str, Float[Tensor, "2 1"]]

    @classmethod
    def start(cls, samples: Mapping[str, Float[Tensor, "n d"]]) -> State:
        """At the identity, for sites with samples such as these."""
        zeros = {site: values.new_zeros(2, values.shape[1]) for site, values in samples.items()}
        return cls(0, zeros, dict(zeros), {site: zero[:, :1] for site, zero in zeros.items()})

    def beside(self, other: State) -> State:
        """The same on the devices of another state of these sites."""
        parts = (self.point, self.mean, self.square)
        point, mean, square = (
            {site: x.to(other.point[site].device) for site, x in part.items()} for part in parts
        )
        return State(self.step, point, mean, square)


@dataclass(frozen=True)
class Descent:
    """Proximal gradient descent on `loss + gamma * sum over groups of (l1 + sqrt(d) l2)` under a cosine schedule.

    Attributes:
        steps: in all; the step size falls from `lr` to 0 along half a cosine.
        lr: first step size.
        optimizer: "sgd" moves by `lr * gradient`. "adam" moves by the running mean of the gradient over the root of
            the running mean of its squares, but the squares are averaged over each group (one site's weights, one
            site's shifts), so that a group has one step size. That deviates from Adam, which has one for each unit:
            units would then all move equally fast, however little each had to gain, and no penalty could tell them
            apart.
        gamma: weight of the sparse group lasso. The proximal step uses the step size that the group just moved by
            (for "sgd" that is lr, as in the paper), so that its fixed points are those of the penalised loss.
    """

    steps: int
    lr: float
    optimizer: Optimizer
    gamma: float = 0.0

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0."""
        return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2

    def after(self, state: State, gradient: Point) -> State:
        """The state one step on; nothing is changed in place."""
        made = {site: self._moved(state, site, slope) for site, slope in gradient.items()}
        point, mean, square = ({site: parts[k] for site, parts in made.items()} for k in range(3))
        return State(state.step + 1, point, mean, square)

    def _moved(self, state: State, site: str, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rate, point, mean, square = self.rate(state.step), state.point[site], slope, state.square[site]
        size, move = torch.full_like(square, rate), slope
        if self.optimizer == "adam":
            first, second = BETAS
            mean = torch.lerp(slope, state.mean[site], first)
            square = torch.lerp(slope.square().mean(-1, keepdim=True), square, second)
            count = state.step + 1
            size = rate / ((square / (1 - second**count)).sqrt() + EPSILON)
            move = mean / (1 - first**count)
        return self._shrunk(point - size * move, size), mean, square

    def _shrunk(self, point: Tensor, sizes: Tensor) -> Tensor:
        if self.gamma == 0:
            return point
        amounts = [self.gamma * size for size in sizes.flatten().tolist()]
        groups = zip(point, amounts, strict=True)
        return torch.stack([sparse_group(group, amount, amount) for group, amount in groups])
