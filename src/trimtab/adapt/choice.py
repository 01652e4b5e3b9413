"""Which checkpoints of a run may be chosen, and which of them is the better one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trimtab.adapt.roles import Roles
from trimtab.train.evaluate import Change, SequenceLosses


def keeps_all(roles: Roles, moved: Mapping[str, Change], margin: float = 0.0) -> bool:
    """Whether every constraint's paired change is within its tolerance by `margin` standard errors.

    An undefined change is not, nor an undefined error where there is a margin.
    """
    reserve = {name: margin * moved[name].standard_error if margin else 0.0 for name in roles.tolerances}
    return all(moved[name].value + reserve[name] <= tolerance for name, tolerance in roles.tolerances.items())


def target_change(roles: Roles, moved: Mapping[str, Change]) -> float:
    """Mean change of the target losses, nats per token: negative is a gain."""
    return math.fsum(moved[name].value for name in roles.targets) / len(roles.targets)


def lost(now: Mapping[str, SequenceLosses], base: Mapping[str, SequenceLosses]) -> list[str]:
    """The domains whose loss was finite in the base model and is so no more."""
    finite = [name for name in now if math.isfinite(base[name].loss)]
    return [name for name in finite if not math.isfinite(now[name].loss)]
