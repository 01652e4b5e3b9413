"""Agreement of concept similarities with ratings: Spearman's rho, interval over concepts, Mantel test and ceiling.

The hierarchy of concepts is compared with given categories in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy.cluster.hierarchy import average, cophenet, fcluster
from scipy.spatial.distance import squareform
from sklearn.metrics import adjusted_rand_score

from trimtab.errors import DataError, ShapeError, explain, nearest
from trimtab.numerics.bootstrap import Interval, mantel, spearman
from trimtab.numerics.ranking import auroc
from trimtab.numerics.similarity import AgreementDraws, agreement_draws, ceiling, spearman_brown
from trimtab.read.experts.ratings import Judged, Source, judged
from trimtab.runs.brief import brief

DIFFERENCES = ["row", "against", "difference", "low", "high", "told", "n_concepts"]


@dataclass(frozen=True)
class Agreement:
    """Spearman's rank correlation of concept similarities with ratings of the same pairs, and its uncertainty.

    Attributes:
        rho: Spearman's correlation over pairs, in [-1, 1]; nan where all similarities are the same.
        interval: of rho, 95 %, over concepts.
        mantel_p: how often concepts dealt out anew agree as well, one-sided.
        n_pairs: pairs that were judged and known.
        n_concepts: concepts in them.
        reliability: of the similarities: of the two halves of the examples, after Spearman and Brown; nan where
            unknown.
        ceiling: the most that rho can be expected to be; an upper bound where the ratings' reliability is unknown.
        rho_over_ceiling: nan where the ceiling is.
        unknown: words of the ratings that are no concepts.
        source: whose the ratings are, as far as they say so.
        notes: rows of the ratings that were left out or put together, and why.
        draws: rho in each draw of concepts, which `minus` compares.
    """

    rho: float
    interval: Interval
    mantel_p: float
    n_pairs: int
    n_concepts: int
    reliability: float
    ceiling: float
    rho_over_ceiling: float
    unknown: tuple[str, ...] = ()
    source: Source = "ratings"
    notes: tuple[str, ...] = ()
    draws: AgreementDraws | None = field(default=None, repr=False, compare=False)

    __repr__ = brief

    def minus(self, other: Agreement) -> Interval:
        """Paired difference from another rho with the same ratings, with an interval over concepts.

        Both are drawn with the same concepts, so that the interval of the difference can exclude 0 where those of the
        two overlap; `side` gives the verdict.

        Raises:
            ShapeError: the other is of other ratings, other concepts or another seed.
        """
        if self.draws is None or other.draws is None:
            raise ShapeError(explain("an agreement without draws", "two of `agree` or `ExpertLens.align`"))
        return self.draws.minus(other.draws)


def agree(
    similarity: pd.DataFrame,
    human: pd.DataFrame | Judged,
    halves: Sequence[pd.DataFrame] | None = None,
    *,
    reliability: float | None = None,
    n_perm: int = 4999,
    n_boot: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Agreement of similarities with ratings: Spearman's rho, bootstrap over concepts, Mantel test and ceiling.

    Args:
        similarity: concepts as rows and columns.
        human: columns word1, word2, score; see `judged`.
        halves: the same similarity from each half of the examples, for the ceiling; None leaves it unknown.
        reliability: of the scores, in (0, 1], see `trimtab.read.experts.ratings.split_half_reliability`; None takes
            them for exact.
        n_perm: permutations of the Mantel test.
        n_boot: draws of the interval.
        seed: of both; two agreements of one seed can be compared, see `Agreement.minus`.

    Raises:
        DataError: as `judged`.
        ConfigError: a reliability out of range.
    """
    judgements = human if isinstance(human, Judged) else judged(human, list(similarity.index))
    # Similarities that are equal in exact arithmetic may differ in the last digits; rounding keeps them tied.
    matrix = similarity.to_numpy(dtype=float).round(12)
    half_reliability = np.nan
    if halves is not None:
        first, second = judgements.pairs.T
        rated = (half.to_numpy(dtype=float).round(12)[first, second] for half in halves)
        half_reliability = spearman_brown(float(spearman(*rated)))
    highest = ceiling(half_reliability, reliability)
    draws = agreement_draws(matrix, judgements.pairs, judgements.scores, n_boot=n_boot, seed=seed)
    interval = draws.interval()
    return Agreement(
        rho=interval.value,
        interval=interval,
        mantel_p=mantel(matrix, judgements.pairs, judgements.scores, n_perm=n_perm, seed=seed).p_value,
        n_pairs=len(judgements.pairs),
        n_concepts=interval.n,
        reliability=half_reliability,
        ceiling=highest,
        rho_over_ceiling=interval.value / highest,
        unknown=judgements.unknown,
        source=judgements.source,
        notes=judgements.notes,
        draws=draws,
    )


def side(difference: Interval) -> str:
    """Verdict on a paired difference by its interval: "above", "below" or "not distinguishable from".

    Two are distinguishable by an interval that excludes 0 at the three decimals that are shown; an interval that is not
    known is nan and leaves them as they are.

    >>> side(Interval(0.08, 0.01, 0.2, 30)), side(Interval(-0.1, -0.3, 0.1, 30)), side(Interval(6e-8, 1e-9, 1e-7, 30))
    ('above', 'not distinguishable from', 'not distinguishable from')
    """
    if round(difference.low, 3) > 0:
        return "above"
    return "below" if round(difference.high, 3) < 0 else "not distinguishable from"


def differences(agreements: Mapping[str, Agreement], reference: str) -> pd.DataFrame:
    """Paired differences of Spearman's rho: one similarity minus every other one, with intervals over concepts.

    Args:
        agreements: name -> of `agree` or `ExpertLens.align`, all with the same ratings and seed.
        reference: one of the names.

    Returns:
        Columns row (the reference), against, difference, low, high (95 %, over concepts), told (see `side`) and
        n_concepts.

    Raises:
        DataError: no such name; the nearest is named.
        ShapeError: other ratings, concepts or seeds.
    """
    if reference not in agreements:
        expected = f"one of {', '.join(map(repr, agreements))}"
        raise DataError(f"reference: {explain(repr(reference), expected, nearest(reference, agreements))}")
    rows = []
    for name, other in agreements.items():
        if name != reference:
            gap = agreements[reference].minus(other)
            ends = {"difference": gap.value, "low": gap.low, "high": gap.high}
            rows.append({"row": reference, "against": name, **ends, "told": side(gap), "n_concepts": gap.n})
    return pd.DataFrame(rows, columns=DIFFERENCES)


@dataclass(frozen=True)
class Tree:
    """Hierarchical clustering of concepts by average linkage, and its agreement with given categories.

    Attributes:
        names: of the leaves.
        linkage: (leaves - 1, 4) as SciPy has it: what is joined, at which distance (1 - similarity), how many leaves.
        faithfulness: correlation of the distances in the tree with the distances themselves (cophenetic).
        categories: how many given categories the compared concepts have; 0 without a taxonomy.
        auc: how likely two concepts of one category are more alike than two of different ones; nan without a taxonomy.
        auc_p: how often concepts dealt out anew reach it (Mantel), one-sided.
        adjusted_rand: of the tree cut into as many clusters as there are categories; 1 where they are the categories, 0
            on average by chance.
        unknown: concepts without a category.
    """

    names: tuple[str, ...]
    linkage: Float[np.ndarray, "leaves-1 4"]
    faithfulness: float
    categories: int = 0
    auc: float = np.nan
    auc_p: float = np.nan
    adjusted_rand: float = np.nan
    unknown: tuple[str, ...] = ()

    __repr__ = brief


def tree(similarity: pd.DataFrame, taxonomy: Mapping[str, str] | None = None, *, seed: int = 0) -> Tree:
    """Average linkage (UPGMA) on 1 - similarity, compared with categories where they are given.

    Raises:
        DataError: fewer than two concepts, a similarity that is nan, a taxonomy that knows fewer than three of the
            concepts, or one with a single category.
    """
    names = [str(name) for name in similarity.index]
    if len(names) < 2:
        raise DataError(explain(f"the single concept {', '.join(names)!r}", "at least two for a tree"))
    linkage, faithfulness = _joined(similarity.to_numpy(dtype=float))
    if taxonomy is None:
        return Tree(tuple(names), linkage, faithfulness)
    categorised = [name for name in names if name in taxonomy]
    labels = [taxonomy[name] for name in categorised]
    count = len(set(labels))
    if len(categorised) < 3 or count < 2:
        got = f"a taxonomy of {count} categories that knows {len(categorised)} of the concepts"
        raise DataError(explain(got, "at least 3 concepts in two categories"))
    matrix = similarity.loc[categorised, categorised].to_numpy(dtype=float)
    pairs = np.stack(np.triu_indices(len(categorised), 1), 1)
    same = np.array([labels[i] == labels[j] for i, j in pairs])
    clusters = fcluster(_joined(matrix)[0], count, "maxclust")
    return Tree(
        names=tuple(names),
        linkage=linkage,
        faithfulness=faithfulness,
        categories=count,
        auc=float(auroc(torch.from_numpy(matrix[pairs[:, 0], pairs[:, 1]]), torch.from_numpy(same))),
        # With two kinds of scores Spearman's correlation and the AUC put permutations in the same order.
        auc_p=mantel(matrix, pairs, same.astype(float), seed=seed).p_value,
        adjusted_rand=float(adjusted_rand_score(labels, clusters)),
        unknown=tuple(name for name in names if name not in taxonomy),
    )


def _joined(matrix: Float[np.ndarray, "c c"]) -> tuple[Float[np.ndarray, "c-1 4"], float]:
    if np.isnan(matrix).any():
        raise DataError(explain("similarities that are nan", "numbers for all pairs", 'kind="jaccard"'))
    distance = squareform(1 - (matrix + matrix.T) / 2, checks=False)
    linkage = np.asarray(average(distance))
    if len(distance) < 2 or np.ptp(distance) == 0:
        return linkage, np.nan
    return linkage, float(cophenet(linkage, distance)[0])
