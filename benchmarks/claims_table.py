"""The table of claims that pages of results begin with, and rules beside those of `verdicts.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pages import lines
from verdicts import FAILED, HELD, OPEN, PARTLY, UNKNOWN, Evidence


@dataclass(frozen=True)
class Claim:
    """A claim, what was measured, and the verdict by its rule.

    Attributes:
        text: the claim.
        whose: "paper" or "ours".
        rule: when it holds, in words.
        measured: values with their intervals and n.
        verdict: by the rule.
    """

    text: str
    whose: str
    rule: str
    measured: str
    verdict: str


def table(claims: Sequence[Claim]) -> str:
    """Claims with their verdicts."""
    rows = [[one.text, one.whose, one.rule, one.measured, f"**{one.verdict}**"] for one in claims]
    return lines(["claim", "whose", "held if", "measured", "verdict"], rows)


def of_all(each: Sequence[bool]) -> str:
    """Held where all are true, partly where some are.

    >>> of_all([True, True]), of_all([True, False]), of_all([False]), of_all([])
    ('held', 'partly', 'did not hold', 'not measured')
    """
    if not each:
        return UNKNOWN
    return HELD if all(each) else PARTLY if any(each) else FAILED


def within(evidence: Sequence[Evidence], margin: float) -> str:
    """Held where every interval lies within the margin of 0, did not where one lies beyond it; else open."""
    if any(one["low"] > margin or one["high"] < -margin for one in evidence):
        return FAILED
    return HELD if all(-margin < one["low"] and one["high"] < margin for one in evidence) else OPEN


def touch(one: Evidence, other: Evidence) -> bool:
    """Whether two intervals have a point in common."""
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])
