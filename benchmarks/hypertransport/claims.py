"""Claims about HyperTransport, and the rules by which they held or did not; written before the first full run.

Evidence is a number with its 95 % interval over held-out concepts, mostly a difference that is paired over them.
A claim is judged over all its evidence, of every seed and split that it names. Three seeds are too few for an interval
over seeds, so that a claim holds only where it does in each. Concepts of one world share values, so that intervals
over concepts are rather too narrow.

*Concept fidelity* is the mean share of the concept's values that the judge sees. The rules first meant the share of
pictures in which all are seen, which stands in the results as `whole`. That was changed after closed-form maps of ten
validation concepts, and three rivals on one held-out concept ("gridded background with negative palette"), had given
next to none; no hypernetwork had been measured. The claim about the same scenes was written after it had been seen on
fourteen training concepts of the first seed.
*Equal input* means: concept fidelity at the strength where input fidelity has fallen by the budget of
`trimtab.steer.hypertransport.measuring`, or the best before it. *Full* means: at strength 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HELD, PARTLY, FAILED, OPEN, UNKNOWN = "held", "partly", "did not hold", "open", "not measured"
MARGIN = 0.05
"""Fidelity by which what is about as good may be worse."""
BREAK_EVEN = 250
"""Concepts by which training pays in the paper: about 230 to 250."""
Evidence = Mapping[str, Any]
"""what, value, low, high (the same value where there is no interval), n."""


def above(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies above 0, partly where one does; open where none does and none lies below."""
    each = [one["low"] > 0 for one in evidence]
    if all(each):
        return HELD
    return PARTLY if any(each) else FAILED if any(one["high"] < 0 for one in evidence) else OPEN


def below(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies below 0; else as `above`."""
    return above([one | {"low": -one["high"], "high": -one["low"]} for one in map(dict, evidence)])


def not_worse(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies above minus the margin, partly where one does; did not where one lies below it."""
    each = [one["low"] >= -MARGIN for one in evidence]
    if all(each):
        return HELD
    if any(one["high"] < -MARGIN for one in evidence):
        return PARTLY if any(each) else FAILED
    return OPEN


def pays(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies at or below the count of the paper, partly where one does."""
    each = [one["high"] <= BREAK_EVEN for one in evidence]
    if not any(each) and not any(one["low"] > BREAK_EVEN for one in evidence):
        return OPEN
    return HELD if all(each) else PARTLY if any(each) else FAILED


@dataclass(frozen=True)
class Claim:
    """A claim, with the rule of its verdict.

    Attributes:
        key: short name.
        text: the claim.
        whose: "paper" or "ours".
        rule: in words.
        verdict: of its evidence.
    """

    key: str
    text: str
    whose: str
    rule: str
    verdict: Callable[[Sequence[Evidence]], str]


_ABOVE, _NEAR = (
    "the difference at equal input lies above 0",
    f"the difference at equal input lies above -{MARGIN}",
)
CLAIMS = (
    Claim("mean", "it does better than the mean map on concepts it never saw", "ours", _ABOVE, above),
    Claim("nearest", "it does better than the maps of the nearest training concept", "ours", _ABOVE, above),
    Claim(
        "ridge",
        "it does better than ridge regression on closed-form maps of as many concepts",
        "ours",
        _ABOVE,
        above,
    ),
    Claim(
        "end to end",
        "training end to end does better than ridge regression on maps of LinEAS, of the same concepts",
        "ours",
        _ABOVE,
        above,
    ),
    Claim("lineas", "it comes within a margin of LinEAS fitted to each concept", "paper", _NEAR, not_worse),
    Claim(
        "p concept",
        "p = 1 gives more of the concept than p = 2 at full strength",
        "paper",
        "concept fidelity at full strength, p = 1 less p = 2, lies above 0",
        above,
    ),
    Claim(
        "p input",
        "p = 2 keeps more of the input than p = 1 at full strength",
        "paper",
        "input fidelity at full strength, p = 1 less p = 2, lies below 0",
        below,
    ),
    Claim(
        "novelty",
        "quality falls with novelty",
        "ours",
        "Spearman's correlation of novelty and concept fidelity at equal input lies below 0",
        below,
    ),
    Claim(
        "pictures",
        "pictures as condition do as well as as many texts, with no retraining",
        "paper",
        f"pictures less texts at equal input lies above -{MARGIN}",
        not_worse,
    ),
    Claim(
        "conditions",
        "more examples in the condition do better",
        "paper",
        "most texts less one at equal input lies above 0",
        above,
    ),
    Claim(
        "counts",
        "more training concepts do better, for as many steps",
        "ours",
        "each count less the one before at equal input lies above 0",
        above,
    ),
    Claim(
        "break even",
        f"training pays by {BREAK_EVEN} concepts",
        "paper",
        f"concepts from which training and a pass each cost less than LinEAS for each: at most {BREAK_EVEN}",
        pays,
    ),
    Claim(
        "prompting input",
        "prompting keeps more of the input",
        "paper",
        "prompting less it at full strength lies above 0",
        above,
    ),
    Claim(
        "prompting concept",
        "it gives more of the concept than prompting",
        "paper",
        "it at full strength less prompting lies above 0",
        above,
    ),
    Claim("refined", "20 steps of LinEAS from its maps reach LinEAS", "ours", _NEAR, not_worse),
    Claim(
        "start",
        "those steps do better than as many from the identity",
        "ours",
        _ABOVE,
        above,
    ),
    Claim("same scenes", "LinEAS does better with targets of the same scenes", "ours", _ABOVE, above),
)


def judged(evidence: Mapping[str, Sequence[Evidence]]) -> list[dict[str, str]]:
    """The verdict on each claim."""
    rows = []
    for claim in CLAIMS:
        every = list(evidence.get(claim.key, ()))
        told = {"claim": claim.key, "text": claim.text, "whose": claim.whose, "held if": claim.rule}
        rows.append(told | {"verdict": claim.verdict(every) if every else UNKNOWN})
    return rows
