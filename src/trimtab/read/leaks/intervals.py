"""Intervals of leaks: means over groups, and the upper end of an information that a trained classifier approaches."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.special import stdtrit

UNLEARNT = 1.5
"""What upper ends allow for, in units of what half as many rows more taught: three quarters of what is missing."""


def clustered_mean(
    values: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"], unit: float = 0.0
) -> tuple[float, float, float]:
    """Mean with its 95 % interval over clusters: Student's, from the linearised variance of a ratio of totals.

    Args:
        values: of each row.
        clusters: whole numbers from 0.
        unit: the size of one difference. Half a difference each way is added to the variance, so that an interval of
            equal rows is not empty (Agresti and Min 2005 for paired proportions); 0 for none. A difference is that of a
            whole cluster of the mean size, so that rows that stand several times in their cluster narrow nothing.

    Returns:
        The mean and the ends; nan ends where there are fewer than two clusters.

    >>> clustered_mean(np.array([0.0, 1.0]), np.array([0, 1]))[0]
    0.5
    """
    n, sizes = len(values), np.bincount(clusters)
    mean, count = float(values.mean()), int((sizes > 0).sum())
    if count < 2:
        return mean, float("nan"), float("nan")
    residuals = np.bincount(clusters, weights=values - mean)
    variance = residuals @ residuals * count / (count - 1) / n**2 + (unit / count) ** 2
    half = float(stdtrit(count - 1, 0.975) * np.sqrt(variance))
    return mean, mean - half, mean + half


def information_upper(
    gained: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    codes: Int[np.ndarray, " n"],
    unknown: float,
) -> float:
    """Upper end of the 95 % interval of an information, whose variance is that at the end, as in Wilson's interval.

    A small estimate goes with a small variance of its rows, which says little of what may be there: the information
    density of a channel of I bits has a variance of 2 I / ln 2 where I is small, whatever the channel. Up from the
    estimate the variance grows by (2 / ln 2) I (1 - I / U), which falls again towards U, where all is known.

    Args:
        gained: bits gained by the attacker in each row.
        clusters: whole numbers from 0.
        codes: class of each row, whole numbers from 0; rows of one cluster and one class count as one.
        unknown: U, bits a row that are to be known at all; above 0.

    Returns:
        Bits, at or above the upper end of Student's interval.

    Source: the variance near independence is that of twice the log-likelihood ratio (Wilks 1938).

    >>> rows = np.arange(384)
    >>> round(information_upper(np.zeros(384), rows, rows % 2, 1.0), 3)
    0.028
    """
    mean, _, plain = clustered_mean(gained, clusters)
    quantile = float(stdtrit(clusters.max(), 0.975))
    grows = quantile**2 / len(np.unique(clusters * (codes.max() + 1) + codes)) * 2 / np.log(2)

    def known(bits: float) -> float:
        return bits * (1 - bits / unknown)

    # (end - mean)^2 = (plain - mean)^2 + grows (known(end) - known(least)), quadratic in the end.
    least = min(max(mean, 0.0), unknown)
    fixed = (plain - mean) ** 2 + grows * (known(mean) - known(least))
    slope = grows * (1 - 2 * mean / unknown)
    square = 1 + grows / unknown
    wider = (slope + np.sqrt(max(slope**2 + 4 * square * fixed, 0.0))) / (2 * square)
    return mean + max(plain - mean, float(wider))


def upper_with_learning(
    end: float, value: float, taught: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]
) -> float:
    """Upper end that also allows for what more rows would teach a classifier, and for how well that is known.

    The outer folds learn from half as many rows more than the inner ones. Where a loss falls as 1 / rows, twice of what
    that taught is missing still.

    Args:
        end: upper end for classifiers of the outer folds.
        value: the estimate.
        taught: of each row, the outer folds less the inner ones.
        clusters: whole numbers from 0.

    >>> upper_with_learning(0.5, 0.4, np.full(9, 0.02), np.arange(9))
    0.53
    """
    mean, _, upper = clustered_mean(taught, clusters)
    return value + UNLEARNT * max(mean, 0.0) + float(np.hypot(end - value, UNLEARNT * (upper - mean)))
