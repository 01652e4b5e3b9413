"""Cluster bootstrap of functions of totals: rates, gaps and ratios of two groups, with intervals.

Each statistic is a function of sums over clusters. It is resampled by drawing *how often* each cluster is taken
(one multinomial draw) and multiplying by the totals of clusters, and clusters of the same totals are drawn as one kind.
That changes no distribution, and makes 2,000 resamples of 700,000 answers a matter of seconds.

Functions of two groups take `yes` and `n` of shape (..., 2, strata): for the reference group (0) and the other one (1),
the sum of what was observed and the number of observations in each stratum. Sums may be fractional, so the share of
answers of an object counts as one observation between 0 and 1. A group without members is nan, never 0. All are
analytic, so that `gradients` can differentiate them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri, stdtrit

from trimtab.errors import ShapeError, explain
from trimtab.numerics.bootstrap import CHUNK, check_choice, check_numbers

TotalsMethod = Literal["percentile", "bca"]
Totals = Float[np.ndarray, "*lines cells values"]
Function = Callable[[np.ndarray], np.ndarray]
"""From totals (..., cells, values) to m statistics (..., m), line by line; of degree 0: twice the data, same value."""

UNDEFINED_AT_MOST = 0.05
"""The share of resamples in which a statistic may be undefined before its interval is."""
_WIDEST = 2**25
_STEP = 1e-20


@dataclass(frozen=True)
class Units:
    """Independent units, equal ones stored once with their count.

    Attributes:
        totals: (kinds, cells, values): what one unit of each kind adds to each cell.
        counts: (kinds,): how many units of each kind there are.
    """

    totals: Float[np.ndarray, "kinds cells values"]
    counts: Int[np.ndarray, " kinds"]

    @property
    def n(self) -> int:
        """The number of independent units."""
        return int(self.counts.sum())

    def total(self) -> Float[np.ndarray, "cells values"]:
        """The totals of all units."""
        return np.tensordot(self.counts.astype(float), self.totals, axes=1)


@dataclass(frozen=True)
class Intervals:
    """Statistics with confidence intervals.

    Attributes:
        values: the statistics of the data as they are.
        low, high: ends of the intervals; nan where they are undefined.
        errors: standard errors, by the delta method.
        n: how many independent units were resampled.
    """

    values: Float[np.ndarray, " m"]
    low: Float[np.ndarray, " m"]
    high: Float[np.ndarray, " m"]
    errors: Float[np.ndarray, " m"]
    n: int


def units_of(
    values: Float[np.ndarray, "rows v"],
    cells: Int[np.ndarray, " rows"],
    n_cells: int,
    clusters: Int[np.ndarray, " rows"] | None = None,
) -> Units:
    """The units of rows: each row adds its values to its cell, and rows of one cluster belong to one unit.

    Args:
        values: what each row adds.
        cells: to which cell, in [0, n_cells).
        n_cells: how many cells there are, empty ones included.
        clusters: labels of the rows' clusters; None: each row is a unit.

    Raises:
        ShapeError: there is no row, or the lengths differ.

    >>> units = units_of(np.ones((3, 1)), np.array([0, 1, 1]), 2, np.array([7, 7, 8]))
    >>> units.n, units.total().ravel().tolist()
    (2, [1.0, 2.0])
    """
    values = np.asarray(values, dtype=float)
    if not len(values) or len(values) != len(cells) or (clusters is not None and len(clusters) != len(cells)):
        got = f"{len(values)} rows and {len(cells)} cells"
        raise ShapeError(explain(got, "as many of each, at least one"))
    rows, kinds = _alike(np.column_stack([cells.astype(float), values]))
    if clusters is None:
        members, counts = np.arange(len(rows))[:, None], np.bincount(kinds)
    else:
        members, counts = _merged(kinds, np.unique(clusters, return_inverse=True)[1])
    totals = np.zeros((len(members), n_cells, values.shape[1]))
    unit, place = np.nonzero(members >= 0)
    row = rows[members[unit, place]]
    np.add.at(totals, (unit, row[:, 0].astype(int)), row[:, 1:])
    return Units(totals, counts)


def _alike(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, and for each row which of them it is."""
    order = np.lexsort(rows.T)
    ranked = rows[order]
    new = np.r_[True, (ranked[1:] != ranked[:-1]).any(axis=1)]
    which = np.empty(len(rows), dtype=int)
    which[order] = np.cumsum(new) - 1
    return ranked[new], which


def _merged(kinds: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each kind of cluster, which kinds of row it holds (-1: none), and how many clusters are of that kind."""
    order = np.lexsort((kinds, clusters))
    sizes = np.bincount(clusters)
    place = np.arange(len(kinds)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    members = np.full((len(sizes), sizes.max()), -1)
    members[clusters[order], place] = kinds[order]
    if members.size > _WIDEST:  # a few huge clusters: looking for alike ones would cost more than it saves
        return members, np.ones(len(members), dtype=int)
    distinct, which = _alike(members)
    return distinct, np.bincount(which)


def spread(
    values: Float[np.ndarray, " rows"], cells: Int[np.ndarray, " rows"], clusters: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, " rows"]:
    """Small-sample inflation: values moved away from the mean of their cell by sqrt(n / (n - 1)), n its clusters.

    Drawing with replacement shows a variance that is too small by (n - 1) / n, which matters where a mean is made of
    cells of a handful of units. The means of cells stay what they are; a cell of one cluster shows no variance at all.

    Source: Davison and Hinkley 1997, section 6.2.3, for residuals of a regression, of which cell means are a case.

    >>> spread(np.array([0.0, 1.0, 5.0]), np.array([0, 0, 1]), np.array([0, 1, 2])).round(3).tolist()
    [-0.207, 1.207, 5.0]
    """
    sizes = np.bincount(cells)
    means = np.bincount(cells, weights=values) / np.maximum(sizes, 1)
    distinct = np.unique(np.column_stack([cells, np.unique(clusters, return_inverse=True)[1]]), axis=0)
    n = np.bincount(distinct[:, 0], minlength=len(sizes))
    factor = np.sqrt(n / np.maximum(n - 1, 1))
    factor[n == 1] = 1.0
    return np.asarray(means[cells] + (values - means[cells]) * factor[cells])


def bootstrap_totals(
    function: Function,
    units: Units,
    *,
    method: TotalsMethod = "percentile",
    n_boot: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Intervals:
    """Bootstrap confidence intervals of several functions of totals; whole units are drawn with replacement.

    Args:
        function: of the totals; must also work on complex numbers, for standard errors (sums, products, quotients and
            conditions on real parts do).
        units: as `units_of` makes them.
        method: "percentile", widened where few units of a cell stand behind a statistic (`_widening`); or "bca":
            corrected for bias and skewness (Efron 1987).
        n_boot: resamples.
        confidence: in (0, 1).
        seed: the same seed gives the same intervals.

    Returns:
        The intervals. Resamples in which a statistic is undefined are left out of its interval, which is nan when
        they are more than one in twenty, or when there are fewer than two units.

    Raises:
        ConfigError: unknown method, n_boot below 1, or confidence outside (0, 1).

    Source: Efron and Tibshirani 1993, chapters 12 to 14.
    """
    check_choice("method", method, get_args(TotalsMethod))
    check_numbers("n_boot", n_boot, confidence)
    total = units.total()
    values = function(total)
    slopes = gradients(function, total)
    pulls = units.totals.reshape(len(units.counts), -1) @ slopes.reshape(len(values), -1).T
    if units.n < 2:
        unknown = np.full(len(values), np.nan)
        return Intervals(values, unknown, unknown, unknown, units.n)
    errors = np.sqrt(units.counts @ pulls**2 * units.n / (units.n - 1))
    rng, flat = np.random.default_rng(seed), units.totals.reshape(len(units.counts), -1)
    chunk = max(1, CHUNK // max(flat.shape))
    lines = [min(chunk, n_boot - start) for start in range(0, n_boot, chunk)]
    draws = (rng.multinomial(units.n, units.counts / units.n, size=size) @ flat for size in lines)
    drawn = np.concatenate([function(sums.reshape(len(sums), *units.totals.shape[1:])) for sums in draws])
    ends = np.full((len(values), 2), np.nan)
    for number, (value, one, pull) in enumerate(zip(values, drawn.T, pulls.T, strict=True)):
        tails = np.array([1.0 - confidence, 1.0 + confidence]) / 2.0
        if method == "bca":
            tails = _bca(value, one, pull, units.counts, tails)
        finite = one[np.isfinite(one)]
        if len(finite) >= (1 - UNDEFINED_AT_MOST) * len(one) and not np.isnan(tails).any():
            ends[number] = np.quantile(finite, tails)
    if method == "percentile":
        ends = values[:, None] + _widening(units, slopes, confidence)[:, None] * (ends - values[:, None])
    low, high = ends.T
    return Intervals(values, low, high, errors, units.n)


def _widening(
    units: Units, slopes: Float[np.ndarray, "m cells values"], confidence: float
) -> Float[np.ndarray, " m"]:
    """Widening of quantiles: Student's over the normal one, by Welch's degrees of freedom.

    A percentile interval takes the variance as known. It is the sum of what each cell adds, and a cell of few units
    knows its part badly (Satterthwaite 1946, "An approximate distribution of estimates of variance components").
    """
    members = units.counts @ (units.totals != 0).any(axis=2)
    parts = np.stack([(units.totals * one).sum(axis=2) ** 2 for one in slopes])
    variances = np.einsum("u,muc->mc", units.counts, parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        freedom = variances.sum(axis=1) ** 2 / (variances**2 / np.maximum(members - 1, 1)).sum(axis=1)
        tail = (1 + confidence) / 2
        return np.asarray(np.where(freedom > 0, stdtrit(freedom, tail) / ndtri(tail), 1.0))


def gradients(
    function: Function, totals: Float[np.ndarray, "*lines cells values"]
) -> Float[np.ndarray, "*lines m cells values"]:
    """Derivatives of each statistic by each total, by complex steps: exact to rounding.

    Source: Squire and Trapp 1998, "Using complex variables to estimate derivatives of real functions".
    """
    cells, width = totals.shape[-2:]
    columns = []
    for cell, value in np.ndindex(cells, width):
        moved = totals.astype(complex)
        moved[..., cell, value] += 1j * _STEP
        columns.append(function(moved).imag / _STEP)
    together = np.stack(columns, axis=-1)
    return together.reshape(*together.shape[:-1], cells, width)


def _bca(
    value: float, draws: np.ndarray, pulls: np.ndarray, counts: np.ndarray, tails: np.ndarray
) -> np.ndarray:
    """The quantiles to read for a BCa interval (Efron and Tibshirani 1993, equations 14.9 to 14.15)."""
    with np.errstate(invalid="ignore", divide="ignore"):
        skew = (counts @ pulls**3) / (6.0 * (counts @ pulls**2) ** 1.5)
        bias = ndtri(np.mean(draws < value) / 2.0 + np.mean(draws <= value) / 2.0)
        shifted = bias + ndtri(tails)
        return np.asarray(ndtr(bias + shifted / (1.0 - skew * shifted)))


def dealt_totals(
    totals: Float[np.ndarray, "kinds d"],
    labelled: Int[np.ndarray, "kinds 2"],
    n_perm: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "n_perm 2 d"]:
    """Permuted totals of two groups: the group labels of units are dealt out anew, as often as each stands now.

    Args:
        totals: what one unit of each kind adds.
        labelled: how many units of each kind bear the first and the second label.
        n_perm: how many deals.
        rng: draws them.
    """
    both = labelled.sum(axis=1)
    second = rng.multivariate_hypergeometric(both, int(labelled[:, 1].sum()), size=n_perm, method="marginals")
    return np.stack([(both - second) @ totals, second @ totals], axis=1)


Cells = Float[np.ndarray, "*lines 2 strata"]


def quotient(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """The quotient; nan where the bottom is zero.

    >>> quotient(np.array([1.0, 0.0]), np.array([2.0, 0.0])).tolist()
    [0.5, nan]
    """
    defined = bottom.real != 0
    return np.asarray(np.where(defined, top / np.where(defined, bottom, 1.0), np.nan))


def means(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines 2"]:
    """The mean of each group over all strata."""
    return quotient(yes.sum(axis=-1), n.sum(axis=-1))


def gap(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """Risk difference: the mean of the other group minus that of the reference.

    >>> float(gap(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])))
    0.25
    """
    mean = means(yes, n)
    return np.asarray(mean[..., 1] - mean[..., 0])


def shared(n: Cells) -> Float[np.ndarray, "*lines strata"]:
    """The common support: 1 for each stratum in which both groups have members, else 0."""
    return np.asarray((n.real > 0).all(axis=-2).astype(float))


def standardised_gap(
    yes: Cells, n: Cells, mix: Float[np.ndarray, "*lines strata"]
) -> Float[np.ndarray, "*lines"]:
    """Direct standardisation: the gap of two groups at one mix of strata.

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
    counts = np.where(n.real > 0, n, 1.0)
    differences = (yes[..., 1, :] / counts[..., 1, :] - yes[..., 0, :] / counts[..., 0, :]) * both
    return quotient((weights * differences).sum(axis=-1), weights.sum(axis=-1))


def mixes_of(n: Cells) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mix of strata of the reference, of the other group, and of both."""
    return n[..., 0, :], n[..., 1, :], n.sum(axis=-2)


def gaps(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines 4"]:
    """The gap as it is, then at the mix of the reference, of the other group, and of both."""
    return np.stack([gap(yes, n), *(standardised_gap(yes, n, mix) for mix in mixes_of(n))], axis=-1)


def odds_ratio(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """Odds ratio: the odds of the other group over those of the reference, strata pooled; nan without a denominator.

    >>> float(odds_ratio(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])))
    3.0
    """
    top, bottom = yes.sum(axis=-1), (n - yes).sum(axis=-1)
    return quotient(top[..., 1] * bottom[..., 0], top[..., 0] * bottom[..., 1])


def risk_ratio(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """Risk ratio: the mean of the other group over that of the reference; nan where that is zero.

    >>> float(risk_ratio(np.array([[1.0], [3.0]]), np.array([[2.0], [4.0]])))
    1.5
    """
    mean = means(yes, n)
    return quotient(mean[..., 1], mean[..., 0])


def mantel_haenszel(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """Mantel-Haenszel odds ratio, common to the strata; strata with one group add nothing.

    Source: Mantel and Haenszel 1959, "Statistical aspects of the analysis of data from retrospective studies".

    >>> yes, n = np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[3.0, 3.0], [4.0, 4.0]])
    >>> round(float(mantel_haenszel(yes, n)), 12)
    2.0
    """
    return _weighted_ratio(yes, n - yes, n)


def mantel_haenszel_risk(yes: Cells, n: Cells) -> Float[np.ndarray, "*lines"]:
    """Mantel-Haenszel risk ratio, common to the strata.

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


def wilson_of_clusters(
    values: Float[np.ndarray, " rows"],
    cells: Int[np.ndarray, " rows"],
    clusters: Int[np.ndarray, " rows"],
    n_cells: int,
    confidence: float = 0.95,
) -> tuple[Float[np.ndarray, " n_cells"], Float[np.ndarray, " n_cells"]]:
    """Wilson's interval of the mean of each cell, with as many trials as its clusters are worth.

    The linearised variance v of a mean p over G clusters gives p (1 - p) / v trials; the quantile is Student's with
    G - 1 degrees of freedom. Near 0 and 1 it covers where percentiles of resamples are too narrow. Where all values are
    0, or all are 1, there are G trials.

    Args:
        values: in [0, 1].
        cells: to which cell each belongs.
        clusters: labels of what is not independent, whole numbers from 0.
        n_cells: how many cells there are, empty ones included.
        confidence: in (0, 1).

    Returns:
        Lower and upper ends in [0, 1]; nan for cells of fewer than two clusters.

    Source: Wilson 1927; Dean and Pagano 2015, "Evaluating confidence interval methods for binomial proportions in
    clustered surveys".

    >>> low, high = wilson_of_clusters(np.array([0.0, 1, 1, 1]), np.zeros(4, int), np.arange(4), 1)
    >>> low.round(2), high.round(2)
    (array([0.13]), array([0.98]))
    """
    n = np.bincount(cells, minlength=n_cells).astype(float)
    p = quotient(np.bincount(cells, weights=values, minlength=n_cells), n)
    pairs, entry = np.unique(np.column_stack([cells, clusters]), axis=0, return_inverse=True)
    owner = pairs[:, 0]
    residual = np.bincount(entry.ravel(), weights=values - p[cells], minlength=len(pairs))
    groups = np.bincount(owner, minlength=n_cells).astype(float)
    squares = np.bincount(owner, weights=residual**2, minlength=n_cells)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = squares / n**2 * groups / (groups - 1)
        inside = (p > 0) & (p < 1)
        trials = np.where(inside, p * (1 - p) / variance, groups)
        z2 = stdtrit(groups - 1, (1 + confidence) / 2) ** 2
        centre = (p + z2 / (2 * trials)) / (1 + z2 / trials)
        half = np.sqrt(z2 * (p * (1 - p) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    low[groups < 2] = high[groups < 2] = np.nan
    return low, high
