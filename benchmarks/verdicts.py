"""Verdicts on claims, from intervals: the rules that pages of results share.

Evidence is a number with its 95 % interval; one without ends, such as that of a single run, tells nothing apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

HELD, PARTLY, FAILED, OPEN, UNKNOWN = "held", "partly", "did not hold", "open", "not measured"
Evidence = Mapping[str, Any]
"""what, value, low, high (None where there is no interval), n."""


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
