"""Permutation tests: how often relabelled observations, or items, give a statistic as extreme as the observed one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product
from math import comb
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from trimtab.errors import ShapeError, explain
from trimtab.numerics.statistics import (
    CHUNK,
    Statistic,
    arrays_of,
    check_choice,
    check_numbers,
    each_line,
    pearson,
    spearman,
)

Alternative = Literal["two-sided", "less", "greater"]
Pairs = Int[np.ndarray, "m 2"]
"""Places of the two items of each pair."""


@dataclass(frozen=True)
class Permutation:
    """The outcome of a permutation test.

    Attributes:
        value: the statistic of the samples as they are.
        p_value: probability, when the samples are exchangeable, of a value at least as extreme; nan when a
            sample is too small to say.
        n: how many rearrangements stand behind it.
        exact: whether those are all there are.
    """

    value: float
    p_value: float
    n: int
    exact: bool


def permutation_test(
    statistic: Statistic,
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " m"],
    *,
    paired: bool = False,
    alternative: Alternative = "two-sided",
    n_perm: int = 9999,
    seed: int = 0,
) -> Permutation:
    """How often relabelling the observations gives a statistic at least as extreme as the one observed.

    Independent samples are pooled and dealt out again; paired ones are swapped within pairs. When there are at
    most `n_perm` rearrangements each is looked at once and the p-value is exact; else `n_perm` are drawn and the
    observed one is counted among them, so that the p-value is valid and never 0.

    Args:
        statistic: `statistic(first, second)`, with or without an `axis` keyword, as for `bootstrap`.
        first, second: one-dimensional samples, of equal length when paired.
        paired: swap within pairs instead of dealing out the pool.
        alternative: "greater" counts rearrangements at least as large, "less" at most as large, "two-sided" is
            twice the smaller of the two.
        n_perm: rearrangements to look at.
        seed: the same seed gives the same p-value.

    Returns:
        The test; its p-value is nan with fewer than two observations in a sample or a statistic that is nan.

    Raises:
        ShapeError: a sample that is not one-dimensional or is empty, or paired samples of different lengths.
        ConfigError: unknown alternative, or n_perm below 1.

    Source: Phipson and Smyth 2010 for the count of the observed arrangement.

    >>> from trimtab.numerics.statistics import mean_difference
    >>> permutation_test(mean_difference, np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]))
    Permutation(value=-3.0, p_value=0.1, n=20, exact=True)
    """
    check_choice("alternative", alternative, get_args(Alternative))
    check_numbers("n_perm", n_perm)
    first, second = arrays_of((first, second), same_length=paired)
    value = float(statistic(first, second))
    if min(len(first), len(second)) < 2 or np.isnan(value):
        return Permutation(value, np.nan, 0, False)
    every = 2 ** len(first) if paired else comb(len(first) + len(second), len(first))
    exact = every <= n_perm
    deals = _deals(len(first), len(second), paired, None if exact else n_perm, np.random.default_rng(seed))
    pool = np.concatenate([first, second])
    values = np.concatenate(
        [each_line(statistic, [pool[deal[:, : len(first)]], pool[deal[:, len(first) :]]]) for deal in deals]
    )
    return Permutation(value, p_value(value, values, alternative, exact), len(values), exact)


def mantel(
    similarity: Float[np.ndarray, "n n"],
    pairs: Pairs,
    scores: Float[np.ndarray, " m"],
    *,
    n_perm: int = 4999,
    seed: int = 0,
) -> Permutation:
    """How often items dealt out anew agree with the scores of their pairs at least as well as they do.

    Pairs that share an item are not independent; items are, so items are permuted (Mantel 1967). Scores need not cover
    all pairs.

    Args:
        similarity: of each two items.
        pairs: that were judged.
        scores: one judgement of each.
        n_perm: permutations; the observed order is counted among them.
        seed: of the permutations.

    Returns:
        Spearman's correlation and its one-sided p-value; nan with fewer than three pairs or a constant side.

    Raises:
        ShapeError: not a square of similarities, or not one score per pair.
        ConfigError: n_perm below 1.

    >>> points = np.array([0.0, 1.0, 3.0, 7.0, 15.0, 31.0])
    >>> first, second = np.triu_indices(6, 1)
    >>> near = -abs(points[:, None] - points)
    >>> found = mantel(near, np.stack([first, second], 1), near[first, second])
    >>> round(found.value, 6), found.p_value < 0.05
    (1.0, True)
    """
    check_pairs(similarity, pairs, scores)
    check_numbers("n_perm", n_perm)
    value = float(spearman(similarity[pairs[:, 0], pairs[:, 1]], scores))
    if len(pairs) < 3 or np.isnan(value):
        return Permutation(value, np.nan, 0, False)
    correlation = spearman
    if _every_pair_once(similarity, pairs):
        # Dealing items out anew only moves similarities about, so that ranking them once is enough.
        similarity, scores, correlation = _ranked(similarity, pairs), rankdata(scores), pearson
    rng, reached = np.random.default_rng(seed), 0
    chunk = max(1, CHUNK // (4 * len(pairs)))
    for start in range(0, n_perm, chunk):
        rows = min(chunk, n_perm - start)
        deals = rng.permuted(np.tile(np.arange(len(similarity)), (rows, 1)), axis=1)
        dealt = similarity[deals[:, pairs[:, 0]], deals[:, pairs[:, 1]]]
        # A deal that leaves the judged pairs without variance says nothing against chance, and so counts.
        found = correlation(dealt, scores)
        reached += int((~(found < value - 1e-12)).sum())
    return Permutation(value, (reached + 1) / (n_perm + 1), n_perm, False)


def _every_pair_once(similarity: Float[np.ndarray, "n n"], pairs: Pairs) -> bool:
    """Whether each two items were judged, once, and are as alike in either order."""
    wanted = np.triu_indices(len(similarity), 1)
    if len(pairs) != len(wanted[0]) or not np.array_equal(similarity, similarity.T):
        return False
    ordered = np.sort(pairs, axis=1)
    return np.array_equal(ordered[np.lexsort((ordered[:, 1], ordered[:, 0]))], np.stack(wanted, axis=1))


def _ranked(similarity: Float[np.ndarray, "n n"], pairs: Pairs) -> Float[np.ndarray, "n n"]:
    """Ranks of the pairs' similarities, in place of them."""
    first, second = pairs.T
    ranks = np.zeros_like(similarity, dtype=float)
    ranks[first, second] = ranks[second, first] = rankdata(similarity[first, second])
    return ranks


def check_pairs(similarity: np.ndarray, pairs: np.ndarray, scores: np.ndarray) -> None:
    """Refuse what are not similarities of items and judgements of their pairs."""
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ShapeError(explain(f"similarities of shape {similarity.shape}", "(items, items)"))
    if pairs.shape != (len(scores), 2):
        got = f"pairs of shape {pairs.shape} and {len(scores)} scores"
        raise ShapeError(explain(got, "(pairs, 2) and a score per pair"))


def _deals(
    first: int, second: int, paired: bool, n_perm: int | None, rng: np.random.Generator
) -> Iterator[Int[np.ndarray, "b n"]]:
    """Rearrangements of the pooled rows in chunks: all of them, or `n_perm` drawn at random."""
    rows, chunk = np.arange(first + second), max(1, CHUNK // (first + second))
    if n_perm is None:
        yield _every_deal(first, second, paired)
        return
    for start in range(0, n_perm, chunk):
        shape = min(chunk, n_perm - start)
        if paired:
            yield _swapped(rng.random((shape, first)) < 0.5)
        else:
            yield rng.permuted(np.tile(rows, (shape, 1)), axis=1)


def _every_deal(first: int, second: int, paired: bool) -> Int[np.ndarray, "b n"]:
    if paired:
        return _swapped(np.array(list(product([False, True], repeat=first))))
    chosen = np.array(list(combinations(range(first + second), first)))
    rest = np.ones((len(chosen), first + second), dtype=bool)
    np.put_along_axis(rest, chosen, False, axis=1)
    return np.hstack([chosen, np.nonzero(rest)[1].reshape(len(chosen), second)])


def _swapped(swap: np.ndarray) -> Int[np.ndarray, "b n"]:
    """Row numbers of the pooled pairs after swapping within the marked ones."""
    n = swap.shape[1]
    lower = np.where(swap, np.arange(n) + n, np.arange(n))
    return np.hstack([lower, (lower + n) % (2 * n)])


def p_value(
    value: float, values: np.ndarray, alternative: Alternative = "two-sided", exact: bool = False
) -> float:
    """The share of rearrangements at least as extreme as the value; the observed one is counted unless `exact`."""
    # Equal in exact arithmetic may differ in the last digits, and then a tie would be lost.
    tie = 1e-12 * float(np.abs(values).max())
    extra = 0 if exact else 1
    shares = {
        "greater": ((values >= value - tie).sum() + extra) / (len(values) + extra),
        "less": ((values <= value + tie).sum() + extra) / (len(values) + extra),
    }
    if alternative == "two-sided":
        return min(1.0, 2.0 * float(min(shares.values())))
    return float(shares[alternative])
