"""The pictures of a steering's page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trimtab.report import charts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.steer.steering import Steering
    from trimtab.steer.steering_result import SteeringResult

BINS = 32
"""Columns of the map of changed units, at most."""


def curve_figures(result: SteeringResult) -> list[Figure]:
    """Lean, KL on neutral text, and both losses, by strength; what was not measured is left out."""
    drawn = [
        ("lean", "lean to the target", "nats per token"),
        ("kl", "moved on neutral text", "KL, nats per token"),
        ("source_loss", "loss on source text", "nats per token"),
        ("target_loss", "loss on target text", "nats per token"),
    ]
    curve = result.curve
    return [
        charts.line_band(
            curve["strength"].tolist(),
            *(curve[f"{name}{end}"].tolist() for end in ("", "_low", "_high")),
            reference=0.0 if name == "lean" else float("nan"),
            axis=axis,
            across="strength",
            title=title,
            label=f"{title} by strength, {axis}",
        )
        for name, title, axis in drawn
        if curve[name].notna().any()
    ]


def units_figure(steering: Steering) -> Figure:
    """The share of units that each site's map changes, along its units."""
    shares = [_binned((weight != 1) | (shift != 0)) for weight, shift in steering.maps.values()]
    width = max(map(len, shares))
    table = np.full((len(shares), width), np.nan)
    for row, share in zip(table, shares, strict=True):
        row[: len(share)] = share
    return charts.raster(
        table,
        told_apart(list(steering.maps)),
        axis="share of units changed",
        across=f"units, in at most {BINS} groups",
        title="Where it acts",
        label="Share of units that the map of each site changes, along its units",
    )


def _binned(changed: object) -> np.ndarray:
    parts = np.array_split(np.asarray(changed, dtype=float), BINS)
    return np.array([part.mean() for part in parts if len(part)])


def told_apart(names: Sequence[str]) -> list[str]:
    """Names of sites without what all of them begin and end with.

    >>> told_apart(["model.layers.0.mlp:out", "model.layers.11.mlp:out"])
    ['0', '11']
    >>> told_apart(["model.norm:out"])
    ['model.norm:out']
    """
    parts = [name.split(".") for name in names]
    shortest = min(map(len, parts))
    same = [len({tuple(part[:k]) for part in parts}) == 1 for k in range(shortest)]
    first = max(k for k in range(shortest) if same[k])
    ends = [len({tuple(part[len(part) - k :]) for part in parts}) == 1 for k in range(shortest - first)]
    last = max(k for k in range(shortest - first) if ends[k])
    return [".".join(part[first : len(part) - last]) for part in parts] if len(names) > 1 else list(names)
