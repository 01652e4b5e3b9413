"""Estimators of steerings in closed form: activation transport (arXiv 2410.23054) and AurA (arXiv 2407.12824).

What all estimators share is here too: the checks of settings, the fit of maps by a rule, and the steering with its
transport costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from trimtab.errors import ConfigProblems, Problem, not_among
from trimtab.models.batches import Pool
from trimtab.models.sites import Site, resolve
from trimtab.numerics.ranking import auroc
from trimtab.numerics.transport import monotone_pairs
from trimtab.runs.brief import brief
from trimtab.runs.config import typed_problems
from trimtab.runs.serialise import plain
from trimtab.steer.maps import AffineMap, Base
from trimtab.steer.samples import Inputs, Samples, Scale, execution_order, prepare, samples, unit_costs
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from trimtab.models.load import Model


def steering_of(
    estimator: Any,
    model: Model | nn.Module,
    maps: Mapping[str, AffineMap],
    cost: Mapping[str, tuple[float, float]],
    **facts: Any,
) -> Steering:
    """Steering of fitted maps; `made_by` has `estimator`, `settings`, `cost` and the facts.

    Args:
        estimator: a dataclass, the settings as they were resolved.
        model: what it was fitted on.
        maps: by site name.
        cost: see `costs`.
        facts: whatever else to keep, plain values.
    """
    base = Base.of(model, [Site.parse(name) for name in maps])
    pairs = {name: (one.weight.detach().cpu(), one.shift.detach().cpu()) for name, one in maps.items()}
    made = {"estimator": type(estimator).__name__, "settings": plain(asdict(estimator)), "cost": plain(cost)}
    return Steering(pairs, base, {**made, **facts})


def costs(before: Samples, after: Samples, target: Samples) -> dict[str, tuple[float, float]]:
    """Transport costs: site name -> mean over units before and after, with one scale; 1 is a target variance.

    Args:
        before: samples of the source through the untouched model.
        after: through the maps; its sites count.
        target: through the untouched model.
    """
    by_site = {}
    for site in after:
        scale = Scale.of(before[site], target[site], "scale-free")
        first, last = (unit_costs(side[site], target[site], scale).mean() for side in (before, after))
        by_site[site] = (float(first), float(last))
    return by_site


RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("gamma", "alpha"), (lambda x: 0 <= x < math.inf, "a finite number, 0 or above")),
    "lr": (lambda x: 0 < x < math.inf, "a finite number above 0"),
    "p": (lambda x: 1 <= x < math.inf, "a finite order, at least 1"),
    **dict.fromkeys(("steps", "batch_size", "max_tokens", "heads"), (lambda x: x >= 1, "at least 1")),
}
"""What a setting of this name may be, whichever estimator has it; None always does."""


def setting_problems(estimator: Any) -> Iterator[Problem]:
    """Problems of settings: values of another type than declared, unknown choices and numbers out of range."""
    hints = get_type_hints(type(estimator))
    words = {
        field.name: get_args(kind)
        for field in fields(estimator)
        for kind in (hints[field.name], *get_args(hints[field.name]))
        if get_origin(kind) is Literal and field.name != "kind" and getattr(estimator, field.name) is not None
    }
    if mistyped := typed_problems(estimator, without=("sites", *words)):
        yield from mistyped
        return
    for name, choices in words.items():
        if (word := getattr(estimator, name)) not in choices:
            yield not_among(name, word, choices)
    for name, (fine, expected) in RANGES.items():
        if (value := getattr(estimator, name, None)) is not None and not fine(value):
            yield Problem(name, repr(value), expected)
    if estimator.sites is not None and not estimator.sites:
        yield Problem("sites", repr(estimator.sites), "at least one site", "'residual'")


def refuse(problems: Iterator[Problem]) -> None:
    """Raise all problems, if there are any.

    Raises:
        ConfigProblems: with all of them.
    """
    if every := list(problems):
        raise ConfigProblems(every)


Rule = Callable[[Float[Tensor, "n d"], Float[Tensor, "m d"]], AffineMap]
"""Source and target samples of one site -> its map."""

JointRule = Callable[[Samples, Samples], Mapping[str, AffineMap]]
"""Source and target samples at several sites -> the map of each site of the source."""


def at_each_site(rule: Rule) -> JointRule:
    """Joint rule that applies a rule to each site by itself."""
    return lambda source, target: {site: rule(values, target[site]) for site, values in source.items()}


def fit_maps(
    estimator: Any,
    rule: JointRule,
    model: Model | nn.Module,
    source: Inputs,
    target: Inputs,
    *,
    pool: Pool,
    sequential: bool = False,
) -> Steering:
    """Steering of maps that a rule makes of samples.

    Args:
        estimator: a dataclass, for its sites and for what the steering says of how it was made.
        rule: makes maps of the samples at sites.
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
    refuse(estimator.problems())
    limits = {"batch_size": estimator.batch_size, "max_tokens": estimator.max_tokens}
    first, second = prepare(model, source, target, **limits)
    sites = resolve(model, estimator.sites or ())
    before, wanted = (samples(model, side, sites, pool) for side in (first, second))
    maps: dict[str, AffineMap] = {}
    for group in [[site] for site in execution_order(model, first, sites)] if sequential else [sites]:
        now = samples(model, first, group, pool, maps) if maps else before
        maps |= rule({site.name: now[site.name] for site in group}, wanted)
    after = samples(model, first, sites, pool, maps)
    return steering_of(estimator, model, maps, costs(before, after, wanted))


ROUNDING = 16
"""Units whose standard deviation is below so many roundings of their largest value are taken for constant."""


def mean_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """Mean difference: the shift from the source mean to the target mean; weights are 1.

    >>> mean_map(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0]])).shift
    tensor([4.])
    """
    shift = target.mean(0) - source.mean(0)
    return AffineMap(torch.ones_like(shift), shift)


def gaussian_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """Gaussian transport: the monotone map between the Gaussians of both sides (Peyre & Cuturi 2019, remark 2.31).

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
    """Units whose values differ by more than rounding, as a mask."""
    return x.std(0, correction=0) > ROUNDING * torch.finfo(x.dtype).eps * x.abs().amax(0)


def _through_means(weight: Tensor, source: Tensor, target: Tensor) -> AffineMap:
    """Map of these weights that takes the source mean to the target mean."""
    return AffineMap(weight, target.mean(0) - weight * source.mean(0))


def damping_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """Damping weights `1 - 2 (AUROC - 1/2)` where a unit ranks source above target, 1 elsewhere.

    >>> damping_map(torch.tensor([[3.0, 0.0], [4.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])).weight
    tensor([0., 1.])
    """
    labels = torch.cat([torch.ones(len(source)), torch.zeros(len(target))])
    area = auroc(torch.cat([source, target]).T, labels)
    weight = (2 - 2 * area).clamp(max=1).to(source.dtype)
    return AffineMap(weight, torch.zeros_like(weight))


class Checked:
    """Estimator whose settings are checked one by one."""

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        return setting_problems(self)


@dataclass(frozen=True)
class ClosedForm(Checked):
    """Activation transport whose maps a formula gives, site by site (arXiv 2410.23054).

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
    kind: str = ""

    @staticmethod
    def rule(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
        """The map of one site, made of the source and target samples there."""
        raise NotImplementedError

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The maps that take source to target; see `trimtab.steer.estimators.fit_maps` for what is refused."""
        rule = at_each_site(self.rule)
        return fit_maps(self, rule, model, source, target, pool=self.pool, sequential=self.sequential)


@dataclass(frozen=True)
class MeanAcT(ClosedForm):
    """Mean-AcT: each unit is shifted by the difference of its means (arXiv 2410.23054).

    Attributes: see `trimtab.steer.estimators.ClosedForm`.
    """

    kind: Literal["mean-act"] = "mean-act"

    __repr__ = brief
    rule = staticmethod(mean_map)


@dataclass(frozen=True)
class GaussianAcT(ClosedForm):
    """Transport between Gaussians: each unit's mean and standard deviation become the target's.

    Attributes: see `trimtab.steer.estimators.ClosedForm`.
    """

    kind: Literal["gaussian-act"] = "gaussian-act"

    __repr__ = brief
    rule = staticmethod(gaussian_map)


@dataclass(frozen=True)
class LinAcT(ClosedForm):
    """Lin-AcT: least squares of sorted target on sorted source samples, unit by unit (arXiv 2410.23054).

    Attributes: see `trimtab.steer.estimators.ClosedForm`.
    """

    kind: Literal["lin-act"] = "lin-act"

    __repr__ = brief
    rule = staticmethod(linear_map)


@dataclass(frozen=True)
class AurA(Checked):
    """AurA: each unit is damped by how well it detects the source (Suau et al. 2024, Whispering Experts, eq. 2).

    It only turns a behaviour down: units that detect the target are left alone, and nothing is shifted. The paper
    damps the outputs of all linear maps inside MLPs.

    Attributes:
        sites: where maps are, see `trimtab.models.sites.resolve`.
        pool: one vector per example; the paper's is the largest response over tokens.
        batch_size: texts at a time.
        max_tokens: longer texts are cut; None refuses those beyond the model's limit.
    """

    sites: str | Sequence[str] = "mlp_out"
    pool: Pool = "max"
    batch_size: int = 32
    max_tokens: int | None = None
    kind: Literal["aura"] = "aura"

    __repr__ = brief

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The weights that quieten the source; see `trimtab.steer.estimators.fit_maps` for what is refused."""
        return fit_maps(self, at_each_site(damping_map), model, source, target, pool=self.pool)
