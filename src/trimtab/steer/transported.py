"""Activation transport in closed form: means, Gaussians, or sorted samples (Rodriguez et al., arXiv 2410.23054)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trimtab.errors import Problem
from trimtab.models.pooling import Pool
from trimtab.numerics.transport import monotone_pairs
from trimtab.steer.closed_form import fit_sites
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Inputs
from trimtab.steer.settings import setting_problems
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from trimtab.models.load import Model

ROUNDING = 16
"""Units whose standard deviation is below so many roundings of their largest value are taken for constant."""


@dataclass(frozen=True)
class MeanAcT:
    """Shift each unit by the difference of its means (arXiv 2410.23054, Mean-AcT).

    Attributes:
        sites: where maps are, see `trimtab.models.sites.resolve`.
        sequential: in the order of the model, each site fitted with the maps before it in place; False fits all on the
            untouched model.
        pool: one vector per example.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
    """

    sites: str | Sequence[str] = "pre_mlp_norm"
    sequential: bool = True
    pool: Pool = "mean"
    batch_size: int = 32
    max_tokens: int | None = None
    kind: Literal["mean-act"] = "mean-act"

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The shifts that take source to target; see `trimtab.steer.closed_form.fit_sites` for what is refused."""
        return fit_sites(self, mean_map, model, source, target, pool=self.pool, sequential=self.sequential)

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        return setting_problems(self, {})


@dataclass(frozen=True)
class GaussianAcT:
    """Take each unit's mean and standard deviation to the target's: transport between Gaussians.

    Attributes: as those of `MeanAcT`.
    """

    sites: str | Sequence[str] = "pre_mlp_norm"
    sequential: bool = True
    pool: Pool = "mean"
    batch_size: int = 32
    max_tokens: int | None = None
    kind: Literal["gaussian-act"] = "gaussian-act"

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The maps that take source to target; see `trimtab.steer.closed_form.fit_sites` for what is refused."""
        return fit_sites(
            self, gaussian_map, model, source, target, pool=self.pool, sequential=self.sequential
        )

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        return setting_problems(self, {})


@dataclass(frozen=True)
class LinAcT:
    """The affine map of each unit that best takes its sorted source samples to its sorted target samples.

    Attributes: as those of `MeanAcT`.
    """

    sites: str | Sequence[str] = "pre_mlp_norm"
    sequential: bool = True
    pool: Pool = "mean"
    batch_size: int = 32
    max_tokens: int | None = None
    kind: Literal["lin-act"] = "lin-act"

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The maps that take source to target; see `trimtab.steer.closed_form.fit_sites` for what is refused."""
        return fit_sites(self, linear_map, model, source, target, pool=self.pool, sequential=self.sequential)

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        return setting_problems(self, {})


def mean_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """The shift between the means; weights are 1.

    >>> mean_map(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0]])).shift
    tensor([4.])
    """
    shift = target.mean(0) - source.mean(0)
    return AffineMap(torch.ones_like(shift), shift)


def gaussian_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """The monotone map between the Gaussians of both (Peyre & Cuturi 2019, remark 2.31).

    A unit that never varies in the source is only shifted.

    >>> gaussian_map(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [7.0]])).weight
    tensor([2.])
    """
    before, after = source.std(0, correction=0), target.std(0, correction=0)
    return _through_means(torch.where(_varies(source), after / before, 1.0), source, target)


def linear_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """Least squares of target quantiles on source quantiles, each unit by itself (arXiv 2410.23054, Lin-AcT).

    Sizes may differ: the integral over [0, 1] of the squared gap is minimised, exactly. A unit that never varies in
    the source is only shifted. Deviation: maps act everywhere, in the paper between the smallest and the largest source
    sample only; LinEAS does likewise.

    >>> linear_map(torch.tensor([[0.0], [1.0]]), torch.tensor([[5.0], [3.0]])).weight
    tensor([2.])
    """
    first, second, masses = monotone_pairs(source.T, target.T)
    first = first - (first * masses).sum(-1, keepdim=True)
    variance = (first.square() * masses).sum(-1)
    weight = torch.where(_varies(source), (first * second * masses).sum(-1) / variance, 1.0)
    return _through_means(weight, source, target)


def _varies(x: Float[Tensor, "n d"]) -> Bool[Tensor, " d"]:
    """Which units take values that differ by more than rounding."""
    return x.std(0, correction=0) > ROUNDING * torch.finfo(x.dtype).eps * x.abs().amax(0)


def _through_means(weight: Tensor, source: Tensor, target: Tensor) -> AffineMap:
    """The map of these weights that takes the one mean to the other."""
    return AffineMap(weight, target.mean(0) - weight * source.mean(0))
