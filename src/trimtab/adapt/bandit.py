"""Online data mixing: training domains as arms of a bandit, paid by their training loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from trimtab.adapt.mixer import Decision, NoProbes, State
from trimtab.adapt.rhythm import next_question
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session
from trimtab.adapt.settings import count_problems, share_problems
from trimtab.adapt.shares import exponentiated
from trimtab.errors import Problem


@dataclass(frozen=True)
class Exp3(NoProbes):
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

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    every: int = 4
    decay: float = 0.9
    kind: Literal["exp3"] = "exp3"

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """Settings out of range."""
        yield from count_problems(every=self.every)
        yield from share_problems(decay=self.decay)

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
            shares = _shares(rewards, turn)
        ask_at = next_question(session.step, session.steps, self.every)
        return Decision(tuple(shares), ask_at, {"turn": turn, "rewards": rewards, "shares": shares})


def _shares(rewards: Sequence[float], turn: int) -> list[float]:
    """A softmax of the rewards with an even part in it that wears off; each share is at least eps_t."""
    arms = len(rewards)
    even = exponentiated([1 / arms] * arms, exploration(arms, turn - 1) * np.asarray(rewards))
    least = exploration(arms, turn)
    return [float(share) for share in (1 - arms * least) * even + least]


def exploration(arms: int, turn: int) -> float:
    """The least share of each arm at a turn, eps_t; 1 / arms up to about turn arms ln(arms).

    >>> exploration(4, 0), round(exploration(4, 50), 4)
    (0.25, 0.0833)
    """
    return min(1 / arms, math.sqrt(math.log(arms) / (arms * turn))) if turn else 1 / arms
