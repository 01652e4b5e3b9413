"""Surfaces of a law of forgetting: predicted rises over token counts and shares, or sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.adapt.forgetting.laws import ForgettingLaw
from trimtab.adapt.forgetting.replay import share_text
from trimtab.report import figures
from trimtab.report.formats import count, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEYOND = 10.0
"""How far a surface reaches beyond what was fitted, as a factor."""
CELLS, SAID = 60, 10
"""Cells along each side of a surface, and those that say their value."""
PALE, ON_PALE, HATCH = 0.62, "#111820", "#7d7d86"
"""Part of the shades that a surface uses, and the inks on it."""
LEAST_SHARE = 1e-4
Ends = tuple[float, float]


def share_surface(law: ForgettingLaw, params: float) -> Figure:
    """The predicted rise over token counts and shares, at one size; beyond the dashed frame it is extrapolated."""
    low, high = law.ranges["inject"]
    x, y = _beyond(law.ranges["tokens"]), np.geomspace(LEAST_SHARE, max(0.3, high), CELLS)
    frame = (law.ranges["tokens"], (max(low, LEAST_SHARE), high))
    up = Upwards(
        y, "share injected", share_text, lambda at, tokens: law.rise(params=params, tokens=tokens, inject=at)
    )
    return _surface(x, up, frame, f"Rise at {count(params)} parameters")


def size_surface(law: ForgettingLaw) -> Figure:
    """The predicted rise over token counts and sizes without injection; beyond the dashed frame it is extrapolated."""
    x, y = (_beyond(law.ranges[name]) for name in ("tokens", "params"))
    frame = (law.ranges["tokens"], law.ranges["params"])
    up = Upwards(y, "parameters", count, lambda at, tokens: law.rise(params=at, tokens=tokens, inject=0.0))
    return _surface(x, up, frame, "Rise without injection")


@dataclass(frozen=True)
class Upwards:
    """What a surface of rises has upwards.

    Attributes:
        values: along the axis.
        name: of the axis.
        write: how a value is written.
        rise: by value and unique tokens.
    """

    values: np.ndarray
    name: str
    write: Callable[[float], str | None]
    rise: Callable[[Any, Any], Any]


def _beyond(ends: Ends) -> np.ndarray:
    return np.geomspace(ends[0] / BEYOND, ends[1] * BEYOND, CELLS)


def _surface(x: np.ndarray, up: Upwards, frame: tuple[Ends, Ends], title: str) -> Figure:
    """A map of rises on two logarithmic axes, shaded by the logarithm, with lines of equal rise.

    Its shades are as pale as dark ink can be read on, whatever the page's own colours are.
    """
    (left, right), (bottom, top) = frame
    y, rise = up.values, up.rise(up.values[:, None], x[None])
    steps = [m * 10.0**k for k in range(-5, 3) for m in (1, 2, 5)]
    levels = [level for level in steps if rise.min() < level < rise.max()]
    with figures.house_style():
        figure, axes = figures.one_axes(3.6, title, f"{title}, by unique tokens and {up.name}")
        axes.set(xscale="log", yscale="log", xlabel="unique tokens", ylabel=up.name)
        for axis, write in ((axes.xaxis, count), (axes.yaxis, up.write)):
            axis.set_major_formatter(partial(_written, write))
            axis.set_minor_formatter(lambda value, place: "")  # noqa: ARG005
        shade = np.log10(np.maximum(rise, 1e-6))
        darkest = shade.min() + (shade.max() - shade.min()) / PALE
        look: dict[str, Any] = {"cmap": "Purples", "shading": "nearest", "rasterized": True}
        axes.pcolormesh(x, y, shade, vmin=shade.min(), vmax=darkest, **look)
        if levels:
            few = levels[:: -(-len(levels) // 8)]
            lines = axes.contour(x, y, rise, levels=few, colors=ON_PALE, linewidths=0.8)
            axes.clabel(lines, fmt=lambda value: f"{value:g}", fontsize=8)
        look = {"facecolor": "none", "edgecolor": HATCH, "hatch": "///", "linewidth": 0.0}
        sides = [(x[0], left, y[0], y[-1]), (right, x[-1], y[0], y[-1])]
        for a, b, c, d in (*sides, (left, right, y[0], bottom), (left, right, top, y[-1])):
            if b > a and d > c:
                axes.fill_between([a, b], c, d, zorder=3, **look)
        corners = ([left, right, right, left, left], [bottom, bottom, top, top, bottom])
        axes.plot(*corners, "--", color=ON_PALE, lw=1.2)
        _say_rises(axes, x, up)
        axes.set(xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    return figure


def _say_rises(axes: Axes, x: np.ndarray, up: Upwards) -> None:
    """Values in words of a surface, at the middles of some cells of it."""
    across, rows = (np.geomspace(side[0], side[-1], SAID + 1) for side in (x, up.values))
    middles, heights = (np.sqrt(edges[1:] * edges[:-1]) for edges in (across, rows))
    rise = up.rise(heights[:, None], middles[None])
    told = [
        [
            f"{count(at)} tokens, {up.name} {up.write(height)}: rise {number(float(rise[i, j]))}"
            for j, at in enumerate(middles)
        ]
        for i, height in enumerate(heights)
    ]
    figures.saying(axes, across, rows, told)


def _written(write: Callable[[float], str | None], value: float, place: object) -> str:  # noqa: ARG001
    """A tick as matplotlib asks for it."""
    return write(value) or ""
