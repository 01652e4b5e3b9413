"""Readings off the evaluation grid, where a constraint is about to cross its limit.

The grid is coarse where a run is long. A checkpoint that keeps every constraint may lie well behind the point at which
the first of them crosses, and what the run gained since is lost. So between two points of the grid a run may be read
more often: each time where half of what is left until the first limit is foreseen to be used up. The rule is the same
for every mixer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NEAR = 0.75
"""Part of what is left to a constraint that has to be foreseen as used up by the next point of the grid."""
POWERS = (0.5, 2.0)
"""Between which powers of the step a rise is carried on: rises begin like a square and later flatten."""


@dataclass(frozen=True)
class Reading:
    """What all validation sequences said at a step.

    Attributes:
        step: of the reading.
        changes: constraint -> its change since the base model, nats per token.
    """

    step: int
    changes: Mapping[str, float]

    def reaches(self, name: str, level: float, before: Reading) -> float:
        """The step at which a change that goes on as since an earlier reading comes to a higher level; inf for never.

        A rise above 0 goes on as a power of the step, which is a straight line over a geometric grid; any other as a
        straight line.

        >>> Reading(20, {"web": 0.04}).reaches("web", 0.16, Reading(10, {"web": 0.01}))
        40.0
        >>> Reading(20, {"web": 0.03}).reaches("web", 0.06, Reading(10, {"web": 0.0}))
        30.0
        """
        old, new = before.changes[name], self.changes[name]
        if not new > old:
            return math.inf
        if before.step and old > 0:
            low, high = POWERS
            power = max(low, min(high, math.log(new / old) / math.log(self.step / before.step)))
            return self.step * math.pow(level / new, 1 / power)
        return self.step + (level - new) * (self.step - before.step) / (new - old)


def next_reading(
    before: Reading, now: Reading, room: Mapping[str, float], until: int, least: int
) -> int | None:
    """The step at which to read before `until`; None where nothing is about to cross, or something has crossed.

    Args:
        before: an earlier reading.
        now: the last one.
        room: constraint -> nats by which it may still rise.
        until: the next point of the grid.
        least: steps between two readings, at least.

    >>> before, now = Reading(10, {"web": 0.01}), Reading(20, {"web": 0.02})
    >>> next_reading(before, now, {"web": 0.02}, 40, 2), next_reading(before, now, {"web": 0.02}, 30, 2)
    (30, None)
    >>> next_reading(before, now, {"web": -0.01}, 40, 2)
    """
    if min(room.values(), default=-1.0) < 0:
        return None
    part = {
        share: min(now.reaches(name, now.changes[name] + share * left, before) for name, left in room.items())
        for share in (0.5, NEAR)
    }
    if part[NEAR] >= until:
        return None
    step = max(now.step + least, math.floor(part[0.5]))
    return step if step <= until - least else None
