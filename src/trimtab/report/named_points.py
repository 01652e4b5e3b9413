"""Points with their names beside them, where there is room; the names of the others are left to the pointer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trimtab.report import figures, tags
from trimtab.report.formats import missing, number, short

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class NamedPoint:
    """A point with its name beside it.

    Attributes:
        name: what it is; left to the pointer where there is no room.
        x, y: its place; a point with a nan is left out.
        share: its area, in [0, 1].
        colour: of its own; "" for that of the page's lines.
    """

    name: str
    x: float
    y: float
    share: float
    colour: str = ""


Box = tuple[float, float, float, float]
"""Left, lower, right and upper end, in points."""
Way = tuple[str, float, float]
_FRAME = 300.0, 176.0
"""Width and height of the axes of `curve_and_clouds` at least, in points."""
_AWAY = (0.0, 10.0, 20.0, 30.0, 42.0, 54.0)
"""Points between a disc and its name: beside it, else as near as there is room, at the end of a thin line."""
_WAYS: tuple[Way, ...] = (
    ("left", 1, 0),
    ("right", -1, 0),
    ("center", 0, 1),
    ("center", 0, -1),
    *((side, right, up) for up in (0.8, -0.8) for side, right in (("left", 0.6), ("right", -0.6))),
)
"""Where a name may stand from its point: its alignment, and the way there."""
_APART = 4.0
"""Points between a name and the disc of another, at least: it is nearer to its own."""


def name_points(
    axes: Axes, named: Sequence[NamedPoint], others: Sequence[figures.Point], axes_names: tuple[str, str]
) -> None:
    """Discs with their names where these cover no other point or name, within the axes.

    Args:
        axes: whose limits are set.
        named: the points.
        others: further places that no name may cover, such as those of a line.
        axes_names: what is measured along and up, for the pointer.
    """
    known = [one for one in named if not missing(one.x) and not missing(one.y)]
    ends = np.array([axes.get_xlim(), axes.get_ylim()])
    scale = np.array(_FRAME) / (ends[:, 1] - ends[:, 0])
    radii = [2.2 + 8.0 * float(np.sqrt(max(one.share, 0.0))) for one in known]
    centres = [(np.array([one.x, one.y]) - ends[:, 0]) * scale for one in known]
    discs = [_around(c, r) for c, r in zip(centres, radii, strict=True)]
    covered = [_around((np.array(at) - ends[:, 0]) * scale, 3.0) for at in others]
    written: list[Box] = []
    for place, (one, radius, centre) in enumerate(zip(known, radii, centres, strict=True)):
        look: dict[str, Any] = {"marker": "o", "markersize": 2 * radius, "linestyle": "none", "zorder": 1.9}
        look |= {"color": one.colour or figures.LINE, "markeredgecolor": figures.INK, "markeredgewidth": 0.6}
        (disc,) = axes.plot([one.x], [one.y], **look)
        told = f"{one.name}: {axes_names[0]} {number(one.x)}; {axes_names[1]} {number(one.y)}"
        tags.named(disc, [one.name], [told])
        text, rest = short(one.name, 16), [*discs[:place], *discs[place + 1 :]]
        for away, (side, right, up) in product(_AWAY, _WAYS):
            offset = right * (radius + 2 + away), up * (radius + 6 + away)
            box = _text_box(centre + np.array(offset), 5.2 * len(text), side)
            along = np.linspace(radius / (radius + away), 1, 12).tolist() if away else []
            line = [_around(centre + np.array(offset) * part, 0.0) for part in along]
            near = _overlaps([_wider(box)], rest) or _overlaps([box], covered)
            if near or not _inside(box) or _overlaps([box, *line], written) or _overlaps(line, rest):
                continue
            written += [box, *line]
            tags.key(_write(axes, text, one, offset, side, radius if away else None), one.name)
            break


def _write(
    axes: Axes, text: str, one: NamedPoint, offset: figures.Point, side: str, radius: float | None
) -> Artist:
    """A name at its place; from afar with a thin line to the edge of the disc."""
    look: dict[str, Any] = {"ha": side, "va": "center", "fontsize": 8.5}
    if radius is not None:
        line = {"arrowstyle": "-", "linewidth": 0.6, "color": figures.INK, "shrinkA": 0, "shrinkB": radius}
        look["arrowprops"] = line
    return figures.text_near(axes, text, (one.x, one.y), offset, **look)


def _around(at: npt.NDArray[np.float64], radius: float) -> Box:
    x, y = map(float, at)
    return x - radius, y - radius, x + radius, y + radius


def _text_box(at: npt.NDArray[np.float64], width: float, side: str) -> Box:
    x, y = map(float, at)
    left = x - {"left": 0.0, "right": width, "center": width / 2}[side]
    return left, y - 6, left + width, y + 6


def _wider(box: Box) -> Box:
    """A text's box with the room that it keeps to other discs."""
    return box[0] - _APART, box[1] - _APART / 2, box[2] + _APART, box[3] + _APART / 2


def _inside(box: Box) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= _FRAME[0] and box[3] <= _FRAME[1]


def _overlaps(some: Sequence[Box], others: Sequence[Box]) -> bool:
    """Whether any box of the first overlaps any of the second."""
    return any(
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
        for one in some
        for other in others
    )
