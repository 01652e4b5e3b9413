"""The pictures of a page about forgetting: predicted against observed, and the law as a surface with its known part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trimtab.adapt.forgetting import ForgettingLaw
from trimtab.errors import DataError
from trimtab.report import charts, figures
from trimtab.report.figures import GRID, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.adapt.forgetting_result import ForgettingResult

BEYOND = 10.0
"""How far a surface reaches beyond what was fitted, as a factor."""
CELLS = 60
LEAST_SHARE = 1e-4


def predicted_figure(result: ForgettingResult, law: ForgettingLaw | None = None) -> Figure:
    """Rises that a law of the runs which were not held out predicts, beside the observed ones; none without a law."""
    points = result.points
    out = points["held_out"].to_numpy(dtype=bool)
    law = judging_law(result) if law is None else law
    if law is None:
        raise ValueError("no law")
    where = {name: points[name].to_numpy(dtype=float) for name in ("params", "tokens", "inject")}
    observed = (points["loss_pt"] - points["loss_pt0"]).to_numpy(dtype=float)
    groups = np.where(out, "held out", "fitted").tolist()
    return charts.scatter_identity(
        law.rise(**where).tolist(),
        observed.tolist(),
        groups,
        title="Rises: predicted, observed",
        label=f"Predicted and observed rises of {len(points)} runs",
    )


def judging_law(result: ForgettingResult) -> ForgettingLaw | None:
    """The law of the runs that were not held out; that of all where there are none, or they do not tell one."""
    out = result.points["held_out"].to_numpy(dtype=bool)
    if not out.any():
        return result.law
    try:
        return ForgettingLaw.fit(result.points[~out], n_boot=0)
    except DataError:
        return result.law


def share_surface(law: ForgettingLaw, params: float) -> Figure:
    """The predicted rise over token counts and shares, at one size; beyond the dashed frame it is extrapolated."""
    low, high = law.ranges["inject"]
    shares = (LEAST_SHARE, max(0.3, high))
    tokens = _beyond(law.ranges["tokens"])
    x, y = np.geomspace(*tokens, CELLS), np.geomspace(*shares, CELLS)
    rise = law.rise(params=params, tokens=x[None], inject=y[:, None])
    frame = (law.ranges["tokens"], (max(low, LEAST_SHARE), high))
    return _surface(
        x, y, rise, frame, f"Rise at {params:.3g} parameters", ("unique tokens", "share injected")
    )


def size_surface(law: ForgettingLaw) -> Figure:
    """The predicted rise over token counts and sizes without injection; beyond the dashed frame it is extrapolated."""
    x, y = (np.geomspace(*_beyond(law.ranges[name]), CELLS) for name in ("tokens", "params"))
    rise = law.rise(params=y[:, None], tokens=x[None], inject=0.0)
    frame = (law.ranges["tokens"], law.ranges["params"])
    return _surface(x, y, rise, frame, "Rise without injection", ("unique tokens", "parameters"))


def _beyond(ends: tuple[float, float]) -> tuple[float, float]:
    return ends[0] / BEYOND, ends[1] * BEYOND


def _surface(
    x: np.ndarray,
    y: np.ndarray,
    rise: np.ndarray,
    frame: tuple[tuple[float, float], tuple[float, float]],
    title: str,
    names: tuple[str, str],
) -> Figure:
    """A map of rises on two logarithmic axes, shaded by the logarithm, with lines of equal rise."""
    shown = np.log10(np.maximum(rise, 1e-6))
    levels = _levels(rise)
    with figures.house_style():
        figure, axes = figures.one_axes(3.6, title, f"{title}, by {names[0]} and {names[1]}")
        axes.set(xscale="log", yscale="log", xlabel=names[0], ylabel=names[1])
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, place: f"{value:g}")  # noqa: ARG005
            axis.set_minor_formatter(lambda value, place: "")  # noqa: ARG005
        axes.pcolormesh(x, y, shown, cmap="Purples", shading="nearest", rasterized=True)
        if len(levels):
            lines = axes.contour(x, y, rise, levels=levels, colors=INK, linewidths=0.8)
            axes.clabel(lines, fmt=lambda value: f"{value:g}", fontsize=7.5)
        (left, right), (bottom, top) = frame
        look: dict[str, Any] = {
            "facecolor": "none",
            "edgecolor": GRID,
            "hatch": "///",
            "linewidth": 0.0,
            "zorder": 3,
        }
        for a, b, c, d in (
            (x[0], left, y[0], y[-1]),
            (right, x[-1], y[0], y[-1]),
            (left, right, y[0], bottom),
            (left, right, top, y[-1]),
        ):
            if b > a and d > c:
                axes.fill_between([a, b], c, d, **look)
        axes.plot(
            [left, right, right, left, left], [bottom, bottom, top, top, bottom], "--", color=INK, lw=1.2
        )
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return figure


def _levels(rise: np.ndarray) -> list[float]:
    """Rises of 1, 2 and 5 times a power of ten inside the map, ten at most."""
    wanted = [m * 10.0**k for k in range(-5, 3) for m in (1, 2, 5)]
    inside = [level for level in wanted if rise.min() < level < rise.max()]
    return inside[:: max(1, -(-len(inside) // 8))]


def sizes_of(points: pd.DataFrame) -> list[float]:
    """The sizes of the runs, rising."""
    return sorted(float(value) for value in points["params"].unique())
