"""Whether similarities of concepts agree with people's: rho, its interval, its p-value, and the most it could be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.errors import DataError, explain
from trimtab.numerics.permute import mantel
from trimtab.numerics.resample import Interval
from trimtab.numerics.similarity import agreement, ceiling, spearman_brown
from trimtab.numerics.statistics import spearman

COLUMNS = ("word1", "word2", "score")
LEAST = 3
"""Pairs: fewer have no rank correlation worth the name."""


@dataclass(frozen=True)
class Agreement:
    """How well similarities of concepts agree with people's.

    Attributes:
        rho: Spearman's correlation over pairs, in [-1, 1]; nan where all similarities are the same.
        interval: of rho, 95 %, over concepts.
        mantel_p: how often concepts dealt out anew agree as well, one-sided.
        n_pairs: pairs that were judged and known.
        n_concepts: concepts in them.
        reliability: of the similarities: of the two halves of the examples, after Spearman and Brown; nan where
            unknown.
        ceiling: the most that rho can be expected to be; an upper bound where people's reliability is unknown.
        rho_over_ceiling: nan where the ceiling is.
        unknown: words of the ratings that are no concepts.
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


@dataclass(frozen=True)
class Judged:
    """People's judgements of pairs of concepts.

    Attributes:
        pairs: (m, 2) places of concepts.
        scores: (m,), any unit; higher is more alike.
        unknown: words that are no concepts, sorted.
    """

    pairs: Int[np.ndarray, "m 2"]
    scores: Float[np.ndarray, " m"]
    unknown: tuple[str, ...]


def judged(human: pd.DataFrame, names: list[str]) -> Judged:
    """The judgements that are about two concepts; a pair judged more than once counts with its mean.

    Raises:
        DataError: a column is missing, a score is no finite number, a word is paired with itself, there is a single
            concept, or fewer than three pairs are known; unknown words are named.
    """
    if len(names) < 2:
        raise DataError(explain(f"the single concept {', '.join(names)!r}", "at least two to compare"))
    if missing := [column for column in COLUMNS if column not in human.columns]:
        got = f"ratings without {', '.join(missing)}"
        raise DataError(explain(got, f"columns {', '.join(COLUMNS)}", "rename the columns"))
    scores = pd.to_numeric(human["score"], errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(scores).all():
        row = int(np.nonzero(~np.isfinite(scores))[0][0])
        raise DataError(f"score of row {row}: {explain(human['score'].iloc[row], 'a finite number')}")
    place = {name: number for number, name in enumerate(names)}
    words = human[["word1", "word2"]].to_numpy(dtype=object)
    alone = [str(first) for first, second in words if first == second]
    if alone:
        raise DataError(explain(f"{alone[0]!r} paired with itself", "pairs of two words"))
    unknown = tuple(sorted({str(word) for word in words.ravel() if word not in place}))
    found: dict[tuple[int, int], list[float]] = {}
    for (first, second), score in zip(words, scores, strict=True):
        if first in place and second in place:
            low, high = sorted((place[first], place[second]))
            found.setdefault((low, high), []).append(float(score))
    if len(found) < LEAST:
        told = f"; unknown: {', '.join(unknown[:20])}" if unknown else ""
        raise DataError(explain(f"{len(found)} rated pairs of concepts{told}", f"at least {LEAST}"))
    return Judged(np.array(list(found)), np.array([np.mean(values) for values in found.values()]), unknown)


def agree(
    similarity: pd.DataFrame,
    human: pd.DataFrame | Judged,
    halves: tuple[pd.DataFrame, pd.DataFrame] | None = None,
    *,
    reliability: float | None = None,
    n_perm: int = 4999,
    n_boot: int = 1000,
    seed: int = 0,
) -> Agreement:
    """Similarities of concepts beside people's judgements of the same pairs.

    Args:
        similarity: concepts as rows and columns.
        human: columns word1, word2, score; see `judged`.
        halves: the same similarity from each half of the examples, for the ceiling; None leaves it unknown.
        reliability: of the scores, in (0, 1]; None takes them for exact.
        n_perm: permutations of the Mantel test.
        n_boot: draws of the interval.
        seed: of both.

    Raises:
        DataError: as `judged`.
        ConfigError: a reliability out of range.
    """
    known = human if isinstance(human, Judged) else judged(human, list(similarity.index))
    matrix = similarity.to_numpy(dtype=float)
    own = np.nan if halves is None else _reliability(halves, known.pairs)
    most = ceiling(own, reliability)
    interval = agreement(matrix, known.pairs, known.scores, n_boot=n_boot, seed=seed)
    return Agreement(
        rho=interval.value,
        interval=interval,
        mantel_p=mantel(matrix, known.pairs, known.scores, n_perm=n_perm, seed=seed).p_value,
        n_pairs=len(known.pairs),
        n_concepts=interval.n,
        reliability=own,
        ceiling=most,
        rho_over_ceiling=interval.value / most,
        unknown=known.unknown,
    )


def _reliability(halves: tuple[pd.DataFrame, pd.DataFrame], pairs: Int[np.ndarray, "m 2"]) -> float:
    first, second = (half.to_numpy(dtype=float)[pairs[:, 0], pairs[:, 1]] for half in halves)
    return spearman_brown(float(spearman(first, second)))
