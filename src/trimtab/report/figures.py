"""Figures in the house style, and their conversion to inline SVG.

This is the only file of the package that imports matplotlib. Figures are built on the object-oriented API (no pyplot,
no global state) about 360 units wide, so that their text stays readable on a telephone; a page puts several side by
side on a wide screen. Ink, grid and paper are CSS variables of the page, so one figure serves light and dark. A
figure's label (`figure.get_label()`) is its text alternative.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal
from xml.etree import ElementTree

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.collections import QuadMesh
from matplotlib.colors import Colormap, to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from matplotlib.transforms import TransformedPatchPath

from trimtab.report import tags
from trimtab.report.formats import printable, short_names
from trimtab.report.slim import slim

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"


LARGEST = 4 / 3
"""By how much a page enlarges a drawing at most: what that of a telephone's width comes to at a desk."""


def inline(drawing: str, label: str, telephone: float) -> str:
    """The drawing as an `<svg>` element for the inside of a page.

    Metadata, comments and rules that would reach the whole page are dropped; ids that something points at start
    with a hash of the drawing, all others go. The size is left to the page, but a drawing wider than a telephone
    keeps its natural width (`data-width`), for a box that scrolls.

    Args:
        drawing: a whole SVG document from a source that is trusted.
        label: the text alternative.
        telephone: the widest drawing, in its own units, that is scaled down to fit.
    """
    root = ElementTree.fromstring(drawing)
    _strip(root)
    tags.write_tags(root)
    slim(root)
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib.update({"xmlns": _SVG[1:-1], "role": "img"})
    root.attrib["style"] += "; stroke-linejoin: round"
    if width > 1.05 * telephone:
        root.set("data-width", f"{width:.0f}")
        root.attrib["style"] += f"; min-width: {width:.0f}px; max-width: {LARGEST * width:.0f}px"
    if label := printable(label):
        root.set("aria-label", label)
        title = ElementTree.Element("title")
        title.text = label
        root.insert(0, title)
    _rename_ids(root)
    return ElementTree.tostring(root, encoding="unicode")


def _strip(root: ElementTree.Element) -> None:
    """Drop what is of no use inside a page: metadata, styles, the size and the names of namespaces."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        if _XLINK in element.attrib:
            element.set("href", element.attrib.pop(_XLINK))
    for name in ("version", "width", "height"):
        root.attrib.pop(name, None)


def _rename_ids(root: ElementTree.Element) -> None:
    """Keep only ids that something points at, and start them with a hash of the whole drawing."""
    text = ElementTree.tostring(root, encoding="unicode")
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:10] + "-"
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    for element in root.iter():
        if element.attrib.get("id") in used:
            element.set("id", prefix + element.attrib["id"])
        else:
            element.attrib.pop("id", None)
        for key, value in element.attrib.items():
            if key == "href" and value.startswith("#"):
                element.set(key, "#" + prefix + value[1:])
            elif key not in ("aria-label", "data-of"):
                element.set(key, value.replace("url(#", "url(#" + prefix))


PALETTE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8c8c8c", "#f0e442")
"""Okabe and Ito's colours, which people with the common colour-vision deficiencies can tell apart."""
MARKERS = "os^DvPX*"
HATCHES = ("", "///", "---", "xxx", "\\\\\\", "+++")

# Stand-ins, replaced by the page's own colours.
INK, GRID, PAPER, LINE = "#010204", "#d0d1d4", "#fdfcfe", "#0172b3"
_VARIABLES = {
    INK: "var(--ink, #1d2530)",
    GRID: "var(--grid, #cfd6de)",
    PAPER: "var(--paper, #ffffff)",
    LINE: "var(--line, #0072b2)",
}
Point = tuple[float, float]
WIDTH = 5.0  # inches of 72 units: 360 units, the width of a telephone
WIDE = 7.5  # inches: most of the width of a desk's page; a telephone scrolls it
SMALL = 2.4  # inches: two to a telephone's width
ROW = 0.21  # inches for each of many rows with a name
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "trimtab",
    **dict.fromkeys(("text.parse_math", "text.usetex", "axes.formatter.use_mathtext"), False),
    "axes.unicode_minus": True,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.titlecolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "hatch.linewidth": 0.6,
}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False, "in_layout": False}


def to_svg(figure: Figure) -> str:
    """The figure as one `<svg>` element to put inside HTML, or to save as a file.

    The same figure gives the same text every time: no date, a fixed salt. Every id starts with a hash of the
    drawing, so figures that differ never share one. Width and height are left to the page (the `viewBox` is kept);
    a figure wider than a telephone keeps its natural width (`data-width`) for a box that scrolls. The figure's
    label becomes its `<title>` and `aria-label`.
    """
    buffer, engine = io.StringIO(), figure.get_layout_engine()
    with house_style():
        # Left to itself, saving draws everything and throws it away to find the layout.
        if engine is not None:
            FigureCanvasSVG(figure)
            engine.execute(figure)
            figure.set_layout_engine(None)
        try:
            without = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(buffer, format="svg", metadata=without)
        finally:
            if engine is not None:
                figure.set_layout_engine(engine)
    text = inline(buffer.getvalue(), str(figure.get_label()), telephone=WIDTH * 72)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style, without a warning for letters that the measuring font lacks."""
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        noise = "Glyph .* missing from|Matplotlib currently does not support|constrained_layout not applied"
        warnings.filterwarnings("ignore", message=noise)
        yield


def one_axes(height: float, title: str, label: str, width: float = WIDTH) -> tuple[Figure, Axes]:
    """A figure of one pair of axes, in inches of 72 units; to be called inside `house_style`."""
    figure = Figure(figsize=(width, height), layout="constrained", label=label)
    axes = figure.add_subplot()
    axes.set_title(short_names([title], 44)[0], parse_math=False)
    return figure, axes


@contextmanager
def chart(height: float, title: str, label: str, width: float = WIDTH) -> Iterator[tuple[Figure, Axes]]:
    """`one_axes` inside `house_style`."""
    with house_style():
        yield one_axes(height, title, label, width)


def grid(axes: Axes, axis: Literal["x", "y", "both"] = "both") -> None:
    """Grid lines under what is drawn."""
    axes.grid(axis=axis, linewidth=0.6)
    axes.set_axisbelow(True)


def finish(axes: Axes, marked: float | None, *, whole: bool = True) -> None:
    """Grid lines across, whole numbers along by default, and a vertical line at one of them."""
    grid(axes, "y")
    ticks(axes.xaxis, 6, whole=whole)
    if marked is not None:
        axes.axvline(marked, color=INK, linewidth=1.0, alpha=0.75)


def ticks(axis: Axis, most: int, *, whole: bool = False) -> None:
    """At most so many steps along an axis, at round or at whole numbers."""
    axis.set_major_locator(MaxNLocator(most, integer=whole))


def in_percent(axis: Axis) -> None:
    """Shares along an axis as whole percents."""
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def unclipped(axes: Axes) -> dict[str, Any]:
    """How each of many parts is drawn that is inside the axes anyway: what clips them is made once, not for each."""
    return {"clip_on": False, "clip_path": TransformedPatchPath(axes.patch)}


def tile(axes: Axes, row: int, column: int, names: Sequence[str], value: str, **look: Any) -> None:
    """A square of one by one whose upper left corner is at (column, row), with its names and its value in words."""
    square = Rectangle((column, row), 1, 1, **look)
    tags.named(square, names, [value])
    axes.add_artist(square)  # unlike a patch, it does not ask for room


CELLS = 400
"""Cells of a grid of shades that say their values one by one, at most."""


def shaded(
    axes: Axes, table: npt.ArrayLike, cell: Callable[[int, int], str], row: Callable[[int], str], most: float
) -> QuadMesh:
    """Grid of shades, 0 pale to `most` dark, each with its value in words; nan is left blank and says nothing.

    A grid of more than `CELLS` cells is drawn as one picture, and its rows say what is in them.

    Args:
        axes: the first row is at the bottom of them, unless they are turned over.
        table: (rows, columns), at least 0.
        cell: what a cell says, by row and column.
        row: what a row says.
        most: the value of full colour.
    """
    values = np.asarray(table, dtype=float)
    look: Any = {"vmin": 0.0, "vmax": most, "cmap": "Purples", "rasterized": values.size > CELLS}
    drawn = axes.pcolormesh(np.ma.masked_invalid(values), **look)
    if values.size > CELLS:
        told = [[row(i)] for i in range(len(values))]
        saying(axes, [0, values.shape[1]], np.arange(len(values) + 1), told)
    else:
        known = np.isfinite(values)
        tags.named(drawn, [], [cell(i, j) if known[i, j] else "" for i, j in np.ndindex(values.shape)])
    return drawn


def saying(axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike, told: Sequence[Sequence[str]]) -> None:
    """Unseen cells over a picture, each with a value in words, where the picture itself cannot say any.

    Args:
        axes: with the picture.
        x: edges of the columns, one more than there are.
        y: edges of the rows.
        told: what each cell says, row by row.
    """
    look: Any = {"cmap": "gray", "alpha": _UNSEEN, "zorder": 5, "clip_on": False}
    drawn = axes.pcolormesh(x, y, np.zeros((len(told), len(told[0]))), **look)
    tags.named(drawn, [], [text for row in told for text in row])


_UNSEEN = 0.003
"""Opacity of what is not seen but found by a pointer, which passes over what is not painted at all."""


def text_near(axes: Axes, text: str, at: Point, away: Point, **look: Any) -> Artist:
    """A text so many points away from a place on the axes."""
    return axes.annotate(text, at, away, textcoords="offset points", **look)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names of rows, numbered from 0 at the top, at the left of the axes."""
    axes.set_yticks(np.arange(len(names)), short_names(names, 24), parse_math=False, fontsize=8.5)
    name_ticks(axes.yaxis, names)
    axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def name_ticks(axis: Axis, names: Sequence[str]) -> None:
    """Note whose each tick of an axis is, so that it lights up with the name."""
    for tick, name in zip(axis.get_major_ticks(len(names)), names, strict=True):
        tags.key(tick.label1, name)


def legend_below(figure: Figure, entries: int, **look: Any) -> None:
    """A legend under the axes, three names to a line; an entry belongs to the names of what it explains."""
    if entries:
        shape = {"ncols": min(entries, 3), "handlelength": 1.2, "columnspacing": 1.2}
        name_legend(figure, figure.legend(loc="outside lower left", **(shape | look)))


def name_legend(figure: Figure, legend: Legend) -> None:
    """Note whose each entry of a legend is: that of the drawn part, where it has one name."""
    explained = [handle for axes in figure.axes for handle in axes.get_legend_handles_labels()[0]]
    for part, drawn, text in zip(explained, legend.legend_handles, legend.get_texts(), strict=True):
        names = tags.names_of(part)
        if len(names) == 1 and drawn is not None:
            tags.key(drawn, names[0])
            tags.key(text, names[0])


def colour(number: int) -> str:
    """The colour of the n-th of several."""
    return PALETTE[number % len(PALETTE)]


def point(number: int) -> dict[str, Any]:
    """The colour and the marker of the n-th of several."""
    return {"color": colour(number), "marker": MARKERS[number % len(MARKERS)]}


def signed_colour(strength: float) -> str:
    """Blue at -1, pale at 0, red at 1."""
    return str(to_hex(_colours("RdBu_r")(0.5 + 0.42 * strength)))


def share_colour(share: float) -> str:
    """Pale at 0, dark violet at 1."""
    return str(to_hex(_colours("Purples")(0.08 + 0.84 * share)))


@cache
def _colours(name: str) -> Colormap:
    """A colour map; matplotlib makes a new one each time it is asked."""
    return matplotlib.colormaps[name]


def filling(number: int) -> dict[str, Any]:
    """Colour, and from the ninth domain on a hatch too, so that no two look the same."""
    hatch = HATCHES[(number // len(PALETTE)) % len(HATCHES)]
    return {"facecolor": colour(number), "hatch": hatch or None, "edgecolor": PAPER if hatch else "none"}


def with_margin(*values: npt.ArrayLike) -> Point:
    """The range of the finite values with a little room at both ends; (0, 1) without one."""
    every = np.concatenate([np.asarray(part, dtype=float) for part in values])
    finite = every[np.isfinite(every)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    margin = 0.06 * (high - low) or 0.5
    return low - margin, high + margin
