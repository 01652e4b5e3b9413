"""Choosing at a step: the checkpoint that is kept, the next reading, and the mixture; the same in every loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np

from trimtab.adapt import metrics
from trimtab.adapt.crossing import Reading, next_reading
from trimtab.adapt.metrics import Progress
from trimtab.adapt.mixer import Decision, Mixer, left, not_finite
from trimtab.adapt.session import Session
from trimtab.errors import DivergedError
from trimtab.train.losses import SequenceLosses, change
from trimtab.train.settings import Fit

LEAST_PART = 64
"""A reading off the grid is at least this part of the run behind the last one, and before the next."""


def is_read(progress: Progress, session: Session) -> bool:
    """Whether all validation sequences are read at this step: a point of the grid, or one that was foreseen."""
    return session.step in session.grid or session.step == progress.read_at


def refuse_infinity(session: Session) -> None:
    """Raise where a loss is not finite: since the base model, or in it where the run has to judge by it.

    Raises:
        DivergedError: names the domains.
    """
    judged = () if session.step else (*session.roles.targets, *session.roles.tolerances)
    base = [name for name in judged if not math.isfinite(session.reference[name].loss)]
    if names := base or metrics.lost(session.losses(), session.reference):
        raise DivergedError(not_finite(", ".join(names), session.step))


def judge(
    progress: Progress, session: Session, losses: Mapping[str, SequenceLosses]
) -> tuple[Progress, bool]:
    """The progress after a reading, and whether it is the best: all constraints kept, the targets lower than ever.

    Args:
        progress: before the reading.
        session: of this step; the base weights, at step 0, are never better than themselves.
        losses: the reading.
    """
    moved = {name: change(read, session.reference[name]) for name, read in losses.items()}
    if not session.step or not metrics.keeps_all(session.roles, moved, session.margin):
        return progress, False
    progress, gain = replace(progress, kept_once=True), metrics.target_change(session.roles, moved)
    if gain >= progress.best_change:
        return progress, False
    return replace(progress, best_step=session.step, best_change=gain), True


def look_ahead(progress: Progress, session: Session, fit: Fit) -> Progress:
    """Where the run is read once more before the next point of the grid; see `trimtab.adapt.crossing`."""
    step, grid = session.step, session.grid
    used = progress.crossings + (step not in grid)
    changes = {
        name: change(session.losses()[name], session.reference[name]).value
        for name in session.roles.tolerances
    }
    read_at = None
    if progress.last and step < fit.steps and used < fit.crossings:
        room = {name: left(session, name) for name in session.roles.tolerances}
        until = next(point for point in grid if point > step)
        least = max(1, fit.steps // LEAST_PART)
        read_at = next_reading(Reading(**progress.last), Reading(step, changes), room, until, least)
    return replace(progress, last=asdict(Reading(step, changes)), read_at=read_at, crossings=used)


def ask(progress: Progress, session: Session, mixer: Mixer) -> tuple[Progress, Decision]:
    """Ask the mixer; the progress with its answer.

    Raises:
        DivergedError: its arithmetic cannot take the losses, or gives no mixture.
    """
    try:
        decision = mixer.decide(session, progress.state)
        if not all(map(math.isfinite, decision.weights)):
            raise FloatingPointError("its weights are not finite")
    except (DivergedError, ZeroDivisionError):
        raise
    except (ArithmeticError, np.linalg.LinAlgError) as error:  # no convergence, an overflow
        losses = ", ".join(f"{name} {read.loss:.3g}" for name, read in session.losses().items())
        got = f"{mixer.kind} finds no mixture at step {session.step} ({error}; losses: {losses})"
        raise DivergedError(f"{got}; try a lower lr") from error
    answers = {name: getattr(decision, name) for name in ("weights", "ask_at", "state", "stop")}
    probed = session.probe_steps > 0
    return replace(progress, **answers, training_nll={}, training_tokens={}, probed=probed), decision
