"""The table of an alignment with ratings: experts, what else would give such similarities, and what must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from trimtab.numerics.proportion import wilson
from trimtab.numerics.resample import Interval
from trimtab.numerics.similarity import jaccard
from trimtab.read import baselines
from trimtab.read.agreement import DIFFERENCES, Agreement, agree, differences, side
from trimtab.read.detection import detect
from trimtab.read.experts import ExpertLens
from trimtab.read.judgements import Judged
from trimtab.read.selection import Selection, q_values

Tell = Callable[[str], None]
N_PERM, N_BOOT = 1999, 1000
EXPERTS, BASELINE, CONTROL = "experts", "baseline", "control"


@dataclass(frozen=True)
class Row:
    """One way to say how alike concepts are.

    Attributes:
        name: of the way.
        role: what it is in the table: experts, a baseline, or a control.
        similarity: (concepts, concepts); None where it cannot be had.
        halves: the same from each half of the examples; None where a ceiling means nothing.
        note: why it cannot be had, or what to know.
    """

    name: str
    role: str
    similarity: np.ndarray | None
    halves: tuple[np.ndarray, np.ndarray] | None = None
    note: str = ""


def rows(lens: ExpertLens, tau: float, top: int, tell: Tell = lambda _: None) -> Iterator[Row]:
    """Every row of the table, experts first.

    Args:
        lens: fitted.
        tau: threshold of average precision for experts.
        top: number of experts in the rows that have a fixed one.
        tell: told what is being done.
    """
    yield from _expert_rows(lens, tau, top)
    tell("baselines")
    yield from _baseline_rows(lens)
    yield from _control_rows(lens, tau, tell)


@dataclass(frozen=True)
class Alignment:
    """Every row of a table beside every set of ratings, and the differences between rows.

    Attributes:
        table: columns row, role, ratings, rho, low, high, mantel_p, n_pairs, n_concepts, ceiling, rho_over_ceiling,
            note, source (whose the ratings are), and how much higher the rho of the first row, the experts that the
            settings name, is than that of this row: difference, difference_low, difference_high, told (see
            `trimtab.read.agreement.side`).
        differences: of every row of experts with every baseline: columns ratings, row, against, difference, low, high,
            told, n_concepts; intervals are paired, over concepts.
    """

    table: pd.DataFrame
    differences: pd.DataFrame


def alignment(
    table: list[Row], lens: ExpertLens, ratings: Mapping[str, Judged], reliability: Mapping[str, float]
) -> Alignment:
    """Every row of the table beside every set of ratings; all rows of one set are drawn with the same concepts."""
    by_ratings: dict[str, dict[str, Agreement]] = {name: {} for name in ratings}
    for row in table:
        if row.similarity is not None:
            for name, judged in ratings.items():
                by_ratings[name][row.name] = _agreement(row, lens, judged, reliability.get(name))
    found, gaps = [], []
    for row in table:
        for name, judged in ratings.items():
            own = by_ratings[name]
            known = {
                "row": row.name,
                "role": row.role,
                "ratings": name,
                "note": row.note,
                "source": judged.source,
            }
            found.append(known | _told(own.get(row.name), own.get(table[0].name), row is table[0]))
    for name, own in by_ratings.items():
        rivals = {row.name: own[row.name] for row in table if row.role == BASELINE and row.name in own}
        for row in table:
            if row.role == EXPERTS and row.name in own:
                gap = differences({row.name: own[row.name], **rivals}, row.name)
                gaps.append(gap.assign(ratings=name))
    between = pd.concat(gaps, ignore_index=True) if gaps else pd.DataFrame()
    return Alignment(pd.DataFrame(found, columns=COLUMNS), between.reindex(columns=["ratings", *DIFFERENCES]))


def aligned(
    table: list[Row], lens: ExpertLens, ratings: Mapping[str, Judged], reliability: Mapping[str, float]
) -> pd.DataFrame:
    """The table of `alignment`."""
    return alignment(table, lens, ratings, reliability).table


COLUMNS = [
    "row", "role", "ratings", "rho", "low", "high", "mantel_p", "n_pairs", "n_concepts", "ceiling",
    "rho_over_ceiling", "note", "source", "difference", "difference_low", "difference_high", "told",
]  # fmt: skip


def _agreement(row: Row, lens: ExpertLens, judged: Judged, reliability: float | None) -> Agreement:
    assert row.similarity is not None
    halves = None if row.halves is None else (lens.framed(row.halves[0]), lens.framed(row.halves[1]))
    similarity = lens.framed(row.similarity)
    return agree(
        similarity, judged, halves, reliability=reliability, n_perm=N_PERM, n_boot=N_BOOT, seed=lens.seed
    )


def _told(it: Agreement | None, first: Agreement | None, is_first: bool) -> dict[str, object]:
    """The cells of a row that are measured."""
    if it is None:
        return {}
    cells: dict[str, object] = {"rho": it.rho, "low": it.interval.low, "high": it.interval.high}
    cells |= {"mantel_p": it.mantel_p, "n_pairs": it.n_pairs, "n_concepts": it.n_concepts}
    cells |= {"ceiling": it.ceiling, "rho_over_ceiling": it.rho_over_ceiling}
    if first is not None and not is_first:
        gap = first.minus(it)
        cells |= {"difference": gap.value, "difference_low": gap.low, "difference_high": gap.high}
        cells |= {"told": side(gap)}
    return cells


def false_discoveries(lens: ExpertLens, fdr: float, times: int = 1) -> Interval:
    """The share of concepts with permuted labels that have any expert at a false discovery rate, with its interval.

    Under a rate that is kept it is at most that rate, since all experts of such a concept are false.
    """
    dealt = baselines.permuted(lens.labellings, lens.seed, times)
    chance = detect(lens.responses, dealt, chance=True, seed=lens.seed).chance
    return wilson(int((q_values(chance) <= fdr).any(-1).sum()), len(dealt))


def _expert_rows(lens: ExpertLens, tau: float, top: int) -> Iterator[Row]:
    ways: list[tuple[str, dict[str, object]]] = [
        (f"experts with AP above {tau:g}, Jaccard", {"kind": "jaccard", "tau": tau}),
        (f"{top} best experts, Jaccard", {"kind": "jaccard", "top": top}),
        (f"experts with AP above {tau:g}, over the smaller set", {"kind": "overlap", "tau": tau}),
        ("AP of all units, cosine", {"kind": "ap_cosine"}),
        ("AP of all units, Spearman", {"kind": "ap_spearman"}),
    ]
    parts = (lens, *lens.halves) if lens.can_be_halved else (lens,)
    for name, how in ways:
        matrix, *halves = (part.similarity(**how).to_numpy() for part in parts)  # type: ignore[arg-type]
        yield Row(name, EXPERTS, matrix, (halves[0], halves[1]) if halves else None)
    yield Row(
        f"experts with AP above {tau:g}, beyond their numbers (z)",
        EXPERTS,
        baselines.matched_in_number(lens, tau)[1],
    )


def _baseline_rows(lens: ExpertLens) -> Iterator[Row]:
    textual = lens.concepts.textual
    if textual:
        yield Row("shared words (TF-IDF centroids)", BASELINE, baselines.shared_words(lens.concepts))
        static, note = None, "concepts are no words"
        if all(concept.word for concept in lens.concepts):
            static = baselines.static_embeddings(lens.responses.model, lens.concepts)
            note = "" if static is not None else "the model has no table of input embeddings"
        yield Row("static input embeddings", BASELINE, static, note=note)
    else:
        for name in ("shared words (TF-IDF centroids)", "static input embeddings"):
            yield Row(name, BASELINE, None, note="pictures have no words")
    means = baselines.sentence_embeddings(lens)
    for kind in baselines.EMBEDDINGS:
        note = "" if means else "a family whose last block we do not know"
        name = f"mean sentence embedding, {kind}" if textual else f"mean embedding, {kind}"
        yield Row(name, BASELINE, means[kind] if means else None, note=note)


def _control_rows(lens: ExpertLens, tau: float, tell: Tell) -> Iterator[Row]:
    own = lens.responses
    tell("control: random weights")
    plain = baselines.fresh(own.model, lens.seed)
    matrix = None
    if plain is not None:
        blind = detect(replace(own, model=plain), lens.labellings).precision
        matrix = jaccard(Selection(tau=tau).of(blind))
    yield Row(
        "random weights, experts", CONTROL, matrix, note="" if plain else "no configuration to build from"
    )
    tell("control: random concepts")
    drawn = detect(own, baselines.random_concepts(lens.concepts, lens.seed)).precision
    yield Row("random sentences, experts", CONTROL, jaccard(Selection(tau=tau).of(drawn)))
    tell("control: masked words")
    if lens.concepts.textual and any(concept.word for concept in lens.concepts):
        texts, dealt = baselines.masked(lens.concepts, baselines.stand_in(own.model))
        hidden = detect(replace(own, examples=texts), dealt).precision
        yield Row("concept word masked, experts", CONTROL, jaccard(Selection(tau=tau).of(hidden)))
    else:
        yield Row("concept word masked, experts", CONTROL, None, note="no word to mask")
    by_size, _ = baselines.matched_in_number(lens, tau)
    yield Row("random sets of the same sizes", CONTROL, by_size)
