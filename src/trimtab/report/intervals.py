"""Shapes for intervals of many runs: one per row, or gain against cost.

Shapes for two quantities at once: curves with points beside them, and things in a space of two dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trimtab.report.figures import (
    CENTRED,
    INK,
    LINE,
    MARKERS,
    ROW,
    colour,
    house_style,
    legend_below,
    name_rows,
    one_axes,
    with_margin,
)
from trimtab.report.formats import NOTHING, fixed, missing, short, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Range = tuple[float, float]


@dataclass(frozen=True)
class Look:
    """How a point is drawn, and what that means; points of one meaning share a marker, not only a colour."""

    meaning: str
    colour: str
    marker: str = "o"
    filled: bool = True


def interval_rows(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    looks: Sequence[Look],
    *,
    bounds: Range,
    limit: float | None = None,
    beside: Sequence[float] = (),
    beside_name: str = "",
    axis: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """One value with its interval per row; a value outside the bounds is an arrow at the edge with its number.

    Args:
        names: of the rows, from top to bottom.
        values: one per row; nan is a dash.
        low: lower ends of the intervals; nan for none.
        high: upper ends.
        looks: how each row is drawn; a legend says what they mean.
        bounds: ends of the axis.
        limit: a dashed vertical line.
        beside: a second value per row, drawn as an upright stroke.
        beside_name: what that is, for the legend.
        axis: what is measured.
        title: what stands above the axes.
        label: the text alternative.
    """
    with house_style():
        figure, axes = one_axes(1.15 + ROW * len(names), title, label)
        axes.set(xlim=bounds, xlabel=axis)
        name_rows(axes, names)
        axes.grid(axis="x", linewidth=0.6)
        axes.locator_params(axis="x", nbins=6)
        axes.set_axisbelow(True)
        axes.axvline(0, color=INK, linestyle=":", linewidth=1.1)
        if limit is not None:
            axes.axvline(limit, color=INK, linestyle="--", linewidth=1.1)
        for row, (value, start, stop, look) in enumerate(zip(values, low, high, looks, strict=True)):
            _interval(axes, row, (value, start, stop), look, bounds)
        if len(beside):
            own: dict[str, Any] = {
                "marker": "|",
                "markersize": 9,
                "markeredgewidth": 1.8,
                "linestyle": "none",
            }
            axes.plot(beside, np.arange(len(names)), color=INK, label=beside_name, **own)
        legend_below(figure, _meanings(axes, looks) + bool(len(beside)))
    return figure


def gain_against_cost(
    cost: Sequence[float],
    gain: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    looks: Sequence[Look],
    *,
    names: Sequence[str],
    floor: float,
    axes_names: tuple[str, str],
    title: str = "",
    label: str = "",
) -> Figure:
    """Points with vertical intervals; those of (nearly) one cost are set side by side.

    Args:
        cost: one per point; a point with a nan is left out.
        gain: one per point; below the floor it is an arrow at the edge with its number.
        low: lower ends of the gains' intervals; nan for none.
        high: upper ends.
        looks: how each point is drawn; a legend says what they mean.
        names: one per point, written beside it; empty for none.
        floor: the lowest gain shown.
        axes_names: what is measured along and up.
        title: what stands above the axes.
        label: the text alternative.
    """
    x, y = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
    with house_style():
        figure, axes = one_axes(3.6, title, label)
        heights = np.array([0.0, *(ends[k] for ends in (gain, low, high) for k in known)], dtype=float)
        bottom, top = with_margin(np.maximum(heights, floor))
        places = _side_by_side(x[known], y[known])
        axes.set(ylim=(bottom, top), xlim=with_margin(np.array([*places, 0.0])))
        axes.axhline(0, color=INK, linestyle=":", linewidth=1.1)
        for point, place in zip(known, places, strict=True):
            ends = float(y[point]), float(low[point]), float(high[point])
            _upright(axes, float(place), ends, looks[point], (bottom, top))
        named = [
            (float(y[k]), float(place), names[k]) for k, place in zip(known, places, strict=True) if names[k]
        ]
        _call_all(axes, [one for one in named if one[0] >= bottom])
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        legend_below(figure, _meanings(axes, looks))
    return figure


def _interval(axes: Axes, row: int, ends: tuple[float, float, float], look: Look, bounds: Range) -> None:
    value, low, high = ends
    if missing(value):
        axes.text(float(np.clip(0, *bounds)), row, NOTHING, color=INK, **CENTRED)
        return
    axes.plot([low, high], [row, row], color=look.colour, linewidth=1.6, solid_capstyle="butt")
    beyond = value > bounds[1], value < bounds[0]
    if not any(beyond):
        _point(axes, value, row, look)
        return
    edge, arrow, side, away = (bounds[1], ">", "right", -7) if beyond[0] else (bounds[0], "<", "left", 7)
    axes.plot([edge], [row], marker=arrow, color=look.colour, clip_on=False)
    box: dict[str, Any] = {"textcoords": "offset points", "va": "center", "ha": side, "fontsize": 8}
    axes.annotate(fixed(value, 1), (edge, row), (away, 0), **box)


def _upright(axes: Axes, place: float, ends: tuple[float, float, float], look: Look, bounds: Range) -> None:
    value, low, high = ends
    axes.plot([place, place], [low, high], color=look.colour, linewidth=1.1, alpha=0.7)
    if value >= bounds[0]:
        _point(axes, place, value, look)
        return
    axes.plot([place], [bounds[0]], marker="v", color=look.colour, clip_on=False)
    _call(axes, place, bounds[0], fixed(value, 0))


def _point(axes: Axes, x: float, y: float, look: Look) -> None:
    face = look.colour if look.filled else "none"
    axes.plot([x], [y], marker=look.marker, color=look.colour, markerfacecolor=face, markersize=5.5, zorder=3)


def _call_all(axes: Axes, named: Sequence[tuple[float, float, str]]) -> None:
    """Names beside points (height, place, name), each a line lower where the one above would touch it."""
    bottom, top = axes.get_ylim()
    free = top
    for height, place, name in sorted(named, reverse=True):
        free = min(height, free - 0.065 * (top - bottom))
        _call(axes, place, free, name)


def _call(axes: Axes, x: float, y: float, name: str) -> None:
    """A name beside a point, on the side that has room."""
    left, right = axes.get_xlim()
    inward = x < (left + right) / 2
    where: dict[str, Any] = {"textcoords": "offset points", "ha": "left" if inward else "right"}
    text = axes.annotate(short(name, 22), (x, y), (6 if inward else -6, 5), fontsize=8.5, **where)
    text.set_parse_math(False)


def _meanings(axes: Axes, looks: Sequence[Look]) -> int:
    """One empty point per distinct look, for the legend; how many there are."""
    distinct = list(dict.fromkeys(looks))
    for look in distinct:
        face = look.colour if look.filled else "none"
        own: dict[str, Any] = {"marker": look.marker, "color": look.colour, "markerfacecolor": face}
        axes.plot([], [], linestyle="none", label=short(look.meaning, 32), **own)
    return len(distinct)


def _side_by_side(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Where points stand: neighbours within a hundredth of the axis are spread over at most a tenth, lowest first."""
    places, span = x.copy(), float(max(x.max(initial=0.0), 1e-9))
    order = np.argsort(x, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(x[order]) > 0.01 * span) + 1):
        ranked, n = group[np.argsort(y[group], kind="stable")], len(group)
        wide = min(0.1, 0.015 * (n - 1)) * span
        if n > 1:
            places[ranked] = x[group].mean() + wide * np.linspace(-0.5, 0.5, n)
    return places


_SMALL = 2.4  # inches: two to a telephone's width


@dataclass(frozen=True)
class Cloud:
    """Points of one meaning.

    Attributes:
        x, y: one each per point; a point with a nan is left out.
        joined: a line from each to the next.
    """

    x: Sequence[float]
    y: Sequence[float]
    joined: bool = False


def curve_and_clouds(
    curve: Cloud | None,
    clouds: Mapping[str, Cloud],
    *,
    axes_names: tuple[str, str],
    title: str = "",
    label: str = "",
) -> Figure:
    """Clouds of points, each with a colour and a marker, beside a curve.

    Args:
        curve: drawn as a line without points; None for none.
        clouds: name -> points.
        axes_names: what is measured along and up.
        title: what stands above the axes.
        label: the text alternative.
    """
    with house_style():
        figure, axes = one_axes(3.6, title, label)
        if curve is not None:
            axes.plot(curve.x, curve.y, color=INK, linewidth=1.4)
        for number, (name, cloud) in enumerate(
            zip(short_names(list(clouds), 24), clouds.values(), strict=True)
        ):
            look: dict[str, Any] = {
                "color": colour(number),
                "marker": MARKERS[number % len(MARKERS)],
                "label": name,
            }
            axes.plot(
                cloud.x,
                cloud.y,
                markersize=4.5,
                linestyle="-" if cloud.joined else "none",
                linewidth=1.2,
                **look,
            )
        every = [c for c in (curve, *clouds.values()) if c is not None]
        for which, limits in (("x", axes.set_xlim), ("y", axes.set_ylim)):
            limits(*with_margin(np.concatenate([np.asarray(getattr(c, which), dtype=float) for c in every])))
        axes.grid(linewidth=0.6)
        axes.set_axisbelow(True)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        legend_below(figure, len(clouds))
    return figure


def small_map(
    x: Sequence[float],
    y: Sequence[float],
    shares: Sequence[float],
    colours: Sequence[str] | None = None,
    *,
    title: str = "",
    label: str = "",
) -> Figure:
    """Things in a plane, each as large as its share, in its own colour; half as wide as a telephone.

    Args:
        x: one per thing.
        y: one per thing.
        shares: one per thing, in [0, 1]: the area of its disc; things with none are a dot.
        colours: one per thing; None for one colour.
        title: what stands above.
        label: the text alternative.
    """
    with house_style():
        figure, axes = one_axes(2.1, title, label, _SMALL)
        sizes = 1.0 + 60.0 * np.asarray(shares, dtype=float)
        some = np.asarray(shares, dtype=float) > 0
        fill: Any = np.asarray(colours, dtype=object)[some].tolist() if colours is not None else LINE
        axes.scatter(np.asarray(x)[~some], np.asarray(y)[~some], s=1.0, color=INK, alpha=0.35)
        axes.scatter(
            np.asarray(x)[some], np.asarray(y)[some], s=sizes[some], c=fill, edgecolors=INK, linewidths=0.3
        )
        axes.set(xticks=[], yticks=[], aspect="equal")
        for spine in axes.spines.values():
            spine.set_visible(False)
    return figure
