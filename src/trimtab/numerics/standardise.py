"""Two groups compared stratum by stratum: means, gaps, gaps at a common mix of strata, and pooled ratios.

Every function here takes `yes` and `n` of shape (..., 2, strata): for the reference group (0) and the other group (1),
the sum of what was observed and the number of observations, in each stratum. Sums may be fractional, so an object's
share of answers counts as one observation between 0 and 1. A group without members is nan, never 0. All are analytic
in their arguments, so that `numerics.totals` can differentiate them.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

Cells = Float[np.ndarray, "*lines 2 strata"]


def quotient(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The quotient; nan where the bottom is zero.

    >>> quotient(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    some = bottom.real != 0
    return np.asarray(np.where(some, top / np.where(some, bottom, 1.0), np.nan))


def means(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines 2"]:
    """The mean of each group over all strata."""
    return quotient(yes.sum(axis=-1), n.sum(axis=-1))


def gap(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """The mean of the other group minus that of the reference.

    >>> float(gap(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])))
    0.25
    """
    mean = means(yes, n)
    return np.asarray(mean[..., 1] - mean[..., 0])


def shared(n: Cells) -> Float[np.ndarray, "*lines strata"]:
    """1 for each stratum in which both groups have members, else 0."""
    return np.asarray((n.real > 0).all(axis=-2).astype(float))


def standardised_gap(
    yes: Cells, n: Cells, mix: Float[np.ndarray, "*lines strata"]
) -> Float[np.ndarray, "*lines"]:
    """The gap that would be seen if both groups came in the same mix of strata (direct standardisation).

    Strata in which a group has no members cannot be compared; the rest of the mix is scaled to one.

    Args:
        yes, n: sums and numbers.
        mix: weight of each stratum, of any sum: the numbers of one group for its mix, of both for the pooled one.

    Returns:
        sum_k mix_k (mean_1k - mean_0k) / sum_k mix_k over shared strata; nan where there is none.

    Source: Kitagawa 1955, "Components of a difference between two rates".

    >>> yes, n = np.array([[8.0, 0.0], [2.0, 0.0]]), np.array([[10.0, 10.0], [2.0, 18.0]])
    >>> round(float(standardised_gap(yes, n, n[1])), 12)  # 2 of 20 in stratum 0, whose gap is .2
    0.02
    """
    both = shared(n)
    weights = mix * both
    some = np.where(n.real > 0, n, 1.0)
    differences = (yes[..., 1, :] / some[..., 1, :] - yes[..., 0, :] / some[..., 0, :]) * both
    return quotient((weights * differences).sum(axis=-1), weights.sum(axis=-1))


def odds_ratio(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """The odds of the other group over those of the reference, strata put together; nan without a denominator.

    >>> float(odds_ratio(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])))
    3.0
    """
    top, bottom = yes.sum(axis=-1), (n - yes).sum(axis=-1)
    return quotient(top[..., 1] * bottom[..., 0], top[..., 0] * bottom[..., 1])


def risk_ratio(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """The mean of the other group over that of the reference; nan where that is zero.

    >>> float(risk_ratio(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])))
    1.5
    """
    mean = means(yes, n)
    return quotient(mean[..., 1], mean[..., 0])


def mantel_haenszel(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """The odds ratio common to the strata, by Mantel and Haenszel; strata with one group add nothing.

    Source: Mantel and Haenszel 1959, "Statistical aspects of the analysis of data from retrospective studies".

    >>> yes, n = np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[3.0, 3.0], [4.0, 4.0]])
    >>> round(float(mantel_haenszel(yes, n)), 12)
    2.0
    """
    return _weighted_ratio(yes, n - yes, n)


def mantel_haenszel_risk(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """The risk ratio common to the strata, by Mantel and Haenszel's weights.

    Source: Greenland and Robins 1985, "Estimation of a common effect parameter from sparse follow-up data".

    >>> yes, n = np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[4.0, 4.0], [4.0, 4.0]])
    >>> float(mantel_haenszel_risk(yes, n))
    2.0
    """
    return _weighted_ratio(yes, n, n)


def _weighted_ratio(yes: Cells, against: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """sum_k yes_1k against_0k / n_k over sum_k yes_0k against_1k / n_k, with n_k of both groups in stratum k."""
    both = n.sum(axis=-2)
    both = np.where(both.real > 0, both, 1.0)
    top, bottom = (yes[..., one, :] * against[..., 1 - one, :] / both for one in (1, 0))
    return quotient(top.sum(axis=-1), bottom.sum(axis=-1))
