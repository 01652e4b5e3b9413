"""The largest strength that leaves neutral text alone, by a stated budget, with the whole trade-off."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd

from trimtab.errors import ModelError, explain, nearest
from trimtab.models.kinds import require_language_model
from trimtab.models.likelihood import LogLikelihood, kl_divergence, log_likelihood
from trimtab.numerics.resample import Interval, bootstrap
from trimtab.numerics.statistics import ratio_of_sums

if TYPE_CHECKING:
    from trimtab.models.load import Model
    from trimtab.steer.steering import Steering

Measure = Literal["kl", "perplexity"]
STRENGTHS = tuple(step / 10 for step in range(1, 11))


@dataclass(frozen=True)
class Point:
    """What one strength costs.

    Attributes:
        strength: in (0, 1].
        cost: mean over the tokens of all texts; what it is of, the calibration says.
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
    """How strong a steering may be.

    Attributes:
        strength: the largest within the budget such that all smaller ones that were tried are within it, too; 0.0 where
            even the smallest of the grid is not.
        budget: what a strength may cost.
        measure: "kl": nats per token of KL(untouched || steered), 0 or more. "perplexity": relative rise, .05 for 5 %;
            below 0 where the steering makes the texts likelier.
        texts: how many there were.
        curve: every strength that was tried, smallest first.
    """

    strength: float
    budget: float
    measure: Measure
    texts: int
    curve: tuple[Point, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per strength: strength, cost, low, high, within."""
        return pd.DataFrame([asdict(point) for point in self.curve])


def calibrate(
    steering: Steering,
    model: Model,
    texts: Sequence[str],
    budget: float,
    *,
    measure: Measure = "kl",
    strengths: Sequence[float] = STRENGTHS,
    halvings: int = 4,
    batch_size: int = 16,
    max_tokens: int | None = None,
    seed: int = 0,
) -> Calibration:
    """The largest strength of a steering whose cost on neutral texts is within a budget.

    The cost need not grow with strength. So the strength returned is one below which nothing that was tried broke the
    budget: the last of the grid before the first that breaks it, then moved towards that one by bisection.

    The mean decides, not the end of its interval; both are in the curve.

    Args:
        steering: what to tone.
        model: the language model that it belongs to; unchanged.
        texts: neutral ones, that the steering should leave alone; not those it was fitted with.
        budget: above 0; see `measure`.
        measure: "kl", the mean of KL(untouched || steered) over all tokens in nats, or "perplexity", its relative rise.
        strengths: the grid, in (0, 1].
        halvings: how often the last gap of the grid is halved.
        batch_size: texts at a time.
        max_tokens: longer texts are cut.
        seed: of the bootstrap.

    Raises:
        ModelError: a setting out of range, no text, not a language model with a tokenizer, or another model than the
            steering was fitted on.
    """
    grid = _checked(texts, budget, measure, strengths, halvings)
    require_language_model(model)
    steering.check(model)
    options = _Options(batch_size, max_tokens)
    cost = (_kl_cost if measure == "kl" else _perplexity_cost)(steering, model, texts, options)

    def point(strength: float) -> Point:
        interval = cost(strength, seed)
        return Point(strength, interval.value, interval.low, interval.high, interval.value <= budget)

    curve = [point(strength) for strength in grid]
    good, bad = _gap(curve)
    if good > 0 and bad is not None:
        for _ in range(halvings):
            curve.append(middle := point((good + bad) / 2))
            good, bad = (middle.strength, bad) if middle.within else (good, middle.strength)
    ordered = tuple(sorted(curve, key=lambda one: one.strength))
    return Calibration(good, float(budget), measure, len(texts), ordered)


@dataclass(frozen=True)
class _Options:
    batch_size: int
    max_tokens: int | None


Cost = Callable[[float, int], Interval]


def _kl_cost(steering: Steering, model: Model, texts: Sequence[str], options: _Options) -> Cost:
    def cost(strength: float, seed: int) -> Interval:
        moved = kl_divergence(model, texts, lambda: steering.on(model, strength), **asdict(options))
        return _per_token(moved.nats, moved.tokens, seed)

    return cost


def _perplexity_cost(steering: Steering, model: Model, texts: Sequence[str], options: _Options) -> Cost:
    before = log_likelihood(model, texts, **asdict(options))
    if not before.tokens.sum():
        raise ModelError(explain("texts of one token each", "a text of two tokens, so that one is scored"))

    def cost(strength: float, seed: int) -> Interval:
        with steering.on(model, strength):
            after = log_likelihood(model, texts, **asdict(options))
        return _risen(before, after, seed)

    return cost


def _risen(before: LogLikelihood, after: LogLikelihood, seed: int) -> Interval:
    """Perplexity after over before, less 1; the interval of the logarithm, taken through the same function."""
    rise = _per_token(before.nats - after.nats, before.tokens, seed)
    value, low, high = (math.expm1(min(end, 700.0)) for end in (rise.value, rise.low, rise.high))
    return Interval(value, low, high, rise.n)


def _per_token(nats: np.ndarray, tokens: np.ndarray, seed: int) -> Interval:
    scored = tokens > 0
    return bootstrap(ratio_of_sums, nats[scored], tokens[scored].astype(float), paired=True, seed=seed)


def _gap(curve: Sequence[Point]) -> tuple[float, float | None]:
    """The last strength before the first that breaks the budget, and that one; a cost of nan breaks it."""
    good = 0.0
    for point in curve:
        if not point.within:
            return good, point.strength
        good = point.strength
    return good, None


def _checked(
    texts: Sequence[str], budget: float, measure: str, strengths: Sequence[float], halvings: int
) -> list[float]:
    """The grid in order, after all settings are found to be in range."""
    if measure not in get_args(Measure):
        choices = " or ".join(map(repr, get_args(Measure)))
        raise ModelError(f"measure: {explain(repr(measure), choices, nearest(measure, get_args(Measure)))}")
    if not 0 < budget < math.inf:
        raise ModelError(f"budget: {explain(budget, 'a number above 0')}")
    if not strengths or not all(0 < strength <= 1 for strength in strengths):
        raise ModelError(f"strengths: {explain(list(strengths), 'numbers in (0, 1]')}")
    if halvings < 0:
        raise ModelError(f"halvings: {explain(halvings, '0 or more')}")
    if isinstance(texts, str) or not texts:
        got = "one string" if texts else "no texts"
        raise ModelError(f"texts: {explain(got, 'a list of neutral texts')}")
    return sorted({float(strength) for strength in strengths})
