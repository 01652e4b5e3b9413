"""Holding units at given values, and which other units to hold as a control."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from trimtab.errors import ConfigError, explain
from trimtab.models.intervene import Intervention
from trimtab.numerics.statistics import check_choice
from trimtab.read.responses import Responses
from trimtab.read.units import Units

Rivals = Literal["experts", "random", "matched"]


def set_to(
    units: Units, chosen: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"]
) -> dict[str, Intervention]:
    """Interventions that hold units at values at every token, by the name of their site.

    Args:
        units: which unit is which.
        chosen: the units to hold.
        values: one for each.
    """
    held: dict[str, Intervention] = {}
    owners = units.site_numbers[chosen]
    for owner in np.unique(owners):
        inside = owners == owner
        held[units.sites[owner]] = _holding(chosen[inside] - units.starts[owner], values[inside])
    return held


def _holding(places: Int[np.ndarray, " n"], values: Float[np.ndarray, " n"]) -> Callable[[Tensor], Tensor]:
    def hold(h: Tensor) -> Tensor:
        changed = h.clone()
        where = torch.as_tensor(places, device=h.device)
        changed[..., where] = torch.as_tensor(values, device=h.device, dtype=h.dtype)
        return changed

    return hold


def rivals(
    responses: Responses, experts: Int[np.ndarray, " n"], kind: Rivals, seed: int
) -> Int[np.ndarray, " n"]:
    """Experts, or as many others to compare them with.

    Args:
        responses: of all units.
        experts: numbers of units.
        kind: "experts" themselves; "random": drawn from all other units; "matched": at the same sites, each expert
            paired with another unit so that their mean responses differ as little as possible in all.
        seed: of random ones.

    Raises:
        ConfigError: an unknown kind, or too few other units.
    """
    check_choice("units", kind, get_args(Rivals))
    if kind == "experts":
        return experts
    others = np.setdiff1d(np.arange(len(responses.units)), experts)
    if kind == "random":
        if len(others) < len(experts):
            raise ConfigError(explain(f"{len(others)} other units", f"as many as the {len(experts)} experts"))
        return np.sort(np.random.default_rng(seed).choice(others, len(experts), replace=False))
    return _matched(responses, experts, others)


def _matched(
    responses: Responses, experts: Int[np.ndarray, " n"], others: Int[np.ndarray, " m"]
) -> Int[np.ndarray, " n"]:
    mean = np.concatenate([values.mean(0) for _, values in responses.blocks()])
    owners, found = responses.units.site_numbers, []
    for owner in np.unique(owners[experts]):
        own, rest = experts[owners[experts] == owner], others[owners[others] == owner]
        if len(rest) < len(own):
            site, got = responses.units.sites[owner], f"{len(rest)} other units"
            raise ConfigError(
                f"{site}: {explain(got, f'as many as its {len(own)} experts', 'fewer experts')}"
            )
        gaps = np.abs(mean[own][:, None] - mean[rest][None])
        found.append(rest[linear_sum_assignment(gaps)[1]])
    return np.sort(np.concatenate(found))
