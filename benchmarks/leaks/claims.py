"""Claims of the paper about leaks, and the rules by which they held or did not; written before the first run.

Evidence is a difference of two cells of an audit, or the leak of one, with its 95 % interval over scenes. Differences
are paired over the same questions. A claim is judged over all its evidence: of every model seed, attribute and cell
that it names. Three seeds are too few for an interval over seeds, so that a claim holds only where it does in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimtab.read.leaks.cells import Measured
from trimtab.read.leaks.controls import RANDOM_TOKENS
from trimtab.read.leaks.estimate import Leak, leak_difference

HELD, PARTLY, FAILED, OPEN, UNKNOWN = "held", "partly", "did not hold", "open", "not measured"
MARGIN = 0.05
"""Accuracy by which two cells that are about equal may differ."""
Evidence = dict[str, Any]
"""what, measure ("bits" or "accuracy"), value, low, high, n."""


@dataclass(frozen=True)
class Subject:
    """What the claims are about in an audit.

    Attributes:
        target: attribute of what is asked about; claims are about questions that do not mention it.
        background: attribute of something else.
        lenses: names of the lenses whose trajectories were read.
        few: numbers of logits in the paper's range of 15 to 40.
        matched: as many logits as a trajectory of two tokens has numbers, 2 (L + 1).
        middle, last: states halfway and after the last block.
    """

    target: str
    background: str
    lenses: tuple[str, ...]
    few: tuple[int, ...]
    matched: int
    middle: int
    last: int

    @property
    def pairs(self) -> tuple[tuple[str, str], tuple[str, str]]:
        """Attribute and role of the target, then of the background."""
        return (self.target, "unmentioned"), (self.background, "background")


SCENES = Subject("colour", "background_colour", ("logit", "tuned"), (15, 40), 8, 2, 3)
"""L = 3 blocks."""
REAL = Subject("colour", "city", ("logit",), (20,), 62, 15, 30)
"""L = 30 blocks."""


def above(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies above 0, partly where one does."""
    each = [one["low"] > 0 for one in evidence]
    return HELD if all(each) else PARTLY if any(each) else FAILED


def below(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies below 0, partly where one does."""
    each = [one["high"] < 0 for one in evidence]
    return HELD if all(each) else PARTLY if any(each) else FAILED


def equal(evidence: Sequence[Evidence]) -> str:
    """Held where every interval lies within the margin, did not where one lies beyond it; else open."""
    if any(one["low"] > MARGIN or one["high"] < -MARGIN for one in evidence):
        return FAILED
    return HELD if all(one["low"] >= -MARGIN and one["high"] <= MARGIN for one in evidence) else OPEN


@dataclass(frozen=True)
class Claim:
    """A claim, with the rule of its verdict."""

    key: str
    text: str
    rule: str
    verdict: Callable[[Sequence[Evidence]], str]


CLAIMS = (
    Claim(
        "background",
        "trajectories of two tokens keep the background",
        "their bits lie above 0, and above those of the top two log-probabilities",
        above,
    ),
    Claim(
        "few",
        "an attribute that is not mentioned can be decoded from 15 to 40 logits",
        "bits of values at fixed tokens, and of tokens with values as served, lie above 0",
        above,
    ),
    Claim(
        "collapse",
        "accuracy collapses at very large k: classifiers of the audit",
        "accuracy at the most logits less that at fewer lies below 0",
        below,
    ),
    Claim("collapse raw", "the same: the paper's small network, inputs as they are", "as above", below),
    Claim("collapse standardised", "the same: that network, inputs standardised", "as above", below),
    Claim(
        "matched background",
        "as many logits as a trajectory has numbers tell as much of the background",
        f"their accuracies differ by no more than {MARGIN}, with the interval",
        equal,
    ),
    Claim(
        "matched target",
        "they tell more than the trajectory of the target's colour",
        "accuracy of the logits less that of the trajectory lies above 0",
        above,
    ),
    Claim(
        "middle",
        "a middle layer tells most",
        "bits halfway less those of the input of the first block, and of the last state, lie above 0",
        above,
    ),
)
CONTROL = Claim(
    "random",
    "the likeliest tokens on average tell more than as many random ones",
    "bits of fixed less those of random tokens, at 15 to 40, lie above 0",
    above,
)
"""Not a claim of the paper: a control that could win."""


def leak_of(outcomes: Sequence[Measured], pair: tuple[str, str], level: str, **cell: Any) -> Leak | None:
    """The leak of one cell for an attribute in a role; None where it was not measured."""
    wanted = {"level": level, "control": "", "setting": "", **cell}
    for one in outcomes:
        fits = all(getattr(one.cell, name) == value for name, value in wanted.items())
        if fits and (one.attribute, one.role) == pair:
            return one.leak
    return None


def told(what: str, leak: Leak | None) -> Iterator[Evidence]:
    """Bits of one cell."""
    if leak is not None:
        ends = {"value": leak.bits, "low": leak.low, "high": leak.high}
        yield {"what": what, "measure": "bits", **ends, "n": leak.n}


def less(what: str, a: Leak | None, b: Leak | None, measure: str = "bits") -> Iterator[Evidence]:
    """The first leak less the second."""
    if a is not None and b is not None:
        gap = leak_difference(a, b)
        ends = (gap.bits, gap.low, gap.high)
        if measure == "accuracy":
            ends = (gap.accuracy, gap.accuracy_low, gap.accuracy_high)
        yield {
            "what": what,
            "measure": measure,
            **dict(zip(("value", "low", "high"), ends, strict=True)),
            "n": a.n,
        }


def evidence_of(
    outcomes: Sequence[Measured], subject: Subject, most: int | None
) -> dict[str, list[Evidence]]:
    """Evidence for each claim, but for those about the paper's network.

    Args:
        outcomes: measured cells of an audit.
        subject: what the claims are about.
        most: the largest number of logits; None for the whole vocabulary.
    """
    found: dict[str, list[Evidence]] = {claim.key: [] for claim in (*CLAIMS, CONTROL)}
    target, behind = subject.pairs
    for lens in subject.lenses:
        path = {pair: leak_of(outcomes, pair, "trajectory", lens=lens) for pair in subject.pairs}
        found["background"] += told(f"{lens} lens, {behind[0]}", path[behind])
        two = leak_of(outcomes, behind, "logprobs", encoding="served", k=2)
        found["background"] += less(f"{lens} lens less top 2 served, {behind[0]}", path[behind], two)
        for pair, key in ((behind, "matched background"), (target, "matched target")):
            logits = leak_of(outcomes, pair, "logits", encoding="fixed", k=subject.matched)
            what = f"{subject.matched} fixed logits less {lens} lens, {pair[0]}"
            found[key] += less(what, logits, path[pair], "accuracy")
    for k in subject.few:
        fixed = leak_of(outcomes, target, "logits", encoding="fixed", k=k)
        found["few"] += told(f"{k} fixed, {target[0]}", fixed)
        served = {"encoding": "served", "k": k}
        sent = leak_of(outcomes, target, "logits", **served) or leak_of(
            outcomes, target, "logprobs", **served
        )
        found["few"] += told(f"{k} served, {target[0]}", sent)
        random = leak_of(outcomes, target, "logits", control=RANDOM_TOKENS, k=k)
        found["random"] += less(f"{k} fixed less random, {target[0]}", fixed, random)
    for pair in subject.pairs:
        encoding = "fixed" if most is not None else ""
        large = leak_of(outcomes, pair, "logits", encoding=encoding, k=most)
        fewer = max(*subject.few, subject.matched)
        small = leak_of(outcomes, pair, "logits", encoding="fixed", k=fewer)
        what = f"{most or 'all'} less {fewer} fixed, {pair[0]}"
        found["collapse"] += less(what, large, small, "accuracy")
        states = {at: leak_of(outcomes, pair, "hidden", layer=at) for at in (0, subject.middle, subject.last)}
        for at in (0, subject.last):
            what = f"state {subject.middle} less state {at}, {pair[0]}"
            found["middle"] += less(what, states[subject.middle], states[at])
    return found


def judged(runs: Sequence[Mapping[str, Sequence[Evidence]]]) -> list[dict[str, str]]:
    """The verdict on each claim over the evidence of runs, such as seeds of a model."""
    rows = []
    for claim in (*CLAIMS, CONTROL):
        every = [one for run in runs for one in run.get(claim.key, ())]
        verdict = claim.verdict(every) if every else UNKNOWN
        rows.append({"claim": claim.key, "text": claim.text, "held if": claim.rule, "verdict": verdict})
    return rows
