"""How far a statistic might have come out otherwise: bootstrap intervals (permutation tests are beside it)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri

from trimtab.errors import ShapeError, explain
from trimtab.numerics.permute import Permutation, mantel, permutation_test
from trimtab.numerics.statistics import (
    CHUNK,
    Statistic,
    arrays_of,
    check_choice,
    check_numbers,
    each_line,
    mean,
    mean_difference,
    ratio_of_sums,
)

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
