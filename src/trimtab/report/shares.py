"""Shapes for shares that are compared: small stacked areas, bars, and the key to their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.report.figures import INK, ROW, filling, finish, house_style, name_rows, one_axes
from trimtab.report.names import short, short_names
from trimtab.report.numbers import fixed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
