"""Slopes from trial runs that are undone: as the paper takes them, or freed of what momentum carries over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from trimtab.adapt.mixer import State
from trimtab.adapt.needs import Needs, off_grid
from trimtab.adapt.planning import Pace, Planning
from trimtab.adapt.roles import Roles
from trimtab.adapt.schedules import Interval
from trimtab.adapt.session import Session, Trials
from trimtab.numerics.slopes import blended, fit_slopes
from trimtab.train.fit import Fit

SlopeRule = Literal["whole", "second-half", "momentum"]


def read_after(rule: SlopeRule, steps: int) -> tuple[int, ...]:
    """The steps of a trial after which losses are read: its end and, where the rule asks for it, its half."""
    half = steps // 2
    return (half, steps) if rule != "whole" and half else (steps,)


def needs(spans: Sequence[Interval], rule: SlopeRule, fit: Fit, roles: Roles) -> Needs:
    """All losses at each update, and a trial of each training domain with its readings."""
    trials = len(roles.train)
    return Needs(
        probe_steps=trials * sum(span.probe_steps for span in spans),
        whole_readings=off_grid((span.start for span in spans), fit),
        sampled_readings=trials * sum(len(read_after(rule, span.probe_steps)) for span in spans),
    )


def measure(session: Session, planning: Planning, rule: SlopeRule, steps: int, state: State) -> Pace:
    """Probe every training domain for `steps` steps and read slopes off.

    "whole" takes the change over the whole probe (arXiv 2605.10770). "second-half" leaves out its first half, in
    which the optimiser still moves where the last mixture pointed. "momentum" uses both halves and works out
    how much of each domain the optimiser's first moment held at every step; its standard errors include the scatter
    between the halves, hence the choice of training batches.
    """
    trials = session.trials(read_after(rule, steps))
    if rule == "momentum":
        return _freed_of_momentum(session, planning, trials, state)
    before = exposed(session, state)
    start = trials.readings[-2] if len(trials.readings) > 1 else 0
    worth = planning.worth(before + steps) - planning.worth(before + start)
    return Pace(trials.changes[-1] / worth, trials.errors[-1] / worth, before, steps)


def carried(session: Session, state: State) -> Float[np.ndarray, " N"]:
    """The moving average of mixtures in the optimiser's first moment now, not corrected for its start."""
    n = len(session.roles.train)
    if not state:
        return np.zeros(n)
    taken = int(state["step"])
    mixtures = [np.array(state["weights"])] * (session.step - taken)
    return blended(np.array(state["average"]), taken, mixtures, session.momentum)[1]


def exposed(session: Session, state: State) -> Float[np.ndarray, " N"]:
    """Steps on each domain so far."""
    if not state:
        return np.zeros(len(session.roles.train))
    since = (session.step - int(state["step"])) * np.array(state["weights"])
    exposure: np.ndarray = np.array(state["exposure"]) + since
    return exposure


def remember(session: Session, weights: Float[np.ndarray, " N"], state: State) -> Mapping[str, Any]:
    """What `carried` needs at the next update."""
    return {
        "step": session.step,
        "weights": weights.tolist(),
        "average": carried(session, state).tolist(),
        "exposure": exposed(session, state).tolist(),
    }


def _freed_of_momentum(session: Session, planning: Planning, trials: Trials, state: State) -> Pace:
    n, steps = len(session.roles.train), trials.readings[-1]
    average, before = carried(session, state), exposed(session, state)
    good = np.flatnonzero(np.isfinite(trials.changes).all(axis=(0, 1)))
    exposures, changes, errors = [], [], []
    for j in good:
        shares, _ = blended(average, session.step, [np.eye(n)[j]] * steps, session.momentum)
        for r, (start, stop) in enumerate(zip((0, *trials.readings), trials.readings, strict=False)):
            path = before + shares[:start].sum(axis=0)
            exposures.append(planning.worth(path + shares[start:stop].sum(axis=0)) - planning.worth(path))
            changes.append(trials.changes[r, :, j])
            errors.append(trials.errors[r, :, j])
    slopes = np.full(trials.changes.shape[1:], np.nan)
    spread = slopes.copy()
    if len(good):
        fit = fit_slopes(np.array(exposures)[:, good], np.array(changes), np.array(errors))
        slopes[:, good], spread[:, good] = fit.slopes, fit.standard_errors
    return Pace(slopes, spread, before, steps)
