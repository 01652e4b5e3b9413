"""A session made by hand, for mixers that are asked without a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from trimtab.adapt.mixer import Decision, Mixer
from trimtab.adapt.session import Clock, GradientProducts, Roles, SlopeEstimate, Trials, make_roles
from trimtab.train.losses import SequenceLosses

TARGETS = ["math"]
CONSTRAINTS = {"web": 0.1, "safety": 0.05}
ROLES = make_roles(["math", "code", "web"], ["safety"], TARGETS, CONSTRAINTS)
"""One target, one domain only watched, one constraint to train on and one to evaluate only."""
BASE = 2.0
"""The base model's loss of every domain, nats per token."""


def reading(loss: float, spread: float = 0.0) -> SequenceLosses:
    """Two sequences of ten tokens around a loss; `spread` is the standard error."""
    return SequenceLosses(10 * (loss + spread * np.array([-1.0, 1.0])), np.full(2, 10))


def session(
    step: int = 0,
    *,
    steps: int = 64,
    grid: Sequence[int] = (0, 4, 16, 64),
    roles: Roles = ROLES,
    margin: float = 0.0,
    momentum: float = 0.0,
    spread: float = 0.0,
    slopes: SlopeEstimate | None = None,
    training_losses: Mapping[str, float] | None = None,
    products: Mapping[str, Sequence[float]] | None = None,
    **moved: float,
) -> Any:
    """A session in which the named losses have moved by so much since step 0.

    Args:
        step: now.
        steps: of the run.
        grid: the steps at which runs are evaluated.
        roles: the domains by role.
        margin: standard errors by which a checkpoint must keep each constraint.
        momentum: decay of the optimiser's first moment.
        spread: standard error of every change since step 0.
        slopes: what every step of a trial does, and the errors of a change over one step.
        training_losses: since the mixer was last asked.
        products: the row of gradient products of each evaluation domain.
        moved: nats per token, by evaluation domain.
    """
    now = {name: reading(BASE + moved.get(name, 0.0), spread) for name in roles.evaluate}
    asked: list[tuple[int, tuple[str, ...]]] = []
    tried: list[tuple[int, ...]] = []

    def gradients(sequences: int, of: Sequence[str]) -> GradientProducts:
        asked.append((sequences, tuple(of)))
        assert products is not None
        return GradientProducts(np.array([products[name] for name in of]), tuple(of), sequences)

    def trials(readings: Sequence[int]) -> Trials:
        tried.append(tuple(readings))
        assert slopes is not None
        lengths = np.diff([0, *readings])[:, None, None]
        return Trials(tuple(readings), lengths * slopes.slopes, lengths * slopes.standard_errors)

    return SimpleNamespace(
        roles=roles,
        step=step,
        steps=steps,
        grid=tuple(grid),
        reference={name: reading(BASE) for name in roles.evaluate},
        losses=lambda: now,
        rates=lambda start, stop: np.ones(stop - start),
        sampled_losses=lambda of=None: {name: now[name] for name in of or roles.evaluate},
        clock=Clock(),
        margin=margin,
        momentum=momentum,
        training_losses=dict(training_losses or {}),
        gradients=gradients,
        trials=trials,
        asked=asked,
        tried=tried,
    )


def ask(mixer: Mixer, *sessions: Any) -> list[Decision]:
    """A mixer's answers in turn, each asked with the state of the one before."""
    decisions: list[Decision] = []
    for now in sessions:
        decisions.append(mixer.decide(now, decisions[-1].state if decisions else {}))
    return decisions
