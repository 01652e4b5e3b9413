"""A plan for one run: how much pretraining data to inject so that no more than so much is forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.adapt.forgetting import CONFIDENCE, ForgettingLaw
from trimtab.report.numbers import number


@dataclass(frozen=True)
class SharePlan:
    """What a law says about one run.

    Attributes:
        inject: the smallest share that keeps the promise in `confidence` of the law's refits; nan where none does.
        inject_interval: 95 %, of the median share, over refits; 1 stands for refits in which no share keeps it.
        rise: predicted by the law itself with that share, nats per token; without injection where there is no share.
        rise_interval: 95 %, of the law's curve; a run scatters around it.
        rise_without: predicted without any.
        max_rise: the promise.
        warnings: where the law is asked about what it has not seen, and coefficients that the runs did not settle.
        confidence: what was asked for; at 0.5 `inject` is the median.
        kept: the share of refits in which `inject` keeps the promise; where there is no share, that in which any does.
        median: the share by the fitted coefficients themselves; nan where none keeps the promise.
        median_kept: the share of refits in which the median keeps it; nan without one.
        refits: of the law.
        loss_pt0: of the base model, where the scatter of runs counts in `kept`; None where only refits do.
    """

    inject: float
    inject_interval: tuple[float, float]
    rise: float
    rise_interval: tuple[float, float]
    rise_without: float
    max_rise: float
    warnings: tuple[str, ...]
    confidence: float
    kept: float
    median: float
    median_kept: float
    refits: int
    loss_pt0: float | None = None

    def to_plain(self) -> dict[str, Any]:
        """For JSON, null where undefined."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def to_text(self) -> str:
        """For people: what the share is the smallest of, and what the law itself says."""
        told = [self._first()]
        if not math.isnan(self.inject):
            told.append(
                f"By the law itself the pretraining loss then rises by {number(self.rise)} nats "
                f"(95 % of refits: {number(self.rise_interval[0])} to {number(self.rise_interval[1])})."
            )
        if self.confidence != 0.5:
            told.append(
                "By the law itself no share keeps it, either."
                if math.isnan(self.median)
                else f"The median of the law, {_percent(self.median)}, keeps it in {_percent(self.median_kept)}."
            )
        told.append(
            f"Without injection the pretraining loss is predicted to rise by {number(self.rise_without)} nats."
        )
        return " ".join(told)

    def _first(self) -> str:
        promise = f"the rise within {number(self.max_rise)} nats"
        of = f"{self.refits} refits of the law"
        if self.loss_pt0 is not None:
            of += " with the scatter of its runs"
        if math.isnan(self.inject):
            most = f"some share does in {_percent(self.kept)} of them"
            if self.confidence == 0.5:
                return f"No share keeps {promise} by the law itself."
            return f"No share keeps {promise} in {_percent(self.confidence)} of {of}; {most}."
        if self.confidence == 0.5:
            return (
                f"Inject {_percent(self.inject)} of pretraining data, the median: the law itself then keeps {promise}, "
                f"and {_percent(self.kept)} of {of} do."
            )
        return (
            f"Inject {_percent(self.inject)} of pretraining data: the smallest share that keeps {promise} in "
            f"at least {_percent(self.confidence)} of {of}."
        )


def plan_share(
    law: ForgettingLaw | str | Path,
    *,
    params: float,
    tokens: float,
    max_rise: float,
    confidence: float = CONFIDENCE,
    loss_pt0: float | None = None,
) -> SharePlan:
    """The smallest share of pretraining data that keeps the rise within `max_rise` in `confidence` of the refits.

    Args:
        law: a law, or the file of one.
        params, tokens: of the run that is planned.
        max_rise: nats per token, above 0.
        confidence: from 0.5, the median, to below 1; see `ForgettingLaw.inject_for`.
        loss_pt0: of the base model; with it the scatter of runs around the curve counts, too.

    Raises:
        DataError: the file holds no law, or the law was fitted without refits.
        ConfigError: max_rise, params, tokens or loss_pt0 are not above 0, or a confidence out of range.
    """
    known = law if isinstance(law, ForgettingLaw) else ForgettingLaw.load(law)
    run: dict[str, Any] = {"rise": max_rise, "params": params, "tokens": tokens, "loss_pt0": loss_pt0}
    share = known.inject_for(**run, confidence=confidence)
    median = known.inject_for(**run, confidence=0.5)
    where = {"params": params, "tokens": tokens, "inject": 0.0 if math.isnan(share) else share}
    low, high = known.interval(**where, loss_pt0=1.0, noise=False)
    return SharePlan(
        inject=share,
        inject_interval=known.inject_interval(rise=max_rise, params=params, tokens=tokens),
        rise=known.rise(**where),
        rise_interval=(low - 1.0, high - 1.0),
        rise_without=known.rise(params=params, tokens=tokens, inject=0.0),
        max_rise=max_rise,
        warnings=(*known.extrapolates(**where), *_few(known, confidence), *_unsettled(known)),
        confidence=confidence,
        kept=known.kept(**run, inject=1.0 if math.isnan(share) else share),
        median=median,
        median_kept=math.nan if math.isnan(median) else known.kept(**run, inject=median),
        refits=len(known.fitted.draws),
        loss_pt0=loss_pt0,
    )


def _few(law: ForgettingLaw, confidence: float) -> Iterator[str]:
    """Of fewer refits than this, all keep the promise where one in so many would not."""
    least = math.ceil(1 / (1 - confidence) - 1e-9)
    if confidence > 0.5 and len(law.fitted.draws) < least:
        yield (
            f"{len(law.fitted.draws)} refits are too few to tell {_percent(confidence)} of them: "
            f"at least {least} are needed (n_boot)"
        )


def _unsettled(law: ForgettingLaw) -> Iterator[str]:
    for name in law.fitted.at_bounds:
        value = law.coefficients[name]
        yield f"{name} of the law is at a bound of its search ({value:.3g}), which the fitted runs do not settle"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
