"""A speaker and a listener among a few candidates: which word, and does it pick out what was meant?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from trimtab.errors import ConfigError, explain
from trimtab.numerics.bootstrap import bootstrap, mean
from trimtab.seeds import derive


@dataclass(frozen=True)
class Speaker:
    """A speaker who weighs being understood against saying much.

    The chance of a word is softmax(alpha (log L(m | w, C) - cost I(w))) over the words that the referent has.

    Attributes:
        alpha: how strictly the best word is chosen; 0 is indifferent.
        cost: nats of log-success that one bit conveyed is worth.
    """

    alpha: float = 4.0
    cost: float = 0.1


@dataclass(frozen=True)
class Trials:
    """Situations to talk in.

    Attributes:
        trials: how many.
        distractors: candidates beside the referent in each.
        nearby: share of trials whose distractors are the referent's nearest neighbours; in the others they are any.
        seed: of the draw.
    """

    trials: int = 2000
    distractors: int = 2
    nearby: float = 0.5
    seed: int = 0


def listener(
    naming: Float[np.ndarray, "*trials candidates words"], prior: Float[np.ndarray, "*#trials candidates"]
) -> Float[np.ndarray, "*trials candidates words"]:
    """The chance that a listener who hears a word picks each candidate, p(m | w, C); 0 where none has the word."""
    weighted = naming * prior[..., None]
    total = weighted.sum(axis=-2, keepdims=True)
    return np.asarray(np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0))


def speaker_choice(
    success: Float[np.ndarray, "*trials words"], bits: Float[np.ndarray, " words"], speaker: Speaker
) -> Float[np.ndarray, "*trials words"]:
    """The chance of each word; words that cannot succeed are not said."""
    with np.errstate(divide="ignore"):
        utility = np.log(success) - speaker.cost * np.where(np.isfinite(bits), bits, 0.0)
    said = success > 0
    utility = np.where(said, speaker.alpha * np.where(said, utility, 0.0), -np.inf)
    weights = np.exp(utility - utility.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def draw_trials(
    features: Float[np.ndarray, "referents d"], prior: Float[np.ndarray, " referents"], trials: Trials
) -> Int[np.ndarray, "trials candidates"]:
    """Candidates of each trial, the referent first, all different."""
    n = len(prior)
    if not 1 <= trials.distractors < n:
        raise ConfigError(explain(f"{trials.distractors} distractors of {n} referents", f"1 to {n - 1}"))
    rng = np.random.default_rng(derive(trials.seed, "trials"))
    referents = rng.choice(n, size=trials.trials, p=prior)
    distances = ((features[referents][:, None] - features[None]) ** 2).sum(axis=-1)
    anywhere = rng.random((trials.trials, n))
    near = rng.random(trials.trials) < trials.nearby
    # Ties in distance are broken at random, by a noise far below any distance that matters.
    order = np.where(near[:, None], distances + 1e-9 * anywhere * distances.max(), anywhere)
    order[np.arange(trials.trials), referents] = -1.0
    return np.argsort(order, axis=1)[:, : trials.distractors + 1]


def simulated(
    naming: Float[np.ndarray, "referents words"],
    bits: Float[np.ndarray, " words"],
    candidates: Int[np.ndarray, "trials candidates"],
    flexibilities: Sequence[float],
    speaker: Speaker,
) -> pd.DataFrame:
    """Accuracy against bits conveyed, for speakers from rigid to flexible.

    At flexibility 0 each referent has one word, its most frequent one; at 1 every word the lexicon gives it is weighed
    in context. Success is the listener's probability of the referent, exact for each trial.

    Returns:
        Columns flexibility, success, success_low, success_high, info_bits, info_low, info_high, n (trials).
    """
    for one in flexibilities:
        if not 0 <= one <= 1:
            raise ConfigError(explain(f"flexibility {one}", "a number in [0, 1]"))
    inside = naming[candidates]
    even = np.full(candidates.shape[1], 1.0 / candidates.shape[1])
    success = listener(inside, even)[:, 0, :]
    free = speaker_choice(success * (inside[:, 0] > 0), bits, speaker)
    top = np.eye(naming.shape[1])[naming.argmax(axis=1)][candidates[:, 0]]
    conveyed = np.where(np.isfinite(bits), bits, 0.0)
    rows = []
    for flexibility in flexibilities:
        said = (1 - flexibility) * top + flexibility * free
        told = [bootstrap(mean, (said * what).sum(axis=1), n_boot=500) for what in (success, conveyed)]
        ends = [end for one in told for end in (one.value, one.low, one.high)]
        rows.append((float(flexibility), *ends, len(candidates)))
    names = ["success", "success_low", "success_high", "info_bits", "info_low", "info_high", "n"]
    return pd.DataFrame(rows, columns=["flexibility", *names])
