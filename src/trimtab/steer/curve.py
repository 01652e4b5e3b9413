"""What a steering does as its strength grows: to the behaviour it is about, and to everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trimtab.errors import ModelError, explain
from trimtab.models.intervene import checked_strength
from trimtab.models.likelihood import LogLikelihood, kl_divergence, log_likelihood
from trimtab.numerics.resample import Interval, bootstrap
from trimtab.numerics.statistics import mean_difference, ratio_of_sums

if TYPE_CHECKING:
    from trimtab.models.load import Model
    from trimtab.steer.steering import Steering

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def strength_curve(
    steering: Steering,
    model: Model,
    *,
    source: Sequence[str],
    target: Sequence[str],
    neutral: Sequence[str] = (),
    strengths: Sequence[float] = STRENGTHS,
    max_tokens: int | None = None,
) -> pd.DataFrame:
    """Effect and side effect at each strength, on texts that the steering was not fitted with.

    `lean` says how far the model moved from the source behaviour to the target one: by how many nats per token the
    target texts became likelier than they were, less the same of the source texts. `kl` says how far its next-token
    distributions moved on neutral texts.

    Args:
        steering: what to try.
        model: the language model that it belongs to.
        source: held-out texts of the behaviour as it is, at least two.
        target: held-out texts of the behaviour as it should be, at least two.
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
    before = [log_likelihood(model, texts, max_tokens=max_tokens) for texts in (source, target)]
    rows = []
    for strength in strengths:
        with steering.on(model, strength):
            after = [log_likelihood(model, texts, max_tokens=max_tokens) for texts in (source, target)]
        measured = {
            "lean": _lean(before, after),
            "kl": _moved(steering, model, neutral, strength, max_tokens),
            "source_loss": _per_token(-after[0].nats, after[0].tokens),
            "target_loss": _per_token(-after[1].nats, after[1].tokens),
        }
        rows.append({"strength": strength, **_flat(measured)})
    return pd.DataFrame(rows)


def _lean(before: Sequence[LogLikelihood], after: Sequence[LogLikelihood]) -> Interval:
    """Rise of the target's log likelihood per token less that of the source's; each side's texts are drawn apart."""
    source, target = ((a.nats - b.nats) / a.tokens.mean() for b, a in zip(before, after, strict=True))
    return bootstrap(mean_difference, target, source)


def _moved(
    steering: Steering, model: Model, neutral: Sequence[str], strength: float, max_tokens: int | None
) -> Interval:
    if not neutral:
        return Interval(math.nan, math.nan, math.nan, 0)
    moved = kl_divergence(model, neutral, lambda: steering.on(model, strength), max_tokens=max_tokens)
    return _per_token(moved.nats, moved.tokens)


def _per_token(nats: np.ndarray, tokens: np.ndarray) -> Interval:
    some = tokens > 0  # a text of one token has nothing to score
    return bootstrap(ratio_of_sums, nats[some], tokens[some].astype(float), paired=True)


def _flat(measured: Mapping[str, Interval]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, interval in measured.items():
        found |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return found
