"""End-to-end loss of maps at many sites (arXiv 2503.10679, eq. 6), its gradient, and proximal descent on it.

Steps are plain, or have one adaptive size per group of coordinates. Proximal operators of penalties make coordinates,
or whole groups of them, exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import ConfigError, ModelError, ShapeError, explain
from trimtab.models.batches import Pool
from trimtab.models.hooks import Intervention, capture, intervene
from trimtab.models.sites import Site, network_of
from trimtab.seeds import derive, isolated
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Examples, Samples, Scale, precise, unit_costs

if TYPE_CHECKING:
    from trimtab.models.load import Model


def soft_threshold(x: Float[Tensor, "*shape"], amount: float) -> Float[Tensor, "*shape"]:
    """Soft thresholding, the proximal operator of amount * ||.||_1: sign(x) * max(|x| - amount, 0).

    Args:
        x: any shape.
        amount: 0 or above, in units of x; 0 leaves x as it is.

    Returns:
        A new tensor; nan stays nan.

    Raises:
        ConfigError: the amount is negative or not finite.

    Source: Parikh & Boyd 2014, section 6.5.2.

    >>> soft_threshold(torch.tensor([-3.0, 0.5, 2.0]), 1.0)
    tensor([-2.,  0.,  1.])
    """
    _check(x, amount=amount)
    return x - x.clamp(-amount, amount)


def group_shrink(x: Float[Tensor, "*groups d"], amount: float) -> Float[Tensor, "*groups d"]:
    """Block soft thresholding, the proximal operator of amount * ||.||_2: x * max(1 - amount / ||x||_2, 0).

    Args:
        x: one group along the last axis; leading axes are further groups, each by itself.
        amount: 0 or above, in units of x; 0 leaves x as it is.

    Returns:
        A new tensor in the direction of x. A zero vector stays zero; a nan anywhere makes its group nan.

    Raises:
        ShapeError: x has no axis.
        ConfigError: the amount is negative or not finite.

    Source: Parikh & Boyd 2014, section 6.5.1.

    >>> group_shrink(torch.tensor([3.0, 4.0]), 2.5)
    tensor([1.5000, 2.0000])
    """
    _check(x, grouped=True, amount=amount)
    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    share_lost = amount / length.clamp_min(torch.finfo(x.dtype).tiny)  # of a zero vector too, without a nan
    return x * (1 - share_lost.clamp_max(1))


def sparse_group(
    x: Float[Tensor, "*groups d"], gamma_l1: float, gamma_group: float
) -> Float[Tensor, "*groups d"]:
    """Sparse group lasso: the proximal operator of gamma_l1 * ||.||_1 + gamma_group * sqrt(d) * ||.||_2.

    Thresholding each coordinate first and shrinking the group after is the exact operator of the sum; the other
    order is not. LinEAS (arXiv 2503.10679) takes both at its step size times gamma, with d the units of a site.

    Args:
        x: one group along the last axis; leading axes are further groups, each by itself.
        gamma_l1: step size times the weight of the l1 part; 0 switches it off.
        gamma_group: step size times the weight of the group part, before the factor sqrt(d); 0 switches it off.

    Returns:
        A new tensor: the minimiser z of gamma_l1 ||z||_1 + gamma_group sqrt(d) ||z||_2 + ||z - x||^2 / 2.

    Raises:
        ShapeError: x has no axis.
        ConfigError: an amount is negative or not finite.

    Source: Simon, Friedman, Hastie & Tibshirani 2013; why one may follow the other: Yu 2013, On decomposing the
    proximal map.

    >>> sparse_group(torch.tensor([4.0, -5.0, 0.5, 0.0]), 1.0, 1.25)
    tensor([ 1.5000, -2.0000,  0.0000,  0.0000])
    """
    _check(x, grouped=True, gamma_l1=gamma_l1, gamma_group=gamma_group)
    return group_shrink(soft_threshold(x, gamma_l1), gamma_group * math.sqrt(x.shape[-1]))


def _check(x: Tensor, *, grouped: bool = False, **amounts: float) -> None:
    for name, amount in amounts.items():
        if not 0 <= amount < math.inf:
            raise ConfigError(explain(f"{name} {amount}", "a finite number, 0 or above"))
    if grouped and x.ndim == 0:
        raise ShapeError(explain("x without an axis", "(*groups, d)", "soft_threshold for single numbers"))


Optimizer = Literal["adam", "sgd"]

LEAST_COST = 1e-12
"""Least cost of a unit of which a root is taken."""

BETAS = (0.9, 0.99)
EPSILON = 1e-12

Point = Mapping[str, Float[Tensor, "2 d"]]
"""Site name -> coordinates of its map, two groups: of the weight and of the shift. Zero is the identity."""


@dataclass(frozen=True, eq=False)
class State:
    """State of a descent: coordinates and running means of the gradient.

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
        """Initial state, at the identity, for sites with samples such as these."""
        zeros = {site: values.new_zeros(2, values.shape[1]) for site, values in samples.items()}
        return cls(0, zeros, dict(zeros), {site: zero[:, :1] for site, zero in zeros.items()})

    def on_devices_of(self, other: State) -> State:
        """The same state on the devices of another one of these sites."""
        parts = (self.point, self.mean, self.square)
        point, mean, square = ({k: x.to(other.point[k].device) for k, x in part.items()} for part in parts)
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
        """Learning rate of a step, from 0."""
        return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2

    def after(self, state: State, gradient: Point) -> State:
        """The state one step on; nothing is changed in place."""
        point, mean, square = dict(state.point), dict(state.mean), dict(state.square)
        rate, count, (first, second) = self.rate(state.step), state.step + 1, BETAS
        for site, slope in gradient.items():
            size, move = torch.full_like(square[site], rate), slope
            if self.optimizer == "adam":
                mean[site] = torch.lerp(slope, mean[site], first)
                square[site] = torch.lerp(slope.square().mean(-1, keepdim=True), square[site], second)
                size = rate / ((square[site] / (1 - second**count)).sqrt() + EPSILON)
                move = mean[site] / (1 - first**count)
            else:
                mean[site] = slope
            moved = point[site] - size * move
            if self.gamma:
                amounts = [self.gamma * one for one in size.flatten().tolist()]
                moved = torch.stack([sparse_group(g, a, a) for g, a in zip(moved, amounts, strict=True)])
            point[site] = moved
        return State(count, point, mean, square)


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """End-to-end loss: transport costs of source examples that run through maps at every site.

    Coordinates of a map are (weight - 1, shift of the centre in spreads): it takes z to
    `centre + weight * (z - centre) + spread * move`. With the paper's scale, centre 0 and spread 1, they are
    (weight - 1, shift). Elsewhere this makes both count alike whatever the scale and offset of a unit, and a map is
    still the identity exactly where both are 0.

    Attributes:
        model: the model; run in evaluation mode by the caller.
        sites: where maps are, in any order.
        loss_sites: where costs are measured.
        source: what is run.
        before: samples of it at all sites, of the untouched model.
        target: samples at the loss sites, of the untouched model.
        scales: at all sites.
        pool: one vector per example.
        p: order of the distance.
        root: whether costs are distances, W_p, and not their powers, W_p^p.
        stop_gradient: whether each site sees its inputs as constants, so that each map answers for its own site only.
        seed: of models that draw in their forward pass: the same in each step.
        acting: the maps that are in place now.
    """

    model: Model | nn.Module
    sites: tuple[Site, ...]
    loss_sites: tuple[Site, ...]
    source: Examples
    before: Samples
    target: Samples
    scales: Mapping[str, Scale]
    pool: Pool = "mean"
    p: float = 2.0
    root: bool = False
    stop_gradient: bool = False
    seed: int = 0
    acting: dict[str, AffineMap] = field(default_factory=dict)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Maps at all sites for a block: those of the point whose gradient is taken."""
        with intervene(self.model, {site.name: self._at(site.name) for site in self.sites}):
            yield

    def start(self, maps: Mapping[str, AffineMap] | None = None) -> State:
        """Initial state: every map is the identity, or that of `maps`."""
        state = State.start({site.name: self.before[site.name] for site in self.sites})
        point = {site: self.scales[site].coordinates(one) for site, one in (maps or {}).items()}
        return replace(state, point=state.point | point)

    def maps(self, point: Point) -> dict[str, AffineMap]:
        """The maps at a point, by site name; gradients flow."""
        return {site: self.scales[site].map(*coordinates) for site, coordinates in point.items()}

    def loss(self, pooled: Mapping[str, Float[Tensor, "n d"]]) -> Float[Tensor, ""]:
        """The sum over loss sites and units of the transport cost, from samples that ran through the maps."""
        names = [site.name for site in self.loss_sites]
        costs = [unit_costs(precise(pooled[n]), self.target[n], self.scales[n], self.p) for n in names]
        if self.root and self.p != 1:  # the root has no slope at 0: costs below the floor have none either
            costs = [cost.clamp_min(LEAST_COST) ** (1 / self.p) for cost in costs]
        return torch.stack([cost.sum().to(costs[0].device) for cost in costs]).sum()

    def gradient(self, point: Point) -> tuple[float, dict[str, Float[Tensor, "2 d"]]]:
        """The loss and its gradient; inside `in_place`.

        The loss is of all examples together, but only one batch is held in the graph at a time: where there are
        several, a first pass without a graph finds how the loss depends on each example's vectors, a second one
        carries that back to the maps. That is exact, for one more forward pass.

        Raises:
            ModelError: a map that no loss site depends on.
        """
        leaves = {site: coordinates.detach().requires_grad_() for site, coordinates in point.items()}
        if len(self.source.batches) == 1:
            loss = self.loss(self._pooled(leaves, 0))
            return float(loss.detach()), self._slopes([loss], leaves, [torch.ones_like(loss)])
        with torch.no_grad():
            parts = [self._pooled(leaves, number) for number in range(len(self.source.batches))]
        pooled = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in parts[0]}
        loss = self.loss(pooled)
        sizes = [len(next(iter(part.values()))) for part in parts]
        # How the loss depends on the pooled vectors, batch by batch.
        split = [torch.split(pull, sizes) for pull in torch.autograd.grad(loss, list(pooled.values()))]
        total = {site: torch.zeros_like(leaf) for site, leaf in leaves.items()}
        for number, pull in enumerate(zip(*split, strict=True)):
            outputs = list(self._pooled(leaves, number).values())
            for site, slope in self._slopes(outputs, leaves, pull).items():
                total[site] += slope
        return float(loss.detach()), total

    def _pooled(self, point: Point, number: int) -> dict[str, Float[Tensor, "b d"]]:
        """Vectors at the loss sites of one batch that runs through the maps."""
        self.acting.update(self.maps(point))
        network, seed = network_of(self.model), derive(self.seed, "batch", number)
        with isolated(seed), capture(network, self.loss_sites, self.pool, grad=True) as taken:
            self.source.run(network, number, taken)
        return dict(taken)

    def _slopes(self, outputs: Sequence[Tensor], leaves: Point, pull: Sequence[Tensor]) -> dict[str, Tensor]:
        pairs = [pair for pair in zip(outputs, pull, strict=True) if pair[0].requires_grad]
        slopes: Sequence[Any] = (None,) * len(leaves)
        if pairs:
            ends, pulls = zip(*pairs, strict=True)
            slopes = torch.autograd.grad(ends, list(leaves.values()), pulls, allow_unused=True)
        if unused := [site for site, slope in zip(leaves, slopes, strict=True) if slope is None]:
            got = f"a map at {unused[0]}, on which no loss site depends"
            raise ModelError(explain(got, "a loss site at or after each map", "loss_sites=None"))
        return dict(zip(leaves, slopes, strict=True))

    def _at(self, site: str) -> Intervention:
        if self.stop_gradient:
            return lambda h: self.acting[site](h.detach())
        return lambda h: self.acting[site](h)
