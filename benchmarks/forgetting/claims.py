"""Claims about forgetting, and the rules by which they held or did not, from intervals of the result files.

Evidence is a mapping with value, low, high and n. A claim is judged over all its evidence, of each domain and fit that
it names; it holds only where it does in each.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[1]))
from claims_table import Claim, of_all, touch, within
from pages import listed, percent, span
from verdicts import above, below, mean_interval, side

CLAIMED = 0.01
"""Share of pretraining data that prevents forgetting, in the paper (Bethune et al. 2025)."""
LOSS_ERROR, TARGET_ERROR = 0.0083, 0.0201
"""Mean error of the paper's extrapolations: of the pretraining loss, and of the loss on the target."""
LEAST_B, MOST_B = 829.0, 10_000.0
"""Range of the paper's B over its domains."""
MEDIAN = 0.5
"""Confidence of a share that the fitted coefficients themselves give."""
EQUIVALENCE = 0.9
"""Level of the interval that two one-sided tests compare with the margin."""
LAW = "injection"
"""Name of the law among the forms."""
NOTHING = "nothing forgotten"
Found = Mapping[str, Any]


def share(value: float, digits: int = 1) -> str:
    """A share in per cent, with no more places than it needs."""
    return f"{round(100 * value, digits):g} %"


def ends_of(row: Found, of: str) -> dict[str, Any]:
    """One error of a form with its interval and the number of runs that were held out; `of` is loss, rise or more."""
    value = {"loss": "loss_error", "rise": "rise_error", "more": "rise_more"}[of]
    return {"value": row[value], "low": row[f"{of}_low"], "high": row[f"{of}_high"], "n": row["n_held_out"]}


def fits(told: Found) -> dict[str, dict[str, Found]]:
    """Forms by what was held out and by name, of the four sizes and of the fifth."""
    every = {**told.get("forms", {}), **told.get("a size beyond", {}).get("forms", {})}
    return {name: {row["form"]: row for row in rows} for name, rows in every.items()}


def laws(domains: Mapping[str, Found]) -> dict[tuple[str, str], dict[str, Found]]:
    """Forms by what was held out and by domain."""
    every = {domain: fits(told) for domain, told in domains.items()}
    names = dict.fromkeys(name for forms in every.values() for name in forms)
    return {(name, domain): forms[name] for name in names for domain, forms in every.items() if name in forms}


def behind(forms: Mapping[str, Found]) -> dict[str, float]:
    """AICc of each form less that of the law."""
    return {name: row["aicc"] - forms[LAW]["aicc"] for name, row in forms.items() if name != LAW}


def rivals_less_law(forms: Mapping[str, Found]) -> dict[str, dict[str, Any]]:
    """Error of the rise of each rival less that of the law."""
    return {name: ends_of(row, "more") for name, row in forms.items() if name not in (LAW, NOTHING)}


def each(told: Mapping[str, str], n: Mapping[str, int]) -> str:
    """What was measured in each domain, with its n."""
    return "; ".join(f"{domain} {text}, n = {n[domain]}" for domain, text in told.items())


def of_runs(domains: Mapping[str, Found]) -> Iterator[Claim]:
    """Claims that need no law."""
    rises = {domain: told["forgetting without injection"]["rise"] for domain, told in domains.items()}
    told = {domain: f"{span(one)} nats" for domain, one in rises.items()}
    yield Claim(
        "fine-tuning without pretraining data raises the pretraining loss",
        "paper",
        "the rise lies above zero in each domain",
        each(told, {domain: one["n"] for domain, one in rises.items()}),
        above(list(rises.values())),
    )
    removed = {domain: told[f"share removed at {share(CLAIMED)}"] for domain, told in domains.items()}
    yield Claim(
        f"{share(CLAIMED)} of pretraining data prevents forgetting",
        "paper",
        f"the interval of the share removed reaches {share(1)} in each domain",
        each({d: percent(one) for d, one in removed.items()}, {d: one["n"] for d, one in removed.items()}),
        of_all([one["high"] >= 1 for one in removed.values()]),
    )
    paid = {domain: told[f"target at {share(CLAIMED)}"] for domain, told in domains.items()}
    margin, level = max(one["margin"] for one in paid.values()), share(EQUIVALENCE)
    yield Claim(
        f"{share(CLAIMED)} leaves the target loss as it is",
        "paper",
        f"the log ratio of target losses lies within {margin:g} of zero, by its {level} interval, in each domain",
        each({d: span(one, 4) for d, one in paid.items()}, {d: one["n"] for d, one in paid.items()}),
        within(list(paid.values()), margin),
    )


def of_laws(domains: Mapping[str, Found]) -> Iterator[Claim]:
    """Claims about the laws."""
    every = laws(domains)
    if not every:
        return
    first = [all(gap > 0 for gap in behind(forms).values()) for forms in every.values()]
    yield Claim(
        "the law of forgetting describes the runs",
        "paper",
        "it has the lowest AICc of all forms in each fit",
        f"lowest in {sum(first)} of {len(first)} fits",
        of_all(first),
    )
    errors = {key: ends_of(forms[LAW], "loss") for key, forms in every.items()}
    least = {
        d: min((one for (_, it), one in errors.items() if it == d), key=lambda e: e["value"]) for d in domains
    }
    yield Claim(
        f"it predicts the pretraining loss of runs that were held out to {share(LOSS_ERROR, 2)}",
        "paper",
        "the interval of the mean error reaches down to that in each fit",
        "at best "
        + each({d: percent(e, 1) for d, e in least.items()}, {d: e["n"] for d, e in least.items()}),
        of_all([one["low"] <= LOSS_ERROR for one in errors.values()]),
    )
    gaps = [gap for forms in every.values() for gap in rivals_less_law(forms).values()]
    sides = [side(gap) for gap in gaps]
    yield Claim(
        "it predicts rises of runs that were held out better than each rival form",
        "ours",
        "the rival's error less that of the law lies above zero for each rival and fit",
        f"above zero in {sides.count('above')} of {len(sides)}, below in {sides.count('below')}",
        above(gaps),
    )
    target = {domain: told["fine-tuning error, held out"] for domain, told in domains.items()}
    yield Claim(
        f"the fine-tuning law predicts the target loss of runs that were held out to {share(TARGET_ERROR, 2)}",
        "paper",
        "the interval of the mean error reaches down to that in each domain",
        each({d: percent(one, 1) for d, one in target.items()}, {d: one["n"] for d, one in target.items()}),
        of_all([one["low"] <= TARGET_ERROR for one in target.values()]),
    )
    b = {
        d: next(row for row in told["forgetting"] if row["coefficient"] == "B") for d, told in domains.items()
    }
    yield Claim(
        f"B lies between {LEAST_B:g} and {MOST_B:,.0f}",
        "paper",
        "its interval reaches into that range in each domain",
        each({d: span(one, 1) for d, one in b.items()}, {d: one["n"] for d, one in b.items()}),
        of_all([touch(one, {"low": LEAST_B, "high": MOST_B}) for one in b.values()]),
    )


def pairs(rows: Sequence[Found], how: str, other: str) -> list[tuple[Found, Found]]:
    """Runs of two ways with the same domain, tokens, seed and promise."""
    by: dict[str, dict[tuple[Any, ...], Found]] = {how: {}, other: {}}
    for row in rows:
        if row["how"] in by:
            by[row["how"]][row["domain"], row["tokens"], row["seed"], row["promise"]] = row
    return [(row, by[other][key]) for key, row in by[how].items() if key in by[other]]


def less(ways: Sequence[tuple[Found, Found]], of: str) -> dict[str, Any]:
    """The first way less the second, pair by pair."""
    found = mean_interval(np.array([float(one[of]) - float(other[of]) for one, other in ways]))
    return dict(vars(found))


def of_promises(promise: Found | None, planned: Found | None) -> Iterator[Claim]:
    """Claims about planned shares, and about DynaMiCS in their place."""
    if promise is None:
        return
    kept = promise["summary"]["kept"]["planned"]
    exact = [row for row in (planned or {"rows": []})["rows"] if row["confidence"] == MEDIAN]
    as_often = [touch(kept["share"], row) for row in exact]

    def exactly(row: Found) -> str:
        return percent(row, of="kept")

    yield Claim(
        "a planned median share keeps its promise as often as where the law is exact",
        "ours",
        "the intervals of both shares overlap, for each run that was planned where the law is exact",
        f"{kept['kept']} of {kept['runs']}, {percent(kept['share'])}"
        + (
            f"; where the law is exact {listed(map(exactly, exact))}, n = {exact[0]['n']} each"
            if exact
            else ""
        ),
        of_all(as_often),
    )
    more = less(pairs(promise["rows"], "dynamics", "planned"), "kept")
    yield Claim(
        "DynaMiCS keeps more promises on test than planned median shares, at as many steps",
        "ours",
        "the difference of the shares kept lies above zero, promise by promise",
        f"{span(more, sign='+')}, n = {more['n']}",
        above([more]),
    )
    target = promise["summary"]["target change, dynamics less"]["stopped"]
    yield Claim(
        "DynaMiCS reaches a lower target loss than an early stop within the promise",
        "ours",
        "the difference of the target losses lies below zero, run by run",
        f"{span(target, 3, sign='+')} nats, n = {target['n']}",
        below([target]),
    )


def judged(found: Found, promise: Found | None, planned: Found | None) -> list[Claim]:
    """Every claim with its verdict."""
    domains = found["domains"]
    fitted = {domain: told for domain, told in domains.items() if "not fitted" not in told}
    return [*of_runs(domains), *of_laws(fitted), *of_promises(promise, planned)]
