"""How well scores rank one class above another, for many units at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from trimtab.errors import ShapeError, explain


def auroc(
    scores: Float[Tensor, "*units samples"], labels: Shaped[Tensor, " samples"]
) -> Float[Tensor, " *units"]:
    """Area under the receiver operating characteristic: how likely a positive sample scores above a negative one.

    Ties count half (Mann-Whitney: Hanley & McNeil 1982). Depends on the order of scores only, so any increasing
    function of them gives the same.

    Args:
        scores: of each unit for each sample.
        labels: what is not 0 is positive; the same for all units.

    Returns:
        One value in [0, 1] per unit, in double precision; .5 for a unit that cannot tell. nan where a score is nan, and
        everywhere when a class is missing.

    Raises:
        ShapeError: not one label per sample.

    >>> auroc(torch.tensor([[0.1, 0.4, 0.9], [1.0, 1.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if labels.ndim != 1 or scores.ndim == 0 or scores.shape[-1] != len(labels):
        got = f"scores of shape {tuple(scores.shape)} and labels of shape {tuple(labels.shape)}"
        raise ShapeError(explain(got, "(..., samples) and (samples,)"))
    positive = labels.to(scores.device) != 0
    first, others = scores[..., positive].contiguous(), scores[..., ~positive].sort(dim=-1).values
    below = torch.searchsorted(others, first)
    above = torch.searchsorted(others, first, right=True)
    wins = (below + above).double().sum(-1) / 2
    area = (
        wins / (first.shape[-1] * others.shape[-1]) if first.numel() and others.numel() else wins * torch.nan
    )
    return torch.where(scores.isnan().any(-1), torch.nan, area)
