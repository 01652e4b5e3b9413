"""The page about experts: whether ratings agree, what else would give the same, which units know what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.read.comparison import BASELINE, EXPERTS
from trimtab.read.experts_figures import concept_map, places_figure, similarity_figure, tree_figure
from trimtab.report.chapters import chapters_page, settings_section
from trimtab.report.numbers import NOTHING, fixed, missing, number, span
from trimtab.report.page import Section, Table, Text
from trimtab.report.pictures import gallery, picture
from trimtab.runs.plain import plain

if TYPE_CHECKING:
    from trimtab.read.experts_result import ExpertsResult

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
