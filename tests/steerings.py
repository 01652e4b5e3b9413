"""Steerings for tests."""

from __future__ import annotations

import torch

from tiny_models import inputs
from trimtab import Steering
from trimtab.models.hooks import capture
from trimtab.models.sites import resolve
from trimtab.steer.maps import Base


def widths(module, name, found):
    with torch.no_grad(), capture(module, found, "mean") as taken:
        module(**inputs(name))
    return {site: values.shape[1] for site, values in taken.items()}


def random_steering(module, name, patterns, seed=0):
    """A steering with random maps at these sites."""
    draw = torch.Generator().manual_seed(seed)
    found = resolve(module, patterns)
    maps = {
        site: (1 + 0.2 * torch.randn(d, generator=draw), 0.2 * torch.randn(d, generator=draw))
        for site, d in widths(module, name, found).items()
    }
    return Steering(maps, Base.of(module, found))
