"""A plan for one run: how much pretraining data to inject so that no more than so much is forgotten."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trimtab.adapt.forgetting import ForgettingLaw
from trimtab.report.numbers import number


@dataclass(frozen=True)
class SharePlan:
    """What a law says about one run.

    Attributes:
        inject: the smallest share that keeps the promise; nan where none does.
        inject_interval: over refits of the law; 1 stands for refits in which none does.
        rise: predicted with that share, nats per token.
        rise_interval: 95 %, of the law's curve; a run scatters around it.
        rise_without: predicted without any.
        max_rise: the promise.
        warnings: where the law is asked about what it has not seen, and coefficients that the runs did not settle.
    """

    inject: float
    inject_interval: tuple[float, float]
    rise: float
    rise_interval: tuple[float, float]
    rise_without: float
    max_rise: float
    warnings: tuple[str, ...]

    def to_plain(self) -> dict[str, Any]:
        """For JSON, null where undefined."""
        return {name: None if value != value else value for name, value in asdict(self).items()}

    def to_text(self) -> str:
        """For people."""
        without = f"Without injection the pretraining loss is predicted to rise by {number(self.rise_without)} nats."
        if math.isnan(self.inject):
            return f"No share keeps the rise within {number(self.max_rise)} nats. {without}"
        low, high = (100 * end for end in self.inject_interval)
        return (
            f"Inject {100 * self.inject:.3g} % of pretraining data (95 % interval {low:.3g} to {high:.3g} %): the "
            f"pretraining loss is then predicted to rise by {number(self.rise)} nats "
            f"({number(self.rise_interval[0])} to {number(self.rise_interval[1])}). {without}"
        )


def plan_share(
    law: ForgettingLaw | str | Path, *, params: float, tokens: float, max_rise: float
) -> SharePlan:
    """The smallest share of pretraining data with which the loss rises by no more than `max_rise`.

    Args:
        law: a law, or the file of one.
        params, tokens: of the run that is planned.
        max_rise: nats per token, above 0.

    Raises:
        DataError: the file holds no law, or the law was fitted without refits.
        ConfigError: max_rise is not above 0.
    """
    known = law if isinstance(law, ForgettingLaw) else ForgettingLaw.load(law)
    share = known.inject_for(rise=max_rise, params=params, tokens=tokens)
    usable = 0.0 if math.isnan(share) else share
    where = {"params": params, "tokens": tokens, "inject": usable}
    low, high = known.interval(**where, loss_pt0=1.0, noise=False)
    return SharePlan(
        inject=share,
        inject_interval=known.inject_interval(rise=max_rise, params=params, tokens=tokens),
        rise=known.rise(**where),
        rise_interval=(low - 1.0, high - 1.0),
        rise_without=known.rise(params=params, tokens=tokens, inject=0.0),
        max_rise=max_rise,
        warnings=(*known.extrapolates(**where), *_unsettled(known)),
    )


def _unsettled(law: ForgettingLaw) -> Iterator[str]:
    for name in law.fitted.at_bounds:
        value = law.coefficients[name]
        yield f"{name} of the law is at a bound of its search ({value:.3g}), which the fitted runs do not settle"
