"""The pictures of a page about experts: a map of concepts, their tree, their similarities, where experts are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import average, dendrogram, fcluster, leaves_list
from scipy.spatial.distance import squareform

from trimtab.report import figures
from trimtab.report.figures import CENTRED, GRID, INK, LINE, ROW, colour
from trimtab.report.names import short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCK = re.compile(r"^(?P<before>.*?)\.(?P<block>\d+)\.(?P<kind>.*):(out|in)$")
CLUSTERS = 8
"""Colours of the map: so many clusters of the tree."""
LETTERS = 8.0
"""Size of the names on the map, in points."""
TRIES = 200
"""Rings in which a free place for a name is looked for, the nearest first."""


def concept_map(similarity: pd.DataFrame) -> Figure:
    """Concepts in the plane, near one another where they share experts (classical scaling of 1 - similarity).

    Names that would cover one another are moved apart, each with a line to its place. Many concepts get a taller map.
    """
    matrix = similarity.to_numpy(dtype=float)
    places, kept = plane(matrix)
    names = short_names([str(name) for name in similarity.index], 16)
    height = min(max(5.0, 0.045 * len(names)), 14.0)
    with figures.house_style():
        figure, axes = figures.one_axes(
            height,
            "Concepts by shared experts",
            f"A map of {len(similarity)} concepts by shared experts",
            7.2,
        )
        axes.set(xlim=figures.with_margin(places[:, 0]), ylim=figures.with_margin(places[:, 1]))
        paper = 72 * np.array([0.95 * 7.2, 0.9 * height])
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        points = (places - low) / (high - low) * paper
        moved = spread(
            points, np.array([[0.66 * LETTERS * len(name), 1.35 * LETTERS] for name in names]), paper
        )
        for place, at, name, cluster in zip(points, moved, names, _clusters(matrix), strict=True):
            (x, y), (to_x, to_y) = (low + end / paper * (high - low) for end in (place, at))
            if np.abs(at - place).max() > LETTERS:
                axes.plot([x, to_x], [y, to_y], color=GRID, linewidth=0.7, zorder=1)
                axes.plot(x, y, ".", color=colour(cluster), markersize=3)
            axes.text(to_x, to_y, name, **CENTRED, fontsize=LETTERS, color=colour(cluster))
        spread_kept = f"two axes with {100 * kept:.0f} % of the spread" if np.isfinite(kept) else "no spread"
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(spread_kept, fontsize=LETTERS + 1)
        axes.title.set_fontsize(LETTERS + 2)
    return figure


def spread(
    centres: Float[np.ndarray, "n 2"], sizes: Float[np.ndarray, "n 2"], paper: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "n 2"]:
    """Centres of boxes, each as near to where it was as leaves those before it uncovered, and inside the paper.

    A box for which there is no room stays where it was.

    >>> boxes = np.full((2, 2), 10.0)
    >>> spread(np.array([[50.0, 50.0], [50.0, 52.0]]), boxes, np.array([100.0, 100.0])).tolist()
    [[50.0, 50.0], [40.0, 52.0]]
    """
    step = sizes.min(0) * [0.25, 1.0]
    far = np.ceil(paper / step).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in far)), -1).reshape(-1, 2) * step
    grid = grid[np.argsort(np.square(grid).sum(1), kind="stable")]
    at: np.ndarray = np.clip(centres, sizes / 2, np.maximum(paper - sizes / 2, sizes / 2))
    for number in range(1, len(at)):
        apart = (sizes[:number] + sizes[number]) / 2 - 1e-6
        for tries in np.array_split(at[number] + grid, TRIES):
            inside = ((tries >= sizes[number] / 2) & (tries <= paper - sizes[number] / 2)).all(1)
            covers = (np.abs(tries[:, None] - at[None, :number]) < apart).all(-1).any(1)
            free = np.nonzero(inside & ~covers)[0]
            if len(free):
                at[number] = tries[free[0]]
                break
    return at


def tree_figure(similarity: pd.DataFrame) -> Figure:
    """The tree of concepts, one row each."""
    matrix = similarity.to_numpy(dtype=float)
    drawn: dict[str, Any] = dict(dendrogram(_linkage(matrix), no_plot=True, color_threshold=0))
    names = [str(similarity.index[leaf]) for leaf in drawn["leaves"]]
    with figures.house_style():
        figure, axes = figures.one_axes(
            0.9 + 0.62 * ROW * len(names), "Tree of concepts", f"A tree of {len(names)} concepts"
        )
        for distances, heights in zip(drawn["dcoord"], drawn["icoord"], strict=True):
            axes.plot(distances, (np.array(heights) - 5) / 10, color=LINE, linewidth=1.0)
        figures.name_rows(axes, names)
        axes.tick_params(axis="y", labelsize=7)
        axes.set(xlabel="1 - Jaccard of experts where branches join", xlim=(0, None))
    return figure


def similarity_figure(similarity: pd.DataFrame) -> Figure:
    """Every two concepts, in the order of the tree; pale is nothing shared, dark as alike as the most alike two."""
    matrix = similarity.to_numpy(dtype=float)
    order = leaves_list(_linkage(matrix))
    table = matrix[np.ix_(order, order)].copy()
    np.fill_diagonal(table, np.nan)
    most = float(np.nanmax(table)) or 1.0
    with figures.house_style():
        figure, axes = figures.one_axes(
            4.6, "How alike concepts are", f"Similarity of {len(table)} concepts, each with each"
        )
        shades = axes.pcolormesh(
            np.ma.masked_invalid(table), vmin=0.0, vmax=most, cmap="Purples", rasterized=True
        )
        axes.set(xticks=[], yticks=[], aspect="equal", ylim=(len(table), 0))
        axes.set_xlabel("concepts in the order of the tree, both ways")
        figure.colorbar(shades, ax=axes, aspect=16).set_label("Jaccard of experts")
    return figure


def places_figure(counts: pd.DataFrame) -> Figure:
    """The share of units that are experts, mean over concepts, by block and kind of site."""
    parts = [_BLOCK.match(str(site)) for site in counts["site"]]
    kinds = list(dict.fromkeys(_kind(site, part) for site, part in zip(counts["site"], parts, strict=True)))
    blocks = sorted({int(part["block"]) if part else 0 for part in parts})
    table = np.full((len(kinds), len(blocks)), np.nan)
    for site, part, share in zip(counts["site"], parts, counts["share"], strict=True):
        block = int(part["block"]) if part else 0
        table[kinds.index(_kind(site, part)), blocks.index(block)] = share
    most = float(np.nanmax(table)) or 1.0
    with figures.house_style():
        figure, axes = figures.one_axes(
            1.2 + 0.3 * len(kinds), "Where experts are", "Share of experts by place"
        )
        axes.pcolormesh(np.ma.masked_invalid(table), vmin=0.0, vmax=most, cmap="Purples")
        for (row, column), share in np.ndenumerate(table):
            if np.isfinite(share) and len(blocks) <= 16:
                ink = "#ffffff" if share > 0.6 * most else "#111820"
                axes.text(column + 0.5, row + 0.5, f"{100 * share:.1f}", color=ink, **CENTRED, fontsize=7.5)
        axes.set_yticks(np.arange(len(kinds)) + 0.5, short_names(kinds, 26), fontsize=8.5)
        axes.set_xticks(np.arange(len(blocks)) + 0.5, [str(block) for block in blocks], fontsize=8.5)
        axes.set(xlabel="block", ylim=(len(kinds), 0))
        axes.tick_params(length=0, colors=INK)
    return figure


def plane(matrix: Float[np.ndarray, "c c"]) -> tuple[Float[np.ndarray, "c 2"], float]:
    """Two coordinates whose distances are as near as can be to 1 - similarity, and the share of the spread they keep.

    Source: Torgerson 1952, classical scaling; negative eigenvalues count as none.
    """
    distance = 1 - (matrix + matrix.T) / 2
    np.fill_diagonal(distance, 0.0)
    centre = np.eye(len(distance)) - 1 / len(distance)
    values, vectors = np.linalg.eigh(-centre @ distance**2 @ centre / 2)
    values = values.clip(min=0)
    kept = values[-2:].sum() / values.sum() if values.sum() > 1e-12 else np.nan
    places = np.zeros((len(distance), 2))
    places[:, : len(values[-2:])] = vectors[:, -2:][:, ::-1] * np.sqrt(values[-2:][::-1])
    return places, float(kept)


def _linkage(matrix: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c-1 4"]:
    return np.asarray(average(squareform(1 - (matrix + matrix.T) / 2, checks=False)))


def _clusters(matrix: Float[np.ndarray, "c c"]) -> list[int]:
    if len(matrix) < 2:
        return [0] * len(matrix)
    return [int(number) - 1 for number in fcluster(_linkage(matrix), CLUSTERS, "maxclust")]


def _kind(site: object, part: re.Match[str] | None) -> str:
    return part["kind"] if part else str(site)
