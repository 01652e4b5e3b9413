"""Claims about DynaMiCS, what was measured, and when they hold; "paper" are claims of arXiv 2605.10770."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from groups import DEFAULTS, FIRST_REST, PUBLISHED, SHUFFLED, STOPPED, Found, Group
from table import FEEDBACK, LENGTHS, YARDSTICK

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import Claim
from pages import number, percent, span
from verdicts import FAILED, HELD, OPEN, PARTLY, UNKNOWN, above, all_do

KEEP = 0.95
"""Share of the runs that claim to keep everything which must do so; and of predictions within two errors."""
NEAR = 1.0
"""Points of constrained gain that a method may lie below another and still count as no worse."""
GOAL_STEPS = 1.5
"""Steps, in multiples of one fixed run, that were asked of the published form."""
MATTERS = ("proxies", "strangers", "helper")
"""Scenarios in which it matters which of the other domains is trained on."""
SCENARIOS = 6
"""Scenarios that a verdict on the defaults takes: with fewer it is open."""
NOT_WORSE = f"the difference's interval lies above -{NEAR:g} point"
ABOVE = "the difference's interval lies above zero"


def reaches(share: Found, least: float = KEEP) -> str:
    """Held where the share is large enough; did not where its interval lies below that."""
    if not share["n"]:
        return UNKNOWN
    return HELD if share["value"] >= least else FAILED if share["high"] < least else OPEN


def no_worse(one: Found, margin: float = NEAR) -> str:
    """Held where the interval lies above minus the margin, did not where it lies below; else open."""
    if not one["n"]:
        return UNKNOWN
    low, high = one["low"], one["high"]
    if low is None or high is None:
        return OPEN
    return HELD if low > -margin else FAILED if high < -margin else OPEN


def covered(evidence: Sequence[Found]) -> str:
    """Held where every share's interval reaches what was promised, partly where one does."""
    reach = [one["high"] >= KEEP for one in evidence]
    return HELD if all(reach) else PARTLY if any(reach) else FAILED


def within(row: Found | None, of: str, most: float) -> str:
    """Whether a mean cost is within its limit, as it is printed."""
    return UNKNOWN if not row else HELD if round(row[of], 2) <= most else FAILED


def multiple(row: Found | None, of: str) -> str:
    """A mean cost in multiples of one fixed run."""
    return f"{number(row[of])} x, n = {row['n']}" if row else "-"


def count(share: Found) -> str:
    """A share as a count and in per cent."""
    return f"{round(share['value'] * share['n'])} of {share['n']}: {percent(share)}" if share["n"] else "-"


def points(one: Found) -> str:
    """A difference of gains."""
    return f"{span(one, 1, sign='+')}, n = {one['n']}" if one["n"] else "-"


def length(longest: float) -> str:
    """A class of interval lengths."""
    place = LENGTHS.index(int(longest))
    return f"up to {longest}" if not place else f"{LENGTHS[place - 1] + 1} to {longest}"


def claims(lab: Group | None, before: Found | None) -> list[Claim]:
    """Every claim: of the defaults by their benchmark, of the published form by that of before (its summary)."""
    return [*_ours(lab), *_published(before)]


def _ours(lab: Group | None) -> list[Claim]:
    row = lab.rows.get(DEFAULTS) if lab else None
    kept = row["kept_of_claimed"] if row else {"n": 0}
    text = "DynaMiCS, defaults: constraints are kept on test where a run claims it"
    where = (
        f"where the other domains matter ({', '.join(f'`{name}`' for name in MATTERS)}) they beat Feedback"
    )
    verdict = _with_enough(reaches(kept), len(lab.scenarios) if lab else 0)
    return [
        Claim(text, "ours", f"at least {number(100 * KEEP, 0)} % of them do", count(kept), verdict),
        _compared(lab, "they gain no less than the best of five fixed runs", YARDSTICK),
        _compared(lab, "they gain no less than Feedback", FEEDBACK),
        _compared(lab, "they gain no less than the target alone, stopped early", STOPPED),
        _compared(lab.part(MATTERS) if lab else None, where, FEEDBACK, True),
        _compared(lab, "slopes matter: they beat a run with shuffled slopes", SHUFFLED, True),
        _compared(
            lab, "slopes matter for the rest: they beat a run whose rest keeps its shares", FIRST_REST, True
        ),
    ]


def _compared(group: Group | None, text: str, other: str, beat: bool = False) -> Claim:
    """A claim on the constrained gain of the defaults less that of another method; the smooth one stands beside it."""
    one, smooth = (
        group.difference(DEFAULTS, other, of) if group else {"n": 0} for of in ("constrained", "smooth")
    )
    told = f"{points(one)}; smooth {span(smooth, 1, sign='+')}" if one["n"] else "-"
    verdict = above([one]) if beat and one["n"] else no_worse(one)
    scenarios = min(one["n"], len(group.scenarios)) if group else 0
    return Claim(text, "ours", ABOVE if beat else NOT_WORSE, told, _with_enough(verdict, scenarios))


def _with_enough(verdict: str, scenarios: int) -> str:
    return OPEN if scenarios < SCENARIOS and verdict in (HELD, FAILED) else verdict


def _published(before: Found | None) -> list[Claim]:
    if not before:
        return []
    row = next(row for row in before["all"] if row["method"] == PUBLISHED)
    far = [one for one in before["calibration"] if one["method"] == PUBLISHED]
    far.sort(key=lambda one: one["up_to_steps"])
    shares = [one["within_two_errors"] for one in far]
    told = "; ".join(f"{length(one['up_to_steps'])}: {percent(one['within_two_errors'])}" for one in far)
    less, steps = row["over_best_of_five"], multiple(row, "steps")
    text = "the published form (former benchmark) keeps every constraint on test"
    gains = "it gains no less than the best of five fixed runs"
    ahead = "until the next update, losses change as its slopes predict"
    reach = f"at each length {number(100 * KEEP, 0)} % lie within two standard errors, by the interval"
    cost = f"it costs at most {GOAL_STEPS:g} times the steps of one fixed run"
    return [
        Claim(text, "paper", "every run does", count(row["kept"]), all_do([row["kept"]])),
        Claim(gains, "paper", NOT_WORSE, points(less), no_worse(less)),
        Claim(ahead, "paper", reach, told or "-", covered(shares) if shares else UNKNOWN),
        Claim(cost, "ours", "the mean does", steps, within(row, "steps", GOAL_STEPS)),
    ]
