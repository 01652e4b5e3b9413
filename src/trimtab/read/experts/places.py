"""Where experts are: how many a concept has in each block, and the share of units by block and kind of site."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.read.responses import Units
from trimtab.report import figures, tags
from trimtab.report.figures import CENTRED, INK
from trimtab.report.formats import number, short_names, with_ends
from trimtab.report.page import Gallery, Picture, gallery, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK = re.compile(r"^(?P<tower>.*?)\.(?P<block>\d+)\.(?P<kind>.*):(?:out|in)$")
WRITTEN = 16
"""Blocks up to which the map has its values written in it."""
COLUMNS = ["tower", "block", "units", "experts", "low", "high", "n"]
LAYERS = "Experts of a concept in each block, mean over {} concepts; bars are 95 % intervals over concepts."
PLACES = "Percent of the units there that are experts of a concept, mean over concepts."


def by_block(counts: pd.DataFrame, units: Units) -> pd.DataFrame:
    """Experts of a concept by block.

    Args:
        counts: concepts as rows, sites as columns, see `trimtab.read.experts.lens.ExpertLens.counts`.
        units: of the sites.

    Returns:
        Columns tower (what precedes the number of a block in the names of its sites), block, units; experts: mean over
        concepts, with low and high (95 % over concepts) and n concepts. Sites that name no block are left out.
    """
    parts = pd.Series(counts.columns, dtype=str).str.extract(BLOCK)
    widths = pd.Series(units.widths)
    rows = []
    for _, members in parts.dropna().groupby(["tower", "block"], sort=False):
        inside = members.index.tolist()
        found = bootstrap(mean, counts.iloc[:, inside].sum(axis=1).to_numpy(dtype=float))
        place = members["tower"].iloc[0], int(members["block"].iloc[0]), int(widths.iloc[inside].sum())
        rows.append((*place, found.value, found.low, found.high, found.n))
    return pd.DataFrame(rows, columns=COLUMNS)


def place_names(sites: pd.Series[str]) -> pd.Series[str]:
    """Names of sites by block and kind; whole where they name no block, or where blocks are those of several towers.

    >>> place_names(pd.Series(["model.layers.0.mlp.up_proj:out", "model.norm:out"])).tolist()
    ['block 0, mlp.up_proj', 'model.norm:out']
    """
    parts = sites.str.extract(BLOCK)
    if parts["tower"].nunique() > 1:
        return sites
    return ("block " + parts["block"] + ", " + parts["kind"]).fillna(sites)


def places_blocks(layers: pd.DataFrame, counts: pd.DataFrame) -> Iterator[Picture | Gallery]:
    """Histogram of experts over blocks, one for each tower, and the map of the share of units by kind of site."""
    if len(layers):
        drawn = [layers_figure(rows, several=layers["tower"].nunique() > 1) for rows in _towers(layers)]
        caption = LAYERS.format(int(layers["n"].iloc[0]))
        yield picture(drawn[0], caption) if len(drawn) == 1 else gallery(drawn, caption)
    yield picture(places_figure(counts), PLACES)


def _towers(layers: pd.DataFrame) -> list[pd.DataFrame]:
    return [rows.sort_values("block") for _, rows in layers.groupby("tower", sort=False)]


def layers_figure(layers: pd.DataFrame, *, several: bool = False) -> Figure:
    """Histogram of experts over the blocks of one tower, with intervals.

    Args:
        layers: rows of `by_block`.
        several: whether there are other towers, so that the name of this one stands above it.
    """
    tower = str(layers["tower"].iloc[0])
    title = f"Experts by block, {tower}" if several else "Experts by block"
    with figures.chart(2.5, title, f"Experts of a concept in {len(layers)} blocks of {tower}") as (
        figure,
        axes,
    ):
        bars = axes.bar(layers["block"], layers["experts"], width=0.82, color=figures.LINE, linewidth=0)
        rows = layers[["block", "units", "experts", "low", "high"]].to_numpy(dtype=float).tolist()
        for bar, (block, units, experts, low, high) in zip(bars, rows, strict=True):
            share = f"{number(100 * experts / units)} % of {units:.0f} units"
            tags.named(bar, [], [f"block {block:.0f}: {with_ends(experts, low, high)}; {share}"])
            axes.plot([block, block], [low, high], color=INK, linewidth=1.3)
        axes.set(ylabel="experts of a concept", xlabel="block")
        middle, half = float(layers["block"].mean()), max(3.0, 0.5 * len(layers)) + 0.2
        axes.set_xlim(middle - half, middle + half)
        figures.finish(axes, None)
        axes.set_xticks(layers["block"].tolist()[:: -(-len(layers) // 12)])
    return figure


def places_figure(counts: pd.DataFrame) -> Figure:
    """Heat map of the share of units that are experts, mean over concepts, by block and kind of site."""
    sites = counts["site"].astype(str)
    parts = sites.str.extract(BLOCK)
    kinds, blocks = parts["kind"].fillna(sites), parts["block"].fillna(0).astype(int)
    if parts["tower"].nunique() > 1:
        kinds = (parts["tower"] + " ").fillna("") + kinds
    table = counts["share"].groupby([kinds, blocks]).last().unstack().reindex(kinds.unique())
    most = float(np.nanmax(table)) or 1.0
    height = 1.2 + 0.3 * len(table)
    names, columns, shares = list(table.index), list(table.columns), table.to_numpy(dtype=float)

    def of_row(i: int) -> str:
        known = np.flatnonzero(np.isfinite(shares[i]))
        best = known[np.argsort(-shares[i, known], kind="stable")][:4]
        return (
            f"{names[i]}: {', '.join(f'block {columns[j]} {number(100 * shares[i, j], 2)} %' for j in best)}"
        )

    def of_cell(i: int, j: int) -> str:
        return f"{names[i]}, block {columns[j]}: {number(100 * shares[i, j])} %"

    with figures.chart(height, "Where experts are", "Share of experts by place") as (figure, axes):
        shades = figures.shaded(axes, 100 * shares, of_cell, of_row, 100 * most)
        if len(columns) > WRITTEN:
            figure.colorbar(shades, ax=axes, aspect=16).set_label("% of units")
        for (row, column), share in np.ndenumerate(shares):
            if np.isfinite(share) and len(columns) <= WRITTEN:
                ink = "#ffffff" if share > 0.6 * most else "#111820"
                axes.text(column + 0.5, row + 0.5, f"{100 * share:.1f}", color=ink, **CENTRED, fontsize=8)
        axes.set_yticks(np.arange(len(table)) + 0.5, short_names(names, 26), fontsize=8.5)
        step = -(-len(columns) // WRITTEN)
        axes.set_xticks(np.arange(0, len(columns), step) + 0.5, map(str, columns[::step]), fontsize=8.5)
        axes.set(xlabel="block", ylim=(len(table), 0))
        axes.tick_params(length=0, colors=INK)
    return figure
