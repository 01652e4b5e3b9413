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
from trimtab.report.figures import CENTRED, INK, LINE, ROW, colour
from trimtab.report.names import short_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCK = re.compile(r"^(?P<before>.*?)\.(?P<block>\d+)\.(?P<kind>.*):(out|in)$")
CLUSTERS = 8
"""Colours of the map: so many clusters of the tree."""


def concept_map(similarity: pd.DataFrame) -> Figure:
    """Concepts in the plane, near one another where they share experts (classical scaling of 1 - similarity)."""
    places, kept = plane(similarity.to_numpy(dtype=float))
    clusters = _clusters(similarity.to_numpy(dtype=float))
    with figures.house_style():
        figure, axes = figures.one_axes(
            5.0, "Concepts by shared experts", f"A map of {len(similarity)} concepts by shared experts", 7.2
        )
        for (x, y), name, cluster in zip(places, similarity.index, clusters, strict=True):
            look: dict[str, Any] = CENTRED | {"fontsize": 7.5, "color": colour(cluster)}
            axes.text(x, y, short_names([str(name)], 16)[0], **look)
        axes.set(xlim=figures.with_margin(places[:, 0]), ylim=figures.with_margin(places[:, 1]))
        axes.set(xticks=[], yticks=[], xlabel=f"two axes with {100 * kept:.0f} % of the spread")
    return figure


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
    kept = values[-2:].sum() / values.sum() if values.sum() else np.nan
    return vectors[:, -2:][:, ::-1] * np.sqrt(values[-2:][::-1]), float(kept)


def _linkage(matrix: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c-1 4"]:
    return np.asarray(average(squareform(1 - (matrix + matrix.T) / 2, checks=False)))


def _clusters(matrix: Float[np.ndarray, "c c"]) -> list[int]:
    return [int(number) - 1 for number in fcluster(_linkage(matrix), CLUSTERS, "maxclust")]


def _kind(site: object, part: re.Match[str] | None) -> str:
    return part["kind"] if part else str(site)
