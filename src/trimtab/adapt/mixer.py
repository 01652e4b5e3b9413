"""The contract of a mixer: asked at a step, it answers with a mixture and with when it wants to be asked again.

Below the contract stands what several mixers share: the planned cost of their questions (`Needs`), a fixed rhythm of
questions, the slack of each constraint, and the ranges of settings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from trimtab.adapt.cost import CostReport, Ledger, cost_report
from trimtab.adapt.session import LEAST_SCALE_NATS, Roles, Session, SlopeEstimate
from trimtab.errors import DivergedError, Problem
from trimtab.numerics.simplex import MixtureSolution, spread
from trimtab.train.losses import change
from trimtab.train.settings import Fit, evaluation_steps


@dataclass(frozen=True)
class Needs:
    """Planned cost: the most that a mixer asks of a run, less where the run stops early or the mixer then needs less.

    Attributes:
        probe_steps: optimiser steps that will be rolled back, over all training domains.
        whole_readings: how often `Fit.eval_sequences` of every evaluation domain are read off the evaluation grid; a
            question at a point of the grid finds them read.
        sampled_readings: how often `Fit.probe_sequences` of them are read, between points of the grid and on trial.
        judged_readings: how often as many of the targets and constraints alone are read between points of the grid.
        gradient_sequences: sequences read forward and backward for gradients that train nothing.
    """

    probe_steps: int = 0
    whole_readings: int = 0
    sampled_readings: int = 0
    judged_readings: int = 0
    gradient_sequences: int = 0

    def ledger(self, fit: Fit, roles: Roles, sequences: Mapping[str, int] | None = None) -> Ledger:
        """The ledger of a run that asks for this and goes to its end.

        Args:
            fit: settings of the run.
            roles: the domains by role.
            sequences: of each validation split, by evaluation domain; a domain that is not named has as many as are
                asked for.

        >>> from trimtab.adapt.session import make_roles
        >>> roles = make_roles(["math", "web"], ["safety"], ["math"], {"safety": 0.05})
        >>> Needs(whole_readings=2).ledger(Fit(eval_sequences=10), roles).probe_sequences
        60
        >>> Needs(whole_readings=2).ledger(Fit(eval_sequences=10), roles, {"web": 4}).probe_sequences
        48
        """
        there, grid = sequences or {}, evaluation_steps(fit.steps, fit.eval_points)
        judged = [name for name in roles.evaluate if roles.role(name) != "monitored"]
        whole, sampled, told = (
            sum(min(limit, there.get(name, limit)) for name in names)
            for limit, names in (
                (fit.eval_sequences, roles.evaluate),
                (fit.probe_sequences, roles.evaluate),
                (fit.probe_sequences, judged),
            )
        )
        read = self.whole_readings * whole + self.sampled_readings * sampled + self.judged_readings * told
        return Ledger(
            training_steps=fit.steps,
            probe_steps=self.probe_steps,
            monitoring_sequences=(len(grid) + fit.crossings) * whole,
            probe_sequences=read,
            gradient_sequences=self.gradient_sequences,
        )

    def report(self, fit: Fit, roles: Roles, sequences: Mapping[str, int] | None = None) -> CostReport:
        """The planned cost beside a fixed-mixture run, which reads validation splits of the same lengths.

        Without `sequences` the multiples are upper bounds over all lengths. Short splits raise the multiple where they
        shorten the readings of the grid and not those of probes. The quotient is monotone in the length below, and
        again above, `Fit.probe_sequences`, so that its largest value is at one of three lengths.

        Args:
            fit: settings of the run.
            roles: the domains by role.
            sequences: of each validation split, by evaluation domain; None where they are not known.
        """
        lengths = (LEAST_SEQUENCES, fit.probe_sequences, fit.eval_sequences)
        known = (
            [dict.fromkeys(roles.evaluate, length) for length in lengths]
            if sequences is None
            else [sequences]
        )
        ledgers = [self.ledger(fit, roles, one) for one in known]
        fixed = replace(fit, crossings=0)
        grids = [Needs().ledger(fixed, roles, one).monitoring_sequences for one in known]
        reports = [
            cost_report(ledger, fit.steps, grid, fit.batch_size)
            for ledger, grid in zip(ledgers, grids, strict=True)
        ]
        return max(reports, key=lambda report: report.all_in_multiple)


LEAST_SEQUENCES = 2
"""Sequences that a validation or test split has at least: a standard error is read off them."""


def off_grid(steps: Iterable[int], fit: Fit) -> int:
    """Readings off the grid: how many of these steps are no point of the evaluation grid, so that they cost.

    >>> off_grid((0, 5, 6, 10), Fit(steps=320, eval_points=8))
    2
    """
    grid = frozenset(evaluation_steps(fit.steps, fit.eval_points))
    if isinstance(steps, range):
        return len(steps) - sum(step in steps for step in grid)
    return sum(step not in grid for step in steps)


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
    """Decision of a mixer: the mixture, and when it wants to be asked again.

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
    """Protocol of a mixer: all that the loop needs of it."""

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
        """Planned cost: what it asks of such a run beside training and the evaluation grid, at most."""

    def decide(self, session: Session, state: State) -> Decision:
        """The mixture from this step on."""


Range = tuple[Callable[[float], bool], str]
"""Whether a setting is in its range, and the range in words."""
POSITIVE: Range = (lambda x: 0 < x < math.inf, "a finite number above zero")
SHARE: Range = (lambda x: 0 <= x < 1, "a number from 0 to below 1")
COUNT: Range = (lambda x: x >= 1, "at least 1")
RHYTHM: Range = (lambda x: x >= 1, "at least 1 step, or null for a sixteenth of the run")


def range_problems(mixer: Any, ranges: Mapping[str, Range]) -> Iterator[Problem]:
    """Settings outside their ranges; one that is None is left open."""
    for name, (fine, expected) in ranges.items():
        if (value := getattr(mixer, name)) is not None and not fine(value):
            yield Problem(f"mixer.{name}", str(value), expected)


@dataclass(frozen=True)
class Goals:
    """Goals of a mixer: the targets to improve, and the tolerance of each constraint in nats per token.

    Attributes:
        hears: whether it reads the losses of what is trained on (`Session.training_losses`), which cost another trainer
            a little.
    """

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    hears: ClassVar[bool] = False


class NoProbes:
    """A mixer that rolls no training back: nothing to pay for unless it says so, and no setting out of `ranges`."""

    ranges: ClassVar[Mapping[str, Range]] = {}

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """Settings out of range."""
        yield from range_problems(self, self.ranges)

    def needs(self, fit: Fit, roles: Roles) -> Needs:  # noqa: ARG002
        """Nothing beside training and the evaluation grid."""
        return Needs()


class ReadsLosses(NoProbes):
    """A mixer that reads all validation sequences at each question, one every `every` steps."""

    every: int | None

    def needs(self, fit: Fit, roles: Roles) -> Needs:  # noqa: ARG002
        """All losses at each question."""
        return Needs(whole_readings=off_grid(questions(fit.steps, self.every), fit))

    def next_question(self, session: Session) -> int | None:
        """The step at which it is asked again."""
        return next_question(session.step, session.steps, self.every)


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
    """The message about losses that are not finite: before the first step no learning rate is at fault."""
    if step:
        return f"the loss of {names} at step {step} is not finite; try a lower lr"
    return f"the base model's loss of {names} is not finite; try other weights, or a wider dtype"


def slacks(session: Session) -> dict[str, float]:
    """Slack: what is left of each constraint's tolerance, in units of it (of .01 nats at least); negative once broken.

    1 where nothing has moved and the tolerance is at least .01 nats, 0 at the limit, which is nearer by the standard
    errors that the choice of a checkpoint asks for (`Fit.margin`).
    """
    changes(session)
    return {name: left(session, name) / scale(session.roles, name) for name in session.roles.tolerances}


def left(session: Session, constraint: str) -> float:
    """Slack of one constraint: nats per token by which its loss may still rise before a checkpoint breaks it."""
    moved = change(session.losses()[constraint], session.reference[constraint])
    reserve = session.margin * moved.standard_error if session.margin else 0.0
    return session.roles.tolerance(constraint) - moved.value - reserve


def scale(roles: Roles, constraint: str) -> float:
    """Scale of a constraint, the nats that count as one: its tolerance, or .01 nats if that is more."""
    return max(roles.tolerance(constraint), LEAST_SCALE_NATS)


def target_mass(roles: Roles, mass: float, others: Sequence[str] = ()) -> tuple[float, ...]:
    """`mass` shared evenly by the trainable targets, the rest by `others`: by default all that are no targets."""
    rest = others or [name for name in roles.train if name not in roles.targets]
    on_targets = spread(roles.train, roles.trainable_targets, mass)
    on_others = spread(roles.train, rest, 1 - mass) if rest else (0.0,) * len(roles.train)
    return tuple(a + b for a, b in zip(on_targets, on_others, strict=True))


def mass_problems(where: str, mass: float, roles: Roles) -> Iterator[Problem]:
    """A share outside 0 to 1, or one side of it without a domain."""
    if not 0 <= mass <= 1:
        yield Problem(where, str(mass), "a share between 0 and 1")
    yield from side_problems(roles, where)


def side_problems(roles: Roles, where: str = "mixer") -> Iterator[Problem]:
    """No target to train on, or nothing else."""
    yield from target_problems(roles)
    if all(name in roles.targets for name in roles.train):
        yield Problem(where, "only targets to train on", "a training domain that is not a target")


def target_problems(roles: Roles) -> Iterator[Problem]:
    """No target to train on."""
    if not roles.trainable_targets:
        yield Problem("mixer", "no target among the training domains", "at least one to train on")
