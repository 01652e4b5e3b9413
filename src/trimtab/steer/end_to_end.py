"""The loss of maps at many sites at once, and its gradient through the model (arXiv 2503.10679, eq. 6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import ModelError, explain
from trimtab.models.capture import capture
from trimtab.models.intervene import Intervention, intervene
from trimtab.models.pooling import Pool
from trimtab.models.sites import Site, network_of
from trimtab.seeds import derive, isolated
from trimtab.steer.descent import Point, State
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Examples, Samples, precise
from trimtab.steer.transport_loss import Scale, unit_costs

if TYPE_CHECKING:
    from trimtab.models.load import Model


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """Transport costs of source examples that run through maps at every site.

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
    stop_gradient: bool = False
    seed: int = 0
    acting: dict[str, AffineMap] = field(default_factory=dict)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run a block with maps at all sites, those of the point whose gradient is asked for."""
        with intervene(self.model, {site.name: self._at(site.name) for site in self.sites}):
            yield

    def start(self) -> State:
        """No step taken: every map is the identity."""
        return State.start({site.name: self.before[site.name] for site in self.sites})

    def maps(self, point: Point) -> dict[str, AffineMap]:
        """The maps at a point, by site name; gradients flow."""
        found = {}
        for site, (change, move) in point.items():
            scale = self.scales[site]
            found[site] = AffineMap(1 + change, scale.spread * move - scale.centre * change)
        return found

    def loss(self, pooled: Mapping[str, Float[Tensor, "n d"]]) -> Float[Tensor, ""]:
        """The sum over loss sites and units of the transport cost, from samples that ran through the maps."""
        costs = [
            unit_costs(precise(pooled[site.name]), self.target[site.name], self.scales[site.name], self.p)
            for site in self.loss_sites
        ]
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
        value, pulls = self._pulls(leaves)
        total = {site: torch.zeros_like(leaf) for site, leaf in leaves.items()}
        for number, pull in enumerate(pulls):
            outputs = list(self._pooled(leaves, number).values())
            for site, slope in self._slopes(outputs, leaves, pull).items():
                total[site] += slope
        return value, total

    def _pulls(self, leaves: Point) -> tuple[float, list[tuple[Tensor, ...]]]:
        """The loss, and its gradient by the pooled vectors of each batch."""
        with torch.no_grad():
            parts = [self._pooled(leaves, number) for number in range(len(self.source.batches))]
        names = list(parts[0])
        pooled = {name: torch.cat([part[name] for part in parts]).requires_grad_() for name in names}
        loss = self.loss(pooled)
        pulls = torch.autograd.grad(loss, [pooled[name] for name in names])
        split = [
            torch.split(pull, [len(part[name]) for part in parts])
            for name, pull in zip(names, pulls, strict=True)
        ]
        return float(loss.detach()), list(zip(*split, strict=True))

    def _pooled(self, point: Point, number: int) -> dict[str, Float[Tensor, "b d"]]:
        """Vectors at the loss sites of one batch that runs through the maps."""
        self.acting.update(self.maps(point))
        network, seed = network_of(self.model), derive(self.seed, "batch", number)
        with isolated(seed), capture(network, self.loss_sites, self.pool, grad=True) as taken:
            network(**self.source.batches[number])
        return dict(taken)

    def _slopes(self, outputs: Sequence[Tensor], leaves: Point, pull: Sequence[Tensor]) -> dict[str, Tensor]:
        some = [pair for pair in zip(outputs, pull, strict=True) if pair[0].requires_grad]
        found: tuple[Any, ...] = (
            torch.autograd.grad(
                [output for output, _ in some],
                list(leaves.values()),
                [one for _, one in some],
                allow_unused=True,
            )
            if some
            else (None,) * len(leaves)
        )
        if unused := [site for site, slope in zip(leaves, found, strict=True) if slope is None]:
            got = f"a map at {unused[0]}, on which no loss site depends"
            raise ModelError(explain(got, "a loss site at or after each map", "loss_sites=None"))
        return dict(zip(leaves, found, strict=True))

    def _at(self, site: str) -> Intervention:
        if self.stop_gradient:
            return lambda h: self.acting[site](h.detach())
        return lambda h: self.acting[site](h)
