"""The page about experts: whether people agree, what else would give the same, which units know what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from trimtab.read.comparison import EXPERTS
from trimtab.read.experts_figures import concept_map, places_figure, similarity_figure, tree_figure
from trimtab.report.chapters import chapters_page, settings_section
from trimtab.report.numbers import fixed, missing, number, span
from trimtab.report.page import Section, Table, Text
from trimtab.report.pictures import gallery, picture
from trimtab.runs.plain import plain

if TYPE_CHECKING:
    from trimtab.read.experts_result import ExpertsResult

COVERS = (
    "Rho is Spearman's correlation with people's scores over pairs; intervals are 95 % over concepts, not pairs; p is "
    "that of a Mantel test (concepts dealt out anew). The ceiling is what the reliability of the similarities "
    "allows, from two halves of the examples; it takes ratings for exact unless their reliability was stated."
)
FDR = (
    "At the false discovery rate q of a unit, so large a share of the units found are expected there by chance. With "
    "permuted labels every expert is false: the share of such concepts with any expert should be at most the rate."
)


def page(results: Sequence[ExpertsResult], title: str = "What units know") -> str:
    """One self-contained HTML page about the experts of one model, or of several on the same concepts.

    Raises:
        DataError: there is no result.
    """
    return chapters_page(
        title, results, "models beside one another", verdict=verdict, chapter=_chapter, compared=_comparison
    )


def verdict(result: ExpertsResult) -> str:
    """How well experts agree with people, and whether something simpler agrees better."""
    facts = result.facts
    told = f"{facts['concepts']} concepts, {facts['units']} units: {_interval(facts['experts'], 0)} experts a concept."
    if not len(result.table):
        return told
    for name, own in result.table[result.table["rho"].notna()].groupby("ratings", sort=False):
        first = own[own["role"] == EXPERTS].iloc[0]
        others = own[own["role"] == "baseline"]
        told += f" On {name} their overlap agrees with people at rho {fixed(first['rho'])}"
        told += f" ({span(first['low'], first['high'])}; {first['n_pairs']:.0f} pairs)"
        if len(others):
            best = others.sort_values("rho").iloc[-1]
            side = "above" if first["rho"] > best["rho"] else "below"
            told += f", {side} the best baseline, {best['row']}, at {fixed(best['rho'])}"
        told += "."
    return told


def _chapter(result: ExpertsResult) -> Iterator[Section]:
    if len(result.table):
        yield Section("Agreement with people", list(_agreement(result)))
    yield Section("Concepts", [picture(concept_map(result.similarity), _MAP), _concepts(result)])
    yield Section("Where experts are", [picture(places_figure(result.counts), _PLACES)])
    yield Section(
        "Tree and similarities",
        [gallery([similarity_figure(result.similarity), tree_figure(result.similarity)])],
        collapsed=True,
    )
    yield Section("The best experts", [_experts(result)], collapsed=True)
    yield Section("How sure is an expert?", [Text(FDR), _sure(result.facts)])
    if result.findings:
        yield Section(
            "What to know of the concepts", [Text(finding) for finding in result.findings], collapsed=True
        )
    seconds = ("seconds", f"{result.seconds:.1f}")
    yield settings_section([*plain(dict(result.config)).items(), seconds])


_MAP = (
    "Colours are clusters of the tree. Two axes cannot hold all distances: what is near here may not be elsewhere, and "
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
        if not any(own["note"]):
            frame = frame.drop(columns="note")
        known = own[own["n_pairs"].notna()].iloc[0]
        n = f"{known['n_pairs']:.0f} pairs of {known['n_concepts']:.0f} concepts"
        marked = [place for place, role in enumerate(own["role"]) if role == EXPERTS]
        yield Table(frame, f"{name}: {n}. {COVERS}", marked=marked)


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
        rows.append(row)
    return Table(pd.DataFrame(rows), f"Overlap of experts by average precision. {COVERS}")
