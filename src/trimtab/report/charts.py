"""The shapes that most pages share: stacked shares, signed tables, lines with a band, rasters, points by a line.

Shapes for shares that are compared: small stacked areas, bars, and the key to their colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trimtab.report.figures import (
    CENTRED,
    GRID,
    INK,
    LINE,
    MARKERS,
    PALETTE,
    PAPER,
    ROW,
    WIDTH,
    colour,
    filling,
    finish,
    house_style,
    in_percent,
    legend_below,
    name_rows,
    one_axes,
    signed_colour,
    ticks,
    tile,
    with_margin,
)
from trimtab.report.formats import NOTHING, fixed, missing, short, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


Numbers = npt.ArrayLike


def stacked_area(
    steps: Sequence[float],
    shares: Mapping[str, Sequence[float]],
    *,
    end: float,
    marked: float | None = None,
    title: str = "",
    label: str = "",
) -> Figure:
    """Shares that hold from one step to the next, stacked to one.

    Args:
        steps: where each row of shares starts, ascending.
        shares: name -> one share per step, in [0, 1]; nan is drawn as 0.
        end: where the last row ends.
        marked: a step to mark with a vertical line.
        title: what stands above the axes.
        label: the text alternative.
    """
    with house_style():
        figure, axes = one_axes(2.9, title, label)
        x = np.append(np.asarray(steps, dtype=float), max(end, steps[-1]) if len(steps) else end)
        base = np.zeros(len(x))
        for number, (name, values) in enumerate(zip(short_names(list(shares)), shares.values(), strict=True)):
            y = np.nan_to_num(np.asarray(values, dtype=float))
            top = base + (np.append(y, y[-1]) if len(y) else 0.0)
            axes.fill_between(x, base, top, step="post", label=name, linewidth=0, **filling(number))
            base = top
        axes.set(xlim=(x[0], max(x[-1], x[0] + 1)), ylim=(0, 1), xlabel="training step", ylabel="share")
        in_percent(axes.yaxis)
        finish(axes, marked)
        legend_below(figure, len(shares))
    return figure


def heat_map(
    values: Numbers,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    errors: Numbers | None = None,
    notes: Sequence[str] = (),
    threshold: float = 1.28,
    limit: float | None = None,
    places: int = 1,
    title: str = "",
    label: str = "",
) -> Figure:
    """A signed table: blue below zero, red above, the value and its standard error written in every cell.

    A cell whose absolute value is below `threshold` standard errors is pale and in parentheses: its sign is not
    known. A cell that is nan is hatched and holds a dash.

    Args:
        values: (rows, columns), any unit.
        rows: names from top to bottom.
        columns: names from left to right.
        errors: (rows, columns) standard errors of the values, or None.
        notes: a second line for each column's name.
        threshold: in standard errors.
        limit: the absolute value of full colour; by default the largest one here.
        places: decimals written.
        title: what stands above the axes.
        label: the text alternative.
    """
    value = np.asarray(values, dtype=float)
    error = np.full_like(value, np.nan) if errors is None else np.asarray(errors, dtype=float)
    finite = np.abs(value[np.isfinite(value)])
    full = limit or (float(finite.max()) if finite.size else 1.0) or 1.0
    with house_style():
        width = max(WIDTH, 1.6 + 0.72 * len(columns))
        figure, axes = one_axes(1.0 + 0.42 * len(rows), "", label, width)
        for i, j in np.ndindex(value.shape):
            _cell(axes, i, j, float(value[i, j]), float(error[i, j]), threshold, full, places)
        axes.set(xlim=(0, max(len(columns), 1)), ylim=(max(len(rows), 1), 0))
        axes.set_title(title, parse_math=False)
        tilt: dict[str, Any] = (
            {} if len(columns) <= 4 else {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
        )
        heads = short_names(columns, 11)
        heads = [f"{head}\n{note}" for head, note in zip(heads, notes, strict=True)] if notes else heads
        axes.set_xticks(np.arange(len(columns)) + 0.5, heads, parse_math=False, **tilt)
        axes.set_yticks(np.arange(len(rows)) + 0.5, short_names(rows, 14), parse_math=False)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
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
        title: what stands above the axes.
        label: the text alternative.
    """
    with house_style():
        figure, axes = one_axes(2.3, title, label)
        for start, stop in spans:
            axes.axvspan(start, stop, color=PALETTE[2], alpha=0.16, linewidth=0)
        axes.fill_between(x, low, high, color=LINE, alpha=0.25, linewidth=0)
        axes.plot(x, y, color=LINE, marker="o", markersize=3.2, linewidth=1.6)
        for height, dashes in ((reference, ":"), (limit, "--")):
            if not missing(height):
                axes.axhline(height, color=INK, linestyle=dashes, linewidth=1.1)
        axes.set(xlabel=across, ylabel=axis)
        axes.set_ylim(*with_margin(np.array([*y, *low, *high, reference, limit], dtype=float)))
        finish(axes, marked, whole=across == "training step")
    return figure


def raster(
    values: Numbers,
    rows: Sequence[str],
    *,
    axis: str = "",
    across: str = "",
    title: str = "",
    label: str = "",
) -> Figure:
    """A table of shares as shades, 0 pale to 1 dark, one line per row; nan is left blank.

    Args:
        values: (rows, columns), in [0, 1].
        rows: names from top to bottom.
        axis: what a shade measures.
        across: what the columns are.
        title: what stands above the axes.
        label: the text alternative.
    """
    table = np.atleast_2d(np.asarray(values, dtype=float))
    with house_style():
        figure, axes = one_axes(1.1 + 0.26 * max(len(rows), 1), title, label)
        shades = axes.pcolormesh(
            np.ma.masked_invalid(table), vmin=0.0, vmax=1.0, cmap="Purples", rasterized=False
        )
        axes.set_yticks(np.arange(len(rows)) + 0.5, short_names(rows, 26), parse_math=False, fontsize=8.5)
        axes.set(xlabel=across, ylim=(max(len(rows), 1), 0))
        axes.tick_params(length=0)
        bar = figure.colorbar(shades, ax=axes, aspect=12)
        bar.set_label(axis)
    return figure


def scatter_identity(
    expected: Sequence[float],
    observed: Sequence[float],
    groups: Sequence[str],
    *,
    errors: Sequence[float] | None = None,
    title: str = "",
    label: str = "",
) -> Figure:
    """What was expected against what was observed, one colour and marker per group, with the line of identity.

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
    known = np.isfinite(x) & np.isfinite(y)
    names = list(dict.fromkeys(groups))
    with house_style():
        figure, axes = one_axes(4.2, title, label)
        for number, (name, short) in enumerate(zip(names, short_names(names), strict=True)):
            own = known & (np.asarray(groups, dtype=object) == name)
            look: dict[str, Any] = {"color": colour(number), "marker": MARKERS[number % len(MARKERS)]}
            axes.errorbar(
                x[own],
                y[own],
                xerr=bars[own],
                linestyle="none",
                markersize=5,
                elinewidth=0.8,
                label=short,
                **look,
            )
        ends = with_margin(np.concatenate([x[known], y[known], [0.0]]))
        axes.plot(ends, ends, color=INK, linestyle=":", linewidth=1.1)
        axes.axhline(0, color=GRID, linewidth=0.8, zorder=0)
        axes.axvline(0, color=GRID, linewidth=0.8, zorder=0)
        axes.set(
            xlim=ends,
            ylim=ends,
            xlabel="predicted change, nats",
            ylabel="realised change, nats",
            aspect="equal",
        )
        ticks(axes.xaxis, 5)
        ticks(axes.yaxis, 6)
        legend_below(figure, len(names))
    return figure


def _cell(
    axes: Axes, i: int, j: int, value: float, error: float, threshold: float, full: float, places: int
) -> None:
    """One coloured rectangle with its number and standard error."""
    known = np.isfinite(value)
    unsure = known and abs(value) < threshold * error
    strength = float(np.clip(value / full, -1, 1)) * (0.35 if unsure else 1.0) if known else 0.0
    fill = signed_colour(strength) if known else "none"
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": PAPER if known else GRID, "linewidth": 1.5}
    look["in_layout"] = False
    tile(axes, i, j, hatch=None if known else "////", **look)
    text = fixed(value, places, signed=True) if known else NOTHING
    dark = abs(strength) > 0.62
    ink = ("#ffffff" if dark else "#111820") if known else INK
    middle = j + 0.5
    with_error = known and np.isfinite(error)
    shown = f"({text})" if unsure else text
    axes.text(middle, i + (0.36 if with_error else 0.5), shown, color=ink, **CENTRED, fontsize=9.5)
    if with_error:
        axes.text(middle, i + 0.73, f"±{fixed(error, places)}", color=ink, **CENTRED, fontsize=7)


_SMALL = 2.4  # inches: two to a telephone's width
_PALE = 0.42


@dataclass(frozen=True)
class Band:
    """One part of several stacked shares.

    Attributes:
        name: what it is called in the key.
        shares: one per step or row, in [0, 1]; nan is drawn as 0.
        number: which colour of the palette; the same one means the same part in every panel.
        solid: full colour; pale otherwise.
    """

    name: str
    shares: Sequence[float]
    number: int
    solid: bool = True


def key(bands: Sequence[Band], label: str = "") -> Figure:
    """Only the names and colours of bands, to stand once above many small areas."""
    with house_style():
        figure, axes = one_axes(0.12 + 0.24 * -(-len(bands) // 2), "", label)
        axes.set_axis_off()
        for band, name in zip(bands, short_names([band.name for band in bands], 24), strict=True):
            axes.fill_between([], [], [], label=name, linewidth=0, **_filled(band))
        handles, names = axes.get_legend_handles_labels()
        legend = figure.legend(handles, names, loc="center left", ncols=2, handlelength=1.2, borderpad=0)
        for text in legend.get_texts():
            text.set_parse_math(False)
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
    """Shares that hold from one step to the next, stacked, half as wide as a telephone; a line tops the solid bands.

    Args:
        steps: where each row of shares starts, ascending.
        bands: from the bottom up, the solid ones first.
        end: where the last row ends.
        limit: where the axis ends, the same for panels that are compared.
        marked: a step to mark with a vertical line.
        title: what stands above the axes.
        label: the text alternative.
    """
    with house_style():
        figure, axes = one_axes(1.65, "", label, _SMALL)
        figure.set_layout_engine("none")  # the same axes in every panel, whatever its name
        axes.set_position((0.2, 0.13, 0.75, 0.63))
        name = "\n".join(wrap(short(title, 44), 24))
        axes.set_title(name, x=-0.24, pad=9, fontsize=9, fontweight="normal", parse_math=False)
        x = np.append(np.asarray(steps, dtype=float), end)
        base = solid = np.zeros(len(x))
        for band in bands:
            y = np.nan_to_num(np.asarray(band.shares, dtype=float))
            top = base + np.append(y, y[-1:] if len(y) else 0.0)
            axes.fill_between(x, base, top, step="post", linewidth=0, **_filled(band))
            base, solid = top, top if band.solid else solid
        if any(band.solid for band in bands):
            axes.step(x, solid, where="post", color=INK, linewidth=1.2)
        finish(axes, marked)
        axes.set(xlim=(0, max(limit, 1)), ylim=(0, 1), yticks=[0, 0.5, 1], xticks=[0, max(limit, 1)])
        axes.set_yticklabels(["0", "50", "100 %"])
        axes.set_xticklabels(["0", fixed(limit, 0)])
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
    with house_style():
        figure, axes = one_axes(0.55 + ROW * len(names), title, label)
        rows, base = np.arange(len(names)), np.zeros(len(names))
        for band in bands:
            wide = np.nan_to_num(np.asarray(band.shares, dtype=float))
            axes.barh(rows, wide, left=base, height=0.72, linewidth=0, **_filled(band))
            base = base + wide
        name_rows(axes, names)
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
        axes.set_xticklabels(["0", "50", "100 %"])
        for row, note in enumerate(notes):
            text = axes.annotate(
                short(note, 12), (1, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5
            )
            text.set_parse_math(False)
    return figure


def _filled(band: Band) -> dict[str, Any]:
    return filling(band.number) | {"alpha": 1.0 if band.solid else _PALE}
