"""Online data mixing: training domains as arms of a bandit, paid by their training loss.

Mixing by gradients: train on what points where the targets and the constraints in need point.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.mixer import (
    COUNT,
    POSITIVE,
    RHYTHM,
    SHARE,
    Decision,
    Goals,
    Needs,
    NoProbes,
    Range,
    ReadsLosses,
    State,
    next_question,
    questions,
    slacks,
)
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session
from trimtab.errors import DivergedError
from trimtab.numerics.simplex import exponentiated, smoothed, spread
from trimtab.train.settings import Fit


@dataclass(frozen=True)
class Exp3(Goals, NoProbes):
    """Online data mixing: more of the domains with a high training loss, by the bandit algorithm Exp3.

    At question t each domain drawn since the last one updates its reward, R_i <- a R_i + (1 - a) L_i / pi_i, with its
    mean training loss L_i in nats per token and its share pi_i; then pi_i = (1 - K eps_t) softmax(eps_{t-1} R)_i +
    eps_t, where eps_t = min(1/K, sqrt(ln K / (K t))) and eps_0 = 1/K. At first all K shares are equal.

    Source: Albalak, Pan, Raffel, Wang 2023 (arXiv 2312.02406, algorithm 1). There a turn is one optimiser step, and
    every domain is drawn in the warm-up; here a turn is `every` steps, the share of a domain decides how many of
    its sequences there are, and a domain of which none was drawn keeps its reward.

    Blind to targets and constraints: it never reads them. It assumes that a high loss means much to learn, as in
    pretraining; a domain with much noise in it then gets much of the batch.

    Attributes:
        every: steps between questions.
        decay: a, how much of a reward is kept.
    """

    every: int = 4
    decay: float = 0.9
    kind: Literal["exp3"] = "exp3"
    ranges: ClassVar[Mapping[str, Range]] = {"every": COUNT, "decay": SHARE}

    def decide(self, session: Session, state: State) -> Decision:
        """Equal shares at first, then a turn of the bandit at each question."""
        train = session.roles.train
        arms = len(train)
        turn = int(state.get("turn", -1)) + 1
        rewards = list(state.get("rewards", [0.0] * arms))
        shares = list(state.get("shares", [1 / arms] * arms))
        for k, name in enumerate(train):
            if name in session.training_losses:
                paid = session.training_losses[name] / shares[k]
                rewards[k] = self.decay * rewards[k] + (1 - self.decay) * paid
        if turn:
            softmax = exponentiated([1 / arms] * arms, exploration(arms, turn - 1) * np.asarray(rewards))
            least = exploration(arms, turn)
            shares = [float(share) for share in (1 - arms * least) * softmax + least]
        ask_at = next_question(session.step, session.steps, self.every)
        return Decision(tuple(shares), ask_at, {"turn": turn, "rewards": rewards, "shares": shares})


def exploration(arms: int, turn: int) -> float:
    """The least share of each arm at a turn, eps_t; 1 / arms up to about turn arms ln(arms).

    >>> exploration(4, 0), round(exploration(4, 50), 4)
    (0.25, 0.0833)
    """
    return min(1 / arms, math.sqrt(math.log(arms) / (arms * turn))) if turn else 1 / arms


@dataclass(frozen=True)
class GradientAlignment(Goals, ReadsLosses):
    """More of the domains whose gradient points along that of the targets and of the constraints in need.

    w_j <- w_j exp(eta a_j), then a little of the uniform mixture, where a_j is the inner product of the gradient of
    training loss j with the gradient of the sum of the target losses and of the losses of all constraints that have
    at most `near` of their tolerance left, divided by the largest |a_k|: so eta has no unit.

    After DoGE (Fan, Pagliardini, Jaggi 2023, arXiv 2310.15393, algorithm 1), which aligns with the sum over all
    domains, at each step of a small proxy model, and scales by a constant. The source has no constraints: that they
    count once they are close to their limit is ours, and so are the scale and that it runs on the model itself,
    at a few steps.

    Assumes that a small gradient step says what training does: the optimiser's moments are left out, so a domain
    whose gradient is long counts for more than Adam makes of it.

    Attributes:
        near: part of a tolerance (of .01 nats at least) below which its constraint counts.
        eta: log-weight per question.
        smoothing: share of the uniform mixture.
        sequences: read for each gradient.
        every: steps between questions; None for a sixteenth of the run. Losses and gradients are read at each.
    """

    near: float = 0.5
    eta: float = 0.5
    smoothing: float = 0.05
    sequences: int = 8
    every: int | None = None
    kind: Literal["gradient-alignment"] = "gradient-alignment"
    ranges: ClassVar[Mapping[str, Range]] = {
        "eta": POSITIVE,
        "smoothing": SHARE,
        "near": SHARE,
        "sequences": COUNT,
        "every": RHYTHM,
    }

    def needs(self, fit: Fit, roles: Roles) -> Needs:
        """All losses at each question, and gradients as if every constraint were in need."""
        gradients = len(roles.train) + len(roles.targets) + len(roles.tolerances)
        asked = len(questions(fit.steps, self.every))
        return replace(super().needs(fit, roles), gradient_sequences=asked * gradients * self.sequences)

    def decide(self, session: Session, state: State) -> Decision:
        """An update from equal shares, and from the last shares at each further question."""
        train = session.roles.train
        in_need = [name for name, slack in slacks(session).items() if slack <= self.near]
        found = session.gradients(self.sequences, of=[*session.roles.targets, *in_need])
        alignment = found.products.sum(0)
        if not np.isfinite(alignment).all():
            raise DivergedError(f"a gradient at step {session.step} is not finite; try a lower lr")
        before = state.get("weights", spread(train, train))
        weights = smoothed(exponentiated(before, self.eta * in_units(alignment)), self.smoothing)
        return Decision(weights, self.next_question(session), {"weights": list(weights)})


def in_units(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Values divided by the largest absolute one, so that they lie in [-1, 1]; zeros stay zeros.

    >>> in_units(np.array([1.0, -4.0])).tolist()
    [0.25, -1.0]
    """
    largest = np.abs(values).max()
    scaled: np.ndarray = values / largest if largest > 0 else np.zeros_like(values)
    return scaled
