"""What a mixer is: asked at a step, it answers with a mixture, and with when it wants to be asked again.

What a mixer will ask of a run beside training and the evaluation grid, told before the run starts.

When a mixer that updates at a fixed rhythm is asked again.

How far the losses of a run have moved, and how much of each tolerance is left.

Refusals that several mixers share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from trimtab.adapt.cost import Ledger
from trimtab.adapt.roles import LEAST_SCALE_NATS, Roles
from trimtab.adapt.session import Session, SlopeEstimate
from trimtab.errors import DivergedError, Problem
from trimtab.numerics.simplex import MixtureSolution
from trimtab.train.losses import change
from trimtab.train.settings import Fit, evaluation_steps


@dataclass(frozen=True)
class Needs:
    """The most that a mixer asks of a run: less where the run stops early or the mixer then needs less.

    Attributes:
        probe_steps: optimiser steps that will be rolled back, over all training domains.
        whole_readings: how often `Fit.eval_sequences` of every evaluation domain are read off the evaluation grid; a
            question at a point of the grid finds them read.
        sampled_readings: how often `Fit.probe_sequences` of them are read, between points of the grid and on trial.
        gradient_sequences: sequences read forward and backward for gradients that train nothing.
    """

    probe_steps: int = 0
    whole_readings: int = 0
    sampled_readings: int = 0
    gradient_sequences: int = 0

    def ledger(self, fit: Fit, roles: Roles) -> Ledger:
        """The ledger of a run that asks for this and goes to its end, if no validation split is too short.

        >>> from trimtab.adapt.roles import make_roles
        >>> roles = make_roles(["math", "web"], ["safety"], ["math"], {"safety": 0.05})
        >>> Needs(whole_readings=2).ledger(Fit(eval_sequences=10), roles).probe_sequences
        60
        """
        domains, grid = len(roles.evaluate), evaluation_steps(fit.steps, fit.eval_points)
        read = self.whole_readings * fit.eval_sequences + self.sampled_readings * fit.probe_sequences
        return Ledger(
            training_steps=fit.steps,
            probe_steps=self.probe_steps,
            monitoring_sequences=len(grid) * domains * fit.eval_sequences,
            probe_sequences=domains * read,
            gradient_sequences=self.gradient_sequences,
        )


def off_grid(asked: Iterable[int], fit: Fit) -> int:
    """How many of these steps are no point of the evaluation grid, so that a reading there costs.

    >>> off_grid((0, 5, 6, 10), Fit(steps=320, eval_points=8))
    2
    """
    grid = frozenset(evaluation_steps(fit.steps, fit.eval_points))
    if isinstance(asked, range):
        return len(asked) - sum(step in asked for step in grid)
    return sum(step not in grid for step in asked)


State = Mapping[str, Any]
"""What a mixer remembers from one question to the next, also over a resume; JSON-able."""


@dataclass(frozen=True)
class Update:
    """A mixture chosen from measured slopes: what was measured and what was concluded.

    Attributes:
        horizon: steps for which the mixture stays.
        estimate: the slopes.
        solution: the mixture, the losses it predicts at the horizon, conflicts and shadow prices.
    """

    horizon: int
    estimate: SlopeEstimate
    solution: MixtureSolution


@dataclass(frozen=True)
class Decision:
    """What a mixer answers.

    Attributes:
        weights: the mixture, one share per training domain.
        ask_at: the step at which it wants to be asked again; None for never.
        state: JSON-able; handed back at the next question, also after a resume.
        update: the slopes and the solution behind the mixture, where there are any.
        stop: end the run here, with this reason.
    """

    weights: tuple[float, ...]
    ask_at: int | None = None
    state: State = field(default_factory=dict)
    update: Update | None = None
    stop: str | None = None


class Mixer(Protocol):
    """What the loop needs of a mixer."""

    @property
    def kind(self) -> str:
        """The name of the policy in configs and tables."""

    @property
    def targets(self) -> Sequence[str]:
        """Evaluation domains to improve."""

    @property
    def constraints(self) -> Mapping[str, float]:
        """Tolerance in nats per token of each evaluation domain to keep."""

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Every setting that cannot work with these domains."""

    def needs(self, fit: Fit, roles: Roles) -> Needs:
        """What it will ask of such a run beside training and the evaluation grid, at most."""

    def decide(self, session: Session, state: State) -> Decision:
        """The mixture from this step on."""


class NoProbes:
    """What mixers share that roll no training back: nothing to refuse and nothing to pay for unless they say so."""

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """No setting of this mixer can be wrong."""
        return iter(())

    def needs(self, fit: Fit, roles: Roles) -> Needs:  # noqa: ARG002
        """Nothing beside training and the evaluation grid."""
        return Needs()


UPDATES = 16
"""Updates of a run whose mixer leaves `every` open."""


def next_question(step: int, steps: int, every: int | None) -> int | None:
    """The next multiple of `every` after `step`; None when the run ends before it.

    Args:
        step: now.
        steps: of the run.
        every: steps between questions; None for a sixteenth of the run, at least one step.

    >>> next_question(40, 320, None), next_question(41, 320, 8), next_question(312, 320, 8)
    (60, 48, None)
    """
    gap = every or max(1, steps // UPDATES)
    later = (step // gap + 1) * gap
    return later if later < steps else None


def questions(steps: int, every: int | None) -> range:
    """Every step at which such a mixer is asked: 0 and the multiples of `every` below `steps`.

    >>> list(questions(32, 10))
    [0, 10, 20, 30]
    """
    return range(0, steps, every or max(1, steps // UPDATES))


def reads_losses(fit: Fit, every: int | None) -> Needs:
    """What a mixer needs that reads all validation sequences at each question."""
    return Needs(whole_readings=off_grid(questions(fit.steps, every), fit))


def rhythm_problems(every: int | None) -> Iterator[Problem]:
    """A gap below one step."""
    if every is not None and every < 1:
        yield Problem("mixer.every", str(every), "at least 1 step, or null for a sixteenth of the run")


def changes(session: Session) -> dict[str, float]:
    """The paired change of each target and constraint since the base model, nats per token.

    Raises:
        DivergedError: one of them is not finite.
    """
    now, names = session.losses(), (*session.roles.targets, *session.roles.tolerances)
    moved = {name: change(now[name], session.reference[name]).value for name in names}
    lost = [name for name, value in moved.items() if not math.isfinite(value)]
    if lost:
        raise DivergedError(not_finite(", ".join(lost), session.step))
    return moved


def not_finite(names: str, step: int) -> str:
    """What to say of losses that are not finite: before the first step no learning rate is at fault."""
    if step:
        return f"the loss of {names} at step {step} is not finite; try a lower lr"
    return f"the base model's loss of {names} is not finite; try other weights, or a wider dtype"


def slacks(session: Session) -> dict[str, float]:
    """What is left of each constraint's tolerance, in units of it (of .01 nats at least); negative once broken.

    1 where nothing has moved and the tolerance is at least .01 nats, 0 at the limit, which is nearer by the standard
    errors that the choice of a checkpoint asks for (`Fit.margin`).
    """
    changes(session)
    return {name: left(session, name) / scale(session.roles, name) for name in session.roles.tolerances}


def left(session: Session, constraint: str) -> float:
    """Nats per token by which a constraint's loss may still rise before a checkpoint counts as breaking it."""
    moved = change(session.losses()[constraint], session.reference[constraint])
    reserve = session.margin * moved.standard_error if session.margin else 0.0
    return session.roles.tolerances[constraint] - moved.value - reserve


def scale(roles: Roles, constraint: str) -> float:
    """The nats that count as one: the constraint's tolerance, or .01 nats if that is more."""
    return max(roles.tolerances[constraint], LEAST_SCALE_NATS)


def mass_problems(where: str, mass: float, roles: Roles) -> Iterator[Problem]:
    """A share outside 0 to 1, or one side of it without a domain."""
    if not 0 <= mass <= 1:
        yield Problem(where, str(mass), "a share between 0 and 1")
    yield from side_problems(roles, where)


def side_problems(roles: Roles, where: str = "mixer") -> Iterator[Problem]:
    """No target to train on, or nothing else."""
    if not roles.trainable_targets:
        yield no_trainable_target()
    if all(name in roles.targets for name in roles.train):
        yield Problem(where, "only targets to train on", "a training domain that is not a target")


def no_trainable_target() -> Problem:
    """The problem of a mixer that trains on targets."""
    return Problem("mixer", "no target among the training domains", "at least one to train on")


def positive_problems(**settings: float) -> Iterator[Problem]:
    """Settings that are not finite numbers above zero."""
    for name, value in settings.items():
        if not 0 < value < float("inf"):
            yield Problem(f"mixer.{name}", str(value), "a finite number above zero")


def share_problems(**settings: float) -> Iterator[Problem]:
    """Settings outside [0, 1)."""
    for name, value in settings.items():
        if not 0 <= value < 1:
            yield Problem(f"mixer.{name}", str(value), "a number from 0 to below 1")


def count_problems(**settings: int) -> Iterator[Problem]:
    """Settings below one."""
    for name, value in settings.items():
        if value < 1:
            yield Problem(f"mixer.{name}", str(value), "at least 1")
