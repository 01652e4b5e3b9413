"""Intervals over seeds, and the rules by which claims of the paper held or did not; written before the first run.

A number over seeds has a 95 % interval by Student's t: a seed is a world of its own. A difference is of arms of one
seed, so paired. Within a seed it is paired by picture, with a bootstrap interval; that leaves out what another training
run would change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from arms import ABLATION, COMPARISONS, MAIN, START, TUNED, Arm

from trimtab.numerics.bootstrap import bootstrap, mean_difference, student

Run = tuple[int, str, Mapping[str, float], Mapping[str, Sequence[float]]]
"""Seed, key of the arm, means, numbers of each picture."""
Ends = dict[str, Any]
MOST_LOST, MOST_RISE = -0.2, 0.05
HELD, PARTLY, FAILED, UNKNOWN = "held", "partly", "did not hold", "not measured"


def over_seeds(values: Sequence[float]) -> Ends:
    """The mean with an interval by Student's t; without one for fewer than two seeds."""
    if not len(values):
        return {"value": None, "low": None, "high": None, "n": 0}
    found = vars(student(np.asarray(values, dtype=float)))
    return found if found["n"] > 1 else found | {"low": None, "high": None}


def above_zero(found: Sequence[Ends]) -> str:
    """Held where every interval lies above 0, partly where one does."""
    above = [one["low"] > 0 for one in found]
    return HELD if all(above) else PARTLY if any(above) else FAILED


def at_least_most_lost(found: Sequence[Ends]) -> str:
    """Held where the interval lies above the largest loss that is called small, did not where it lies below."""
    (one,) = found
    return HELD if one["low"] >= MOST_LOST else FAILED if one["high"] < MOST_LOST else PARTLY


def at_most_most_rise(found: Sequence[Ends]) -> str:
    """Held where the interval lies below the smallest rise that counts, did not where it lies above."""
    (one,) = found
    return HELD if one["high"] <= MOST_RISE else FAILED if one["low"] > MOST_RISE else PARTLY


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, by measures of a tuned arm less the start."""

    text: str
    rule: str
    measures: tuple[str, ...]
    verdict: Callable[[Sequence[Ends]], str]
    relative: bool = False


ABOVE = "each interval of the difference lies above 0"
CLAIMS = (
    Claim(
        "the listener of the training finds more pictures",
        ABOVE,
        ("test P@1 random, listener", "test P@1 hard, listener"),
        above_zero,
    ),
    Claim(
        "an independent listener finds more pictures too",
        ABOVE,
        ("test P@1 random, independent", "test P@1 hard, independent"),
        above_zero,
    ),
    Claim(
        "captions lie only slightly further from people's of the training",
        f"CIDEr-D (terse) falls by no more than {-100 * MOST_LOST:.0f} %, with its interval",
        ("test CIDEr-D terse",),
        at_least_most_lost,
        relative=True,
    ),
    Claim(
        "captions are nearer to those of other people",
        f"CIDEr-D (full), on both kinds of pictures: {ABOVE}",
        ("test CIDEr-D full", "cross CIDEr-D full"),
        above_zero,
    ),
    Claim(
        "pictures of another kind are found more often",
        f"both listeners, random and hard sets: {ABOVE}",
        (
            "cross P@1 random, listener",
            "cross P@1 hard, listener",
            "cross P@1 random, independent",
            "cross P@1 hard, independent",
        ),
        above_zero,
    ),
    Claim(
        "captions name no more that is not there",
        f"hallucinated attributes of a caption rise by no more than {MOST_RISE}, with the interval",
        ("test hallucinated",),
        at_most_most_rise,
    ),
)


def with_shares(means: Mapping[str, float]) -> dict[str, float]:
    """Measures, and the share of the named attributes that is hallucinated."""
    exams = [name.removesuffix(" named") for name in means if name.endswith(" named") and means[name]]
    shares = {f"{exam} share": means[f"{exam} hallucinated"] / means[f"{exam} named"] for exam in exams}
    return {**means, **shares}


class Runs:
    """Runs by arm and seed."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.means = {(arm, seed): with_shares(means) for seed, arm, means, _ in runs}
        self.items = {(arm, seed): items for seed, arm, _, items in runs}

    @property
    def arms(self) -> list[str]:
        return list(dict.fromkeys(arm for arm, _ in self.means))

    def seeds(self, *arms: str) -> list[int]:
        """Seeds of which all these arms are there."""
        sets = [{seed for one, seed in self.means if one == arm} for arm in arms]
        return sorted(set.intersection(*sets))

    def table(self, arm: str) -> dict[str, Ends]:
        """Each measure of an arm over seeds."""
        own = [self.means[arm, seed] for seed in self.seeds(arm)]
        names = list(dict.fromkeys(name for one in own for name in one))
        return {name: over_seeds([one[name] for one in own if one.get(name) is not None]) for name in names}

    def difference(self, arm: str, other: str, measure: str, *, relative: bool = False) -> Ends:
        """An arm less another, paired by seed; relative to the other where asked."""
        found = []
        for seed in self.seeds(arm, other):
            first, second = (self.means[one, seed].get(measure) for one in (arm, other))
            if first is not None and second is not None:
                found.append((first - second) / second if relative else first - second)
        return over_seeds(found)

    def differences(self, arm: str, other: str) -> dict[str, Ends]:
        """An arm less another by each measure of both."""
        names = [name for name in self.table(arm) if not name.startswith("last ")]
        found = {name: self.difference(arm, other, name) for name in names}
        return {name: one for name, one in found.items() if one["n"]}

    def within(self, arm: str, other: str) -> list[dict[str, Any]]:
        """An arm less another within each seed, paired by picture."""
        rows = []
        for seed in self.seeds(arm, other):
            for measure, values in self.items[arm, seed].items():
                pair = (np.asarray(one, dtype=float) for one in (values, self.items[other, seed][measure]))
                rows.append(
                    {"seed": seed, "measure": measure, **vars(bootstrap(mean_difference, *pair, paired=True))}
                )
        return rows


def start_of(arm: str) -> str:
    """The key of the speaker that an arm was tuned from."""
    share = MAIN if arm.startswith(f"{round(100 * MAIN)} %") else ABLATION
    return Arm(START, share, "main", None).key


def judged_claims(runs: Runs) -> list[dict[str, Any]]:
    """Each claim of each tuned arm."""
    rows = []
    for claim in CLAIMS:
        for name in TUNED:
            arm = Arm(name, MAIN, "main", None).key
            there = arm in runs.arms and start_of(arm) in runs.arms
            found = (
                [
                    runs.difference(arm, start_of(arm), measure, relative=claim.relative)
                    for measure in claim.measures
                ]
                if there
                else []
            )
            known = bool(found) and all(one["low"] is not None for one in found)
            rows.append(
                {
                    "claim": claim.text,
                    "rule": claim.rule,
                    "arm": name,
                    "relative": claim.relative,
                    "differences": dict(zip(claim.measures, found, strict=True)) if there else {},
                    "verdict": claim.verdict(found) if known else UNKNOWN,
                }
            )
    return rows


def summary(listed: Sequence[Run]) -> dict[str, Any]:
    """Tables, differences and claims of runs."""
    runs = Runs(listed)
    there = set(runs.arms)
    ablation = {
        name: tuple(Arm(arm, ABLATION, "ablation", None).key for arm in pair)
        for name, pair in COMPARISONS.items()
    }
    return {
        "interval": "95 %, Student's t over seeds; within a seed by bootstrap over pictures",
        "claims": judged_claims(runs),
        "table": {arm: runs.table(arm) for arm in runs.arms},
        "less_start": {
            arm: runs.differences(arm, start_of(arm)) for arm in runs.arms if start_of(arm) in there
        },
        "comparisons": {
            name: runs.differences(*pair) for name, pair in ablation.items() if set(pair) <= there
        },
        "within_seeds": {
            arm: runs.within(arm, start_of(arm))
            for arm in (Arm(name, MAIN, "main", None).key for name in TUNED)
            if {arm, start_of(arm)} <= there
        },
    }
