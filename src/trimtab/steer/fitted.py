"""What an estimator hands over: a steering that knows how it was made and how far it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from torch import nn

from trimtab.models.sites import Site
from trimtab.runs.plain import plain
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Samples
from trimtab.steer.steering import Base, Steering
from trimtab.steer.transport_loss import Scale, unit_costs

if TYPE_CHECKING:
    from trimtab.models.load import Model


def steering_of(
    estimator: Any,
    model: Model | nn.Module,
    maps: Mapping[str, AffineMap],
    cost: Mapping[str, tuple[float, float]],
    **facts: Any,
) -> Steering:
    """The steering of fitted maps; `made_by` has `estimator`, `settings`, `cost` and the facts.

    Args:
        estimator: a dataclass, the settings as they were resolved.
        model: what it was fitted on.
        maps: by site name.
        cost: see `costs`.
        facts: whatever else to keep, plain values.
    """
    base = Base.of(model, [Site.parse(name) for name in maps])
    pairs = {name: (one.weight.detach().cpu(), one.shift.detach().cpu()) for name, one in maps.items()}
    made_by = {
        "estimator": type(estimator).__name__,
        "settings": plain(asdict(estimator)),
        "cost": plain(cost),
    }
    return Steering(pairs, base, {**made_by, **facts})


def costs(before: Samples, after: Samples, target: Samples) -> dict[str, tuple[float, float]]:
    """Site name -> mean transport cost of its units before and after, with the same scale; 1 is a target variance.

    Args:
        before: samples of the source through the untouched model.
        after: through the maps; its sites count.
        target: through the untouched model.
    """
    found = {}
    for site, values in after.items():
        scale = Scale.of(before[site], target[site], "scale-free")
        first, last = (unit_costs(side, target[site], scale) for side in (before[site], values))
        found[site] = (float(first.mean()), float(last.mean()))
    return found
