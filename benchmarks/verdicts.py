"""Verdicts on claims, from intervals: the rules that pages of results share, and which interval a mean has.

Evidence is a number with its 95 % interval; one without ends, such as that of a single run, tells nothing apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trimtab.numerics.bootstrap import Interval, bootstrap, mean, student

HELD, PARTLY, FAILED, OPEN, UNKNOWN = "held", "partly", "did not hold", "open", "not measured"
Evidence = Mapping[str, Any]
"""what, value, low, high (None where there is no interval), n."""
FEW = 20
"""Units below which a percentile bootstrap of a mean is clearly too narrow; see `numerics.bootstrap`."""
INTERVAL = f"95 %: Student's t of a mean over fewer than {FEW} units, else a percentile bootstrap"
"""What a result file says of intervals by `mean_interval`; older files had a bootstrap whatever the number."""


def mean_interval(values: np.ndarray) -> Interval:
    """95 % interval of a mean over independent units: Student's t below `FEW` of them, else a percentile bootstrap.

    >>> few, many = mean_interval(np.arange(3.0)), mean_interval(np.arange(100.0))
    >>> (round(few.low, 2), round(few.high, 2)), 43 < many.low < 44
    ((-1.48, 3.48), True)
    """
    return student(values) if len(values) < FEW else bootstrap(mean, values)


def side(one: Evidence) -> str:
    """Where an interval lies: "above" 0, "below" 0, or "not told apart from" it.

    >>> side({"low": 0.1, "high": 0.3}), side({"low": -0.1, "high": 0.3}), side({"low": None, "high": None})
    ('above', 'not told apart from', 'not told apart from')
    """
    low, high = one["low"], one["high"]
    if low is not None and low > 0:
        return "above"
    return "below" if high is not None and high < 0 else "not told apart from"


def above(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies above 0, partly where one does; open where none does and none lies below."""
    return _judged([side(one) == "above" for one in evidence], [side(one) == "below" for one in evidence])


def below(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies below 0; else as `above`."""
    return _judged([side(one) == "below" for one in evidence], [side(one) == "above" for one in evidence])


def not_below(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies at or above 0, partly where one does; open where none does and none is below."""
    lows = [one["low"] for one in evidence]
    return _judged([low is not None and low >= 0 for low in lows], [side(one) == "below" for one in evidence])


def all_do(evidence: Sequence[Evidence]) -> str:
    """Of shares: held where every share is whole, did not where every one is 0, else partly."""
    shares = [one["value"] for one in evidence]
    return HELD if min(shares) == 1 else PARTLY if max(shares) > 0 else FAILED


def _judged(holds: Sequence[bool], fails: Sequence[bool]) -> str:
    if all(holds):
        return HELD
    return PARTLY if any(holds) else FAILED if any(fails) else OPEN
