"""Mixing by gradients: train on what points where the targets and the constraints in need point."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.mixer import Decision, NoProbes, State
from trimtab.adapt.needs import Needs
from trimtab.adapt.rhythm import next_question, questions, reads_losses, rhythm_problems
from trimtab.adapt.roles import Roles
from trimtab.adapt.session import Session
from trimtab.adapt.settings import count_problems, positive_problems, share_problems
from trimtab.adapt.shares import exponentiated, smoothed, spread
from trimtab.adapt.slack import slacks
from trimtab.errors import DivergedError, Problem
from trimtab.train.fit import Fit


@dataclass(frozen=True)
class GradientAlignment(NoProbes):
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

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    near: float = 0.5
    eta: float = 0.5
    smoothing: float = 0.05
    sequences: int = 8
    every: int | None = None
    kind: Literal["gradient-alignment"] = "gradient-alignment"

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """Settings out of range."""
        yield from positive_problems(eta=self.eta)
        yield from share_problems(smoothing=self.smoothing, near=self.near)
        yield from count_problems(sequences=self.sequences)
        yield from rhythm_problems(self.every)

    def needs(self, fit: Fit, roles: Roles) -> Needs:
        """All losses at each question, and gradients as if every constraint were in need."""
        gradients = len(roles.train) + len(roles.targets) + len(roles.tolerances)
        asked = len(questions(fit.steps, self.every))
        return replace(reads_losses(fit, self.every), gradient_sequences=asked * gradients * self.sequences)

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
        ask_at = next_question(session.step, session.steps, self.every)
        return Decision(weights, ask_at, {"weights": list(weights)})


def in_units(values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Values divided by the largest absolute one, so that they lie in [-1, 1]; zeros stay zeros.

    >>> in_units(np.array([1.0, -4.0])).tolist()
    [0.25, -1.0]
    """
    largest = np.abs(values).max()
    scaled: np.ndarray = values / largest if largest > 0 else np.zeros_like(values)
    return scaled
