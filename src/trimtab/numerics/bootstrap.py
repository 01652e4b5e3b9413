"""How far a statistic might have come out otherwise: bootstrap intervals (permutation tests are beside it).

Statistics of samples: the ones used everywhere, and how any of them is called on many resamples.

Permutation tests: how often relabelled observations, or items, give a statistic as extreme as the observed one.

A share of n with its interval, also when all or none of the n succeed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from math import comb
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

from trimtab.errors import ConfigError, ShapeError, explain, nearest

Statistic = Callable[..., Any]
"""A function of one or more samples; with an `axis` keyword it is computed on many resamples at once."""

CHUNK = 2**22
"""Numbers held at once when resampling."""


def mean(sample: np.ndarray, *, axis: int = -1) -> Any:
    """The mean along an axis.

    >>> float(mean(np.array([1.0, 3.0])))
    2.0
    """
    return sample.mean(axis=axis)


def mean_difference(first: np.ndarray, second: np.ndarray, *, axis: int = -1) -> Any:
    """The mean of the first sample minus the mean of the second, along an axis.

    >>> float(mean_difference(np.array([1.0, 3.0]), np.array([1.0])))
    1.0
    """
    return first.mean(axis=axis) - second.mean(axis=axis)


def ratio_of_sums(numerator: np.ndarray, denominator: np.ndarray, *, axis: int = -1) -> Any:
    """The sum of the first sample over the sum of the second: a mean weighted by the second, such as loss per token.

    >>> float(ratio_of_sums(np.array([4.0, 2.0]), np.array([3.0, 1.0])))
    1.5
    """
    return numerator.sum(axis=axis) / denominator.sum(axis=axis)


def spearman(
    first: Float[np.ndarray, "*lines m"], second: Float[np.ndarray, "*#lines m"]
) -> Float[np.ndarray, " *lines"]:
    """Spearman's correlation along the last axis, ties at their mean rank; nan where a side is constant.

    One line as the second side goes with every line of the first.

    >>> float(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 8.0, 27.0])).round(6))
    1.0
    """
    return pearson(rankdata(first, axis=-1), rankdata(second, axis=-1))


def pearson(
    first: Float[np.ndarray, "*lines m"], second: Float[np.ndarray, "*#lines m"]
) -> Float[np.ndarray, " *lines"]:
    """Pearson's correlation along the last axis; nan where a side is constant.

    One line as the second side goes with every line of the first.

    >>> float(pearson(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])).round(6))
    -1.0
    """
    x, y = (side - side.mean(-1, keepdims=True) for side in (first, second))
    size = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    return np.asarray(np.divide((x * y).sum(-1), size, out=np.full(size.shape, np.nan), where=size > 0))


def each_line(statistic: Statistic, samples: list[Any]) -> Float[np.ndarray, " b"]:
    """The statistic of each line, at once where the statistic and the shapes allow it."""
    at_once = isinstance(samples[0], np.ndarray) and "axis" in inspect.signature(statistic).parameters
    if at_once:
        return np.asarray(statistic(*samples, axis=-1), dtype=np.float64)
    return np.array([float(statistic(*line)) for line in zip(*samples, strict=True)])


def arrays_of(samples: Sequence[np.ndarray], *, same_length: bool) -> list[np.ndarray]:
    """The samples as float64 arrays of one dimension; refused when empty, misshapen or unequal where they may not."""
    if not samples:
        raise ShapeError(explain("no samples", "at least one", "bootstrap(mean, sample)"))
    arrays = [np.asarray(sample, dtype=np.float64) for sample in samples]
    for array in arrays:
        if array.ndim != 1 or not len(array):
            raise ShapeError(explain(f"a sample of shape {array.shape}", "one dimension, at least one value"))
    lengths = [len(array) for array in arrays]
    if same_length and len(set(lengths)) > 1:
        raise ShapeError(
            explain(f"lengths {lengths}", "equal lengths, as rows belong together", "paired=False")
        )
    return arrays


def check_choice(name: str, got: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among the choices."""
    if got not in choices:
        raise ConfigError(explain(f"{name} {got!r}", f"one of {choices}", nearest(got, choices)))


def check_numbers(name: str, count: int, confidence: float = 0.95) -> None:
    """Refuse a count below 1 and a confidence outside (0, 1)."""
    if count < 1:
        raise ConfigError(explain(f"{name} {count}", "at least 1"))
    if not 0.0 < confidence < 1.0:
        raise ConfigError(explain(f"confidence {confidence}", "a number between 0 and 1", "0.95"))


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

    >>> from trimtab.numerics.bootstrap import mean_difference
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


__all__ = [
    "Interval",
    "Permutation",
    "bootstrap",
    "mantel",
    "mean",
    "mean_difference",
    "permutation_test",
    "ratio_of_sums",
]

IntervalMethod = Literal["percentile", "bca"]


@dataclass(frozen=True)
class Interval:
    """A statistic with a confidence interval.

    Attributes:
        value: the statistic of the samples as they are.
        low, high: the ends of the interval; nan when it cannot be known, as for fewer than two units.
        n: how many independent units were resampled: observations, pairs or clusters, of the smallest sample.
    """

    value: float
    low: float
    high: float
    n: int


def bootstrap(
    statistic: Statistic,
    *samples: Float[np.ndarray, " n"],
    paired: bool = False,
    clusters: Int[np.ndarray, " n"] | Sequence[object] | None = None,
    method: IntervalMethod = "percentile",
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A bootstrap confidence interval of a statistic.

    Units are drawn with replacement: observations, separately in each sample; whole rows across the samples when
    `paired`; whole clusters when `clusters` names the cluster of each row.

    Args:
        statistic: `statistic(*samples)`; with an `axis` keyword (as `mean`, `mean_difference`, `ratio_of_sums`
            here and most of numpy) all resamples are computed at once, else one by one.
        samples: one-dimensional, any length; of equal length when paired or clustered.
        paired: rows belong together across samples.
        clusters: a label per row; rows of one label are drawn together. Implies `paired`.
        method: "percentile", or "bca": corrected for bias and skewness (Efron 1987), better for small samples.
        n_boot: resamples.
        confidence: in (0, 1).
        seed: the same seed gives the same interval.

    Returns:
        The interval. With fewer than two units in a sample its ends are nan. "bca" is nan when no resample differs.

    Raises:
        ShapeError: no samples, a sample that is not one-dimensional, or lengths that differ where they may not.
        ConfigError: unknown method, n_boot below 1, or confidence outside (0, 1).

    Source: Efron and Tibshirani 1993, chapters 13 and 14.

    >>> interval = bootstrap(mean, np.arange(100.0))
    >>> interval.value, interval.n, interval.low < 49.5 < interval.high
    (49.5, 100, True)
    >>> bootstrap(mean, np.array([3.0]))
    Interval(value=3.0, low=nan, high=nan, n=1)
    """
    check_choice("method", method, get_args(IntervalMethod))
    check_numbers("n_boot", n_boot, confidence)
    arrays = arrays_of(samples, same_length=paired or clusters is not None)
    value = float(statistic(*arrays))
    if clusters is None:
        plan: list[_Units] = [np.arange(len(array))[:, None] for array in (arrays[:1] if paired else arrays)]
    else:
        statistic, arrays, plan = _by_cluster(statistic, arrays, clusters)
    n = min(len(units) for units in plan)
    if n < 2:
        return Interval(value, np.nan, np.nan, n)
    values = _resampled(statistic, arrays, plan, n_boot, np.random.default_rng(seed))
    tails = np.array([1.0 - confidence, 1.0 + confidence]) / 2.0
    if method == "bca":
        tails = _corrected(tails, value, values, _left_out(statistic, arrays, plan))
    if np.isnan(tails).any() or np.isnan(values).any():
        return Interval(value, np.nan, np.nan, n)
    low, high = np.quantile(values, tails)
    return Interval(value, float(low), float(high), n)


_Units = np.ndarray | list[np.ndarray]
"""The rows of each independent unit: a matrix when all units are equally large, else a list."""


def _by_cluster(
    statistic: Statistic, arrays: list[np.ndarray], clusters: Sequence[object] | np.ndarray
) -> tuple[Statistic, list[np.ndarray], list[_Units]]:
    """The same problem with clusters as units; a statistic made of sums needs only the clusters' totals."""
    labels = np.asarray(clusters)
    if labels.shape != arrays[0].shape:
        raise ShapeError(explain(f"clusters of shape {labels.shape}", f"a label per row, {arrays[0].shape}"))
    names, codes = np.unique(labels, return_inverse=True)
    summands: dict[Statistic, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
        mean: lambda sample: (sample, np.ones_like(sample)),
        mean_difference: lambda first, second: (first - second, np.ones_like(first)),
        ratio_of_sums: lambda numerator, denominator: (numerator, denominator),
    }
    if statistic in summands:
        parts = summands[statistic](*arrays)
        totals = [np.bincount(codes, weights=part, minlength=len(names)) for part in parts]
        return ratio_of_sums, totals, [np.arange(len(names))[:, None]]
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    even = len({len(row) for row in rows}) == 1
    return statistic, arrays, [np.stack(rows) if even else rows]


def _resampled(
    statistic: Statistic, arrays: list[np.ndarray], plan: list[_Units], n_boot: int, rng: np.random.Generator
) -> Float[np.ndarray, " n_boot"]:
    """The statistic of each resample, in chunks that bound the memory."""
    chunk = max(1, CHUNK // sum(len(array) for array in arrays))
    values = []
    for start in range(0, n_boot, chunk):
        shape = min(chunk, n_boot - start)
        rows = [_rows(units, rng.integers(len(units), size=(shape, len(units)))) for units in plan]
        values.append(each_line(statistic, _gathered(arrays, rows)))
    return np.concatenate(values)


def _left_out(
    statistic: Statistic, arrays: list[np.ndarray], plan: list[_Units]
) -> list[Float[np.ndarray, " n"]]:
    """For each part of the plan, the statistic without each of its units in turn (the jackknife)."""
    left_out = []
    for part, units in enumerate(plan):
        values = []
        for unit in range(len(units)):
            picks = [np.arange(len(other))[None] for other in plan]
            picks[part] = np.delete(picks[part], unit, axis=1)
            rows = [_rows(other, pick) for other, pick in zip(plan, picks, strict=True)]
            values.append(each_line(statistic, _gathered(arrays, rows)))
        left_out.append(np.concatenate(values))
    return left_out


def _rows(units: _Units, picks: Int[np.ndarray, "b k"]) -> np.ndarray | list[np.ndarray]:
    """The rows of the picked units, one line per resample."""
    if isinstance(units, np.ndarray):
        return cast(np.ndarray, units[picks].reshape(len(picks), -1))
    return [np.concatenate([units[unit] for unit in pick]) for pick in picks]


def _gathered(arrays: list[np.ndarray], rows: list[Any]) -> list[Any]:
    """Each sample at its rows; one part of a plan serves all samples when they are resampled together."""
    shared = rows * len(arrays) if len(rows) == 1 else rows
    return [
        array[index] if isinstance(index, np.ndarray) else [array[line] for line in index]
        for array, index in zip(arrays, shared, strict=True)
    ]


def _corrected(
    tails: Float[np.ndarray, " 2"], value: float, values: np.ndarray, left_out: list[np.ndarray]
) -> Float[np.ndarray, " 2"]:
    """The quantiles to read for a BCa interval (Efron and Tibshirani 1993, equations 14.9 to 14.15)."""
    # Samples resampled separately add their third and second moments, as scipy.stats.bootstrap does.
    pulls = [(len(part) - 1) * (part.mean() - part) / len(part) for part in left_out]
    cubes, squares = sum((pull**3).sum() for pull in pulls), sum((pull**2).sum() for pull in pulls)
    with np.errstate(invalid="ignore", divide="ignore"):
        skew = cubes / (6.0 * squares**1.5)
        bias = ndtri((values < value).mean() / 2.0 + (values <= value).mean() / 2.0)
        shifted = bias + ndtri(tails)
        corrected: np.ndarray = ndtr(bias + shifted / (1.0 - skew * shifted))
    return corrected


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The share of successes with Wilson's score interval.

    The interval holds every share p for which the count lies within z sqrt(n p (1 - p)) of n p. It stays inside
    [0, 1] and has a width when all or none succeed, where the textbook p ± z sqrt(p (1 - p) / n) has none.

    Args:
        successes: how many of the n succeeded.
        n: independent trials; with 0 everything is nan.
        confidence: in (0, 1).

    Raises:
        ConfigError: successes outside 0..n, or confidence outside (0, 1).

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    >>> share = wilson(3, 4)
    >>> share.value, round(share.low, 3), round(share.high, 3), share.n
    (0.75, 0.301, 0.954, 4)
    >>> wilson(0, 0)
    Interval(value=nan, low=nan, high=nan, n=0)
    """
    if not 0 <= successes <= n:
        raise ConfigError(explain(f"{successes} successes of {n}", "between none and all of them"))
    check_numbers("n", max(n, 1), confidence)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    z, share = float(ndtri((1 + confidence) / 2)), successes / n
    shrink = 1 + z**2 / n
    middle = (share + z**2 / (2 * n)) / shrink
    half = z / shrink * float(np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)))
    # Exactly 0 and 1 at the ends of the scale, which rounding would miss by 1e-17.
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(share, low if successes else 0.0, high if successes < n else 1.0, n)
