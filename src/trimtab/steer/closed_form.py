"""Maps that a formula gives, site by site: all at once, or each with those before it in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import Problem
from trimtab.models.pooling import Pool
from trimtab.models.sites import Site, resolve
from trimtab.steer.fitted import costs, steering_of
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Examples, Inputs, Samples, execution_order, prepare, samples
from trimtab.steer.settings import refuse
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from trimtab.models.load import Model

Rule = Callable[[Float[Tensor, "n d"], Float[Tensor, "m d"]], AffineMap]
"""Source and target samples of one site -> its map."""


class Estimator(Protocol):
    """What such an estimator says of itself."""

    @property
    def sites(self) -> str | Sequence[str] | None:
        """Where maps are."""

    @property
    def batch_size(self) -> int:
        """Texts at a time."""

    @property
    def max_tokens(self) -> int | None:
        """Where longer texts are cut."""

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""


def fit_sites(
    estimator: Estimator,
    rule: Rule,
    model: Model | nn.Module,
    source: Inputs,
    target: Inputs,
    *,
    pool: Pool,
    sequential: bool = False,
) -> Steering:
    """The steering of one map per site.

    Args:
        estimator: a dataclass, for its sites and for what the steering says of how it was made.
        rule: makes a map of the samples at a site.
        model: a handle; a bare module will do where examples are no texts.
        source: see `trimtab.steer.samples.prepare`.
        target: likewise.
        pool: one vector per example.
        sequential: in the order in which the model reaches the sites, each map is made of source samples that run
            through the maps before it; otherwise all are made of the untouched model.

    Raises:
        ConfigProblems: settings that cannot work.
        DataError: a side is empty or too small.
        ModelError: a site that is not there, or activations that are not finite.
    """

    def rules(before: Samples, wanted: Samples, given: Given) -> dict[str, AffineMap]:
        maps: dict[str, AffineMap] = {}
        for site in execution_order(model, given.source, given.sites) if sequential else given.sites:
            now = samples(model, given.source, [site], pool, maps) if sequential and maps else before
            maps[site.name] = rule(now[site.name], wanted[site.name])
        return maps

    return _fitted(estimator, rules, model, source, target, pool)


def fit_together(
    estimator: Estimator,
    rule: Callable[[Samples, Samples], dict[str, AffineMap]],
    model: Model | nn.Module,
    source: Inputs,
    target: Inputs,
    *,
    pool: Pool,
) -> Steering:
    """The same for a rule that sees all sites at once, source and target samples of the untouched model."""
    return _fitted(estimator, lambda before, wanted, _: rule(before, wanted), model, source, target, pool)


@dataclass(frozen=True)
class Given:
    """What is run, and where it is read."""

    source: Examples
    sites: tuple[Site, ...]


def _fitted(
    estimator: Estimator,
    rules: Callable[[Samples, Samples, Given], dict[str, AffineMap]],
    model: Model | nn.Module,
    source: Inputs,
    target: Inputs,
    pool: Pool,
) -> Steering:
    refuse(estimator.problems())
    first, second = prepare(
        model, source, target, batch_size=estimator.batch_size, max_tokens=estimator.max_tokens
    )
    sites = resolve(model, estimator.sites or ())
    before, wanted = (samples(model, side, sites, pool) for side in (first, second))
    maps = rules(before, wanted, Given(first, sites))
    after = samples(model, first, sites, pool, maps)
    return steering_of(estimator, model, maps, costs(before, after, wanted))
