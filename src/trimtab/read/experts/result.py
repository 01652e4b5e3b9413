"""What looking for experts came to: a value that knows its settings and every number of its page.

The page about experts: whether ratings agree, what else would give the same, which units know what.

The pictures of a page about experts: a map of concepts, their tree, their similarities, where experts are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.cluster.hierarchy import average, dendrogram, fcluster, leaves_list
from scipy.spatial.distance import squareform

from trimtab.read.experts.baselines import BASELINE, EXPERTS
from trimtab.report import figures
from trimtab.report.figures import CENTRED, GRID, INK, LINE, ROW, colour
from trimtab.report.formats import NOTHING, fixed, missing, number, short_names, span
from trimtab.report.page import Section, Table, Text, chapters_page, gallery, picture, settings_section
from trimtab.runs.atomic import write_atomic
from trimtab.runs.serialise import checked, plain, read_result, reading_result, write_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SCHEMA = 1
FRAMES = ("table", "concepts", "counts", "similarity", "experts", "differences")
_KEPT = ("label", "facts", "findings", "config", "seconds", *FRAMES)


@dataclass(frozen=True)
class ExpertsResult:
    """The outcome of an ExpertLens job.

    Attributes:
        label: a short name of the run, its model's unless told otherwise.
        table: alignment with ratings, see `trimtab.read.experts.baselines.Alignment`; empty without ratings.
        concepts: columns concept, positive, negative, experts (by average precision), found (at the false discovery
            rate), best (highest average precision), overlap (of the experts of its halves), retrieved.
        counts: columns site and experts: over all concepts, units with their average precision above the threshold.
        similarity: Jaccard of experts, concepts as rows and columns.
        experts: columns concept, site, unit, ap, q: the best of each concept.
        facts: single numbers, each with n and an interval where it is a rate or a mean.
        findings: what a reader should know of the concepts, the ratings and the examples.
        config: everything needed to do the run again.
        seconds: of the run.
        differences: between the rho of rows of experts and of baselines, see
            `trimtab.read.experts.baselines.Alignment`;
            empty without ratings, and for runs of versions that did not measure them.
    """

    label: str
    table: pd.DataFrame
    concepts: pd.DataFrame
    counts: pd.DataFrame
    similarity: pd.DataFrame
    experts: pd.DataFrame
    facts: Mapping[str, Any]
    findings: tuple[str, ...]
    config: Mapping[str, Any]
    seconds: float
    differences: pd.DataFrame = field(default_factory=pd.DataFrame)

    def to_frame(self) -> pd.DataFrame:
        """The table of alignment, or the concepts where nothing was rated."""
        return (self.table if len(self.table) else self.concepts).copy()

    def figure(self) -> Figure:
        """The map of concepts."""

        return concept_map(self.similarity)

    def report(self, path: str | Path) -> Path:
        """Write the report page (one self-contained HTML file) and return its path."""

        write_atomic(Path(path), page([self], title=self.label))
        return Path(path)

    def save(self, folder: str | Path) -> Path:
        """Write the numbers into a run's folder."""
        return write_result(folder, SCHEMA, {name: getattr(self, name) for name in _KEPT})

    @classmethod
    def load(cls, folder: str | Path) -> ExpertsResult:
        """Read the result of a finished run.

        Raises:
            CheckpointError: there is none (yet), or another version of trimtab wrote it.
        """
        found = read_result(folder, SCHEMA)
        with reading_result(folder):
            found["similarity"].index = found["similarity"].columns
            return checked(cls, found | {"findings": tuple(found["findings"])})


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


COVERS = (
    "Rho is Spearman's correlation with the scores over pairs; intervals are 95 % over concepts, not pairs; p is "
    "that of a Mantel test (concepts dealt out anew)."
)
CEILING = "The ceiling is what the reliability of the similarities allows, from two halves of the examples"
PAIRED = (
    "Differences are of the rho of two rows; their intervals are 95 % over concepts, drawn in pairs: each draw gives "
    "both rows the same concepts. Two rows are told apart where the interval excludes 0 at three decimals. The "
    "intervals are not widened for the number of rows that are compared."
)
FDR = (
    "At the false discovery rate q of a unit, so large a share of the units found are expected there by chance. With "
    "permuted labels every expert is false: the share of such concepts with any expert should be at most the rate."
)
SOURCES = {"people": "people", "labels": "the labels"}
"""What the scores are called; others are "the ratings"."""


def page(results: Sequence[ExpertsResult], title: str = "What units know") -> str:
    """One self-contained HTML page about the experts of one model, or of several beside one another.

    Raises:
        DataError: there is no result.
    """
    several = "models" if len({result.label for result in results}) == len(results) else "results"
    return chapters_page(
        title,
        results,
        f"{several} beside one another",
        verdict=verdict,
        chapter=_chapter,
        compared=_comparison,
    )


def verdict(result: ExpertsResult) -> str:
    """How well experts agree with ratings, and which baselines are told apart from them, by paired differences."""
    facts = result.facts
    told = f"{_count(facts['concepts'], 'concept')}, {_count(facts['units'], 'unit')}: "
    told += f"{_interval(facts['experts'], 0)} experts a concept."
    for name, own in result.table.groupby("ratings", sort=False):
        told += " " + " ".join(_verdict_on(str(name), own))
    return told


def _verdict_on(name: str, own: pd.DataFrame) -> Iterator[str]:
    """Sentences about one set of ratings."""
    first, whose = own.iloc[0], SOURCES.get(_source(own), "the ratings")
    if missing(first["rho"]):
        yield f"On {name} {first['row']} have no rho: their similarities are all alike."
        return
    yield (
        f"On {name} {first['row']} (the cut that the settings name) agree with {whose} at rho {fixed(first['rho'])} "
        f"({span(first['low'], first['high'])}; {first['n_pairs']:.0f} pairs of {first['n_concepts']:.0f} concepts)."
    )
    experts = own[(own["role"] == EXPERTS) & own["rho"].notna()]
    best = experts.iloc[int(experts["rho"].argmax())]
    if round(best["rho"], 3) > round(first["rho"], 3):
        yield (
            f"The highest of the {len(experts)} rows of experts, picked after looking, is {best['row']}, "
            f"at {fixed(best['rho'])}."
        )
    rivals = own[(own["role"] == BASELINE) & own["rho"].notna()]
    if not len(rivals):
        return
    if "told" not in own.columns:
        yield "Differences from baselines were not measured by the version that made this run."
        return
    sides = [
        f"{side} {_named(rivals[rivals['told'] == side])}" for side in SIDES if (rivals["told"] == side).any()
    ]
    yield f"Of the {_count(len(rivals), 'baseline')} with a rho they are {'; '.join(sides)}."
    top = rivals.iloc[int(rivals["rho"].argmax())]
    yield (
        f"The baseline with the highest rho, picked after looking, is {top['row']}, at {fixed(top['rho'])}: "
        f"experts minus it {_gap(top)}."
    )


SIDES = ("above", "below", "not told apart from")


def _named(rows: pd.DataFrame) -> str:
    return f"{len(rows)} ({'; '.join(rows['row'])})"


def _gap(row: Mapping[str, Any] | pd.Series) -> str:
    interval = span(row["difference_low"], row["difference_high"], signed=True)
    return f"{fixed(row['difference'], signed=True)} ({interval})"


def _source(own: pd.DataFrame) -> str:
    return str(own["source"].iloc[0]) if "source" in own.columns else "ratings"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _chapter(result: ExpertsResult) -> Iterator[Section]:
    if len(result.table):
        whose = {SOURCES.get(_source(own), "ratings") for _, own in result.table.groupby("ratings")}
        noun = whose.pop() if len(whose) == 1 else "ratings"
        yield Section(f"Agreement with {noun.removeprefix('the ')}", list(_agreement(result)))
    several = len(result.similarity) > 1
    concepts = [_concepts(result)]
    yield Section(
        "Concepts", [picture(concept_map(result.similarity), _MAP), *concepts] if several else concepts
    )
    yield Section("Where experts are", [picture(places_figure(result.counts), _PLACES)])
    if several:
        drawn = [similarity_figure(result.similarity), tree_figure(result.similarity)]
        yield Section("Tree and similarities", [gallery(drawn)], collapsed=True)
    yield Section("The best experts", [_experts(result)], collapsed=True)
    yield Section("How sure is an expert?", [Text(FDR), _sure(result.facts)])
    if result.findings:
        told = [Text(finding) for finding in result.findings]
        yield Section("What to know of concepts, ratings and examples", told, collapsed=True)
    seconds = ("seconds", f"{result.seconds:.1f}")
    yield settings_section([*plain(dict(result.config)).items(), seconds])


_MAP = (
    "Colours are clusters of the tree. Names that would cover one another are moved apart, with a line to where they "
    "belong. Two axes cannot hold all distances: what is near here may not be elsewhere, and "
    "the share of the spread that they keep is written below."
)
_PLACES = "Percent of the units there that are experts of a concept, mean over concepts."


def _agreement(result: ExpertsResult) -> Iterator[Table]:
    for name, own in result.table.groupby("ratings", sort=False):
        frame = pd.DataFrame(
            {
                "similarity by": own["row"],
                "role": own["role"],
                "rho": [fixed(value) for value in own["rho"]],
                "interval": [span(low, high) for low, high in zip(own["low"], own["high"], strict=True)],
                "p": [number(value, 2) for value in own["mantel_p"]],
                "ceiling": [fixed(value) for value in own["ceiling"]],
                "of ceiling": [fixed(value) for value in own["rho_over_ceiling"]],
                "note": own["note"],
            }
        )
        if "told" in own.columns:
            rest = own["difference"].notna()
            frame.insert(4, "first row minus it", [fixed(gap, signed=True) for gap in own["difference"]])
            ends = zip(own["difference_low"], own["difference_high"], strict=True)
            frame.insert(5, "paired interval", [span(low, high, signed=True) for low, high in ends])
            frame.insert(
                6,
                "so the first row is",
                own["told"].where(rest, NOTHING)
                + own["told"].where(rest).map(lambda side: "" if missing(side) else " it"),
            )
        if not any(own["note"]):
            frame = frame.drop(columns="note")
        known = own[own["n_pairs"].notna()].iloc[0]
        n = f"{known['n_pairs']:.0f} pairs of {known['n_concepts']:.0f} concepts"
        marked = [place for place, role in enumerate(own["role"]) if role == EXPERTS]
        known_to_be = dict(result.config).get("reliability") or {}
        taken = f"a stated reliability of {number(known_to_be[name])}" if name in known_to_be else "no error"
        caption = f"{name}: {n}. {COVERS} {CEILING}, and of ratings with {taken}."
        yield Table(frame, f"{caption} {PAIRED}" if "told" in own.columns else caption, marked=marked)
        gaps = result.differences
        if len(gaps) and (gaps["ratings"] == name).any():
            yield _differences(str(name), gaps[gaps["ratings"] == name])


def _differences(name: str, gaps: pd.DataFrame) -> Table:
    """Every row of experts against every baseline."""
    frame = pd.DataFrame({"experts": gaps["row"], "baseline": gaps["against"]})
    frame["experts minus baseline"] = [fixed(gap, signed=True) for gap in gaps["difference"]]
    ends = zip(gaps["low"], gaps["high"], strict=True)
    frame["paired interval"] = [span(low, high, signed=True) for low, high in ends]
    told = zip(gaps["difference"], gaps["told"], strict=True)
    frame["so experts are"] = [NOTHING if missing(gap) else f"{side} it" for gap, side in told]
    return Table(frame, f"{name}: rows of experts beside baselines, with paired intervals as above.")


def _concepts(result: ExpertsResult) -> Table:
    facts = result.facts
    frame = result.concepts.rename(
        columns={
            "experts": f"AP above {facts['tau']:g}",
            "found": f"q below {facts['fdr']:g}",
            "best": "best AP",
            "overlap": "overlap of halves",
            "retrieved": "found again",
        }
    )
    caption = (
        "Overlap of halves: Jaccard of the experts that the two halves of the examples give; found again: no "
        "other concept's experts of the second half are as much like those of the first."
    )
    return Table(frame, caption, {"best AP": fixed, "overlap of halves": fixed})


def _experts(result: ExpertsResult) -> Table:
    caption = "q: the false discovery rate at which the unit would be found among all units."
    return Table(result.experts, caption, {"ap": fixed, "q": lambda value: number(value, 2)})


def _sure(facts: Mapping[str, Any]) -> Table:
    named = {
        f"experts a concept, AP above {facts['tau']:g}": ("experts", 0),
        f"experts a concept, q below {facts['fdr']:g}": ("found", 0),
        "Jaccard of the experts of both halves of the examples": ("overlap_of_halves", 3),
        "share of concepts found again by the other half": ("retrieved_by_halves", 3),
        "share of concepts with permuted labels that have any expert": ("permuted_with_any_expert", 3),
    }
    rows = []
    for what, (name, places) in named.items():
        it = facts[name]
        rows.append((what, fixed(it["value"], places), span(it["low"], it["high"], places), it["n"]))
    return Table(
        pd.DataFrame(rows, columns=["what", "value", "interval", "n"]), "Intervals are 95 %, over concepts."
    )


def _interval(it: Mapping[str, Any], places: int) -> str:
    if missing(it["low"]):
        return fixed(it["value"], places)
    return f"{fixed(it['value'], places)} ({span(it['low'], it['high'], places)})"


def _comparison(results: Sequence[ExpertsResult], labels: Sequence[str]) -> Table:
    rows = []
    for label, result in zip(labels, results, strict=True):
        row = {
            "model": label,
            "units": result.facts["units"],
            "experts": _interval(result.facts["experts"], 0),
        }
        for name, own in result.table.groupby("ratings", sort=False):
            first = own.iloc[0]
            row[f"rho, {name}"] = fixed(first["rho"])
            row[f"interval: {name}"] = span(first["low"], first["high"])
            row[f"by: {name}"] = first["row"]
        rows.append(row)
    caption = f"The experts that each run's settings name. {COVERS} No difference between runs was measured."
    sets = {tuple(result.similarity.columns) for result in results}
    if len(sets) > 1:
        caption += (
            f" The runs have {len(sets)} different sets of concepts: their rho need not be of the same pairs."
        )
    return Table(pd.DataFrame(rows), caption)
