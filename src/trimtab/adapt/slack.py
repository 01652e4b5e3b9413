"""How far the losses of a run have moved, and how much of each tolerance is left."""

from __future__ import annotations

import math

from trimtab.adapt.roles import LEAST_SCALE_NATS, Roles
from trimtab.adapt.session import Session
from trimtab.errors import DivergedError
from trimtab.train.evaluate import change


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
