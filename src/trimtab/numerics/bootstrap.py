"""Confidence intervals by the bootstrap, Student's of a mean, Wilson's of a share, and permutation p-values.

The bootstrap takes any statistic of samples; means, ratios and correlations are defined here.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import binomtest, rankdata, t

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
        expected = "equal lengths, as rows belong together"
        raise ShapeError(explain(f"lengths {lengths}", expected, "paired=False"))
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


Pairs = Int[np.ndarray, "m 2"]
"""Places of the two items of each pair."""


@dataclass(frozen=True)
class Resampling:
    """Settings of bootstrap intervals and permutation p-values.

    Raises:
        ConfigError: no resample, a confidence outside (0, 1), or a seed below 0.
    """

    n_boot: int = 2000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers("n_boot", self.n_boot, self.confidence)
        if self.seed < 0:
            raise ConfigError(explain(f"seed {self.seed}", "a whole number, at least 0"))


@dataclass(frozen=True)
class Permutation:
    """A permutation test: the statistic and its p-value.

    Attributes:
        value: the statistic of the samples as they are.
        p_value: probability, when the items are exchangeable, of a value at least as extreme; nan when there are too
            few to say.
        n: how many rearrangements stand behind it.
    """

    value: float
    p_value: float
    n: int


def mantel(
    similarity: Float[np.ndarray, "n n"],
    pairs: Pairs,
    scores: Float[np.ndarray, " m"],
    *,
    n_perm: int = 4999,
    seed: int = 0,
) -> Permutation:
    """Mantel's permutation test of the correlation between similarities of items and scores of their pairs.

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
    >>> test = mantel(near, np.stack([first, second], 1), near[first, second])
    >>> round(test.value, 6), test.p_value < 0.05
    (1.0, True)
    """
    check_pairs(similarity, pairs, scores)
    check_numbers("n_perm", n_perm)
    value = float(spearman(similarity[pairs[:, 0], pairs[:, 1]], scores))
    if len(pairs) < 3 or np.isnan(value):
        return Permutation(value, np.nan, 0)
    correlation, judged = spearman, np.sort(pairs, axis=1)
    judged = judged[np.lexsort((judged[:, 1], judged[:, 0]))]
    every_pair_once = np.array_equal(judged, np.stack(np.triu_indices(len(similarity), 1), axis=1))
    if every_pair_once and np.array_equal(similarity, similarity.T):
        # Dealing items out anew only moves similarities about, so that ranking them once is enough.
        ranks = np.zeros_like(similarity, dtype=float)
        first, second = pairs.T
        ranks[first, second] = ranks[second, first] = rankdata(similarity[first, second])
        similarity, scores, correlation = ranks, rankdata(scores), pearson
    rng, reached = np.random.default_rng(seed), 0
    chunk = max(1, CHUNK // (4 * len(pairs)))
    for start in range(0, n_perm, chunk):
        rows = min(chunk, n_perm - start)
        deals = rng.permuted(np.tile(np.arange(len(similarity)), (rows, 1)), axis=1)
        dealt = similarity[deals[:, pairs[:, 0]], deals[:, pairs[:, 1]]]
        # A deal that leaves the judged pairs without variance says nothing against chance, and so counts.
        reached += int((~(correlation(dealt, scores) < value - 1e-12)).sum())
    return Permutation(value, (reached + 1) / (n_perm + 1), n_perm)


def check_pairs(similarity: np.ndarray, pairs: np.ndarray, scores: np.ndarray) -> None:
    """Refuse arrays that are not similarities of items and judgements of their pairs."""
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ShapeError(explain(f"similarities of shape {similarity.shape}", "(items, items)"))
    if pairs.shape != (len(scores), 2):
        got = f"pairs of shape {pairs.shape} and {len(scores)} scores"
        raise ShapeError(explain(got, "(pairs, 2) and a score per pair"))


def p_value(value: float, values: Float[np.ndarray, " n_perm"]) -> float:
    """Two-sided permutation p-value: twice the share of rearrangements beyond the value on the rarer side, at most 1.

    The observed arrangement is counted among them (Phipson and Smyth 2010), so that it is valid and never 0.

    >>> p_value(3.0, np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 1.0, 0.0, -2.0, 1.0]))
    0.4
    """
    # Equal in exact arithmetic may differ in the last digits, and then a tie would be lost.
    tie = 1e-12 * float(np.abs(values).max())
    rarer = min((values >= value - tie).sum(), (values <= value + tie).sum())
    return min(1.0, 2.0 * float((rarer + 1) / (len(values) + 1)))


@dataclass(frozen=True)
class Interval:
    """A statistic with a confidence interval.

    Attributes:
        value: the statistic of the samples as they are.
        low, high: the ends of the interval; nan when it is undefined, as for fewer than two units.
        n: how many independent units were resampled: observations, pairs or clusters, of the smallest sample.
    """

    value: float
    low: float
    high: float
    n: int


_SUMMANDS: dict[Statistic, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    mean: lambda sample: (sample, np.ones_like(sample)),
    mean_difference: lambda first, second: (first - second, np.ones_like(first)),
    ratio_of_sums: lambda numerator, denominator: (numerator, denominator),
}
"""What each row adds to the two sums whose ratio a statistic is; of a cluster, only their totals matter."""


def bootstrap(
    statistic: Statistic,
    *samples: Float[np.ndarray, " n"],
    paired: bool = False,
    clusters: Int[np.ndarray, " n"] | Sequence[object] | None = None,
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap confidence interval of a statistic.

    Units are drawn with replacement: observations, separately in each sample; whole rows across the samples when
    `paired`; whole clusters when `clusters` names the cluster of each row. Of a mean of few
    values it is too short, to z sqrt(1 - 1/n) / t_(n-1) of Student's: under twenty units take `student`.

    Args:
        statistic: `statistic(*samples)`; with an `axis` keyword (as `mean`, `mean_difference`, `ratio_of_sums`
            here and most of numpy) all resamples are computed at once, else one by one.
        samples: one-dimensional, any length; of equal length when paired or clustered.
        paired: rows belong together across samples.
        clusters: a label per row; rows of one label are drawn together. Implies `paired`, and a statistic made of sums:
            `mean`, `mean_difference` or `ratio_of_sums`.
        n_boot: resamples.
        confidence: in (0, 1).
        seed: the same seed gives the same interval.

    Returns:
        The interval. With fewer than two units in a sample its ends are nan.

    Raises:
        ShapeError: no samples, a sample that is not one-dimensional, or lengths that differ where they may not.
        ConfigError: n_boot below 1, confidence outside (0, 1), or clusters of a statistic that is not made of sums.

    Source: Efron and Tibshirani 1993, chapter 13.

    >>> interval = bootstrap(mean, np.arange(100.0))
    >>> interval.value, interval.n, interval.low < 49.5 < interval.high
    (49.5, 100, True)
    >>> bootstrap(mean, np.array([3.0]))
    Interval(value=3.0, low=nan, high=nan, n=1)
    """
    check_numbers("n_boot", n_boot, confidence)
    arrays = arrays_of(samples, same_length=paired or clusters is not None)
    value = float(statistic(*arrays))
    if clusters is not None:
        if statistic not in _SUMMANDS:
            expected = f"one of {[function.__name__ for function in _SUMMANDS]}"
            raise ConfigError(explain(f"clusters of {statistic}", expected, "one row per cluster"))
        labels = np.asarray(clusters)
        if labels.shape != arrays[0].shape:
            got, expected = f"clusters of shape {labels.shape}", f"a label per row, {arrays[0].shape}"
            raise ShapeError(explain(got, expected))
        codes = np.unique(labels, return_inverse=True)[1]
        arrays = [np.bincount(codes, weights=part) for part in _SUMMANDS[statistic](*arrays)]
        statistic, paired = ratio_of_sums, True
    n = min(len(array) for array in arrays)
    if n < 2:
        return Interval(value, np.nan, np.nan, n)
    rng, chunk = np.random.default_rng(seed), max(1, CHUNK // sum(len(array) for array in arrays))
    drawn = []
    for start in range(0, n_boot, chunk):
        lines = min(chunk, n_boot - start)
        picks = [rng.integers(len(a), size=(lines, len(a))) for a in (arrays[:1] if paired else arrays)]
        picks = picks * len(arrays) if paired else picks
        drawn.append(each_line(statistic, [array[rows] for array, rows in zip(arrays, picks, strict=True)]))
    values = np.concatenate(drawn)
    if np.isnan(values).any():
        return Interval(value, np.nan, np.nan, n)
    low, high = np.quantile(values, np.array([1.0 - confidence, 1.0 + confidence]) / 2.0)
    return Interval(value, float(low), float(high), n)


def student(values: Float[np.ndarray, " n"], *, confidence: float = 0.95) -> Interval:
    """Student's t interval of a mean, for few units such as seeds or scenarios: mean ± t_(n-1) s / sqrt(n).

    It holds the mean of normal values as often as it says, from two units on.

    Args:
        values: one-dimensional, one per independent unit.
        confidence: in (0, 1).

    Returns:
        The interval. With fewer than two units its ends are nan.

    Raises:
        ShapeError: values that are not one-dimensional, or none.
        ConfigError: confidence outside (0, 1).

    Source: Student 1908, "The probable error of a mean".

    >>> found = student(np.array([1.0, 2.0, 3.0]))
    >>> found.value, round(found.low, 2), round(found.high, 2), found.n
    (2.0, -0.48, 4.48, 3)
    """
    (array,) = arrays_of((values,), same_length=False)
    check_numbers("n", len(array), confidence)
    centre, n = float(array.mean()), len(array)
    if n < 2:
        return Interval(centre, np.nan, np.nan, n)
    half = float(t.ppf((1.0 + confidence) / 2.0, n - 1) * array.std(ddof=1) / np.sqrt(n))
    return Interval(centre, centre - half, centre + half, n)


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a share of successes.

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
    ends = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return Interval(successes / n, float(ends.low), float(ends.high), n)
