"""How a page says whether a difference is one: by the interval of that difference, and in the same words everywhere."""

from __future__ import annotations

import math


def from_zero(low: float, high: float) -> str:
    """What an interval of a difference says.

    >>> from_zero(0.1, 0.3), from_zero(-0.1, 0.3), from_zero(float("nan"), 0.3)
    ('told apart from 0', 'not told apart from 0', 'without an interval')
    """
    if math.isnan(low) or math.isnan(high):
        return "without an interval"
    return "told apart from 0" if low > 0 or high < 0 else "not told apart from 0"
