"""Strength of a steering: curves of its effect and side effect, and calibration to a stated budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from trimtab.data.records import Record
from trimtab.errors import ModelError, Problem, explain, not_among
from trimtab.models.batches import TokenRow
from trimtab.models.hooks import checked_strength
from trimtab.models.inspection import require_language_model
from trimtab.models.language import Divergence, LogLikelihood, kl_divergence, log_likelihood
from trimtab.numerics.bootstrap import Interval, bootstrap, mean_difference, ratio_of_sums
from trimtab.runs.brief import brief
from trimtab.steer.samples import rows_to_measure

if TYPE_CHECKING:
    from trimtab.models.load import Model
    from trimtab.steer.steering import Steering


STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def strength_curve(
    steering: Steering,
    model: Model,
    *,
    source: Sequence[Record],
    target: Sequence[Record],
    neutral: Sequence[Record] = (),
    strengths: Sequence[float] = STRENGTHS,
    max_tokens: int | None = None,
) -> pd.DataFrame:
    """Strength curve: effect and side effect at each strength, on texts that the steering was not fitted with.

    `lean` says how far the model moved from the source behaviour to the target one: by how many nats per token the
    target texts became likelier than they were, less the same of the source texts. `kl` says how far its next-token
    distributions moved on neutral texts. Of records with a response, see `trimtab.data.rows.record_rows`, it alone
    counts.

    Args:
        steering: what to try.
        model: the language model that it belongs to.
        source: held-out texts or other records of the behaviour as it is, at least two.
        target: held-out ones of the behaviour as it should be, at least two.
        neutral: texts that the steering should leave alone; none gives nan.
        strengths: in [0, 1].
        max_tokens: longer texts are cut.

    Returns:
        One row per strength: strength, lean, kl, source_loss and target_loss (nats per token), each but the first with
        `_low` and `_high`, a 95 % bootstrap interval over texts, paired with strength 0 for lean.

    Raises:
        ModelError: fewer than two texts on a side, a strength out of range, not a language model, or another model.
    """
    for name, texts in (("source", source), ("target", target)):
        if len(texts) < 2:
            raise ModelError(f"{name}: {explain(f'{len(texts)} texts', 'at least two, for an interval')}")
    for strength in strengths:
        checked_strength(strength)
    given = {"source": source, "target": target, "neutral": neutral}
    read = {name: rows_to_measure(model, texts, name, max_tokens) for name, texts in given.items()}
    return curve_texts(steering, model, read, strengths, max_tokens).curve()


@dataclass(frozen=True, eq=False)
class CurveTexts:
    """Nats of each held-out text at each strength: what curves over all of them, and over parts of them, are of.

    Attributes:
        before: source and target texts without the steering.
        after: strength -> the same with it.
        moved: strength -> KL on neutral texts; none where there are no such texts.
    """

    before: tuple[LogLikelihood, LogLikelihood]
    after: Mapping[float, tuple[LogLikelihood, LogLikelihood]]
    moved: Mapping[float, Divergence]

    def counts(self, part: slice = slice(None)) -> dict[str, int]:
        """Texts of a part by side; those of a single token have no likelihood and are not counted."""
        texts = zip(("source", "target"), self.before, strict=True)
        counted = {name: int((side.tokens[part] > 0).sum()) for name, side in texts}
        for one in list(self.moved.values())[:1]:
            counted["neutral"] = len(one.tokens[part])
        return counted

    def curve(self, part: slice = slice(None)) -> pd.DataFrame:
        """Strength curve over a part of each side's texts; see `strength_curve`."""
        rows = []
        for strength, after in self.after.items():
            pairs = zip(self.before, after, strict=True)
            rises = [(a.nats[part] - b.nats[part]) / a.tokens[part].mean() for b, a in pairs]
            kl = Interval(math.nan, math.nan, math.nan, 0)
            if strength in self.moved:
                kl = _per_token(self.moved[strength].nats[part], self.moved[strength].tokens[part])
            source, target = (_per_token(-one.nats[part], one.tokens[part]) for one in after)
            lean = bootstrap(mean_difference, rises[1], rises[0])  # each side's texts are drawn apart
            row = {"strength": strength}
            measured = {"lean": lean, "kl": kl, "source_loss": source, "target_loss": target}
            for name, interval in measured.items():
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            rows.append(row)
        return pd.DataFrame(rows)


def curve_texts(
    steering: Steering,
    model: Model,
    texts: Mapping[str, list[str] | list[TokenRow]],
    strengths: Sequence[float],
    max_tokens: int | None = None,
) -> CurveTexts:
    """Nats of texts at each strength.

    Args:
        steering: what to try.
        model: the language model that it belongs to.
        texts: source, target and neutral ones, as `trimtab.steer.samples.rows_to_measure` gives them.
        strengths: in [0, 1].
        max_tokens: longer texts are cut.
    """

    def scored() -> tuple[LogLikelihood, LogLikelihood]:
        source, target = (
            log_likelihood(model, texts[name], max_tokens=max_tokens) for name in ("source", "target")
        )
        return source, target

    before, neutral = scored(), texts["neutral"]
    after, moved = dict[float, tuple[LogLikelihood, LogLikelihood]](), dict[float, Divergence]()
    for strength in strengths:
        with steering.on(model, strength):
            after[strength] = scored()
        if neutral:
            on = partial(steering.on, model, strength)
            moved[strength] = kl_divergence(model, neutral, on, max_tokens=max_tokens)
    return CurveTexts(before, after, moved)


def _per_token(nats: np.ndarray, tokens: np.ndarray, seed: int = 0) -> Interval:
    scored = tokens > 0  # a text of one token has nothing to score
    return bootstrap(ratio_of_sums, nats[scored], tokens[scored].astype(float), paired=True, seed=seed)


Measure = Literal["kl", "perplexity"]
TOLERANCE = 0.01
"""Part of the budget that may be left unused where a larger strength would break it."""
_GROWTH = 1.25
"""By how much strengths beyond 1 grow until the budget is broken."""
_FLOOR = 1e-3
"""Part of the smallest strength of the grid at which the search stops."""
_MOST_HALVINGS = 40


@dataclass(frozen=True)
class Point:
    """Cost of one strength, with its interval.

    Attributes:
        strength: above 0.
        cost: mean over the tokens of all texts, in the measure of the calibration.
        low, high: 95 % bootstrap interval over texts; nan for one text.
        within: whether the cost is within the budget.
    """

    strength: float
    cost: float
    low: float
    high: float
    within: bool


@dataclass(frozen=True)
class Calibration:
    """Calibrated strength of a steering: the largest whose cost is within a budget.

    Attributes:
        strength: the largest within the budget such that all smaller ones that were tried are within it, too; 0.0 where
            no strength is, down to a thousandth of the smallest of the grid. Above 1 only with a larger `max_strength`;
            use it by `on`, or as `steering * strength`.
        budget: what a strength may cost.
        measure: "kl": nats per token of KL(untouched || steered), 0 or more. "perplexity": relative rise, .05 for 5 %;
            below 0 where the steering makes the texts likelier.
        texts: how many there were.
        curve: every strength that was tried, smallest first.
        tolerance: part of the budget that may be left unused.
    """

    strength: float
    budget: float
    measure: Measure
    texts: int
    curve: tuple[Point, ...]
    tolerance: float = TOLERANCE

    __repr__ = brief

    @property
    def cost(self) -> float:
        """Cost of the strength; 0.0 at strength 0."""
        return next((point.cost for point in self.curve if point.strength == self.strength), 0.0)

    @property
    def reached(self) -> bool:
        """Whether the budget is used but for the tolerance; False where strengths end, or the cost jumps, before."""
        return self.strength > 0 and self.cost >= (1 - self.tolerance) * self.budget

    def on(self, steering: Steering, model: Model) -> AbstractContextManager[None]:
        """Run a block with the model steered at the calibrated strength, also beyond 1."""
        return _at(steering, model, self.strength)

    def to_text(self) -> str:
        """The strength, what it costs, and why not more of the budget is used where that is so."""
        text = f"strength {self.strength:.4g} costs {self.cost:.4g} of the budget of {self.budget:g}"
        if self.reached:
            return text
        if not self.strength:
            return f"{text}: every strength that was tried costs more"
        larger = [point for point in self.curve if point.strength > self.strength]
        if not larger:
            return f"{text}, the largest that was tried; a larger max_strength would use more"
        return f"{text}; strength {larger[0].strength:.4g} costs {larger[0].cost:.4g}"

    def to_frame(self) -> pd.DataFrame:
        """One row per strength: strength, cost, low, high, within."""
        return pd.DataFrame([asdict(point) for point in self.curve])


def calibrate(
    steering: Steering,
    model: Model,
    texts: Sequence[Record],
    budget: float,
    *,
    measure: Measure = "kl",
    strengths: Sequence[float] | None = None,
    max_strength: float = 1.0,
    halvings: int | None = None,
    tolerance: float = TOLERANCE,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Calibration:
    """The largest strength of a steering whose cost on neutral texts is within a budget.

    The cost need not grow with strength. So the strength returned is one below which nothing that was tried broke the
    budget: the last of the grid before the first that breaks it, then moved towards that one by bisection until all of
    the budget but `tolerance` is used. Where the largest strength leaves more than that unused, `reached` is False.

    Beyond 1 the maps are those of `steering * strength`; the grid goes on by steps of a quarter until the budget is
    broken.

    The mean decides, not the end of its interval; both are in the curve.

    Args:
        steering: the one to calibrate.
        model: the language model that it belongs to; unchanged.
        texts: neutral ones, that the steering should leave alone; not those it was fitted with. Of records with a
            response, see `trimtab.data.rows.record_rows`, it alone counts.
        budget: above 0; see `measure`.
        measure: "kl", the mean of KL(untouched || steered) over all tokens in nats, or "perplexity", its relative rise.
        strengths: the grid, in (0, max_strength]; None for .1 to 1 in steps of .1, and beyond as above.
        max_strength: the largest strength that is tried; 1 unless it is set.
        halvings: how often the last gap is halved, whatever is used of the budget; None for as often as needed.
        tolerance: part of the budget, between 0 and 1.
        batch_size: texts at a time.
        max_tokens: longer texts are cut.
        seed: of the bootstrap.

    Raises:
        ModelError: a setting out of range, no text, not a language model with a tokenizer, or another model than the
            steering was fitted on.
    """
    inside = tuple(step / 10 for step in range(1, 11) if step / 10 <= max_strength) or (max_strength,)
    chosen = inside if strengths is None else strengths
    in_range = bool(chosen) and all(0 < strength <= max_strength for strength in chosen)
    beyond = "max_strength=" if chosen and min(chosen) > 0 else ""
    no_list = "one string" if texts else "no texts"
    limits = [
        (0 < max_strength < math.inf, Problem("max_strength", f"{max_strength}", "a number above 0")),
        (0 < tolerance < 1, Problem("tolerance", f"{tolerance}", "a part of the budget, between 0 and 1")),
        (measure in get_args(Measure), not_among("measure", measure, get_args(Measure))),
        (0 < budget < math.inf, Problem("budget", f"{budget}", "a number above 0")),
        (in_range, Problem("strengths", f"{list(chosen)}", f"numbers in (0, {max_strength:g}]", beyond)),
        (halvings is None or halvings >= 0, Problem("halvings", f"{halvings}", "0 or more")),
        (bool(texts) and not isinstance(texts, str), Problem("texts", no_list, "a list of neutral texts")),
    ]
    for fine, problem in limits:
        if not fine:
            raise ModelError(str(problem))
    grid = sorted({float(strength) for strength in chosen})
    require_language_model(model)
    steering.check(model)
    options = {"batch_size": batch_size, "max_tokens": max_tokens}
    rows = rows_to_measure(model, texts, "texts", max_tokens)
    cost = _cost_of(measure, steering, model, rows, options)

    def point(strength: float) -> Point:
        interval = cost(strength, seed)
        return Point(strength, interval.value, interval.low, interval.high, interval.value <= budget)

    curve = [point(strength) for strength in grid]
    while strengths is None and curve[-1].strength < max_strength and all(one.within for one in curve):
        curve.append(point(min(curve[-1].strength * _GROWTH, max_strength)))
    broken = next((place for place, one in enumerate(curve) if not one.within), len(curve))
    good = curve[broken - 1].strength if broken else 0.0
    bad = curve[broken].strength if broken < len(curve) else None
    costs = {one.strength: one.cost for one in curve} | {0.0: 0.0}
    # A cost grows with the square of a small strength at most: there is nothing to find below this one.
    hopeless = not good and budget < _FLOOR**2 * curve[0].cost
    for _ in range(_MOST_HALVINGS if halvings is None else halvings):
        if bad is None or bad <= _FLOOR * grid[0] or hopeless:
            break
        if halvings is None and good > 0 and costs[good] >= (1 - tolerance) * budget:
            break
        curve.append(middle := point((good + bad) / 2))
        costs[middle.strength] = middle.cost
        good, bad = (middle.strength, bad) if middle.within else (good, middle.strength)
    ordered = tuple(sorted(curve, key=lambda one: one.strength))
    return Calibration(good, float(budget), measure, len(texts), ordered, tolerance)


def _at(steering: Steering, model: Model, strength: float) -> AbstractContextManager[None]:
    """A steering at any strength; maps beyond 1 are scaled."""
    return steering.on(model, strength) if strength <= 1 else (steering * strength).on(model)


def _cost_of(
    measure: Measure,
    steering: Steering,
    model: Model,
    texts: list[str] | list[TokenRow],
    options: Mapping[str, Any],
) -> Callable[[float, int], Interval]:
    """KL in nats per token, or perplexity after over before, less 1; of a strength and a seed."""
    before = None if measure == "kl" else log_likelihood(model, texts, **options)
    if before is not None and not before.tokens.sum():
        raise ModelError(explain("texts of one token each", "a text of two tokens, so that one is scored"))

    def cost(strength: float, seed: int) -> Interval:
        if before is None:
            moved = kl_divergence(model, texts, lambda: _at(steering, model, strength), **options)
            return _per_token(moved.nats, moved.tokens, seed)
        with _at(steering, model, strength):
            after = log_likelihood(model, texts, **options)
        rise = _per_token(before.nats - after.nats, before.tokens, seed)
        # The interval of the logarithm, taken through the same function.
        value, low, high = (math.expm1(min(end, 700.0)) for end in (rise.value, rise.low, rise.high))
        return Interval(value, low, high, rise.n)

    return cost
