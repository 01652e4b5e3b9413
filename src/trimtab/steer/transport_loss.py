"""How far samples of units are from where they should be, and the scale on which that is said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from trimtab.numerics.transport import wasserstein_1d

Normalisation = Literal["scale-free", "paper"]

FLOOR = 0.01
"""Share of a site's typical variance that is added to each unit's: one that hardly varies has a sensible scale."""


@dataclass(frozen=True, eq=False)
class Scale:
    """The scale of each unit of one site.

    Attributes:
        centre: (d,) mean of the untouched source samples.
        spread: (d,) standard deviation of the target samples, with a floor.
    """

    centre: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]

    @classmethod
    def of(cls, source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], how: Normalisation) -> Scale:
        """As the samples have it, or, in the paper's units, 0 and 1."""
        mean, variance = source.mean(0), target.var(0, correction=0)
        if how == "paper":
            return cls(torch.zeros_like(mean), torch.ones_like(mean))
        # The median, since a few units of some models are a thousand times larger than the rest.
        some = (variance + source.var(0, correction=0)) / 2
        floor = FLOOR * some[some > 0].median() if bool((some > 0).any()) else torch.ones_like(mean)
        return cls(mean, (variance + floor).sqrt())


def unit_costs(
    source: Float[Tensor, "n d"], target: Float[Tensor, "m d"], scale: Scale, p: float = 2.0
) -> Float[Tensor, " d"]:
    """The transport cost of each unit, `W_p^p / spread^p` (arXiv 2503.10679, eq. 5, per unit).

    Examples are sorted, units never: the cost does not change when examples are permuted on either side, together or
    apart, and is 0 exactly where a unit takes the same values on both.

    Args:
        source: one row per example.
        target: likewise; the number of rows may differ.
        scale: of the units; the paper's is 1 for all.
        p: order of the distance.

    >>> one = Scale(torch.zeros(1), torch.ones(1))
    >>> unit_costs(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [1.0]]), one)
    tensor([1.])
    """
    return wasserstein_1d(source.T, target.T, p=p) / scale.spread**p
