"""Result of an ExpertLens job: its numbers, the sentences and tables of its page, and its figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import average, dendrogram, fcluster, leaves_list
from scipy.spatial.distance import squareform

from trimtab.job import Result
from trimtab.read.experts.baselines import BASELINE, EXPERTS
from trimtab.read.experts.firing import firing_blocks
from trimtab.read.experts.places import places_blocks
from trimtab.report import figures, tags
from trimtab.report.figures import CENTRED, INK, LINE, ROW, colour
from trimtab.report.formats import estimate, fixed, missing, number, short_names, span, spans
from trimtab.report.page import Section, Table, Text, gallery, picture, settings_section
from trimtab.report.text import plain_table
from trimtab.runs.serialise import plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class ExpertsResult(Result):
    """Result of an ExpertLens job.

    Attributes:
        table: alignment with ratings, see `trimtab.read.experts.baselines.Alignment`; empty without ratings.
        concepts: columns concept, positive, negative, experts (by average precision), found (at the false discovery
            rate), best (highest average precision), overlap (of the experts of its halves), retrieved.
        counts: columns site and experts: over all concepts, units with their average precision above the threshold.
        similarity: Jaccard of experts, concepts as rows and columns.
        experts: columns concept, site, unit, ap, q: the best of each concept.
        facts: single numbers, each with n and an interval where it is a rate or a mean.
        findings: what a reader should know of the concepts, the ratings and the examples.
        differences: between the rho of rows of experts and of baselines, see
            `trimtab.read.experts.baselines.Alignment`; empty without ratings, and for runs of versions that did not
            measure them.
        layers: experts of a concept by block, see `trimtab.read.experts.places.by_block`; empty where sites name no
            block, and for runs of versions that did not count them.
        firing: what the best units fire at, see `trimtab.read.experts.firing.Firing`; empty for runs of versions that
            did not read it.
        unfired: why there is none.
    """

    table: pd.DataFrame
    concepts: pd.DataFrame
    counts: pd.DataFrame
    similarity: pd.DataFrame
    experts: pd.DataFrame
    facts: Mapping[str, Any]
    findings: tuple[str, ...]
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers: pd.DataFrame = field(default_factory=pd.DataFrame)
    firing: pd.DataFrame = field(default_factory=pd.DataFrame)
    unfired: str = ""

    def to_frame(self) -> pd.DataFrame:
        """Alignment table, or the concepts where nothing was rated."""
        return (self.table if len(self.table) else self.concepts).copy()

    def to_text(self) -> str:
        """The headline table without what only the page has room for, single numbers and the summary."""
        frame = self.to_frame().drop(columns=NOT_PRINTED, errors="ignore")
        if len(self.table):
            ends = zip(*(frame.pop(name) for name in ("rho", "low", "high")), strict=True)
            frame.insert(1, "rho [95 %]", [estimate(*each) for each in ends])
            frame = frame.drop(columns="ratings") if frame["ratings"].nunique() == 1 else frame
        parts = [plain_table(frame), plain_table(_single_numbers(self.facts)), self.summary()]
        if len(self.table):
            parts.append(f"{COVERS} {CEILING}, and of ratings without error unless theirs is stated.")
        return "\n\n".join(parts)

    def json_values(self) -> dict[str, Any]:
        """Every field but the config and the similarities, which are as many as pairs of concepts."""
        return {name: value for name, value in super().json_values().items() if name != "similarity"}

    @classmethod
    def from_values(cls, values: dict[str, Any], folder: Path) -> Self:
        """The result that was written; the rows of the similarities are named like their columns."""
        values["similarity"].index = values["similarity"].columns
        for name in ("table", "differences"):  # earlier versions had another word for it
            if "told" in values.get(name, ()):
                values[name] = values[name].replace({"told": {"not told apart from": SIDES[2]}})
        return super().from_values(values | {"findings": tuple(values["findings"])}, folder)

    def headline(self) -> dict[str, str]:
        """Concepts, experts of each, and the rank correlation of the experts that the settings name with ratings."""
        words = {
            "concepts": str(self.facts["concepts"]),
            "experts": f"{_value(self.facts['experts'], 0)} each",
        }
        for name, rows in self.table.groupby("ratings", sort=False) if len(self.table) else ():
            first = rows.iloc[0]
            words[f"rho {name}"] = estimate(first["rho"], first["low"], first["high"])
        return words

    def figure(self) -> Figure:
        """The map of concepts."""
        return concept_map(self.similarity)

    def summary(self) -> str:
        """Summary: agreement of experts with ratings, and baselines that paired differences tell apart from them."""
        sizes = f"{_count(self.facts['concepts'], 'concept')}, {_count(self.facts['units'], 'unit')}"
        sentences = [f"{sizes}: {_value(self.facts['experts'], 0)} experts a concept."]
        for name, rows in self.table.groupby("ratings", sort=False):
            sentences += agreement_in_words(str(name), rows)
        return " ".join(sentences)

    def sections(self) -> Iterator[Section]:
        """Sections of the page: where experts are and what they fire at, agreement, concepts, the best, uncertainty."""
        yield Section("Where experts are", list(places_blocks(self.layers, self.counts)))
        if fires := list(firing_blocks(self.firing, self.unfired, self.config.get("pool", "max"))):
            yield Section("What the best experts fire at", fires)
        if len(self.table):
            nouns = {_whose(rows).removeprefix("the ") for _, rows in self.table.groupby("ratings")}
            noun = nouns.pop() if len(nouns) == 1 else "ratings"
            yield Section(f"Agreement with {noun}", list(_agreement(self)))
        names = {"experts": f"AP above {self.facts['tau']:g}", "found": f"q below {self.facts['fdr']:g}"}
        names |= {"best": "best AP", "overlap": "overlap of halves", "retrieved": "found again"}
        formats = {"best AP": fixed, "overlap of halves": fixed}
        concepts = Table(self.concepts.rename(columns=names), HALVES, formats)
        several = len(self.similarity) > 1
        map_of_concepts = [picture(concept_map(self.similarity), MAP)] if several else []
        yield Section("Concepts", [*map_of_concepts, concepts])
        if several:
            drawn = [similarity_figure(self.similarity), tree_figure(self.similarity)]
            yield Section("Tree and similarities", [gallery(drawn)], collapsed=True)
        best = Table(self.experts, Q_VALUE, {"ap": fixed, "q": lambda value: number(value, 2)})
        yield Section("The best experts", [best], collapsed=True)
        sure = Table(_single_numbers(self.facts), "Intervals are 95 %, over concepts.")
        yield Section("How sure is an expert?", [Text(FDR), sure])
        if self.findings:
            notes = [Text(finding) for finding in self.findings]
            yield Section("What to know of concepts, ratings and examples", notes, collapsed=True)
        yield settings_section([*plain(self.config).items(), ("seconds", f"{self.seconds:.1f}")])

    @classmethod
    def summary_of_several(cls, results: Sequence[Self]) -> str:
        """Number of models, or of results where some are of one model."""
        several = "models" if len({result.label for result in results}) == len(results) else "results"
        return f"{len(results)} {several} side by side."

    @classmethod
    def compared(cls, results: Sequence[Self], labels: Sequence[str]) -> Iterator[Section]:
        """Comparison of runs: rho of the experts that each run's settings name."""
        lines = []
        for label, result in zip(labels, results, strict=True):
            facts = result.facts
            line = {"model": label, "units": facts["units"], "experts": _value(facts["experts"], 0)}
            for name, rows in result.table.groupby("ratings", sort=False):
                first = rows.iloc[0]
                line[f"rho, {name}"] = fixed(first["rho"])
                line[f"interval: {name}"] = span(first["low"], first["high"])
                line[f"by: {name}"] = first["row"]
            lines.append(line)
        caption = (
            f"The experts that each run's settings name. {COVERS} No difference between runs was measured."
        )
        if (sets := len({tuple(result.similarity.columns) for result in results})) > 1:
            caption += (
                f" The runs have {sets} different sets of concepts: their rho need not be of the same pairs."
            )
        yield Section("Compared", [Table(pd.DataFrame(lines), caption)])


NOT_PRINTED = ["role", "note", "source", "n_pairs", "n_concepts"]
NOT_PRINTED += ["difference", "difference_low", "difference_high", "told"]
COVERS = (
    "Rho is Spearman's correlation with the scores over pairs; intervals are 95 % over concepts, not pairs; p is "
    "that of a Mantel test (concepts dealt out anew)."
)
CEILING = "The ceiling is what the reliability of the similarities allows, from two halves of the examples"
PAIRED = (
    "Differences are of the rho of two rows; their intervals are 95 % over concepts, drawn in pairs: each draw gives "
    "both rows the same concepts. Two rows are distinguishable where the interval excludes 0 at three decimals. The "
    "intervals are not widened for the number of rows that are compared."
)
FDR = (
    "At the false discovery rate q of a unit, so large a share of the units found are expected there by chance. With "
    "permuted labels every expert is false: the share of such concepts with any expert should be at most the rate."
)
SOURCES = {"people": "people", "labels": "the labels"}
"""What the scores are called; others are "the ratings"."""
SIDES = ("above", "below", "not distinguishable from")
HALVES = (
    "Overlap of halves: Jaccard of the experts that the two halves of the examples give; found again: no "
    "other concept's experts of the second half are as much like those of the first."
)
Q_VALUE = "q: the false discovery rate at which the unit would be found among all units."
MAP = (
    "Points and lines have the colours of clusters of the tree. Names that would cover one another are moved apart, "
    "with a line to where they belong. Two axes cannot hold all distances: what is near here may not be elsewhere, and "
    "the share of the spread that they keep is written below."
)


def agreement_in_words(name: str, rows: pd.DataFrame) -> Iterator[str]:
    """Agreement in sentences: rho of the experts on one set of ratings, and paired differences from baselines."""
    first = rows.iloc[0]
    if missing(first["rho"]):
        yield f"On {name} {first['row']} have no rho: their similarities are all alike."
        return
    rho, sizes = fixed(first["rho"]), f"{first['n_pairs']:.0f} pairs of {first['n_concepts']:.0f} concepts"
    agree = f"{first['row']} (the cut that the settings name) agree with {_whose(rows)}"
    yield f"On {name} {agree} at rho {rho} ({span(first['low'], first['high'])}; {sizes})."
    experts, rivals = (rows[(rows["role"] == role) & rows["rho"].notna()] for role in (EXPERTS, BASELINE))
    best = experts.iloc[int(experts["rho"].argmax())]
    if round(best["rho"], 3) > round(first["rho"], 3):
        several = f"The highest of the {len(experts)} rows of experts"
        yield f"{several}, picked after looking, is {best['row']}, at {fixed(best['rho'])}."
    if not len(rivals):
        return
    if "told" not in rows.columns:
        yield "Differences from baselines were not measured by the version that made this run."
        return
    by_side = {side: rivals["row"][rivals["told"] == side] for side in SIDES}
    sides = [f"{side} {len(names)} ({'; '.join(names)})" for side, names in by_side.items() if len(names)]
    yield f"Of the {_count(len(rivals), 'baseline')} with a rho they are {'; '.join(sides)}."
    top = rivals.iloc[int(rivals["rho"].argmax())]
    gap, ends = top["difference"], (top["difference_low"], top["difference_high"])
    yield (
        f"The baseline with the highest rho, picked after looking, is {top['row']}, at {fixed(top['rho'])}: "
        f"experts minus it {fixed(gap, signed=True)} ({span(*ends, signed=True)})."
    )


def _whose(rows: pd.DataFrame) -> str:
    return SOURCES.get(rows["source"].iloc[0] if "source" in rows.columns else "", "the ratings")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _agreement(result: ExpertsResult) -> Iterator[Table]:
    """Agreement tables: for each set of ratings its rows, and every row of experts beside every baseline."""
    signed = partial(fixed, signed=True)
    formats = dict.fromkeys(("rho", "ceiling", "of ceiling"), fixed) | {"p": lambda value: number(value, 2)}
    for name, rows in result.table.groupby("ratings", sort=False):
        paired = "told" in rows.columns
        columns: dict[str, Any] = {"similarity by": rows["row"], "role": rows["role"], "rho": rows["rho"]}
        columns["interval"] = spans(rows["low"], rows["high"])
        if paired:
            columns["first row minus it"] = rows["difference"]
            columns["paired interval"] = spans(rows["difference_low"], rows["difference_high"], signed=True)
            columns["so the first row is"] = (rows["told"] + " it").where(rows["difference"].notna())
        columns |= {"p": rows["mantel_p"], "ceiling": rows["ceiling"], "of ceiling": rows["rho_over_ceiling"]}
        if any(rows["note"]):
            columns["note"] = rows["note"]
        rated = rows[rows["n_pairs"].notna()].iloc[0]
        stated = (result.config.get("reliability") or {}).get(name)
        error = "no error" if stated is None else f"a stated reliability of {number(stated)}"
        caption = f"{name}: {rated['n_pairs']:.0f} pairs of {rated['n_concepts']:.0f} concepts. {COVERS} {CEILING}, "
        caption += f"and of ratings with {error}.{f' {PAIRED}' if paired else ''}"
        marked = np.flatnonzero(rows["role"] == EXPERTS).tolist()
        yield Table(pd.DataFrame(columns), caption, formats | {"first row minus it": signed}, marked)
        gaps = result.differences
        gaps = gaps[gaps["ratings"] == name] if len(gaps) else gaps
        if len(gaps):
            columns = {"experts": gaps["row"], "baseline": gaps["against"]}
            columns["experts minus baseline"] = gaps["difference"]
            columns["paired interval"] = spans(gaps["low"], gaps["high"], signed=True)
            columns["so experts are"] = (gaps["told"] + " it").where(gaps["difference"].notna())
            caption = f"{name}: rows of experts beside baselines, with paired intervals as above."
            yield Table(pd.DataFrame(columns), caption, {"experts minus baseline": signed})


def _single_numbers(facts: Mapping[str, Any]) -> pd.DataFrame:
    """Rates and means over concepts: columns what, value, interval, n."""
    named = {
        f"experts a concept, AP above {facts['tau']:g}": ("experts", 0),
        f"experts a concept, q below {facts['fdr']:g}": ("found", 0),
        "Jaccard of the experts of both halves of the examples": ("overlap_of_halves", 3),
        "share of concepts found again by the other half": ("retrieved_by_halves", 3),
        "share of concepts with permuted labels that have any expert": ("permuted_with_any_expert", 3),
    }
    ends = ((what, facts[name], places) for what, (name, places) in named.items())
    rows = [(what, fixed(it["value"], n), span(it["low"], it["high"], n), it["n"]) for what, it, n in ends]
    return pd.DataFrame(rows, columns=["what", "value", "interval", "n"])


def _value(it: Mapping[str, Any], places: int) -> str:
    """A value with its interval in brackets, or alone where that is missing."""
    interval = "" if missing(it["low"]) else f" ({span(it['low'], it['high'], places)})"
    return f"{fixed(it['value'], places)}{interval}"


MANY = 24
"""Concepts above which the map is wider than a telephone."""
CLUSTERS = 8
"""Colours of the map: so many clusters of the tree."""
LETTERS = 9.0
"""Size of the names on the map, in points."""
NEAREST = 4
"""Concepts that a row of many similarities names."""
TRIES = 200
"""Rings in which a free place for a name is looked for, the nearest first."""


def concept_map(similarity: pd.DataFrame) -> Figure:
    """Classical scaling of 1 - similarity: concepts in the plane, near one another where they share experts.

    Names that would cover one another are moved apart, each with a line to its place. Many concepts get a taller map.
    """
    matrix = similarity.to_numpy(dtype=float)
    places, kept = plane(matrix)
    concepts = [str(name) for name in similarity.index]
    names = short_names(concepts, 16)
    wide = 7.8 if len(names) > MANY else figures.WIDTH
    height = min(max(3.6, 0.062 * len(names)), 14.0)
    clusters = (fcluster(_linkage(matrix), CLUSTERS, "maxclust") - 1).tolist() if len(matrix) > 1 else [0]
    label = f"A map of {len(similarity)} concepts by shared experts"
    with figures.chart(height, "Concepts by shared experts", label, wide) as (figure, axes):
        axes.set(xlim=figures.with_margin(places[:, 0]), ylim=figures.with_margin(places[:, 1]))
        paper = 72 * np.array([0.95 * wide, 0.9 * height])
        low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
        points = (places - low) / (high - low) * paper
        boxes = np.array([[0.66 * LETTERS * len(name), 1.35 * LETTERS] for name in names])
        above = points + np.array([0.0, 0.95 * LETTERS])  # names stand on their points, not over them
        moved = spread(above, boxes, paper)
        for place, wished, at, (own, name), cluster in zip(
            points, above, moved, zip(concepts, names, strict=True), clusters, strict=True
        ):
            (x, y), (to_x, to_y) = (low + end / paper * (high - low) for end in (place, at))
            if np.abs(at - wished).max() > LETTERS:
                axes.plot([x, to_x], [y, to_y], color=colour(cluster), alpha=0.7, linewidth=0.8, zorder=1)
            look: dict[str, Any] = figures.point(cluster) | {"markeredgecolor": INK, "markeredgewidth": 0.3}
            (point,) = axes.plot(x, y, **look, markersize=3.8, zorder=1)
            tags.named(point, [own])
            tags.key(axes.text(to_x, to_y, name, **CENTRED, fontsize=LETTERS, color=INK), own)
        spread_kept = f"two axes with {100 * kept:.0f} % of the spread" if np.isfinite(kept) else "no spread"
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(spread_kept, fontsize=LETTERS + 1)
        axes.title.set_fontsize(LETTERS + 2)
    return figure


def spread(
    centres: Float[np.ndarray, "n 2"], sizes: Float[np.ndarray, "n 2"], paper: Float[np.ndarray, " 2"]
) -> Float[np.ndarray, "n 2"]:
    """Label placement: centres of boxes, each moved as little as leaves those before it uncovered, inside the paper.

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
    for placed in range(1, len(at)):
        apart = (sizes[:placed] + sizes[placed]) / 2 - 1e-6
        for tries in np.array_split(at[placed] + grid, TRIES):
            inside = ((tries >= sizes[placed] / 2) & (tries <= paper - sizes[placed] / 2)).all(1)
            covers = (np.abs(tries[:, None] - at[None, :placed]) < apart).all(-1).any(1)
            free = np.nonzero(inside & ~covers)[0]
            if len(free):
                at[placed] = tries[free[0]]
                break
    return at


def tree_figure(similarity: pd.DataFrame) -> Figure:
    """Dendrogram of concepts, one row each."""
    matrix = similarity.to_numpy(dtype=float)
    drawn: dict[str, Any] = dict(dendrogram(_linkage(matrix), no_plot=True, color_threshold=0))
    names = [str(similarity.index[leaf]) for leaf in drawn["leaves"]]
    height, label = 0.9 + 0.62 * ROW * len(names), f"A tree of {len(names)} concepts"
    with figures.chart(height, "Tree of concepts", label) as (figure, axes):
        for distances, heights in zip(drawn["dcoord"], drawn["icoord"], strict=True):
            axes.plot(distances, (np.array(heights) - 5) / 10, color=LINE, linewidth=1.0)
        figures.name_rows(axes, names)
        axes.tick_params(axis="y", labelsize=7)
        axes.set(xlabel="1 - Jaccard of experts where branches join", xlim=(0, None))
    return figure


def similarity_figure(similarity: pd.DataFrame) -> Figure:
    """Similarity matrix in the order of the tree; pale is nothing shared, dark as alike as the most alike two."""
    matrix = similarity.to_numpy(dtype=float)
    order = leaves_list(_linkage(matrix))
    names = [str(similarity.index[place]) for place in order.tolist()]
    table = matrix[np.ix_(order, order)].copy()
    np.fill_diagonal(table, np.nan)
    most = float(np.nanmax(table)) or 1.0
    label = f"Similarity of {len(table)} concepts, each with each"

    def nearest(i: int) -> str:
        likest = np.argsort(-np.nan_to_num(table[i], nan=-np.inf), kind="stable")[
            : min(NEAREST, len(names) - 1)
        ]
        return (
            f"{names[i]}: {', '.join(f'{names[j]} {number(float(table[i, j]), 2)}' for j in likest.tolist())}"
        )

    with figures.chart(4.6, "How alike concepts are", label) as (figure, axes):
        cells = figures.shaded(
            axes, table, lambda i, j: f"{names[i]}, {names[j]}: {number(float(table[i, j]))}", nearest, most
        )
        axes.set(xticks=[], yticks=[], aspect="equal", ylim=(len(table), 0))
        axes.set_xlabel("concepts in the order of the tree, both ways")
        figure.colorbar(cells, ax=axes, aspect=16).set_label("Jaccard of experts")
    return figure


def plane(matrix: Float[np.ndarray, "c c"]) -> tuple[Float[np.ndarray, "c 2"], float]:
    """Classical scaling in two dimensions: distances near 1 - similarity, and the share of the spread that is kept.

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
