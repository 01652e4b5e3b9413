"""Claims about DynaMiCS, the evidence on each, and the rules by which they held or did not.

"Paper" are claims of arXiv 2605.10770, or what its plan takes for granted; "ours" are claims about our defaults,
about rivals, and about what a first round of runs suggested.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from groups import Found, Group
from methods import MARGINS
from table import LENGTHS, YARDSTICK

from trimtab.numerics.bootstrap import wilson

sys.path.append(str(Path(__file__).parents[1]))
from pages import number
from verdicts import FAILED, HELD, PARTLY, UNKNOWN, above, all_do, not_below

DEFAULTS, ROLLED_BACK, PUBLISHED = "ours", "ours, rolled back", "paper light"
SHUFFLED, FEEDBACK = "shuffled", "feedback"
GOAL_STEPS = 1.5
"""Multiples of the steps of one run that the goal allows."""
WITHIN = 0.95
"""Share of predictions that two standard errors should hold."""
STRICT = max(MARGINS, key=MARGINS.__getitem__)
"""Name of the stricter choice of checkpoints."""
Evidence = dict[str, Any]


@dataclass(frozen=True)
class Claim:
    """A claim with its evidence.

    Attributes:
        text: the claim.
        whose: "paper" or "ours".
        held_if: the rule in words.
        rule: the verdict on all evidence.
        kind: how evidence is shown: "count", "percent" (points), "share" or "steps".
        evidence: what, value, low, high, n; empty where nothing was measured.
    """

    text: str
    whose: str
    held_if: str
    rule: Callable[[Sequence[Found]], str]
    kind: str
    evidence: Sequence[Found]

    @property
    def verdict(self) -> str:
        """By the rule; unknown without evidence."""
        return self.rule(self.evidence) if self.evidence else UNKNOWN


def at_most_goal(evidence: Sequence[Found]) -> str:
    """Held where every cost is within the goal, partly where one is."""
    within = [one["value"] <= GOAL_STEPS for one in evidence]
    return HELD if all(within) else PARTLY if any(within) else FAILED


def covered(evidence: Sequence[Found]) -> str:
    """Held where every share's interval reaches what was promised, partly where one does."""
    reach = [one["high"] >= WITHIN for one in evidence]
    return HELD if all(reach) else PARTLY if any(reach) else FAILED


def share_of(what: str, done: int, of: int) -> Evidence:
    """A count as a share with Wilson's interval."""
    return {"what": what, "count": done, **vars(wilson(done, of))}


def kept(groups: Sequence[Group], method: str) -> list[Evidence]:
    """Runs of a method that kept every constraint on test, of all groups together."""
    found = [group.rows()[method]["kept"] for group in groups if method in group.rows()]
    if not found:
        return []
    return [
        share_of("", sum(round(one["value"] * one["n"]) for one in found), sum(one["n"] for one in found))
    ]


def over_yardstick(groups: Mapping[str, Group], method: str) -> list[Evidence]:
    """Constrained gain less that of the best of five fixed runs, by group."""
    return [
        {"what": name, **group.rows()[method]["over_best_of_five"]}
        for name, group in groups.items()
        if method in group.rows()
    ]


def goal(group: Group, method: str) -> tuple[int, int]:
    """Pairs in which a method kept everything, gained what the best of five did and stayed within the steps; all."""
    yard = group.of(YARDSTICK).set_index(["scenario", "seed"])["constrained"]
    own = group.of(method).set_index(["scenario", "seed"])
    met = own["kept"].astype(bool) & (own["constrained"] >= yard) & (own["steps"] <= GOAL_STEPS)
    return int(met.sum()), len(own)


def slopes(group: Group) -> list[Evidence]:
    """Constrained gain of the defaults less that with shuffled slopes, by scenario."""
    return [
        {"what": f"`{name}`", **group.difference(DEFAULTS, SHUFFLED, scenario=name)}
        for name in group.scenarios
        if SHUFFLED in group.rows(name)
    ]


def predictions(group: Group) -> list[Evidence]:
    """Shares of the published form's predictions within two standard errors, by length of the interval."""
    rows = [row for row in group.summary["calibration"] if row["method"] == PUBLISHED]
    ordered = sorted(rows, key=lambda row: row["up_to_steps"])
    return [
        {"what": f"{told_length(row['up_to_steps'])} steps", **row["within_two_errors"]} for row in ordered
    ]


def best_setting(group: Group) -> str:
    """The ablation of the defaults with the highest constrained gain."""
    return next(
        name for name in group.rows() if group.facts(name)["role"] == "ablation" and kept_probes(group, name)
    )


def kept_probes(group: Group, method: str) -> bool:
    """Whether a method's probes are steps of the run itself."""
    return bool(group.facts(method)["family"] == group.facts(DEFAULTS)["family"])


def setting(group: Group, method: str, base: str = DEFAULTS) -> str:
    """What a method changes of another, as settings in code."""
    own, other = (group.facts(name)["mixer"] for name in (method, base))
    changed = [f"`{name}={_code(value)}`" for name, value in own.items() if other.get(name) != value]
    margin = next((errors for told, errors in MARGINS.items() if method.endswith(told)), None)
    return ", ".join(changed + ([] if margin is None else [f"`Fit.margin={margin:g}`"])) or "nothing"


def _code(value: Any) -> str:
    return (
        f'"{value}"' if isinstance(value, str) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def told_length(longest: int) -> str:
    """A class of interval lengths."""
    place = LENGTHS.index(longest)
    return f"up to {longest}" if not place else f"{LENGTHS[place - 1] + 1} to {longest}"


def difference(group: Group | None, first: str, second: str, of: str = "constrained") -> list[Evidence]:
    """One method less another; empty where one was not run."""
    found = None if group is None else group.difference(first, second, of)
    return [{"what": "", **found}] if found and found["n"] else []


def claims(first: Group, fresh: Group | None) -> list[Claim]:
    """Every claim with its evidence."""
    named = {"first seeds": first} | ({"fresh seeds": fresh} if fresh else {})
    groups = list(named.values())
    every, gains, costs = (
        "every run does",
        "the difference lies at or above zero",
        "the multiple is within it",
    )
    met = [goal(group, DEFAULTS) for group in groups]
    steps = {
        name: [{"what": "", **_steps(first, name)}] for name in (PUBLISHED, DEFAULTS) if name in first.rows()
    }
    lots = f"one run costs at most {GOAL_STEPS} times the steps of a fixed one"
    best = "the best of five fixed runs"
    yard = partial(over_yardstick, named)
    return [
        Claim(
            "the published form keeps every constraint on test",
            "paper",
            every,
            all_do,
            "count",
            kept(groups, PUBLISHED),
        ),
        Claim(
            f"the published form gains what {best} gains",
            "paper",
            gains,
            not_below,
            "percent",
            yard(PUBLISHED),
        ),
        Claim(
            "until the next update, losses change as the slopes predict",
            "paper",
            f"at every length {number(100 * WITHIN, 0)} % lie within two standard errors, or the interval reaches it",
            covered,
            "share",
            predictions(first),
        ),
        Claim(f"published form: {lots}", "ours", costs, at_most_goal, "steps", steps.get(PUBLISHED, [])),
        Claim(
            "the defaults keep every constraint on test",
            "ours",
            every,
            all_do,
            "count",
            kept(groups, DEFAULTS),
        ),
        Claim(f"the defaults gain what {best} gains", "ours", gains, not_below, "percent", yard(DEFAULTS)),
        Claim(f"defaults: {lots}", "ours", costs, at_most_goal, "steps", steps.get(DEFAULTS, [])),
        Claim(
            "the defaults reach the goal: all three in one run",
            "ours",
            "every pair of scenario and seed does",
            all_do,
            "count",
            [share_of("", sum(one for one, _ in met), sum(of for _, of in met))],
        ),
        Claim(
            f"our planning on rolled-back probes gains what {best} gains",
            "ours",
            gains,
            not_below,
            "percent",
            yard(ROLLED_BACK),
        ),
        Claim(
            "slopes matter: the defaults gain more than with shuffled slopes",
            "ours",
            "the difference lies above zero in each scenario",
            above,
            "percent",
            slopes(first),
        ),
        Claim(
            "`Feedback`, which follows no slope, keeps every constraint",
            "ours",
            every,
            all_do,
            "count",
            kept(groups, FEEDBACK),
        ),
        Claim(f"`Feedback` gains what {best} gains", "ours", gains, not_below, "percent", yard(FEEDBACK)),
        Claim(
            f"{setting(first, best_setting(first))}, best of the settings on the first seeds, "
            "gains more than the defaults on fresh ones",
            "ours",
            "the difference lies above zero",
            above,
            "percent",
            difference(fresh, best_setting(first), DEFAULTS),
        ),
        Claim(
            f"a stricter choice of checkpoints ({MARGINS[STRICT]:g} standard errors) costs that setting no gain",
            "ours",
            gains,
            not_below,
            "percent",
            difference(first, f"{best_setting(first)}, {STRICT}", best_setting(first)),
        ),
    ]


def _steps(group: Group, method: str) -> dict[str, Any]:
    row = group.rows()[method]
    return {"value": row["steps"], "n": row["n"]}
