"""A share of n with its interval, also when all or none of the n succeed."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from trimtab.errors import ConfigError, explain
from trimtab.numerics.resample import Interval
from trimtab.numerics.statistics import check_numbers


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
