"""Charts of intervals and of two quantities: rows, waterfalls, gain against cost, curves with points, small maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trimtab.report import figures, tags
from trimtab.report.formats import NOTHING, fixed, missing, number, short, short_names, span, with_ends
from trimtab.report.named_points import NamedPoint, name_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Look:
    """The style of a point and its meaning; points of one meaning share a marker, not only a colour."""

    meaning: str
    colour: str
    marker: str = "o"
    filled: bool = True

    @property
    def style(self) -> dict[str, Any]:
        """The keywords by which matplotlib plots it."""
        face = self.colour if self.filled else "none"
        return {"marker": self.marker, "color": self.colour, "markerfacecolor": face}


def interval_rows(
    names: Sequence[str],
    values: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    looks: Sequence[Look],
    *,
    bounds: tuple[float, float],
    limit: float | None = None,
    beside: Sequence[float] = (),
    beside_name: str = "",
    notes: Sequence[str] = (),
    notes_name: str = "",
    axis: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """Forest plot: a value with its interval per row; one outside the bounds is an arrow at the edge with its number.

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
        notes: what stands at the right end of each row, such as how many it is of.
        notes_name: what that is, above them.
        axis: what is measured.
        title: what stands above the axes.
        label: the text alternative.
    """
    with figures.chart(1.15 + figures.ROW * len(names), title, label) as (figure, axes):
        axes.set(xlim=bounds, xlabel=axis)
        figures.name_rows(axes, names)
        figures.grid(axes, "x")
        axes.locator_params(axis="x", nbins=6)
        axes.axvline(0, color=figures.INK, linestyle=":", linewidth=1.1)
        if limit is not None:
            axes.axvline(limit, color=figures.INK, linestyle="--", linewidth=1.1)
        for row, (value, start, stop, look) in enumerate(zip(values, low, high, looks, strict=True)):
            _interval(axes, row, names[row], (value, start, stop), look, bounds)
        if len(beside):
            stroke: Any = {"marker": "|", "markersize": 9, "markeredgewidth": 1.8, "color": figures.INK}
            (strokes,) = axes.plot(
                beside, np.arange(len(names)), linestyle="none", label=beside_name, **stroke
            )
            known = [(name, value) for name, value in zip(names, beside, strict=True) if not missing(value)]
            tags.named(strokes, [], [f"{name}, {beside_name}: {number(value)}" for name, value in known])
        heights = [-0.9, *np.arange(len(notes)).tolist()]
        for height, note in zip(heights, [notes_name, *notes], strict=True) if len(notes) else []:
            write: dict[str, Any] = {"va": "center", "fontsize": 8.5, "annotation_clip": False}
            figures.text_near(axes, short(note, 24), (bounds[1], height), (6, 0), **write)
        figures.legend_below(figure, _meanings(axes, looks) + bool(len(beside)))
    return figure


@dataclass(frozen=True)
class Part:
    """A bar of a waterfall: its name, its value with the ends of its interval (nan for none), and its colour."""

    name: str
    value: float
    low: float
    high: float
    colour: str


def waterfall(
    total: Part,
    parts: Sequence[Part],
    *,
    bounds: tuple[float, float],
    axis: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """Waterfall: a total beside its parts, each of which starts where the one before it ended.

    Each bar has its interval at its end and its value below. A dotted line leads from the end of the total to the last
    part, which ends there if the parts add up.

    Args:
        total: the first bar, from 0.
        parts: from left to right, the first one from 0; one with a nan is a dash.
        bounds: ends of the vertical axis.
        axis: what is measured.
        title: what stands above the axes.
        label: the text alternative.
    """
    values = np.array([part.value for part in parts], dtype=float)
    starts = [0.0, 0.0, *np.cumsum(values)[:-1].tolist()]
    dotted: dict[str, Any] = {"color": figures.INK, "linestyle": ":", "linewidth": 1.0}
    with figures.chart(2.9, title, label) as (figure, axes):
        for place, (part, start) in enumerate(zip([total, *parts], starts, strict=False)):
            if missing(start + part.value):
                axes.text(place, float(np.clip(0, *bounds)), NOTHING, color=figures.INK, **figures.CENTRED)
                continue
            _bar(axes, place, part, start)
            until = place + 1 if place else len(parts)
            if until <= len(parts):
                axes.plot([place + 0.28, until + 0.28], [start + part.value] * 2, **dotted)
        axes.axhline(0, color=figures.INK, linewidth=0.9)
        figures.grid(axes, "y")
        axes.set(xlim=(-0.5, len(parts) + 0.5), ylim=bounds, ylabel=axis)
        told = [
            (p.name, fixed(p.value, signed=True), span(p.low, p.high, signed=True)) for p in (total, *parts)
        ]
        below = ["\n".join((short(name, 20), *ends)) for name, *ends in told]
        axes.set_xticks(range(len(below)), below, parse_math=False, fontsize=8.5)
        axes.tick_params(axis="x", length=0)
    return figure


def _bar(axes: Axes, place: int, part: Part, start: float) -> None:
    told = [f"{part.name}: {fixed(part.value, signed=True)} ({span(part.low, part.high, signed=True)})"]
    (bar,) = axes.bar([place], [part.value], 0.56, start, color=part.colour, alpha=0.75)
    tags.named(bar, [part.name], told)
    if not missing(part.low + part.high):
        (whisker,) = axes.plot(
            [place] * 2, [start + part.low, start + part.high], color=figures.INK, linewidth=1.4
        )
        tags.named(whisker, [part.name], told)


def gain_against_cost(
    cost: Sequence[float],
    gain: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    looks: Sequence[Look],
    *,
    names: Sequence[str],
    of: Sequence[str] = (),
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
        of: whose each point is, for those that are not named beside it; by default the names.
        floor: the lowest gain shown.
        axes_names: what is measured along and up.
        title: what stands above the axes.
        label: the text alternative.
    """
    x, y = np.asarray(cost, dtype=float), np.asarray(gain, dtype=float)
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y)).tolist()
    with figures.chart(3.6, title, label) as (figure, axes):
        heights = np.array([0.0, *(ends[k] for ends in (gain, low, high) for k in finite)], dtype=float)
        bottom, top = figures.with_margin(np.maximum(heights, floor))
        places = _side_by_side(x[finite], y[finite])
        axes.set(ylim=(bottom, top), xlim=figures.with_margin(np.array([*places, 0.0])))
        axes.axhline(0, color=figures.INK, linestyle=":", linewidth=1.1)
        for k, place in zip(finite, places.tolist(), strict=True):
            (bar,) = axes.plot(
                [place, place], [low[k], high[k]], color=looks[k].colour, linewidth=1.1, alpha=0.7
            )
            if y[k] >= bottom:
                (point,) = axes.plot([place], [y[k]], **looks[k].style, markersize=5.5, zorder=3)
            else:
                (point,) = axes.plot([place], [bottom], marker="v", color=looks[k].colour, clip_on=False)
                _call(axes, place, bottom, fixed(float(y[k]), 0))
            name = (of or names)[k]
            tags.named(bar, [name])
            sides = f"{axes_names[0]} {number(float(x[k]))}; {axes_names[1]} {with_ends(gain[k], low[k], high[k])}"
            tags.named(point, [name], [f"{name}: {sides}" if name else sides])
        ends = np.array([[low[k], y[k], high[k]] for k in finite], dtype=float).reshape(-1, 3)
        bars = np.column_stack(
            [places, np.fmin(ends[:, 0], ends[:, 1]), places, np.fmax(ends[:, 2], ends[:, 1])]
        )
        called = [(y[k], place, names[k]) for k, place in zip(finite, places.tolist(), strict=True)]
        _call_all(axes, bars, sorted(one for one in called if one[0] >= bottom and one[2])[::-1])
        figures.grid(axes)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        figures.legend_below(figure, _meanings(axes, looks))
    return figure


def _interval(
    axes: Axes, row: int, name: str, ends: Sequence[float], look: Look, bounds: tuple[float, float]
) -> None:
    value, low, high = ends
    if missing(value):
        axes.text(float(np.clip(0, *bounds)), row, NOTHING, color=figures.INK, **figures.CENTRED)
        return
    told = [f"{name}: {with_ends(value, low, high)}"]
    (bar,) = axes.plot([low, high], [row, row], color=look.colour, linewidth=1.6, solid_capstyle="butt")
    tags.named(bar, [name], told)
    beyond = value > bounds[1], value < bounds[0]
    if not any(beyond):
        (point,) = axes.plot([value], [row], **look.style, markersize=5.5, zorder=3)
        tags.named(point, [name], told)
        return
    edge, arrow, side, away = (bounds[1], ">", "right", -7) if beyond[0] else (bounds[0], "<", "left", 7)
    (point,) = axes.plot([edge], [row], marker=arrow, color=look.colour, clip_on=False)
    tags.named(point, [name], told)
    figures.text_near(axes, fixed(value, 1), (edge, row), (away, 0), va="center", ha=side, fontsize=8)


def _call(axes: Axes, x: float, y: float, name: str) -> Artist:
    """A name beside a point, on the side that has room."""
    left, right = axes.get_xlim()
    inward = x < (left + right) / 2
    side, away = ("left", 6) if inward else ("right", -6)
    return figures.text_near(axes, short(name, 22), (x, y), (away, 5), ha=side, fontsize=8.5)


_ACROSS, _UP, _LETTER, _LINE = 310.0, 185.0, 4.9, 9.0
"""Points along and up the axes of `gain_against_cost`, and of a letter and a line of its names, roughly."""
_HEIGHTS = (5.0, -4.0, -13.0, 15.0, -23.0, 25.0, -33.0)
"""Points above its own point at which a name may stand; the first that is free is taken."""


def _call_all(axes: Axes, bars: npt.NDArray[np.float64], named: Sequence[tuple[float, float, str]]) -> None:
    """Names beside their points, each where it covers least of the points and of the names before it.

    Args:
        axes: with limits.
        bars: (n, 4) left, lower, right and upper end of each point's interval.
        named: height, place along and name of the points that have one, in the order in which places are given.
    """
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    scale = np.array([_ACROSS / (right - left), _UP / (top - bottom)] * 2)
    taken = (bars - [left, bottom, left, bottom]) * scale + [-4, -4, 4, 4]
    for height, place, name in named:
        text, inward = short(name, 22), place < (left + right) / 2
        x, y = (place - left) * scale[0], (height - bottom) * scale[1]
        wide, choices = _LETTER * len(text), list[tuple[int, int, bool, float]]()
        boxes = []
        for above, ahead in product(_HEIGHTS, (inward, not inward)):
            start = x + 6 if ahead else x - 6 - wide
            box = np.array([start, y + above, start + wide, y + above + _LINE])
            covered = (taken[:, :2] < box[2:]).all(axis=1) & (taken[:, 2:] > box[:2]).all(axis=1)
            outside = start < 0 or start + wide > _ACROSS or box[1] < 0 or box[3] > _UP
            choices.append((int(covered.sum()) + 2 * outside, len(choices), ahead, above))
            boxes.append(box)
        _, best, ahead, above = min(choices)
        taken = np.vstack([taken, boxes[best]])
        tags.key(_beside(axes, text, (place, height), ahead, above), name)


def _beside(axes: Axes, text: str, at: figures.Point, ahead: bool, above: float) -> Artist:
    """A text to the right of a point (or to its left), so many points above, joined to it where it is far."""
    look: dict[str, Any] = {"ha": "left" if ahead else "right", "fontsize": 8.5}
    if abs(above) > _LINE:
        corner = (0.0 if ahead else 1.0, 0.0 if above > 0 else 1.0)
        line = {"arrowstyle": "-", "linewidth": 0.7, "color": figures.INK, "shrinkA": 0, "shrinkB": 4}
        look["arrowprops"] = line | {"relpos": corner}
    return figures.text_near(axes, text, at, (6 if ahead else -6, above), **look)


def _meanings(axes: Axes, looks: Sequence[Look]) -> int:
    """One empty point per distinct look, for the legend; how many there are."""
    distinct = list(dict.fromkeys(looks))
    for look in distinct:
        axes.plot([], [], linestyle="none", label=short(look.meaning, 32), **look.style)
    return len(distinct)


def _side_by_side(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Positions of points: neighbours within a hundredth of the axis are spread over at most a tenth, lowest first."""
    places, span = x.copy(), float(max(x.max(initial=0.0), 1e-9))
    order = np.argsort(x, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(x[order]) > 0.01 * span) + 1):
        ranked, n = group[np.argsort(y[group], kind="stable")], len(group)
        wide = min(0.1, 0.015 * (n - 1)) * span
        if n > 1:
            places[ranked] = x[group].mean() + wide * np.linspace(-0.5, 0.5, n)
    return places


@dataclass(frozen=True)
class Cloud:
    """Points of one meaning.

    Attributes:
        x, y: one each per point; a point with a nan is left out.
        joined: a line from each to the next.
        called: what each point is of, such as its strength, for its value in words; empty for none.
        low, high: ends of the interval of each y, drawn as upright strokes; empty for none.
    """

    x: Sequence[float]
    y: Sequence[float]
    joined: bool = False
    called: Sequence[str] = ()
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    @property
    def heights(self) -> list[float]:
        """Every y, and the ends of their intervals."""
        return [*self.y, *self.low, *self.high]


def curve_and_clouds(
    curve: Cloud | None,
    clouds: Mapping[str, Cloud],
    named: Sequence[NamedPoint] = (),
    *,
    axes_names: tuple[str, str],
    curve_name: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """Clouds of points, each with a colour and a marker, and points with names, beside a curve.

    Args:
        curve: drawn as a line without points; None for none. Named points leave it to end at the edges.
        clouds: name -> points.
        named: discs, each in its own colour; the first ones are the first to have their names written.
        axes_names: what is measured along and up.
        curve_name: of the curve, for the legend; "" for no entry.
        title: what stands above the axes.
        label: the text alternative.
    """
    with figures.chart(3.6, title, label) as (figure, axes):
        if curve is not None:
            line_name = curve_name or "_nolegend_"
            axes.plot(curve.x, curve.y, color=figures.INK, linewidth=1.4, label=line_name)
        names = short_names(list(clouds), 24)
        # Discs are the named points', so that a cloud beside them begins with the next marker.
        for place, (name, (own, cloud)) in enumerate(
            zip(names, clouds.items(), strict=True), bool(len(named))
        ):
            line: dict[str, Any] = {"linestyle": "-" if cloud.joined else "none", "linewidth": 1.2}
            (drawn,) = axes.plot(cloud.x, cloud.y, markersize=4.5, label=name, **line, **figures.point(place))
            tags.named(drawn, [own], _both(own, cloud, axes_names))
            for at, low, high in zip(cloud.x, cloud.low, cloud.high, strict=bool(cloud.low)):
                (bar,) = axes.plot(
                    [at, at], [low, high], color=figures.colour(place), linewidth=1.1, alpha=0.6
                )
                tags.named(bar, [own])
        points = [Cloud([one.x for one in named], [one.y for one in named])] if len(named) else []
        every = [c for c in (None if points else curve, *clouds.values(), *points) if c is not None]
        ends = [figures.with_margin(*side) for side in ([c.x for c in every], [c.heights for c in every])]
        room = [figures.with_margin(one) for one in ends] if points else ends  # for names at the edges
        axes.set(xlim=room[0], ylim=room[1])
        taken = [place for cloud in clouds.values() for place in zip(cloud.x, cloud.y, strict=True)]
        if curve is not None and points:
            along = np.linspace(*room[0], 100)
            taken += zip(along.tolist(), np.interp(along, curve.x, curve.y).tolist(), strict=True)
        name_points(axes, named, taken, axes_names)
        figures.grid(axes)
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        figures.legend_below(figure, len(clouds) + bool(curve is not None and curve_name))
    return figure


def _both(name: str, cloud: Cloud, axes_names: tuple[str, str]) -> list[str]:
    """Both values of each point that is drawn, in words."""
    n, nan = len(cloud.x), float("nan")
    called, low, high = cloud.called or [""] * n, cloud.low or [nan] * n, cloud.high or [nan] * n
    told = []
    for x, y, of, *ends in zip(cloud.x, cloud.y, called, low, high, strict=True):
        if not (missing(x) or missing(y)):
            whose = f"{name}, {of}" if of else name
            told.append(f"{whose}: {axes_names[0]} {number(x)}; {axes_names[1]} {with_ends(y, *ends)}")
    return told


def small_map(
    x: Sequence[float],
    y: Sequence[float],
    shares: Sequence[float],
    colours: Sequence[str] | None = None,
    *,
    title: str = "",
    label: str = "",
) -> Figure:
    """Bubble map: items in a plane, each as large as its share, in its own colour; half as wide as a telephone.

    Args:
        x: one per thing.
        y: one per thing.
        shares: one per thing, in [0, 1]: the area of its disc; things with none are a dot.
        colours: one per thing; None for one colour.
        title: what stands above: the name that all of it is about.
        label: the text alternative.
    """
    with figures.chart(2.1, title, label, figures.SMALL) as (figure, axes):
        tags.whole(figure, title)
        across, up, size = (np.asarray(side, dtype=float) for side in (x, y, shares))
        sized, discs = size > 0, 1.0 + 60.0 * size[size > 0]
        fill: Any = np.asarray(colours, dtype=object)[sized].tolist() if colours is not None else figures.LINE
        axes.scatter(across[~sized], up[~sized], s=1.0, color=figures.INK, alpha=0.35)
        axes.scatter(across[sized], up[sized], s=discs, c=fill, edgecolors=figures.INK, linewidths=0.3)
        axes.set(xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
    return figure
