"""Verdicts of a comparison: paired changes with intervals and p-values, tolerances, and Holm's correction over all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import brentq
from scipy.special import ndtr, ndtri, stdtr

from trimtab.numerics.cluster_bootstrap import wilson_of_clusters
from trimtab.train.losses import SequenceLosses, change

Verdict = Literal["kept", "broken", "open"]
LEVEL = 0.05
"""Of two-sided tests, after the correction."""
RESOLUTION = 1e-6
"""Nats per token, or points, up to which a change is rounding, as of sums in another order; never called a change."""
_Z = float(ndtri(1 - LEVEL / 2))


@dataclass(frozen=True)
class Harm:
    """A paired change in the direction of harm: above 0 the tuned model is worse.

    Attributes:
        value: the change; nan or infinity where a loss is.
        low, high: its 95 % interval, for this domain alone; nan where it has none.
        units: independent parts, groups or records.
        p: two-sided, that there is no change; nan without an interval.
        p_over: one-sided, that the change is within the tolerance; nan without either.
        lost: whether the tuned model's loss is not finite where the base model's is: no interval says more.
    """

    value: float
    low: float
    high: float
    units: int
    p: float
    p_over: float = math.nan
    lost: bool = False

    def verdict(self, tolerance: float | None, p_over: float) -> Verdict | None:
        """Whether a tolerance is kept; None without one.

        Args:
            tolerance: the most that `value` may be.
            p_over: one-sided and corrected.

        Returns:
            "kept" where the upper end of the interval is within, "broken" where the lower end is above, also after the
            correction, or the loss is not finite; else "open".
        """
        if tolerance is None:
            return None
        if self.lost or (self.low > tolerance + RESOLUTION and p_over < LEVEL / 2):
            return "broken"
        return "kept" if self.high <= tolerance + RESOLUTION else "open"


def loss_harm(tuned: SequenceLosses, base: SequenceLosses, tolerance: float | None) -> Harm:
    """Paired change of loss with Student's interval over groups or records, see `trimtab.train.losses.change`.

    >>> one, two = (SequenceLosses(np.array(nll), np.array([2, 2, 2])) for nll in ([2.0, 4.0, 6.0], [2.1, 4.3, 6.2]))
    >>> harm = loss_harm(two, one, 0.02)
    >>> round(harm.value, 3), harm.units, round(harm.p, 3)
    (0.1, 3, 0.074)
    """
    moved = change(tuned, base)
    lost = bool(np.isfinite(base.nll).all() and not np.isfinite(tuned.nll).all())
    two_sided = 2 * min(_tail(moved.value, moved.standard_error, moved.units, sign) for sign in (1, -1))
    over = math.nan if tolerance is None else moved.value - tolerance
    p_over = _tail(over, moved.standard_error, moved.units, 1)
    return Harm(moved.value, moved.low, moved.high, moved.units, min(1.0, two_sided), p_over, lost)


def _tail(value: float, error: float, units: int, sign: int) -> float:
    """Probability of so large a value, in the direction of `sign`, where the truth is 0: Student's t."""
    if units < 2 or not (math.isfinite(value) and math.isfinite(error)):
        return math.nan
    if error == 0:
        return 0.0 if sign * value > 0 else 1.0
    return float(stdtr(units - 1, -sign * value / error))


def accuracy_harm(
    tuned: Float[np.ndarray, " n"],
    base: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    points: float | None,
    *,
    identical: bool = False,
) -> Harm:
    """Points of accuracy that are lost, in hundredths, with Tango's score interval for paired proportions.

    With b answers lost and c won of n, the ends are the values of d at which
    `(b - c - n d)**2 = z**2 n (2 q + d (1 - d))`, q being the likeliest share of answers won at that d. Records of one
    group are fewer trials: the right side is multiplied by the design effect of the difference, where that is above 1.

    Args:
        tuned, base: 1 for a right answer, else 0.
        clusters: group of each record, or its own number.
        points: tolerance in points; None for none.
        identical: the two models are known to give the same answers everywhere; the interval is 0 then, and not that
            of so many equal answers.

    Source: Tango 1998, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17.
    """
    lost, won, n = int((base > tuned).sum()), int((tuned > base).sum()), len(base)
    units = len(np.unique(clusters))
    units = units if units > 1 else n
    value = 100 * (lost - won) / n if n else math.nan
    if identical or n < 2:
        end = 0.0 if identical else math.nan
        p = 1.0 if identical else math.nan
        return Harm(value, end, end, units, p, math.nan if points is None else p)
    effect = _design_effect(base - tuned, clusters)

    def score(difference: float) -> float:
        return _tango(lost, won, n, difference) / math.sqrt(effect)

    estimate, edge = (lost - won) / n, 1 - 1e-12
    low = brentq(lambda d: score(d) - _Z, -edge, estimate) if estimate > -edge else -1.0
    high = brentq(lambda d: score(d) + _Z, estimate, edge) if estimate < edge else 1.0
    p_over = math.nan if points is None else float(ndtr(-score(min(points / 100, edge))))
    return Harm(value, 100 * low, 100 * high, units, float(2 * ndtr(-abs(score(0.0)))), p_over)


def _tango(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's score for a difference of paired proportions; 0 where no variance is left."""
    a, b, c = 2 * n, -lost - won + (2 * n - lost + won) * difference, -won * difference * (1 - difference)
    q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * q + difference * (1 - difference))
    gap = lost - won - n * difference
    return gap / math.sqrt(variance) if variance > 0 else (0.0 if gap == 0 else math.copysign(math.inf, gap))


def _design_effect(differences: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> float:
    """Variance of the mean over clusters, as a multiple of that over independent records; at least 1."""
    ones = np.ones(len(differences), np.int64)
    by_cluster, alone = (
        SequenceLosses(differences, ones, records).standard_error for records in (clusters, ones.cumsum())
    )
    return (
        max(1.0, (by_cluster / alone) ** 2)
        if alone > 0 and math.isfinite(by_cluster)
        else len(ones) / _units(clusters)
    )


def _units(clusters: Int[np.ndarray, " n"]) -> int:
    return max(1, len(np.unique(clusters)))


def mean_with_ends(sums: SequenceLosses) -> tuple[float, float, float]:
    """Mean per token of what is never below 0, with Student's 95 % interval over groups or records, cut off at 0."""
    moved = change(sums, SequenceLosses(np.zeros_like(sums.nll), sums.tokens, sums.records))
    return moved.value, float(np.maximum(0.0, moved.low)), moved.high


def share_with_ends(counts: SequenceLosses) -> tuple[float, float, float]:
    """Share of positions that were counted, with Wilson's 95 % interval over groups or records."""
    times = np.stack(
        [counts.nll.astype(np.int64), counts.tokens - counts.nll.astype(np.int64)], axis=1
    ).ravel()
    values = np.repeat(np.tile([1.0, 0.0], len(counts.tokens)), times)
    groups = counts.records if counts.units == len(np.unique(counts.records)) else np.arange(len(counts.nll))
    clusters = np.repeat(np.unique(groups, return_inverse=True)[1], counts.tokens)
    low, high = wilson_of_clusters(values, np.zeros(len(values), np.int64), clusters, 1)
    return counts.loss, float(low[0]), float(high[0])


def holm(p: Sequence[float]) -> Float[np.ndarray, " n"]:
    """p-values adjusted so that the chance of any false finding is at most the level (Holm 1979); nan counts as none.

    >>> holm([0.01, 0.04, 0.03, float("nan")]).tolist()
    [0.03, 0.06, 0.06, nan]
    """
    values = np.asarray(p, dtype=float)
    adjusted = np.full(len(values), math.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(values[order] * np.arange(len(order), 0, -1)))
    return adjusted
