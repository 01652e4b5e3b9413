"""DynaMiCS: the mixture chosen by measured slopes (arXiv 2605.10770)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

import numpy as np

from trimtab.adapt.cost import Interval, Schedule, intervals
from trimtab.adapt.dynamics.planning import (
    LossState,
    Planning,
    Reach,
    Solver,
    loss_state,
    make_update,
    solve,
)
from trimtab.adapt.dynamics.sides import Sides
from trimtab.adapt.dynamics.slopes import (
    Blocks,
    SlopeRule,
    block_needs,
    fitted,
    measure,
    probe_needs,
    read_block,
    remember,
)
from trimtab.adapt.mixer import (
    COUNT,
    Decision,
    Goals,
    Needs,
    Range,
    State,
    Update,
    not_finite,
    range_problems,
)
from trimtab.adapt.session import Roles, Session
from trimtab.errors import DivergedError, Problem, not_among
from trimtab.runs.brief import brief
from trimtab.train.settings import MOST_MARGIN, Fit

Preset = Literal["default", "paper"]
Probes = Literal["kept", "rolled-back"]
Mass = Literal["feedback", "planned"]

_SETTINGS: Mapping[str, tuple[Any, Any]] = {
    "probes": ("kept", "rolled-back"),
    "mass": ("feedback", "planned"),
    "schedule": ("light", "light"),
    "slopes": ("momentum", "whole"),
    "solver": ("lp", "grid"),
    "ridge": (0.5, 0.0),
    "reach": ("best", "next"),
    "returns": (0.5, 1.0),
    "margin": (1.0, 0.0),
    "cap": (0.5, float("inf")),
    "shrink": (True, False),
}
"""Setting -> its value in the default preset, and in that of the paper."""
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "default": {name: ours for name, (ours, _) in _SETTINGS.items()},
    "paper": {name: papers for name, (_, papers) in _SETTINGS.items()},
}
"""What a setting that is None stands for."""
_PLANS = ("solver", "ridge", "reach", "returns", "margin", "cap", "protect_targets")
"""Settings of a planned mixture, each of which asks for one."""
_TRIALS, _BLOCKS = ("schedule", "probe_steps", "slopes"), ("blocks", "lean")
"""Settings of rolled-back probes, each of which asks for them, and of kept ones."""
_BY_MASS: Mapping[str, tuple[Any, Any]] = {"blocks": (20, 40), "lean": (1.0, 0.0), "kappa": (0.64, 1.28)}
"""Setting -> its value where the targets' mass is fed back, and where the mixture is planned."""

_CHOICES = {
    "preset": Preset,
    "probes": Probes,
    "mass": Mass,
    "solver": Solver,
    "slopes": SlopeRule,
    "reach": Reach,
}
_MARGIN: Range = (lambda x: 0 <= x <= MOST_MARGIN, f"a number from 0 to {MOST_MARGIN}")
_RANGES: Mapping[str, Range] = {
    **dict.fromkeys(("kappa", "ridge", "margin"), _MARGIN),
    "returns": (lambda x: 0 < x <= 1, "above 0, at most 1"),
    "cap": (lambda x: x > 0, "above 0"),
    "lean": (lambda x: 0 <= x <= 1, "a share between 0 and 1"),
    "blocks": COUNT,
    "probe_steps": (lambda x: x >= 1, "at least 1, or null"),
}


@dataclass(frozen=True)
class DynaMiCS(Goals):
    """Choose the mixture by measured slopes: improve the targets, keep every constraint (arXiv 2605.10770).

    How much a step on each training domain moves each evaluation loss is measured while training goes on, and the
    mixture is solved for that lowers the target losses most while every constraint stays at or below its reference.
    The defaults are ours, chosen on a surrogate and on a seed for tuning; `preset="paper"` gives the published
    settings. Settings that are None are the preset's.

    Attributes:
        preset: "default" or "paper".
        probes: "kept" measures slopes from the run itself, cut into blocks that lean towards one domain each, so
            that no step is spent on measuring; "rolled-back" trains on each domain on trial and undoes it. Giving
            a `schedule`, `probe_steps` or `slopes` asks for the latter.
        mass: "feedback" plans the share of the targets anew at every reading, moves it there by bounded steps, and
            composes the rest by slopes (see `trimtab.adapt.dynamics.sides`); "planned" solves for the whole mixture, as
            the paper does. Rolled-back
            probes and any of `solver`, `ridge`, `reach`, `returns`, `margin`, `cap` and `protect_targets` ask for the
            latter. So does a run without a constraint, without a target to train on, or with nothing else.
        schedule: when rolled-back probes are run: "none", "light", "dense" (the paper's, scaled to the run), a fixed
            gap in steps, or the steps themselves.
        probe_steps: longest rolled-back probe; None for the paper's 128 steps of a run of 2048, scaled to the run.
        slopes: how rolled-back probes are read: "whole" (the paper), "second-half", or "momentum" (freed of what the
            optimiser's first moment carries over, with errors that cover the choice of training batches).
        solver: "grid" (the paper's 45 candidates), "lp" (hard constraints), "robust" (hard constraints with a
            margin of `kappa` standard errors of the slopes).
        kappa: standard errors of the slopes: that a departure from the rest's first shares has to be worth with mass
            "feedback", where None stands for 0.64, and that the robust solver keeps as a margin, where it is 1.28.
        ridge: pull towards an even mixture, relative to the largest target slope; 0 for none.
        reach: until when constraints must hold in the plan: the "next" update (the paper), the "end" of the run, or
            whichever reading of the evaluation grid is "best" to stop at.
        returns: what n steps on a domain are worth grows as n ** returns; 1 is the paper's straight line.
        margin: standard errors of each constraint's measured change kept in reserve, at most half the tolerance, beside
            those that the choice of a checkpoint asks for (`Fit.margin`).
        cap: the largest robust margin, in tolerances.
        shrink: draw each loss's slopes towards their mean over the training domains as far as noise explains how they
            differ, before planning.
        protect_targets: also keep every target from getting worse than the base model.
        lean: how far a kept block leans towards one domain beyond the mixture; 0 for not at all. With mass "feedback"
            it is a domain of the rest, and None stands for 1. With mass "planned" None stands for 0, and the first
            blocks, which have to tell the domains apart, lean by half at least.
        blocks: how many blocks a run of kept probes is cut into, hence how often it is read; None for 20, or 40 with
            mass "planned".
    """

    preset: Preset = "default"
    probes: Probes | None = None
    mass: Mass | None = None
    schedule: Schedule | int | Sequence[int] | None = None
    probe_steps: int | None = None
    slopes: SlopeRule | None = None
    solver: Solver | None = None
    kappa: float | None = None
    ridge: float | None = None
    reach: Reach | None = None
    returns: float | None = None
    margin: float | None = None
    cap: float | None = None
    shrink: bool | None = None
    protect_targets: bool = False
    lean: float | None = None
    blocks: int | None = None
    kind: Literal["dynamics"] = "dynamics"

    __repr__ = brief

    def problems(self, roles: Roles) -> Iterator[Problem]:  # noqa: ARG002
        """Gaps, probes and margins that cannot work."""
        gaps: Any = self.schedule
        if isinstance(gaps, int) and gaps < 1:
            yield Problem("mixer.schedule", str(gaps), "a gap of at least one step", "'light'")
        if isinstance(gaps, str) and gaps not in get_args(Schedule):
            yield not_among("mixer.schedule", gaps, get_args(Schedule))
        if gaps and not isinstance(gaps, int | str) and min(gaps) < 0:
            yield Problem("mixer.schedule", str(min(gaps)), "steps of zero or more")
        for name, choices in _CHOICES.items():
            if (word := getattr(self, name)) is not None and word not in get_args(choices):
                yield not_among(f"mixer.{name}", word, get_args(choices))
        yield from range_problems(self, _RANGES)
        if self.preset not in PRESETS:
            return
        yield from self._strays("probes", "kept", _TRIALS, "rolled-back")
        yield from self._strays("probes", "rolled-back", _BLOCKS, "kept")
        yield from self._strays("mass", "feedback", _PLANS, "planned")
        if self.mass == "feedback" and self.settled("probes") == "rolled-back":
            yield Problem("mixer.mass", "'feedback'", "'planned', where probes are rolled back")

    def _strays(self, of: str, chosen: str, names: Sequence[str], other: str) -> Iterator[Problem]:
        """Settings that do nothing with what was chosen."""
        for name in names if self.settled(of) == chosen else ():
            if self._given(name):
                words = {
                    "rolled-back": "rolled-back probes",
                    "kept": "kept probes",
                    "planned": "a planned mixture",
                }
                expected = f"nothing: it is a setting of {words[other]}"
                yield Problem(f"mixer.{name}", repr(getattr(self, name)), expected, f'{of}: "{other}"')

    def settled(self, name: str) -> Any:
        """A setting, or the preset's value for it where it is None."""
        value = getattr(self, name)
        if value is None and name == "probes" and any(map(self._given, _TRIALS)):
            return "rolled-back"
        if value is None and name in ("schedule", "slopes") and self.settled("probes") == "kept":
            return None  # settings of rolled-back probes
        if value is None and name == "mass" and self._asks_for_a_plan:
            return "planned"
        if value is None and name in _BY_MASS:
            return _BY_MASS[name][self.settled("mass") == "planned"]
        return PRESETS[self.preset].get(name) if value is None else value

    def _given(self, name: str) -> bool:
        value = getattr(self, name)
        return value is not None and value is not False

    @property
    def _asks_for_a_plan(self) -> bool:
        return any(map(self._given, _PLANS)) or self.settled("probes") == "rolled-back"

    def sides(self, roles: Roles) -> Sides | None:
        """How the run is steered on two sides; None where the whole mixture is planned."""
        trained, rest = roles.trainable_targets, set(roles.train) - set(roles.targets)
        if self.settled("mass") == "planned" or not (trained and rest and roles.tolerances):
            return None
        return Sides(
            self.settled("blocks"), self.settled("lean"), self.settled("kappa"), self.settled("shrink")
        )

    def in_run(self, roles: Roles) -> DynaMiCS:
        """The mixer as it acts with these roles: a planned mixture, with its settings, where there are no two sides."""
        return self if self.sides(roles) else replace(self, mass="planned")

    @property
    def planning(self) -> Planning:
        """The planning settings: how slopes become a mixture."""
        return Planning(**{each.name: self.settled(each.name) for each in fields(Planning)})

    def plan(self, steps: int) -> list[Interval]:
        """One round of rolled-back probes per interval; none where probes are kept."""
        if self.settled("probes") == "kept":
            return []
        return intervals(self.settled("schedule"), steps, self.probe_steps)

    def needs(self, fit: Fit, roles: Roles) -> Needs:
        """Readings at the borders of kept blocks, or the trials of each interval."""
        if sides := self.sides(roles):
            return sides.needs(fit)
        if self.settled("probes") == "kept":
            planned = self.in_run(roles)
            return block_needs(fit, roles, planned.settled("blocks"), planned.settled("lean"))
        return probe_needs(self.plan(fit.steps), self.settled("slopes"), fit, roles)

    def decide(self, session: Session, state: State) -> Decision:
        """Measure, solve, and ask again at the next update.

        Raises:
            DivergedError: a loss, or every slope, is not finite.
        """
        if sides := self.sides(session.roles):
            return sides.decide(session, state)
        if self.settled("probes") == "kept":
            return self.in_run(session.roles)._from_blocks(session, state)
        return self._from_trials(session, state)

    def _from_blocks(self, session: Session, state: State) -> Decision:
        """The mixture by slopes that are read off the run itself; that of a first block while these last."""
        number, lean = self.settled("blocks"), self.settled("lean")
        blocks = Blocks.of(session.roles, session.steps, session.grid, number, lean)
        history, now = read_block(session, self.planning, state)
        _refuse_infinity(session, now)
        later = blocks.next_border(session.step)
        weights, credit, update = blocks.first_mixture(session.step), history.credit, None
        if weights is None:
            measured = fitted(session, history, number)
            solution = solve(session, self.planning, measured, now, later)
            weights, credit = blocks.lean_towards(session.step, solution.weights, credit)
            solution = replace(solution, weights=weights)
            update = make_update(session, self.planning, measured, now, later, solution)
        return _decision(session, weights, later, history.with_mixture(weights, credit), update)

    def _from_trials(self, session: Session, state: State) -> Decision:
        """The mixture by slopes from trial runs that are undone."""
        span = next(span for span in reversed(self.plan(session.steps)) if span.start <= session.step)
        now, later = loss_state(session), span.start + span.horizon
        _refuse_infinity(session, now)
        measured = measure(session, self.planning, self.settled("slopes"), span.probe_steps, state)
        if not measured.finite.any():
            raise DivergedError(f"every probe of step {session.step} diverged; try a lower lr")
        solution = solve(session, self.planning, measured, now, later)
        update = make_update(session, self.planning, measured, now, later, solution)
        memory = remember(session, solution.weights, state)
        return _decision(session, solution.weights, later, memory, update)


def _decision(
    session: Session, weights: np.ndarray, later: int, state: State, update: Update | None
) -> Decision:
    shares = tuple(float(weight) for weight in weights)
    return Decision(shares, later if later < session.steps else None, state, update)


def _refuse_infinity(session: Session, now: LossState) -> None:
    moved = zip(session.roles.evaluate, now.change, strict=True)
    if lost := [name for name, change in moved if not np.isfinite(change)]:
        raise DivergedError(not_finite(", ".join(lost), session.step))
