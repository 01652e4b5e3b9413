"""Controllers: mixers steered by the distance of each loss from its goal or limit, without trial training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from trimtab.adapt import mixer
from trimtab.adapt.mixer import Decision, State
from trimtab.adapt.session import Roles, Session
from trimtab.errors import Problem
from trimtab.numerics.simplex import exponentiated, smoothed, spread
from trimtab.runs.brief import brief


@dataclass(frozen=True)
class Feedback(mixer.Goals, mixer.ReadsLosses):
    """Integral control of one number, the share of the targets, by the tightest constraint.

    At each question the log-odds of the share move by `gain` times the smallest slack, the part of a tolerance that
    is left (1 untouched, 0 at the limit, negative beyond), clipped to [-1, 1]. The trainable targets share their
    part evenly, all other training domains the rest. An integral controller; ours, the rule that a method with
    probes has to beat.

    Assumes that less of the targets mends whichever constraint is tightest, and which other domain is trained on
    does not matter.

    Attributes:
        start: share of the targets at the beginning.
        gain: largest change of the log-odds at a question.
        floor: neither side gets less than this share, so that the log-odds cannot run away.
        every: steps between questions; None for a sixteenth of the run. The losses are read at each.
    """

    start: float = 0.5
    gain: float = 0.5
    floor: float = 0.05
    every: int | None = None
    kind: Literal["feedback"] = "feedback"
    ranges: ClassVar[Mapping[str, mixer.Range]] = {"gain": mixer.POSITIVE, "every": mixer.RHYTHM}

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """A domain missing on either side, a start outside the floors, a gain that moves nothing."""
        yield from mixer.side_problems(roles)
        yield from super().problems(roles)
        if not 0 < self.floor < 0.5:
            yield Problem("mixer.floor", str(self.floor), "a share between 0 and 0.5")
        elif not self.floor <= self.start <= 1 - self.floor:
            yield Problem("mixer.start", str(self.start), f"a share from {self.floor} to {1 - self.floor}")

    def decide(self, session: Session, state: State) -> Decision:
        """The share of the targets, moved by the tightest constraint."""
        log_odds = float(state.get("log_odds", _log_odds(self.start)))
        if state:
            tightest = min(mixer.slacks(session).values(), default=1.0)
            log_odds += self.gain * max(-1.0, min(1.0, tightest))
        bound = -_log_odds(self.floor)
        log_odds = max(-bound, min(bound, log_odds))
        weights = mixer.target_mass(session.roles, 1 / (1 + math.exp(-log_odds)))
        return Decision(weights, self.next_question(session), {"log_odds": log_odds})


@dataclass(frozen=True)
class ReferenceLoss(mixer.Goals, mixer.ReadsLosses):
    """Multiplicative weights on loss gaps: more of the domains whose loss is above its goal or limit.

    w_j <- w_j exp(eta gap_j), then a little of the uniform mixture. The gap of a trainable target is (change + goal)
    / goal, of a trainable constraint (change - tolerance) / max(tolerance, .01 nats), with the paired change of
    validation loss since the base model; of a monitored domain 0.

    After DoReMi (Xie et al. 2023, arXiv 2305.10429, algorithm 1), whose gap is the loss above that of a trained
    reference model. We have no such model, so the reference is what the user asked for; gaps are in units of the
    goal or the tolerance, and signed where the source cuts them off at 0, since a constraint with room to spare
    should give way.

    Assumes that training on a domain lowers its own loss and what it does to others can be left out. So a constraint
    that cannot be trained on has no say.

    Attributes:
        goal: nats by which each target should come below its base loss; it need not be within reach.
        eta: log-weight per question and unit of gap.
        smoothing: share of the uniform mixture.
        every: steps between questions; None for a sixteenth of the run. The losses are read at each.
    """

    goal: float = 0.5
    eta: float = 0.25
    smoothing: float = 0.05
    every: int | None = None
    kind: Literal["reference-loss"] = "reference-loss"
    ranges: ClassVar[Mapping[str, mixer.Range]] = {
        **dict.fromkeys(("goal", "eta"), mixer.POSITIVE),
        "smoothing": mixer.SHARE,
        "every": mixer.RHYTHM,
    }

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """No target to train on; settings out of range."""
        yield from mixer.target_problems(roles)
        yield from super().problems(roles)

    def decide(self, session: Session, state: State) -> Decision:
        """Equal shares at first, then an update at each question."""
        train, weights = session.roles.train, state.get("weights")
        if weights is None:
            weights = spread(train, train)
        else:
            moved = mixer.changes(session)
            gaps = {name: -slack for name, slack in mixer.slacks(session).items()}
            gaps |= {name: (moved[name] + self.goal) / self.goal for name in session.roles.targets}
            push = [self.eta * gaps.get(name, 0.0) for name in train]
            weights = smoothed(exponentiated(weights, push), self.smoothing)
        return Decision(weights, self.next_question(session), {"weights": list(weights)})


@dataclass(frozen=True)
class DualAscent(mixer.Goals, mixer.ReadsLosses):
    """Dual ascent: a price per constraint that rises while it is broken, and a mixture in proportion to the prices.

    lambda_i <- max(0, lambda_i + eta (change_i - tolerance_i) / max(tolerance_i, .01 nats)), from 0. The mixture is
    proportional to 1 for each trainable target and lambda_i for each trainable constraint.

    After primal-dual constrained learning (Chamon & Ribeiro 2020, arXiv 2006.05487, algorithm 1), which descends on
    the Lagrangian, the sum of the targets' losses and the priced losses of the constraints. Drawing a batch in
    proportion to the prices does that in expectation, up to the length of the step, which we leave to the optimiser.
    The source can differentiate every constraint; a constraint that cannot be trained on has no data here, so its
    price is shared evenly by all training domains that are not targets.

    Assumes that descending on the Lagrangian follows the prices faster than they move, and, for constraints that
    cannot be trained on, that the other domains mend them.

    Attributes:
        eta: price per question and per tolerance of excess.
        every: steps between questions; None for a sixteenth of the run. The losses are read at each.
    """

    eta: float = 1.0
    every: int | None = None
    kind: Literal["dual-ascent"] = "dual-ascent"
    ranges: ClassVar[Mapping[str, mixer.Range]] = {"eta": mixer.POSITIVE, "every": mixer.RHYTHM}

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """A domain missing on either side; settings out of range."""
        yield from mixer.side_problems(roles)
        yield from super().problems(roles)

    def decide(self, session: Session, state: State) -> Decision:
        """Targets alone at first, then an update of the prices at each question."""
        roles = session.roles
        prices = dict(state.get("prices") or dict.fromkeys(roles.tolerances, 0.0))
        if state:
            slack = mixer.slacks(session)
            prices = {name: max(0.0, prices[name] - self.eta * slack[name]) for name in slack}
        others = [name for name in roles.train if name not in roles.targets]
        abroad = math.fsum(price for name, price in prices.items() if name not in roles.train) / len(others)
        worth = [1.0 if name in roles.targets else prices.get(name, 0.0) + abroad for name in roles.train]
        weights = tuple(value / math.fsum(worth) for value in worth)
        return Decision(weights, self.next_question(session), {"prices": prices})


def _log_odds(share: float) -> float:
    return math.log(share / (1 - share))
