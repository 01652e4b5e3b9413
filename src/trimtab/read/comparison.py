"""The table of an alignment with people: experts, what else would give such similarities, and what must not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from trimtab.numerics.proportion import wilson
from trimtab.numerics.resample import Interval
from trimtab.numerics.similarity import jaccard
from trimtab.read import baselines
from trimtab.read.agreement import Judged, agree
from trimtab.read.detection import detect
from trimtab.read.experts import ExpertLens
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


def aligned(
    table: list[Row], lens: ExpertLens, ratings: Mapping[str, Judged], reliability: Mapping[str, float]
) -> pd.DataFrame:
    """Every row of the table beside every set of ratings.

    Returns:
        Columns row, role, ratings, rho, low, high, mantel_p, n_pairs, n_concepts, ceiling, rho_over_ceiling, note.
    """
    found = []
    for row in table:
        for name, judged in ratings.items():
            known: dict[str, object] = {"row": row.name, "role": row.role, "ratings": name, "note": row.note}
            if row.similarity is not None:
                halves = (
                    None if row.halves is None else (lens.framed(row.halves[0]), lens.framed(row.halves[1]))
                )
                it = agree(
                    lens.framed(row.similarity),
                    judged,
                    halves,
                    reliability=reliability.get(name),
                    n_perm=N_PERM,
                    n_boot=N_BOOT,
                    seed=lens.seed,
                )
                known |= {"rho": it.rho, "low": it.interval.low, "high": it.interval.high}
                known |= {"mantel_p": it.mantel_p, "n_pairs": it.n_pairs, "n_concepts": it.n_concepts}
                known |= {"ceiling": it.ceiling, "rho_over_ceiling": it.rho_over_ceiling}
            found.append(known)
    return pd.DataFrame(found, columns=COLUMNS)


COLUMNS = [
    "row", "role", "ratings", "rho", "low", "high", "mantel_p", "n_pairs", "n_concepts", "ceiling",
    "rho_over_ceiling", "note",
]  # fmt: skip


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
    for name, how in ways:
        matrix, *halves = (
            part.similarity(**how).to_numpy()  # type: ignore[arg-type]
            for part in (lens, *lens.halves)
        )
        yield Row(name, EXPERTS, matrix, (halves[0], halves[1]))
    yield Row(
        f"experts with AP above {tau:g}, beyond their numbers (z)",
        EXPERTS,
        baselines.matched_in_number(lens, tau)[1],
    )


def _baseline_rows(lens: ExpertLens) -> Iterator[Row]:
    embeddings = "mean sentence embedding"
    if lens.concepts.textual:
        yield Row("shared words (TF-IDF centroids)", BASELINE, baselines.shared_words(lens.concepts))
        words = [concept.word for concept in lens.concepts]
        static = baselines.static_embeddings(lens.responses.model, lens.concepts) if all(words) else None
        yield Row(
            "static input embeddings", BASELINE, static, note="" if all(words) else "concepts are no words"
        )
    else:
        for name in ("shared words (TF-IDF centroids)", "static input embeddings"):
            yield Row(name, BASELINE, None, note="pictures have no words")
    for kind, matrix in baselines.sentence_embeddings(lens).items():
        yield Row(
            f"{embeddings}, {kind}" if lens.concepts.textual else f"mean embedding, {kind}", BASELINE, matrix
        )


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
