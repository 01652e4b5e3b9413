"""Charts that most pages share: stacked shares, bars, heat maps, lines with a band, rasters, calibration plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trimtab.report import figures, tags
from trimtab.report.formats import NOTHING, fixed, missing, number, short, short_names, with_ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_NARROW = 10
"""Rows of shares that a drawing of a telephone's width has room for."""


def stacked_area(
    steps: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    *,
    end: float,
    marked: float | None = None,
    title: str = "",
    label: str = "",
) -> Figure:
    """Stacked area of shares that hold from one step to the next and sum to one.

    More than `_NARROW` rows of shares are drawn as wide as a desk's page, where a telephone scrolls.

    Args:
        steps: where each row of shares starts, ascending.
        shares: name -> one share per step, in [0, 1]; nan is drawn as 0.
        end: where the last row ends.
        marked: a step to mark with a vertical line.
        title: what stands above the axes.
        label: the text alternative.
    """
    wide = len(steps) > _NARROW
    with figures.chart(2.9, title, label, figures.WIDE if wide else figures.WIDTH) as (figure, axes):
        x = np.array([*steps, max([end, *steps[-1:]])], dtype=float)
        names = short_names(list(shares))
        looks = [figures.filling(place) | {"label": name} for place, name in enumerate(names)]
        _stacked(axes, x, shares, looks)
        axes.set(xlim=(x[0], max(x[-1], x[0] + 1)), ylim=(0, 1), xlabel="training step", ylabel="share")
        figures.in_percent(axes.yaxis)
        figures.finish(axes, marked)
        figures.legend_below(figure, len(shares), ncols=min(len(shares), 5 if wide else 3))
    return figure


def heat_map(
    values: npt.ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    errors: npt.ArrayLike | None = None,
    notes: Sequence[str] = (),
    limit: float | None = None,
    title: str = "",
    label: str = "",
) -> Figure:
    """Heat map of a signed table: blue below zero, red above, the value and its standard error in every cell.

    A cell whose absolute value is below 1.28 standard errors is pale and in parentheses: its sign is uncertain. A cell
    that is nan is hatched and holds a dash.

    Args:
        values: (rows, columns), any unit.
        rows: names from top to bottom.
        columns: names from left to right.
        errors: (rows, columns) standard errors of the values, or None.
        notes: a second line for each column's name.
        limit: the absolute value of full colour; by default the largest one here.
        title: what stands above the axes.
        label: the text alternative.
    """
    value = np.asarray(values, dtype=float)
    error = np.full_like(value, np.nan) if errors is None else np.asarray(errors, dtype=float)
    finite = np.abs(value[np.isfinite(value)])
    full = limit or float(finite.max(initial=0.0)) or 1.0
    width = max(figures.WIDTH, 1.6 + 0.72 * len(columns))
    with figures.chart(1.0 + 0.42 * len(rows), "", label, width) as (figure, axes):
        inside = figures.unclipped(axes)
        for i, j in np.ndindex(value.shape):
            names = rows[i], columns[j]
            _cell(axes, (i, j), names, (float(value[i, j]), float(error[i, j])), full, inside)
        axes.set(xlim=(0, max(len(columns), 1)), ylim=(max(len(rows), 1), 0))
        axes.set_title(title, parse_math=False)
        tilt: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        tilt = tilt if len(columns) > 4 else {}
        heads = short_names(columns, 11)
        heads = [f"{head}\n{note}" for head, note in zip(heads, notes, strict=True)] if notes else heads
        axes.set_xticks(np.arange(len(columns)) + 0.5, heads, parse_math=False, **tilt)
        axes.set_yticks(np.arange(len(rows)) + 0.5, short_names(rows, 14), parse_math=False)
        figures.name_ticks(axes.xaxis, columns)
        figures.name_ticks(axes.yaxis, rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def share_map(
    shares: npt.ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    notes: Sequence[Sequence[str]] = (),
    title: str = "",
    label: str = "",
) -> Figure:
    """Heat map of shares, 0 pale to 1 dark, with the share and a note in every cell; nan is hatched and a dash.

    Args:
        shares: (rows, columns), in [0, 1].
        rows: names from top to bottom.
        columns: names from left to right.
        notes: what stands under the share of each cell, such as its interval.
        title: what stands above the axes.
        label: the text alternative.
    """
    table = np.atleast_2d(np.asarray(shares, dtype=float))
    width = max(figures.WIDTH, 1.9 + 0.95 * len(columns))
    with figures.chart(0.9 + 0.5 * len(rows), title, label, width) as (figure, axes):
        write: dict[str, Any] = figures.CENTRED | (inside := figures.unclipped(axes))
        for i, j in np.ndindex(table.shape):
            share = float(table[i, j])
            known = np.isfinite(share)
            fill = figures.share_colour(share) if known else "none"
            look: dict[str, Any] = {"facecolor": fill, "hatch": None if known else "////"}
            edge = figures.PAPER if known else figures.GRID
            note = notes[i][j] if len(notes) else ""
            told = f"{rows[i]}, {columns[j]}: {fixed(share)}{f' ({note})' if note else ''}"
            names = (rows[i], columns[j])
            look |= {"linewidth": 1.5, "in_layout": False, "edgecolor": edge} | inside
            figures.tile(axes, i, j, names, told, **look)
            ink = ("#ffffff" if share > 0.55 else "#111820") if known else figures.INK
            height = i + (0.36 if note else 0.5)
            axes.text(j + 0.5, height, fixed(share), color=ink, **write, fontsize=9.5)
            axes.text(j + 0.5, i + 0.73, note, color=ink, **write, fontsize=7)
        axes.set(xlim=(0, max(len(columns), 1)), ylim=(max(len(rows), 1), 0))
        axes.set_xticks(np.arange(len(columns)) + 0.5, short_names(columns, 13), parse_math=False)
        axes.set_yticks(np.arange(len(rows)) + 0.5, short_names(rows, 16), parse_math=False)
        figures.name_ticks(axes.xaxis, columns)
        figures.name_ticks(axes.yaxis, rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def line_band(
    x: Sequence[float],
    y: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
    *,
    reference: float = float("nan"),
    limit: float = float("nan"),
    spans: Sequence[tuple[float, float]] = (),
    marked: float | None = None,
    axis: str = "",
    across: str = "training step",
    about: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """A line with its interval, beside a reference (dotted) and a limit (dashed).

    Args:
        x: steps or strengths, ascending.
        y: one value each; nan leaves a gap.
        low: lower end of the interval of each value.
        high: upper end.
        reference: horizontal dotted line; nan for none.
        limit: horizontal dashed line; nan for none.
        spans: intervals of x to shade.
        marked: a step to mark with a vertical line.
        axis: what the vertical axis measures.
        across: what the horizontal axis measures.
        about: the one name, such as a domain, that all of it is about.
        title: what stands above the axes.
        label: the text alternative.
    """
    with figures.chart(2.3, title, label) as (figure, axes):
        for start, stop in spans:
            axes.axvspan(start, stop, color=figures.PALETTE[2], alpha=0.16, linewidth=0)
        axes.fill_between(x, low, high, color=figures.LINE, alpha=0.25, linewidth=0)
        (line,) = axes.plot(x, y, color=figures.LINE, marker="o", markersize=3.2, linewidth=1.6)
        points = [point for point in zip(x, y, low, high, strict=True) if not missing(point[1])]
        tags.named(line, [], [f"{across} {number(at)}: {with_ends(*value)}" for at, *value in points])
        tags.whole(figure, about)
        for height, dashes in ((reference, ":"), (limit, "--")):
            if not missing(height):
                axes.axhline(height, color=figures.INK, linestyle=dashes, linewidth=1.1)
        axes.set(xlabel=across, ylabel=axis)
        axes.set_ylim(*figures.with_margin(np.array([*y, *low, *high, reference, limit], dtype=float)))
        figures.finish(axes, marked, whole=across == "training step")
    return figure


def raster(
    values: npt.ArrayLike,
    rows: Sequence[str],
    *,
    of: Sequence[str] = (),
    axis: str = "",
    across: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """Raster of shares, 0 pale to 1 dark, one line per row; nan is left blank.

    Args:
        values: (rows, columns), in [0, 1].
        rows: names from top to bottom.
        of: whose each row is, where its name is shortened; by default the names.
        axis: what a shade measures.
        across: what the columns are.
        title: what stands above the axes.
        label: the text alternative.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    with figures.chart(1.1 + 0.26 * max(len(rows), 1), title, label) as (figure, axes):
        names, wide = of or rows, table.shape[1]
        shades = figures.shaded(
            axes,
            table,
            lambda i, j: f"{names[i]}, {j + 1} of {wide}: {number(float(table[i, j]))}",
            lambda i: f"{names[i]}: {_range(table[i])}",
            most=1.0,
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, short_names(rows, 26), parse_math=False, fontsize=8.5)
        figures.name_ticks(axes.yaxis, names)
        axes.set(xlabel=across, ylim=(max(len(rows), 1), 0))
        axes.tick_params(length=0)
        figure.colorbar(shades, ax=axes, aspect=12, label=axis)
    return figure


def _range(values: npt.NDArray[np.float64]) -> str:
    """Mean of what is known, with the least and the largest of it."""
    known = values[np.isfinite(values)]
    if not known.size:
        return NOTHING
    return f"mean {number(float(known.mean()))}, {number(float(known.min()))} to {number(float(known.max()))}"


def scatter_identity(
    expected: Sequence[float],
    observed: Sequence[float],
    groups: Sequence[str],
    *,
    errors: Sequence[float] | None = None,
    title: str = "",
    label: str = "",
) -> Figure:
    """Calibration plot: expected against observed, one colour and marker per group, with the line of identity.

    Args:
        expected: one value per point; a point with a nan on either side is left out.
        observed: one value per point, in the same unit.
        groups: one name per point.
        errors: standard errors of the expected values, drawn as horizontal bars; nan for none.
        title: what stands above the axes.
        label: the text alternative.
    """
    x, y = np.asarray(expected, dtype=float), np.asarray(observed, dtype=float)
    bars = np.zeros_like(x) if errors is None else np.nan_to_num(np.asarray(errors, dtype=float))
    finite = np.isfinite(x) & np.isfinite(y)
    names = list(dict.fromkeys(groups))
    with figures.chart(4.2, title, label) as (figure, axes):
        for place, (name, short) in enumerate(zip(names, short_names(names), strict=True)):
            members = finite & (np.asarray(groups, dtype=object) == name)
            look = figures.point(place) | {"linestyle": "none", "markersize": 5, "elinewidth": 0.8}
            drawn = axes.errorbar(x[members], y[members], xerr=bars[members], label=short, **look)
            for part in drawn.get_children():
                tags.named(part, [name])
            pairs = zip(x[members].tolist(), y[members].tolist(), strict=True)
            told = [f"{name}: predicted {number(a)}, realised {number(b)}" for a, b in pairs]
            tags.named(drawn.lines[0], [name], told)
        ends = figures.with_margin(np.concatenate([x[finite], y[finite], [0.0]]))
        axes.plot(ends, ends, color=figures.INK, linestyle=":", linewidth=1.1)
        axes.axhline(0, color=figures.GRID, linewidth=0.8, zorder=0)
        axes.axvline(0, color=figures.GRID, linewidth=0.8, zorder=0)
        axes.set(xlim=ends, ylim=ends, aspect="equal")
        axes.set(xlabel="predicted change, nats", ylabel="realised change, nats")
        figures.ticks(axes.xaxis, 5)
        figures.ticks(axes.yaxis, 6)
        figures.legend_below(figure, len(names))
    return figure


def _cell(
    axes: Axes,
    at: tuple[int, int],
    names: tuple[str, str],
    estimate: tuple[float, float],
    full: float,
    inside: dict[str, Any],
) -> None:
    """One coloured rectangle with its number and standard error."""
    (i, j), (value, error) = at, estimate
    has_value = np.isfinite(value)
    unsure = has_value and abs(value) < _UNSURE * error
    strength = float(np.clip(value / full, -1, 1)) * (0.35 if unsure else 1.0) if has_value else 0.0
    fill, edge = (figures.signed_colour(strength), figures.PAPER) if has_value else ("none", figures.GRID)
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": edge, "hatch": None if has_value else "////"}
    told = f"{names[0]}, {names[1]}: {number(value, signed=True)}"
    told += f" ± {number(error)}" if np.isfinite(error) else ""
    figures.tile(axes, i, j, names, told, linewidth=1.5, in_layout=False, **inside, **look)
    write: dict[str, Any] = figures.CENTRED | inside
    text = fixed(value, 1, signed=True) if has_value else NOTHING
    ink = ("#ffffff" if abs(strength) > 0.62 else "#111820") if has_value else figures.INK
    with_error = has_value and np.isfinite(error)
    label = f"({text})" if unsure else text
    axes.text(j + 0.5, i + (0.36 if with_error else 0.5), label, color=ink, **write, fontsize=9.5)
    if with_error:
        axes.text(j + 0.5, i + 0.73, f"±{fixed(error, 1)}", color=ink, **write, fontsize=7)


_PALE = 0.42
_UNSURE = 1.28  # standard errors


@dataclass(frozen=True)
class Band:
    """One band of a stacked area or bar.

    Attributes:
        name: what it is called in the key.
        shares: one per step or row, in [0, 1]; nan is drawn as 0.
        number: which colour of the palette; the same one means the same part in every panel.
        solid: full colour; pale otherwise.
        note: what the key says of it beside its name.
    """

    name: str
    shares: Sequence[float]
    number: int
    solid: bool = True
    note: str = ""


def key(bands: Sequence[Band], label: str = "") -> Figure:
    """Only the names and colours of bands, to stand once above many small areas."""
    with figures.chart(0.12 + 0.24 * -(-len(bands) // 2), "", label) as (figure, axes):
        axes.set_axis_off()
        written = [f"{band.name} ({band.note})" if band.note else band.name for band in bands]
        for band, name in zip(bands, short_names(written, 24), strict=True):
            area = axes.fill_between([], [], [], label=name, linewidth=0, **_filled(band))
            tags.named(area, [band.name])
        if bands:
            legend = figure.legend(loc="center left", ncols=2, handlelength=1.2, borderpad=0)
            figures.name_legend(figure, legend)
    return figure


def small_area(
    steps: Sequence[float],
    bands: Sequence[Band],
    *,
    end: float,
    limit: float,
    marked: float | None = None,
    title: str = "",
    label: str = "",
) -> Figure:
    """Small stacked area of shares, half as wide as a telephone; a line tops the solid bands.

    Args:
        steps: where each row of shares starts, ascending.
        bands: from the bottom up, the solid ones first.
        end: where the last row ends.
        limit: where the axis ends, the same for panels that are compared.
        marked: a step to mark with a vertical line.
        title: what stands above the axes.
        label: the text alternative.
    """
    with figures.chart(1.65, "", label, figures.SMALL) as (figure, axes):
        figure.set_layout_engine("none")  # the same axes in every panel, whatever its name
        axes.set_position((0.2, 0.13, 0.75, 0.63))
        name = "\n".join(wrap(short(title, 44), 24))
        axes.set_title(name, x=-0.24, pad=9, fontsize=9, fontweight="normal", parse_math=False)
        x = np.array([*steps, end], dtype=float)
        tops = _stacked(axes, x, {band.name: band.shares for band in bands}, list(map(_filled, bands)))
        tags.whole(figure, title)
        if solid := [top for top, band in zip(tops, bands, strict=True) if band.solid]:
            axes.step(x, solid[-1], where="post", color=figures.INK, linewidth=1.2)
        figures.finish(axes, marked)
        axes.set(xlim=(0, max(limit, 1)), ylim=(0, 1), **_halves("y"))
        axes.set(xticks=[0, max(limit, 1)], xticklabels=["0", fixed(limit, 0)])
        axes.tick_params(labelsize=8.5)
    return figure


def share_bars(
    names: Sequence[str],
    bands: Sequence[Band],
    *,
    notes: Sequence[str] = (),
    title: str = "",
    label: str = "",
) -> Figure:
    """One stacked bar per row, for shares that never change.

    Args:
        names: of the rows, from top to bottom.
        bands: from the left, one share per row.
        notes: what stands at the right end of each row.
        title: what stands above the axes.
        label: the text alternative.
    """
    with figures.chart(0.55 + figures.ROW * len(names), title, label) as (figure, axes):
        rows, base = np.arange(len(names)), np.zeros(len(names))
        for band in bands:
            wide = np.nan_to_num(np.asarray(band.shares, dtype=float))
            bars = axes.barh(rows, wide, left=base, height=0.72, linewidth=0, **_filled(band))
            for bar, name, share in zip(bars, names, band.shares, strict=True):
                tags.named(bar, [name, band.name], [f"{name}, {band.name}: {number(share)}"])
            base = base + wide
        figures.name_rows(axes, names)
        axes.set(xlim=(0, 1), **_halves("x"))
        for row, note in enumerate(notes):
            figures.text_near(axes, short(note, 12), (1, row), (4, 0), va="center", fontsize=8.5)
    return figure


def _stacked(
    axes: Axes,
    x: npt.NDArray[np.float64],
    shares: Mapping[str, Sequence[float]],
    looks: Sequence[dict[str, Any]],
) -> list[npt.NDArray[np.float64]]:
    """Draw shares that hold from each x to the next, one on another; the height at which each ends."""
    tops = [np.zeros(len(x))]
    for (name, values), look in zip(shares.items(), looks, strict=True):
        heights = np.nan_to_num(np.asarray(values, dtype=float))
        tops.append(tops[-1] + np.append(heights, heights[-1:] if len(heights) else 0.0))
        area = axes.fill_between(x, tops[-2], tops[-1], step="post", linewidth=0, **look)
        ends = (
            " to ".join(dict.fromkeys(number(share) for share in (values[0], values[-1])))
            if len(values)
            else ""
        )
        tags.named(area, [name], [f"{name}: {ends}"])
    return tops[1:]


def _halves(axis: str) -> dict[str, Any]:
    """Ticks at none, a half and all of an axis of shares."""
    return {f"{axis}ticks": [0, 0.5, 1], f"{axis}ticklabels": ["0", "50", "100 %"]}


def _filled(band: Band) -> dict[str, Any]:
    return figures.filling(band.number) | {"alpha": 1.0 if band.solid else _PALE}
