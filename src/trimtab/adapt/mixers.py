"""Mixers: policies that choose the mixture as training goes.

A mixer is a frozen dataclass of settings. Asked at a step, it returns a `Decision`: the mixture, when it wants to be
asked next, and the state it needs then. All mixers run on the same loop, data, evaluation grid and ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import numpy as np

from trimtab.adapt.roles import Roles
from trimtab.adapt.schedules import Interval, Schedule, intervals
from trimtab.adapt.session import Session, SlopeEstimate
from trimtab.errors import DivergedError, Problem, nearest, not_among
from trimtab.numerics.simplex import MixtureProblem, MixtureSolution, solve_mixture
from trimtab.train.evaluate import change

State = Mapping[str, Any]
Solver = Literal["grid", "lp", "robust"]
Preset = Literal["default", "paper"]


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

    def plan(self, steps: int) -> list[Interval]:
        """The probes it will ask for; empty for a mixer that does not probe."""

    def decide(self, session: Session, state: State) -> Decision:
        """The mixture from this step on."""


class _NoProbes:
    """A mixer that measures nothing."""

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """No setting of this mixer can be wrong."""
        return iter(())

    def plan(self, steps: int) -> list[Interval]:  # noqa: ARG002
        """No probes."""
        return []


@dataclass(frozen=True)
class Uniform(_NoProbes):
    """The same share for every training domain, throughout."""

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    kind: Literal["uniform"] = "uniform"

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """Equal shares."""
        return Decision(_spread(session.roles.train, session.roles.train))


@dataclass(frozen=True)
class Fixed(_NoProbes):
    """One mixture throughout: given whole, or as the mass shared by the trainable targets.

    Attributes:
        weights: share of each training domain, scaled to sum to one; domains left out get none.
        target_mass: share of all trainable targets together; the rest is shared by the other domains.
    """

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] | None = None
    target_mass: float | None = None
    kind: Literal["fixed"] = "fixed"

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Both or neither of the two settings, unknown domains, impossible shares."""
        if (self.weights is None) == (self.target_mass is None):
            got = "neither" if self.weights is None else "both"
            yield Problem("mixer", got, "either `weights` or `target_mass`")
        for name, share in (self.weights or {}).items():
            if name not in roles.train:
                expected = f"one of the training domains {', '.join(map(repr, roles.train))}"
                yield Problem(f"mixer.weights.{name}", repr(name), expected, nearest(name, roles.train))
            if not 0 <= share < float("inf"):
                yield Problem(f"mixer.weights.{name}", str(share), "a share of zero or more")
        if self.weights is not None and not sum(self.weights.values()) > 0:
            yield Problem("mixer.weights", "no positive share", "at least one")
        if self.target_mass is not None:
            yield from _mass_problems("mixer.target_mass", self.target_mass, roles)

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """The given mixture."""
        train = session.roles.train
        if self.weights is not None:
            total = sum(self.weights.values())
            return Decision(tuple(self.weights.get(name, 0.0) / total for name in train))
        assert self.target_mass is not None
        return Decision(_target_mass(session.roles, self.target_mass, ()))


@dataclass(frozen=True)
class Replay(_NoProbes):
    """Train on the targets and mix in a small share of other data, as one would against forgetting.

    Attributes:
        share: share of the replayed domains together.
        domains: what is replayed; empty for every training domain that is not a target.
    """

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    share: float = 0.05
    domains: Sequence[str] = ()
    kind: Literal["replay"] = "replay"

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """Impossible shares, replayed domains that are unknown or targets."""
        yield from _mass_problems("mixer.share", self.share, roles)
        others = [name for name in roles.train if name not in roles.targets]
        for name in dict.fromkeys(self.domains):
            if name not in others:
                expected = f"a training domain that is not a target: {', '.join(map(repr, others))}"
                yield Problem("mixer.domains", repr(name), expected, nearest(name, others))
            if list(self.domains).count(name) > 1:
                yield Problem("mixer.domains", f"{name!r} twice", "each domain once")

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """Targets share 1 - share, replayed domains the rest."""
        return Decision(_target_mass(session.roles, 1 - self.share, self.domains))


@dataclass(frozen=True)
class EarlyStoppedTarget(_NoProbes):
    """Train on the targets alone and stop when a constraint is lost: the cheapest rival there is.

    It is asked at each step of the run's evaluation grid and stops after `patience` readings in a row at which
    some constraint was broken on validation data.
    """

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    patience: int = 2
    kind: Literal["early-stopped-target"] = "early-stopped-target"

    def problems(self, roles: Roles) -> Iterator[Problem]:
        """A patience below one; no target to train on."""
        if self.patience < 1:
            yield Problem("mixer.patience", str(self.patience), "at least 1")
        if not roles.trainable_targets:
            yield _no_trainable_target()

    def decide(self, session: Session, state: State) -> Decision:
        """All mass on the targets, until the constraints are lost."""
        broken = [
            name
            for name, tolerance in session.roles.tolerances.items()
            if change(session.losses()[name], session.reference[name]).value > tolerance
        ]
        bad = int(state.get("bad", 0)) + 1 if broken else 0
        weights = _spread(session.roles.train, session.roles.trainable_targets)
        stop = f"lost {', '.join(broken)} at {bad} readings in a row" if bad >= self.patience else None
        later = (step for step in session.grid if step > session.step)
        return Decision(weights, next(later, None), {"bad": bad}, stop=stop)


@dataclass(frozen=True)
class DynaMiCS:
    """Choose the mixture by measured slopes: improve the targets, keep every constraint (arXiv 2605.10770).

    At each update every training domain is probed (a short trial run, rolled back), and the mixture is solved for
    that lowers the predicted target losses most while every constraint stays at or below its reference.

    Attributes:
        schedule: when to update: "none", "light", "dense" (the paper's, scaled to the run), a fixed gap in steps,
            or the steps themselves.
        solver: "grid" (the paper's 45 candidates), "lp" (hard constraints), "robust" (hard constraints with a
            margin of `kappa` standard errors); None for the preset's.
        kappa: margin of the robust solver, in standard errors.
        ridge: pull towards an even mixture, relative to the largest target slope; 0 for none.
        probe_steps: longest probe; None for the paper's 128 steps of a run of 2048, scaled to the run.
        preset: "paper" for the published settings (grid solver); "default" for ours.
    """

    targets: Sequence[str] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    schedule: Schedule | int | Sequence[int] = "light"
    solver: Solver | None = None
    kappa: float = 1.28
    ridge: float = 0.0
    probe_steps: int | None = None
    preset: Preset = "default"
    kind: Literal["dynamics"] = "dynamics"

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """Gaps, probes and margins that cannot work."""
        yield from _schedule_problems(self.schedule)
        if self.solver is not None and self.solver not in get_args(Solver):
            yield not_among("mixer.solver", self.solver, get_args(Solver))
        if self.preset not in get_args(Preset):
            yield not_among("mixer.preset", self.preset, get_args(Preset))
        if self.probe_steps is not None and self.probe_steps < 1:
            yield Problem("mixer.probe_steps", str(self.probe_steps), "at least 1, or null")
        for name in ("kappa", "ridge"):
            if not 0 <= (value := getattr(self, name)) < float("inf"):
                yield Problem(f"mixer.{name}", str(value), "a number of zero or more")

    def plan(self, steps: int) -> list[Interval]:
        """One round of probes per interval."""
        return intervals(self.schedule, steps, self.probe_steps)

    def decide(self, session: Session, state: State) -> Decision:  # noqa: ARG002
        """Probe, solve, and ask again at the next update."""
        plan = self.plan(session.steps)
        here = next(span for span in reversed(plan) if span.start <= session.step)
        if not all(np.isfinite(losses.loss) for losses in session.losses().values()):
            raise DivergedError(f"a loss at step {session.step} is not finite; try a lower lr")
        estimate = session.probe(here.probe_steps)
        if not np.isfinite(estimate.slopes).all(axis=0).any():
            raise DivergedError(f"every probe of step {session.step} diverged; try a lower lr")
        method: Solver = self.solver or ("grid" if self.preset == "paper" else "robust")
        with session.clock.time("solver"):
            problem = mixture_problem(session, estimate, here.horizon)
            solution = solve_mixture(problem, method=method, kappa=self.kappa, ridge=self.ridge)
        later = here.start + here.horizon
        weights = tuple(float(w) for w in solution.weights)
        ask_at = later if later < session.steps else None
        return Decision(weights, ask_at, update=Update(here.horizon, estimate, solution))


def mixture_problem(session: Session, estimate: SlopeEstimate, horizon: int) -> MixtureProblem:
    """The mixture problem at this step: keep each constraint at its base loss plus tolerance.

    Violations are weighed by max(tolerance, 2 standard errors of the loss change so far, .01 nats).
    """
    roles, now = session.roles, session.losses()
    moved = [change(now[name], session.reference[name]) for name in roles.evaluate]
    tolerance = np.array([roles.tolerance(name) for name in roles.evaluate])
    base = np.array([session.reference[name].loss for name in roles.evaluate])
    noise = np.nan_to_num([2 * m.standard_error for m in moved])
    return MixtureProblem(
        slopes=estimate.slopes,
        losses=np.array([now[name].loss for name in roles.evaluate]),
        reference=base + tolerance,
        targets=[roles.evaluate.index(name) for name in roles.targets],
        horizon=horizon,
        slope_se=estimate.standard_errors,
        scale=np.maximum(np.maximum(np.nan_to_num(tolerance), noise), 0.01),
    )


def _spread(train: Sequence[str], among: Sequence[str], mass: float = 1.0) -> tuple[float, ...]:
    return tuple(mass / len(among) if name in among else 0.0 for name in train)


def _target_mass(roles: Roles, mass: float, others: Sequence[str]) -> tuple[float, ...]:
    rest = others or [name for name in roles.train if name not in roles.targets]
    on_targets = _spread(roles.train, roles.trainable_targets, mass)
    on_others = _spread(roles.train, rest, 1 - mass) if rest else (0.0,) * len(roles.train)
    return tuple(a + b for a, b in zip(on_targets, on_others, strict=True))


def _mass_problems(where: str, mass: float, roles: Roles) -> Iterator[Problem]:
    if not 0 <= mass <= 1:
        yield Problem(where, str(mass), "a share between 0 and 1")
    if not roles.trainable_targets:
        yield _no_trainable_target()
    if all(name in roles.targets for name in roles.train):
        yield Problem(where, "only targets to train on", "a training domain that is not a target")


def _schedule_problems(schedule: Schedule | int | Sequence[int]) -> Iterator[Problem]:
    where = "mixer.schedule"
    if isinstance(schedule, int):
        if schedule < 1:
            yield Problem(where, str(schedule), "a gap of at least one step", "'light'")
    elif isinstance(schedule, str):
        if schedule not in get_args(Schedule):
            yield not_among(where, schedule, get_args(Schedule))
    elif schedule and min(schedule) < 0:
        yield Problem(where, str(min(schedule)), "steps of zero or more")


def _no_trainable_target() -> Problem:
    return Problem("mixer", "no target among the training domains", "at least one to train on")
