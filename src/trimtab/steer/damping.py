"""AurA: units that detect the source behaviour, damped as much as they detect it (arXiv 2407.12824)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trimtab.errors import Problem
from trimtab.models.pooling import Pool
from trimtab.numerics.ranking import auroc
from trimtab.steer.closed_form import fit_sites
from trimtab.steer.maps import AffineMap
from trimtab.steer.samples import Inputs
from trimtab.steer.settings import setting_problems
from trimtab.steer.steering import Steering

if TYPE_CHECKING:
    from trimtab.models.load import Model


@dataclass(frozen=True)
class AurA:
    """Damp each unit by how well it tells source from target examples (Suau et al. 2024, Whispering Experts, eq. 2).

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

    def fit(self, model: Model | nn.Module, source: Inputs, target: Inputs) -> Steering:
        """The weights that quieten the source; see `trimtab.steer.closed_form.fit_sites` for what is refused."""
        return fit_sites(self, damping_map, model, source, target, pool=self.pool)

    def problems(self) -> Iterator[Problem]:
        """Settings that cannot work."""
        return setting_problems(self, {})


def damping_map(source: Float[Tensor, "n d"], target: Float[Tensor, "m d"]) -> AffineMap:
    """Weights `1 - 2 (AUROC - 1/2)` where a unit ranks source above target, 1 elsewhere.

    >>> damping_map(torch.tensor([[3.0, 0.0], [4.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 1.0]])).weight
    tensor([0., 1.])
    """
    labels = torch.cat([torch.ones(len(source)), torch.zeros(len(target))])
    area = auroc(torch.cat([source, target]).T, labels)
    weight = (2 - 2 * area).clamp(max=1).to(source.dtype)
    return AffineMap(weight, torch.zeros_like(weight))
