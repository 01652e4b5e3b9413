"""The generic shapes of a result page, drawn with matplotlib and written as inline SVG.

This is the only file of the package that imports matplotlib. Figures are built on the object-oriented API (no
pyplot, no global state) about 360 units wide, so that their text stays readable on a telephone; a page puts
several side by side on a wide screen. Ink, grid and paper are CSS variables of the page, so one figure serves
light and dark. A figure's label (`figure.get_label()`) is its text alternative.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trimtab.report.names import short_names
from trimtab.report.numbers import NOTHING, fixed, missing
from trimtab.report.svg import inline

PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c", "#f0e442")
"""Okabe and Ito's colours, which people with the common colour-vision deficiencies can tell apart."""
MARKERS = "os^DvPX*"
HATCHES = ("", "///", "---", "xxx", "\\\\\\", "+++")

INK, GRID, PAPER, LINE = (
    "#010204",
    "#d0d1d4",
    "#fdfcfe",
    "#0172b3",
)  # stand-ins, replaced by the page's own colours
_VARIABLES = {
    INK: "var(--ink, #1d2530)",
    GRID: "var(--grid, #cfd6de)",
    PAPER: "var(--paper, #ffffff)",
    LINE: "var(--line, #0072b2)",
}
WIDTH = 5.0  # inches of 72 units: 360 units, the width of a telephone
ROW = 0.21  # inches for each of many rows with a name
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trimtab",
    "text.parse_math": False,
    "text.usetex": False,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "hatch.linewidth": 0.6,
}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False, "in_layout": False}

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
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
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
        figure = Figure(figsize=(width, 1.0 + 0.42 * len(rows)), layout="constrained", label=label)
        axes = figure.add_subplot()
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
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(6))
        legend_below(figure, len(names))
    return figure


def to_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element to put inside HTML, or to save as a file.

    The same figure gives the same text every time: no date, a fixed salt. Every id starts with a hash of the
    drawing, so figures that differ never share one. Width and height are left to the page (the `viewBox` is kept);
    a figure wider than a telephone keeps its natural width (`data-width`) for a box that scrolls. The figure's
    label becomes its `<title>` and `aria-label`.
    """
    buffer = io.StringIO()
    with house_style():
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = inline(buffer.getvalue(), str(figure.get_label()), telephone=WIDTH * 72)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, without a warning for letters that the measuring font lacks."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield


def one_axes(height: float, title: str, label: str, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, in inches of 72 units; to be called inside `house_style`."""
    figure = Figure(figsize=(width, height), layout="constrained", label=label)
    axes = figure.add_subplot()
    axes.set_title(short_names([title], 44)[0], parse_math=False)
    return figure, axes


def finish(axes: Axes, marked: float | None, *, whole: bool = True) -> None:
    """Grid lines across, whole numbers along unless told otherwise, and a vertical line at one of them."""
    axes.grid(axis="y", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
    if marked is not None:
        axes.axvline(marked, color=INK, linewidth=1.0, alpha=0.75)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names of rows, numbered from 0 at the top, at the left of the axes."""
    axes.set_yticks(np.arange(len(names)), short_names(names, 22), parse_math=False, fontsize=8.5)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def legend_below(figure: Figure, entries: int) -> None:
    """A legend under the axes, three names to a line."""
    if entries:
        legend = figure.legend(
            loc="outside lower left", ncols=min(entries, 3), handlelength=1.2, columnspacing=1.2
        )
        for text in legend.get_texts():
            text.set_parse_math(False)


def colour(number: int) -> str:
    """The colour of the n-th of several."""
    return PALETTE[number % len(PALETTE)]


def filling(number: int) -> dict[str, Any]:
    """Colour, and from the ninth domain on a hatch too, so that no two look the same."""
    hatch = HATCHES[(number // len(PALETTE)) % len(HATCHES)]
    return {"facecolor": colour(number), "hatch": hatch or None, "edgecolor": PAPER if hatch else "none"}


def _cell(
    axes: Axes, i: int, j: int, value: float, error: float, threshold: float, full: float, places: int
) -> None:
    """One coloured rectangle with its number and standard error."""
    known = np.isfinite(value)
    unsure = known and abs(value) < threshold * error
    strength = float(np.clip(value / full, -1, 1)) * (0.35 if unsure else 1.0) if known else 0.0
    fill = to_hex(matplotlib.colormaps["RdBu_r"](0.5 + 0.42 * strength)) if known else "none"
    look: dict[str, Any] = {"facecolor": fill, "edgecolor": PAPER if known else GRID, "linewidth": 1.5}
    look["in_layout"] = False
    axes.add_patch(Rectangle((j, i), 1, 1, hatch=None if known else "////", **look))
    text = fixed(value, places, signed=True) if known else NOTHING
    dark = abs(strength) > 0.62
    ink = ("#ffffff" if dark else "#111820") if known else INK
    middle = j + 0.5
    with_error = known and np.isfinite(error)
    shown = f"({text})" if unsure else text
    axes.text(middle, i + (0.36 if with_error else 0.5), shown, color=ink, **CENTRED, fontsize=9.5)
    if with_error:
        axes.text(middle, i + 0.73, f"±{fixed(error, places)}", color=ink, **CENTRED, fontsize=7)


def with_margin(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The range of the finite values with a little room at both ends; (0, 1) without one."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin
