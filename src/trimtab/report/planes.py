"""Shapes for two quantities at once: curves with points beside them, and things in a space of two dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.report.figures import (
    INK,
    LINE,
    MARKERS,
    colour,
    house_style,
    legend_below,
    one_axes,
    with_margin,
)
from trimtab.report.names import short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
