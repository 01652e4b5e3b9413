"""DynaMiCS: the mixture chosen by measured slopes (arXiv 2605.10770)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from trimtab.adapt.mixer import Decision, State, Update
from trimtab.adapt.roles import Roles
from trimtab.adapt.schedules import Interval, Schedule, intervals
from trimtab.adapt.session import Session, SlopeEstimate
from trimtab.errors import DivergedError, Problem, not_among
from trimtab.numerics.simplex import MixtureProblem, solve_mixture
from trimtab.train.evaluate import change

Solver = Literal["grid", "lp", "robust"]
Preset = Literal["default", "paper"]


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
